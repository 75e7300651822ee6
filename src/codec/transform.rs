//! Reversible transforms of a column's values, which make them smaller or easier for a stage. Pure.
//!
//! A transform takes `n` words of `w` = 1, 2, 4 or 8 bytes, little-endian, and gives bytes; what it needs to be
//! undone stands in those bytes. All arithmetic is modulo `2^(8w)`, on the bits as they are: floats keep
//! their NaN payloads and negative zeros. Transform ids are part of the frame format and never change.
//!
//! | id | transform | bytes |
//! |---:|---|---|
//! | 0 | plain | the words |
//! | 1 | constant | one word, of which all `n` are copies |
//! | 2 | planes | first all lowest bytes, then all second bytes, …: `w` planes of `n` bytes |
//! | 3 | delta planes | the planes of `zigzag(x[i] - x[i-1])`, `x[-1] = 0` |
//! | 4 | second delta planes | the planes of `zigzag(d[i] - d[i-1])`, `d[0] = x[0]` on its own, `d[i] = x[i] - x[i-1]`, and `d[1]` counts from 0 |
//! | 5 | xor planes | the planes of `x[i] ^ x[i-1]`, `x[-1] = 0` |
//! | 6 | varints | each word as unsigned LEB128 |
//! | 7 | delta varints | the words of 3, each as LEB128 |
//! | 8 | second delta varints | the words of 4, each as LEB128 |
//!
//! `zigzag(v) = (v << 1) ^ (v >> (8w - 1))` with a sign-filling shift: small numbers of either sign become
//! small. Planes and xor for floats follow the byte shuffle of Blosc (F. Alted 2010) and Gorilla (T. Pelkonen
//! et al., VLDB 2015); second deltas for timestamps are Gorilla's as well.

use super::stage::BlockWriter;
use super::wire::{Reader, put_varint};
use crate::error::{Error, Result};

#[cfg(target_endian = "big")]
compile_error!("frames are read and written as Arrow's buffers lie in memory, which must be little-endian");

/// How many words of a column the candidates are tried on, in two runs.
const SAMPLE_WORDS_MAX: usize = 512;
const SAMPLE_WORDS_MIN: usize = 128;

/// See the module's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Transform {
    Plain = 0,
    Constant = 1,
    Planes = 2,
    DeltaPlanes = 3,
    SecondDeltaPlanes = 4,
    XorPlanes = 5,
    Varints = 6,
    DeltaVarints = 7,
    SecondDeltaVarints = 8,
}

use Transform::{
    Constant, DeltaPlanes, DeltaVarints, Plain, Planes, SecondDeltaPlanes, SecondDeltaVarints, Varints,
    XorPlanes,
};

/// All transforms, in the order of their ids.
const ALL: [Transform; 9] = [
    Plain,
    Constant,
    Planes,
    DeltaPlanes,
    SecondDeltaPlanes,
    XorPlanes,
    Varints,
    DeltaVarints,
    SecondDeltaVarints,
];

/// What the words of a column mean, as far as a choice of transform cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Signed or unsigned numbers, times, keys, lengths.
    Integers,
    /// IEEE 754 numbers.
    Floats,
    /// Text, packed bits: bytes that only a stage can do something with.
    Bytes,
}

impl Meaning {
    /// What may be worth trying. `Constant` is not among them: it wins wherever it is possible.
    fn candidates(self, width: usize) -> &'static [Transform] {
        match (self, width) {
            (Self::Bytes, _) => &[Plain],
            (_, 1) => &[Plain, DeltaPlanes],
            (Self::Floats, _) => &[Plain, Planes, XorPlanes, DeltaPlanes],
            (Self::Integers, _) => {
                &[Plain, Planes, DeltaPlanes, SecondDeltaPlanes, Varints, DeltaVarints, SecondDeltaVarints]
            }
        }
    }
}

/// A word of 1, 2, 4 or 8 bytes with the few operations that transforms are made of.
trait Word: Copy + Default + Into<u64> + TryFrom<u64> {
    const BYTES: usize;
    fn load(bytes: &[u8]) -> Self;
    fn store(self, bytes: &mut [u8]);
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    fn zigzag(self) -> Self;
    fn unzigzag(self) -> Self;
}

macro_rules! word {
    ($unsigned:ty, $signed:ty) => {
        impl Word for $unsigned {
            const BYTES: usize = size_of::<Self>();
            #[inline]
            fn load(bytes: &[u8]) -> Self {
                bytes.first_chunk().map_or(0, |bytes| Self::from_le_bytes(*bytes))
            }
            #[inline]
            fn store(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
            #[inline]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline]
            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline]
            fn xor(self, other: Self) -> Self {
                self ^ other
            }
            #[inline]
            fn zigzag(self) -> Self {
                (self << 1) ^ ((self as $signed) >> (Self::BITS - 1)) as Self
            }
            #[inline]
            fn unzigzag(self) -> Self {
                (self >> 1) ^ (self & 1).wrapping_neg()
            }
        }
    };
}

word!(u8, i8);
word!(u16, i16);
word!(u32, i32);
word!(u64, i64);

/// Runs a generic function for the word type of a width; widths are from this crate, never from foreign bytes.
macro_rules! by_width {
    ($width:expr, $function:ident ( $($argument:expr),* )) => {
        match $width {
            1 => $function::<u8>($($argument),*),
            2 => $function::<u16>($($argument),*),
            4 => $function::<u32>($($argument),*),
            8 => $function::<u64>($($argument),*),
            other => unreachable!("a word of {other} bytes"),
        }
    };
}

impl Transform {
    /// The transform with this id, if this version knows it.
    pub(crate) fn from_id(id: u8) -> Option<Self> {
        ALL.get(usize::from(id)).copied()
    }

    /// Whether the output is `width` planes with statistics of their own.
    fn has_planes(self) -> bool {
        matches!(self, Planes | DeltaPlanes | SecondDeltaPlanes | XorPlanes)
    }

    /// The length of one plane, 0 for a transform without planes: what a stage may want to know.
    pub(crate) fn segment(self, width: usize, raw_bytes: usize) -> usize {
        if self.has_planes() { raw_bytes / width } else { 0 }
    }

    /// The most bytes that `count` words can have after this transform.
    pub(crate) fn bytes_max(self, width: usize, count: usize) -> usize {
        match self {
            Constant => width,
            Varints | DeltaVarints | SecondDeltaVarints => count.saturating_mul((8 * width).div_ceil(7)),
            Plain | Planes | DeltaPlanes | SecondDeltaPlanes | XorPlanes => count.saturating_mul(width),
        }
    }

    /// Transforms `values` into `out`, whose former content is lost; `scratch` is for its own use.
    pub(crate) fn apply(self, width: usize, values: &[u8], scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Plain => out.extend_from_slice(values),
            Constant => out.extend_from_slice(&values[..width]),
            Planes => split_planes(width, values, out),
            Varints => by_width!(width, put_words(values, out)),
            DeltaPlanes | DeltaVarints => by_width!(width, deltas(values, scratch)),
            SecondDeltaPlanes | SecondDeltaVarints => by_width!(width, second_deltas(values, scratch)),
            XorPlanes => by_width!(width, xors(values, scratch)),
        }
        match self {
            DeltaPlanes | SecondDeltaPlanes | XorPlanes => split_planes(width, scratch, out),
            DeltaVarints | SecondDeltaVarints => by_width!(width, put_words(scratch, out)),
            Plain | Constant | Planes | Varints => {}
        }
    }

    /// Undoes [`Transform::apply`] on foreign bytes; `out` has the length of the values.
    ///
    /// # Errors
    /// The bytes have another length than that, or a varint does not fit a word.
    pub(crate) fn undo(self, width: usize, bytes: &[u8], out: &mut [u8]) -> Result<()> {
        let expected = if self == Constant { width } else { out.len() };
        match self {
            Varints | DeltaVarints | SecondDeltaVarints => by_width!(width, take_words(bytes, out))?,
            _ if bytes.len() != expected => {
                return Err(Error::data(format!("{} bytes of values where {expected} belong", bytes.len())));
            }
            Plain => out.copy_from_slice(bytes),
            Constant => out.chunks_exact_mut(width).for_each(|word| word.copy_from_slice(bytes)),
            Planes | DeltaPlanes | SecondDeltaPlanes | XorPlanes => join_planes(width, bytes, out),
        }
        match self {
            DeltaPlanes | DeltaVarints => by_width!(width, undo_deltas(out)),
            SecondDeltaPlanes | SecondDeltaVarints => by_width!(width, undo_second_deltas(out)),
            XorPlanes => by_width!(width, undo_xors(out)),
            Plain | Constant | Planes | Varints => {}
        }
        Ok(())
    }
}

fn split_planes(width: usize, values: &[u8], out: &mut Vec<u8>) {
    if width == 1 {
        return out.extend_from_slice(values);
    }
    let start = out.len();
    out.resize(start + values.len(), 0);
    let planes = out[start..].chunks_exact_mut((values.len() / width).max(1));
    for (at, plane) in planes.enumerate() {
        for (byte, word) in plane.iter_mut().zip(values.chunks_exact(width)) {
            *byte = word[at];
        }
    }
}

fn join_planes(width: usize, bytes: &[u8], out: &mut [u8]) {
    if width == 1 {
        return out.copy_from_slice(bytes);
    }
    for (at, plane) in bytes.chunks_exact((bytes.len() / width).max(1)).enumerate() {
        for (word, &byte) in out.chunks_exact_mut(width).zip(plane) {
            word[at] = byte;
        }
    }
}

/// Maps each word to `next(word)` into `out`, whose former content is lost.
fn map_words<W: Word>(values: &[u8], out: &mut Vec<u8>, mut next: impl FnMut(W) -> W) {
    out.clear();
    out.resize(values.len(), 0);
    for (to, from) in out.chunks_exact_mut(W::BYTES).zip(values.chunks_exact(W::BYTES)) {
        next(W::load(from)).store(to);
    }
}

/// Replaces each word by `next(word)` where it stands.
fn replace_words<W: Word>(words: &mut [u8], mut next: impl FnMut(W) -> W) {
    for word in words.chunks_exact_mut(W::BYTES) {
        next(W::load(word)).store(word);
    }
}

fn deltas<W: Word>(values: &[u8], out: &mut Vec<u8>) {
    let mut previous = W::default();
    map_words::<W>(values, out, |value| {
        let delta = value.minus(previous);
        previous = value;
        delta.zigzag()
    });
}

fn undo_deltas<W: Word>(words: &mut [u8]) {
    let mut previous = W::default();
    replace_words::<W>(words, |delta| {
        previous = previous.plus(delta.unzigzag());
        previous
    });
}

fn second_deltas<W: Word>(values: &[u8], out: &mut Vec<u8>) {
    let mut before: Option<W> = None;
    let mut delta_before = W::default();
    map_words::<W>(values, out, |value| {
        let second = match before {
            None => value,
            Some(previous) => {
                let delta = value.minus(previous);
                let second = delta.minus(delta_before);
                delta_before = delta;
                second
            }
        };
        before = Some(value);
        second.zigzag()
    });
}

fn undo_second_deltas<W: Word>(words: &mut [u8]) {
    let mut before: Option<W> = None;
    let mut delta = W::default();
    replace_words::<W>(words, |second| {
        let value = match before {
            None => second.unzigzag(),
            Some(previous) => {
                delta = delta.plus(second.unzigzag());
                previous.plus(delta)
            }
        };
        before = Some(value);
        value
    });
}

fn xors<W: Word>(values: &[u8], out: &mut Vec<u8>) {
    let mut previous = W::default();
    map_words::<W>(values, out, |value| {
        let difference = value.xor(previous);
        previous = value;
        difference
    });
}

fn undo_xors<W: Word>(words: &mut [u8]) {
    let mut previous = W::default();
    replace_words::<W>(words, |difference| {
        previous = previous.xor(difference);
        previous
    });
}

fn put_words<W: Word>(values: &[u8], out: &mut Vec<u8>) {
    for word in values.chunks_exact(W::BYTES) {
        put_varint(W::load(word).into(), out);
    }
}

fn take_words<W: Word>(bytes: &[u8], out: &mut [u8]) -> Result<()> {
    let mut reader = Reader::new(bytes);
    for word in out.chunks_exact_mut(W::BYTES) {
        let value = reader.varint()?;
        let value = W::try_from(value)
            .map_err(|_| Error::data(format!("{value} does not fit {} bytes", W::BYTES)))?;
        value.store(word);
    }
    if reader.remaining() > 0 {
        return Err(Error::data(format!("{} bytes too many after the last value", reader.remaining())));
    }
    Ok(())
}

/// Whether all words (at least two) are the same.
fn all_same(width: usize, values: &[u8]) -> bool {
    // Each word equals the one before it: the bytes equal themselves, shifted by one word.
    values.len() >= 2 * width && values[width..] == values[..values.len() - width]
}

/// Chooses transforms by trying them, with the buffers for that.
#[derive(Default)]
pub(crate) struct Chooser {
    sample: Vec<u8>,
    scratch: Vec<u8>,
    transformed: Vec<u8>,
}

impl Chooser {
    /// The transform after which `stage` makes a sample of `values` smallest; the earlier one in a tie. The
    /// same values always give the same choice.
    pub(crate) fn choose(
        &mut self,
        meaning: Meaning,
        width: usize,
        values: &[u8],
        stage: &mut BlockWriter,
    ) -> Result<Transform> {
        let candidates = meaning.candidates(width);
        if meaning != Meaning::Bytes && all_same(width, values) {
            return Ok(Constant);
        }
        if candidates.len() == 1 || values.len() <= width {
            return Ok(Plain);
        }
        self.take_sample(width, values);
        let mut best = (usize::MAX, Plain);
        for &candidate in candidates {
            candidate.apply(width, &self.sample, &mut self.scratch, &mut self.transformed);
            let segment = candidate.segment(width, self.transformed.len());
            let cost = stage.cost_bytes(&self.transformed, segment)?;
            if cost < best.0 {
                best = (cost, candidate);
            }
        }
        Ok(best.1)
    }

    /// Two runs of neighbours, a quarter and three quarters through the column; a short column whole.
    fn take_sample(&mut self, width: usize, values: &[u8]) {
        let words = values.len() / width;
        let wanted = (words / 8).clamp(SAMPLE_WORDS_MIN, SAMPLE_WORDS_MAX);
        self.sample.clear();
        if words <= wanted {
            return self.sample.extend_from_slice(values);
        }
        let run = wanted / 2;
        for quarter in [1, 3] {
            let start = (words * quarter / 4).min(words - run);
            self.sample.extend_from_slice(&values[start * width..(start + run) * width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stage::Stage;
    use super::*;
    use proptest::prelude::*;

    fn bytes_of(values: &[u64], width: usize) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes().into_iter().take(width)).collect()
    }

    fn applied(transform: Transform, width: usize, values: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        transform.apply(width, values, &mut Vec::new(), &mut out);
        out
    }

    #[test]
    fn known_vectors() {
        let values = bytes_of(&[100, 110, 120, 131], 2);
        for (transform, expected) in [
            (Plain, &[100, 0, 110, 0, 120, 0, 131, 0][..]),
            (Planes, &[100, 110, 120, 131, 0, 0, 0, 0]),
            (DeltaPlanes, &[200, 20, 20, 22, 0, 0, 0, 0]),
            (SecondDeltaPlanes, &[200, 20, 0, 2, 0, 0, 0, 0]),
            (XorPlanes, &[100, 10, 22, 251, 0, 0, 0, 0]),
            (Varints, &[100, 110, 120, 131, 1]),
            (DeltaVarints, &[200, 1, 20, 20, 22]),
            (SecondDeltaVarints, &[200, 1, 20, 0, 2]),
        ] {
            assert_eq!(applied(transform, 2, &values), expected, "{transform:?}");
            assert_eq!(Transform::from_id(transform as u8), Some(transform));
        }
        assert_eq!(Transform::from_id(9), None);
        // Minus one is 1, plus one is 2, the smallest number is the largest.
        assert_eq!(applied(DeltaPlanes, 1, &[255, 0, 128]), [1, 2, 255]);
    }

    #[test]
    fn the_choice_follows_the_data() {
        let mut chooser = Chooser::default();
        let mut choose = |meaning, width, values: &[u64], stage: Stage| {
            chooser
                .choose(meaning, width, &bytes_of(values, width), &mut BlockWriter::new(&stage).unwrap())
                .unwrap()
        };
        let regular: Vec<u64> = (0..4000).map(|at| 1_700_000_000_000_000 + at * 100_000).collect();
        let jumpy: Vec<u64> = (0..4000u64)
            .map(|at| (at * at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(at as u32))
            .collect();
        let walk: Vec<u64> = (0..4000u64).map(|at| (20.0 + (at as f64 * 0.01).sin()).to_bits()).collect();
        assert_eq!(choose(Meaning::Integers, 8, &[7; 300], Stage::Huffman), Constant);
        assert_eq!(choose(Meaning::Integers, 8, &regular, Stage::Stored), SecondDeltaVarints);
        assert!(matches!(
            choose(Meaning::Integers, 8, &regular, Stage::Huffman),
            SecondDeltaPlanes | SecondDeltaVarints
        ));
        assert_eq!(choose(Meaning::Integers, 8, &jumpy, Stage::Stored), Plain);
        assert_ne!(choose(Meaning::Floats, 8, &walk, Stage::default()), Plain);
        assert_eq!(choose(Meaning::Bytes, 1, &[1, 1, 1], Stage::default()), Plain);
    }

    #[test]
    fn wrong_lengths_are_errors() {
        for transform in ALL {
            let values = bytes_of(&[1, 2, 3], 4);
            let bytes = applied(transform, 4, &values);
            for cut in 0..bytes.len() {
                assert!(transform.undo(4, &bytes[..cut], &mut [0; 12]).is_err(), "{transform:?} {cut}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(transform.undo(4, &longer, &mut [0; 12]).is_err(), "{transform:?}");
            assert!(bytes.len() <= transform.bytes_max(4, 3));
        }
        assert!(
            Varints
                .undo(1, &[0x80, 2], &mut [0; 1])
                .unwrap_err()
                .to_string()
                .contains("256 does not fit 1 bytes")
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_transform_is_undone(values in prop::collection::vec(any::<u64>(), 0..200), narrow: bool) {
            for width in [1, 2, 4, 8] {
                let mask = if narrow { 0xff } else { u64::MAX };
                let bytes = bytes_of(&values.iter().map(|value| value & mask).collect::<Vec<_>>(), width);
                for transform in ALL.into_iter().filter(|&transform| transform != Constant) {
                    let mut out = vec![0; bytes.len()];
                    let there = applied(transform, width, &bytes);
                    prop_assert!(there.len() <= transform.bytes_max(width, values.len()));
                    transform.undo(width, &there, &mut out).unwrap();
                    prop_assert_eq!(&out, &bytes, "{:?} {}", transform, width);
                }
            }
        }
    }
}
