//! A step as a message: what runs, what it sees, and what it asks of the caller's ssh agents.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use slipway_proto::runtime::v1 as pb;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::{
    error::Error,
    worker::{
        LARGEST_SECRET, Owner, Question, Sharing, Step, StepMount, StepSource, Wanted, Worker,
        caches,
    },
};

/// Translates.
pub fn step(worker: &Worker, request: pb::RunStepRequest) -> Result<Step, Error> {
    let mounts = request.mounts.into_iter().map(|m| mount(worker, m));
    Ok(Step {
        args: request.args,
        env: request.env,
        working_dir: request.working_dir,
        user: request.user,
        network: request.network,
        extra_hosts: request.extra_hosts,
        shm_size: request.shm_size,
        hostname: request.hostname,
        mounts: mounts.collect::<Result<_, _>>()?,
        insecure: request.insecure,
        ulimits: request.ulimits,
    })
}

fn mount(worker: &Worker, mount: pb::StepMount) -> Result<StepMount, Error> {
    let target = crate::container::mounts::clean_target(&mount.target)?;
    let snapshot = || match &*mount.snapshot_id {
        "" => Ok(None),
        id => worker.find(id).map(Some),
    };
    let owner = |usual: u32| Owner {
        uid: mount.uid,
        gid: mount.gid,
        mode: match mount.mode {
            0 => usual,
            mode => mode & 0o7777,
        },
    };
    let source = match &*mount.r#type {
        "bind" => StepSource::Bind {
            snapshot: snapshot()?.ok_or_else(|| {
                Error::Invalid("a bind mount of a step needs a snapshot".to_owned())
            })?,
            path: mount.source.clone(),
        },
        "cache" => StepSource::Cache {
            from: snapshot()?,
            path: mount.source.clone(),
            owner: Some(owner(0o755)),
            wanted: Wanted {
                id: mount.cache_id.clone(),
                base: mount.cache_base.clone(),
                sharing: match &*mount.sharing {
                    "" | "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    other => {
                        let sentence = format!("{other:?} is no sharing mode of a cache mount");
                        return Err(Error::Invalid(sentence));
                    }
                },
            },
        },
        "tmpfs" => StepSource::Tmpfs { size: mount.size },
        "secret" | "file" if mount.secret.len() > LARGEST_SECRET => {
            return Err(Error::Invalid(format!(
                "a secret has {} bytes: the most is {LARGEST_SECRET}",
                mount.secret.len()
            )));
        }
        "secret" | "file" => StepSource::Secret {
            program: mount.r#type == "file",
            data: Zeroizing::new(mount.secret.to_vec()),
            owner: owner(0o400),
        },
        "ssh" => StepSource::Ssh {
            name: mount.agent.clone(),
            owner: owner(0o600),
        },
        other => {
            let sentence = format!("{other:?} is no type of a step's mount");
            return Err(Error::Invalid(sentence));
        }
    };
    Ok(StepMount {
        target,
        read_only: mount.read_only,
        source,
    })
}

/// A cache as a message.
pub fn cache(told: caches::Told) -> pb::CacheMount {
    pb::CacheMount {
        name: told.name,
        id: told.record.id,
        base: told.record.base,
        size: told.record.bytes,
        created: Some(caches::time(told.record.created).into()),
        last_used: Some(caches::time(told.record.last_used).into()),
        use_count: told.record.uses,
        in_use: told.in_use,
    }
}

/// Questions to agents that wait for their answers, by snapshot and number.
#[derive(Debug, Clone, Default)]
pub struct Questions(Arc<Mutex<Waiting>>);

type Waiting = HashMap<(String, u64), oneshot::Sender<Vec<u8>>>;

/// Those of one step; what is unanswered goes with it.
#[derive(Debug)]
pub struct Asked {
    questions: Questions,
    snapshot: String,
    next: u64,
}

impl Questions {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a step in this snapshot.
    pub fn of(&self, snapshot: &str) -> Asked {
        Asked {
            questions: self.clone(),
            snapshot: snapshot.to_owned(),
            next: 1,
        }
    }

    /// Takes an answer in; one that nobody waits for is dropped.
    pub fn answer(&self, answer: pb::AnswerAgentRequest) {
        let waiting = self.lock().remove(&(answer.snapshot_id, answer.number));
        if let Some(waiting) = waiting {
            // The connection may be gone.
            let _ = waiting.send(answer.message.to_vec());
        }
    }
}

impl Asked {
    /// A question as the caller is told it.
    pub fn event(&mut self, question: Question) -> pb::RunStepEvent {
        let number = self.next;
        self.next += 1;
        let mut waiting = self.questions.lock();
        // Who asked and went away waits no more.
        waiting.retain(|_, answer| !answer.is_closed());
        waiting.insert((self.snapshot.clone(), number), question.answer);
        drop(waiting);
        let event = pb::AgentQuestion {
            number,
            agent: question.agent,
            message: question.message.into(),
        };
        pb::RunStepEvent {
            event: Some(pb::run_step_event::Event::Agent(event)),
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let snapshot = std::mem::take(&mut self.snapshot);
        self.questions.lock().retain(|(of, _), _| *of != snapshot);
    }
}
