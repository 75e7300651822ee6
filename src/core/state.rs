//! How an operator writes down its state and reads it back.
//!
//! Values go through `postcard` (a compact, documented wire format), batches through Arrow IPC. A reader that
//! finds less, more or other bytes than were written is an error, never a wrong value.

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Collects the state of one node at a cut.
#[derive(Debug, Default)]
pub struct StateWriter {
    bytes: Vec<u8>,
    error: Option<Error>,
}

impl StateWriter {
    /// An empty state.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a value.
    pub fn value<T: Serialize + ?Sized>(&mut self, value: &T) {
        match postcard::to_extend(value, std::mem::take(&mut self.bytes)) {
            Ok(bytes) => self.bytes = bytes,
            Err(error) => self.fail(Error::state(format!("state cannot be written: {error}"))),
        }
    }

    /// Appends bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.value(&(bytes.len() as u64));
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a batch with its schema.
    pub fn batch(&mut self, batch: &RecordBatch) {
        match batch_to_bytes(batch) {
            Ok(bytes) => self.bytes(&bytes),
            Err(error) => self.fail(error),
        }
    }

    fn fail(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }

    /// The bytes written.
    ///
    /// # Errors
    /// If one of the values could not be written.
    pub fn finish(self) -> Result<Vec<u8>> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.bytes),
        }
    }
}

/// Gives back, in the same order, what a [`StateWriter`] took.
#[derive(Debug)]
pub struct StateReader<'a> {
    rest: &'a [u8],
}

impl<'a> StateReader<'a> {
    /// Reads from the bytes of [`StateWriter::finish`].
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next value.
    ///
    /// # Errors
    /// If the bytes are not such a value.
    pub fn value<T: DeserializeOwned>(&mut self) -> Result<T> {
        let (value, rest) = postcard::take_from_bytes(self.rest)
            .map_err(|error| Error::state(format!("saved state is damaged: {error}")))?;
        self.rest = rest;
        Ok(value)
    }

    /// The next bytes.
    ///
    /// # Errors
    /// If fewer bytes are left than were written.
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let length: u64 = self.value()?;
        let (head, rest) = usize::try_from(length)
            .ok()
            .and_then(|length| self.rest.split_at_checked(length))
            .ok_or_else(|| Error::state("saved state is cut short"))?;
        self.rest = rest;
        Ok(head)
    }

    /// The next batch.
    ///
    /// # Errors
    /// If the bytes are not one batch.
    pub fn batch(&mut self) -> Result<RecordBatch> {
        batch_from_bytes(self.bytes()?)
    }

    /// Says that all was read.
    ///
    /// # Errors
    /// If bytes are left over: the state is of another shape than its reader.
    pub fn finish(self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Error::state(format!("{} bytes of saved state are left over", self.rest.len())))
        }
    }
}

/// One batch as an Arrow IPC stream.
///
/// # Errors
/// If a column has a type that Arrow IPC cannot carry.
pub fn batch_to_bytes(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    writer.write(batch)?;
    writer.finish()?;
    Ok(writer.into_inner()?)
}

/// The batch of an Arrow IPC stream that holds exactly one.
///
/// # Errors
/// If the bytes are not such a stream.
pub fn batch_from_bytes(bytes: &[u8]) -> Result<RecordBatch> {
    let mut reader = StreamReader::try_new(bytes, None)?;
    let batch = reader.next().ok_or_else(|| Error::state("an Arrow stream without a batch"))??;
    match reader.next() {
        None => Ok(batch),
        Some(_) => Err(Error::state("an Arrow stream with more than one batch")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{DictionaryArray, Float64Array, Int64Array};
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn values_bytes_and_batches_come_back_in_order() {
        let device: DictionaryArray<Int32Type> = [Some("a"), None, Some("b")].into_iter().collect();
        let batch = RecordBatch::try_from_iter([
            ("device", Arc::new(device) as _),
            ("temp", Arc::new(Float64Array::from(vec![1.5, f64::NAN, -0.0])) as _),
            ("seq", Arc::new(Int64Array::from(vec![Some(1), None, Some(i64::MIN)])) as _),
        ])
        .unwrap();
        let mut writer = StateWriter::new();
        writer.value(&(7u64, "seven"));
        writer.bytes(b"raw");
        writer.batch(&batch);
        let bytes = writer.finish().unwrap();

        let mut reader = StateReader::new(&bytes);
        assert_eq!(reader.value::<(u64, String)>().unwrap(), (7, "seven".to_owned()));
        assert_eq!(reader.bytes().unwrap(), b"raw");
        let back = reader.batch().unwrap();
        assert_eq!(format!("{back:?}"), format!("{batch:?}"));
        reader.finish().unwrap();
    }

    #[test]
    fn damage_is_an_error() {
        let mut writer = StateWriter::new();
        writer.value(&1u64);
        writer.bytes(&[9; 40]);
        let bytes = writer.finish().unwrap();
        for cut in 0..bytes.len() {
            let mut reader = StateReader::new(&bytes[..cut]);
            let outcome = reader.value::<u64>().and_then(|_| reader.bytes().map(<[u8]>::len));
            assert!(outcome.is_err(), "cut at {cut}");
        }
        let mut reader = StateReader::new(&bytes);
        reader.value::<u64>().unwrap();
        assert!(reader.finish().is_err());
        assert!(StateReader::new(&[0xff; 12]).bytes().is_err());
    }
}
