//! The Huffman stage: canonical codes of at most 11 bits over bytes, in blocks of at most 128 KiB. Pure.
//!
//! Sources of the methods: D. A. Huffman 1952; lengths in place after A. Moffat and J. Katajainen, "In-place
//! calculation of minimum-redundancy codes", WADS 1995; four interleaved streams as in Y. Collet's Huff0.
//!
//! ## Format
//!
//! Blocks follow one another until the raw length, known from outside, is reached. A block begins with a
//! varint (LEB128) `raw_bytes << 2 | mode`; `raw_bytes` is 1 to 131 072. Modes:
//!
//! | mode | bytes after the head |
//! |---:|---|
//! | 0 stored | the raw bytes |
//! | 1 repeat | one byte, repeated `raw_bytes` times |
//! | 2 one stream | code lengths; varint length of the stream; the stream |
//! | 3 four streams | code lengths; four varint lengths; the four streams, one after the other |
//!
//! With four streams the raw bytes are cut in four parts of `ceil(raw_bytes / 4)` bytes, the last ones shorter.
//!
//! *Code lengths* are a sequence of nibbles, low nibble of a byte first, covering symbols 0 to 255 in order;
//! a left-over nibble is zero. 0–11: the code length of one symbol (0: does not occur). 12, then a nibble `n`:
//! `n + 2` absent symbols. 13, then nibbles `lo hi`: `16 hi + lo + 18` absent symbols. 14, then `n`: the
//! previous length `n + 3` times more. 15 is not used. The lengths form a complete code: their sum of
//! `2^-length` is one.
//!
//! *Codes* are canonical: in order of (length, symbol), each code is the one before plus one, shifted left
//! when the length grows. A *stream* holds the codes of its symbols from the least significant bit of the
//! first byte upwards, the most significant bit of each code first; the last byte is filled with zero bits.

mod code;

use self::code::{TABLE_LEN, canonical, code_lengths, fill_table, put_lengths, take_lengths};
use super::stage::Coder;
use super::wire::{Reader, put_varint};
use crate::error::{Error, Result};

/// No block is larger, so that neither is any buffer that a block's head can ask for.
const BLOCK_BYTES_MAX: usize = 128 << 10;
/// Pieces that are considered on their own when the caller does not say where statistics change.
const SEGMENT_BYTES: usize = 16 << 10;
/// Below this, four streams cost more than they gain.
const FOUR_STREAMS_FROM_BYTES: usize = 1024;

const STORED: u64 = 0;
const REPEAT: u64 = 1;
const ONE_STREAM: u64 = 2;
const FOUR_STREAMS: u64 = 3;

/// The coder, with the tables it reuses.
pub(crate) struct Huffman {
    /// Per 11 bits of input: code length in the low byte, where a shift takes it as it is; symbol above it.
    table: Box<[u16; TABLE_LEN]>,
    lengths: Vec<u8>,
    streams: Vec<u8>,
}

impl Default for Huffman {
    fn default() -> Self {
        Self { table: Box::new([0; TABLE_LEN]), lengths: Vec::new(), streams: Vec::new() }
    }
}

/// A run of raw bytes that becomes one block, and what that costs.
#[derive(Clone)]
struct Plan {
    start: usize,
    end: usize,
    counts: [u32; 256],
    lengths: [u8; 256],
    cost_bytes: usize,
    mode: u64,
}

impl Plan {
    fn new(start: usize, end: usize, counts: [u32; 256], scratch: &mut Vec<u8>) -> Self {
        let mut plan = Self { start, end, counts, lengths: [0; 256], cost_bytes: 0, mode: REPEAT };
        let raw_bytes = end - start;
        if counts.iter().filter(|&&count| count > 0).count() < 2 {
            plan.cost_bytes = 4;
            return plan;
        }
        plan.lengths = code_lengths(&counts);
        scratch.clear();
        put_lengths(&plan.lengths, scratch);
        let bits: usize =
            counts.iter().zip(&plan.lengths).map(|(&count, &bits)| count as usize * usize::from(bits)).sum();
        let four = raw_bytes >= FOUR_STREAMS_FROM_BYTES;
        // The head, the streams' lengths and their last bytes are part of the price.
        plan.cost_bytes = 3 + scratch.len() + bits.div_ceil(8) + if four { 12 } else { 2 };
        plan.mode = if four { FOUR_STREAMS } else { ONE_STREAM };
        if plan.cost_bytes >= raw_bytes + 3 {
            plan.cost_bytes = raw_bytes + 3;
            plan.mode = STORED;
        }
        plan
    }
}

impl Coder for Huffman {
    fn compress(&mut self, raw: &[u8], segment: usize, out: &mut Vec<u8>) -> Result<()> {
        let segment = if segment == 0 { SEGMENT_BYTES } else { segment };
        let mut open: Option<Plan> = None;
        let mut start = 0;
        while start < raw.len() {
            // A segment that is longer than a block is cut in blocks, the next one starts on its own.
            let end = raw.len().min(start + BLOCK_BYTES_MAX).min((start / segment + 1) * segment);
            let next = Plan::new(start, end, count(&raw[start..end]), &mut self.lengths);
            start = end;
            open = Some(match open.take() {
                None => next,
                Some(before) => match merged(&before, &next, &mut self.lengths) {
                    Some(both) => both,
                    None => {
                        write_block(&before, raw, &mut self.streams, out);
                        next
                    }
                },
            });
        }
        if let Some(last) = open {
            write_block(&last, raw, &mut self.streams, out);
        }
        Ok(())
    }

    fn decompress(&mut self, bytes: &[u8], out: &mut [u8]) -> Result<()> {
        let mut reader = Reader::new(bytes);
        let mut rest = out;
        while !rest.is_empty() {
            let head = reader.varint()?;
            let raw_bytes = usize::try_from(head >> 2).unwrap_or(usize::MAX);
            if raw_bytes == 0 || raw_bytes > BLOCK_BYTES_MAX || raw_bytes > rest.len() {
                return Err(Error::data(format!(
                    "Huffman: a block of {raw_bytes} bytes where {} are left",
                    rest.len()
                )));
            }
            let (block, after) = rest.split_at_mut(raw_bytes);
            rest = after;
            match head & 3 {
                STORED => block.copy_from_slice(reader.take(raw_bytes)?),
                REPEAT => block.fill(reader.u8()?),
                mode => {
                    let lengths = take_lengths(&mut reader)?;
                    fill_table(&lengths, &mut self.table)?;
                    if mode == ONE_STREAM {
                        let mut bits = Bits::new(reader.bytes()?);
                        finish_stream(&self.table, &mut bits, block)?;
                    } else {
                        four_streams(&self.table, &mut reader, block)?;
                    }
                }
            }
        }
        if reader.remaining() > 0 {
            return Err(Error::data(format!("Huffman: {} bytes too many", reader.remaining())));
        }
        Ok(())
    }
}

/// Both runs as one block, if that is no dearer and not too long.
fn merged(before: &Plan, next: &Plan, scratch: &mut Vec<u8>) -> Option<Plan> {
    if next.end - before.start > BLOCK_BYTES_MAX {
        return None;
    }
    let mut counts = before.counts;
    counts.iter_mut().zip(&next.counts).for_each(|(sum, count)| *sum += count);
    let both = Plan::new(before.start, next.end, counts, scratch);
    (both.cost_bytes <= before.cost_bytes + next.cost_bytes).then_some(both)
}

/// How often each byte occurs. Four tables, so that runs of one byte do not wait for their own last store.
fn count(raw: &[u8]) -> [u32; 256] {
    let mut tables = [[0u32; 256]; 4];
    let chunks = raw.chunks_exact(4);
    for &byte in chunks.remainder() {
        tables[0][usize::from(byte)] += 1;
    }
    for chunk in chunks {
        for (table, &byte) in tables.iter_mut().zip(chunk) {
            table[usize::from(byte)] += 1;
        }
    }
    let [mut sum, others @ ..] = tables;
    for other in others {
        sum.iter_mut().zip(other).for_each(|(sum, count)| *sum += count);
    }
    sum
}

fn write_block(plan: &Plan, raw: &[u8], streams: &mut Vec<u8>, out: &mut Vec<u8>) {
    let raw = &raw[plan.start..plan.end];
    put_varint((raw.len() as u64) << 2 | plan.mode, out);
    match plan.mode {
        STORED => out.extend_from_slice(raw),
        REPEAT => out.extend(raw.first()),
        mode => {
            put_lengths(&plan.lengths, out);
            let mut codes = [0u32; 256];
            canonical(&plan.lengths, |symbol, bits, code| codes[usize::from(symbol)] = code | bits << 16);
            let part = if mode == FOUR_STREAMS { raw.len().div_ceil(4) } else { raw.len() };
            streams.clear();
            for stream in raw.chunks(part) {
                let start = streams.len();
                write_stream(stream, &codes, streams);
                put_varint((streams.len() - start) as u64, out);
            }
            out.extend_from_slice(streams);
        }
    }
}

fn write_stream(raw: &[u8], codes: &[u32; 256], out: &mut Vec<u8>) {
    let mut at = out.len();
    // Eleven bits for eight at most, and room for whole words to be stored at the end.
    out.resize(at + raw.len() + raw.len() / 2 + 16, 0);
    let (mut word, mut filled) = (0u64, 0u32);
    // Five codes of at most 11 bits and the 7 bits left before fit 64.
    for chunk in raw.chunks(5) {
        for &byte in chunk {
            let code = codes[usize::from(byte)];
            word |= u64::from(code & 0xffff) << filled;
            filled += code >> 16;
        }
        out[at..at + 8].copy_from_slice(&word.to_le_bytes());
        at += (filled / 8) as usize;
        word >>= filled & !7;
        filled &= 7;
    }
    out.truncate(at + usize::from(filled > 0));
}

/// A bit reader. Bits at and above `filled` in `word` are either zero or what the next refill puts there.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    word: u64,
    filled: u32,
    /// In its low byte, how many bits the symbols since the last refill took.
    spent: u32,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, word: 0, filled: 0, spent: 0 }
    }

    /// Brings `filled` up to date; wraps when more bits were spent than there were.
    #[inline]
    fn settle(&mut self) {
        self.filled = self.filled.wrapping_sub(self.spent & 0xff);
        self.spent = 0;
    }

    /// At least 56 bits afterwards; false near the end, where [`Bits::refill_slowly`] goes on.
    #[inline]
    fn refill(&mut self) -> bool {
        self.settle();
        let Some(next) = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<8>()) else {
            return false;
        };
        self.word |= u64::from_le_bytes(*next) << self.filled;
        self.at += ((63 - self.filled) / 8) as usize;
        self.filled |= 56;
        true
    }

    fn refill_slowly(&mut self) {
        self.settle();
        while self.filled <= 56 {
            let Some(&byte) = self.bytes.get(self.at) else { return };
            self.word |= u64::from(byte) << self.filled;
            self.filled += 8;
            self.at += 1;
        }
    }

    /// The next symbol: at most five after a refill. Whether its bits were there is for the caller to know.
    #[inline]
    fn symbol(&mut self, table: &[u16; TABLE_LEN]) -> u8 {
        let entry = table[self.word as usize & (TABLE_LEN - 1)];
        self.word >>= entry & 63;
        self.spent += u32::from(entry);
        (entry >> 8) as u8
    }
}

fn four_streams(table: &[u16; TABLE_LEN], reader: &mut Reader<'_>, out: &mut [u8]) -> Result<()> {
    let mut lengths = [0usize; 4];
    for length in &mut lengths {
        *length = reader.length(BLOCK_BYTES_MAX * 2, "Huffman: a stream's length")?;
    }
    let part = out.len().div_ceil(4);
    let (first, rest) = out.split_at_mut(part.min(out.len()));
    let (second, rest) = rest.split_at_mut(part.min(rest.len()));
    let (third, fourth) = rest.split_at_mut(part.min(rest.len()));
    let mut take = |at: usize| Ok::<_, Error>(Bits::new(reader.take(lengths[at])?));
    let (mut a, mut b, mut c, mut d) = (take(0)?, take(1)?, take(2)?, take(3)?);
    let mut at = 0;
    // Five symbols per refill and stream; the four are independent, so their latencies overlap.
    while at + 5 <= fourth.len() && a.refill() && b.refill() && c.refill() && d.refill() {
        let (out_a, out_b) = (&mut first[at..at + 5], &mut second[at..at + 5]);
        let (out_c, out_d) = (&mut third[at..at + 5], &mut fourth[at..at + 5]);
        for step in 0..5 {
            out_a[step] = a.symbol(table);
            out_b[step] = b.symbol(table);
            out_c[step] = c.symbol(table);
            out_d[step] = d.symbol(table);
        }
        at += 5;
    }
    finish_stream(table, &mut a, &mut first[at..])?;
    finish_stream(table, &mut b, &mut second[at..])?;
    finish_stream(table, &mut c, &mut third[at..])?;
    finish_stream(table, &mut d, &mut fourth[at..])
}

/// Decodes to the end of `out`, which must be the end of the stream.
fn finish_stream(table: &[u16; TABLE_LEN], bits: &mut Bits<'_>, out: &mut [u8]) -> Result<()> {
    let mut chunks = out.chunks_exact_mut(5);
    let mut late: &mut [u8] = &mut [];
    for chunk in chunks.by_ref() {
        if !bits.refill() {
            late = chunk;
            break;
        }
        chunk.iter_mut().for_each(|slot| *slot = bits.symbol(table));
    }
    let mut slowly = |out: &mut [u8]| -> Result<()> {
        for slot in out {
            bits.refill_slowly();
            let before = bits.filled;
            *slot = bits.symbol(table);
            bits.settle();
            if bits.filled > before {
                return Err(Error::data("Huffman: a stream ends too early"));
            }
        }
        Ok(())
    };
    slowly(late)?;
    for chunk in chunks.by_ref() {
        slowly(chunk)?;
    }
    slowly(chunks.into_remainder())?;
    bits.refill_slowly();
    if bits.at != bits.bytes.len() || bits.filled >= 8 || bits.word != 0 {
        return Err(Error::data("Huffman: a stream does not end with its last symbol"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(raw: &[u8], segment: usize) -> Vec<u8> {
        let mut out = vec![7];
        Huffman::default().compress(raw, segment, &mut out).unwrap();
        assert_eq!(out.remove(0), 7, "what was there stays");
        out
    }

    fn unpacked(bytes: &[u8], length: usize) -> Result<Vec<u8>> {
        let mut out = vec![0; length];
        Huffman::default().decompress(bytes, &mut out).map(|()| out)
    }

    fn entropy_bytes(raw: &[u8]) -> f64 {
        let total = raw.len() as f64;
        let bits = |count: u32| f64::from(count) * (total / f64::from(count)).log2();
        count(raw).into_iter().filter(|&count| count > 0).map(bits).sum::<f64>() / 8.0
    }

    /// A byte sequence whose symbols get rarer by the factor `ratio`, from a fixed generator.
    fn skewed(len: usize, ratio: f64, seed: u64) -> Vec<u8> {
        let mut state = seed;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let uniform = ((state >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
                (uniform.ln() / ratio.ln()).min(255.0) as u8
            })
            .collect()
    }

    #[test]
    fn known_vector() {
        // a: 4, b: 2, c: 1, d: 1 of 8: lengths 1 2 3 3, codes 0 10 110 111.
        let bytes = packed(b"aabacabd", 0);
        assert_eq!(bytes, [8 << 2, b'a', b'a', b'b', b'a', b'c', b'a', b'b', b'd'], "too short to gain");
        let lengths = {
            let mut lengths = [0u8; 256];
            lengths[97..101].copy_from_slice(&[1, 2, 3, 3]);
            lengths
        };
        let mut vector = vec![8 << 2 | 2];
        put_lengths(&lengths, &mut vector);
        // 97 absent = 18 + 79 (nibbles 13, 15, 4); 1, 2, 3, 3; 155 absent = 18 + 137 (nibbles 13, 9, 8).
        assert_eq!(vector[1..], [0xfd, 0x14, 0x32, 0xd3, 0x89]);
        // a a b a c a b d = 0 0 10 0 110 0 10 111, from the lowest bit up.
        vector.extend([2, 0b0110_0100, 0b0011_1010]);
        assert_eq!(unpacked(&vector, 8).unwrap(), b"aabacabd");
    }

    #[test]
    fn sizes_stay_near_the_entropy() {
        for (ratio, over) in [(0.5, 1.02), (0.8, 1.02), (0.95, 1.02), (0.99, 1.02)] {
            let raw = skewed(100_000, ratio, 11);
            let bytes = packed(&raw, 0);
            let bound = entropy_bytes(&raw);
            assert!(bytes.len() as f64 >= bound, "nothing is below the entropy");
            assert!((bytes.len() as f64) < bound * over + 200.0, "{ratio}: {} for {bound}", bytes.len());
            assert_eq!(unpacked(&bytes, raw.len()).unwrap(), raw);
        }
    }

    #[test]
    fn planes_of_different_statistics_get_codes_of_their_own() {
        let (calm, noise) = (skewed(4000, 0.5, 1), skewed(4000, 0.999, 2));
        let raw = [vec![0; 4000], calm, noise, vec![9; 4000]].concat();
        let (blind, told) = (packed(&raw, 0), packed(&raw, 4000));
        assert!(told.len() * 10 < blind.len() * 9, "{} against {}", told.len(), blind.len());
        assert_eq!(unpacked(&told, raw.len()).unwrap(), raw);
        // Alike neighbours share a code instead.
        let alike = [skewed(4000, 0.9, 3), skewed(4000, 0.9, 4)].concat();
        assert_eq!(packed(&alike, 4000).len(), packed(&alike, 8000).len());
    }

    #[test]
    fn repeats_and_noise_cost_what_they_must() {
        assert_eq!(packed(&[5; 131_072], 0).len(), 4);
        let noise: Vec<u8> = (0..300_000u64)
            .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(n | 1) >> 56) as u8)
            .collect();
        let bytes = packed(&noise, 0);
        assert!(bytes.len() <= noise.len() + 3 * 20);
        assert_eq!(unpacked(&bytes, noise.len()).unwrap(), noise);
    }

    #[test]
    fn every_cut_and_every_wrong_length_is_an_error() {
        let raw = skewed(2000, 0.8, 5);
        let bytes = packed(&raw, 0);
        for cut in 0..bytes.len() {
            assert!(unpacked(&bytes[..cut], raw.len()).is_err(), "{cut}");
        }
        for length in [0, 1, 1999, 2001, 100_000] {
            assert!(unpacked(&bytes, length).is_err(), "{length}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(unpacked(&longer, raw.len()).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_goes_in_comes_out(len in 0usize..6000, ratio in 0.1f64..0.999, seed: u64, segment in 0usize..3000) {
            let raw = skewed(len, ratio, seed);
            prop_assert_eq!(unpacked(&packed(&raw, segment), len).unwrap(), raw);
        }

        #[test]
        fn foreign_bytes_never_panic(len in 1usize..3000, at: prop::sample::Index, byte: u8, tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = packed(&skewed(len, 0.8, 9), 0);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = unpacked(&bytes, len);
            let _ = unpacked(&tail, len);
        }
    }
}
