//! Sizes, spans, ulimits, points in time.

use prost_types::{Duration, Timestamp};
use slipway_proto::{runtime::v1::Ulimit, types::v1::Filter};

/// "512m", "1.5g", "64KiB": binary units as docker reads them, bytes.
pub fn memory(text: &str) -> Result<i64, String> {
    let error = || format!("invalid size: '{text}'");
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| error())?;
    let unit = unit.trim().to_ascii_lowercase();
    let power = match unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .unwrap_or(&unit)
    {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(error()),
    };
    let bytes = number * 1024f64.powi(power);
    if !(0.0..9e18).contains(&bytes) {
        return Err(error());
    }
    #[expect(clippy::cast_possible_truncation, reason = "in range: checked above")]
    Ok(bytes as i64)
}

/// As [`memory`], or -1.
pub fn memory_swap(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { memory(text) }
}

/// "1.5" CPUs to billionths.
pub fn nano_cpus(text: &str) -> Result<i64, String> {
    let error = || format!("failed to parse {text} as a rational number");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || (whole.is_empty() && fraction.is_empty()) {
        return Err(format!("value is too precise: {text}"));
    }
    if !whole
        .chars()
        .chain(fraction.chars())
        .all(|c| c.is_ascii_digit())
    {
        return Err(error());
    }
    format!("{whole}{fraction:0<9}")
        .parse()
        .map_err(|_| error())
}

/// Go's durations: "1m30s", "500ms", "1.5h".
pub fn duration(text: &str) -> Result<Duration, String> {
    let error = || format!("time: invalid duration {text:?}");
    let mut nanos = 0f64;
    let mut rest = text;
    if rest == "0" {
        return Ok(Duration::default());
    }
    if rest.is_empty() {
        return Err(error());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(|| format!("time: missing unit in duration {text:?}"))?;
        let number: f64 = rest[..digits].parse().map_err(|_| error())?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        nanos += number
            * match &rest[..end] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 6e10,
                "h" => 3.6e12,
                _ => return Err(error()),
            };
        rest = &rest[end..];
    }
    if nanos > 9e18 {
        return Err(error());
    }
    #[expect(clippy::cast_possible_truncation, reason = "in range: checked above")]
    let nanos = nanos as i64;
    Ok(Duration {
        seconds: nanos / 1_000_000_000,
        nanos: i32::try_from(nanos % 1_000_000_000).unwrap_or(0),
    })
}

/// `--since` and `--until`: a span before now, RFC 3339, or unix seconds.
pub fn moment(text: &str) -> Result<Timestamp, String> {
    let now = jiff::Timestamp::now();
    if let Ok(span) = duration(text)
        && text != "0"
    {
        let back = std::time::Duration::new(span.seconds.unsigned_abs(), span.nanos.unsigned_abs());
        let then = now
            .checked_sub(back)
            .map_err(|_| format!("invalid time: {text}"))?;
        return Ok(stamp(then));
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(stamp(time));
    }
    // docker also takes local times without zone: read as UTC, which is what servers run on.
    for form in ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"] {
        if let Ok(time) = jiff::civil::DateTime::strptime(form, text)
            .or_else(|_| jiff::civil::Date::strptime(form, text).map(Into::into))
            && let Ok(zoned) = time.to_zoned(jiff::tz::TimeZone::UTC)
        {
            return Ok(stamp(zoned.timestamp()));
        }
    }
    let (seconds, nanos) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |t: &str| !t.is_empty() && t.len() <= 18 && t.chars().all(|c| c.is_ascii_digit());
    if digits(seconds) && digits(nanos) && nanos.len() <= 9 {
        return Ok(Timestamp {
            seconds: seconds
                .parse()
                .map_err(|_| format!("invalid time: {text}"))?,
            nanos: format!("{nanos:0<9}")
                .parse()
                .map_err(|_| format!("invalid time: {text}"))?,
        });
    }
    Err(format!(
        "invalid time {text:?}: write a span (10m), RFC 3339, or unix seconds"
    ))
}

/// The service takes points in time in one form: an `until` of any other becomes unix seconds.
pub fn until_in_seconds(mut filter: Filter) -> Result<Filter, String> {
    if filter.key == "until" {
        for value in &mut filter.values {
            let time = moment(value)?;
            *value = format!("{}.{:09}", time.seconds, time.nanos);
        }
    }
    Ok(filter)
}

fn stamp(time: jiff::Timestamp) -> Timestamp {
    Timestamp {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    }
}

/// "nofile=1024:2048".
pub fn ulimit(text: &str) -> Result<Ulimit, String> {
    let error = || format!("invalid ulimit argument: {text}");
    let (name, value) = text.split_once('=').ok_or_else(error)?;
    const NAMES: &[&str] = &[
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    if !NAMES.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let (soft, hard) = value.split_once(':').unwrap_or((value, value));
    let (soft, hard): (i64, i64) = (
        soft.parse().map_err(|_| error())?,
        hard.parse().map_err(|_| error())?,
    );
    if hard != -1 && (soft > hard || soft == -1) {
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        ));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

/// `--filter key=value`, gathered by key.
pub fn filters(texts: &[String]) -> Result<Vec<Filter>, String> {
    let mut out: Vec<Filter> = Vec::new();
    for text in texts {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| format!("invalid filter '{text}': write key=value"))?;
        let (key, value) = (key.trim().to_lowercase(), value.trim().to_owned());
        match out.iter_mut().find(|f| f.key == key) {
            Some(filter) => filter.values.push(value),
            None => out.push(Filter {
                key,
                values: vec![value],
            }),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("1k", 1024),
            ("64KiB", 65536),
            ("512m", 512 << 20),
            ("1.5g", 3 << 29),
            ("2GB", 2 << 30),
        ] {
            assert_eq!(memory(text), Ok(bytes), "{text}");
        }
        for text in ["", "m", "-1", "1x", "1..5m", "1e9", "99999999p"] {
            assert!(memory(text).is_err(), "{text}");
        }
        assert_eq!(memory_swap("-1"), Ok(-1));
    }

    #[test]
    fn cpus_spans_and_ulimits() {
        assert_eq!(nano_cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(nano_cpus(".25"), Ok(250_000_000));
        assert!(nano_cpus("a").is_err() && nano_cpus("").is_err());
        assert_eq!(duration("1m30s").unwrap().seconds, 90);
        assert_eq!(duration("500ms").unwrap().nanos, 500_000_000);
        assert!(duration("5").is_err() && duration("5x").is_err() && duration("").is_err());
        assert_eq!(
            ulimit("nofile=1:2").unwrap(),
            Ulimit {
                name: "nofile".into(),
                soft: 1,
                hard: 2
            }
        );
        assert!(ulimit("nofile=3:2").is_err() && ulimit("files=1").is_err());
    }

    #[test]
    fn moments() {
        assert_eq!(
            moment("1700000000.5").unwrap(),
            Timestamp {
                seconds: 1_700_000_000,
                nanos: 500_000_000
            }
        );
        assert_eq!(
            moment("2024-01-01T00:00:00Z").unwrap().seconds,
            1_704_067_200
        );
        assert_eq!(moment("2024-01-01").unwrap().seconds, 1_704_067_200);
        assert!(moment("10m").is_ok() && moment("soon").is_err());
    }

    proptest::proptest! {
        #[test]
        fn whole_sizes_are_exact(n in 0i64..1 << 40) {
            proptest::prop_assert_eq!(memory(&n.to_string()), Ok(n));
        }
        #[test]
        fn nothing_panics(text in "\\PC{0,12}") {
            let _ = (memory(&text), duration(&text), moment(&text), ulimit(&text), nano_cpus(&text));
        }
    }
}
