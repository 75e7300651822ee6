//! A little-endian writer and a strict reader for the model file. Pure.
//!
//! The reader never allocates more than the bytes that are really there: a count is checked against its
//! limit and against what is left of the input before room is made for it.

use crate::error::{Error, Result};

/// Appends little-endian fields to a byte vector.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// What was written so far.
    pub bytes: Vec<u8>,
}

impl Writer {
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn f32(&mut self, value: f32) {
        self.u32(value.to_bits());
    }

    pub fn f64(&mut self, value: f64) {
        self.u64(value.to_bits());
    }

    /// A text of at most 65,535 bytes, which the caller has checked.
    pub fn text(&mut self, text: &str) {
        debug_assert!(text.len() <= usize::from(u16::MAX), "texts are checked before they are written");
        self.u16(text.len() as u16);
        self.bytes.extend_from_slice(text.as_bytes());
    }
}

/// Takes little-endian fields from the front of a byte slice; `field` in every call names what is read,
/// for the message.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, length: bytes.len() }
    }

    pub fn take(&mut self, count: usize, field: &str) -> Result<&'a [u8]> {
        let Some((head, rest)) = self.rest.split_at_checked(count) else {
            let at = self.length - self.rest.len();
            let left = self.rest.len();
            return Err(Error::model(format!(
                "the model file ends in {field}: byte {at} of the body should begin {count} bytes, {left} are left"
            )));
        };
        self.rest = rest;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, field)?);
        Ok(array)
    }

    pub fn u8(&mut self, field: &str) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    pub fn u16(&mut self, field: &str) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub fn u32(&mut self, field: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub fn u64(&mut self, field: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    pub fn f32(&mut self, field: &str) -> Result<f32> {
        Ok(f32::from_bits(self.u32(field)?))
    }

    pub fn f64(&mut self, field: &str) -> Result<f64> {
        Ok(f64::from_bits(self.u64(field)?))
    }

    /// A count of things of at least `bytes_each` bytes, refused above `limit` and where the rest of the
    /// file is too short for it.
    pub fn count(&mut self, limit: usize, bytes_each: usize, field: &str) -> Result<usize> {
        let count = self.u32(field)? as usize;
        if count > limit {
            return Err(Error::model(format!("{field}: {count} is more than the limit of {limit}")));
        }
        let bytes = count * bytes_each;
        if bytes > self.rest.len() {
            return Err(Error::model(format!(
                "{field}: {count} would need {bytes} bytes, the model file has {} left",
                self.rest.len()
            )));
        }
        Ok(count)
    }

    pub fn text(&mut self, limit: usize, field: &str) -> Result<String> {
        let length = usize::from(self.u16(field)?);
        if length > limit {
            return Err(Error::model(format!("{field}: {length} bytes are more than the limit of {limit}")));
        }
        let bytes = self.take(length, field)?;
        let text = std::str::from_utf8(bytes).map_err(|_| Error::model(format!("{field} is not UTF-8")))?;
        Ok(text.to_owned())
    }

    /// `count` 32-bit words, each made into a value.
    pub fn words<T>(&mut self, count: usize, field: &str, make: fn([u8; 4]) -> T) -> Result<Vec<T>> {
        let bytes = self.take(count * 4, field)?;
        let (words, _) = bytes.as_chunks::<4>();
        Ok(words.iter().map(|&word| make(word)).collect())
    }

    /// Refuses bytes after the last field.
    pub fn finish(self) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            more => Err(Error::model(format!("the model file has {more} bytes after its last field"))),
        }
    }
}
