//! Profiles in docker's JSON format (moby, profiles/seccomp; the OCI runtime spec's `linux.seccomp` with
//! conditions for capabilities, architectures and kernels).

use serde::Deserialize;

use crate::sys::bpf;

/// Why a profile cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the seccomp profile cannot be used: {0}")]
pub struct ProfileError(pub String);

/// A profile that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// What is answered to calls that no rule is about.
    pub default: Action,
    /// Architectures besides the host's own whose calls are looked at; others kill.
    pub architectures: Vec<Architecture>,
    /// In the order of the file.
    pub calls: Vec<Call>,
    /// `SECCOMP_FILTER_FLAG_*`
    pub flags: u32,
    /// Who answers calls.
    pub listener: Option<Listener>,
}

/// An agent outside that answers calls in the kernel's place (seccomp_unotify(2)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its socket.
    pub path: String,
    /// What it is told besides.
    pub metadata: String,
}

/// An architecture whose calls this host can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86.
    X86,
    /// 64-bit ARM.
    Aarch64,
}

/// The architecture of this program, if filters for it can be made.
pub const NATIVE: Architecture = if cfg!(target_arch = "aarch64") {
    Architecture::Aarch64
} else {
    Architecture::X86_64
};

/// What is answered to a call: a `SECCOMP_RET_*` with its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action(pub u32);

impl Action {
    /// The call is made.
    pub const ALLOW: Self = Self(0x7fff_0000);
    /// The call is made and written to the audit log.
    const LOG: u32 = 0x7ffc_0000;
    const TRACE: u32 = 0x7ff0_0000;
    const ERRNO: u32 = 0x0005_0000;
    const TRAP: u32 = 0x0003_0000;
    const KILL_PROCESS: u32 = 0x8000_0000;
    /// An agent answers.
    pub const NOTIFY: Self = Self(0x7fc0_0000);
    /// The thread is killed.
    pub const KILL_THREAD: Self = Self(0);

    /// The call fails with this number.
    pub const fn errno(number: u32) -> Self {
        Self(Self::ERRNO | number)
    }

    /// Whether calls are made all the same.
    pub const fn permits(self) -> bool {
        matches!(self.0 & 0xffff_0000, 0x7fff_0000 | Self::LOG | Self::TRACE)
    }
}

/// A rule about some calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Names; those that no architecture has are passed over, as docker does.
    pub names: Vec<String>,
    /// What is answered.
    pub action: Action,
    /// When all hold; with two about one argument, when one holds.
    pub conditions: Vec<Condition>,
    /// Only then the rule is there.
    pub includes: Filter,
    /// Then it is not there.
    pub excludes: Filter,
}

/// A condition on an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Which, 0 to 5.
    pub index: u32,
    /// How it is compared.
    pub operator: Operator,
    /// With what; for `MaskedEqual` the mask.
    pub value: u64,
    /// For `MaskedEqual` what is compared with.
    pub value_two: u64,
}

/// `SCMP_CMP_*`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// !=
    NotEqual,
    /// <
    Less,
    /// <=
    LessOrEqual,
    /// ==
    Equal,
    /// >=
    GreaterOrEqual,
    /// >
    Greater,
    /// (argument & mask) ==
    MaskedEqual,
}

/// For whom a rule is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Go's names of architectures.
    pub arches: Vec<String>,
    /// Capability bits.
    pub capabilities: u64,
    /// Version of the kernel from which on.
    pub min_kernel: Option<(u32, u32)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawProfile {
    default_action: String,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<RawArch>>,
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<RawCall>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawArch {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawCall {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<RawArgument>>,
    includes: Option<RawFilter>,
    excludes: Option<RawFilter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawArgument {
    index: u32,
    value: u64,
    value_two: Option<u64>,
    op: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawFilter {
    arches: Option<Vec<String>>,
    caps: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Longest profile, bytes; docker's default one has 17,000.
const MAX_LENGTH: usize = 1 << 20;

/// Reads a profile.
pub fn parse(json: &str) -> Result<Profile, ProfileError> {
    let fail = |why: &str| ProfileError(why.to_owned());
    if json.len() > MAX_LENGTH {
        return Err(fail("it is longer than a megabyte"));
    }
    let raw: RawProfile =
        serde_json::from_str(json).map_err(|e| ProfileError(format!("decoding failed: {e}")))?;
    let listed = raw.architectures.unwrap_or_default();
    let mapped = raw.arch_map.unwrap_or_default();
    if !listed.is_empty() && !mapped.is_empty() {
        return Err(fail(
            "both 'architectures' and 'archMap' were specified in the seccomp profile, use either 'architectures' or 'archMap'",
        ));
    }
    let mut architectures = Vec::new();
    for name in &listed {
        architectures.extend(architecture(name)?);
    }
    for entry in mapped {
        let own = architecture(&entry.architecture)? == Some(NATIVE);
        for name in entry.sub_architectures.unwrap_or_default() {
            architectures.extend(architecture(&name)?.filter(|_| own));
        }
    }
    architectures.retain(|a| *a != NATIVE);
    architectures.dedup();
    let calls = raw.syscalls.unwrap_or_default();
    let calls: Vec<Call> = calls.into_iter().map(call).collect::<Result<_, _>>()?;
    let default = action(&raw.default_action, raw.default_errno_ret)?;
    let path = raw.listener_path.filter(|path| !path.is_empty());
    let asks = calls.iter().any(|call| call.action == Action::NOTIFY);
    // As runc: the first process has to say that its filter is there.
    let writes = |call: &Call| {
        call.action == Action::NOTIFY && call.names.iter().any(|name| name == "write")
    };
    if default == Action::NOTIFY {
        return Err(fail("SCMP_ACT_NOTIFY cannot be the default action"));
    }
    if calls.iter().any(writes) {
        return Err(fail("SCMP_ACT_NOTIFY cannot be used for the write syscall"));
    }
    if asks && path.is_none() {
        return Err(fail(
            "SCMP_ACT_NOTIFY needs an agent that listens: a listenerPath",
        ));
    }
    let mut flags = flags(&raw.flags.unwrap_or_default())?;
    match asks {
        true => flags |= NEW_LISTENER,
        // The kernel takes it beside the other one only.
        false => flags &= !WAIT_KILLABLE,
    }
    Ok(Profile {
        default,
        architectures,
        calls,
        flags,
        // One that is asked about nothing gets nothing.
        listener: path.filter(|_| asks).map(|path| Listener {
            path,
            metadata: raw.listener_metadata.unwrap_or_default(),
        }),
    })
}

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`
pub const NEW_LISTENER: u32 = 8;
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`
const WAIT_KILLABLE: u32 = 32;

fn action(name: &str, errno: Option<u32>) -> Result<Action, ProfileError> {
    // EPERM, as docker; the kernel has twelve bits for it, the tracer sixteen.
    let number = errno.unwrap_or(libc::EPERM as u32);
    if number > 0xffff {
        return Err(ProfileError(format!("errnoRet {number} is too large")));
    }
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::ALLOW,
        "SCMP_ACT_ERRNO" => Action::errno(number),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => Action(Action::KILL_PROCESS),
        "SCMP_ACT_TRAP" => Action(Action::TRAP),
        "SCMP_ACT_TRACE" => Action(Action::TRACE | number),
        "SCMP_ACT_LOG" => Action(Action::LOG),
        "SCMP_ACT_NOTIFY" => Action::NOTIFY,
        _ => {
            return Err(ProfileError(format!(
                "{name:?} is not a valid action for seccomp"
            )));
        }
    })
}

/// `None` = one whose programs cannot run here.
fn architecture(name: &str) -> Result<Option<Architecture>, ProfileError> {
    match name {
        "SCMP_ARCH_X86_64" => Ok(Some(Architecture::X86_64)),
        "SCMP_ARCH_X86" => Ok(Some(Architecture::X86)),
        "SCMP_ARCH_AARCH64" => Ok(Some(Architecture::Aarch64)),
        // x32 and 32-bit ARM are left to die: no table of theirs is here.
        "SCMP_ARCH_X32"
        | "SCMP_ARCH_ARM"
        | "SCMP_ARCH_MIPS"
        | "SCMP_ARCH_MIPS64"
        | "SCMP_ARCH_MIPS64N32"
        | "SCMP_ARCH_MIPSEL"
        | "SCMP_ARCH_MIPSEL64"
        | "SCMP_ARCH_MIPSEL64N32"
        | "SCMP_ARCH_PPC"
        | "SCMP_ARCH_PPC64"
        | "SCMP_ARCH_PPC64LE"
        | "SCMP_ARCH_S390"
        | "SCMP_ARCH_S390X"
        | "SCMP_ARCH_RISCV64"
        | "SCMP_ARCH_LOONGARCH64"
        | "SCMP_ARCH_PARISC"
        | "SCMP_ARCH_PARISC64"
        | "SCMP_ARCH_M68K"
        | "SCMP_ARCH_SH"
        | "SCMP_ARCH_SHEB" => Ok(None),
        _ => Err(ProfileError(format!(
            "{name:?} is not a valid arch for seccomp"
        ))),
    }
}

fn call(raw: RawCall) -> Result<Call, ProfileError> {
    let mut names = raw.names.unwrap_or_default();
    if let Some(name) = raw.name.filter(|name| !name.is_empty()) {
        if !names.is_empty() {
            return Err(ProfileError(
                "both 'name' and 'names' were specified in the seccomp profile, use either 'name' or 'names'"
                    .to_owned(),
            ));
        }
        names.push(name);
    }
    let arguments = raw.args.unwrap_or_default();
    Ok(Call {
        names,
        action: action(&raw.action, raw.errno_ret)?,
        conditions: arguments.iter().map(condition).collect::<Result<_, _>>()?,
        includes: filter(raw.includes)?,
        excludes: filter(raw.excludes)?,
    })
}

fn condition(raw: &RawArgument) -> Result<Condition, ProfileError> {
    if raw.index > 5 {
        return Err(ProfileError(format!(
            "there is no argument {}: a call has six, from 0",
            raw.index
        )));
    }
    let operator = match raw.op.as_str() {
        "SCMP_CMP_NE" => Operator::NotEqual,
        "SCMP_CMP_LT" => Operator::Less,
        "SCMP_CMP_LE" => Operator::LessOrEqual,
        "SCMP_CMP_EQ" => Operator::Equal,
        "SCMP_CMP_GE" => Operator::GreaterOrEqual,
        "SCMP_CMP_GT" => Operator::Greater,
        "SCMP_CMP_MASKED_EQ" => Operator::MaskedEqual,
        other => {
            return Err(ProfileError(format!(
                "{other:?} is not a valid operator for seccomp"
            )));
        }
    };
    Ok(Condition {
        index: raw.index,
        operator,
        value: raw.value,
        value_two: raw.value_two.unwrap_or(0),
    })
}

fn filter(raw: Option<RawFilter>) -> Result<Filter, ProfileError> {
    let Some(raw) = raw else {
        return Ok(Filter::default());
    };
    let mut capabilities = 0;
    for name in raw.caps.unwrap_or_default() {
        // One that this kernel's list does not have is one that nobody has.
        capabilities |= super::capabilities::bit(&name).unwrap_or(1 << 63);
    }
    let min_kernel = match raw.min_kernel.as_deref() {
        None | Some("") => None,
        Some(text) => Some(version(text).ok_or_else(|| {
            ProfileError(format!(
                "minKernel {text:?} is not a version: it must be <kernel>.<major>, \"4.8\""
            ))
        })?),
    };
    Ok(Filter {
        arches: raw.arches.unwrap_or_default(),
        capabilities,
        min_kernel,
    })
}

fn version(text: &str) -> Option<(u32, u32)> {
    let (kernel, major) = text.split_once('.')?;
    let number = |t: &str| {
        t.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| t.parse().ok())?
    };
    Some((number(kernel)?, number(major)?)).filter(|v| *v != (0, 0))
}

/// Flags that a profile may ask for, and what each is to the kernel (seccomp(2)).
pub const KNOWN_FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_LOG", 2),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", 4),
    // It means nothing to a process with one thread, and the kernel takes it beside no listener.
    ("SECCOMP_FILTER_FLAG_TSYNC", 0),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", WAIT_KILLABLE),
];

/// Those that this kernel has: the last one came with Linux 5.19.
pub fn supported_flags() -> Vec<&'static str> {
    let has = |flag: u32| match flag {
        WAIT_KILLABLE => bpf::has_seccomp_flags(flag | NEW_LISTENER),
        flag => bpf::has_seccomp_flags(flag),
    };
    let known = KNOWN_FLAGS.into_iter();
    known
        .filter(|(_, flag)| has(*flag))
        .map(|(name, _)| name)
        .collect()
}

fn flags(names: &[String]) -> Result<u32, ProfileError> {
    names.iter().try_fold(0, |flags, name| {
        let known = KNOWN_FLAGS.iter().find(|(known, _)| known == name);
        let (_, flag) = known.ok_or_else(|| {
            ProfileError(format!("seccomp flag {name:?} not known or not supported"))
        })?;
        Ok(flags | flag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> String {
        parse(json).unwrap_err().to_string()
    }

    #[test]
    fn a_profile_is_read() {
        let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":null,
            "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]},
                {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":null}],
            "flags":["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls":[{"name":"chmod","action":"SCMP_ACT_KILL_PROCESS","args":null,"comment":"why"},
                {"names":["socket","nonsense"],"action":"SCMP_ACT_TRACE","errnoRet":7,
                 "args":[{"index":0,"value":5,"valueTwo":0,"op":"SCMP_CMP_GE"}],
                 "includes":{"caps":["CAP_SYS_ADMIN"],"minKernel":"4.8"},"excludes":{"arches":["s390x"]}}]}"#;
        let profile = parse(json).unwrap();
        assert_eq!(profile.default, Action::errno(38));
        assert_eq!(profile.flags, 2);
        assert_eq!(profile.calls[0].action, Action(0x8000_0000));
        assert_eq!(profile.calls[1].action, Action(0x7ff0_0007));
        assert_eq!(profile.calls[1].includes.min_kernel, Some((4, 8)));
        assert_eq!(profile.calls[1].includes.capabilities, 1 << 21);
        if NATIVE == Architecture::X86_64 {
            assert_eq!(profile.architectures, [Architecture::X86]);
        }
    }

    #[test]
    fn an_agent_is_told_of_only_where_it_is_asked() {
        let profile = |action: &str| {
            parse(&format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/agent","listenerMetadata":"m",
                "flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
                "syscalls":[{{"name":"mkdir","action":"{action}"}}]}}"#
            ))
            .unwrap()
        };
        let asked = profile("SCMP_ACT_NOTIFY");
        assert_eq!(asked.flags, NEW_LISTENER | WAIT_KILLABLE);
        assert_eq!(asked.listener.unwrap().metadata, "m");
        let never = profile("SCMP_ACT_LOG");
        assert_eq!((never.flags, never.listener), (0, None));
    }

    #[test]
    fn what_cannot_be_is_said() {
        let with = |call: &str| {
            error(&format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{call}]}}"#
            ))
        };
        assert!(error("{").contains("decoding failed"));
        assert!(error("{}").contains("defaultAction"));
        assert!(error(r#"{"defaultAction":"ALLOW"}"#).contains("not a valid action"));
        assert!(error(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#).contains("default"));
        let notify = |name: &str| format!(r#"{{"name":"{name}","action":"SCMP_ACT_NOTIFY"}}"#);
        assert!(with(&notify("mkdir")).contains("agent"));
        assert!(with(&notify("write")).contains("write"));
        assert!(
            error(r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86"}]}"#)
                .contains("use either")
        );
        assert!(
            error(r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["x86"]}"#).contains("arch")
        );
        assert!(error(r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["X"]}"#).contains("flag"));
        assert!(
            with(r#"{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}"#).contains("use either")
        );
        assert!(
            with(r#"{"name":"a","action":"SCMP_ACT_ERRNO","errnoRet":70000}"#)
                .contains("too large")
        );
        let argument = |text: &str| {
            with(&format!(
                r#"{{"name":"a","action":"SCMP_ACT_LOG","args":[{text}]}}"#
            ))
        };
        assert!(argument(r#"{"index":6,"value":0,"op":"SCMP_CMP_EQ"}"#).contains("argument 6"));
        assert!(argument(r#"{"index":0,"value":0,"op":"=="}"#).contains("operator"));
        assert!(argument(r#"{"index":0,"value":-1,"op":"SCMP_CMP_EQ"}"#).contains("decoding"));
        assert!(
            with(r#"{"name":"a","action":"SCMP_ACT_LOG","includes":{"minKernel":"4"}}"#)
                .contains("minKernel")
        );
    }
}
