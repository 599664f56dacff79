//! What a build may ask of us: secrets and ssh agents. Nothing is read before a step wants it.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use slipway_proto::builder::v1::{AgentAnswer, AskAgent, Secret, build_request::Part};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};
use zeroize::Zeroizing;

use super::keys::Keys;
use crate::failure::{Failure, Outcome};

/// Most bytes of a secret (BuildKit, session/secrets/secretsprovider/store.go).
const LARGEST: u64 = 500 << 10;
/// Longest message of an agent (OpenSSH, AGENT_MAX_LEN).
const LONGEST: usize = 256 << 10;

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file.
    File(PathBuf),
    /// In a variable of our environment.
    Variable(String),
}

/// Who signs.
#[derive(Debug)]
pub enum Agent {
    /// An agent behind a socket.
    Socket(PathBuf),
    /// Ourselves, with keys from files.
    Keys(Keys),
}

/// All that is offered.
#[derive(Debug, Default)]
pub struct Offer {
    secrets: HashMap<String, SecretSource>,
    agents: HashMap<String, Agent>,
}

impl Offer {
    /// Reads `--secret` and `--ssh`.
    pub fn new(secrets: &[String], agents: &[String]) -> Outcome<Self> {
        let secrets = secrets
            .iter()
            .map(|text| secret(text, |name| std::env::var_os(name).is_some()))
            .collect::<Outcome<_>>()?;
        let mut offer = Self {
            secrets,
            ..Self::default()
        };
        // Before there is a key in our memory.
        if !offer.secrets.is_empty() || !agents.is_empty() {
            let forbidden = slipway_service::secrecy::forbid_core_dumps();
            forbidden.map_err(|e| Failure::new(format!("cannot forbid core dumps: {e}")))?;
        }
        for text in agents {
            let (id, agent) = agent(text)?;
            if offer.agents.insert(id.clone(), agent).is_some() {
                return Err(Failure::new(format!("duplicate agent ID {id:?}")));
            }
        }
        Ok(offer)
    }

    /// Names of secrets.
    pub fn secrets(&self) -> Vec<String> {
        self.secrets.keys().cloned().collect()
    }

    /// Names of agents.
    pub fn agents(&self) -> Vec<String> {
        self.agents.keys().cloned().collect()
    }

    /// The answer to a wanted secret.
    pub fn secret(&self, id: String) -> Part {
        let read = self.secrets.get(&id).map(SecretSource::read);
        let read = read.unwrap_or_else(|| Err("it was not offered".to_owned()));
        let (data, error) = match read {
            Ok(data) => (bytes::Bytes::from_owner(data), String::new()),
            Err(error) => (bytes::Bytes::new(), error),
        };
        Part::Secret(Secret { id, data, error })
    }

    /// The answer to what is asked of an agent; an empty one when it does not answer.
    pub async fn ask(&self, asked: AskAgent) -> Part {
        let answer = match self.agents.get(&asked.agent) {
            Some(Agent::Socket(path)) => forward(path, &asked.message).await.unwrap_or_default(),
            Some(Agent::Keys(keys)) => keys.answer(&asked.message),
            None => Vec::new(),
        };
        Part::AgentAnswer(AgentAnswer {
            number: asked.number,
            message: answer.into(),
        })
    }
}

impl SecretSource {
    fn read(&self) -> Result<Zeroizing<Vec<u8>>, String> {
        use std::{io::Read as _, os::unix::ffi::OsStringExt as _};
        let data = match self {
            Self::Variable(name) => std::env::var_os(name)
                .map(|value| Zeroizing::new(value.into_vec()))
                .ok_or_else(|| format!("the variable {name} is not set"))?,
            Self::File(path) => {
                let file = std::fs::File::open(path);
                let file = file.map_err(|e| format!("open {}: {e}", path.display()))?;
                // A vector that grows leaves copies behind.
                let size = file.metadata().map_or(0, |m| m.len()).min(LARGEST) + 2;
                let mut data = Zeroizing::new(Vec::with_capacity(size as usize));
                let read = file.take(LARGEST + 1).read_to_end(&mut data);
                read.map_err(|e| format!("read {}: {e}", path.display()))?;
                data
            }
        };
        match data.len() as u64 > LARGEST {
            true => Err(format!("it is larger than {LARGEST} bytes")),
            false => Ok(data),
        }
    }
}

/// One `--secret` (docker/buildx, util/buildflags/secrets.go; BuildKit, secretsprovider/store.go).
fn secret(text: &str, is_set: impl Fn(&str) -> bool) -> Outcome<(String, SecretSource)> {
    let invalid = |why: String| Failure::new(format!("invalid secret {text:?}: {why}"));
    let (mut id, mut file, mut variable, mut kind) = (None, None, None, None);
    for field in crate::spec::mount::fields(text)? {
        let Some((key, value)) = field.split_once('=') else {
            return Err(invalid(format!(
                "invalid field '{field}' must be a key=value pair"
            )));
        };
        match key.to_ascii_lowercase().as_str() {
            "type" if matches!(value, "file" | "env") => kind = Some(value.to_owned()),
            "type" => return Err(invalid(format!("unsupported secret type {value:?}"))),
            "id" => id = Some(value.to_owned()),
            "src" | "source" => file = Some(value.to_owned()),
            "env" => variable = Some(value.to_owned()),
            _ => return Err(invalid(format!("unexpected key '{key}' in '{field}'"))),
        }
    }
    let id = id
        .filter(|id| !id.is_empty())
        .ok_or_else(|| invalid("an id is needed".to_owned()))?;
    // With type=env, `src` is the variable's name.
    if kind.as_deref() == Some("env") && variable.is_none() {
        variable = file.take();
    }
    let source = match (file, variable) {
        (Some(file), _) => SecretSource::File(file.into()),
        (None, Some(name)) => SecretSource::Variable(name),
        (None, None) if kind.as_deref() != Some("file") && is_set(&id) => {
            SecretSource::Variable(id.clone())
        }
        (None, None) if kind.as_deref() == Some("env") => SecretSource::Variable(id.clone()),
        (None, None) => SecretSource::File(PathBuf::from(&id)),
    };
    // A mistake is told before anything is built.
    match &source {
        SecretSource::File(path) => {
            std::fs::metadata(path)
                .map_err(|e| Failure::new(format!("failed to stat {}: {e}", path.display())))?;
        }
        SecretSource::Variable(name) if !is_set(name) => {
            return Err(invalid(format!("the variable {name} is not set")));
        }
        SecretSource::Variable(_) => {}
    }
    Ok((id, source))
}

/// One `--ssh` (BuildKit, session/sshforward/sshprovider/agentprovider.go).
fn agent(text: &str) -> Outcome<(String, Agent)> {
    let (id, paths) = text.split_once('=').unwrap_or((text, ""));
    let id = if id.is_empty() { "default" } else { id };
    let paths = paths.split(',').filter(|p| !p.is_empty());
    let paths: Vec<&str> = paths.filter(|p| *p != "raw=false").collect();
    if paths.contains(&"raw=true") {
        return Err(Failure::new(format!(
            "--ssh {text}: raw is not supported: only lists of keys and signatures pass"
        )));
    }
    if paths.is_empty() {
        let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|s| !s.is_empty());
        let socket = socket.ok_or_else(|| {
            Failure::new(format!("invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set, or name keys: --ssh {id}=FILE"))
        })?;
        return Ok((id.to_owned(), Agent::Socket(socket.into())));
    }
    let mut keys = Keys::default();
    let mut socket = None;
    for path in &paths {
        let kind = std::fs::metadata(path).map_err(|e| Failure::new(format!("{path}: {e}")))?;
        if socket.is_some() {
            return Err(Failure::new("only single socket allowed"));
        }
        if is_socket(&kind) {
            socket = Some(PathBuf::from(path));
        } else {
            keys.add(Path::new(path)).map_err(Failure::new)?;
        }
    }
    let agent = match socket {
        Some(_) if paths.len() > 1 => {
            return Err(Failure::new("invalid combination of keys and sockets"));
        }
        Some(path) => Agent::Socket(path),
        None => Agent::Keys(keys),
    };
    Ok((id.to_owned(), agent))
}

fn is_socket(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    metadata.file_type().is_socket()
}

/// One question, one answer.
async fn forward(path: &Path, message: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path).await?;
    let length = u32::try_from(message.len()).unwrap_or_default();
    stream.write_u32(length).await?;
    stream.write_all(message).await?;
    let length = stream.read_u32().await? as usize;
    if length > LONGEST {
        return Ok(Vec::new());
    }
    let mut reply = vec![0; length];
    stream.read_exact(&mut reply).await?;
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_secrets_are() {
        let read =
            |text: &str| secret(text, |name| matches!(name, "SET" | "ID")).map_err(|e| e.text);
        let variable =
            |id: &str, name: &str| Ok((id.to_owned(), SecretSource::Variable(name.to_owned())));
        assert_eq!(read("id=a,env=SET"), variable("a", "SET"));
        assert_eq!(read("id=a,type=env,src=SET"), variable("a", "SET"));
        assert_eq!(read("id=ID"), variable("ID", "ID"));
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        let found = read(&format!("id=a,src={path}")).unwrap();
        assert_eq!(found.1, SecretSource::File(path.into()));
        for (text, part) in [
            ("src=/x", "an id is needed"),
            ("id=a,src=/not/there", "failed to stat /not/there"),
            ("id=a,env=UNSET", "UNSET is not set"),
            ("id=a,type=x", "unsupported secret type"),
            ("id=a,what=x", "unexpected key 'what'"),
            ("id", "must be a key=value pair"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
