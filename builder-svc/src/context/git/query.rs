//! The query of a git repository's URL (moby/buildkit, dfgitutil.GitRef.loadQuery: names and sentences).

use super::GitSource;

/// Reads a query into a source. Errors are sentences.
pub fn apply(source: &mut GitSource, query: &str) -> Result<(), String> {
    let (mut tag, mut branch) = (String::new(), String::new());
    let mut seen: Vec<String> = Vec::new();
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let (key, value) = (key.into_owned(), value.into_owned());
        if seen.contains(&key) {
            return Err(format!("query {key:?} has multiple values"));
        }
        let optional = matches!(key.as_str(), "submodules" | "keep-git-dir");
        if value.is_empty() && !optional {
            return Err(format!("query {key:?} has no value"));
        }
        match key.as_str() {
            "ref" => same("ref", &mut source.reference, value)?,
            "tag" => tag = value,
            "branch" => branch = value,
            "subdir" => same("subdir", &mut source.subfolder, value)?,
            "checksum" | "commit" => source.checksum = Some(value),
            "keep-git-dir" => source.keep_git_dir = Some(switch(&key, &value)?),
            "submodules" => source.skip_submodules = !switch(&key, &value)?,
            _ => return Err(format!("unexpected query {key:?}")),
        }
        seen.push(key);
    }
    if !tag.is_empty() && !branch.is_empty() {
        return Err("branch conflicts with tag".to_owned());
    }
    for (prefix, name) in [("refs/tags/", tag), ("refs/heads/", branch)] {
        if !name.is_empty() {
            let short = name.strip_prefix(prefix).unwrap_or(&name);
            same("ref", &mut source.reference, format!("{prefix}{short}"))?;
        }
    }
    Ok(())
}

fn same(what: &str, old: &mut String, new: String) -> Result<(), String> {
    if !old.is_empty() && *old != new {
        return Err(format!("{what} conflicts: {old:?} vs {new:?}"));
    }
    *old = new;
    Ok(())
}

/// Go's strconv.ParseBool; nothing is yes.
fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("invalid {key} value: {value:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_or_refused() {
        let of = |text: &str| GitSource::parse(text).map(Option::unwrap);
        let found = of("https://h/r.git?branch=a/b&subdir=%2Fx&keep-git-dir&submodules=0").unwrap();
        let expected = GitSource {
            remote: "https://h/r.git".to_owned(),
            ssh: None,
            reference: "refs/heads/a/b".to_owned(),
            subfolder: "x".to_owned(),
            checksum: None,
            keep_git_dir: Some(true),
            skip_submodules: true,
        };
        assert_eq!(found, expected);
        let found = of("https://h/r.git?tag=refs/tags/v1&commit=abcdef0&keep-git-dir=false");
        let found = found.unwrap();
        assert_eq!(found.reference, "refs/tags/v1");
        assert_eq!(found.checksum.as_deref(), Some("abcdef0"));
        assert_eq!(found.keep_git_dir, Some(false));
        for (bad, part) in [
            ("ref=a&ref=b", "query \"ref\" has multiple values"),
            ("ref=", "query \"ref\" has no value"),
            ("ref=b#a", "ref conflicts: \"a\" vs \"b\""),
            ("subdir=b#:a", "subdir conflicts"),
            ("tag=a&branch=b", "branch conflicts with tag"),
            ("submodules=x", "invalid submodules value: \"x\""),
            ("x=y", "unexpected query \"x\""),
            ("ref=--upload-pack", "invalid git reference"),
        ] {
            let error = of(&format!("https://h/r.git?{bad}")).unwrap_err();
            assert!(error.contains(part), "{bad}: {error}");
        }
    }
}
