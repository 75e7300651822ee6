//! A block of the log: what one group commit writes. Pure.
//!
//! ```text
//! magic "TGBK" │ CRC-32 │ stored bytes u32 │ raw bytes u32 │ first offset u64 │ records u32 │ flags u32 │ payload
//! payload, after decompression = (length u32 │ bytes)*
//! ```
//!
//! The CRC covers the rest of the header, the payload, and the *place*: the segment's name and the position in it.
//! So a block is valid only where it was written, and bytes inside a record that happen to be, or pretend to be,
//! a block are never taken for one.

use zstd::bulk::{Compressor, Decompressor};

use super::wire::Wire;
use crate::{Error, Result};

/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 32;
/// Bytes before each record.
pub(crate) const RECORD_HEADER_BYTES: usize = 4;
/// What a block starts with; the reader looks for it behind a damaged one.
pub(crate) const MAGIC: [u8; 4] = *b"TGBK";
/// Most payload bytes of a block, before compression, whatever the options say: a reader's memory is bounded by it.
pub(crate) const PAYLOAD_BYTES_LIMIT: usize = 64 << 20;

/// Bytes of the header that the CRC does not cover: the magic and itself.
const UNCOVERED: usize = 8;
const FLAG_ZSTD: u32 = 1;
/// Records are small already; what is left in them costs a sixth of the time at this level that it costs at level 1.
const ZSTD_LEVEL: i32 = -1;

/// Where a block is: part of what its checksum covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// First offset of the segment, from its name.
    pub base: u64,
    /// Generation of the segment, from its name.
    pub generation: u32,
    /// Bytes from the start of the segment.
    pub position: u64,
}

/// What a block's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Payload bytes as they are in the file.
    pub stored: u32,
    /// Payload bytes after decompression.
    pub raw: u32,
    /// Offset of the first record.
    pub first: u64,
    /// Records in the block.
    pub count: u32,
    /// Whether the payload is compressed.
    pub compressed: bool,
    crc: u32,
}

impl Header {
    /// What these bytes say, if they could be a header at all.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        let mut wire = Wire(bytes);
        if wire.array()? != MAGIC {
            return None;
        }
        let crc = wire.u32()?;
        let (stored, raw, first) = (wire.u32()?, wire.u32()?, wire.u64()?);
        let (count, flags) = (wire.u32()?, wire.u32()?);
        let compressed = flags == FLAG_ZSTD;
        let framing = u64::from(count) * RECORD_HEADER_BYTES as u64;
        let sane = flags & !FLAG_ZSTD == 0
            && count > 0
            && framing <= u64::from(raw)
            && raw as usize <= PAYLOAD_BYTES_LIMIT
            && (compressed || stored == raw)
            && stored <= raw
            && first.checked_add(u64::from(count)).is_some();
        sane.then_some(Header { stored, raw, first, count, compressed, crc })
    }

    /// The offset after the last record.
    pub fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// Bytes of header and payload in the file.
    pub fn bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.stored)
    }

    /// Whether header and payload are the ones that were written at this place.
    pub fn is_intact(&self, header: &[u8; HEADER_BYTES], place: Place, payload: &[u8]) -> bool {
        let (_, covered) = header.split_at(UNCOVERED);
        payload.len() == self.stored as usize && checksum(place, covered, payload) == self.crc
    }
}

fn checksum(place: Place, covered: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&place.base.to_le_bytes());
    crc.update(&place.generation.to_le_bytes());
    crc.update(&place.position.to_le_bytes());
    crc.update(covered);
    crc.update(payload);
    crc.finalize()
}

/// Fills in the header of a block whose first [`HEADER_BYTES`] were left free.
pub(crate) fn seal(block: &mut [u8], place: Place, first: u64, count: u32, raw: usize, compressed: bool) {
    assert!(
        raw <= PAYLOAD_BYTES_LIMIT && block.len() >= HEADER_BYTES,
        "the log bounds what it puts in a block"
    );
    let (header, payload) = block.split_at_mut(HEADER_BYTES);
    let mut fields = [0; HEADER_BYTES - UNCOVERED];
    let flags = if compressed { FLAG_ZSTD } else { 0 };
    fields[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    fields[4..8].copy_from_slice(&(raw as u32).to_le_bytes());
    fields[8..16].copy_from_slice(&first.to_le_bytes());
    fields[16..20].copy_from_slice(&count.to_le_bytes());
    fields[20..].copy_from_slice(&flags.to_le_bytes());
    header[..4].copy_from_slice(&MAGIC);
    header[4..UNCOVERED].copy_from_slice(&checksum(place, &fields, payload).to_le_bytes());
    header[UNCOVERED..].copy_from_slice(&fields);
}

/// Compresses payloads, when asked to.
pub(crate) struct Packer {
    compressor: Compressor<'static>,
    block: Vec<u8>,
}

impl Packer {
    /// A packer with a fast level of zstd: the log is written once and rarely read.
    pub fn new() -> Result<Packer> {
        let compressor =
            Compressor::new(ZSTD_LEVEL).map_err(|error| Error::io("setting up zstd for the log", &error))?;
        Ok(Packer { compressor, block: Vec::new() })
    }

    /// A block with free header and compressed payload, or `None` where compression gains nothing.
    pub fn pack(&mut self, payload: &[u8]) -> Option<&mut Vec<u8>> {
        self.block.clear();
        // With less room than the payload takes, zstd stops as soon as it cannot win.
        let mut packed = std::mem::take(&mut self.block);
        packed.resize(HEADER_BYTES + payload.len(), 0);
        let (_, room) = packed.split_at_mut(HEADER_BYTES);
        let outcome = self.compressor.compress_to_buffer(payload, room);
        self.block = packed;
        let bytes = outcome.ok().filter(|bytes| *bytes < payload.len())?;
        self.block.truncate(HEADER_BYTES + bytes);
        Some(&mut self.block)
    }

    /// Takes back the buffer that was taken out of what `pack` returned, to use it again.
    pub fn give_back(&mut self, block: Vec<u8>) {
        self.block = block;
    }
}

/// Decompresses payloads and checks how they are cut into records.
#[derive(Default)]
pub(crate) struct Unpacker {
    decompressor: Option<Decompressor<'static>>,
}

impl Unpacker {
    /// Writes the records of an intact block to `raw`; false where they are not what the header says.
    pub fn unpack(&mut self, header: &Header, stored: &mut Vec<u8>, raw: &mut Vec<u8>) -> Result<bool> {
        if !header.compressed {
            std::mem::swap(stored, raw);
            return Ok(is_cut_into(raw, header.count));
        }
        let decompressor = match &mut self.decompressor {
            Some(decompressor) => decompressor,
            None => {
                let fresh =
                    Decompressor::new().map_err(|error| Error::io("setting up zstd for the log", &error))?;
                self.decompressor.insert(fresh)
            }
        };
        // `Header::parse` has bounded `raw`.
        raw.clear();
        raw.resize(header.raw as usize, 0);
        let bytes = decompressor.decompress_to_buffer(stored.as_slice(), raw.as_mut_slice());
        Ok(bytes.is_ok_and(|bytes| bytes == header.raw as usize) && is_cut_into(raw, header.count))
    }
}

/// The record that starts at `at`, and where the next one starts.
pub(crate) fn record(payload: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let mut wire = Wire(payload.get(at..)?);
    let length = wire.u32()? as usize;
    let bytes = wire.take(length)?;
    Some((bytes, at + RECORD_HEADER_BYTES + length))
}

fn is_cut_into(payload: &[u8], count: u32) -> bool {
    let mut at = 0;
    for _ in 0..count {
        match record(payload, at) {
            Some((_, next)) => at = next,
            None => return false,
        }
    }
    at == payload.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { base: 7, generation: 1, position: 32 };

    fn block() -> Vec<u8> {
        let mut block = vec![0; HEADER_BYTES];
        for record in [&b"one"[..], b"", b"three"] {
            block.extend_from_slice(&(record.len() as u32).to_le_bytes());
            block.extend_from_slice(record);
        }
        let raw = block.len() - HEADER_BYTES;
        seal(&mut block, PLACE, 40, 3, raw, false);
        block
    }

    fn read(block: &[u8], place: Place) -> Option<Vec<u8>> {
        let (bytes, payload) = block.split_first_chunk()?;
        let header = Header::parse(bytes)?;
        let payload = payload.get(..header.stored as usize)?;
        header.is_intact(bytes, place, payload).then(|| payload.to_vec())
    }

    #[test]
    fn a_block_is_read_back() {
        let block = block();
        let payload = read(&block, PLACE).unwrap();
        let (one, at) = record(&payload, 0).unwrap();
        let (two, at) = record(&payload, at).unwrap();
        let (three, at) = record(&payload, at).unwrap();
        assert_eq!((one, two, three, at), (&b"one"[..], &b""[..], &b"three"[..], payload.len()));
        assert_eq!(record(&payload, at), None);
    }

    #[test]
    fn any_changed_bit_is_noticed() {
        let good = block();
        for at in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert_eq!(read(&bad, PLACE), None, "bit {at}");
        }
        for length in 0..good.len() {
            assert_eq!(read(&good[..length], PLACE), None, "{length} bytes");
        }
    }

    #[test]
    fn a_block_is_valid_only_where_it_was_written() {
        let block = block();
        for place in
            [Place { base: 8, ..PLACE }, Place { generation: 2, ..PLACE }, Place { position: 33, ..PLACE }]
        {
            assert_eq!(read(&block, place), None, "{place:?}");
        }
    }

    #[test]
    fn what_does_not_shrink_is_stored_as_it_is() {
        let mut packer = Packer::new().unwrap();
        assert!(packer.pack(b"abc").is_none());
        let long = [7; 1000];
        let packed = packer.pack(&long).unwrap();
        assert!(packed.len() < 100);
        let mut stored = packed[HEADER_BYTES..].to_vec();
        let header =
            Header { stored: stored.len() as u32, raw: 1000, first: 0, count: 1, compressed: true, crc: 0 };
        let mut raw = Vec::new();
        // It comes back, but it is not one record of 996 bytes: the framing is checked too.
        assert!(!Unpacker::default().unpack(&header, &mut stored, &mut raw).unwrap());
        assert_eq!(raw, long);
    }
}
