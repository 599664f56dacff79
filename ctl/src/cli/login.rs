//! `login` and `logout`.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use clap::Args;
use slipway_proto::registry::v1::LoginRequest;
use tonic::Code;

use crate::{
    attach::terminal::Silent,
    auth::{Account, Accounts, HUB, key_of},
    client::Site,
    failure::{Failure, Outcome},
    output,
};

/// `ctl login`
#[derive(Debug, Args)]
pub struct Login {
    /// Password or Personal Access Token (PAT)
    #[arg(short, long)]
    password: Option<String>,
    /// Take the Password or Personal Access Token (PAT) from stdin
    #[arg(long)]
    password_stdin: bool,
    /// Username
    #[arg(short, long)]
    username: Option<String>,
    server: Option<String>,
}

/// `ctl logout`
#[derive(Debug, Args)]
pub struct Logout {
    server: Option<String>,
}

/// The registry's host, and the key of its account, as docker has them: a scheme and a path are passed over.
fn place(server: Option<&str>) -> (String, String) {
    let server = server.unwrap_or("docker.io");
    let bare = server
        .strip_prefix("https://")
        .or_else(|| server.strip_prefix("http://"))
        .unwrap_or(server);
    let host = bare.split('/').next().unwrap_or_default();
    match key_of(host) {
        key if key == HUB => ("docker.io".to_owned(), key),
        key => (host.to_owned(), key),
    }
}

impl Login {
    pub async fn run(mut self, site: &Site) -> Outcome {
        self.check()?;
        let (host, key) = place(self.server.as_deref());
        let mut accounts = Accounts::open()?;
        let mut known = String::new();
        if self.username.is_none() && self.password.is_none() {
            // What is known already may do.
            if let Some(account) = accounts.get(&key).await? {
                known.clone_from(&account.username);
                let name = match known.is_empty() {
                    true => String::new(),
                    false => format!(" [Username: {known}]"),
                };
                output::print(&format!(
                    "Authenticating with existing credentials...{name}\n"
                ))?;
                match verify(site, &host, &account).await {
                    Ok(token) => return done(&mut accounts, &key, account, token).await,
                    Err(status) if status.code() == Code::Unauthenticated => {
                        eprintln!("Login did not succeed, error: {}", status.message());
                    }
                    Err(status) => return Err(status.into()),
                }
            }
        }
        let account = self.ask(&known)?;
        let token = verify(site, &host, &account).await?;
        done(&mut accounts, &key, account, token).await
    }

    /// docker/cli, command/registry/login.go, verifyLoginOptions.
    fn check(&mut self) -> Outcome<()> {
        if self.password_stdin {
            if self.password.is_some() {
                return Err(Failure::new(
                    "conflicting options: cannot specify both --password and --password-stdin",
                ));
            }
            if self.username.as_deref().unwrap_or_default().is_empty() {
                return Err(Failure::new(
                    "the --password-stdin option requires --username to be set",
                ));
            }
            let mut text = String::new();
            io::stdin().read_to_string(&mut text)?;
            let text = text.strip_suffix('\n').unwrap_or(&text);
            let text = text.strip_suffix('\r').unwrap_or(text);
            if text.is_empty() {
                return Err(Failure::new("password is empty"));
            }
            self.password = Some(text.to_owned());
        } else if self.password.is_some() {
            eprintln!("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        }
        if self.username.as_deref() == Some("") {
            return Err(Failure::new("username is empty"));
        }
        Ok(())
    }

    /// What was not given is asked for, where somebody can answer.
    fn ask(&self, known: &str) -> Outcome<Account> {
        if (self.username.is_none() || self.password.is_none()) && !io::stdin().is_terminal() {
            return Err(Failure::new(
                "Cannot perform an interactive login from a non TTY device: use --username and --password-stdin",
            ));
        }
        let username = match &self.username {
            Some(name) => name.clone(),
            None => {
                let default = match known {
                    "" => String::new(),
                    known => format!(" ({known})"),
                };
                let name = line(&format!("Username{default}: "))?;
                if name.is_empty() {
                    known.to_owned()
                } else {
                    name
                }
            }
        };
        if username.is_empty() {
            return Err(Failure::new("username is empty"));
        }
        let password = match &self.password {
            Some(password) => password.clone(),
            None => {
                let silent = Silent::enter()?;
                let password = line("Password: ");
                drop(silent);
                println!();
                password?
            }
        };
        if password.is_empty() {
            return Err(Failure::new("password is empty"));
        }
        Ok(Account {
            username,
            password,
            identity_token: String::new(),
        })
    }
}

fn line(question: &str) -> Outcome<String> {
    output::print(question)?;
    io::stdout().flush()?;
    let mut text = String::new();
    io::stdin().lock().read_line(&mut text)?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Asks the registry; it may give a token in place of the password.
async fn verify(site: &Site, host: &str, account: &Account) -> Result<String, tonic::Status> {
    let request = LoginRequest {
        host: host.to_owned(),
        auth: Some(account.clone().into()),
    };
    let answer = site.registry().login(request).await?;
    Ok(answer.into_inner().identity_token)
}

async fn done(accounts: &mut Accounts, key: &str, mut account: Account, token: String) -> Outcome {
    if !token.is_empty() {
        account.password.clear();
        account.identity_token = token;
    }
    if accounts.set(key, &account).await? {
        eprintln!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\n\
             Configure a credential helper to remove this warning. See\n\
             https://docs.docker.com/go/credential-store/\n",
            accounts.file().path().display()
        );
    }
    output::print("Login Succeeded\n")?;
    Ok(0)
}

impl Logout {
    pub async fn run(self) -> Outcome {
        let (_, key) = place(self.server.as_deref());
        output::print(&format!("Removing login credentials for {key}\n"))?;
        Accounts::open()?.remove(&key).await?;
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_in_any_form() {
        for (server, host, key) in [
            (None, "docker.io", HUB),
            (Some("docker.io"), "docker.io", HUB),
            (Some(HUB), "docker.io", HUB),
            (Some("https://ghcr.io/"), "ghcr.io", "ghcr.io"),
            (Some("localhost:5001"), "localhost:5001", "localhost:5001"),
        ] {
            assert_eq!(
                place(server),
                (host.to_owned(), key.to_owned()),
                "{server:?}"
            );
        }
    }
}
