//! Package URLs (package-url/purl-spec, PURL-SPECIFICATION.rst): names of packages of all kinds.

use slipway_image::{Platform, Reference};

/// A package URL. Empty qualifiers are left out; the others must come sorted.
pub fn purl(
    kind: &str,
    namespace: &str,
    name: &str,
    version: &str,
    qualifiers: &[(&str, &str)],
) -> String {
    let mut out = format!("pkg:{kind}/");
    for part in namespace.split('/').filter(|p| !p.is_empty()) {
        encode(part, ":", &mut out);
        out.push('/');
    }
    encode(name, "", &mut out);
    if !version.is_empty() {
        out.push('@');
        encode(version, ":", &mut out);
    }
    let mut mark = '?';
    for (key, value) in qualifiers.iter().filter(|(_, value)| !value.is_empty()) {
        out.push(mark);
        mark = '&';
        out.push_str(key);
        out.push('=');
        encode(value, "", &mut out);
    }
    out
}

/// An image's, as BuildKit writes them (util/purl/image.go).
pub fn of_image(image: &Reference, platform: Option<&Platform>) -> String {
    let name = image.familiar_name();
    let (namespace, name) = name.rsplit_once('/').unwrap_or(("", &name));
    let digest = image.digest().map(ToString::to_string).unwrap_or_default();
    let tag = match (image.tag(), digest.is_empty()) {
        (Some(tag), _) => tag,
        (None, true) => "latest",
        (None, false) => "",
    };
    let platform = platform.map(ToString::to_string).unwrap_or_default();
    let qualifiers = [("digest", &*digest), ("platform", &*platform)];
    purl("docker", namespace, name, tag, &qualifiers)
}

fn encode(text: &str, kept: &str, out: &mut String) {
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        match plain || kept.as_bytes().contains(&byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_as_buildkit_names_them() {
        let platform: Platform = "linux/amd64".parse().unwrap();
        let digest = format!("sha256:{}", "0".repeat(64));
        for (image, url) in [
            (
                "alpine",
                "pkg:docker/alpine@latest?platform=linux%2Famd64".to_owned(),
            ),
            (
                "ghcr.io/a/b:v1",
                "pkg:docker/ghcr.io/a/b@v1?platform=linux%2Famd64".to_owned(),
            ),
            (
                "localhost:5000/x",
                "pkg:docker/localhost:5000/x@latest?platform=linux%2Famd64".to_owned(),
            ),
            (
                &format!("alpine@{digest}"),
                format!(
                    "pkg:docker/alpine?digest=sha256%3A{}&platform=linux%2Famd64",
                    "0".repeat(64)
                ),
            ),
        ] {
            assert_eq!(of_image(&image.parse().unwrap(), Some(&platform)), url);
        }
    }

    #[test]
    fn other_bytes_are_encoded() {
        assert_eq!(
            purl("npm", "@a", "b c", "1+2", &[("x", ""), ("y", "1&2")]),
            "pkg:npm/%40a/b%20c@1%2B2?y=1%262"
        );
        assert_eq!(
            purl("deb", "debian", "g++", "4:12.2", &[]),
            "pkg:deb/debian/g%2B%2B@4:12.2"
        );
    }
}
