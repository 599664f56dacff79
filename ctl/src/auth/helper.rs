//! The protocol of docker's credential helpers (docker-credential-helpers, README): a program for each action, its
//! question on standard input, its answer on standard output. Running it is docker's contract with its users, and
//! the only program that ctl runs for an account.

use std::{collections::BTreeMap, io, process::Stdio};

use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::Account;
use crate::failure::{Failure, Outcome};

/// The name of an account whose secret is an identity token.
const TOKEN: &str = "<token>";
/// What a helper says of a registry that it has no account of.
const NOT_FOUND: &str = "credentials not found in native keychain";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Credentials {
    #[serde(rename = "ServerURL")]
    server_url: String,
    username: String,
    secret: String,
}

/// A helper.
pub struct Helper<'a>(&'a str);

impl<'a> Helper<'a> {
    pub const fn new(name: &'a str) -> Self {
        Self(name)
    }

    /// The account of a registry, if it has one.
    pub async fn get(&self, key: &str) -> Outcome<Option<Account>> {
        let answer = match self.call("get", key.as_bytes()).await? {
            Ok(answer) => answer,
            Err(said) if said.contains(NOT_FOUND) => return Ok(None),
            Err(said) => return Err(self.failed(&said)),
        };
        let found: Credentials = self.parse(&answer)?;
        let mut account = Account {
            username: found.username,
            password: found.secret,
            identity_token: String::new(),
        };
        if account.username == TOKEN {
            account.username.clear();
            account.identity_token = std::mem::take(&mut account.password);
        }
        Ok(Some(account))
    }

    /// Keeps an account.
    pub async fn store(&self, key: &str, account: &Account) -> Outcome<()> {
        let token = !account.identity_token.is_empty();
        let credentials = Credentials {
            server_url: key.to_owned(),
            username: if token { TOKEN } else { &account.username }.to_owned(),
            secret: if token {
                account.identity_token.clone()
            } else {
                account.password.clone()
            },
        };
        let question = serde_json::to_vec(&credentials).expect("plain data");
        let answer = self.call("store", &question).await?;
        answer.map(drop).map_err(|said| self.failed(&said))
    }

    /// Forgets an account; one that it does not have is forgotten already.
    pub async fn erase(&self, key: &str) -> Outcome<()> {
        match self.call("erase", key.as_bytes()).await? {
            Err(said) if !said.contains(NOT_FOUND) => Err(self.failed(&said)),
            _ => Ok(()),
        }
    }

    /// Registries that it has accounts of, and their names.
    pub async fn list(&self) -> Outcome<BTreeMap<String, String>> {
        let answer = self.call("list", b"").await?;
        self.parse(&answer.map_err(|said| self.failed(&said))?)
    }

    /// What it answers, or what it says when it fails: on its output, as the protocol has it.
    async fn call(&self, action: &str, question: &[u8]) -> Outcome<Result<Vec<u8>, String>> {
        let program = format!("docker-credential-{}", self.0);
        let failed = |e: io::Error| {
            Failure::new(format!(
                "cannot run the credential helper {program} that config.json names: {e}"
            ))
        };
        let mut child = Command::new(&program)
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let mut stdin = child.stdin.take().expect("piped");
        // A question has a line or two: it is in the pipe before the program reads. One that does not read
        // may be gone.
        let _ = stdin.write_all(question).await;
        drop(stdin);
        let output = child.wait_with_output().await.map_err(failed)?;
        Ok(match output.status.success() {
            true => Ok(output.stdout),
            false => Err(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        })
    }

    fn parse<T: for<'de> Deserialize<'de>>(&self, answer: &[u8]) -> Outcome<T> {
        // The answer itself may hold a secret, and serde's sentence a piece of it.
        serde_json::from_slice(answer).map_err(|_| self.failed("its answer is not the protocol's"))
    }

    fn failed(&self, said: &str) -> Failure {
        let said = match said {
            "" => "it failed without a word",
            said => said,
        };
        Failure::from(format!("docker-credential-{}: {said}", self.0))
    }
}
