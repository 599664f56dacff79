//! `RUN --mount=...`: what a step sees besides its root filesystem.
//!
//! The rules and sentences are BuildKit's (frontend/dockerfile/instructions/commands_runmount.go). Variables
//! are expanded where the step is planned, in each value by itself; only `from` cannot have any, since the
//! graph of stages depends on it.

mod fields;
mod values;

use fields::fields;
use values::{boolean, near, number, size};

/// A mount, variables expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `type`
    pub kind: Kind,
    /// `from`
    pub from: Option<String>,
    /// `source`, `src`
    pub source: String,
    /// `target`, `dst`, `destination`; "" = not given.
    pub target: String,
    /// `readonly`, `ro`, `readwrite`, `rw`, or the type's default.
    pub read_only: bool,
    /// `id`
    pub id: String,
    /// `sharing`
    pub sharing: Sharing,
    /// `required`
    pub required: bool,
    /// `size` in bytes; 0 = none.
    pub size: u64,
    /// `mode`
    pub mode: Option<u32>,
    /// `uid`
    pub uid: Option<u32>,
    /// `gid`
    pub gid: Option<u32>,
    /// `env`
    pub env: Option<String>,
}

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Files of the context, a stage or an image.
    Bind,
    /// A folder that the next build finds again.
    Cache,
    /// An empty folder in memory.
    Tmpfs,
    /// A secret of the caller's.
    Secret,
    /// The caller's ssh agent.
    Ssh,
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// Who comes meanwhile gets another one.
    Private,
    /// Who comes meanwhile waits.
    Locked,
}

const KINDS: [(&str, Kind); 5] = [
    ("bind", Kind::Bind),
    ("cache", Kind::Cache),
    ("secret", Kind::Secret),
    ("ssh", Kind::Ssh),
    ("tmpfs", Kind::Tmpfs),
];

const SHARINGS: [(&str, Sharing); 3] = [
    ("locked", Sharing::Locked),
    ("private", Sharing::Private),
    ("shared", Sharing::Shared),
];

const KEYS: [&str; 20] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
    "device",
];

impl Kind {
    /// Its word.
    pub fn word(self) -> &'static str {
        KINDS
            .iter()
            .find(|(_, k)| *k == self)
            .map_or("bind", |(w, _)| w)
    }
}

impl Sharing {
    /// Its word.
    pub fn word(self) -> &'static str {
        let found = SHARINGS.iter().find(|(_, s)| *s == self);
        found.map_or("shared", |(w, _)| w)
    }
}

/// What can be told before variables are known: the form of the value, and its `from`.
pub fn from(text: &str) -> Result<Option<String>, String> {
    let mut from = None;
    for field in fields(text)? {
        if let Some((key, value)) = field.split_once('=')
            && key.eq_ignore_ascii_case("from")
        {
            if value.find('$').is_some_and(|at| at + 1 < value.len()) {
                return Err(
                    "'from' doesn't support variable expansion, define alias stage instead"
                        .to_owned(),
                );
            }
            from = Some(value.to_owned()).filter(|v| !v.is_empty());
        }
    }
    Ok(from)
}

/// Parses the value of a `--mount`; `expand` replaces variables in one value.
pub fn parse(text: &str, expand: &dyn Fn(&str) -> Result<String, String>) -> Result<Mount, String> {
    let mut mount = Mount {
        kind: Kind::Bind,
        from: None,
        source: String::new(),
        target: String::new(),
        read_only: true,
        id: String::new(),
        sharing: Sharing::Shared,
        required: false,
        size: 0,
        mode: None,
        uid: None,
        gid: None,
        env: None,
    };
    let mut read_only = None;
    let mut sharing = None;
    for field in fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(expand(value)?)),
            None => (field.to_ascii_lowercase(), None),
        };
        let Some(value) = value else {
            match key.as_str() {
                "readonly" | "ro" => read_only = Some(true),
                "readwrite" | "rw" => read_only = Some(false),
                "required" => mount.required = only(&key, mount.kind, &[Kind::Secret, Kind::Ssh])?,
                _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
            }
            continue;
        };
        match key.as_str() {
            "type" => {
                let found = KINDS.iter().find(|(w, _)| value.eq_ignore_ascii_case(w));
                let Some((_, kind)) = found else {
                    let words: Vec<&str> = KINDS.iter().map(|(w, _)| *w).collect();
                    return Err(format!(
                        "unsupported mount type {value:?}{}",
                        near(&value, &words)
                    ));
                };
                mount.kind = *kind;
            }
            "from" => mount.from = Some(value).filter(|v| !v.is_empty()),
            "source" | "src" => mount.source = value,
            "target" | "dst" | "destination" => mount.target = value,
            "readonly" | "ro" => read_only = Some(boolean(&key, &value)?),
            "readwrite" | "rw" => read_only = Some(!boolean(&key, &value)?),
            "required" => {
                only(&key, mount.kind, &[Kind::Secret, Kind::Ssh])?;
                mount.required = boolean(&key, &value)?;
            }
            "size" => {
                only(&key, mount.kind, &[Kind::Tmpfs])?;
                mount.size = size(&value)?;
            }
            "id" => mount.id = value,
            "sharing" => {
                let found = SHARINGS.iter().find(|(w, _)| value.eq_ignore_ascii_case(w));
                let Some((_, found)) = found else {
                    let words: Vec<&str> = SHARINGS.iter().map(|(w, _)| *w).collect();
                    let near = near(&value, &words);
                    return Err(format!("unsupported sharing value {value:?}{near}"));
                };
                sharing = Some(*found);
            }
            "mode" => mount.mode = Some(number(&key, &value, 8)?),
            "uid" => mount.uid = Some(number(&key, &value, 10)?),
            "gid" => mount.gid = Some(number(&key, &value, 10)?),
            "env" => {
                only(&key, mount.kind, &[Kind::Secret])?;
                mount.env = Some(value).filter(|v| !v.is_empty());
            }
            _ => {
                let near = near(&key, &KEYS);
                return Err(format!("unexpected key '{key}' in '{field}'{near}"));
            }
        }
    }
    finish(mount, read_only, sharing)
}

/// What only all fields together can say.
fn finish(
    mut mount: Mount,
    read_only: Option<bool>,
    sharing: Option<Sharing>,
) -> Result<Mount, String> {
    let word = mount.kind.word();
    if matches!(mount.kind, Kind::Bind | Kind::Tmpfs) {
        let owners = [("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)];
        if let Some((key, _)) = owners.iter().find(|(_, v)| v.is_some()) {
            return Err(format!("{key} not allowed for {word:?} type mounts"));
        }
    }
    mount.read_only = read_only.unwrap_or(!matches!(mount.kind, Kind::Cache | Kind::Tmpfs));
    if mount.kind == Kind::Secret {
        if mount.from.is_some() {
            return Err("secret mount should not have a from".to_owned());
        }
        if sharing.is_some() {
            return Err("secret mount should not define sharing".to_owned());
        }
        if mount.source.is_empty() && mount.target.is_empty() && mount.id.is_empty() {
            return Err("invalid secret mount. one of source, target required".to_owned());
        }
        if !mount.source.is_empty() && !mount.id.is_empty() {
            return Err("both source and id can't be set".to_owned());
        }
    }
    if mount.kind == Kind::Ssh && !mount.source.is_empty() {
        return Err("ssh does not support source".to_owned());
    }
    if sharing.is_some() && mount.kind != Kind::Cache {
        return Err(format!("invalid cache sharing set for {word} mount"));
    }
    mount.sharing = sharing.unwrap_or_default();
    Ok(mount)
}

fn only(key: &str, kind: Kind, kinds: &[Kind]) -> Result<bool, String> {
    match kinds.contains(&kind) {
        true => Ok(true),
        false => Err(format!(
            "unexpected key '{key}' for mount type '{}'",
            kind.word()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Mount, String> {
        parse(text, &|value| Ok(value.replace("$V", "value")))
    }

    #[test]
    fn every_option_of_the_reference() {
        let bind = parsed("type=bind,from=build,source=/a,target=b,rw").unwrap();
        assert_eq!(bind.from.as_deref(), Some("build"));
        assert_eq!(
            (&*bind.source, &*bind.target, bind.read_only),
            ("/a", "b", false)
        );
        assert!(parsed("target=/x").unwrap().read_only);
        let cache = parsed(
            "type=cache,id=$V,dst=/c,sharing=locked,mode=0700,uid=1,gid=2,\"source=a,b\",ro=true",
        )
        .unwrap();
        assert_eq!((&*cache.id, &*cache.source), ("value", "a,b"));
        assert_eq!(cache.sharing, Sharing::Locked);
        assert_eq!(
            (cache.mode, cache.uid, cache.gid, cache.read_only),
            (Some(0o700), Some(1), Some(2), true)
        );
        let tmpfs = parsed("type=tmpfs,destination=/t,size=1.5k").unwrap();
        assert_eq!((tmpfs.size, tmpfs.read_only), (1536, false));
        let secret = parsed("TYPE=secret,ID=s,env=TOKEN,required").unwrap();
        assert_eq!(
            (secret.env.as_deref(), secret.required),
            (Some("TOKEN"), true)
        );
        assert_eq!(parsed("type=ssh").unwrap().kind, Kind::Ssh);
        assert_eq!(from("type=bind,from=x"), Ok(Some("x".to_owned())));
    }

    #[test]
    fn what_is_refused() {
        for (text, said) in [
            (
                "type=bin",
                "unsupported mount type \"bin\" (did you mean bind?)",
            ),
            (
                "type=bind,mode=1",
                "mode not allowed for \"bind\" type mounts",
            ),
            (
                "type=tmpfs,uid=1",
                "uid not allowed for \"tmpfs\" type mounts",
            ),
            (
                "type=bind,sharing=shared",
                "invalid cache sharing set for bind mount",
            ),
            ("type=cache,sharing=x", "unsupported sharing value \"x\""),
            ("type=cache,mode=9", "invalid value 9 for mode"),
            ("type=cache,uid=+1", "invalid value +1 for uid"),
            (
                "type=bind,size=1",
                "unexpected key 'size' for mount type 'bind'",
            ),
            (
                "type=cache,required",
                "unexpected key 'required' for mount type 'cache'",
            ),
            (
                "type=secret",
                "invalid secret mount. one of source, target required",
            ),
            ("type=secret,id=a,src=b", "both source and id can't be set"),
            (
                "type=secret,id=a,from=b",
                "secret mount should not have a from",
            ),
            ("type=ssh,source=b", "ssh does not support source"),
            ("target", "invalid field 'target' must be a key=value pair"),
            (
                "targett=/x",
                "unexpected key 'targett' in 'targett=/x' (did you mean target?)",
            ),
            ("ro=maybe", "invalid value for ro: maybe"),
            (
                "a\"b",
                "failed to parse csv mounts: bare \" in non-quoted field",
            ),
            (
                "\"a",
                "failed to parse csv mounts: extraneous or missing \" in quoted-field",
            ),
        ] {
            assert_eq!(parsed(text).unwrap_err(), said, "{text}");
        }
        assert!(
            from("from=$X")
                .unwrap_err()
                .contains("define alias stage instead")
        );
        for odd in [
            "",
            ",",
            "=",
            "é=é",
            "\"\"",
            "size=nan",
            "type=tmpfs,size=9999p",
        ] {
            let _ = (from(odd), parsed(odd));
        }
    }
}
