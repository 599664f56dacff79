//! git's protocol, version 2, over HTTP: which commit a reference is, and a pack of that commit alone.
//!
//! gitprotocol-v2(5), gitprotocol-http(5), gitprotocol-common(5) for pkt-lines. No git program is run.

use std::{
    fs::File,
    io::{Seek as _, SeekFrom, Write as _},
    sync::Arc,
};

use bytes::{Buf as _, Bytes, BytesMut};
use reqwest::{
    Response,
    header::{self, HeaderValue},
};
use url::Url;

use super::{
    super::{ContentStore, Fetcher},
    GitSource, Id,
};
use crate::error::{Error, Result, Tried as _};

/// Longest line of answers that are text: an advertisement of references is many lines.
const MAX_LINE: usize = 65_520;
/// Most lines of an answer.
const MAX_LINES: usize = 1_000_000;

/// A repository that answered.
pub struct Repository<'a> {
    fetcher: &'a Fetcher,
    /// Who asks.
    who: Option<HeaderValue>,
    /// Where it is in truth, after redirects.
    base: String,
    /// For errors.
    shown: String,
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

/// A packet of a stream.
enum Packet {
    /// Content.
    Data(Bytes),
    /// The end of all.
    Flush,
    /// The end of a section.
    Delimiter,
}

impl<'a> Repository<'a> {
    /// Asks a server whether it is one.
    pub async fn open(
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
        // A server that leads elsewhere does not tell others who we are.
        let meant = Url::parse(&url).map(|url| url.origin());
        let repository = Self {
            fetcher,
            who: who.filter(|_| meant.is_ok_and(|meant| meant == base.origin())),
            base: base.to_string(),
            shown,
        };
        let mut stream = Packets::new(response, repository.shown.clone());
        let mut is_new = false;
        // The advertisement ends with the answer: `# service`, a flush, the version and what it can do.
        for _ in 0..1000 {
            match stream.next().await? {
                Some(Packet::Data(line)) => is_new |= line.trim_ascii_end() == b"version 2",
                Some(_) => {}
                None => break,
            }
        }
        match is_new {
            true => Ok(repository),
            false => Err(repository.fail("the server does not speak version 2 of git's protocol")),
        }
    }

    /// Where it is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Where its files go.
    pub fn store(&self) -> &Arc<ContentStore> {
        self.fetcher.store()
    }

    fn fail(&self, why: &str) -> Error {
        Error::Invalid(format!("cannot fetch {}: {why}", self.shown))
    }

    async fn ask(&self, lines: &[&str], arguments: &[String]) -> Result<Packets> {
        let mut body = Vec::new();
        let mut packet = |text: &str| {
            body.extend(format!("{:04x}{text}\n", text.len() + 5).into_bytes());
        };
        lines.iter().for_each(|line| packet(line));
        body.extend(b"0001");
        let mut packet = |text: &str| {
            body.extend(format!("{:04x}{text}\n", text.len() + 5).into_bytes());
        };
        arguments.iter().for_each(|line| packet(line));
        body.extend(b"0000");
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
        let request = match &self.who {
            Some(who) => request.header(header::AUTHORIZATION, who),
            None => request,
        };
        let response = self.fetcher.send(&url, request).await?;
        if !response.status().is_success() {
            return Err(self.fail(&format!("invalid response status {}", response.status())));
        }
        Ok(Packets::new(response, self.shown.clone()))
    }

    /// The commit that a reference is, as far as the server tells.
    pub async fn resolve(&self, reference: &str) -> Result<Resolved> {
        if let Some(commit) = Id::parse(reference) {
            return Ok(Resolved {
                commit,
                tag: None,
                name: None,
            });
        }
        let wanted = match reference {
            "" => vec!["HEAD".to_owned()],
            // git-checkout prefers branches where both are there.
            name => vec![
                format!("refs/heads/{name}"),
                format!("refs/tags/{name}"),
                name.to_owned(),
                format!("refs/{name}"),
            ],
        };
        let mut arguments = vec!["peel".to_owned(), "symrefs".to_owned()];
        arguments.extend(wanted.iter().map(|name| format!("ref-prefix {name}")));
        let mut answer = self.ask(&["command=ls-refs"], &arguments).await?;
        let mut found: Vec<Option<Resolved>> = vec![None; wanted.len()];
        for _ in 0..MAX_LINES {
            let line = match answer.next().await? {
                Some(Packet::Data(line)) => line,
                Some(Packet::Delimiter) => continue,
                Some(Packet::Flush) | None => break,
            };
            let text = String::from_utf8_lossy(&line).into_owned();
            let mut words = text.trim_end().split(' ');
            let (Some(id), Some(name)) = (words.next().and_then(Id::parse), words.next()) else {
                return Err(self.fail("the server's list of references is broken"));
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
        found.into_iter().flatten().next().ok_or_else(|| {
            let name = if reference.is_empty() {
                "HEAD"
            } else {
                reference
            };
            self.fail(&format!("repository does not contain ref {name}"))
        })
    }

    /// The pack of a commit without its history, in a file of no name.
    pub async fn pack(&self, commit: &Id) -> Result<File> {
        let arguments = [
            "no-progress".to_owned(),
            "ofs-delta".to_owned(),
            format!("want {commit}"),
            "deepen 1".to_owned(),
            "done".to_owned(),
        ];
        let mut answer = self.ask(&["command=fetch"], &arguments).await?;
        loop {
            match answer.next().await? {
                Some(Packet::Data(line)) if line.trim_ascii_end() == b"packfile" => break,
                Some(Packet::Data(line)) if line.starts_with(b"ERR ") => {
                    let why = String::from_utf8_lossy(&line[4..]).trim_end().to_owned();
                    return Err(self.fail(&why));
                }
                // Sections in front of it: which commits have no parents here.
                Some(_) => {}
                None => return Err(self.fail("the server sent no pack")),
            }
        }
        let what = || "cannot keep a pack".to_owned();
        let mut file = self.fetcher.store().unnamed().tried(what)?;
        let mut size = 0_u64;
        loop {
            let mut data = match answer.next().await? {
                Some(Packet::Data(data)) => data,
                Some(Packet::Delimiter) => continue,
                Some(Packet::Flush) => break,
                None => return Err(self.fail("the server's pack is cut off")),
            };
            let band = data.split_to(1.min(data.len()));
            match &band[..] {
                [1] => {}
                [3] => {
                    let why = String::from_utf8_lossy(&data).trim_end().to_owned();
                    return Err(self.fail(&why));
                }
                // Progress.
                _ => continue,
            }
            size += data.len() as u64;
            if size > self.fetcher.most() {
                return Err(self.fail(&format!(
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

/// The packets of an answer.
struct Packets {
    response: Response,
    buffer: BytesMut,
    shown: String,
}

impl Packets {
    fn new(response: Response, shown: String) -> Self {
        Self {
            response,
            buffer: BytesMut::new(),
            shown,
        }
    }

    /// Waits until so many bytes are there; false at the end of the answer.
    async fn fill(&mut self, bytes: usize) -> Result<bool> {
        while self.buffer.len() < bytes {
            let chunk = self.response.chunk().await;
            let chunk =
                chunk.map_err(|e| Error::Invalid(format!("cannot fetch {}: {e}", self.shown)))?;
            match chunk {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    async fn next(&mut self) -> Result<Option<Packet>> {
        let broken = |shown: &str| {
            Error::Invalid(format!(
                "cannot fetch {shown}: the server does not speak git's protocol"
            ))
        };
        if !self.fill(4).await? {
            return match self.buffer.is_empty() {
                true => Ok(None),
                false => Err(broken(&self.shown)),
            };
        }
        let length = std::str::from_utf8(&self.buffer[..4])
            .ok()
            .and_then(|digits| usize::from_str_radix(digits, 16).ok())
            .filter(|length| *length <= MAX_LINE)
            .ok_or_else(|| broken(&self.shown))?;
        self.buffer.advance(4);
        match length {
            0 => Ok(Some(Packet::Flush)),
            1 => Ok(Some(Packet::Delimiter)),
            // The end of an answer over a connection that goes on, which HTTP's does not.
            2 => Ok(Some(Packet::Flush)),
            3 => Err(broken(&self.shown)),
            length => {
                if !self.fill(length - 4).await? {
                    return Err(broken(&self.shown));
                }
                Ok(Some(Packet::Data(
                    self.buffer.split_to(length - 4).freeze(),
                )))
            }
        }
    }
}
