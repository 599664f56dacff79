//! Keys of hosts on networks that are encrypted: of Curve25519, written as wg(8) writes them.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use curve25519_dalek::MontgomeryPoint;
use serde::{Deserialize, Serialize};

use crate::netlink::wireguard::Key;

/// What other hosts know a host by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(Key);

/// What no other host knows. It is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Key);

/// It is not the base64 of 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key has 44 characters of base64, as `ctl info` shows it")]
pub struct NotAKey;

fn decoded(text: &str) -> Result<Key, NotAKey> {
    let bytes = BASE64_STANDARD.decode(text).map_err(|_| NotAKey)?;
    bytes.try_into().map_err(|_| NotAKey)
}

impl PublicKey {
    /// Whether it keeps nothing secret: of low order (all zeros, say), it makes of any two keys the same that everybody
    /// can work out (RFC 7748, 6.1).
    pub fn is_weak(&self) -> bool {
        MontgomeryPoint(self.0).mul_clamped([0; 32]).to_bytes() == [0; 32]
    }

    /// Its bytes.
    pub fn bytes(&self) -> &Key {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        decoded(text).map(Self)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = NotAKey;

    fn try_from(text: String) -> Result<Self, NotAKey> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl PrivateKey {
    /// Of the kernel's random numbers.
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the kernel's random numbers do not fail after boot");
        // As the kernel keeps it (RFC 7748, 5).
        bytes[0] &= 0xf8;
        bytes[31] = bytes[31] & 0x7f | 0x40;
        Self(bytes)
    }

    /// The key that goes with it.
    pub fn public(&self) -> PublicKey {
        PublicKey(MontgomeryPoint::mul_base_clamped(self.0).to_bytes())
    }

    /// For the kernel.
    pub fn bytes(&self) -> &Key {
        &self.0
    }

    /// For its file.
    pub fn to_text(&self) -> String {
        BASE64_STANDARD.encode(self.0) + "\n"
    }

    /// From its file.
    pub fn from_text(text: &str) -> Result<Self, NotAKey> {
        decoded(text.trim_end()).map(Self)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 7748, 6.1.
    #[test]
    fn a_private_key_has_the_public_key_of_the_standard() {
        let key = |hex: &str| -> Key { hex::decode(hex).unwrap().try_into().unwrap() };
        for (private, public) in [
            (
                "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
                "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            ),
            (
                "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
                "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
            ),
        ] {
            assert_eq!(PrivateKey(key(private)).public().0, key(public));
        }
    }

    #[test]
    fn nothing_shows_a_private_key() {
        let key = PrivateKey::random();
        assert_ne!(key, PrivateKey::random());
        assert_eq!(
            format!("{key:?}"),
            format!("PrivateKey(of {})", key.public())
        );
        assert_eq!(PrivateKey::from_text(&key.to_text()), Ok(key));
    }

    #[test]
    fn keys_that_keep_nothing_secret_are_known() {
        assert!(!PrivateKey::random().public().is_weak());
        // Of orders 2, 4 and 8.
        let eight = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
        let eight = hex::decode(eight).unwrap().try_into().unwrap();
        let mut one = [0; 32];
        one[0] = 1;
        for key in [[0; 32], one, eight] {
            assert!(PublicKey(key).is_weak(), "{key:?}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "a", "AAAA", &"A".repeat(44), &"A".repeat(43)] {
            assert_eq!(text.parse::<PublicKey>(), Err(NotAKey), "{text}");
        }
        let key = "A".repeat(43) + "=";
        assert_eq!(key.parse::<PublicKey>().unwrap().to_string(), key);
    }

    proptest! {
        #[test]
        fn keys_are_read_as_they_are_written(bytes: Key) {
            let key = PublicKey(bytes);
            prop_assert_eq!(key.to_string().parse(), Ok(key));
            let text = serde_json::to_string(&key).unwrap();
            prop_assert_eq!(serde_json::from_str::<PublicKey>(&text).unwrap(), key);
        }
    }
}
