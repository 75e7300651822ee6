//! Payloads of messages in few bytes: what a sensor's messages have in common once, and of each its numbers. Pure.
//!
//! Messages of a device differ in their digits alone: `{"ts":1704067200000,"temp":47.12}`. A *template* is such a payload
//! without its runs of digits; a message is the number of its template and one number for each run. The numbers of a run
//! make a column (see [`planes`]), which takes a byte or two a message. It is exact for any bytes: a run
//! of digits is kept with its length (leading zeros and all), and what fits no template is kept as it is.
//!
//! ```text
//! payload bytes, together varint │ templates u8 │ (runs u8 │ (literal text)^(runs + 1))^templates
//! │ column: template of each row, `templates` for none
//! │ for each template: a column for each of its runs
//! │ column: lengths of the others │ the others, one after the other
//! ```
//!
//! A run of *n* digits of value *v* is the number *v* + 10 + 100 + … + 10ⁿ⁻¹: the shorter ones come first, so every number
//! is one run and every run is one number.

use std::collections::HashMap;

use super::planes::{self, Column};
use super::wire::{Wire, put_bytes, put_varint};

/// Digits of a run at most: their number fits in 64 bits. Longer ones are part of the literals.
const DIGITS_MAX: usize = 19;
/// Templates of a batch at most. Messages that fit none are kept as they are.
const TEMPLATES_MAX: usize = 48;
/// Runs in a template at most.
const RUNS_MAX: usize = 96;
/// Bytes of a payload that becomes a template, at most.
const TEMPLATE_BYTES_MAX: usize = 4096;
/// Fewer rows than these are not worth a template.
const ROWS_MIN: usize = 4;
/// Most bytes of the payloads of a batch that is written so, and so what a reader allocates.
pub(crate) const PAYLOADS_BYTES_MAX: usize = 64 << 20;

/// What is allocated on the word of a file alone; beyond it memory grows with what is read.
const CLAIM_BYTES_MAX: usize = 1 << 20;

/// The number of the first run of each length.
const FIRST: [u64; DIGITS_MAX + 1] = {
    let mut first = [0; DIGITS_MAX + 1];
    let (mut digits, mut power) = (2, 10u64);
    while digits <= DIGITS_MAX {
        first[digits] = first[digits - 1] + power;
        power = power.wrapping_mul(10);
        digits += 1;
    }
    first
};

/// Powers of ten by their exponent.
const POWER: [u64; 9] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// What stands between two runs, and its first eight bytes to compare at once.
struct Literal {
    text: Box<[u8]>,
    first: u64,
    mask: u64,
}

impl Literal {
    fn of(text: &[u8]) -> Literal {
        let (mut first, mut mask) = ([0; 8], [0; 8]);
        for ((first, mask), byte) in first.iter_mut().zip(&mut mask).zip(text) {
            (*first, *mask) = (*byte, 0xff);
        }
        Literal { text: text.into(), first: u64::from_le_bytes(first), mask: u64::from_le_bytes(mask) }
    }

    /// What is behind this literal in bytes that begin with it. Most are short: one comparison, no call.
    fn strip<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let Some(eight) = bytes.first_chunk::<8>() else { return bytes.strip_prefix(&self.text[..]) };
        if (u64::from_le_bytes(*eight) ^ self.first) & self.mask != 0 {
            return None;
        }
        match self.text.len() <= 8 {
            true => bytes.get(self.text.len()..),
            false => bytes.strip_prefix(&self.text[..]),
        }
    }
}

/// A payload without its digits.
struct Template {
    /// One more than runs.
    literals: Vec<Literal>,
    /// The numbers of the rows that fit, row by row.
    numbers: Vec<u64>,
}

impl Template {
    /// The template that a payload fits; `None` for one that is too large.
    fn of(payload: &[u8]) -> Option<Template> {
        if payload.len() > TEMPLATE_BYTES_MAX {
            return None;
        }
        let mut literals = Vec::new();
        let (mut at, mut from) = (0, 0);
        while at < payload.len() {
            let rest = payload.get(at..)?;
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if (1..=DIGITS_MAX).contains(&digits) {
                literals.push(Literal::of(payload.get(from..at)?));
                from = at + digits;
            }
            at += digits.max(1);
        }
        literals.push(Literal::of(payload.get(from..)?));
        (literals.len() <= RUNS_MAX + 1).then(|| Template { literals, numbers: Vec::new() })
    }

    fn runs(&self) -> usize {
        self.literals.len() - 1
    }

    /// Whether a payload fits; then its numbers are kept.
    fn takes(&mut self, payload: &[u8]) -> bool {
        let start = self.numbers.len();
        let fits = self.split(payload).is_some();
        if !fits {
            self.numbers.truncate(start);
        }
        fits
    }

    fn split(&mut self, payload: &[u8]) -> Option<()> {
        let (last, literals) = self.literals.split_last()?;
        let mut rest = payload;
        for literal in literals {
            rest = literal.strip(rest)?;
            let (number, digits) = run(rest)?;
            self.numbers.push(number);
            rest = rest.get(digits..)?;
        }
        (rest == &last.text[..]).then_some(())
    }
}

/// A hash of what a payload is without its digits.
fn skeleton(payload: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut in_run = false;
    for byte in payload {
        let is_digit = byte.is_ascii_digit();
        if !(is_digit && in_run) {
            let byte = if is_digit { b'0' } else { *byte };
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        in_run = is_digit;
    }
    hash ^ (hash >> 32)
}

/// The run of digits that some bytes begin with, as its number and length; `None` where there is none, or too long a one.
fn run(bytes: &[u8]) -> Option<(u64, usize)> {
    let (mut value, mut digits) = (0u64, 0);
    let mut rest = bytes;
    loop {
        let eight = rest.first_chunk::<8>().copied().unwrap_or_else(|| {
            let mut padded = [0; 8];
            padded.iter_mut().zip(rest).for_each(|(place, byte)| *place = *byte);
            padded
        });
        let (number, count) = leading_digits(u64::from_le_bytes(eight));
        digits += count;
        if digits > DIGITS_MAX {
            return None;
        }
        value = value * POWER.get(count)? + number;
        if count < 8 {
            break;
        }
        rest = rest.get(8..)?;
    }
    let first = FIRST.get(digits).filter(|_| digits > 0)?;
    Some((value + first, digits))
}

/// The value and count of the digits that eight bytes, the first the lowest, begin with: pairs, then fours, then all (the
/// method of simdjson's `parse_eight_digits_unrolled`; Lemire, "Number Parsing at a Gigabyte per Second", 2021).
fn leading_digits(bytes: u64) -> (u64, usize) {
    let digits = bytes ^ 0x3030_3030_3030_3030;
    // A byte is a digit if it is at most nine now: adding 0x76 to its low bits sets the high one if not.
    let others = ((digits & 0x7f7f_7f7f_7f7f_7f7f) + 0x7676_7676_7676_7676) | digits;
    let count = ((others & 0x8080_8080_8080_8080).trailing_zeros() / 8) as usize;
    // Leading zeros instead of what follows.
    let digits = digits.unbounded_shl(64 - 8 * count as u32);
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let high = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    (low.wrapping_add(high) >> 32, count)
}

/// The templates of a batch, and which bear which hash.
struct Templates {
    list: Vec<Template>,
    by_skeleton: HashMap<u64, usize>,
}

impl Templates {
    /// The template that takes a payload: the one at `hint`, the one of its skeleton, or a new one.
    fn fitting(&mut self, payload: &[u8], hint: usize) -> Option<usize> {
        if self.list.get_mut(hint).is_some_and(|template| template.takes(payload)) {
            return Some(hint);
        }
        let skeleton = skeleton(payload);
        if let Some(at) = self.by_skeleton.get(&skeleton) {
            return self.list.get_mut(*at).is_some_and(|template| template.takes(payload)).then_some(*at);
        }
        if self.list.len() == TEMPLATES_MAX {
            return None;
        }
        let mut template = Template::of(payload)?;
        if !template.takes(payload) {
            return None;
        }
        let at = self.list.len();
        self.list.push(template);
        self.by_skeleton.insert(skeleton, at);
        Some(at)
    }
}

/// Appends payloads: `offsets` of each in `bytes`, one more than there are; `kinds` says which rows are probably alike
/// (numbers below `kinds_count`), for example by their topic.
pub(crate) fn put(out: &mut Vec<u8>, offsets: &[i32], bytes: &[u8], kinds: &[u64], kinds_count: usize) {
    let mut templates = Templates { list: Vec::new(), by_skeleton: HashMap::new() };
    let rows = offsets.len().saturating_sub(1);
    let mut chosen: Vec<u64> = Vec::with_capacity(rows);
    let (mut lengths, mut others): (Vec<u64>, Vec<u8>) = (Vec::new(), Vec::new());
    let mut last_of = vec![0usize; kinds_count];
    let base = offsets.first().copied().unwrap_or(0);
    for (row, pair) in offsets.windows(2).enumerate() {
        let (from, to) = ((pair[0] - base) as usize, (pair[1] - base) as usize);
        let payload = bytes.get(from..to).unwrap_or_default();
        let hint = kinds.get(row).and_then(|kind| last_of.get_mut(*kind as usize));
        // Where most rows fit nothing, looking further only costs time.
        let hopeless = rows < ROWS_MIN || lengths.len() > 32 + row / 2;
        let found = match hopeless {
            true => None,
            false => templates.fitting(payload, hint.as_deref().copied().unwrap_or(0)),
        };
        if let (Some(found), Some(hint)) = (found, hint) {
            *hint = found;
        }
        if found.is_none() {
            lengths.push(payload.len() as u64);
            others.extend_from_slice(payload);
        }
        chosen.push(found.map_or(u64::MAX, |found| found as u64));
    }
    let templates = templates.list;
    put_varint(out, bytes.len() as u64);
    out.push(templates.len() as u8);
    for template in &templates {
        out.push(template.runs() as u8);
        template.literals.iter().for_each(|literal| put_bytes(out, &literal.text));
    }
    chosen.iter_mut().for_each(|number| *number = (*number).min(templates.len() as u64));
    planes::put(out, &chosen);
    let mut column = Vec::new();
    for template in &templates {
        for run in 0..template.runs() {
            column.clear();
            column.extend(template.numbers.iter().skip(run).step_by(template.runs()));
            planes::put(out, &column);
        }
    }
    planes::put(out, &lengths);
    out.extend_from_slice(&others);
}

/// A template as it is read.
struct Read<'a> {
    literals: Vec<&'a [u8]>,
    columns: Vec<Column<'a>>,
}

/// Payloads that were read: offsets of each, one more than there are, and their bytes.
pub(crate) struct Payloads {
    pub offsets: Vec<i32>,
    pub bytes: Vec<u8>,
}

/// Reads the payloads of `rows` messages; `None` where the bytes are not what [`put`] wrote. What is allocated is bounded
/// by [`PAYLOADS_BYTES_MAX`] and by `rows`, which the caller has bounded.
pub(crate) fn read(wire: &mut Wire, rows: usize) -> Option<Payloads> {
    let total = usize::try_from(wire.varint()?).ok().filter(|total| *total <= PAYLOADS_BYTES_MAX)?;
    let mut templates = read_literals(wire)?;
    let chosen = Column::read(wire, rows)?;
    let mut counts = vec![0usize; templates.len() + 1];
    for template in chosen.clone() {
        *counts.get_mut(usize::try_from(template).ok()?)? += 1;
    }
    for (template, count) in templates.iter_mut().zip(&counts) {
        for _ in 1..template.literals.len() {
            template.columns.push(Column::read(wire, *count)?);
        }
    }
    let mut lengths = Column::read(wire, counts.last().copied()?)?;
    let mut payloads = Payloads {
        offsets: Vec::with_capacity(rows + 1),
        bytes: Vec::with_capacity(total.min(CLAIM_BYTES_MAX)),
    };
    payloads.offsets.push(0);
    for template in chosen {
        match templates.get_mut(template as usize) {
            Some(template) => template.write(&mut payloads.bytes, total)?,
            None => {
                let length = usize::try_from(lengths.next()?).ok()?;
                payloads.bytes.extend_from_slice(wire.take(length)?);
            }
        }
        if payloads.bytes.len() > total {
            return None;
        }
        payloads.offsets.push(payloads.bytes.len() as i32);
    }
    (payloads.bytes.len() == total).then_some(payloads)
}

fn read_literals<'a>(wire: &mut Wire<'a>) -> Option<Vec<Read<'a>>> {
    let count = usize::from(wire.u8()?);
    let mut templates = Vec::with_capacity(count);
    for _ in 0..count {
        let runs = usize::from(wire.u8()?);
        let mut literals = Vec::with_capacity(runs + 1);
        for _ in 0..=runs {
            let length = usize::try_from(wire.varint()?).ok()?;
            literals.push(wire.take(length)?);
        }
        templates.push(Read { literals, columns: Vec::with_capacity(runs) });
    }
    Some(templates)
}

impl Read<'_> {
    /// Writes the next payload of this template; `None` where it would go beyond `total`.
    fn write(&mut self, out: &mut Vec<u8>, total: usize) -> Option<()> {
        let (first, rest) = self.literals.split_first()?;
        out.extend_from_slice(first);
        for (column, literal) in self.columns.iter_mut().zip(rest) {
            write_run(out, column.next()?);
            out.extend_from_slice(literal);
            if out.len() > total {
                return None;
            }
        }
        Some(())
    }
}

/// Appends the run of digits that a number stands for.
fn write_run(out: &mut Vec<u8>, number: u64) {
    let digits = (1..DIGITS_MAX).find(|digits| FIRST.get(digits + 1).is_some_and(|next| number < *next));
    let digits = digits.unwrap_or(DIGITS_MAX);
    let mut value = number - FIRST.get(digits).copied().unwrap_or(0);
    let start = out.len();
    out.resize(start + digits, b'0');
    for place in out.iter_mut().skip(start).rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut offsets = vec![5];
        let mut bytes = Vec::new();
        for payload in payloads {
            bytes.extend_from_slice(payload);
            offsets.push(5 + bytes.len() as i32);
        }
        let kinds: Vec<u64> = (0..payloads.len() as u64).map(|row| row % 3).collect();
        let mut out = Vec::new();
        put(&mut out, &offsets, &bytes, &kinds, 3);
        out
    }

    fn read_all(bytes: &[u8], rows: usize) -> Option<Vec<Vec<u8>>> {
        let mut wire = Wire(bytes);
        let payloads = read(&mut wire, rows)?;
        let parts = payloads.offsets.windows(2);
        let parts = parts.map(|pair| payloads.bytes[pair[0] as usize..pair[1] as usize].to_vec()).collect();
        wire.0.is_empty().then_some(parts)
    }

    fn comes_back(payloads: &[Vec<u8>]) -> usize {
        let bytes = written(payloads);
        assert_eq!(read_all(&bytes, payloads.len()).as_deref(), Some(payloads));
        bytes.len()
    }

    #[test]
    fn a_reading_takes_the_bytes_of_its_numbers() {
        let payloads: Vec<Vec<u8>> = (0..1000u64)
            .map(|at| {
                let (ts, temp, vib) = (1_704_067_200_000 + at / 3, at * 7919 % 1000, at * 104_729 % 9000);
                format!("{{\"ts\":{ts},\"temp\":4{}.{:02},\"vib\":0.0{vib}}}", temp / 100, temp % 100)
                    .into_bytes()
            })
            .collect();
        // A byte for the time's steps, one for each part of temp, two for vib.
        let length = comes_back(&payloads);
        assert!(length < 1000 * 5 + 200, "{length} bytes");
    }

    #[test]
    fn whatever_the_payloads_are_they_come_back() {
        let tables: &[&[&[u8]]] = &[
            &[],
            &[b""],
            &[b"", b"", b"", b"", b""],
            &[b"7", b"007", b"70", b"0", b"00", b"1", b"9999999999999999999", b"0000000000000000000"],
            &[
                b"12345678901234567890",
                b"1",
                b"123456789012345678901234567890",
                b"99999999999999999999",
                b"x",
            ],
            &[b"a1b", b"a1", b"1b", b"a12b", b"a1b2", b"ab", b"\xff\x00", b"a1b"],
            &[b"-1.5e-3", b"1.5e3", b"-12.5e-30", b"nan", b"-0.0e-0"],
            &[b"12345678", b"1234567", b"123456789012345", b"1234567890123456", b"1234567a"],
        ];
        for table in tables {
            comes_back(&table.iter().map(|payload| payload.to_vec()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn payloads_without_anything_in_common_are_kept_as_they_are() {
        let payloads: Vec<Vec<u8>> =
            (0..2000u32).map(|at| blake3::hash(&at.to_le_bytes()).as_bytes().to_vec()).collect();
        let length = comes_back(&payloads);
        assert!(length < 2000 * 33 + 3000, "{length} bytes");
    }

    #[test]
    fn every_run_is_one_number_and_every_number_one_run() {
        for text in ["0", "9", "00", "99", "000", "010", "99999999", "00000000", "9999999999999999999"] {
            let (number, digits) = run(text.as_bytes()).unwrap();
            let mut back = Vec::new();
            write_run(&mut back, number);
            assert_eq!((digits, &back[..]), (text.len(), text.as_bytes()));
        }
        assert_eq!(run(b"9"), Some((9, 1)));
        assert_eq!(run(b"00,"), Some((10, 2)));
        assert_eq!(run(b"x"), None);
        assert_eq!(run(b"12345678901234567890"), None);
        // Whatever number a file claims, it is some run.
        let mut back = Vec::new();
        write_run(&mut back, u64::MAX);
        assert_eq!(back.len(), DIGITS_MAX);
    }

    #[test]
    fn a_short_text_that_claims_many_bytes_is_refused_before_they_are_there() {
        let payloads: Vec<Vec<u8>> = (0..8).map(|at| format!("value {at}").into_bytes()).collect();
        let good = written(&payloads);
        for rows in [7, 9, 1 << 20] {
            assert!(read(&mut Wire(&good), rows).is_none(), "{rows} rows");
        }
        for length in 0..good.len() {
            assert!(read_all(&good[..length], 8).is_none(), "{length} bytes");
        }
        let mut claims = Vec::new();
        put_varint(&mut claims, PAYLOADS_BYTES_MAX as u64 + 1);
        claims.extend_from_slice(&good[1..]);
        assert!(read_all(&claims, 8).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_payloads_come_back(payloads in prop::collection::vec("[0-9]{0,22}[a-c.-]{0,2}[0-9]{0,9}[{}\"]{0,2}", 0..40)) {
            let payloads: Vec<Vec<u8>> = payloads.into_iter().map(String::into_bytes).collect();
            comes_back(&payloads);
        }

        /// No panic and no runaway allocation, whatever the bytes.
        #[test]
        fn changed_bytes_give_other_payloads_or_none(at: prop::sample::Index, byte: u8, rows in 0usize..40) {
            let payloads: Vec<Vec<u8>> = (0..20).map(|at| format!("{{\"a\":{at},\"b\":{}}}", at * 997).into_bytes()).collect();
            let mut bytes = written(&payloads);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = read(&mut Wire(&bytes), rows);
            let _ = read(&mut Wire(&bytes), 20);
        }
    }
}
