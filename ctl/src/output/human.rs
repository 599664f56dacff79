//! docker's words for spans, sizes and ids.

use prost_types::Timestamp;

/// "3 minutes", "About an hour", "2 weeks": docker's rounding.
pub fn span(seconds: i64) -> String {
    let minutes = seconds / 60;
    // docker adds half an hour before it cuts.
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

/// Seconds from `then` to now, never negative.
pub fn since(then: Option<&Timestamp>) -> i64 {
    let now = jiff::Timestamp::now().as_second();
    then.map_or(0, |t| (now - t.seconds).max(0))
}

/// "2 weeks ago"; images without a date say "N/A".
pub fn ago(then: Option<&Timestamp>) -> String {
    match then {
        Some(t) if t.seconds > 0 => format!("{} ago", span(since(then))),
        _ => "N/A".to_owned(),
    }
}

/// RFC 3339 with nanoseconds, docker's zero time when absent.
pub fn rfc3339(time: Option<&Timestamp>) -> String {
    let Some(time) = time else {
        return "0001-01-01T00:00:00Z".to_owned();
    };
    jiff::Timestamp::new(time.seconds, time.nanos)
        .map_or_else(|_| "0001-01-01T00:00:00Z".to_owned(), |t| t.to_string())
}

/// RFC 3339 with all nine digits of the nanoseconds, as docker puts it before lines of a log.
pub fn rfc3339_fixed(time: Option<&Timestamp>) -> String {
    match time.and_then(|t| jiff::Timestamp::new(t.seconds, t.nanos).ok()) {
        Some(time) => format!("{time:.9}"),
        None => "0001-01-01T00:00:00.000000000Z".to_owned(),
    }
}

/// "2024-05-01 12:00:00 +0000 UTC", as `ps` has it in CreatedAt.
pub fn created_at(time: Option<&Timestamp>) -> String {
    let Some(time) = time.and_then(|t| jiff::Timestamp::new(t.seconds, 0).ok()) else {
        return "0001-01-01 00:00:00 +0000 UTC".to_owned();
    };
    time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()
}

/// "1.2MB": decimal units, three significant digits.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn size(bytes: u64) -> String {
    scaled(
        bytes as f64,
        1000.0,
        &["B", "kB", "MB", "GB", "TB", "PB"],
        3,
    )
}

/// "1.5MiB": binary units with four digits, as `stats` has them.
#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
pub fn binary_size(bytes: u64) -> String {
    scaled(
        bytes as f64,
        1024.0,
        &["B", "KiB", "MiB", "GiB", "TiB", "PiB"],
        4,
    )
}

fn scaled(mut value: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    format!("{}{}", significant(value, digits), units[unit])
}

/// C's `%.<digits>g` for values below 10^5.
fn significant(value: f64, digits: usize) -> String {
    let whole = format!("{value:.0}").len();
    let text = format!("{value:.*}", digits.saturating_sub(whole));
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// First 12 digits of an id, without its algorithm.
pub fn short_id(id: &str) -> &str {
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

/// At most `length` characters, the last an ellipsis when something was cut.
pub fn ellipsis(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(length.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_dockers() {
        let minute = 60;
        let hour = 3600;
        let day = 24 * hour;
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (45, "45 seconds"),
            (60, "About a minute"),
            (3 * minute, "3 minutes"),
            (59 * minute, "59 minutes"),
            (hour, "About an hour"),
            (90 * minute, "2 hours"),
            (47 * hour, "47 hours"),
            (2 * day, "2 days"),
            (13 * day, "13 days"),
            (14 * day, "2 weeks"),
            (59 * day, "8 weeks"),
            (60 * day, "2 months"),
            (800 * day, "2 years"),
        ] {
            assert_eq!(span(seconds), words);
        }
    }

    #[test]
    fn sizes_are_dockers() {
        for (bytes, words) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_234_000, "1.23MB"),
            (12_340_000, "12.3MB"),
            (187_000_000, "187MB"),
            (1_090_000_000, "1.09GB"),
        ] {
            assert_eq!(size(bytes), words);
        }
        assert_eq!(binary_size(1_572_864), "1.5MiB");
    }

    #[test]
    fn ids_and_texts_are_cut() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(
            ellipsis("\"/docker-entrypoint.sh nginx\"", 20),
            "\"/docker-entrypoint…"
        );
    }
}
