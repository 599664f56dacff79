//! Changes of objects: what to take from a base, and what is new (gitformat-pack(5), "Deltified
//! representation").

use std::io;

use super::{MAX_DELTA, broken, input::byte};

/// Applies the instructions of a change.
pub fn apply(base: &[u8], instructions: &[u8]) -> io::Result<Vec<u8>> {
    let mut rest = instructions;
    let from = length(&mut rest)?;
    let size = length(&mut rest)?;
    if from != base.len() as u64 || size > MAX_DELTA {
        return Err(broken("a change of another object"));
    }
    let mut out = Vec::new();
    while let [code, after @ ..] = rest {
        rest = after;
        if code & 0x80 == 0 {
            let n = usize::from(*code);
            if n == 0 || n > rest.len() {
                return Err(broken("a change that is none"));
            }
            out.extend_from_slice(&rest[..n]);
            rest = &rest[n..];
        } else {
            let mut number = |bits: std::ops::Range<u8>| -> io::Result<usize> {
                let mut value = 0;
                for (i, bit) in bits.enumerate() {
                    if code & (1 << bit) != 0 {
                        value |= usize::from(byte(&mut rest)?) << (8 * i);
                    }
                }
                Ok(value)
            };
            let offset = number(0..4)?;
            let length = match number(4..7)? {
                0 => 0x10000,
                length => length,
            };
            let piece = offset
                .checked_add(length)
                .and_then(|end| base.get(offset..end));
            out.extend_from_slice(piece.ok_or_else(|| broken("a change of what is not there"))?);
        }
        if out.len() as u64 > size {
            return Err(broken("a change has another size than it says"));
        }
    }
    match out.len() as u64 == size {
        true => Ok(out),
        false => Err(broken("a change has another size than it says")),
    }
}

fn length(rest: &mut &[u8]) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let next = byte(rest)?;
        value |= u64::from(next & 0x7f) << shift;
        if next & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(broken("a size is none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_applied_or_refused() {
        let base = b"hello world";
        // 11 bytes become 9: "hello" from the base, then " you" new.
        let good = [11, 9, 0x90, 5, 4, b' ', b'y', b'o', b'u'];
        assert_eq!(apply(base, &good).unwrap(), b"hello you");
        for bad in [
            &good[..good.len() - 1],
            &[10, 9, 0x90, 5],
            &[11, 200, 0x90, 5],
            &[11, 5, 0x91, 20, 5],
            &[11, 5, 0],
            &[11, 4, 0x90, 5],
            &[0x80; 20],
            &[],
        ] {
            assert!(apply(base, bad).is_err(), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_change_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            let _ = apply(b"some base", &bytes);
        }
    }
}
