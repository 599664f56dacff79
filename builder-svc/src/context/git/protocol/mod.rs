//! git's protocol, version 2, over HTTP and over ssh: which commit a reference is, and a pack of that commit
//! alone.
//!
//! gitprotocol-v2(5), gitprotocol-http(5); `packets` the lines, `advertisement` the protocol before version 2,
//! which ssh servers speak that are not asked for another. No git program is run.

mod advertisement;
mod packets;

use std::{
    fs::File,
    io::{Seek as _, SeekFrom, Write as _},
    sync::Arc,
};

use reqwest::header::{self, HeaderValue};
use url::Url;

use super::{
    super::{ContentStore, Fetcher},
    GitSource, Id, auth,
    ssh::{Process, SshUrl},
};
use crate::{
    caller::Caller,
    error::{Error, Result, Tried as _},
};
use advertisement::Advertisement;
use packets::{Packet, Packets, Source, lines};

/// Most lines of an answer.
const MAX_LINES: usize = 1_000_000;

/// A repository that answered.
pub struct Repository<'a> {
    fetcher: &'a Fetcher,
    way: Way,
    version: Version,
    /// Where it is in truth, after redirects.
    base: String,
    /// For errors.
    shown: String,
    /// What it answers now.
    answer: Packets,
}

/// How it is reached.
enum Way {
    /// By a request a question, and who asks.
    Http(Option<HeaderValue>),
    /// By one connection.
    Ssh,
}

/// What it speaks.
enum Version {
    Two,
    Zero(Advertisement),
}

/// What a reference is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// A commit.
    pub commit: Id,
    /// The tag that is an object of its own and leads there.
    pub tag: Option<Id>,
    /// What HEAD leads to: `refs/heads/main`.
    name: Option<String>,
}

impl Resolved {
    /// References that a checkout of it has, by the reference as it was written: those that BuildKit's two
    /// fetches leave (moby/buildkit, source/git/source.go; get_local_ref in git's remote.c).
    pub fn references(&self, written: &str) -> Vec<(String, Id)> {
        let name = match (written, &self.name) {
            ("", Some(name)) => name.strip_prefix("refs/heads/").unwrap_or(name),
            (written, _) => written,
        };
        if name.is_empty() || Id::parse(name).is_some() || crate::context::manifest::bad_path(name)
        {
            return Vec::new();
        }
        if let Some(tag) = self.tag {
            let name = name.strip_prefix("refs/tags/").unwrap_or(name);
            return vec![(format!("refs/tags/{name}"), tag)];
        }
        let full = ["heads/", "tags/", "remotes/"]
            .iter()
            .any(|s| name.starts_with(s));
        let names = match name.starts_with("refs/") {
            true => vec![name.to_owned()],
            false if full => vec![format!("refs/{name}")],
            false => vec![format!("refs/heads/{name}"), format!("refs/tags/{name}")],
        };
        names.into_iter().map(|name| (name, self.commit)).collect()
    }
}

/// What a reference may be the short name of: git-checkout prefers branches where both are there.
fn names(reference: &str) -> Vec<String> {
    match reference {
        "" => vec!["HEAD".to_owned()],
        name => vec![
            format!("refs/heads/{name}"),
            format!("refs/tags/{name}"),
            name.to_owned(),
            format!("refs/{name}"),
        ],
    }
}

impl<'a> Repository<'a> {
    /// Asks a server whether it is one.
    pub async fn open(
        (fetcher, caller): (&'a Fetcher, &Caller),
        source: &GitSource,
    ) -> Result<Repository<'a>> {
        match &source.ssh {
            Some(url) => Self::open_ssh((fetcher, caller), source, url).await,
            None => {
                let who = auth::header(caller, &source.remote).await?;
                Self::open_http(fetcher, source, who).await
            }
        }
    }

    async fn open_http(
        fetcher: &'a Fetcher,
        source: &GitSource,
        who: Option<HeaderValue>,
    ) -> Result<Repository<'a>> {
        let remote = source.remote.trim_end_matches('/');
        let url = format!("{remote}/info/refs?service=git-upload-pack");
        let shown = source.shown();
        let response = fetcher
            .get_as(&url, &[("git-protocol", "version=2")], who.as_ref())
            .await?;
        let at = response.url().clone();
        let end = "/info/refs";
        let path = at.path().strip_suffix(end).map(str::to_owned);
        let mut base: Url = at;
        let Some(path) = path else {
            return Err(Error::Invalid(format!(
                "{shown}: the server leads to {base}, which is no repository"
            )));
        };
        base.set_path(&path);
        base.set_query(None);
        let mut answer = Packets::new(Source::Http(response), shown.clone());
        let mut is_new = false;
        // The advertisement ends with the answer: `# service`, a flush, the version and what it can do.
        for _ in 0..1000 {
            match answer.next().await? {
                Some(Packet::Data(line)) => is_new |= line.trim_ascii_end() == b"version 2",
                Some(_) => {}
                None => break,
            }
        }
        if !is_new {
            return Err(answer.fail("the server does not speak version 2 of git's protocol"));
        }
        // A server that leads elsewhere does not tell others who we are.
        let meant = Url::parse(&url).map(|url| url.origin());
        Ok(Self {
            fetcher,
            way: Way::Http(who.filter(|_| meant.is_ok_and(|meant| meant == base.origin()))),
            version: Version::Two,
            base: base.to_string(),
            shown,
            answer,
        })
    }

    async fn open_ssh(
        (fetcher, caller): (&'a Fetcher, &Caller),
        source: &GitSource,
        url: &SshUrl,
    ) -> Result<Repository<'a>> {
        let shown = source.shown();
        let place = (fetcher.limits(), fetcher.hosts());
        let process = Process::start(place, caller, url).await;
        let process =
            process.map_err(|why| Error::Invalid(format!("cannot fetch {shown}: {why}")))?;
        let mut answer = Packets::new(Source::Ssh(Box::new(process)), shown.clone());
        let mut old = Advertisement::new(&source.reference);
        let mut is_new = false;
        let mut left = MAX_LINES;
        loop {
            left -= 1;
            match answer.next().await? {
                None => return Err(answer.fail("the server has nothing to say of it")),
                Some(Packet::Flush) => break,
                Some(_) if left == 0 => return Err(answer.fail("its references are too many")),
                Some(Packet::Data(line)) if line.starts_with(b"ERR ") => {
                    return Err(told(&answer, &line[4..]));
                }
                Some(Packet::Data(line)) if line.trim_ascii_end() == b"version 2" => is_new = true,
                // What it can do.
                Some(_) if is_new => {}
                Some(Packet::Data(line)) => {
                    let read = old.read(&line);
                    read.ok_or_else(|| answer.fail("the server's list of references is broken"))?;
                }
                Some(Packet::Delimiter) => {}
            }
        }
        Ok(Self {
            fetcher,
            way: Way::Ssh,
            version: match is_new {
                true => Version::Two,
                false => Version::Zero(old),
            },
            base: source.remote.trim_end_matches('/').to_owned(),
            shown,
            answer,
        })
    }

    /// Where it is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Where its files go.
    pub fn store(&self) -> &Arc<ContentStore> {
        self.fetcher.store()
    }

    /// Asks; the answer is read from `answer`.
    async fn ask(&mut self, command: &str, arguments: &[String]) -> Result<()> {
        let mut body = lines(&[command]);
        body.extend(b"0001");
        body.extend(lines(arguments));
        body.extend(b"0000");
        let Way::Http(who) = &self.way else {
            return self.answer.ask(body).await;
        };
        let url = format!("{}/git-upload-pack", self.base);
        let request = self
            .fetcher
            .client()
            .post(&url)
            .header("git-protocol", "version=2")
            .header(
                header::CONTENT_TYPE,
                "application/x-git-upload-pack-request",
            )
            .header(header::ACCEPT, "application/x-git-upload-pack-result")
            .body(body);
        let request = match who {
            Some(who) => request.header(header::AUTHORIZATION, who),
            None => request,
        };
        let response = self.fetcher.send(&url, request).await?;
        if !response.status().is_success() {
            let why = format!("invalid response status {}", response.status());
            return Err(self.answer.fail(&why));
        }
        self.answer = Packets::new(Source::Http(response), self.shown.clone());
        Ok(())
    }

    /// The commit that the reference is that it was opened for, as far as the server tells.
    pub async fn resolve(&mut self, reference: &str) -> Result<Resolved> {
        if let Some(commit) = Id::parse(reference) {
            return Ok(Resolved {
                commit,
                tag: None,
                name: None,
            });
        }
        let found = match &self.version {
            Version::Two => self.look_for(names(reference)).await?,
            Version::Zero(advertisement) => advertisement.resolved(),
        };
        found.ok_or_else(|| {
            let name = if reference.is_empty() {
                "HEAD"
            } else {
                reference
            };
            let why = format!("repository does not contain ref {name}");
            self.answer.fail(&why)
        })
    }

    /// What the first of some names that is there is.
    async fn look_for(&mut self, wanted: Vec<String>) -> Result<Option<Resolved>> {
        let mut arguments = vec!["peel".to_owned(), "symrefs".to_owned()];
        arguments.extend(wanted.iter().map(|name| format!("ref-prefix {name}")));
        self.ask("command=ls-refs", &arguments).await?;
        let mut found: Vec<Option<Resolved>> = vec![None; wanted.len()];
        for _ in 0..MAX_LINES {
            let line = match self.answer.next().await? {
                Some(Packet::Data(line)) if line.starts_with(b"ERR ") => {
                    return Err(told(&self.answer, &line[4..]));
                }
                Some(Packet::Data(line)) => line,
                Some(Packet::Delimiter) => continue,
                Some(Packet::Flush) | None => break,
            };
            let text = String::from_utf8_lossy(&line).into_owned();
            let mut words = text.trim_end().split(' ');
            let (Some(id), Some(name)) = (words.next().and_then(Id::parse), words.next()) else {
                let why = "the server's list of references is broken";
                return Err(self.answer.fail(why));
            };
            let (mut peeled, mut target) = (None, None);
            for word in words {
                if let Some(word) = word.strip_prefix("peeled:") {
                    peeled = Id::parse(word);
                } else if let Some(word) = word.strip_prefix("symref-target:") {
                    target = Some(word.to_owned());
                }
            }
            if let Some(at) = wanted.iter().position(|w| w == name) {
                found[at] = Some(Resolved {
                    commit: peeled.unwrap_or(id),
                    tag: peeled.map(|_| id),
                    name: target,
                });
            }
        }
        Ok(found.into_iter().flatten().next())
    }

    /// A pack with a commit, if it can be had so without its history, in a file of no name.
    pub async fn pack(&mut self, commit: &Id) -> Result<File> {
        // What stands in front of it: which commits have no parents here.
        let begins: &[u8] = match &self.version {
            Version::Two => {
                let arguments = [
                    "no-progress".to_owned(),
                    "ofs-delta".to_owned(),
                    format!("want {commit}"),
                    "deepen 1".to_owned(),
                    "done".to_owned(),
                ];
                self.ask("command=fetch", &arguments).await?;
                b"packfile"
            }
            Version::Zero(advertisement) => {
                let question = advertisement.question(commit);
                let question = question.map_err(|why| self.answer.fail(&why))?;
                self.answer.ask(question).await?;
                b"NAK"
            }
        };
        let mut left = MAX_LINES;
        loop {
            left = self.count_down(left)?;
            match self.answer.next().await? {
                Some(Packet::Data(line)) if line.trim_ascii_end() == begins => break,
                Some(Packet::Data(line)) if line.starts_with(b"ERR ") => {
                    return Err(told(&self.answer, &line[4..]));
                }
                Some(_) => {}
                None => return Err(self.answer.fail("the server sent no pack")),
            }
        }
        self.bands().await
    }

    /// One packet less that is no content: those have no limit of bytes.
    fn count_down(&self, left: usize) -> Result<usize> {
        left.checked_sub(1)
            .ok_or_else(|| self.answer.fail("the server goes on without a pack"))
    }

    /// What comes in the first of the side bands, in a file of no name.
    async fn bands(&mut self) -> Result<File> {
        let what = || "cannot keep a pack".to_owned();
        let mut file = self.fetcher.store().unnamed().tried(what)?;
        let (mut size, mut left) = (0_u64, MAX_LINES);
        loop {
            let mut data = match self.answer.next().await? {
                Some(Packet::Data(data)) => data,
                Some(Packet::Delimiter) => {
                    left = self.count_down(left)?;
                    continue;
                }
                Some(Packet::Flush) => break,
                None => return Err(self.answer.fail("the server's pack is cut off")),
            };
            let band = data.split_to(1.min(data.len()));
            match &band[..] {
                [1] => {}
                [3] => return Err(told(&self.answer, &data)),
                // Progress, or nothing.
                _ => {
                    left = self.count_down(left)?;
                    continue;
                }
            }
            // A packet of no content is none that counts towards the bytes.
            if data.is_empty() {
                left = self.count_down(left)?;
            }
            size += data.len() as u64;
            if size > self.fetcher.most() {
                return Err(self.answer.fail(&format!(
                    "its pack has more than {} bytes (fetch_max_bytes in builder.toml)",
                    self.fetcher.most()
                )));
            }
            file.write_all(&data).tried(what)?;
        }
        file.seek(SeekFrom::Start(0)).tried(what)?;
        Ok(file)
    }
}

/// An error that a server tells.
fn told(answer: &Packets, why: &[u8]) -> Error {
    answer.fail(String::from_utf8_lossy(why).trim_end())
}
