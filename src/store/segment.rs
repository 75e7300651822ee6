//! A file of the log: its name, its head, and reading blocks out of it. Touches files only through `Store`.
//!
//! A segment is named `<first offset>-<generation>.log` and begins with 32 bytes that keep their layout in every
//! format version:
//!
//! ```text
//! magic "tidelog\n" │ version u16 │ 0 u16 │ generation u32 │ first offset u64 │ begun u32 │ CRC-32 of these
//! ```
//!
//! `begun` is when, in seconds since 1970; 0 where no time was known. A segment ends where the next one begins: what a segment holds at or beyond the first offset of its successor is the
//! remainder of a write that failed, and was written again in the successor. Of two segments with the same first
//! offset the higher generation holds.

use memchr::memmem;

use super::Store;
use super::block::{self, Header, Place, Unpacker};
use super::wire::Wire;
use crate::{Error, Result};

/// Bytes before the first block.
pub(crate) const HEAD_BYTES: u64 = 32;
/// The format this program reads and writes. Version 1 numbered the sources instead of naming them.
const VERSION: u16 = 2;
const MAGIC: [u8; 8] = *b"tidelog\n";
const SUFFIX: &str = ".log";
/// Bytes looked through at a time for the block behind a damaged one.
const SEARCH_BYTES: usize = 64 << 10;

/// Which segment: the two numbers in its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentId {
    pub base: u64,
    pub generation: u32,
}

impl SegmentId {
    /// The segment's path in the log's directory.
    pub fn path(self, dir: &str) -> String {
        format!("{dir}/{:020}-{:04}{SUFFIX}", self.base, self.generation)
    }

    /// Which segment a file name means; `None` for a name that is none of the log's.
    pub fn parse(name: &str) -> Option<SegmentId> {
        let (base, generation) = name.strip_suffix(SUFFIX)?.split_once('-')?;
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if base.len() != 20 || generation.len() < 4 || !digits(base) || !digits(generation) {
            return None;
        }
        Some(SegmentId { base: base.parse().ok()?, generation: generation.parse().ok()? })
    }

    /// The place of a block in this segment.
    pub fn place(self, position: u64) -> Place {
        Place { base: self.base, generation: self.generation, position }
    }

    /// The bytes a new segment begins with.
    pub fn head(self, begun_s: u32) -> [u8; HEAD_BYTES as usize] {
        self.head_of_version(VERSION, begun_s)
    }

    pub(crate) fn head_of_version(self, version: u16, begun_s: u32) -> [u8; HEAD_BYTES as usize] {
        let mut head = [0; HEAD_BYTES as usize];
        head[..8].copy_from_slice(&MAGIC);
        head[8..10].copy_from_slice(&version.to_le_bytes());
        head[12..16].copy_from_slice(&self.generation.to_le_bytes());
        head[16..24].copy_from_slice(&self.base.to_le_bytes());
        head[24..28].copy_from_slice(&begun_s.to_le_bytes());
        let crc = crc32fast::hash(&head[..28]);
        head[28..].copy_from_slice(&crc.to_le_bytes());
        head
    }

    /// Reads the head and refuses a format from the future. A damaged head is no reason to give up: the blocks carry
    /// their own checksums. When the segment was begun; `None` where the head is damaged.
    pub fn check_head(self, store: &mut dyn Store, dir: &str) -> Result<Option<u32>> {
        let path = self.path(dir);
        let mut head = [0; HEAD_BYTES as usize];
        if store.read(&path, 0, &mut head)? < head.len() {
            return Ok(None);
        }
        let (covered, crc) = head.split_at(28);
        if !covered.starts_with(&MAGIC) || Wire(crc).u32() != Some(crc32fast::hash(covered)) {
            return Ok(None);
        }
        let mut fields = Wire(covered);
        let version = fields.array().map(|_: [u8; MAGIC.len()]| ()).and_then(|()| fields.u16()).unwrap_or(0);
        if version != VERSION {
            return Err(Error::state(format!(
                "{path} has format version {version} and this program reads version {VERSION}: run the version that \
                 wrote it, or move the directory away to start with an empty log"
            )));
        }
        let begun_s = covered.last_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        Ok((head == self.head_of_version(version, begun_s)).then_some(begun_s))
    }
}

/// A segment and how many of its bytes count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub id: SegmentId,
    pub bytes: u64,
    /// When it was begun, in seconds since 1970; 0 where that is not known.
    pub begun_s: u32,
}

/// Reads blocks; keeps its buffers between them.
#[derive(Default)]
pub(crate) struct BlockReader {
    /// The records of the block read last, each behind its length.
    pub payload: Vec<u8>,
    stored: Vec<u8>,
    unpacker: Unpacker,
}

impl BlockReader {
    /// Reads the block at `position` of a segment of which `end` bytes count; its records are in `payload` then.
    /// `None` where there is no intact one.
    pub fn load(
        &mut self,
        store: &mut dyn Store,
        path: &str,
        id: SegmentId,
        position: u64,
        end: u64,
    ) -> Result<Option<Header>> {
        let mut bytes = [0; block::HEADER_BYTES];
        if end.saturating_sub(position) < bytes.len() as u64
            || store.read(path, position, &mut bytes)? < bytes.len()
        {
            return Ok(None);
        }
        let Some(header) = Header::parse(&bytes) else { return Ok(None) };
        if header.bytes() > end - position {
            return Ok(None);
        }
        // The length is bounded by the file's and by the limit that `parse` holds.
        self.stored.resize(header.stored as usize, 0);
        let read = store.read(path, position + bytes.len() as u64, &mut self.stored)?;
        if read < self.stored.len() || !header.is_intact(&bytes, id.place(position), &self.stored) {
            return Ok(None);
        }
        Ok(self.unpacker.unpack(&header, &mut self.stored, &mut self.payload)?.then_some(header))
    }

    /// Looks for the next intact block at or after `from`; its position and header, and its records in `payload`.
    pub fn find(
        &mut self,
        store: &mut dyn Store,
        path: &str,
        id: SegmentId,
        from: u64,
        end: u64,
    ) -> Result<Option<(u64, Header)>> {
        let finder = memmem::Finder::new(&block::MAGIC);
        let mut window = vec![0; SEARCH_BYTES];
        let mut start = from;
        while start < end {
            let wanted = usize::try_from(end - start).unwrap_or(usize::MAX).min(SEARCH_BYTES);
            let Some(room) = window.get_mut(..wanted) else { break };
            let count = store.read(path, start, room)?;
            let seen = window.get(..count).unwrap_or_default();
            for at in finder.find_iter(seen) {
                let position = start + at as u64;
                if let Some(header) = self.load(store, path, id, position, end)? {
                    return Ok(Some((position, header)));
                }
            }
            // The magic may lie across the edge of two windows.
            let step = count.saturating_sub(block::MAGIC.len() - 1);
            if step == 0 || count < wanted {
                break;
            }
            start += step as u64;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Memory;
    use super::*;

    #[test]
    fn names_sort_like_offsets_and_foreign_names_are_left_alone() {
        let id = SegmentId { base: 42, generation: 3 };
        assert_eq!(id.path("log"), "log/00000000000000000042-0003.log");
        assert_eq!(SegmentId::parse("00000000000000000042-0003.log"), Some(id));
        let many = SegmentId { base: u64::MAX, generation: 12_345 };
        assert_eq!(SegmentId::parse(many.path("d").trim_start_matches("d/")), Some(many));
        for name in
            ["42-0003.log", "00000000000000000042.log", "0000000000000000+042-0003.log", "lock", ".log"]
        {
            assert_eq!(SegmentId::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_newer_format_is_refused_a_damaged_head_is_not() {
        let id = SegmentId { base: 5, generation: 0 };
        let path = id.path("log");
        let mut store = Memory::new();
        store.plant(&path, id.head(77).to_vec());
        assert_eq!(id.check_head(&mut store, "log").unwrap(), Some(77));
        store.plant(&path, id.head_of_version(3, 0).to_vec());
        let error = id.check_head(&mut store, "log").unwrap_err();
        assert_eq!(error.kind, crate::Kind::State);
        assert!(error.message.contains("format version 3 and this program reads version 2"), "{error}");
        for at in 0..HEAD_BYTES as usize {
            let mut head = id.head(77);
            head[at] ^= 4;
            store.plant(&path, head.to_vec());
            assert_eq!(id.check_head(&mut store, "log").unwrap(), None, "byte {at}");
        }
        store.plant(&path, SegmentId { base: 6, generation: 0 }.head(77).to_vec());
        assert_eq!(id.check_head(&mut store, "log").unwrap(), None, "a renamed segment");
    }
}
