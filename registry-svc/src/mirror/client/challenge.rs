//! `WWW-Authenticate`: what a registry asks for (RFC 9110, 11.6.1).

use http::{HeaderMap, header};

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Challenge {
    /// Name and password with every request.
    Basic,
    /// A token (distribution's token specification).
    Bearer {
        /// Where it is to be had.
        realm: String,
        /// For whom it is.
        service: Option<String>,
    },
}

impl Challenge {
    /// The one that an answer is best followed by; `None` when it asks for nothing that we know.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let lines = headers.get_all(header::WWW_AUTHENTICATE).into_iter();
        let lines = lines.filter_map(|line| line.to_str().ok());
        Self::best(lines.flat_map(read))
    }

    /// The same of one header.
    pub fn parse(header: &str) -> Option<Self> {
        Self::best(read(header).into_iter())
    }

    /// A token goes before name and password: it is worth less to whoever sees it.
    fn best(asked: impl Iterator<Item = Asked>) -> Option<Self> {
        let mut known: Vec<Self> = asked.filter_map(Self::known).collect();
        let bearer = known.iter().position(|c| matches!(c, Self::Bearer { .. }));
        (!known.is_empty()).then(|| known.swap_remove(bearer.unwrap_or(0)))
    }

    fn known(mut asked: Asked) -> Option<Self> {
        match asked.scheme.to_ascii_lowercase().as_str() {
            "basic" => Some(Self::Basic),
            "bearer" => Some(Self::Bearer {
                realm: asked.take("realm")?,
                service: asked.take("service"),
            }),
            _ => None,
        }
    }
}

/// A challenge of any scheme.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    scheme: String,
    /// Names and values, as they were meant.
    parameters: Vec<(String, String)>,
}

impl Asked {
    fn take(&mut self, wanted: &str) -> Option<String> {
        let named = |(name, _): &(String, String)| name.eq_ignore_ascii_case(wanted);
        let at = self.parameters.iter().position(named)?;
        Some(self.parameters.swap_remove(at).1)
    }
}

/// All challenges of a header, up to where it cannot be read.
fn read(header: &str) -> Vec<Asked> {
    let mut rest = Rest(header);
    let mut found = Vec::new();
    loop {
        rest.skip(" \t,");
        let Some(scheme) = rest.token() else {
            return found;
        };
        let mut parameters = Vec::new();
        // One piece of base 64 in place of parameters is of schemes that we do not know.
        if !rest.token68() {
            while let Some(parameter) = rest.parameter() {
                let Ok(parameter) = parameter else {
                    return found;
                };
                parameters.push(parameter);
            }
        }
        found.push(Asked {
            scheme: scheme.to_owned(),
            parameters,
        });
    }
}

/// A quoted value that does not end.
struct Endless;

/// What was not read yet.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip(&mut self, what: &str) {
        self.0 = self.0.trim_start_matches(|c| what.contains(c));
    }

    fn take_while(&mut self, ok: impl Fn(char) -> bool) -> Option<&'a str> {
        let end = self.0.find(|c| !ok(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        (!taken.is_empty()).then_some(taken)
    }

    /// RFC 9110, 5.6.2.
    fn token(&mut self) -> Option<&'a str> {
        self.take_while(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
    }

    /// Takes one if that is what comes, to the end of the challenge (RFC 9110, 11.2).
    fn token68(&mut self) -> bool {
        let mut after = Rest(self.0);
        after.skip(" \t");
        let begun = after.take_while(|c| c.is_ascii_alphanumeric() || "-._~+/".contains(c));
        after.skip("=");
        after.skip(" \t");
        let is_one = begun.is_some() && (after.0.is_empty() || after.0.starts_with(','));
        if is_one {
            self.0 = after.0;
        }
        is_one
    }

    /// The next parameter of the same challenge.
    fn parameter(&mut self) -> Option<Result<(String, String), Endless>> {
        let mut after = Rest(self.0);
        after.skip(" \t,");
        let name = after.token()?;
        after.skip(" \t");
        after.0 = after.0.strip_prefix('=')?;
        after.skip(" \t");
        let value = match after.0.strip_prefix('"') {
            Some(quoted) => {
                after.0 = quoted;
                after.quoted()
            }
            // Some write addresses without quotes, which are no tokens.
            None => Ok(after
                .take_while(|c| !" \t,".contains(c))
                .unwrap_or_default()
                .to_owned()),
        };
        self.0 = after.0;
        Some(value.map(|value| (name.to_owned(), value)))
    }

    /// The rest of a quoted string, whose characters may be escaped (RFC 9110, 5.6.4).
    fn quoted(&mut self) -> Result<String, Endless> {
        let (mut value, mut escaped) = (String::new(), false);
        for (at, c) in self.0.char_indices() {
            match c {
                _ if std::mem::take(&mut escaped) => value.push(c),
                '\\' => escaped = true,
                '"' => {
                    self.0 = &self.0[at + 1..];
                    return Ok(value);
                }
                _ => value.push(c),
            }
        }
        Err(Endless)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
        })
    }

    #[test]
    fn challenges_are_read() {
        let hub = "https://auth.docker.io/token";
        for (header, expected) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="a:b,c""#,
                bearer(hub, Some("registry.docker.io")),
            ),
            // A quote within a value ends nothing, and what follows is no parameter.
            (
                r#"Bearer realm="https://a/\"x\\y",scope="\",service=evil,\"",service=good"#,
                bearer("https://a/\"x\\y", Some("good")),
            ),
            // Spaces around, names in any case, empty elements.
            (
                "bearer , Realm = \"https://a\" ,, SERVICE\t=\tb",
                bearer("https://a", Some("b")),
            ),
            (
                "Bearer realm=https://a/token?x=y,service=b",
                bearer("https://a/token?x=y", Some("b")),
            ),
            // Several: whichever comes first, and between ones that nobody knows here.
            (
                r#"Basic realm="simple", Bearer realm="https://a",service="b""#,
                bearer("https://a", Some("b")),
            ),
            (
                r#"Negotiate oWo+/==, Bearer realm="https://a", Digest realm="no", service="no""#,
                bearer("https://a", None),
            ),
            (
                r#"Newauth realm="Bearer realm=\"https://evil\"", Basic realm="x""#,
                Some(Challenge::Basic),
            ),
            ("Bearer, Basic realm=\"x\"", Some(Challenge::Basic)),
            // What does not end takes away only itself.
            ("Basic realm=x, Bearer realm=\"htt", Some(Challenge::Basic)),
            ("Bearer realm=\"https://a\\\"", None),
            ("Negotiate", None),
            ("Bearer", None),
            ("", None),
            (",=\"", None),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }

    #[test]
    fn a_challenge_may_stand_in_a_line_of_its_own() {
        let mut headers = HeaderMap::new();
        for line in ["Basic realm=\"x\"", "Bearer realm=\"https://a\""] {
            headers.append(header::WWW_AUTHENTICATE, line.parse().unwrap());
        }
        assert_eq!(Challenge::of(&headers), bearer("https://a", None));
        assert_eq!(Challenge::of(&HeaderMap::new()), None);
    }

    prop_compose! {
        fn asked()(
            scheme in "[A-Za-z]{1,8}",
            parameters in prop::collection::vec(("[a-z_]{1,8}", "[ -~]{0,12}"), 0..4),
        ) -> Asked {
            Asked { scheme, parameters }
        }
    }

    proptest! {
        /// However values are quoted and however many challenges there are, what was written is what is read.
        #[test]
        fn what_is_written_is_read(all in prop::collection::vec(asked(), 0..4), space in "[ \t]{0,2}") {
            let quote = |value: &str| {
                let escape = |c| match c {
                    '"' | '\\' => format!("\\{c}"),
                    _ => c.to_string(),
                };
                format!("\"{}\"", value.chars().map(escape).collect::<String>())
            };
            let one = |asked: &Asked| {
                let parameters = asked.parameters.iter();
                let parameters = parameters.map(|(name, value)| {
                    format!("{name}{space}={space}{}", quote(value))
                });
                let parameters = parameters.collect::<Vec<_>>().join(&format!("{space},"));
                format!("{} {parameters}", asked.scheme)
            };
            let header = all.iter().map(one).collect::<Vec<_>>().join(",");
            prop_assert_eq!(read(&header), all);
        }

        #[test]
        fn nothing_makes_it_fall(header in "[ -~]{0,64}") {
            read(&header);
        }
    }
}
