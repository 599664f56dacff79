//! The rules of `linux.resources.devices`, one after the other, as one answer: everything but some, or
//! nothing but some. As runc has it (libcontainer/cgroups/devices, emulator), whose rules are the v1
//! controller's own.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::{
    executor::plan::{DeviceKind, DeviceRule},
    oci::Error,
};

/// What all rules together mean.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// What no exception is about is allowed.
    pub allowed: bool,
    /// What the other answer is given to.
    pub exceptions: Vec<DeviceRule>,
}

/// Reads the rules. Nothing is allowed at first.
pub fn answer(rules: &[LinuxDeviceCgroup]) -> Result<Answer, Error> {
    let mut answer = Answer::default();
    for rule in rules {
        let everything = matches!(rule.typ(), None | Some(LinuxDeviceType::A));
        if everything {
            answer = Answer {
                allowed: rule.allow(),
                exceptions: Vec::new(),
            };
            continue;
        }
        let made = device(rule)?;
        if rule.allow() == answer.allowed {
            answer.take(&made)?;
        } else {
            answer.add(made);
        }
    }
    Ok(answer)
}

impl Answer {
    fn add(&mut self, rule: DeviceRule) {
        match self.exceptions.iter_mut().find(|e| same(e, &rule)) {
            Some(exception) => exception.access |= rule.access,
            None => self.exceptions.push(rule),
        }
    }

    /// No list of exceptions has a hole in one: what asks for that would not be kept (runc's rmRule).
    fn take(&mut self, rule: &DeviceRule) -> Result<(), Error> {
        for exception in &mut self.exceptions {
            if covers(rule, exception) {
                exception.access &= !rule.access;
            } else if overlap(rule, exception) && rule.access & exception.access != 0 {
                return Err(Error::Unsupported(
                    "resources.devices: a rule about a part of what an earlier one is about is not supported"
                        .to_owned(),
                ));
            }
        }
        self.exceptions.retain(|e| e.access != 0);
        Ok(())
    }
}

fn same(one: &DeviceRule, other: &DeviceRule) -> bool {
    (one.kind, one.major, one.minor) == (other.kind, other.major, other.minor)
}

/// Whether all devices of the other rule are also of this one.
fn covers(this: &DeviceRule, other: &DeviceRule) -> bool {
    let number = |this: Option<u32>, other: Option<u32>| this.is_none() || this == other;
    this.kind == other.kind && number(this.major, other.major) && number(this.minor, other.minor)
}

fn overlap(one: &DeviceRule, other: &DeviceRule) -> bool {
    let number =
        |one: Option<u32>, other: Option<u32>| one.is_none() || other.is_none() || one == other;
    one.kind == other.kind && number(one.major, other.major) && number(one.minor, other.minor)
}

fn device(rule: &LinuxDeviceCgroup) -> Result<DeviceRule, Error> {
    let refuse = |why: &str| Error::Invalid(format!("resources.devices: {why}"));
    let kind = match rule.typ() {
        Some(LinuxDeviceType::B) => DeviceKind::Block,
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => DeviceKind::Character,
        _ => return Err(refuse("a rule is for a type that has no devices")),
    };
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number)
            .map(Some)
            .map_err(|_| refuse(&format!("{number} is no number of a device"))),
    };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or_default().chars() {
        access |= match letter {
            'r' => DeviceRule::READ,
            'w' => DeviceRule::WRITE,
            'm' => DeviceRule::MKNOD,
            other => return Err(refuse(&format!("access {other:?} is not r, w or m"))),
        };
    }
    Ok(DeviceRule {
        kind,
        major: number(rule.major())?,
        minor: number(rule.minor())?,
        access,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Result<Answer, String> {
        let rules: Vec<LinuxDeviceCgroup> =
            serde_json::from_str(json).map_err(|e| e.to_string())?;
        answer(&rules).map_err(|e| e.to_string())
    }

    #[test]
    fn the_last_word_counts() {
        let null = DeviceRule {
            kind: DeviceKind::Character,
            major: Some(1),
            minor: Some(3),
            access: DeviceRule::READ,
        };
        let found = of(r#"[{"allow":false,"access":"rwm"},
            {"allow":true,"type":"c","major":1,"minor":3,"access":"rw"},
            {"allow":false,"type":"c","major":1,"minor":3,"access":"w"}]"#);
        assert_eq!(
            found,
            Ok(Answer {
                allowed: false,
                exceptions: vec![null]
            })
        );
        let found = of(
            r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":1,"minor":3,"access":"r"}]"#,
        );
        assert_eq!(
            found,
            Ok(Answer {
                allowed: true,
                exceptions: vec![null]
            })
        );
        assert_eq!(of("[]"), Ok(Answer::default()));
        let found = of(r#"[{"allow":true,"type":"b","major":-1,"access":"m"}]"#).unwrap();
        assert_eq!(
            (found.exceptions[0].major, found.exceptions[0].minor),
            (None, None)
        );
        assert!(of(r#"[{"allow":true,"type":"b","access":"x"}]"#).is_err());
        assert!(of(r#"[{"allow":true,"type":"p"}]"#).is_err());
    }

    #[test]
    fn no_denial_is_passed_over() {
        let all = r#"{"allow":true,"type":"c","access":"rw"}"#;
        let one = r#"{"allow":true,"type":"c","major":1,"minor":3,"access":"rw"}"#;
        let deny = |numbers: &str| format!(r#"{{"allow":false,"type":"c"{numbers},"access":"w"}}"#);
        let narrow = deny(r#","major":1,"minor":3"#);
        assert!(of(&format!("[{all},{narrow}]")).is_err());
        let found = of(&format!("[{one},{}]", deny(r#","major":1"#))).unwrap();
        assert_eq!(found.exceptions[0].access, DeviceRule::READ);
        let other = of(&format!("[{one},{}]", deny(r#","major":2"#))).unwrap();
        assert_eq!(
            other.exceptions[0].access,
            DeviceRule::READ | DeviceRule::WRITE
        );
    }
}
