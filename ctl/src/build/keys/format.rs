//! Files of private keys: OpenSSH's own format (PROTOCOL.key), PKCS #1, PKCS #8 and SEC 1, as
//! golang.org/x/crypto/ssh reads them, with its sentences. Keys with a passphrase are refused, as by BuildKit.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    rand::SystemRandom,
    rsa,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair,
    },
};
use zeroize::Zeroizing;

use super::{Secret, wire::Reader};

const LOCKED: &str = "ssh: this private key is passphrase protected";
const INVALID: &str = "ssh: invalid openssh private key format";
/// What an OpenSSH key begins with.
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// Curves: name, algorithm, and the object identifier in DER.
const CURVES: [(&str, &EcdsaSigningAlgorithm, &[u8]); 2] = [
    (
        "nistp256",
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7],
    ),
    (
        "nistp384",
        &ECDSA_P384_SHA384_FIXED_SIGNING,
        &[6, 5, 0x2b, 0x81, 4, 0, 0x22],
    ),
];

/// Reads the first key of a file. Errors are sentences.
pub fn parse(text: &[u8]) -> Result<Secret, String> {
    let text = std::str::from_utf8(text).map_err(|_| "ssh: no key found")?;
    let (_, rest) = text.split_once("-----BEGIN ").ok_or("ssh: no key found")?;
    let (name, rest) = rest.split_once("-----").ok_or("ssh: no key found")?;
    let end = format!("-----END {name}-----");
    let (body, _) = rest.split_once(&end).ok_or("ssh: no key found")?;
    if name == "ENCRYPTED PRIVATE KEY" || body.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(LOCKED.to_owned());
    }
    let packed: Zeroizing<String> = Zeroizing::new(body.split_whitespace().collect());
    let bytes = STANDARD.decode(packed.as_bytes());
    let bytes = Zeroizing::new(bytes.map_err(|_| "ssh: no key found")?);
    match name {
        "OPENSSH PRIVATE KEY" => openssh(&bytes),
        "RSA PRIVATE KEY" => {
            let pair = rsa::KeyPair::from_der(&bytes).map_err(rejected)?;
            Ok(Secret::Rsa(Box::new(pair)))
        }
        "EC PRIVATE KEY" => sec1(&bytes),
        "PRIVATE KEY" => pkcs8(&bytes),
        name => Err(format!("ssh: unsupported key type {name:?}")),
    }
}

fn rejected(why: ring::error::KeyRejected) -> String {
    format!(
        "the key is not supported: {why} (Ed25519, ECDSA of P-256 and P-384, and RSA of 2048 to 4096 bits are)"
    )
}

/// The content of an `OPENSSH PRIVATE KEY`.
pub fn openssh(bytes: &[u8]) -> Result<Secret, String> {
    let mut file = Reader(bytes.strip_prefix(MAGIC).ok_or(INVALID)?);
    let (cipher, kdf) = (file.string().ok_or(INVALID)?, file.string().ok_or(INVALID)?);
    file.string().ok_or(INVALID)?;
    if cipher != b"none" || kdf != b"none" {
        return Err(LOCKED.to_owned());
    }
    if file.number().ok_or(INVALID)? != 1 {
        return Err("ssh: multi-key files are not supported".to_owned());
    }
    file.string().ok_or(INVALID)?;
    let mut key = Reader(file.string().ok_or(INVALID)?);
    if key.number().ok_or(INVALID)? != key.number().ok_or(INVALID)? {
        return Err(INVALID.to_owned());
    }
    let kind = key.string().ok_or(INVALID)?;
    let name = String::from_utf8_lossy(kind).into_owned();
    let secret = match name.as_str() {
        "ssh-ed25519" => ed25519(&mut key),
        "ssh-rsa" => rsa_of(&mut key),
        name => match CURVES
            .iter()
            .find(|c| name.strip_prefix("ecdsa-sha2-") == Some(c.0))
        {
            Some((curve, algorithm, _)) => ecdsa(&mut key, curve, algorithm),
            None => return Err(format!("ssh: unhandled key type {name:?}")),
        },
    };
    secret.ok_or(INVALID)?
}

/// None where the file ends.
type Read = Option<Result<Secret, String>>;

fn ed25519(key: &mut Reader<'_>) -> Read {
    let (public, secret) = (key.string()?, key.string()?);
    let seed = secret.get(..32)?;
    let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public);
    Some(pair.map(Secret::Ed25519).map_err(rejected))
}

fn ecdsa(
    key: &mut Reader<'_>,
    curve: &'static str,
    algorithm: &'static EcdsaSigningAlgorithm,
) -> Read {
    let (_, public, number) = (key.string()?, key.string()?, key.positive()?);
    // A number of the curve's size.
    let size = public.len() / 2;
    let mut secret = Zeroizing::new(vec![0; size.checked_sub(number.len())?]);
    secret.extend_from_slice(number);
    let random = SystemRandom::new();
    let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &secret, public, &random);
    Some(
        pair.map(|pair| Secret::Ecdsa(curve, pair))
            .map_err(rejected),
    )
}

fn rsa_of(key: &mut Reader<'_>) -> Read {
    let (n, e, d) = (key.positive()?, key.positive()?, key.positive()?);
    let (inverse, p, q) = (key.positive()?, key.positive()?, key.positive()?);
    let (dp, dq) = (remainder(d, p)?, remainder(d, q)?);
    let components = rsa::KeyPairComponents {
        public_key: rsa::PublicKeyComponents { n, e },
        d,
        p,
        q,
        dP: &dp,
        dQ: &dq,
        qInv: inverse,
    };
    let pair = rsa::KeyPair::from_components(&components);
    Some(
        pair.map(|pair| Secret::Rsa(Box::new(pair)))
            .map_err(rejected),
    )
}

/// A number modulo a prime less one, which OpenSSH's format leaves out: bit by bit, once when a key is read.
fn remainder(number: &[u8], prime: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    // What ring takes is far shorter.
    if number.len() > 2048 || prime.len() > 2048 || prime.last()? & 1 == 0 {
        return None;
    }
    let mut modulus = Zeroizing::new(prime.to_vec());
    *modulus.last_mut()? -= 1;
    // One byte more than the modulus: twice a remainder fits.
    modulus.insert(0, 0);
    let mut rest = Zeroizing::new(vec![0_u8; modulus.len()]);
    for bit in number
        .iter()
        .flat_map(|b| (0..8).rev().map(move |i| b >> i & 1))
    {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            let out = *byte >> 7;
            *byte = *byte << 1 | carry;
            carry = out;
        }
        if rest.as_slice() >= modulus.as_slice() {
            let mut borrow = 0;
            for (byte, less) in rest.iter_mut().zip(modulus.iter()).rev() {
                let (one, first) = byte.overflowing_sub(*less);
                let (two, second) = one.overflowing_sub(borrow);
                (*byte, borrow) = (two, u8::from(first || second));
            }
        }
    }
    let zeros = rest.iter().take_while(|b| **b == 0).count();
    Some(Zeroizing::new(rest[zeros..].to_vec()))
}

fn pkcs8(bytes: &[u8]) -> Result<Secret, String> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes) {
        return Ok(Secret::Ed25519(pair));
    }
    let random = SystemRandom::new();
    for (curve, algorithm, _) in CURVES {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(algorithm, bytes, &random) {
            return Ok(Secret::Ecdsa(curve, pair));
        }
    }
    let pair = rsa::KeyPair::from_pkcs8(bytes).map_err(rejected)?;
    Ok(Secret::Rsa(Box::new(pair)))
}

/// RFC 5915: made a PKCS #8 of.
fn sec1(bytes: &[u8]) -> Result<Secret, String> {
    let curve = CURVES
        .iter()
        .find(|(_, _, id)| bytes.windows(id.len()).any(|w| w == *id));
    let Some((_, _, curve)) = curve else {
        return Err("the key is not supported: its curve is neither P-256 nor P-384".to_owned());
    };
    let public: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    let algorithm = der(0x30, &[public, curve].concat());
    // Without its parameters, which are said already.
    let plain = without_parameters(bytes).unwrap_or_else(|| bytes.to_vec());
    let key = Zeroizing::new(der(4, &Zeroizing::new(plain)));
    pkcs8(&Zeroizing::new(der(
        0x30,
        &Zeroizing::new([&[2, 1, 0], &algorithm[..], &key].concat()),
    )))
}

/// A tag, a length and what they are for.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = match length {
        0..=0x7f => vec![tag, length as u8],
        0x80..=0xff => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    out.extend_from_slice(content);
    out
}

/// The next element: its tag and its content.
fn element<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (tag, length) = (*rest.first()?, usize::from(*rest.get(1)?));
    let (start, length) = match length {
        0x81 => (3, usize::from(*rest.get(2)?)),
        0x82 => (
            4,
            usize::from(*rest.get(2)?) << 8 | usize::from(*rest.get(3)?),
        ),
        0..=0x7f => (2, length),
        _ => return None,
    };
    let content = rest.get(start..start + length)?;
    *rest = &rest[start + length..];
    Some((tag, content))
}

fn without_parameters(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut whole = bytes;
    let (_, mut inside) = element(&mut whole)?;
    let mut kept = Zeroizing::new(Vec::new());
    while !inside.is_empty() {
        let (tag, content) = element(&mut inside)?;
        if tag != 0xa0 {
            kept.extend_from_slice(&der(tag, content));
        }
    }
    Some(der(0x30, &kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_are_right() {
        // 0x123456789a modulo (0x1003 - 1).
        let expected = 0x0012_3456_789a_u64 % 0x1002;
        let found = remainder(&[0x12, 0x34, 0x56, 0x78, 0x9a], &[0x10, 0x03]).unwrap();
        assert_eq!(found.as_slice(), &expected.to_be_bytes()[6..]);
        assert_eq!(remainder(&[4], &[5]).unwrap().as_slice(), [0_u8; 0]);
        assert!(remainder(&[4], &[4]).is_none() && remainder(&[4], &[]).is_none());
    }
}
