//! Paths of the Distribution API, parsed once.

/// What a path means. Names are as they were sent, not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`
    Base,
    /// `/token`
    Token,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/<name>/tags/list`
    Tags(String),
    /// `/v2/<name>/manifests/<reference>`
    Manifest(String, String),
    /// `/v2/<name>/blobs/<digest>`
    Blob(String, String),
    /// `/v2/<name>/blobs/uploads/`
    Uploads(String),
    /// `/v2/<name>/blobs/uploads/<id>`
    Upload(String, String),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(String, String),
}

impl Route {
    /// Parses a path; `None` when it is none of ours.
    pub fn parse(path: &str) -> Option<Self> {
        let decoded;
        let path = if path.contains('%') {
            decoded = percent_decode(path)?;
            &decoded
        } else {
            path
        };
        if path == "/token" {
            return Some(Self::Token);
        }
        let rest = path.strip_prefix("/v2")?;
        if rest.is_empty() || rest == "/" {
            return Some(Self::Base);
        }
        let rest = rest.strip_prefix('/')?;
        if rest.trim_end_matches('/') == "_catalog" {
            return Some(Self::Catalog);
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Some(Self::Tags(name.to_owned()));
        }
        // From the right: a name may have a component "blobs" or "manifests".
        let rest = rest.strip_suffix('/').map_or(rest, |r| {
            if r.ends_with("/blobs/uploads") {
                rest
            } else {
                r
            }
        });
        let (head, last) = rest.rsplit_once('/')?;
        if let Some(name) = head.strip_suffix("/blobs/uploads") {
            return Some(match last {
                "" => Self::Uploads(name.to_owned()),
                id => Self::Upload(name.to_owned(), id.to_owned()),
            });
        }
        if let Some(name) = head.strip_suffix("/blobs") {
            return Some(match last {
                "uploads" => Self::Uploads(name.to_owned()),
                digest => Self::Blob(name.to_owned(), digest.to_owned()),
            });
        }
        if let Some(name) = head.strip_suffix("/manifests") {
            return Some(Self::Manifest(name.to_owned(), last.to_owned()));
        }
        let name = head.strip_suffix("/referrers")?;
        Some(Self::Referrers(name.to_owned(), last.to_owned()))
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |b: u8| char::from(b).to_digit(16);
                bytes.push((digit(*high)? * 16 + digit(*low)?) as u8);
                rest = tail;
            }
            (b'%', _) => return None,
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

/// Parameters of a query.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses what stands behind `?`.
    pub fn parse(text: Option<&str>) -> Self {
        Self(
            url::form_urlencoded::parse(text.unwrap_or_default().as_bytes())
                .into_owned()
                .collect(),
        )
    }

    /// The first value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of a parameter.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |(key, _)| key == name);
        named.map(|(_, value)| value.as_str())
    }

    /// Takes a parameter out.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(key, _)| key != name);
    }
}

/// A repository as the client wrote it, for `Location`: by that he finds it again.
pub struct Written {
    name: String,
    ns: Option<String>,
}

impl Written {
    /// As it stands in the path, and perhaps in the query.
    pub fn new(name: &str, query: &Query) -> Self {
        Self {
            name: name.to_owned(),
            ns: query.get("ns").map(ToOwned::to_owned),
        }
    }

    /// Where something in it is.
    pub fn place(&self, rest: &str) -> String {
        let place = format!("/v2/{}/{rest}", self.name);
        let Some(ns) = &self.ns else { return place };
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        format!("{place}?{}", query.append_pair("ns", ns).finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_in_the_repository_that_was_asked_for() {
        let place = |query: &str| {
            let query = Query::parse(Some(query));
            Written::new("org/app", &query).place("blobs/x")
        };
        assert_eq!(place("digest=y"), "/v2/org/app/blobs/x");
        assert_eq!(place("digest=y&ns=h:1"), "/v2/org/app/blobs/x?ns=h%3A1");
    }

    #[test]
    fn paths_are_parsed_from_the_right() {
        let s = str::to_owned;
        for (path, route) in [
            ("/v2", Some(Route::Base)),
            ("/v2/", Some(Route::Base)),
            ("/v2/_catalog", Some(Route::Catalog)),
            ("/v2/a/b/tags/list", Some(Route::Tags(s("a/b")))),
            (
                "/v2/a/manifests/latest",
                Some(Route::Manifest(s("a"), s("latest"))),
            ),
            (
                "/v2/a/blobs/blobs/sha256%3Aaa",
                Some(Route::Blob(s("a/blobs"), s("sha256:aa"))),
            ),
            ("/v2/a/blobs/uploads/", Some(Route::Uploads(s("a")))),
            ("/v2/a/blobs/uploads", Some(Route::Uploads(s("a")))),
            ("/v2/a/blobs/uploads/x", Some(Route::Upload(s("a"), s("x")))),
            (
                "/v2/h:1/a/referrers/sha256:b",
                Some(Route::Referrers(s("h:1/a"), s("sha256:b"))),
            ),
            ("/token", Some(Route::Token)),
            ("/token/", None),
            ("/", None),
            ("/v1/", None),
            ("/v2x", None),
            ("/v2/a", None),
            ("/v2/a/%zz/b", None),
        ] {
            assert_eq!(Route::parse(path), route, "{path}");
        }
    }
}
