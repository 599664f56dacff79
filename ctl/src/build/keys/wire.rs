//! ssh's numbers and strings (RFC 4251, section 5).

/// Reads from the front.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// A number of 32 bits.
    pub fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    /// A string, or a number of any size.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }

    /// A number of any size that is not negative, without zeros in front.
    pub fn positive(&mut self) -> Option<&'a [u8]> {
        let number = self.string()?;
        if number.first().is_some_and(|b| b & 0x80 != 0) {
            return None;
        }
        Some(trimmed(number))
    }
}

fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|b| **b == 0).count();
    &number[zeros..]
}

/// Writes at the end.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// A message of this kind.
    pub fn of(kind: u8) -> Self {
        Self(vec![kind])
    }

    /// A number of 32 bits.
    pub fn number(&mut self, number: u32) -> &mut Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    /// A string.
    pub fn string(&mut self, string: &[u8]) -> &mut Self {
        // Nothing that is written is near 4 GiB.
        self.number(string.len() as u32);
        self.0.extend_from_slice(string);
        self
    }

    /// A number of any size that is not negative.
    pub fn positive(&mut self, number: &[u8]) -> &mut Self {
        let number = trimmed(number);
        // The first bit is the sign.
        match number.first().is_some_and(|b| b & 0x80 != 0) {
            true => self.string(&[&[0], number].concat()),
            false => self.string(number),
        }
    }

    /// What was written.
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}
