//! "did you mean ...?" (BuildKit's `util/suggest`).

/// The option that is nearest to a word, if it is near; none for a word that is one of them.
pub fn suggestion<'a>(word: &str, options: &[&'a str]) -> Option<&'a str> {
    if options.contains(&word) {
        return None;
    }
    options
        .iter()
        .map(|option| (distance(word, option), *option))
        .min()
        .filter(|(distance, _)| *distance < 3)
        .map(|(_, option)| option)
}

/// Levenshtein's distance of two short words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let kept = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = kept.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_is_meant() {
        let options = ["build", "test", "release"];
        assert_eq!(suggestion("buidl", &options), Some("build"));
        assert_eq!(suggestion("tst", &options), Some("test"));
        assert_eq!(suggestion("build", &options), None);
        assert_eq!(suggestion("something", &options), None);
    }
}
