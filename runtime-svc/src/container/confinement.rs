//! What a security module of the kernel is asked to confine a container by (`--security-opt apparmor=`,
//! `label=`).
//!
//! AppArmor's profiles are loaded by its own parser; what is loaded is used by name. As docker does, a
//! container that asks for nothing gets `docker-default` where that is loaded. SELinux is not spoken to:
//! only `label=disable` is accepted.

use std::fs;

use slipway_proto::runtime::v1::ContainerSpec;

use crate::{error::Error, executor::plan::Label};

/// docker's profile.
const DEFAULT: &str = "docker-default";

/// What this kernel has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modules {
    /// Names of the loaded profiles, when AppArmor is on.
    pub apparmor: Option<Vec<String>>,
}

impl Modules {
    /// Looks at the kernel.
    pub fn now() -> Self {
        let on = fs::read_to_string("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.trim_end() == "Y");
        let loaded =
            || fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default();
        Self {
            apparmor: on.then(|| names(&loaded())),
        }
    }
}

/// From lines like `docker-default (enforce)`; a name may have spaces.
fn names(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.rsplit_once(" ("))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// What confines a container's processes.
pub fn label(spec: &ContainerSpec, modules: &Modules) -> Result<Label, Error> {
    let mut options = spec.security_opt.iter();
    if let Some(option) = options.find(|o| o.starts_with("label=") && *o != "label=disable") {
        return Err(Error::Unsupported(format!(
            "--security-opt {option}: SELinux labels"
        )));
    }
    // The last one counts, as docker.
    let mut options = spec.security_opt.iter().rev();
    let asked = options.find_map(|o| o.strip_prefix("apparmor="));
    match (asked, &modules.apparmor) {
        (Some("unconfined"), _) => Ok(Label::None),
        (Some(name), None) => Err(Error::Invalid(format!(
            "--security-opt apparmor={name}: this host's kernel has no AppArmor"
        ))),
        (Some(name), Some(loaded)) if !loaded.iter().any(|l| l == name) => {
            Err(Error::Invalid(format!(
                "--security-opt apparmor={name}: the profile is not loaded on this host; load it with apparmor_parser"
            )))
        }
        // docker: a privileged container is unconfined unless it asks for a profile.
        (Some(name), Some(_)) => Ok(Label::AppArmor(name.to_owned())),
        (None, Some(loaded)) if !spec.privileged && loaded.iter().any(|l| l == DEFAULT) => {
            Ok(Label::AppArmor(DEFAULT.to_owned()))
        }
        (None, _) => Ok(Label::None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(option: &str, privileged: bool, loaded: Option<&[&str]>) -> Result<Label, String> {
        let options = (!option.is_empty()).then(|| option.to_owned());
        let spec = ContainerSpec {
            security_opt: options.into_iter().collect(),
            privileged,
            ..ContainerSpec::default()
        };
        let modules = Modules {
            apparmor: loaded.map(|l| l.iter().map(|n| (*n).to_owned()).collect()),
        };
        label(&spec, &modules).map_err(|e| e.to_string())
    }

    #[test]
    fn profiles_are_used_by_name() {
        let both = Some(&["docker-default", "mine"][..]);
        let profile = |name: &str| Ok(Label::AppArmor(name.to_owned()));
        assert_eq!(labelled("", false, both), profile("docker-default"));
        assert_eq!(labelled("", true, both), Ok(Label::None));
        assert_eq!(labelled("", false, Some(&["mine"])), Ok(Label::None));
        assert_eq!(labelled("", false, None), Ok(Label::None));
        assert_eq!(labelled("apparmor=mine", true, both), profile("mine"));
        assert_eq!(
            labelled("apparmor=unconfined", false, both),
            Ok(Label::None)
        );
        assert_eq!(
            labelled("apparmor=unconfined", false, None),
            Ok(Label::None)
        );
        assert!(
            labelled("apparmor=other", false, both)
                .unwrap_err()
                .contains("not loaded")
        );
        assert!(
            labelled("apparmor=mine", false, None)
                .unwrap_err()
                .contains("no AppArmor")
        );
    }

    #[test]
    fn labels_of_selinux_are_refused_unless_they_mean_none() {
        assert!(labelled("label=disable", false, None).is_ok());
        assert!(
            labelled("label=type:x_t", false, None)
                .unwrap_err()
                .contains("SELinux")
        );
    }

    #[test]
    fn names_are_read_from_the_kernels_list() {
        let text = "docker-default (enforce)\n/usr/bin/man (complain)\na b (unconfined)\n";
        assert_eq!(names(text), ["docker-default", "/usr/bin/man", "a b"]);
    }
}
