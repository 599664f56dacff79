//! The mounts of a RUN, all decided: names and places that were left out are filled in.

use slipway_dockerfile::mount::{self, Kind, Mount};

use super::values::join;

/// Where the first agent's socket is unless a mount says otherwise (BuildKit, client/llb/exec.go).
const SOCKET: &str = "/run/buildkit/ssh_agent.";

/// Reads mounts as they are written. `namespace` goes in front of the ids of caches.
pub fn resolve(
    texts: &[String],
    working_dir: &str,
    namespace: &str,
    expand: &dyn Fn(&str) -> Result<String, String>,
) -> Result<Vec<Mount>, String> {
    let mut mounts = Vec::new();
    let mut sockets = 0;
    for text in texts {
        let mut mount = mount::parse(text, expand)?;
        match mount.kind {
            Kind::Bind | Kind::Cache | Kind::Tmpfs => {
                if mount.kind == Kind::Cache {
                    if mount.id.is_empty() {
                        mount.id = clean(&mount.target);
                    }
                    mount.id = format!("{namespace}/{}", mount.id);
                }
                let target = join(working_dir, &mount.target);
                if target == "/" {
                    return Err(format!("invalid mount target {target:?}"));
                }
                mount.target = target;
                mount.source = join("/", &mount.source);
            }
            Kind::Secret => {
                if !mount.source.is_empty() {
                    mount.id = std::mem::take(&mut mount.source);
                }
                if mount.id.is_empty() {
                    base(&mount.target).clone_into(&mut mount.id);
                }
                if mount.target.is_empty() && mount.env.is_none() {
                    mount.target = format!("/run/secrets/{}", base(&mount.id));
                }
                if !mount.target.is_empty() {
                    mount.target = join(working_dir, &mount.target);
                }
            }
            Kind::Ssh => {
                if mount.id.is_empty() {
                    "default".clone_into(&mut mount.id);
                }
                mount.target = match &*mount.target {
                    "" => format!("{SOCKET}{sockets}"),
                    target => join(working_dir, target),
                };
                sockets += 1;
            }
        }
        mounts.push(mount);
    }
    Ok(mounts)
}

/// The last name of a path.
fn base(path: &str) -> &str {
    path.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default()
}

/// Go's path.Clean, for an id that is a target.
fn clean(path: &str) -> String {
    match path.starts_with('/') {
        true => join("/", path),
        false => match join("/", path).trim_start_matches('/') {
            "" => ".".to_owned(),
            relative => relative.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(texts: &[&str]) -> Result<Vec<Mount>, String> {
        let texts: Vec<String> = texts.iter().map(|t| (*t).to_owned()).collect();
        resolve(&texts, "/app", "", &|v| Ok(v.to_owned()))
    }

    #[test]
    fn what_is_left_out_is_filled_in_as_buildkit_does() {
        let mounts = resolved(&[
            "type=cache,target=.npm/",
            "type=cache,target=/root//.cache",
            "type=bind,source=a/../../b,target=x",
            "type=secret,id=dir/token",
            "type=secret,target=/etc/key",
            "type=secret,id=t,env=TOKEN",
            "type=ssh",
            "type=ssh,id=other",
        ])
        .unwrap();
        let told: Vec<(&str, &str)> = mounts.iter().map(|m| (&*m.id, &*m.target)).collect();
        assert_eq!(
            told,
            [
                ("/.npm", "/app/.npm"),
                ("//root/.cache", "/root/.cache"),
                ("", "/app/x"),
                ("dir/token", "/run/secrets/token"),
                ("key", "/etc/key"),
                ("t", ""),
                ("default", "/run/buildkit/ssh_agent.0"),
                ("other", "/run/buildkit/ssh_agent.1"),
            ]
        );
        assert_eq!(mounts[2].source, "/b");
        let error = resolved(&["type=bind,target=/a/.."]).unwrap_err();
        assert_eq!(error, "invalid mount target \"/\"");
    }
}
