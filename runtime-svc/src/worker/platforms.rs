//! Which platforms steps can be of on this host: its own, and those that binfmt_misc has an interpreter for
//! (kernel: Documentation/admin-guide/binfmt-misc.rst).

use std::{fs, path::Path};

use slipway_image::Platform;

const BINFMT: &str = "/proc/sys/fs/binfmt_misc";

/// This host's own platform first.
pub fn platforms() -> Vec<Platform> {
    let mut all = natively(Platform::host());
    for platform in emulated(Path::new(BINFMT)) {
        if !all.contains(&platform) {
            all.push(platform);
        }
    }
    all
}

/// Every kernel for amd64 that distributions make runs programs for 386, too (BuildKit, util/archutil).
fn natively(host: Platform) -> Vec<Platform> {
    match &*host.architecture {
        "amd64" => vec![host, Platform::new("linux", "386", "")],
        _ => vec![host],
    }
}

/// Nothing where binfmt_misc is not mounted.
fn emulated(folder: &Path) -> Vec<Platform> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let texts = entries.filter_map(|e| fs::read_to_string(e.path()).ok());
    let mut all: Vec<Platform> = texts.filter_map(|t| of_entry(&t)).collect();
    all.sort_by_key(ToString::to_string);
    all
}

/// What an entry of binfmt_misc interprets, if it is enabled and about ELF files.
fn of_entry(text: &str) -> Option<Platform> {
    let mut lines = text.lines();
    if lines.next()? != "enabled" {
        return None;
    }
    let field = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|l| l.strip_prefix(name)?.strip_prefix(' '))
    };
    if field("offset").is_some_and(|o| o != "0") {
        return None;
    }
    let magic = hex::decode(field("magic")?).ok()?;
    if !magic.starts_with(b"\x7fELF") {
        return None;
    }
    // elf(5): EI_CLASS, EI_DATA, e_machine.
    let (wide, little) = (*magic.get(4)? == 2, *magic.get(5)? == 1);
    let machine = [*magic.get(18)?, *magic.get(19)?];
    let machine = match little {
        true => u16::from_le_bytes(machine),
        false => u16::from_be_bytes(machine),
    };
    let architecture = match (machine, wide, little) {
        (3, false, true) => "386",
        (8, true, true) => "mips64le",
        (8, true, false) => "mips64",
        (21, true, true) => "ppc64le",
        (22, true, false) => "s390x",
        (40, false, true) => "arm",
        (62, true, true) => "amd64",
        (183, true, true) => "arm64",
        (243, true, true) => "riscv64",
        (258, true, true) => "loong64",
        _ => return None,
    };
    Some(Platform::new("linux", architecture, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_known_by_what_they_interpret() {
        // As Debian's qemu-user-binfmt registers them.
        let entry = |magic: &str| {
            format!(
                "enabled\ninterpreter /usr/libexec/qemu-binfmt/x\nflags: POCF\noffset 0\nmagic {magic}\nmask ff\n"
            )
        };
        let arm64 = entry("7f454c460201010000000000000000000200b700");
        assert_eq!(of_entry(&arm64).unwrap().to_string(), "linux/arm64");
        let s390x = entry("7f454c4602020100000000000000000000020016");
        assert_eq!(of_entry(&s390x).unwrap().to_string(), "linux/s390x");
        let arm = entry("7f454c4601010100000000000000000002002800");
        assert_eq!(of_entry(&arm).unwrap().to_string(), "linux/arm/v7");
        assert_eq!(of_entry(&arm64.replace("enabled", "disabled")), None);
        assert_eq!(
            of_entry("enabled\ninterpreter /usr/bin/python3\nextension .py\n"),
            None
        );
        assert_eq!(of_entry(&entry("420d0d0a")), None);
        assert_eq!(of_entry(""), None);
        assert_eq!(platforms()[0], Platform::host());
    }
}
