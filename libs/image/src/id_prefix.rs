//! Finding by any unique prefix of an id, for containers and images alike.

/// Why a prefix finds nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// No id begins so.
    #[error("no id begins with {0:?}")]
    NotFound(String),
    /// Several ids begin so.
    #[error("{prefix:?} is the beginning of several ids: {}", candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// Up to five that begin so, shortened to 12 characters.
        candidates: Vec<String>,
    },
}

/// The only id that begins with `prefix`; an exact match wins over longer ones.
///
/// `ids` are what is compared (hex digits, without an algorithm in front).
pub fn resolve<'a>(
    prefix: &str,
    ids: impl IntoIterator<Item = &'a str>,
) -> Result<&'a str, PrefixError> {
    if prefix.is_empty() {
        return Err(PrefixError::NotFound(prefix.to_owned()));
    }
    let mut found: Vec<&str> = Vec::new();
    for id in ids {
        if id == prefix {
            return Ok(id);
        }
        if id.starts_with(prefix) {
            found.push(id);
        }
    }
    found.sort_unstable();
    found.dedup();
    match found[..] {
        [] => Err(PrefixError::NotFound(prefix.to_owned())),
        [id] => Ok(id),
        _ => Err(PrefixError::Ambiguous {
            prefix: prefix.to_owned(),
            candidates: found
                .iter()
                .take(5)
                .map(|id| id.chars().take(12).collect())
                .collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_finds_one_or_says_why_not() {
        let ids = ["abc1", "abc2", "abd", "ab"];
        assert_eq!(resolve("abd", ids), Ok("abd"));
        assert_eq!(resolve("ab", ids), Ok("ab"));
        assert!(matches!(
            resolve("abc", ids),
            Err(PrefixError::Ambiguous { .. })
        ));
        assert!(matches!(resolve("x", ids), Err(PrefixError::NotFound(_))));
        assert!(matches!(resolve("", ids), Err(PrefixError::NotFound(_))));
    }
}
