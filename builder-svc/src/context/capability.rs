//! File capabilities of what comes as an archive: the only extended attribute that BuildKit's layers have.

/// The attribute.
pub const NAME: &[u8] = b"security.capability";

/// The value of the attribute of a file, as the kernel takes it (capabilities(7), "File capability extended
/// attribute versioning"; `cap_convert_nscap` in security/commoncap.c).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability(Box<[u8]>);

impl Capability {
    /// Reads a value; none where setxattr(2) would refuse it.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (head, _) = value.split_first_chunk()?;
        // One flag besides the version: the capabilities are effective, too.
        let version = u32::from_le_bytes(*head) & !1;
        let known = [(0x0200_0000, 20), (0x0300_0000, 24)];
        known
            .contains(&(version, value.len()))
            .then(|| Self(value.into()))
    }

    /// As it was read.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As an attribute of a file in a layer.
    pub fn attribute(&self) -> (Vec<u8>, Vec<u8>) {
        (NAME.to_vec(), self.0.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_kernel_takes_is_one() {
        let of = |version: u8, flags: u8, length: usize| {
            let mut value = vec![0; length];
            (value[0], value[3]) = (flags, version);
            Capability::parse(&value).is_some()
        };
        assert!(of(2, 0, 20) && of(2, 1, 20) && of(3, 1, 24));
        for (version, flags, length) in [
            (1, 0, 12),
            (2, 0, 24),
            (2, 2, 20),
            (3, 0, 20),
            (3, 0, 25),
            (4, 0, 24),
            (2, 0, 60_000),
        ] {
            assert!(!of(version, flags, length), "{version} {flags} {length}");
        }
        assert!(Capability::parse(b"").is_none() && Capability::parse(b"xy").is_none());
    }
}
