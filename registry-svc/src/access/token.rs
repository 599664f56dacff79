//! Tokens: who somebody is and what he asked for, signed. Whoever gives them out is who reads them, so one key does,
//! and nothing is remembered of them.

use std::{
    fs::OpenOptions,
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::{Caller, REFRESH_LIFE, TOKEN_LIFE, policy::Action};
use crate::{files, names::Repository};

/// Name of the file of the key.
const KEY_FILE: &str = "token.key";

/// Bytes of the key.
const KEY_SIZE: usize = 32;

/// The key cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    /// No reading, or no writing.
    #[error("cannot keep the key of tokens in {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The one that several registries are to share is not there.
    #[error(
        "token_key: there is no {}: make it once (head -c {KEY_SIZE} /dev/urandom) and give it to every registry-svc",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Something else is in it.
    #[error(
        "{} is no key of tokens, which has {KEY_SIZE} bytes: make it anew, or remove token.key and it is made",
        path.display()
    )]
    Broken {
        /// The file.
        path: PathBuf,
    },
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// To get at repositories.
    Access,
    /// To get tokens with.
    Refresh,
}

impl Kind {
    /// How long one is good for.
    pub fn life(self) -> Duration {
        match self {
            Self::Access => TOKEN_LIFE,
            Self::Refresh => REFRESH_LIFE,
        }
    }
}

/// What a token is good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// A repository's key.
    pub repository: String,
    /// What may be done with it.
    pub actions: Vec<Action>,
}

impl Grant {
    /// Whether it is good for this.
    pub fn allows(&self, repository: &Repository, action: Action) -> bool {
        self.repository == repository.as_str() && self.actions.contains(&action)
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    kind: Kind,
    caller: Caller,
    /// Unix seconds.
    until: u64,
    grants: Vec<Grant>,
}

/// Makes and reads tokens.
pub struct Tokens(hmac::Key);

impl Tokens {
    /// With the key in this folder, which is made where there is none.
    pub fn open(folder: &Path) -> Result<Self, TokenKeyError> {
        let path = folder.join(KEY_FILE);
        let key = match read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(folder, &path),
            other => other,
        };
        Self::with(key, path)
    }

    /// With a key that others have, too: it is never made here, else each would have another.
    pub fn sharing(path: &Path) -> Result<Self, TokenKeyError> {
        match read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(TokenKeyError::Missing {
                path: path.to_owned(),
            }),
            key => Self::with(key, path.to_owned()),
        }
    }

    fn with(key: io::Result<Vec<u8>>, path: PathBuf) -> Result<Self, TokenKeyError> {
        match key {
            Ok(key) if key.len() == KEY_SIZE => Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key))),
            Ok(_) => Err(TokenKeyError::Broken { path }),
            Err(source) => Err(TokenKeyError::Io { path, source }),
        }
    }

    /// A new one, good as long as what it is bound to is the same.
    pub fn make(&self, kind: Kind, caller: &Caller, grants: Vec<Grant>, bound: &str) -> String {
        self.make_at(kind, caller, grants, bound, now())
    }

    fn make_at(
        &self,
        kind: Kind,
        caller: &Caller,
        grants: Vec<Grant>,
        bound: &str,
        at: u64,
    ) -> String {
        let claims = Claims {
            kind,
            caller: caller.clone(),
            until: at + kind.life().as_secs(),
            grants,
        };
        let claims = serde_json::to_vec(&claims).expect("claims are plain data");
        let claims = BASE64.encode(claims);
        let proof = hmac::sign(&self.0, signed(&claims, bound).as_bytes());
        format!("{claims}.{}", BASE64.encode(proof))
    }

    /// Whose it is and what it is good for, if it is one of ours, of that kind and not too old. `bound` says what the
    /// caller's tokens are bound to now; `None` when he has none.
    pub fn read(
        &self,
        kind: Kind,
        token: &str,
        bound: impl Fn(&Caller) -> Option<std::sync::Arc<str>>,
    ) -> Option<(Caller, Vec<Grant>)> {
        let (text, proof) = token.split_once('.')?;
        let proof = BASE64.decode(proof).ok()?;
        // Believed only when the proof, which needs to know whose it is, is right.
        let claims: Claims = serde_json::from_slice(&BASE64.decode(text).ok()?).ok()?;
        let bound = bound(&claims.caller)?;
        hmac::verify(&self.0, signed(text, &bound).as_bytes(), &proof).ok()?;
        (claims.kind == kind && now() < claims.until).then_some((claims.caller, claims.grants))
    }
}

/// base64 has no line break in it.
fn signed(claims: &str, bound: &str) -> String {
    format!("{claims}\n{bound}")
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut key = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(KEY_SIZE as u64 + 1).read_to_end(&mut key)?;
    Ok(key)
}

fn make(folder: &Path, path: &Path) -> io::Result<Vec<u8>> {
    let mut key = vec![0; KEY_SIZE];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    files::create_folders(folder)?;
    // Nobody else may read it, at no time.
    let new = folder.join(format!("{KEY_FILE}.new"));
    if let Err(error) = std::fs::remove_file(&new)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&key)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    Ok(key)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn grant() -> Grant {
        Grant {
            repository: "docker.io/team/app".to_owned(),
            actions: vec![Action::Pull],
        }
    }

    #[test]
    fn a_token_is_good_for_its_owner_its_kind_and_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(folder.path()).unwrap();
        let alice = Caller::User("alice".to_owned());
        let bound = |caller: &Caller| match caller {
            Caller::User(name) if name == "alice" => Some("hash".into()),
            Caller::User(_) => None,
            _ => Some("".into()),
        };
        let token = tokens.make(Kind::Access, &alice, vec![grant()], "hash");
        let read = |token: &str| tokens.read(Kind::Access, token, bound);
        assert_eq!(read(&token), Some((alice.clone(), vec![grant()])));
        // Another process with the same folder.
        let again = Tokens::open(folder.path()).unwrap();
        assert!(again.read(Kind::Access, &token, bound).is_some());
        let refresh = tokens.make(Kind::Refresh, &alice, Vec::new(), "hash");
        let bob = tokens.make(Kind::Access, &Caller::User("bob".to_owned()), vec![], "");
        let other = Tokens::open(tempfile::tempdir().unwrap().path()).unwrap();
        let forged = other.make(Kind::Access, &alice, vec![grant()], "hash");
        let age = TOKEN_LIFE.as_secs();
        let old = tokens.make_at(Kind::Access, &alice, vec![grant()], "hash", now() - age);
        let changed = tokens.make(Kind::Access, &alice, vec![grant()], "hash of before");
        let nobody = tokens.make(Kind::Access, &Caller::Anonymous, vec![grant()], "");
        // What one token says with the proof of another.
        let mixed = format!(
            "{}.{}",
            token.split_once('.').unwrap().0,
            nobody.split_once('.').unwrap().1
        );
        for (wrong, why) in [
            (&refresh, "kind"),
            (&bob, "unknown"),
            (&forged, "key"),
            (&old, "age"),
            (&changed, "password"),
            (&mixed, "mixed"),
            (&"".to_owned(), "empty"),
            (&".".to_owned(), "nothing"),
        ] {
            assert_eq!(read(wrong), None, "{why}");
        }
        assert!(read(&nobody).is_some());
        assert!(tokens.read(Kind::Refresh, &refresh, bound).is_some());
    }

    #[test]
    fn a_shared_key_reads_the_tokens_of_others_and_is_never_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shared.key");
        let missing = Tokens::sharing(&path);
        assert!(missing.is_err_and(|e| e.to_string().contains("make it once")));
        assert!(!path.exists());
        std::fs::write(&path, [7; KEY_SIZE]).unwrap();
        let [one, other] = [(); 2].map(|()| Tokens::sharing(&path).unwrap());
        let token = one.make(Kind::Access, &Caller::Anonymous, vec![grant()], "");
        let bound = |_: &Caller| Some("".into());
        assert!(other.read(Kind::Access, &token, bound).is_some());
        for wrong in [KEY_SIZE - 1, KEY_SIZE + 1] {
            std::fs::write(&path, vec![7; wrong]).unwrap();
            let broken = Tokens::sharing(&path);
            assert!(matches!(broken, Err(TokenKeyError::Broken { .. })));
        }
    }

    #[test]
    fn the_key_is_for_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        Tokens::open(folder.path()).unwrap();
        let path = folder.path().join(KEY_FILE);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "short").unwrap();
        assert!(matches!(
            Tokens::open(folder.path()),
            Err(TokenKeyError::Broken { .. })
        ));
    }
}
