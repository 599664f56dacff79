//! Pages of the list of containers: as long as a message may be, whoever asks.

use std::sync::Arc;

use prost::Message as _;
use slipway_proto::{runtime::v1::ContainerSummary, types::v1::Page};

use super::view;
use crate::{container::state::Container, error::Error};

/// Bytes of one page. Labels may be long, and clients take no more than 4 MiB in a message.
const MOST: usize = 1 << 20;

/// A place in the list, which is newest first: behind this container.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    created: u64,
    id: String,
}

impl Place {
    fn of(container: &Container) -> Self {
        Self {
            created: container.created,
            id: container.id.clone(),
        }
    }

    fn token(&self) -> String {
        format!("{}.{}", self.created, self.id)
    }

    fn parse(token: &str) -> Result<Self, Error> {
        token
            .split_once('.')
            .and_then(|(created, id)| {
                Some(Self {
                    created: created.parse().ok()?,
                    id: id.to_owned(),
                })
            })
            .ok_or_else(|| Error::Invalid(format!("{token:?} is not a token of a page")))
    }
}

/// Leaves out what earlier pages had. A container that went meanwhile changes nothing for the others.
pub fn skip(containers: &mut Vec<Arc<Container>>, page: Option<&Page>) -> Result<(), Error> {
    match page.map(|page| page.token.as_str()) {
        None | Some("") => {}
        Some(token) => {
            let last = Place::parse(token)?;
            containers.retain(|c| Place::of(c) < last);
        }
    }
    Ok(())
}

/// The lines of one page, and the token of the next one, which is empty at the end.
pub fn page(containers: &[Arc<Container>], page: Option<&Page>) -> (Vec<ContainerSummary>, String) {
    let most = match page.map_or(0, |page| page.size) {
        0 => usize::MAX,
        size => size as usize,
    };
    let mut bytes = 0;
    let mut lines: Vec<ContainerSummary> = Vec::new();
    for container in containers {
        let line = view::summary(container);
        bytes += line.encoded_len();
        if !lines.is_empty() && (bytes > MOST || lines.len() == most) {
            break;
        }
        lines.push(line);
    }
    let next = match containers.get(lines.len()) {
        Some(_) => Place::of(&containers[lines.len() - 1]).token(),
        None => String::new(),
    };
    (lines, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_say_where_the_next_page_begins() {
        let place = Place {
            created: 7,
            id: "ab".to_owned(),
        };
        assert_eq!(Place::parse(&place.token()).unwrap(), place);
        let older = Place {
            created: 6,
            id: "ff".to_owned(),
        };
        assert!(older < place);
        for broken in ["x", "x.y", ".", "5"] {
            assert!(Place::parse(broken).is_err(), "{broken}");
        }
    }
}
