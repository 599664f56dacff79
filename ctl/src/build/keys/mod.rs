//! Keys from files as an ssh agent has them (`--ssh default=FILE`): what is in them stays in this program, and a
//! step gets the list of public keys and signatures (draft-ietf-sshm-ssh-agent; golang.org/x/crypto/ssh/agent,
//! keyring.go, which BuildKit uses).

mod format;
mod wire;

use std::path::Path;

use ring::{
    rand::SystemRandom,
    rsa,
    signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512},
};
use zeroize::Zeroizing;

use wire::{Reader, Writer};

/// Most bytes of a file that are read (BuildKit, sshprovider/agentprovider.go).
const LARGEST: u64 = 100 << 10;

/// Messages of the protocol.
const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
/// Which hash an RSA key signs with.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

/// An agent of a few keys.
#[derive(Debug, Default)]
pub struct Keys(Vec<Key>);

/// A key that can sign.
pub struct Key {
    /// The public key as it is sent.
    blob: Vec<u8>,
    secret: Secret,
}

enum Secret {
    Ed25519(Ed25519KeyPair),
    /// With the name of its curve: `nistp256`.
    Ecdsa(&'static str, EcdsaKeyPair),
    Rsa(Box<rsa::KeyPair>),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[key]")
    }
}

impl Keys {
    /// Reads a file and adds its key. Errors are sentences.
    pub fn add(&mut self, path: &Path) -> Result<(), String> {
        use std::io::Read as _;
        let mut text = Zeroizing::new(Vec::new());
        std::fs::File::open(path)
            .and_then(|file| file.take(LARGEST).read_to_end(&mut text))
            .map_err(|e| format!("failed to read {}: {e}", path.display()))?;
        let secret = format::parse(&text)
            .map_err(|why| format!("failed to parse {}: {why}", path.display()))?;
        self.0.push(Key::new(secret));
        Ok(())
    }

    /// The answer to a message of the agent protocol.
    pub fn answer(&self, message: &[u8]) -> Vec<u8> {
        let answer = match message.split_first() {
            Some((&REQUEST_IDENTITIES, _)) => Some(self.list()),
            Some((&SIGN_REQUEST, rest)) => self.signed(rest),
            _ => None,
        };
        answer.unwrap_or_else(|| vec![FAILURE])
    }

    fn list(&self) -> Vec<u8> {
        let mut out = Writer::of(IDENTITIES_ANSWER);
        out.number(self.0.len() as u32);
        for key in &self.0 {
            // As BuildKit's, without a comment.
            out.string(&key.blob).string(b"");
        }
        out.done()
    }

    fn signed(&self, request: &[u8]) -> Option<Vec<u8>> {
        let mut request = Reader(request);
        let (blob, data, flags) = (request.string()?, request.string()?, request.number()?);
        let key = self.0.iter().find(|k| k.blob == blob)?;
        let (name, signature) = key.sign(data, flags)?;
        let mut inner = Writer::default();
        inner.string(name.as_bytes()).string(&signature);
        let mut out = Writer::of(SIGN_RESPONSE);
        out.string(&inner.done());
        Some(out.done())
    }
}

impl Key {
    fn new(secret: Secret) -> Self {
        let mut blob = Writer::default();
        match &secret {
            Secret::Ed25519(pair) => {
                blob.string(b"ssh-ed25519")
                    .string(pair.public_key().as_ref());
            }
            Secret::Ecdsa(curve, pair) => {
                blob.string(format!("ecdsa-sha2-{curve}").as_bytes())
                    .string(curve.as_bytes())
                    .string(pair.public_key().as_ref());
            }
            Secret::Rsa(pair) => {
                let public = rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public());
                blob.string(b"ssh-rsa")
                    .positive(&public.e)
                    .positive(&public.n);
            }
        }
        Self {
            blob: blob.done(),
            secret,
        }
    }

    /// The algorithm and the signature (RFC 8709, RFC 5656, RFC 8332); none where the key cannot.
    fn sign(&self, data: &[u8], flags: u32) -> Option<(String, Vec<u8>)> {
        let random = SystemRandom::new();
        match &self.secret {
            Secret::Ed25519(pair) => {
                Some(("ssh-ed25519".to_owned(), pair.sign(data).as_ref().to_vec()))
            }
            Secret::Ecdsa(curve, pair) => {
                let fixed = pair.sign(&random, data).ok()?;
                let (r, s) = fixed.as_ref().split_at(fixed.as_ref().len() / 2);
                let mut out = Writer::default();
                out.positive(r).positive(s);
                Some((format!("ecdsa-sha2-{curve}"), out.done()))
            }
            Secret::Rsa(pair) => {
                let (name, padding): (_, &dyn ring::signature::RsaEncoding) = match flags {
                    f if f & RSA_SHA2_512 != 0 => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
                    f if f & RSA_SHA2_256 != 0 => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
                    // SHA-1, which OpenSSH asks nobody for since 8.8.
                    _ => return None,
                };
                let mut out = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, data, &mut out).ok()?;
                Some((name.to_owned(), out))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{
        ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512,
        RsaPublicKeyComponents, UnparsedPublicKey,
    };

    /// A key that `ssh-keygen` makes; none where it is not installed.
    fn made(folder: &Path, name: &str, options: &[&str]) -> Option<Keys> {
        let path = folder.join(name);
        let done = std::process::Command::new("ssh-keygen")
            .args(["-q", "-N", "", "-C", "me", "-f"])
            .arg(&path)
            .args(options)
            .status()
            .ok()?;
        assert!(done.success());
        let mut keys = Keys::default();
        keys.add(&path).unwrap();
        Some(keys)
    }

    /// The public key and the signature of `data`.
    fn signed(keys: &Keys, flags: u32) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let list = keys.answer(&[REQUEST_IDENTITIES]);
        assert_eq!(list[..5], [IDENTITIES_ANSWER, 0, 0, 0, 1]);
        let blob = Reader(&list[5..]).string().unwrap().to_vec();
        let mut request = Writer::of(SIGN_REQUEST);
        request.string(&blob).string(b"data").number(flags);
        let answer = keys.answer(&request.done());
        assert_eq!(answer[0], SIGN_RESPONSE, "{answer:?}");
        let inner = Reader(&answer[1..]).string().unwrap().to_vec();
        let mut inner = Reader(&inner);
        let name = inner.string().unwrap().to_vec();
        (blob, name, inner.string().unwrap().to_vec())
    }

    #[test]
    fn keys_sign_what_their_public_keys_verify() {
        let folder = tempfile::tempdir().unwrap();
        for format in [&[][..], &["-m", "PEM"], &["-m", "PKCS8"]] {
            let name = |kind: &str| format!("{kind}{}", format.len() + format.concat().len());
            let with = |more: &[&'static str]| [format, more].concat();
            // Elsewhere than in OpenSSH's own format ssh-keygen does not write this one.
            if format.is_empty() {
                let Some(keys) = made(folder.path(), &name("ed"), &with(&["-t", "ed25519"])) else {
                    return;
                };
                let (blob, algorithm, signature) = signed(&keys, 0);
                assert_eq!(algorithm, b"ssh-ed25519");
                let public = UnparsedPublicKey::new(&ED25519, &blob[blob.len() - 32..]);
                public.verify(b"data", &signature).unwrap();
            }
            let Some(keys) = made(folder.path(), &name("ec"), &with(&["-t", "ecdsa"])) else {
                return;
            };
            let (blob, algorithm, signature) = signed(&keys, 0);
            assert_eq!(algorithm, b"ecdsa-sha2-nistp256");
            let mut halves = Reader(&signature);
            let fixed: Vec<u8> = [halves.string().unwrap(), halves.string().unwrap()]
                .iter()
                .flat_map(|half| {
                    let plain = half.strip_prefix(&[0]).unwrap_or(half);
                    [vec![0; 32 - plain.len()], plain.to_vec()].concat()
                })
                .collect();
            let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &blob[blob.len() - 65..]);
            public.verify(b"data", &fixed).unwrap();

            let keys = made(
                folder.path(),
                &name("rsa"),
                &with(&["-t", "rsa", "-b", "2048"]),
            );
            let keys = keys.unwrap();
            for (flags, expected, how) in [
                (2, &b"rsa-sha2-256"[..], &RSA_PKCS1_2048_8192_SHA256),
                (4, b"rsa-sha2-512", &RSA_PKCS1_2048_8192_SHA512),
            ] {
                let (blob, algorithm, signature) = signed(&keys, flags);
                assert_eq!(algorithm, expected);
                let mut blob = Reader(&blob);
                assert_eq!(blob.string().unwrap(), b"ssh-rsa");
                let (e, n) = (blob.string().unwrap(), blob.string().unwrap());
                let n = n.strip_prefix(&[0]).unwrap_or(n);
                RsaPublicKeyComponents { n, e }
                    .verify(how, b"data", &signature)
                    .unwrap();
            }
        }
    }

    #[test]
    fn what_is_not_asked_rightly_fails() {
        let keys = Keys::default();
        assert_eq!(keys.answer(&[REQUEST_IDENTITIES]), [12, 0, 0, 0, 0]);
        for bad in [
            &[][..],
            &[SIGN_REQUEST],
            &[SIGN_REQUEST, 0, 0, 0, 9],
            &[17, 1],
        ] {
            assert_eq!(keys.answer(bad), [FAILURE], "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let pem = |name: &str, text: &str| {
            format!("-----BEGIN {name}-----\n{text}\n-----END {name}-----\n")
        };
        for (text, part) in [
            (String::new(), "ssh: no key found"),
            ("x".repeat(1000), "ssh: no key found"),
            (
                pem("OPENSSH PRIVATE KEY", "AAAA"),
                "ssh: invalid openssh private key format",
            ),
            (pem("DSA PRIVATE KEY", "AAAA"), "ssh: unsupported key type"),
            (
                pem(
                    "RSA PRIVATE KEY",
                    "Proc-Type: 4,ENCRYPTED\nDEK-Info: x\n\nAAAA",
                ),
                "ssh: this private key is passphrase protected",
            ),
            (
                pem("ENCRYPTED PRIVATE KEY", "AAAA"),
                "ssh: this private key is passphrase protected",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Keys::default().add(&path).unwrap_err();
            assert!(error.contains(part), "{error}");
            assert!(error.starts_with("failed to parse /"), "{error}");
        }
        let locked = folder.path().join("locked");
        let made = std::process::Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "a secret", "-f"])
            .arg(&locked)
            .status();
        if made.is_ok() {
            let error = Keys::default().add(&locked).unwrap_err();
            assert!(
                error.ends_with("ssh: this private key is passphrase protected"),
                "{error}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            Keys::default().answer(&bytes);
            let _ = format::openssh(&[&b"openssh-key-v1\0"[..], &bytes].concat());
        }
    }
}
