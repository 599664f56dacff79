//! The fields of a `--mount`: CSV.

/// One record of CSV, as Go's encoding/csv reads it.
pub(super) fn fields(text: &str) -> Result<Vec<String>, String> {
    let fail = |why: &str| Err(format!("failed to parse csv mounts: {why}"));
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, end) = match rest.strip_prefix('"') {
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                if rest[..end].contains('"') {
                    return fail("bare \" in non-quoted field");
                }
                (rest[..end].to_owned(), end)
            }
            Some(inside) => {
                let mut field = String::new();
                let mut from = 0;
                loop {
                    let Some(at) = inside[from..].find('"') else {
                        return fail("extraneous or missing \" in quoted-field");
                    };
                    field.push_str(&inside[from..from + at]);
                    from += at + 1;
                    if inside[from..].starts_with('"') {
                        field.push('"');
                        from += 1;
                        continue;
                    }
                    break;
                }
                if !matches!(inside[from..].chars().next(), None | Some(',')) {
                    return fail("extraneous or missing \" in quoted-field");
                }
                (field, from + 1)
            }
        };
        fields.push(field);
        match rest[end..].strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok(fields),
        }
    }
}
