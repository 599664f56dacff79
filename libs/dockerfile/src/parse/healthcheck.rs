//! HEALTHCHECK: its two types and its times.

use super::command;
use crate::{
    flags::Flags,
    instruction::{Command, Healthcheck, Instruction},
};

/// The shortest time, nanoseconds (docker's `container.MinimumDuration`).
const MINIMUM: u64 = 1_000_000;

pub fn healthcheck(flags: &mut Flags, rest: &str) -> Result<Instruction, String> {
    let (kind, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if kind.eq_ignore_ascii_case("none") {
        if !argument.trim().is_empty() {
            return Err("HEALTHCHECK NONE takes no arguments".to_owned());
        }
        return Ok(Instruction::Healthcheck(Healthcheck::default()));
    }
    if !kind.eq_ignore_ascii_case("cmd") {
        return Err(format!("unknown type {kind:?} in HEALTHCHECK (try CMD)"));
    }
    let command = command(argument.trim())?;
    if [Command::Exec(Vec::new()), Command::Shell(String::new())].contains(&command) {
        return Err("Missing command after HEALTHCHECK CMD".to_owned());
    }
    let mut time = |name: &str| -> Result<u64, String> {
        match flags.value(name)? {
            None => Ok(0),
            Some(text) => {
                let time = duration(&text).ok_or_else(|| {
                    format!("invalid duration {text:?} of --{name}: write 30s or 1m30s")
                })?;
                if time > 0 && time < MINIMUM {
                    return Err(format!("Interval {name:?} cannot be less than 1ms"));
                }
                Ok(time)
            }
        }
    };
    Ok(Instruction::Healthcheck(Healthcheck {
        command: Some(command),
        interval: time("interval")?,
        timeout: time("timeout")?,
        start_period: time("start-period")?,
        start_interval: time("start-interval")?,
        retries: match flags.value("retries")? {
            None => 0,
            Some(text) => match text.parse::<i32>() {
                Ok(n) => {
                    u32::try_from(n).map_err(|_| format!("--retries cannot be negative ({n})"))?
                }
                Err(_) => return Err(format!("invalid --retries {text:?}: write a number")),
            },
        },
    }))
}

/// Go's durations: `1m30s`, `500ms`. Nanoseconds.
fn duration(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = 0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let factor = match &rest[..unit] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number * factor;
        rest = &rest[unit..];
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to fit"
    )]
    (!text.is_empty() && total <= 1e18).then_some(total as u64)
}
