//! Who asks a git server over ssh: the keys of the caller's agent of the id `default`, as BuildKit has it
//! (client/llb/source.go). They stay with the caller; signatures come over the build's own call.

use std::time::Duration;

use russh::{
    client::{AuthResult, Handle},
    keys::{
        Algorithm, HashAlg,
        agent::{AgentIdentity, client::AgentClient},
    },
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::{SshUrl, doorman::Doorman};
use crate::caller::{Caller, LONGEST_AGENT_MESSAGE};

/// The agent's id.
pub const AGENT: &str = "default";
/// How long it may take: somebody may have to confirm it with a finger.
const PATIENCE: Duration = Duration::from_secs(300);

/// Whether there is an agent to ask. Errors are sentences.
pub fn is_there(caller: &Caller) -> Result<(), String> {
    match caller.has_agent(AGENT) {
        true => Ok(()),
        // BuildKit's sentence (source/git/source.go), and what to do.
        false => Err(format!(
            "no SSH key {AGENT:?} forwarded from the client: pass --ssh {AGENT} for those of your agent, or --ssh {AGENT}=FILE"
        )),
    }
}

/// Proves to a host who we are. Errors are sentences.
pub async fn authenticate(
    host: &mut Handle<Doorman>,
    url: &SshUrl,
    caller: &Caller,
) -> Result<(), String> {
    let (ours, theirs) = tokio::io::duplex(LONGEST_AGENT_MESSAGE);
    let answer = async {
        tokio::select! {
            done = offer_all(host, url, AgentClient::connect(ours)) => done,
            _ = serve(theirs, caller) => Err("the agent does not answer".to_owned()),
        }
    };
    let late = |_| format!("neither the agent nor {} answers", url.host);
    tokio::time::timeout(PATIENCE, answer).await.map_err(late)?
}

/// Offers one key after the other; only for one that the host would take is a signature asked for.
async fn offer_all(
    host: &mut Handle<Doorman>,
    url: &SshUrl,
    mut agent: AgentClient<DuplexStream>,
) -> Result<(), String> {
    let keys = agent.request_identities().await;
    let keys = keys.map_err(|e| format!("the agent does not tell its keys: {e}"))?;
    let mut rsa = None;
    for key in &keys {
        let hash = match (key.public_key().algorithm(), rsa) {
            (Algorithm::Rsa { .. }, None) => {
                let found = host
                    .best_supported_rsa_hash()
                    .await
                    .ok()
                    .flatten()
                    .flatten();
                // A host that does not say takes this one, unless it is older than RFC 8332.
                rsa = Some(found.unwrap_or(HashAlg::Sha256));
                rsa
            }
            (Algorithm::Rsa { .. }, known) => known,
            _ => None,
        };
        let user = url.user.as_str();
        let answer = match key {
            AgentIdentity::PublicKey { key, .. } => {
                let key = key.clone();
                host.authenticate_publickey_with(user, key, hash, &mut agent)
                    .await
            }
            AgentIdentity::Certificate { certificate, .. } => {
                let certificate = certificate.clone();
                host.authenticate_certificate_with(user, certificate, hash, &mut agent)
                    .await
            }
        };
        match answer {
            Ok(AuthResult::Success) => return Ok(()),
            // A key that the agent does not sign with may not be the only one.
            Ok(AuthResult::Failure { .. }) | Err(_) if !host.is_closed() => {}
            _ => {
                return Err(format!(
                    "{} hung up before it took a key: it may take few attempts only, offer it fewer keys ({} are in the agent)",
                    url.host,
                    keys.len()
                ));
            }
        }
    }
    Err(match keys.len() {
        0 => format!("the agent has no key: add one with ssh-add, or pass --ssh {AGENT}=FILE"),
        many => format!(
            "{} takes none of the agent's {many} key(s) for the user {}",
            url.host, url.user
        ),
    })
}

/// Passes messages on to the caller's agent.
async fn serve(mut stream: DuplexStream, caller: &Caller) -> std::io::Result<()> {
    loop {
        let length = stream.read_u32().await? as usize;
        if length > LONGEST_AGENT_MESSAGE {
            return Ok(());
        }
        let mut message = vec![0; length];
        stream.read_exact(&mut message).await?;
        let Some(answer) = caller.ask_agent(AGENT, message.into()).await else {
            return Ok(());
        };
        stream.write_u32(answer.len() as u32).await?;
        stream.write_all(&answer).await?;
    }
}
