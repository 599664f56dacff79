//! `Link`: where the next page is (RFC 8288).

use url::Url;

/// The place that a header names, seen from the page that it came with.
pub fn next(header: &str, current: &Url) -> Option<Url> {
    let (next, _) = header.split_once('<')?.1.split_once('>')?;
    current.join(next).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_seen_from_this_one() {
        let page = "https://h/v2/a/tags/list?n=1".parse().unwrap();
        let next = |header: &str| next(header, &page).map(String::from);
        let expected = Some("https://h/v2/a/tags/list?n=1&last=x".to_owned());
        assert_eq!(next("</v2/a/tags/list?n=1&last=x>; rel=\"next\""), expected);
        assert_eq!(next("none"), None);
        assert_eq!(next("<http://[>"), None);
    }
}
