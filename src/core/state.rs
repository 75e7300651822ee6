//! How an operator writes down its state and reads it back.
//!
//! Values go through `postcard` (a compact, documented wire format), batches through Arrow IPC. A reader that
//! finds less, more or other bytes than were written is an error, never a wrong value.
//!
//! What is large is not written at the cut but shared with the snapshot ([`Piece`]) and written by whoever needs its
//! bytes, on another thread. The bytes of all parts, one behind the other, are what a [`StateReader`] reads.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::chunks::{Chunks, Element};
use crate::error::{Error, Result};

/// A part of a state that does not change any more and is written down later.
pub trait Piece: Send + Sync {
    /// Writes it.
    fn write(&self, state: &mut StateWriter);
}

/// A part of a state: bytes, or what will be.
#[derive(Clone)]
pub enum Part {
    /// Written at the cut.
    Bytes(Arc<Vec<u8>>),
    /// Shared with the operator.
    Piece(Arc<dyn Piece>),
}

impl Part {
    /// Its bytes.
    ///
    /// # Errors
    /// If a value cannot be written.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
            Self::Piece(piece) => {
                let mut state = StateWriter::new();
                piece.write(&mut state);
                Ok(Cow::Owned(state.finish()?))
            }
        }
    }
}

/// Parts that belong together.
#[derive(Clone, Default)]
pub struct Section {
    /// What it is; empty for what has no name.
    pub name: String,
    /// What its elements are, as [`StateWriter::chunks`] says.
    pub fields: String,
    /// How many elements there are; none for what has no name.
    pub elements: u64,
    /// In order.
    pub parts: Vec<Part>,
}

/// The state of one node at a cut.
#[derive(Clone, Default)]
pub struct State {
    sections: Vec<Section>,
    copied_bytes: u64,
}

impl State {
    /// The state that these bytes are.
    pub fn of_bytes(bytes: Vec<u8>) -> Self {
        let parts = vec![Part::Bytes(bytes.into())];
        Self { sections: vec![Section { parts, ..Section::default() }], copied_bytes: 0 }
    }

    /// Its sections, in order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The parts that were not written at the cut.
    pub fn pieces(&self) -> impl Iterator<Item = &Arc<dyn Piece>> {
        let parts = self.sections.iter().flat_map(|section| &section.parts);
        parts.filter_map(|part| match part {
            Part::Bytes(_) => None,
            Part::Piece(piece) => Some(piece),
        })
    }

    /// How many bytes were written at the cut, on the engine's thread.
    pub fn copied_bytes(&self) -> u64 {
        self.copied_bytes
    }

    /// All its bytes; they are not copied where they are there in one part.
    ///
    /// # Errors
    /// If a value cannot be written.
    pub fn to_bytes(&self) -> Result<Cow<'_, [u8]>> {
        if let [Section { parts, .. }] = &self.sections[..]
            && let [part] = &parts[..]
        {
            return part.bytes();
        }
        let mut bytes = Vec::new();
        for part in self.sections.iter().flat_map(|section| &section.parts) {
            bytes.extend_from_slice(&part.bytes()?);
        }
        Ok(Cow::Owned(bytes))
    }
}

/// Two states are equal if their bytes are.
impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.to_bytes().is_ok_and(|bytes| other.to_bytes().is_ok_and(|others| bytes == others))
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_bytes() {
            Ok(bytes) => f.debug_tuple("State").field(&bytes).finish(),
            Err(error) => f.debug_tuple("State").field(&error.message).finish(),
        }
    }
}

/// Collects the state of one node at a cut.
#[derive(Default)]
pub struct StateWriter {
    /// Written and not in a part yet.
    bytes: Vec<u8>,
    sections: Vec<Section>,
    copied_bytes: u64,
    error: Option<Error>,
}

impl StateWriter {
    /// An empty state.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a value, which is written at once: for what is small, or new at each cut.
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

    /// Appends what is kept by index; it is shared, not copied. It reads back with [`Chunks::load`].
    ///
    /// `name` and `fields` are for those who look at a checkpoint. `fields` says in order what an element is written
    /// as, each a name and a type: `"start:time rows:u"`. The types are `u` and `i` (integers), `f` (`f64`), `fs` (several
    /// of them), `time` (`i64`, µs since 1970), `bool`, `key` (the id of a key, `u32`), with `?` before for an `Option`.
    /// `#keys` as the first word says that an element belongs to the key whose id is its index, and `#other` to that of
    /// the element of the section `other` with the same index. Without `fields`, only bytes are shown.
    pub fn chunks<T: Element, const N: usize>(
        &mut self,
        name: &str,
        fields: &str,
        chunks: &mut Chunks<T, N>,
    ) {
        self.value(&(chunks.len() as u64));
        self.end_part();
        let (name, fields, elements) = (name.to_owned(), fields.to_owned(), chunks.len() as u64);
        let parts = chunks.freeze().map(Part::Piece).collect();
        self.sections.push(Section { name, fields, elements, parts });
        self.sections.push(Section::default());
    }

    /// Appends a batch with its schema; it is shared, not copied.
    pub fn batch(&mut self, batch: &RecordBatch) {
        self.end_part();
        self.section().parts.push(Part::Piece(Arc::new(SavedBatch(batch.clone()))));
    }

    fn section(&mut self) -> &mut Section {
        if self.sections.is_empty() {
            self.sections.push(Section::default());
        }
        let last = self.sections.len() - 1;
        &mut self.sections[last]
    }

    /// Makes a part of what was written so far.
    fn end_part(&mut self) {
        if !self.bytes.is_empty() {
            let bytes = std::mem::take(&mut self.bytes);
            self.copied_bytes += bytes.len() as u64;
            self.section().parts.push(Part::Bytes(bytes.into()));
        }
    }

    fn fail(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }

    /// The state as it is now, to be written down later.
    ///
    /// # Errors
    /// If one of the values could not be written.
    pub fn freeze(mut self) -> Result<State> {
        self.end_part();
        self.sections.retain(|section| !section.parts.is_empty() || !section.name.is_empty());
        match self.error {
            Some(error) => Err(error),
            None => Ok(State { sections: self.sections, copied_bytes: self.copied_bytes }),
        }
    }

    /// The bytes written, those of shared parts too.
    ///
    /// # Errors
    /// If one of the values could not be written.
    pub fn finish(self) -> Result<Vec<u8>> {
        if self.sections.is_empty() {
            return match self.error {
                Some(error) => Err(error),
                None => Ok(self.bytes),
            };
        }
        Ok(self.freeze()?.to_bytes()?.into_owned())
    }
}

/// A batch, to be written later: columns are never changed.
struct SavedBatch(RecordBatch);

impl Piece for SavedBatch {
    fn write(&self, state: &mut StateWriter) {
        match batch_to_bytes(&self.0) {
            Ok(bytes) => state.bytes(&bytes),
            Err(error) => state.fail(error),
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

    /// How many bytes are left.
    pub fn rest_bytes(&self) -> usize {
        self.rest.len()
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
