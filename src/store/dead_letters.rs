//! Dead letters: what a receiver refuses, what waited too long, what nobody can read. Kept in a log of their own, so that
//! a person can look at them and send them again. Touches files only through `Store`.
//!
//! ```text
//! record = 1 │ kind u8 │ wall time zigzag varint, µs │ status varint, 0 for none
//!            │ offset varint: 0 for none, else one more │ node text │ place text │ reason text
//!            │ body: 0 │ bytes of the original varint │ bytes to the end, or: 1 │ CRC-32 │ Arrow IPC stream
//!        or 2 │ number of the letter that is gone, varint
//! text   = length varint │ UTF-8
//! ```
//!
//! A letter's number is its offset in the log. The whole is bounded in bytes: when it is full the oldest segment goes, and
//! how many letters went with it is counted. A letter that was delivered after all is crossed out by a record of its own.

use std::collections::BTreeSet;

use arrow::array::RecordBatch;

use super::log::Log;
use super::options::LogOptions;
use super::record::{decode_ipc, encode_ipc};
use super::segment::{BlockReader, HEAD_BYTES, SegmentId};
use super::wire::{Wire, put_bytes, put_varint, unzigzag, zigzag};
use super::{Store, block};
use crate::{Error, Result};

/// The directory of a pipeline's letters.
pub const DIR: &str = "dead-letters";

/// The least room for letters: below, segments become so small that hardly a letter fits.
pub const BYTES_MIN: u64 = 1 << 20;

/// How much of a reason is kept, in bytes.
const REASON_BYTES_MAX: usize = 1 << 10;

/// How much of a name or topic is kept, in bytes: that of the longest MQTT topic.
const TEXT_BYTES_MAX: usize = 64 << 10;

const TAG_LETTER: u8 = 1;
const TAG_GONE: u8 = 2;
const BODY_BYTES: u8 = 0;
const BODY_ROWS: u8 = 1;

/// Why something became a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LetterKind {
    /// The receiver refuses it for good.
    Refused,
    /// It waited in a spool for longer than it may.
    Expired,
    /// A message that could not be read.
    BadPayload,
    /// A record at which the engine failed again and again.
    Poison,
    /// Rows that do not fit where they should have been kept.
    Oversize,
}

impl LetterKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Refused, Self::Expired, Self::BadPayload, Self::Poison, Self::Oversize];

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::BadPayload => "bad_payload",
            Self::Poison => "poison",
            Self::Oversize => "oversize",
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Refused => 1,
            Self::Expired => 2,
            Self::BadPayload => 3,
            Self::Poison => 4,
            Self::Oversize => 5,
        }
    }
}

/// What a letter is about.
#[derive(Debug, Clone, PartialEq)]
pub enum LetterBody {
    /// A payload, or its beginning.
    Bytes {
        /// The bytes kept.
        bytes: Vec<u8>,
        /// How many there were.
        original: u64,
    },
    /// Rows.
    Rows(RecordBatch),
}

/// One dead letter: what, where, why, when.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// Why, as a kind.
    pub kind: LetterKind,
    /// The source, operator or sink it happened at.
    pub node: String,
    /// Its topic, or the name of its delivery.
    pub place: String,
    /// Why, in words.
    pub reason: String,
    /// The status that the receiver gave, where it has numbers for that (HTTP).
    pub status: Option<u16>,
    /// When, in µs since 1970.
    pub wall_us: i64,
    /// Offset of the record in the input log that it comes from.
    pub offset: Option<u64>,
    /// What.
    pub body: LetterBody,
}

impl Letter {
    /// How many rows it has; a payload is one.
    #[must_use]
    pub fn rows(&self) -> usize {
        match &self.body {
            LetterBody::Bytes { .. } => 1,
            LetterBody::Rows(rows) => rows.num_rows(),
        }
    }

    /// Appends its bytes.
    ///
    /// # Errors
    /// [`Data`](crate::Kind::Data) for rows that Arrow IPC cannot write.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&[TAG_LETTER, self.kind.code()]);
        put_varint(out, zigzag(self.wall_us));
        put_varint(out, u64::from(self.status.unwrap_or(0)));
        put_varint(out, self.offset.map_or(0, |offset| offset.saturating_add(1)));
        put_bytes(out, cut(&self.node, TEXT_BYTES_MAX).as_bytes());
        put_bytes(out, cut(&self.place, TEXT_BYTES_MAX).as_bytes());
        put_bytes(out, cut(&self.reason, REASON_BYTES_MAX).as_bytes());
        match &self.body {
            LetterBody::Bytes { bytes, original } => {
                out.push(BODY_BYTES);
                put_varint(out, *original);
                out.extend_from_slice(bytes);
                Ok(())
            }
            LetterBody::Rows(rows) => {
                out.push(BODY_ROWS);
                encode_ipc(rows, out)
            }
        }
    }

    fn with_body(&self, body: LetterBody) -> Self {
        Self {
            kind: self.kind,
            node: self.node.clone(),
            place: self.place.clone(),
            reason: self.reason.clone(),
            status: self.status,
            wall_us: self.wall_us,
            offset: self.offset,
            body,
        }
    }
}

/// The beginning of a text, of at most so many bytes.
fn cut(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// A record of the letters' log.
#[derive(Debug, PartialEq)]
enum Entry {
    Letter(Letter),
    Gone(u64),
}

fn damaged(what: &str) -> Error {
    Error::state(format!("a dead letter is damaged: its {what} is missing or out of bounds"))
}

fn decode(bytes: &[u8]) -> Result<Entry> {
    let mut wire = Wire(bytes);
    match wire.u8() {
        Some(TAG_LETTER) => decode_letter(&mut wire).map(Entry::Letter),
        Some(TAG_GONE) => {
            let number = wire.varint().filter(|_| wire.0.is_empty());
            number.map(Entry::Gone).ok_or_else(|| damaged("number"))
        }
        Some(other) => Err(Error::state(format!(
            "a dead letter is of form {other}, which this program does not know: run the version that wrote it"
        ))),
        None => Err(damaged("form")),
    }
}

fn decode_letter(wire: &mut Wire) -> Result<Letter> {
    let code = wire.u8().ok_or_else(|| damaged("kind"))?;
    let kind = LetterKind::ALL.into_iter().find(|kind| kind.code() == code).ok_or_else(|| damaged("kind"))?;
    let wall_us = wire.varint().map(unzigzag).ok_or_else(|| damaged("time"))?;
    let status = wire.varint().and_then(|status| u16::try_from(status).ok());
    let status = Some(status.ok_or_else(|| damaged("status"))?).filter(|status| *status > 0);
    let offset = wire.varint().ok_or_else(|| damaged("offset"))?.checked_sub(1);
    let mut text = |what| wire.text().map(str::to_owned).ok_or_else(|| damaged(what));
    let (node, place, reason) = (text("node")?, text("place")?, text("reason")?);
    let body = match wire.u8() {
        Some(BODY_BYTES) => {
            let original = wire.varint().ok_or_else(|| damaged("length"))?;
            LetterBody::Bytes { bytes: wire.0.to_vec(), original }
        }
        Some(BODY_ROWS) => LetterBody::Rows(decode_ipc(wire)?),
        _ => return Err(damaged("body")),
    };
    Ok(Letter { kind, node, place, reason, status, wall_us, offset, body })
}

/// The letters of one pipeline, to add to and to cross out.
pub struct DeadLetters {
    log: Log,
    bytes_max: u64,
    dropped: u64,
    buffer: Vec<u8>,
}

impl DeadLetters {
    /// Opens them in the pipeline's directory, or makes the place. They take at most `bytes_max`, and not less than
    /// [`BYTES_MIN`] is taken for it.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open(store: Box<dyn Store>, bytes_max: u64) -> Result<Self> {
        let bytes_max = bytes_max.max(BYTES_MIN);
        // An eighth goes at a time when it is full.
        let segment = (bytes_max / 8).min(8 << 20);
        let options = LogOptions {
            segment_bytes_max: segment,
            block_bytes_max: segment as usize,
            bytes_max,
            compress: true,
            ..LogOptions::default()
        };
        let (mut log, report) = Log::open(store, DIR, options)?;
        if report.in_doubt.is_some() {
            log.sync()?;
        }
        Ok(Self { log, bytes_max, dropped: 0, buffer: Vec::new() })
    }

    /// Adds a letter, durable after the next [`sync`](Self::sync), and makes room for it. Rows that are too many for one
    /// record become several letters; a payload that is too long is cut.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io) where the store fails, [`Data`](crate::Kind::Data) for rows that cannot be written.
    pub fn put(&mut self, letter: &Letter) -> Result<()> {
        let mut waiting = vec![letter.with_body(letter.body.clone())];
        while let Some(mut letter) = waiting.pop() {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.clear();
            letter.encode(&mut buffer)?;
            let excess = buffer.len().saturating_sub(self.log.record_bytes_max());
            let outcome = match &mut letter.body {
                _ if excess == 0 => self.append(&buffer),
                LetterBody::Bytes { bytes, .. } => {
                    bytes.truncate(bytes.len().saturating_sub(excess));
                    buffer.clear();
                    letter.encode(&mut buffer)?;
                    self.append(&buffer)
                }
                LetterBody::Rows(rows) if rows.num_rows() > 1 => {
                    let half = rows.num_rows() / 2;
                    let (first, rest) = (rows.slice(0, half), rows.slice(half, rows.num_rows() - half));
                    waiting.push(letter.with_body(LetterBody::Rows(rest)));
                    waiting.push(letter.with_body(LetterBody::Rows(first)));
                    Ok(())
                }
                LetterBody::Rows(_) => {
                    let body = LetterBody::Bytes { bytes: Vec::new(), original: buffer.len() as u64 };
                    waiting.push(letter.with_body(body));
                    Ok(())
                }
            };
            buffer.shrink_to(1 << 20);
            self.buffer = buffer;
            outcome?;
        }
        Ok(())
    }

    /// Crosses a letter out, durably after the next [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io) where the store fails.
    pub fn remove(&mut self, number: u64) -> Result<()> {
        let mut record = vec![TAG_GONE];
        put_varint(&mut record, number);
        self.append(&record)
    }

    fn append(&mut self, record: &[u8]) -> Result<()> {
        let heads = HEAD_BYTES + (block::HEADER_BYTES + block::RECORD_HEADER_BYTES) as u64;
        while self.log.bytes() + record.len() as u64 + 2 * heads > self.bytes_max
            && self.log.segments().len() > 1
        {
            let (first, end) = (self.log.first_offset(), self.log.segment_end(0));
            self.log.remove_before(end)?;
            if self.log.first_offset() == first {
                break;
            }
            self.dropped += end - first;
        }
        self.log.append(record).map(drop)
    }

    /// Makes everything added and crossed out durable.
    ///
    /// # Errors
    /// [`Io`](crate::Kind::Io); nothing is lost by trying again.
    pub fn sync(&mut self) -> Result<()> {
        self.log.sync().map(drop)
    }

    /// Bytes on disk and in memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// Letters (and crossings out) that made room for newer ones since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// What reading all letters has met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Met {
    /// Letters given out.
    pub letters: u64,
    /// Records that could not be read, and stretches of bytes that are no records.
    pub damaged: u64,
}

/// Gives all letters in order, with their numbers, from the directory of a pipeline; those crossed out are left out. Changes
/// nothing, and can be used while another process adds letters. One block is in memory at a time, and the numbers of
/// letters that were crossed out.
///
/// # Errors
/// [`Io`](crate::Kind::Io) where the store fails, [`State`](crate::Kind::State) for a newer format, and what `each`
/// returns.
pub fn read(store: &mut dyn Store, mut each: impl FnMut(u64, Letter) -> Result<()>) -> Result<Met> {
    let mut gone = BTreeSet::new();
    walk(store, |_, record| {
        if let Ok(Entry::Gone(number)) = decode(record) {
            gone.insert(number);
        }
        Ok(())
    })?;
    let (mut letters, mut unreadable) = (0, 0);
    let stretches = walk(store, |number, record| {
        if gone.contains(&number) {
            return Ok(());
        }
        match decode(record) {
            Ok(Entry::Letter(letter)) => {
                letters += 1;
                each(number, letter)
            }
            Ok(Entry::Gone(_)) => Ok(()),
            Err(_) => {
                unreadable += 1;
                Ok(())
            }
        }
    })?;
    Ok(Met { letters, damaged: unreadable + stretches })
}

/// Calls `each` for every record there is; counts the damaged stretches. The end of the last segment may be being
/// written: what is not whole there is none of them.
fn walk(store: &mut dyn Store, mut each: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<u64> {
    let mut segments = Vec::new();
    for name in store.list(DIR)? {
        if let Some(id) = SegmentId::parse(&name) {
            id.check_head(store, DIR)?;
            segments.push(id);
        }
    }
    segments.sort_unstable();
    let mut reader = BlockReader::default();
    let mut damages = 0;
    for (index, id) in segments.iter().enumerate() {
        let path = id.path(DIR);
        let next = segments.get(index + 1).map(|next| next.base);
        // A segment that was removed a moment ago is no loss: it made room.
        let Ok(end) = store.len(&path) else { continue };
        let mut position = HEAD_BYTES;
        while position < end {
            let found = match reader.load(store, &path, *id, position, end)? {
                Some(header) => Some((position, header)),
                None => {
                    let found = reader.find(store, &path, *id, position + 1, end)?;
                    damages += u64::from(found.is_some());
                    found
                }
            };
            let Some((at, header)) = found else { break };
            // What lies at or beyond the next segment's first offset was written again there.
            if next.is_some_and(|next| header.first >= next) {
                break;
            }
            let (mut number, mut at_byte) = (header.first, 0);
            while let Some((record, behind)) = block::record(&reader.payload, at_byte) {
                each(number, record)?;
                (number, at_byte) = (number + 1, behind);
            }
            position = at + header.bytes();
        }
    }
    Ok(damages)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use proptest::prelude::*;

    use super::super::Memory;
    use super::*;

    fn rows(numbers: std::ops::Range<i64>) -> RecordBatch {
        let texts: ArrayRef =
            Arc::new(StringArray::from_iter_values(numbers.clone().map(|n| format!("row {n}"))));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
        RecordBatch::try_from_iter([("n", numbers), ("text", texts)]).unwrap()
    }

    fn letter(body: LetterBody) -> Letter {
        Letter {
            kind: LetterKind::Refused,
            node: "cloud".to_owned(),
            place: "box/p/cloud/7-0".to_owned(),
            reason: "400 Bad Request: no".to_owned(),
            status: Some(400),
            wall_us: 1_700_000_000_000_000,
            offset: Some(7),
            body,
        }
    }

    /// Bytes that zstd cannot make smaller.
    fn noise(seed: u64, count: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..count).map(|_| next()).collect()
    }

    fn read_all(memory: &Memory) -> (Vec<(u64, Letter)>, Met) {
        let mut letters = Vec::new();
        let met = read(memory.share().as_mut(), |number, letter| {
            letters.push((number, letter));
            Ok(())
        });
        (letters, met.unwrap())
    }

    #[test]
    fn letters_come_back_and_those_crossed_out_do_not() {
        let memory = Memory::new();
        assert_eq!(read_all(&memory), (Vec::new(), Met::default()));
        let given: Vec<Letter> = vec![
            letter(LetterBody::Rows(rows(0..3))),
            Letter {
                kind: LetterKind::BadPayload,
                status: None,
                offset: None,
                wall_us: -1,
                ..letter(LetterBody::Bytes { bytes: b"{not json".to_vec(), original: 9 })
            },
            letter(LetterBody::Rows(rows(3..4))),
        ];
        let mut letters = DeadLetters::open(memory.share(), BYTES_MIN).unwrap();
        given.iter().for_each(|letter| letters.put(letter).unwrap());
        letters.sync().unwrap();
        // Readable beside the process that adds them.
        let expected: Vec<(u64, Letter)> = (0..).zip(given.clone()).collect();
        assert_eq!(read_all(&memory), (expected.clone(), Met { letters: 3, damaged: 0 }));
        letters.remove(0).unwrap();
        letters.sync().unwrap();
        drop(letters);
        memory.crash(1);
        let mut letters = DeadLetters::open(memory.share(), BYTES_MIN).unwrap();
        assert_eq!(read_all(&memory).0, expected[1..]);
        letters.put(&given[0]).unwrap();
        letters.sync().unwrap();
        assert_eq!(read_all(&memory).0.last(), Some(&(4, given[0].clone())));
    }

    #[test]
    fn the_oldest_make_room_and_are_counted() {
        let memory = Memory::new();
        let mut letters = DeadLetters::open(memory.share(), BYTES_MIN).unwrap();
        for number in 0..300 {
            let bytes = noise(number, 10_000);
            letters.put(&letter(LetterBody::Bytes { original: 10_000, bytes })).unwrap();
            letters.sync().unwrap();
            assert!(letters.bytes() <= BYTES_MIN, "{}", letters.bytes());
        }
        let (kept, met) = read_all(&memory);
        assert_eq!(met.damaged, 0);
        assert_eq!(kept.first().unwrap().0, letters.dropped());
        assert_eq!(kept.last().unwrap().0, 299);
        assert!((70..110).contains(&kept.len()), "{}", kept.len());
    }

    #[test]
    fn what_is_too_large_is_divided_or_cut() {
        let memory = Memory::new();
        let mut letters = DeadLetters::open(memory.share(), BYTES_MIN).unwrap();
        letters.put(&letter(LetterBody::Bytes { bytes: noise(1, 400_000), original: 400_000 })).unwrap();
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..40_000));
        let many = RecordBatch::try_from_iter([("n", column)]).unwrap();
        letters.put(&letter(LetterBody::Rows(many.clone()))).unwrap();
        let wide: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(200_000)]));
        let wide = RecordBatch::try_from_iter([("text", wide)]).unwrap();
        letters.put(&letter(LetterBody::Rows(wide))).unwrap();
        letters.sync().unwrap();
        let (kept, _) = read_all(&memory);
        let LetterBody::Bytes { bytes, original } = &kept[0].1.body else { panic!("bytes") };
        assert!((100_000..131_072).contains(&bytes.len()) && *original == 400_000, "{}", bytes.len());
        let parts = kept[1..kept.len() - 1].iter().map(|(_, letter)| match &letter.body {
            LetterBody::Rows(rows) => rows.clone(),
            LetterBody::Bytes { .. } => panic!("rows"),
        });
        let parts: Vec<RecordBatch> = parts.collect();
        assert!(parts.len() > 1);
        assert_eq!(arrow::compute::concat_batches(&many.schema(), &parts).unwrap(), many);
        let LetterBody::Bytes { bytes, original } = &kept[kept.len() - 1].1.body else { panic!("bytes") };
        assert!(bytes.is_empty() && *original > 200_000);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn no_bytes_make_the_reader_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), at: usize, to: u8) {
            let _ = decode(&bytes);
            bytes.insert(0, TAG_LETTER);
            let _ = decode(&bytes);
            // And one byte of a good letter is another, or the end is missing.
            let mut good = Vec::new();
            letter(LetterBody::Rows(rows(0..2))).encode(&mut good).unwrap();
            let end = at % good.len();
            let _ = decode(&good[..end]);
            good[end] = to;
            let _ = decode(&good);
        }

        #[test]
        fn whatever_the_files_hold_reading_them_ends(
            junk in proptest::collection::vec(any::<u8>(), 0..200),
            at: usize,
            seed: u64,
        ) {
            let memory = Memory::new();
            let mut letters = DeadLetters::open(memory.share(), BYTES_MIN).unwrap();
            for number in 0..5 {
                letters.put(&letter(LetterBody::Rows(rows(number..number + 1)))).unwrap();
                letters.sync().unwrap();
            }
            drop(letters);
            let path = SegmentId { base: 0, generation: 0 }.path(DIR);
            let mut bytes = memory.contents(&path).unwrap();
            let start = at % bytes.len();
            for (byte, other) in bytes.iter_mut().skip(start).zip(&junk) {
                *byte = *other;
            }
            memory.plant(&path, bytes);
            let (kept, _) = read_all(&memory);
            prop_assert!(kept.len() <= 5);
            memory.crash(seed);
            let mut letters = DeadLetters::open(memory.share(), BYTES_MIN).unwrap();
            letters.put(&letter(LetterBody::Rows(rows(9..10)))).unwrap();
            letters.sync().unwrap();
            let last = read_all(&memory).0.pop().unwrap().1;
            prop_assert_eq!(last, letter(LetterBody::Rows(rows(9..10))));
        }
    }
}
