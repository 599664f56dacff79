//! docker's `config.json`, as far as accounts go (docker/cli, cli/config). Whatever else stands there stays.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize as _;
use serde_json::{Map, Value, json};

use super::Account;
use crate::failure::{Failure, Outcome};

/// Under which docker.io's account is kept.
pub const HUB: &str = "https://index.docker.io/v1/";

/// Who keeps an account.
pub enum Keeper<'a> {
    /// The file itself.
    File,
    /// `docker-credential-NAME`.
    Helper(&'a str),
}

/// The file.
pub struct File {
    path: PathBuf,
    content: Map<String, Value>,
}

impl File {
    /// Reads `$DOCKER_CONFIG/config.json`, or `~/.docker/config.json`; none is an empty one.
    pub fn load() -> Outcome<Self> {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        let folder = match (set("DOCKER_CONFIG"), set("HOME")) {
            (Some(folder), _) => PathBuf::from(folder),
            (None, Some(home)) => Path::new(&home).join(".docker"),
            (None, None) => Path::new("/root/.docker").to_owned(),
        };
        Self::read(folder.join("config.json"))
    }

    fn read(path: PathBuf) -> Outcome<Self> {
        let failed = |why: &dyn std::fmt::Display| {
            Failure::new(format!("cannot read {}: {why}", path.display()))
        };
        let content = match fs::read(&path) {
            Ok(text) if text.trim_ascii().is_empty() => Map::new(),
            Ok(text) => serde_json::from_slice(&text).map_err(|e| failed(&e))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Map::new(),
            Err(e) => return Err(failed(&e)),
        };
        Ok(Self { path, content })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who keeps the account of a registry.
    pub fn keeper(&self, key: &str) -> Keeper<'_> {
        let of_it = self
            .content
            .get("credHelpers")
            .and_then(|helpers| helpers.get(key).or_else(|| helpers.get(host_of(key))));
        let name = of_it.or_else(|| self.content.get("credsStore"));
        match name.and_then(Value::as_str).filter(|name| !name.is_empty()) {
            Some(name) => Keeper::Helper(name),
            None => Keeper::File,
        }
    }

    /// All helpers that it names for accounts of registries that it does not.
    pub fn helpers(&self) -> impl Iterator<Item = &str> {
        let store = self.content.get("credsStore").and_then(Value::as_str);
        store.into_iter().filter(|name| !name.is_empty())
    }

    /// Registries that it has something about.
    pub fn keys(&self) -> Vec<String> {
        ["auths", "credHelpers"]
            .into_iter()
            .filter_map(|part| self.content.get(part).and_then(Value::as_object))
            .flat_map(|part| part.keys().cloned())
            .collect()
    }

    /// The account that lies in it. Older clients wrote addresses where there are names today.
    pub fn account(&self, key: &str) -> Option<Account> {
        let auths = self.content.get("auths")?.as_object()?;
        let entry = auths.get(key).or_else(|| {
            let host = host_of(key);
            auths
                .iter()
                .find(|(other, _)| host_of(other) == host)
                .map(|(_, entry)| entry)
        })?;
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let mut account = Account {
            username: text("username").to_owned(),
            password: text("password").to_owned(),
            identity_token: text("identitytoken").to_owned(),
        };
        if let Some((name, password)) = decode(text("auth")) {
            (account.username, account.password) = (name, password);
        }
        if !account.identity_token.is_empty() {
            account.password.clear();
        }
        (!account.username.is_empty() || !account.identity_token.is_empty()).then_some(account)
    }

    /// Puts an account into it.
    pub fn set(&mut self, key: &str, account: &Account) {
        let pair = format!("{}:{}", account.username, account.password);
        let mut entry = json!({ "auth": STANDARD.encode(pair) });
        if !account.identity_token.is_empty() {
            entry["auth"] = STANDARD.encode(format!("{}:", account.username)).into();
            entry["identitytoken"] = account.identity_token.clone().into();
        }
        self.auths().insert(key.to_owned(), entry);
    }

    /// Notes that there is an account which lies elsewhere.
    pub fn mark(&mut self, key: &str) {
        self.auths().insert(key.to_owned(), json!({}));
    }

    /// Takes an account away; false when there was none.
    pub fn remove(&mut self, key: &str) -> bool {
        let host = host_of(key);
        let auths = self.auths();
        let before = auths.len();
        auths.retain(|other, _| other != key && host_of(other) != host);
        auths.len() < before
    }

    fn auths(&mut self) -> &mut Map<String, Value> {
        let auths = self.content.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        auths.as_object_mut().expect("made one above")
    }

    /// Writes it, whole or not at all, for its owner's eyes only.
    pub fn save(&self) -> Outcome<()> {
        // A link stays one: people keep the file elsewhere.
        let target = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        self.write(&target)
            .map_err(|e| Failure::new(format!("cannot write {}: {e}", target.display())))
    }

    fn write(&self, target: &Path) -> io::Result<()> {
        let folder = target.parent().expect("it has a name");
        let mut maker = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut maker, 0o700);
        maker.recursive(true).create(folder)?;
        let mut text = Vec::new();
        let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        self.content
            .serialize(&mut serde_json::Serializer::with_formatter(&mut text, tabs))?;
        let part = folder.join(format!(".config.json.{}", std::process::id()));
        // What an ended process of that number left behind may be anything.
        let _ = fs::remove_file(&part);
        let written = (|| {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&part)?;
            file.write_all(&text)?;
            file.sync_all()?;
            if let Ok(before) = fs::metadata(target) {
                // Who may use sudo does not want to lose the file to root. Others cannot give it away.
                let _ = std::os::unix::fs::fchown(&file, Some(before.uid()), Some(before.gid()));
            }
            fs::rename(&part, target)
        })();
        if written.is_err() {
            // The error is what is told.
            let _ = fs::remove_file(&part);
        }
        written
    }
}

/// `user:password` in base64. docker's own files may have zeros behind it.
fn decode(text: &str) -> Option<(String, String)> {
    let pair = String::from_utf8(STANDARD.decode(text).ok()?).ok()?;
    let (name, password) = pair.split_once(':')?;
    (!name.is_empty()).then(|| (name.to_owned(), password.trim_matches('\0').to_owned()))
}

/// Under which a registry's account is kept, by its host.
pub fn key_of(host: &str) -> String {
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB.to_owned(),
        host => host.to_owned(),
    }
}

/// The host of a key, as image names have it: keys may be addresses.
pub fn host_of(key: &str) -> String {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    match bare.split('/').next().unwrap_or_default() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn account(name: &str, password: &str) -> Account {
        Account {
            username: name.into(),
            password: password.into(),
            ..Account::default()
        }
    }

    fn file(text: &str) -> File {
        File {
            path: PathBuf::new(),
            content: serde_json::from_str(text).unwrap(),
        }
    }

    #[test]
    fn accounts_are_found_as_docker_finds_them() {
        let auth = STANDARD.encode("joe:a:b");
        let config = file(&format!(
            r#"{{"auths": {{
                "{HUB}": {{"auth": "{auth}"}},
                "https://old.example/v1/": {{"username": "ann", "password": "x"}},
                "token.example": {{"auth": "{}", "identitytoken": "t"}},
                "elsewhere.example": {{}}
            }}}}"#,
            STANDARD.encode("joe:")
        ));
        let get = |host: &str| config.account(&key_of(host));
        assert_eq!(get("docker.io"), Some(account("joe", "a:b")));
        assert_eq!(get("old.example"), Some(account("ann", "x")));
        let token = get("token.example").unwrap();
        assert_eq!((&*token.username, &*token.identity_token), ("joe", "t"));
        assert_eq!(get("elsewhere.example"), None);
        assert_eq!(get("other.example"), None);
        assert!(!format!("{token:?}").contains("joe"));
    }

    #[test]
    fn a_helper_of_a_registry_goes_before_the_one_of_all() {
        let config = file(
            r#"{"credsStore": "all", "credHelpers": {"one.example": "one", "docker.io": "hub"}}"#,
        );
        let name = |key: &str| match config.keeper(key) {
            Keeper::Helper(name) => name.to_owned(),
            Keeper::File => String::new(),
        };
        assert_eq!(name("one.example"), "one");
        assert_eq!(name("two.example"), "all");
        assert_eq!(name(HUB), "hub");
        assert!(matches!(file("{}").keeper(HUB), Keeper::File));
    }

    #[test]
    fn what_else_stands_in_the_file_stays_and_its_owner_alone_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/config.json");
        let mut config = File::read(path.clone()).unwrap();
        config.set("a.example", &account("joe", "secret"));
        config.save().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);

        let kept = folder.path().join("kept.json");
        fs::write(&kept, r#"{"psFormat": "x", "auths": {"b.example": {}}}"#).unwrap();
        fs::set_permissions(&kept, fs::Permissions::from_mode(0o644)).unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&kept, &path).unwrap();
        let mut config = File::read(path.clone()).unwrap();
        config.set("a.example", &account("joe", "secret"));
        config.save().unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!(mode(&kept), 0o600);
        let mut config = File::read(path).unwrap();
        assert_eq!(config.content["psFormat"], "x");
        assert_eq!(config.account("a.example"), Some(account("joe", "secret")));
        assert!(config.remove("a.example") && !config.remove("a.example"));
        assert_eq!(config.keys(), ["b.example"]);
        assert_eq!(fs::read_dir(folder.path().join("deep")).unwrap().count(), 1);
    }

    #[test]
    fn a_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        fs::write(&path, "{").unwrap();
        let error = File::read(path).err().unwrap().text;
        assert!(error.contains("config.json"), "{error}");
    }
}
