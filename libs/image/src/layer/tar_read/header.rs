//! The fields of a header block.

use super::{BLOCK, TarError};

pub(super) fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

pub(super) fn name(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_zero(&header[..100]);
    // Only POSIX' magic has a prefix; GNU's ("ustar  ") keeps other things there.
    let prefix = if &header[257..263] == b"ustar\0" {
        until_zero(&header[345..500])
    } else {
        b""
    };
    if prefix.is_empty() {
        name.to_vec()
    } else {
        [prefix, b"/", name].concat()
    }
}

/// Octal digits, or base 256 when the first bit is set.
pub(super) fn number(field: &[u8]) -> Result<u64, TarError> {
    const BAD: TarError = TarError::Invalid("a number in a header is malformed");
    if field[0] & 0x80 != 0 {
        // 0xff: negative, which only times before the epoch are.
        if field[0] == 0xff {
            let bytes = field[field.len() - 8..].try_into().map_err(|_| BAD)?;
            return Ok(i64::from_be_bytes(bytes) as u64);
        }
        let mut value = u64::from(field[0] & 0x7f);
        for byte in &field[1..] {
            value = value.checked_mul(256).ok_or(BAD)? | u64::from(*byte);
        }
        return Ok(value);
    }
    // Some write zeros in front, some behind.
    let begin = field.iter().position(|b| *b != 0).unwrap_or(field.len());
    let digits = until_zero(&field[begin..]).trim_ascii();
    if digits.is_empty() {
        return Ok(0);
    }
    std::str::from_utf8(digits)
        .ok()
        .filter(|t| !t.starts_with('+'))
        .and_then(|t| u64::from_str_radix(t, 8).ok())
        .ok_or(BAD)
}

pub(super) fn small(value: u64) -> Result<u32, TarError> {
    u32::try_from(value).map_err(|_| TarError::Invalid("a number in a header is too large"))
}

/// The checksum counts its own field as spaces; old programs summed signed bytes.
pub(super) fn check(header: &[u8; BLOCK]) -> Result<(), TarError> {
    let stored = number(&header[148..156])?;
    let (mut unsigned, mut signed) = (0u64, 0i64);
    for (i, byte) in header.iter().enumerate() {
        let byte = if (148..156).contains(&i) { b' ' } else { *byte };
        unsigned += u64::from(byte);
        signed += i64::from(byte as i8);
    }
    if stored == unsigned || stored as i64 == signed {
        Ok(())
    } else {
        Err(TarError::Invalid("a header's checksum is wrong"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (field, value) in [
            (&b"0000644\0"[..], 0o644),
            (b"   644 \0", 0o644),
            (b"\0\0  644 ", 0o644),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"        ", 0),
            (b"77777777", 0o77_777_777),
            (b"\x80\0\0\0\0\x20\0\x01", 0x20_0001),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", u64::MAX - 1),
        ] {
            assert_eq!(number(field).unwrap(), value, "{field:?}");
        }
        for field in [
            &b"0000648\0"[..],
            b"+0000644",
            b"-1      ",
            b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(number(field).is_err(), "{field:?}");
        }
    }
}
