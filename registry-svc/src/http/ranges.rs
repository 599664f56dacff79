//! Ranges of bytes, as clients write them (RFC 9110, 14).

use crate::blobs::Range;

/// One range of `Range: bytes=...`; several at once are answered with the whole, one that ends before it begins is
/// refused (RFC 9110, 14.2, allows either).
#[derive(Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// `5-`
    From(u64),
    /// `5-9`
    FromTo(u64, u64),
    /// `-5`: so many at the end.
    Last(u64),
}

impl ByteRange {
    /// Reads a header; `None` when it is not looked at.
    pub fn parse(header: &str) -> Option<Self> {
        let (first, last) = header.strip_prefix("bytes=")?.trim().split_once('-')?;
        match (first, last) {
            ("", last) => number(last).map(Self::Last),
            (first, "") => number(first).map(Self::From),
            (first, last) => Some(Self::FromTo(number(first)?, number(last)?)),
        }
    }

    /// The bytes of content that has so many; `None` when it has none of them.
    pub fn within(&self, total: u64) -> Option<Range> {
        let (offset, end) = match *self {
            Self::From(first) => (first, total),
            Self::FromTo(first, last) => (first, total.min(last.saturating_add(1))),
            Self::Last(0) => return None,
            Self::Last(count) => (total.saturating_sub(count), total),
        };
        (offset < end).then(|| Range {
            offset,
            length: Some(end - offset),
        })
    }
}

/// `<first>-<last>` of Content-Range; docker also writes `bytes <first>-<last>/<total>`.
pub fn content_range(text: &str) -> Option<(u64, u64)> {
    let range = text
        .trim_start_matches("bytes")
        .trim_start_matches([' ', '=']);
    let (first, last) = range.split('/').next()?.split_once('-')?;
    let (first, last) = (number(first.trim())?, number(last.trim())?);
    (first <= last && last < u64::MAX).then_some((first, last))
}

/// Digits and nothing else: Rust reads `+5`, too.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_rfc_9110() {
        for (header, expected) in [
            ("bytes=0-0", Some((0, 1))),
            ("bytes=2-", Some((2, 8))),
            ("bytes=-3", Some((7, 3))),
            ("bytes=-30", Some((0, 10))),
            ("bytes=5-100", Some((5, 5))),
            ("bytes=10-", None),
            ("bytes=99-", None),
            ("bytes=-0", None),
            ("bytes=3-2", None),
        ] {
            let got = ByteRange::parse(header).unwrap().within(10);
            let got = got.map(|r| (r.offset, r.length.unwrap()));
            assert_eq!(got, expected, "{header}");
        }
        for header in ["bytes=a-", "items=0-1", "bytes=0-1,3-4", "bytes=+1-"] {
            assert_eq!(ByteRange::parse(header), None, "{header}");
        }
    }

    #[test]
    fn chunks_say_where_they_are() {
        for (text, expected) in [
            ("0-4", Some((0, 4))),
            ("bytes 5-5/*", Some((5, 5))),
            ("bytes=5-9", Some((5, 9))),
            ("5-4", None),
            ("+5-9", None),
            ("0-18446744073709551615", None),
            ("-", None),
        ] {
            assert_eq!(content_range(text), expected, "{text}");
        }
    }
}
