//! Canonical, length-limited Huffman codes: from counts to code lengths, from lengths to codes and to the
//! decoder's table, and the lengths' own encoding. Pure. Sources and format are described in [`super`].

use super::super::wire::Reader;
use crate::error::{Error, Result};

/// No code is longer, so that a table of this many bits decodes any symbol in one step.
pub(super) const CODE_BITS_MAX: u32 = 11;
pub(super) const TABLE_LEN: usize = 1 << CODE_BITS_MAX;

// Nibbles that are no code lengths.
const SHORT_ABSENT: u8 = 12;
const LONG_ABSENT: u8 = 13;
const PREVIOUS: u8 = 14;

/// Code lengths of 1 to 11 bits for the symbols that occur (at least two), 0 for the others; a complete code.
pub(super) fn code_lengths(counts: &[u32; 256]) -> [u8; 256] {
    let mut order = [0u64; 256];
    let mut used = 0;
    for (symbol, &count) in (0u64..).zip(counts) {
        if count > 0 {
            order[used] = u64::from(count) << 8 | symbol;
            used += 1;
        }
    }
    let order = &mut order[..used];
    order.sort_unstable();
    let mut work = [0u32; 256];
    let work = &mut work[..used];
    work.iter_mut().zip(order.iter()).for_each(|(weight, &key)| *weight = (key >> 8) as u32);
    minimum_redundancy(work);
    limit_lengths(work);
    let mut lengths = [0u8; 256];
    for (&key, &bits) in order.iter().zip(work.iter()) {
        lengths[(key & 0xff) as usize] = bits as u8;
    }
    lengths
}

/// Turns ascending weights (at least two) into the code lengths of a Huffman code, in place: Moffat and
/// Katajainen's three passes (parents, internal depths, leaf depths).
fn minimum_redundancy(work: &mut [u32]) {
    let len = work.len();
    work[0] += work[1];
    let (mut root, mut leaf) = (0, 2);
    for next in 1..len - 1 {
        if leaf >= len || work[root] < work[leaf] {
            work[next] = work[root];
            work[root] = next as u32;
            root += 1;
        } else {
            work[next] = work[leaf];
            leaf += 1;
        }
        if leaf >= len || (root < next && work[root] < work[leaf]) {
            work[next] += work[root];
            work[root] = next as u32;
            root += 1;
        } else {
            work[next] += work[leaf];
            leaf += 1;
        }
    }
    work[len - 2] = 0;
    for next in (0..len - 2).rev() {
        work[next] = work[work[next] as usize] + 1;
    }
    let (mut available, mut depth) = (1, 0);
    let (mut internal, mut next) = (len - 1, len);
    while available > 0 {
        let mut used = 0;
        while internal > 0 && work[internal - 1] == depth {
            used += 1;
            internal -= 1;
        }
        for _ in used..available {
            next -= 1;
            work[next] = depth;
        }
        available = 2 * used;
        depth += 1;
    }
}

/// Cuts lengths at 11 bits (rarest symbol first in `lengths`) and repairs Kraft's sum to exactly one: first
/// the rarest symbols give way, then the most frequent ones take what is left over.
///
/// It always comes out even: every share is a multiple of the smallest one, so whatever is left over fits
/// at least the symbol with the longest code.
fn limit_lengths(lengths: &mut [u32]) {
    let share = |bits: u32| 1usize << (CODE_BITS_MAX - bits);
    lengths.iter_mut().for_each(|bits| *bits = (*bits).min(CODE_BITS_MAX));
    let mut sum: usize = lengths.iter().map(|&bits| share(bits)).sum();
    for bits in lengths.iter_mut() {
        while sum > TABLE_LEN && *bits < CODE_BITS_MAX {
            *bits += 1;
            sum -= share(*bits);
        }
    }
    for bits in lengths.iter_mut().rev() {
        while *bits > 1 && sum + share(*bits) <= TABLE_LEN {
            sum += share(*bits);
            *bits -= 1;
        }
    }
    debug_assert_eq!(sum, TABLE_LEN, "the code is complete");
}

/// Calls `each(symbol, length, code)`, the code with its first bit lowest, for a canonical code.
pub(super) fn canonical(lengths: &[u8; 256], mut each: impl FnMut(u8, u32, u32)) {
    let mut starts = [0u32; CODE_BITS_MAX as usize + 2];
    for &bits in lengths.iter().filter(|&&bits| bits > 0) {
        starts[usize::from(bits) + 1] += 1;
    }
    for bits in 1..starts.len() {
        starts[bits] = (starts[bits] + starts[bits - 1]) << 1;
    }
    for (symbol, &bits) in (0u8..=255).zip(lengths) {
        if bits > 0 {
            let code = &mut starts[usize::from(bits)];
            each(symbol, u32::from(bits), code.reverse_bits() >> (32 - u32::from(bits)));
            *code += 1;
        }
    }
}

/// Appends code lengths as nibbles.
pub(super) fn put_lengths(lengths: &[u8; 256], out: &mut Vec<u8>) {
    let mut half: Option<u8> = None;
    let mut put = |nibbles: &[u8]| {
        for &nibble in nibbles {
            match half.take() {
                None => half = Some(nibble),
                Some(low) => out.push(low | nibble << 4),
            }
        }
    };
    let mut at = 0;
    while at < lengths.len() {
        let value = lengths[at];
        let run = lengths[at..].iter().take_while(|&&other| other == value).count();
        if value == 0 && run >= 18 {
            let extra = (run - 18).min(255);
            put(&[LONG_ABSENT, (extra & 15) as u8, (extra >> 4) as u8]);
            at += extra + 18;
        } else if value == 0 && run >= 2 {
            let extra = (run - 2).min(15);
            put(&[SHORT_ABSENT, extra as u8]);
            at += extra + 2;
        } else if value > 0 && run >= 4 {
            let extra = (run - 4).min(15);
            put(&[value, PREVIOUS, extra as u8]);
            at += extra + 4;
        } else {
            put(&[value]);
            at += 1;
        }
    }
    if let Some(low) = half {
        out.push(low);
    }
}

/// Reads what [`put_lengths`] writes, from foreign bytes; whether they form a code is not checked yet.
pub(super) fn take_lengths(reader: &mut Reader<'_>) -> Result<[u8; 256]> {
    let mut lengths = [0u8; 256];
    let mut half: Option<u8> = None;
    let mut take = || -> Result<u8> {
        if let Some(high) = half.take() {
            return Ok(high);
        }
        let byte = reader.u8()?;
        half = Some(byte >> 4);
        Ok(byte & 15)
    };
    let (mut at, mut previous) = (0, 0u8);
    while at < lengths.len() {
        let (value, run) = match take()? {
            SHORT_ABSENT => (0, usize::from(take()?) + 2),
            LONG_ABSENT => (0, usize::from(take()?) + 16 * usize::from(take()?) + 18),
            PREVIOUS => (previous, usize::from(take()?) + 3),
            bits if u32::from(bits) <= CODE_BITS_MAX => (bits, 1),
            other => return Err(Error::data(format!("Huffman: {other} is no code length"))),
        };
        let Some(run) = lengths.get_mut(at..at + run) else {
            return Err(Error::data("Huffman: more than 256 code lengths"));
        };
        run.fill(value);
        at += run.len();
        previous = value;
    }
    Ok(lengths)
}

/// Fills the decoder's table: per 11 bits of input the code length in the low byte, the symbol above it.
///
/// # Errors
/// The lengths do not form a complete code.
pub(super) fn fill_table(lengths: &[u8; 256], table: &mut [u16; TABLE_LEN]) -> Result<()> {
    let sum: usize = lengths.iter().filter(|&&bits| bits > 0).map(|&bits| TABLE_LEN >> bits).sum();
    if sum != TABLE_LEN {
        return Err(Error::data("Huffman: the code lengths do not form a complete code"));
    }
    canonical(lengths, |symbol, bits, code| {
        let entry = u16::from(symbol) << 8 | bits as u16;
        table.iter_mut().skip(code as usize).step_by(1 << bits).for_each(|slot| *slot = entry);
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lengths_are_within_the_limit_and_the_code_is_complete() {
        // Fibonacci weights make the deepest trees that there are.
        for used in 2..=40 {
            let mut counts = [0u32; 256];
            let (mut low, mut high) = (1u32, 1u32);
            for count in counts.iter_mut().take(used.min(26)) {
                *count = low;
                (low, high) = (high, low + high);
            }
            counts.iter_mut().take(used).skip(26).for_each(|count| *count = 1);
            let lengths = code_lengths(&counts);
            assert!(lengths.iter().all(|&bits| u32::from(bits) <= CODE_BITS_MAX));
            let mut table = [0; TABLE_LEN];
            fill_table(&lengths, &mut table).unwrap();
        }
    }
}
