//! Contexts: which registry, builder and runtime a command talks to.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use slipway_service::{Address, Paths, tls::TlsFiles};

use crate::failure::{Failure, Outcome};

/// Name of the context that needs no file: unix sockets in the run folder.
pub const DEFAULT: &str = "default";

/// Addresses of a site's services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    pub registry: Address,
    pub builder: Address,
    pub runtime: Address,
    pub netd: Address,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What is shown to those of them that are reached by tcp, and the authority of their certificates; `None`:
    /// nothing is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
}

impl Context {
    /// The services of this host.
    pub fn local(run: &Path) -> Self {
        let at = |name: &str| Address::Unix(run.join(format!("{name}.sock")));
        Self {
            registry: at("registry"),
            builder: at("builder"),
            runtime: at("runtime"),
            netd: at("netd"),
            description: "the services of this host".to_owned(),
            tls: None,
        }
    }
}

/// `contexts.toml`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    pub context: BTreeMap<String, Context>,
}

impl File {
    /// `$XDG_CONFIG_HOME/slipway/contexts.toml`
    pub fn path() -> PathBuf {
        let set = |name| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        set("XDG_CONFIG_HOME")
            .unwrap_or_else(|| {
                set("HOME")
                    .unwrap_or_else(|| "/root".into())
                    .join(".config")
            })
            .join("slipway/contexts.toml")
    }

    /// Reads it; absent = empty.
    pub fn load(path: &Path) -> Outcome<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Failure::new(format!("cannot read {}: {e}", path.display()))),
        };
        toml::from_str(&text)
            .map_err(|e| Failure::new(format!("{}: {}", path.display(), e.message())))
    }

    /// Writes it, whole or not at all.
    pub fn save(&self, path: &Path) -> Outcome<()> {
        let fail =
            |e: std::io::Error| Failure::new(format!("cannot write {}: {e}", path.display()));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(fail)?;
        }
        let text = toml::to_string(self).map_err(|e| Failure::new(e.to_string()))?;
        let part = path.with_extension(format!("toml.{}", std::process::id()));
        fs::write(&part, text).map_err(fail)?;
        fs::rename(&part, path).map_err(fail)
    }

    /// A context by name.
    pub fn get(&self, name: &str) -> Outcome<Context> {
        if name == DEFAULT {
            return Ok(Context::local(&Paths::from_env().run));
        }
        self.context.get(name).cloned().ok_or_else(|| {
            Failure::new(format!(
                "context \"{name}\" does not exist. See: ctl context ls"
            ))
        })
    }
}

/// Name of the chosen context: flag, then environment, then file.
pub fn chosen(flag: Option<&str>) -> Outcome<(String, Context)> {
    let from_env = std::env::var("SLIPWAY_CONTEXT")
        .ok()
        .filter(|v| !v.is_empty());
    let named = flag.map(str::to_owned).or(from_env);
    if named.as_deref() == Some(DEFAULT) {
        return Ok((DEFAULT.to_owned(), Context::local(&Paths::from_env().run)));
    }
    let file = File::load(&File::path())?;
    let name = named
        .or_else(|| file.current.clone())
        .unwrap_or_else(|| DEFAULT.to_owned());
    let context = file.get(&name)?;
    Ok((name, context))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_again_and_unknown_keys_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slipway/contexts.toml");
        let mut file = File {
            current: Some("far".into()),
            ..File::default()
        };
        let far = Context {
            tls: Some(TlsFiles {
                cert: "/me.pem".into(),
                key: "/me.key".into(),
                ca: Some("/ca.pem".into()),
                crl: None,
            }),
            ..Context::local(Path::new("/x"))
        };
        file.context.insert("far".into(), far.clone());
        file.save(&path).unwrap();
        assert_eq!(File::load(&path).unwrap().get("far").unwrap(), far);
        fs::write(&path, "nonsense = 1\n").unwrap();
        assert!(File::load(&path).unwrap_err().text.contains("nonsense"));
    }
}
