//! Where a build's contexts and its Dockerfile come from, as the command line says it.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use slipway_image::layer::tar_read::is_tar_header;

use super::loaded::SCHEME;
use crate::failure::{Failure, Outcome};

/// Bytes of a Dockerfile that are read: one that is too long is refused, not kept.
const MOST: u64 = slipway_dockerfile::MAX_SIZE as u64 + 1;

/// See the module's page.
#[derive(Default)]
pub struct Sources {
    /// Folders by the name of their context; "" is the main one.
    pub folders: Vec<Folder>,
    /// A tar stream that is the main context.
    pub stream: Option<Box<dyn Read + Send>>,
    /// Contexts that the builder fetches.
    pub remote: HashMap<String, String>,
    /// Named contexts that are images in OCI layouts, and what stands behind `oci-layout://`.
    pub layouts: Vec<(String, String)>,
    /// The Dockerfile.
    pub dockerfile: Dockerfile,
}

/// A context of this host.
pub struct Folder {
    pub name: String,
    pub root: PathBuf,
    /// Beside it there may be an ignore file of its own.
    pub dockerfile: Option<PathBuf>,
}

/// A Dockerfile, or where it is in the main context.
#[derive(Debug, Default)]
pub struct Dockerfile {
    pub content: Vec<u8>,
    pub name: String,
    pub in_context: bool,
}

impl Sources {
    /// Reads what the command line names: the context, `-f`, and each `--build-context`.
    pub fn of(path: &str, file: Option<&str>, named: &[String]) -> Outcome<Self> {
        let mut sources = match path {
            "-" => stdin(file)?,
            url if is_remote(url) => remote(url, file)?,
            path => folder(Path::new(path), file)?,
        };
        for word in named {
            sources.add(word)?;
        }
        Ok(sources)
    }

    /// `--build-context name=value`
    fn add(&mut self, word: &str) -> Outcome<()> {
        let Some((name, value)) = word
            .split_once('=')
            .filter(|(n, v)| !n.is_empty() && !v.is_empty())
        else {
            return Err(Failure::new(format!(
                "invalid context value: {word}, expected key=value"
            )));
        };
        let name = name.to_ascii_lowercase();
        let taken = self.remote.contains_key(&name)
            || self.folders.iter().any(|f| f.name == name)
            || self.layouts.iter().any(|(other, _)| *other == name);
        if taken {
            return Err(Failure::new(format!(
                "the build context {name:?} is given twice"
            )));
        }
        if value.starts_with("target:") {
            return Err(Failure::new(format!(
                "--build-context {word}: target is not supported: it is for docker buildx bake"
            )));
        }
        if let Some(layout) = value.strip_prefix(SCHEME) {
            self.layouts.push((name, layout.to_owned()));
            return Ok(());
        }
        if value.starts_with("docker-image://") || is_remote(value) {
            self.remote.insert(name, value.to_owned());
            return Ok(());
        }
        let root = PathBuf::from(value);
        if !root.is_dir() {
            return Err(Failure::new(format!(
                "failed to get build context {name}: {value:?} is not a directory"
            )));
        }
        self.folders.push(Folder {
            name,
            root: root.canonicalize()?,
            dockerfile: None,
        });
        Ok(())
    }
}

/// What docker takes for a context elsewhere (docker/buildx, IsRemoteURL): a URL, or a repository at
/// `user@host:path` where no folder has that name.
fn is_remote(text: &str) -> bool {
    let url = ["http://", "https://", "git://", "ssh://"];
    url.iter().any(|start| text.starts_with(start)) || is_scp(text) && !Path::new(text).is_dir()
}

/// What `--ssh` says; without it the agent where the context is a repository over ssh, which cannot be had without
/// (docker/buildx, commands/build.go).
pub fn agents(named: &[String], context: &str) -> Vec<String> {
    let over_ssh = is_remote(context) && (context.starts_with("ssh://") || is_scp(context));
    match named.is_empty() && over_ssh {
        true => vec!["default".to_owned()],
        false => named.to_vec(),
    }
}

/// BuildKit's pattern (util/sshutil/scpurl.go).
fn is_scp(text: &str) -> bool {
    let fits = |text: &str, more: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
        !text.is_empty() && text.chars().all(fits)
    };
    let login = text
        .split_once(':')
        .and_then(|(login, _)| login.split_once('@'));
    login.is_some_and(|(user, host)| fits(user, "-_") && fits(host, "-."))
}

fn all_of_stdin() -> Outcome<Vec<u8>> {
    let mut content = Vec::new();
    io::stdin().lock().take(MOST).read_to_end(&mut content)?;
    Ok(content)
}

/// docker tells a Dockerfile from a context by the first bytes.
fn stdin(file: Option<&str>) -> Outcome<Sources> {
    if file == Some("-") {
        return Err(Failure::new(
            "invalid argument: can't use stdin for both build context and dockerfile",
        ));
    }
    let mut start = Vec::new();
    let mut input = io::stdin();
    Read::by_ref(&mut input).take(512).read_to_end(&mut start)?;
    let mut sources = Sources::default();
    if is_archive(&start) {
        sources.stream = Some(Box::new(io::Cursor::new(start).chain(input)));
        sources.dockerfile = inside(file);
        return Ok(sources);
    }
    if file.is_some() {
        return Err(Failure::new(
            "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles",
        ));
    }
    input.take(MOST).read_to_end(&mut start)?;
    sources.dockerfile.content = start;
    "Dockerfile".clone_into(&mut sources.dockerfile.name);
    Ok(sources)
}

fn is_archive(start: &[u8]) -> bool {
    let magic: [&[u8]; 4] = [
        &[0x1f, 0x8b, 0x08],
        b"BZh",
        &[0xfd, b'7', b'z', b'X', b'Z', 0],
        &[0x28, 0xb5, 0x2f, 0xfd],
    ];
    magic.iter().any(|m| start.starts_with(m)) || start.try_into().is_ok_and(is_tar_header)
}

fn inside(file: Option<&str>) -> Dockerfile {
    Dockerfile {
        content: Vec::new(),
        name: file.unwrap_or("Dockerfile").to_owned(),
        in_context: true,
    }
}

fn remote(url: &str, file: Option<&str>) -> Outcome<Sources> {
    let mut sources = Sources::default();
    sources.remote.insert(String::new(), url.to_owned());
    sources.dockerfile = match file {
        Some("-") => Dockerfile {
            content: all_of_stdin()?,
            name: "Dockerfile".to_owned(),
            in_context: false,
        },
        file => inside(file),
    };
    Ok(sources)
}

fn folder(root: &Path, file: Option<&str>) -> Outcome<Sources> {
    if !root.is_dir() {
        return Err(Failure::new(format!(
            "unable to prepare context: path {:?} not found or not a directory",
            root.display().to_string()
        )));
    }
    let root = root.canonicalize()?;
    let mut dockerfile = Dockerfile {
        name: "Dockerfile".to_owned(),
        ..Dockerfile::default()
    };
    let mut place = None;
    if file == Some("-") {
        dockerfile.content = all_of_stdin()?;
    } else {
        let path = file.map_or_else(|| root.join("Dockerfile"), PathBuf::from);
        fs::File::open(&path)
            .and_then(|file| file.take(MOST).read_to_end(&mut dockerfile.content))
            .map_err(|e| {
                Failure::new(format!(
                    "failed to read dockerfile: open {}: {e}",
                    path.display()
                ))
            })?;
        let whole = std::path::absolute(&path)?;
        let shown = whole.strip_prefix(&root).unwrap_or(&path);
        dockerfile.name = shown.display().to_string();
        place = Some(whole);
    }
    Ok(Sources {
        folders: vec![Folder {
            name: String::new(),
            root,
            dockerfile: place,
        }],
        dockerfile,
        ..Sources::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockerfiles_are_told_from_archives() {
        assert!(!is_archive(b"FROM scratch\n"));
        assert!(!is_archive(&[b'#'; 512]));
        assert!(!is_archive(b""));
        assert!(is_archive(&[0x1f, 0x8b, 0x08, 0]));
        let mut block = [0; 512];
        block[0] = b'a';
        block[148..156].copy_from_slice(b"000541\0 ");
        assert!(is_archive(&block));
    }

    #[test]
    fn repositories_are_told_from_folders() {
        for text in [
            "git@h:a/b.git",
            "some_one@h.example:x#v1:sub",
            "ssh://h/x",
            "https://h/x",
        ] {
            assert!(is_remote(text), "{text}");
        }
        for text in [
            ".",
            "a/b@c:d",
            "h:x",
            "@h:x",
            "a@:x",
            "git@h",
            "git@h/x:y",
            "C:/x",
        ] {
            assert!(!is_remote(text), "{text}");
        }
        for text in ["git@h:a/b.git", "ssh://h/x#v1"] {
            assert_eq!(agents(&[], text), ["default"], "{text}");
            assert_eq!(agents(&["a=b".to_owned()], text), ["a=b"]);
        }
        assert!(agents(&[], "https://h/x.git").is_empty() && agents(&[], ".").is_empty());
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("git@h:x");
        fs::create_dir(&own).unwrap();
        assert!(!is_remote(own.to_str().unwrap()));
    }

    #[test]
    fn named_contexts_are_read_or_refused() {
        let mut sources = Sources::default();
        let folder = tempfile::tempdir().unwrap();
        sources.add("Base=docker-image://debian").unwrap();
        sources
            .add(&format!("files={}", folder.path().display()))
            .unwrap();
        assert_eq!(sources.remote["base"], "docker-image://debian");
        sources.add("Other=oci-layout://y:v1").unwrap();
        assert_eq!(sources.layouts, [("other".to_owned(), "y:v1".to_owned())]);
        for bad in [
            "x",
            "=x",
            "x=",
            "base=https://h/x",
            "other=docker-image://x",
            "x=target:y",
            "x=/nothing/here",
        ] {
            assert!(sources.add(bad).is_err(), "{bad}");
        }
    }
}
