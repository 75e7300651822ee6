//! The writer of series. Pure. The format is described in [`super`]; what is chosen, and how, in [`super::choose`].

use serde::{Deserialize, Serialize};

use super::super::stage::{BlockWriter, Prefer, Stage};
use super::super::wire::put_varint;
use super::adaptive::{self, Shape, bit_length};
use super::bits::BitWriter;
use super::decimal::{self, Float};
use super::order::{Order, zigzag};
use super::plan::{Coder, Mapping, Plan, Trend, lengths};
use super::tokens::Tokens;
use super::{BLOCK_WORDS, Meaning};
use crate::error::Result;

/// How much is tried when something is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Effort {
    Speed,
    Balanced,
    Ratio,
}

/// A choice is kept for so many blocks of its series, unless the series changes.
const KEPT_BLOCKS: u32 = 64;
/// After a choice that did not last, the next one is kept for so long at least.
const PATIENCE_BLOCKS: u32 = 8;

/// What was chosen for a series, and how well it did.
#[derive(Serialize, Deserialize)]
struct Memory {
    plan: Plan,
    meaning: Meaning,
    width: usize,
    bits_per_value: f64,
    age_blocks: u32,
}

/// The coders that a writer may choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Allowed {
    pub(super) packed: bool,
    pub(super) adaptive: bool,
    pub(super) tokens: bool,
    pub(super) bytes: bool,
}

/// Writes series; buffers and choices live from batch to batch.
pub(crate) struct SeriesWriter {
    pub(super) allowed: Allowed,
    pub(super) effort: Effort,
    pub(super) buffers: Buffers,
    pub(super) trial: Vec<u8>,
    /// All words of a block while its sample is looked at.
    pub(super) all: Vec<u64>,
    pub(super) centred: Vec<i64>,
    memories: Vec<Option<Memory>>,
    block: Vec<u8>,
}

/// What one block needs on its way.
pub(super) struct Buffers {
    pub(super) words: Vec<u64>,
    pub(super) narrowed: Vec<u64>,
    pub(super) integers: Vec<i64>,
    pub(super) missing: Vec<i64>,
    pub(super) distinct: Vec<i64>,
    pub(super) residuals: Vec<u64>,
    nested: Vec<u8>,
    nested_residuals: Vec<u64>,
    scratch: Vec<u8>,
    tokens: Tokens,
    bytes: Option<BlockWriter>,
    /// The coder of series within series, where the outer one's residuals are all zero.
    inner: Coder,
}

impl SeriesWriter {
    /// A writer for a stage.
    ///
    /// # Errors
    /// The zstd level is not 1 to 19.
    pub(crate) fn new(stage: &Stage) -> Result<Self> {
        let none = Allowed { packed: false, adaptive: false, tokens: false, bytes: false };
        let (allowed, effort) = match stage {
            Stage::Stored => (Allowed { packed: true, ..none }, Effort::Balanced),
            Stage::Huffman => (Allowed { tokens: true, ..none }, Effort::Balanced),
            Stage::Adaptive => (Allowed { adaptive: true, ..none }, Effort::Balanced),
            Stage::Zstd { .. } | Stage::Lzw => (Allowed { bytes: true, ..none }, Effort::Balanced),
            Stage::Auto { prefer: Prefer::Speed } => {
                (Allowed { tokens: true, packed: true, ..none }, Effort::Speed)
            }
            Stage::Auto { prefer: Prefer::Balanced } => {
                (Allowed { adaptive: true, tokens: true, bytes: true, ..none }, Effort::Balanced)
            }
            Stage::Auto { prefer: Prefer::Ratio } => {
                (Allowed { adaptive: true, bytes: true, tokens: true, ..none }, Effort::Ratio)
            }
        };
        let bytes = match stage {
            Stage::Zstd { .. } | Stage::Lzw => Some(BlockWriter::new(stage)?),
            Stage::Auto { prefer } if allowed.bytes => {
                let level = if *prefer == Prefer::Ratio { 12 } else { 3 };
                Some(BlockWriter::new(&Stage::Zstd { level, dictionary: None })?)
            }
            _ => None,
        };
        let inner = if allowed.adaptive {
            Coder::Adaptive(Shape { floor: 0, context: 1, centre: 0, modelled: 2, rate: 6 })
        } else if allowed.tokens {
            Coder::Tokens
        } else if allowed.packed {
            Coder::Packed
        } else {
            Coder::Planes
        };
        let buffers = Buffers {
            inner,
            words: Vec::new(),
            narrowed: Vec::new(),
            integers: Vec::new(),
            missing: Vec::new(),
            distinct: Vec::new(),
            residuals: Vec::new(),
            nested: Vec::new(),
            nested_residuals: Vec::new(),
            scratch: Vec::new(),
            tokens: Tokens::default(),
            bytes,
        };
        Ok(Self {
            allowed,
            effort,
            buffers,
            trial: Vec::new(),
            all: Vec::new(),
            centred: Vec::new(),
            memories: Vec::new(),
            block: Vec::new(),
        })
    }

    /// Forgets all choices: the next batch has other columns.
    pub(crate) fn forget(&mut self) {
        self.memories.clear();
    }

    /// All choices, so that another writer can go on with them and write the same bytes.
    pub(crate) fn choices(&self) -> Vec<u8> {
        postcard::to_stdvec(&(self.allowed, self.effort, &self.memories)).unwrap_or_default()
    }

    /// Goes on with the choices of another writer; those of a writer for another stage mean nothing here.
    pub(crate) fn resume(&mut self, choices: &[u8]) {
        let Ok((allowed, effort, memories)) =
            postcard::from_bytes::<(Allowed, Effort, Vec<Option<Memory>>)>(choices)
        else {
            return;
        };
        if (allowed, effort) == (self.allowed, self.effort)
            && memories.iter().flatten().all(|memory| memory.plan.is_sound())
        {
            self.memories = memories;
        }
    }

    /// The byte coder behind planes and words, where there is one.
    pub(crate) fn bytes(&mut self) -> Option<&mut BlockWriter> {
        self.buffers.bytes.as_mut()
    }

    /// Appends a series of words of `width` bytes. Series of the same `slot` are expected to be alike.
    pub(crate) fn write(
        &mut self,
        slot: usize,
        meaning: Meaning,
        width: usize,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        if self.memories.len() <= slot {
            self.memories.resize_with(slot + 1, || None);
        }
        let mut rest = bytes;
        while rest.len() > BLOCK_WORDS * width {
            let (part, after) = rest.split_at(BLOCK_WORDS * width);
            rest = after;
            let mut block = std::mem::take(&mut self.block);
            block.clear();
            self.write_block(slot, meaning, width, part, &mut block)?;
            put_varint(block.len() as u64, out);
            out.extend_from_slice(&block);
            self.block = block;
        }
        if rest.is_empty() {
            return Ok(());
        }
        self.write_block(slot, meaning, width, rest, out)
    }

    fn write_block(
        &mut self,
        slot: usize,
        meaning: Meaning,
        width: usize,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        load(meaning, width, bytes, &mut self.buffers.words);
        let values = self.buffers.words.len() as f64;
        let start = out.len();
        if let Some(memory) = &mut self.memories[slot]
            && (memory.meaning, memory.width) == (meaning, width)
            && memory.age_blocks < KEPT_BLOCKS
        {
            memory.age_blocks += 1;
            if self.buffers.apply(&memory.plan, width, out)? {
                let bits = (out.len() - start) as f64 * 8.0 / values;
                let steady = (bits - memory.bits_per_value).abs() <= 0.1 * memory.bits_per_value;
                if steady || memory.age_blocks <= PATIENCE_BLOCKS {
                    return Ok(());
                }
            }
            out.truncate(start);
        }
        let plan = self.write_chosen(meaning, width, out)?;
        let bits_per_value = (out.len() - start) as f64 * 8.0 / values;
        self.memories[slot] = Some(Memory { plan, meaning, width, bits_per_value, age_blocks: 0 });
        Ok(())
    }
}

/// The float that a series' words are.
pub(super) fn float_of(width: usize, narrowed: bool) -> Float {
    match (width, narrowed) {
        (2, _) => Float::Half,
        (8, false) => Float::Double,
        _ => Float::Single,
    }
}

impl Buffers {
    /// Fills `integers`, and `missing` where the mapping is a decimal, from `words`. Gives the mapping as it came out, or
    /// nothing if the words are not narrow.
    pub(super) fn map(&mut self, narrowed: bool, mapping: Mapping, width: usize) -> Option<Mapping> {
        if narrowed && !decimal::narrow(&self.words, &mut self.narrowed) {
            return None;
        }
        let words = if narrowed { &self.narrowed } else { &self.words };
        let float = float_of(width, narrowed);
        match mapping {
            Mapping::Integers => {
                self.integers.clear();
                self.integers.extend(words.iter().map(|&word| word as i64));
            }
            Mapping::Ordered => decimal::order(float, words, &mut self.integers),
            Mapping::Decimal { exponent, .. } => {
                let missing = decimal::scale(float, exponent, words, &mut self.integers, &mut self.missing);
                return Some(Mapping::Decimal { exponent, missing });
            }
        }
        Some(mapping)
    }

    /// Puts the distinct integers in order into `distinct` and places into `integers`. False if there are too many.
    pub(super) fn rank(&mut self) -> bool {
        let limit = (self.integers.len() / 2).min(1 << 12);
        self.distinct.clear();
        self.distinct.extend_from_slice(&self.integers);
        self.distinct.sort_unstable();
        self.distinct.dedup();
        if self.distinct.len() > limit {
            return false;
        }
        let distinct = &self.distinct;
        for integer in &mut self.integers {
            // Every integer is among its own distinct values.
            *integer = distinct.binary_search(integer).unwrap_or_default() as i64;
        }
        true
    }

    /// Appends one block as planned. False, with rubbish behind the former end of `out`, if the plan does not fit the words.
    pub(super) fn apply(&mut self, plan: &Plan, width: usize, out: &mut Vec<u8>) -> Result<bool> {
        let Some(mapping) = self.map(plan.narrowed, plan.mapping, width) else { return Ok(false) };
        if plan.ranked && !self.rank() {
            return Ok(false);
        }
        let line = plan.trend.line(&self.integers, plan.step);
        if !line.remove(&mut self.integers) {
            return Ok(false);
        }
        plan.order.residuals(&self.integers, &mut self.residuals);
        let all_zero = self.residuals.iter().fold(0, |all, residual| all | residual) == 0;
        let coder = match plan.coder {
            _ if all_zero => Coder::Zeros,
            Coder::Zeros => return Ok(false),
            other => other,
        };
        Plan { mapping, coder, ..*plan }.put_head(&line, out);
        if matches!(mapping, Mapping::Decimal { missing: true, .. }) {
            let missing = std::mem::take(&mut self.missing);
            let outcome = self.nested(&missing, Order::None, plan.coder, out);
            self.missing = missing;
            outcome?;
        }
        if plan.ranked {
            let distinct = std::mem::take(&mut self.distinct);
            put_varint(distinct.len() as u64, out);
            let outcome = self.nested(&distinct, Order::Delta, plan.coder, out);
            self.distinct = distinct;
            outcome?;
        }
        self.code(coder, out)?;
        Ok(true)
    }

    /// Appends a varint length and a block of integers. `residuals` stays as it is.
    fn nested(&mut self, integers: &[i64], order: Order, like: Coder, out: &mut Vec<u8>) -> Result<()> {
        let kept = std::mem::take(&mut self.residuals);
        let mut nested = std::mem::take(&mut self.nested);
        nested.clear();
        let trend = if order == Order::None { Trend::Mean } else { Trend::First };
        let mut line = trend.line(integers, 1);
        if order == Order::None {
            // Corrections lie around zero.
            line.base = 0;
        }
        self.residuals = std::mem::take(&mut self.nested_residuals);
        self.residuals.clear();
        let mut before = 0i64;
        for &integer in integers {
            let value = integer.wrapping_sub(line.base);
            self.residuals.push(zigzag(if order == Order::None {
                value
            } else {
                value.wrapping_sub(before)
            }));
            before = value;
        }
        let coder = match like {
            _ if self.residuals.iter().all(|&residual| residual == 0) => Coder::Zeros,
            Coder::Adaptive(shape) => Coder::Adaptive(Shape { context: 1, modelled: 2, ..shape }),
            Coder::Zeros => self.inner,
            other => other,
        };
        let plan =
            Plan { narrowed: false, mapping: Mapping::Integers, trend, step: 1, order, ranked: false, coder };
        plan.put_head(&line, &mut nested);
        let outcome = self.code(coder, &mut nested);
        self.nested_residuals = std::mem::replace(&mut self.residuals, kept);
        put_varint(nested.len() as u64, out);
        out.extend_from_slice(&nested);
        self.nested = nested;
        outcome
    }

    /// Appends the residuals.
    fn code(&mut self, coder: Coder, out: &mut Vec<u8>) -> Result<()> {
        match coder {
            Coder::Zeros => {}
            Coder::Packed => {
                let width = bit_length(self.residuals.iter().fold(0, |all, residual| all | residual));
                out.push(width as u8);
                let mut bits = BitWriter::new(out);
                self.residuals.iter().for_each(|&residual| bits.put(residual, width));
                bits.finish();
            }
            Coder::Adaptive(shape) => {
                let shape = shape.fitted(&lengths(&self.residuals));
                adaptive::encode(&self.residuals, shape, &mut self.scratch, out);
            }
            Coder::Tokens => self.tokens.encode(&self.residuals, out)?,
            Coder::Planes | Coder::Words => {
                let bits = bit_length(self.residuals.iter().fold(0, |all, residual| all | residual));
                let width = bits.div_ceil(8).max(1) as usize;
                out.push(width as u8);
                self.scratch.clear();
                let segment = if coder == Coder::Planes {
                    split_planes(width, &self.residuals, &mut self.scratch);
                    self.residuals.len()
                } else {
                    for residual in &self.residuals {
                        self.scratch.extend_from_slice(&residual.to_le_bytes()[..width]);
                    }
                    0
                };
                if let Some(bytes) = &mut self.bytes {
                    bytes.write(&self.scratch, segment, out)?;
                }
            }
        }
        Ok(())
    }
}

fn split_planes(width: usize, residuals: &[u64], out: &mut Vec<u8>) {
    for at in 0..width {
        out.extend(residuals.iter().map(|residual| (residual >> (8 * at)) as u8));
    }
}

/// Words of a series: integers keep their sign.
fn load(meaning: Meaning, width: usize, bytes: &[u8], words: &mut Vec<u64>) {
    words.clear();
    let signed = meaning == Meaning::Signed;
    match width {
        8 => words.extend(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word))),
        4 if signed => {
            words.extend(
                bytes.as_chunks::<4>().0.iter().map(|word| i64::from(i32::from_le_bytes(*word)) as u64),
            );
        }
        4 => words.extend(bytes.as_chunks::<4>().0.iter().map(|word| u64::from(u32::from_le_bytes(*word)))),
        _ if signed => {
            words.extend(
                bytes.as_chunks::<2>().0.iter().map(|word| i64::from(i16::from_le_bytes(*word)) as u64),
            );
        }
        _ => words.extend(bytes.as_chunks::<2>().0.iter().map(|word| u64::from(u16::from_le_bytes(*word)))),
    }
}
