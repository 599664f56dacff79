//! `--output`, `--push` and `--load`: what is asked of the builder, and where what it streams goes.
//!
//! The grammar and its sentences are buildx' (util/buildflags/export.go, build/opt.go).

use std::{collections::HashMap, path::PathBuf};

use slipway_proto::builder::v1 as pb;

use crate::{
    failure::{Failure, Outcome},
    spec::mount::fields,
};

/// Where a streamed output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Into a file.
    File(PathBuf),
    /// To our standard output.
    Stdout,
    /// Unpacked below a folder.
    Folder(PathBuf),
}

/// One output.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub asked: pb::Output,
    /// None = nothing is streamed.
    pub place: Option<Place>,
}

/// All outputs of a command line; `terminal`: standard output is one.
pub fn outputs(words: &[String], push: bool, load: bool, terminal: bool) -> Outcome<Vec<Output>> {
    let mut outputs = words
        .iter()
        .map(|word| output(word, terminal))
        .collect::<Outcome<Vec<_>>>()?;
    let image = |outputs: &[Output]| {
        let at = outputs.iter().position(|o| o.asked.r#type == "image");
        at.unwrap_or(outputs.len())
    };
    for (wanted, attribute) in [(push, Some("push")), (load, None)] {
        if !wanted {
            continue;
        }
        let at = image(&outputs);
        if at == outputs.len() {
            outputs.push(Output {
                asked: pb::Output {
                    r#type: "image".to_owned(),
                    ..pb::Output::default()
                },
                place: None,
            });
        }
        if let Some(name) = attribute {
            let attributes = &mut outputs[at].asked.attributes;
            attributes.insert(name.to_owned(), "true".to_owned());
        }
    }
    let stdout = outputs.iter().filter(|o| o.place == Some(Place::Stdout));
    if stdout.count() > 1 {
        return Err(Failure::new("only one output can go to standard output"));
    }
    Ok(outputs)
}

fn output(word: &str, terminal: bool) -> Outcome<Output> {
    let mut attributes = HashMap::new();
    let mut kind = String::new();
    let mut dest = None;
    let parts = fields(word)?;
    if let [only] = &parts[..]
        && *only == word
        && !word.starts_with("type=")
    {
        kind = if word == "-" { "tar" } else { "local" }.to_owned();
        dest = Some(word.to_owned());
    } else {
        for part in parts {
            match part.split_once('=') {
                None => {
                    return Err(Failure::new(format!(
                        "invalid value {part:?} of --output: write KEY=VALUE"
                    )));
                }
                Some((key, value)) => match &*key.trim().to_lowercase() {
                    "type" => value.clone_into(&mut kind),
                    "dest" => dest = Some(value.to_owned()),
                    // The case of an annotation's key is its own.
                    _ => drop(attributes.insert(key.trim().to_owned(), value.to_owned())),
                },
            }
        }
    }
    if kind.is_empty() {
        return Err(Failure::new("type is required for output"));
    }
    let unpacked = matches!(
        attributes.get("tar").map(String::as_str),
        Some("false" | "0" | "f" | "F" | "False" | "FALSE")
    );
    let place = match (&*kind, unpacked) {
        // Into the image store, which is what `docker load` would do with it.
        ("docker", false) if dest.is_none() => {
            kind = "image".to_owned();
            None
        }
        ("local", _) | ("oci" | "docker", true) => match dest.as_deref() {
            None | Some("") => {
                return Err(Failure::new(format!("dest is required for {kind} output")));
            }
            Some("-") => {
                return Err(Failure::new(format!(
                    "dest cannot be stdout for {kind} output"
                )));
            }
            Some(path) => Some(Place::Folder(path.into())),
        },
        ("tar" | "oci" | "docker", _) => match dest.as_deref() {
            None | Some("" | "-") if terminal => {
                return Err(Failure::new(format!(
                    "dest file is required for {kind} exporter. refusing to write to console"
                )));
            }
            None | Some("" | "-") => Some(Place::Stdout),
            Some(path) if std::path::Path::new(path).is_dir() => {
                return Err(Failure::new(format!(
                    "destination directory {path} is not a file"
                )));
            }
            Some(path) => Some(Place::File(path.into())),
        },
        _ if dest.is_some() => {
            return Err(Failure::new(format!(
                "dest is not supported for an output of type {kind}"
            )));
        }
        _ => None,
    };
    Ok(Output {
        asked: pb::Output {
            r#type: kind,
            attributes,
        },
        place,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(word: &str) -> Result<(String, Option<Place>), String> {
        let made = outputs(&[word.to_owned()], false, false, false).map_err(|_| String::new())?;
        let one = made.into_iter().next().unwrap();
        Ok((one.asked.r#type, one.place))
    }

    #[test]
    fn buildx_grammar() {
        let is = |word: &str, kind: &str, place| {
            assert_eq!(one(word).unwrap(), (kind.to_owned(), place), "{word}");
        };
        is("out", "local", Some(Place::Folder("out".into())));
        is("-", "tar", Some(Place::Stdout));
        is(
            "type=tar,dest=a.tar",
            "tar",
            Some(Place::File("a.tar".into())),
        );
        is("type=oci", "oci", Some(Place::Stdout));
        is(
            "type=oci,dest=x,tar=false",
            "oci",
            Some(Place::Folder("x".into())),
        );
        is("type=docker", "image", None);
        is("type=docker,dest=-", "docker", Some(Place::Stdout));
        is("type=image,name=a,push=true", "image", None);
        for wrong in [
            "type=local",
            "type=local,dest=-",
            "dest=x,name=y",
            "type=oci,x",
            "type=image,dest=x",
            "type=tar,dest=/",
        ] {
            assert!(one(wrong).is_err(), "{wrong}");
        }
        let tty = outputs(&["type=oci".to_owned()], false, false, true);
        assert!(tty.is_err());
    }

    #[test]
    fn push_and_load_are_images() {
        let all = |words: &[&str], push, load| {
            let words: Vec<_> = words.iter().map(|w| (*w).to_owned()).collect();
            let made = outputs(&words, push, load, false).unwrap();
            let say = |o: &Output| {
                let pushed = o.asked.attributes.contains_key("push");
                format!("{}{}", o.asked.r#type, if pushed { "+" } else { "" })
            };
            made.iter().map(say).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(all(&[], true, false), "image+");
        assert_eq!(all(&[], false, true), "image");
        assert_eq!(all(&["out"], true, true), "local image+");
        assert_eq!(all(&["type=image,name=x"], true, false), "image+");
        assert_eq!(
            all(&["type=image,name=x", "out"], false, true),
            "image local"
        );
    }
}
