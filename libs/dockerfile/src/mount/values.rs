//! Values of a mount's options: switches, numbers, sizes, and words that were perhaps meant.

/// Go's strconv.ParseBool.
pub(super) fn boolean(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("invalid value for {key}: {value}")),
    }
}

/// A number without a sign.
pub(super) fn number(key: &str, value: &str, radix: u32) -> Result<u32, String> {
    // from_str_radix takes a sign.
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    let number = u32::from_str_radix(value, radix).ok().filter(|_| digits);
    number.ok_or_else(|| format!("invalid value {value} for {key}"))
}

/// docker's sizes: powers of 1024, a unit in any case, with or without `b` or `ib` behind.
pub(super) fn size(value: &str) -> Result<u64, String> {
    let wrong = || format!("invalid value for size: {value}");
    let lower = value.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (digits, unit) = lower.split_at(end.unwrap_or(lower.len()));
    let shift = match unit
        .trim_start()
        .trim_end_matches('b')
        .trim_end_matches('i')
    {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let bytes = number * (1_u64 << shift) as f64;
    match bytes.is_finite() && bytes < 1e18 {
        true => Ok(bytes as u64),
        false => Err(wrong()),
    }
}

/// A word that was perhaps meant.
pub(super) fn near(word: &str, words: &[&str]) -> String {
    let found = words
        .iter()
        .find(|w| w.len() > 2 && distance(word, w) <= w.len() / 3);
    found.map_or_else(String::new, |w| format!(" (did you mean {w}?)"))
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(32).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(32).enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = before + usize::from(x != *y);
            before = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}
