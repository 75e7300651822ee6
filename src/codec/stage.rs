//! Stages: the general-purpose byte coders that stand behind a column's transform. Pure.
//!
//! A [`Stage`] is what a user chooses; a [`Coder`] is the same thing at work, with its tables and contexts kept
//! from call to call. Stage ids are part of the frame format and never change their meaning.
//!
//! | id | stage | bytes |
//! |---:|---|---|
//! | 0 | stored | the bytes themselves; also what every other stage falls back to when it would not shrink |
//! | 1 | zstd | one zstd frame (RFC 8878) |
//! | 2 | huffman | see [`super::huffman`] |
//! | 3 | lzw | see [`super::lzw`] |
//! | 4 | zstd with a dictionary | one zstd frame; the frame around it names the dictionary |
//! | 5 | adaptive | see [`super::nibbles`] |

use std::sync::Arc;

use super::huffman::Huffman;
use super::lzw::Lzw;
use super::nibbles::Nibbles;
use super::wire::{Reader, put_varint};
use crate::error::{Error, Result};

/// The largest dictionary that is taken.
pub const DICTIONARY_BYTES_MAX: usize = 1 << 20;

pub(crate) const STORED: u8 = 0;
pub(crate) const ZSTD: u8 = 1;
pub(crate) const HUFFMAN: u8 = 2;
pub(crate) const LZW: u8 = 3;
pub(crate) const ZSTD_DICTIONARY: u8 = 4;
pub(crate) const ADAPTIVE: u8 = 5;
/// One more than the last stage id that this version knows.
pub(crate) const STAGE_COUNT: usize = 6;

/// A zstd dictionary: bytes that both ends have, so that small frames need not repeat them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dictionary {
    id: u64,
    bytes: Vec<u8>,
}

impl Dictionary {
    /// Takes a dictionary trained by zstd, or any bytes that look like the data.
    ///
    /// # Errors
    /// The bytes are empty or more than [`DICTIONARY_BYTES_MAX`].
    pub fn new(bytes: Vec<u8>) -> Result<Self> {
        if bytes.is_empty() || bytes.len() > DICTIONARY_BYTES_MAX {
            return Err(Error::config(format!(
                "a dictionary of {} bytes cannot be used; it must have 1 to {DICTIONARY_BYTES_MAX}",
                bytes.len()
            )));
        }
        let hash = blake3::hash(&bytes);
        let id = Reader::new(hash.as_bytes()).u64()?;
        Ok(Self { id, bytes })
    }

    /// Trains a dictionary of at most `bytes_max` bytes on samples (see
    /// `FrameEncoder::samples`).
    ///
    /// # Errors
    /// zstd finds too few samples; it wants a few dozen and ten to a hundred times `bytes_max` in all.
    pub fn train(samples: &[Vec<u8>], bytes_max: usize) -> Result<Self> {
        let bytes =
            zstd::dict::from_samples(samples, bytes_max.min(DICTIONARY_BYTES_MAX)).map_err(|error| {
                Error::data(format!(
                    "training a dictionary on {} samples: {error}; give more data",
                    samples.len()
                ))
            })?;
        Self::new(bytes)
    }

    /// The first eight bytes of the BLAKE3 hash of the bytes, as a little-endian number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Which byte coder to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// None: transformed columns are stored as they are.
    Stored,
    /// zstd at a level of 1 to 19, with or without a dictionary.
    Zstd {
        /// 1 (fast) to 19 (small).
        level: i32,
        /// Bytes known to both ends.
        dictionary: Option<Arc<Dictionary>>,
    },
    /// Canonical Huffman codes of single bytes: the smallest decoder.
    Huffman,
    /// LZW with codes of 9 to 12 bits.
    Lzw,
    /// A range coder with models that learn as they go: the smallest for numbers.
    Adaptive,
    /// Whatever makes each column small, chosen by trying and kept while it holds.
    Auto {
        /// What to spend for it.
        prefer: Prefer,
    },
}

/// What an automatic choice goes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prefer {
    /// The fastest coders.
    Speed,
    /// Small frames, at a few hundred megabytes a second.
    #[default]
    Balanced,
    /// The smallest frames.
    Ratio,
}

impl Default for Stage {
    fn default() -> Self {
        Self::Zstd { level: 3, dictionary: None }
    }
}

/// A stage at work. Contexts and tables live as long as the coder.
pub trait Coder: Send {
    /// Appends the coded form of `raw` to `out`. Statistics of `raw` change at multiples of `segment` bytes
    /// (one byte plane, for example); 0 means that nothing is known.
    ///
    /// # Errors
    /// The coder failed; `out` then holds rubbish after its former end.
    fn compress(&mut self, raw: &[u8], segment: usize, out: &mut Vec<u8>) -> Result<()>;

    /// Fills `out`, which has exactly the raw length, from foreign bytes.
    ///
    /// # Errors
    /// The bytes are damaged or give another length.
    fn decompress(&mut self, bytes: &[u8], out: &mut [u8]) -> Result<()>;
}

impl Stage {
    /// The dictionary, where there is one.
    #[must_use]
    pub fn dictionary(&self) -> Option<&Arc<Dictionary>> {
        match self {
            Self::Zstd { dictionary, .. } => dictionary.as_ref(),
            _ => None,
        }
    }

    /// The coders that make blocks, with their ids. Where there are several, the smallest block counts.
    fn coders(&self) -> Result<Vec<(u8, Box<dyn Coder>)>> {
        Ok(match self {
            Self::Stored => Vec::new(),
            Self::Zstd { level, .. } if !(1..=19).contains(level) => {
                return Err(Error::config(format!(
                    "zstd level {level} does not exist here; use 1 (fast) to 19 (small)"
                )));
            }
            Self::Zstd { level, dictionary } => {
                let id = if dictionary.is_some() { ZSTD_DICTIONARY } else { ZSTD };
                vec![(id, Box::new(Zstd::new(*level, dictionary.clone())))]
            }
            Self::Huffman | Self::Auto { prefer: Prefer::Speed } => {
                vec![(HUFFMAN, Box::<Huffman>::default())]
            }
            Self::Lzw => vec![(LZW, Box::<Lzw>::default())],
            Self::Adaptive => vec![(ADAPTIVE, Box::new(Nibbles))],
            Self::Auto { prefer } => {
                let level = if *prefer == Prefer::Ratio { 12 } else { 3 };
                vec![(ADAPTIVE, Box::new(Nibbles)), (ZSTD, Box::new(Zstd::new(level, None)))]
            }
        })
    }
}

/// The coder that reads blocks of a stage, where this version has one.
fn reader_of(id: u8, dictionary: Option<&Arc<Dictionary>>) -> Result<Box<dyn Coder>> {
    Ok(match id {
        ZSTD => Box::new(Zstd::new(1, None)),
        ZSTD_DICTIONARY if dictionary.is_none() => {
            return Err(Error::data("a block needs a dictionary, and its frame names none"));
        }
        ZSTD_DICTIONARY => Box::new(Zstd::new(1, dictionary.cloned())),
        HUFFMAN => Box::<Huffman>::default(),
        LZW => Box::<Lzw>::default(),
        ADAPTIVE => Box::new(Nibbles),
        other => return Err(Error::data(format!("stage {other} is not known to this version"))),
    })
}

struct Zstd {
    level: i32,
    dictionary: Option<Arc<Dictionary>>,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    decompressor: Option<zstd::bulk::Decompressor<'static>>,
}

impl Zstd {
    fn new(level: i32, dictionary: Option<Arc<Dictionary>>) -> Self {
        Self { level, dictionary, compressor: None, decompressor: None }
    }

    fn dictionary_bytes(&self) -> &[u8] {
        self.dictionary.as_ref().map_or(&[], |dictionary| dictionary.bytes())
    }

    fn compressor(&mut self) -> std::io::Result<&mut zstd::bulk::Compressor<'static>> {
        if self.compressor.is_none() {
            let mut compressor =
                zstd::bulk::Compressor::with_dictionary(self.level, self.dictionary_bytes())?;
            // The frame around it has a checksum and names the dictionary already.
            compressor.include_checksum(false)?;
            compressor.include_dictid(false)?;
            self.compressor = Some(compressor);
        }
        self.compressor.as_mut().ok_or_else(|| std::io::Error::other("no compressor"))
    }

    fn decompressor(&mut self) -> std::io::Result<&mut zstd::bulk::Decompressor<'static>> {
        if self.decompressor.is_none() {
            self.decompressor = Some(zstd::bulk::Decompressor::with_dictionary(self.dictionary_bytes())?);
        }
        self.decompressor.as_mut().ok_or_else(|| std::io::Error::other("no decompressor"))
    }
}

impl Coder for Zstd {
    fn compress(&mut self, raw: &[u8], _segment: usize, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        out.resize(start + zstd::zstd_safe::compress_bound(raw.len()), 0);
        let written = self
            .compressor()
            .and_then(|compressor| compressor.compress_to_buffer(raw, &mut out[start..]))
            .map_err(|error| Error::data(format!("zstd: {error}")))?;
        out.truncate(start + written);
        Ok(())
    }

    fn decompress(&mut self, bytes: &[u8], out: &mut [u8]) -> Result<()> {
        let announced = out.len();
        let written = self
            .decompressor()
            .and_then(|decompressor| decompressor.decompress_to_buffer(bytes, out))
            .map_err(|error| Error::data(format!("zstd: {error}")))?;
        if written != announced {
            return Err(Error::data(format!("zstd: {written} bytes came out, {announced} were announced")));
        }
        Ok(())
    }
}

/// Writes blocks: the coders of a stage, their buffers, and the escape to [`Stage::Stored`].
pub(crate) struct BlockWriter {
    coders: Vec<(u8, Box<dyn Coder>)>,
    packed: Vec<u8>,
    best: Vec<u8>,
    /// When present, receives a copy of everything that is written.
    pub(crate) samples: Option<Vec<Vec<u8>>>,
}

impl BlockWriter {
    pub(crate) fn new(stage: &Stage) -> Result<Self> {
        Ok(Self { coders: stage.coders()?, packed: Vec::new(), best: Vec::new(), samples: None })
    }

    /// Appends one block: stage id, raw length, and (unless stored) packed length, then the bytes.
    pub(crate) fn write(&mut self, raw: &[u8], segment: usize, out: &mut Vec<u8>) -> Result<()> {
        if let Some(samples) = &mut self.samples {
            samples.push(raw.to_vec());
        }
        let mut stage = STORED;
        if !raw.is_empty() {
            for (id, coder) in &mut self.coders {
                self.packed.clear();
                coder.compress(raw, segment, &mut self.packed)?;
                let limit = if stage == STORED { raw.len() } else { self.best.len() };
                if self.packed.len() < limit {
                    stage = *id;
                    std::mem::swap(&mut self.packed, &mut self.best);
                }
            }
        }
        out.push(stage);
        put_varint(raw.len() as u64, out);
        if stage == STORED {
            out.extend_from_slice(raw);
        } else {
            put_varint(self.best.len() as u64, out);
            out.extend_from_slice(&self.best);
        }
        Ok(())
    }
}

/// One block as it stands in a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block<'a> {
    pub(crate) stage: u8,
    pub(crate) raw_bytes: usize,
    pub(crate) packed: &'a [u8],
}

impl<'a> Block<'a> {
    /// Reads a block's head and takes its bytes. For a stage id that this version does not know the layout is
    /// the same, so that a reader can step over it.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Self> {
        let stage = reader.u8()?;
        let raw = reader.varint()?;
        let raw_bytes = usize::try_from(raw).map_err(|_| Error::data(format!("a block of {raw} bytes")))?;
        let packed = if stage == STORED { reader.take(raw_bytes)? } else { reader.bytes()? };
        Ok(Self { stage, raw_bytes, packed })
    }
}

/// Reads blocks of any known stage; coders are made at first use.
#[derive(Default)]
pub(crate) struct BlockReader {
    coders: [Option<Box<dyn Coder>>; STAGE_COUNT],
    dictionary: Option<Arc<Dictionary>>,
    raw: Vec<u8>,
}

impl BlockReader {
    /// From now on blocks of stage 4 are read with this dictionary.
    pub(crate) fn set_dictionary(&mut self, dictionary: Option<Arc<Dictionary>>) {
        if self.dictionary != dictionary {
            self.coders[usize::from(ZSTD_DICTIONARY)] = None;
            self.dictionary = dictionary;
        }
    }

    /// Whether blocks of this stage can be read.
    pub(crate) fn knows(&self, stage: u8) -> bool {
        usize::from(stage) < STAGE_COUNT
    }

    /// The raw bytes of a block, which must be at most `limit`.
    pub(crate) fn read<'a>(&'a mut self, block: Block<'a>, limit: usize) -> Result<&'a [u8]> {
        if block.raw_bytes > limit {
            return Err(Error::data(format!(
                "a block announces {} bytes, at most {limit} can be",
                block.raw_bytes
            )));
        }
        if block.stage == STORED {
            return Ok(block.packed);
        }
        let Some(slot) = self.coders.get_mut(usize::from(block.stage)) else {
            return Err(Error::data(format!("stage {} is not known to this version", block.stage)));
        };
        let coder = match slot {
            Some(coder) => coder,
            none => none.insert(reader_of(block.stage, self.dictionary.as_ref())?),
        };
        self.raw.clear();
        self.raw.resize(block.raw_bytes, 0);
        coder.decompress(block.packed, &mut self.raw)?;
        Ok(&self.raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages() -> Vec<Stage> {
        let dictionary = Arc::new(Dictionary::new(b"temperature vibration pressure".repeat(4)).unwrap());
        vec![
            Stage::Stored,
            Stage::Zstd { level: 1, dictionary: None },
            Stage::Zstd { level: 19, dictionary: None },
            Stage::Zstd { level: 3, dictionary: Some(dictionary) },
            Stage::Huffman,
            Stage::Lzw,
        ]
    }

    #[test]
    fn every_stage_gives_back_what_it_took() {
        let noise: Vec<u8> = (0..5000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let samples: [&[u8]; 5] =
            [b"", b"x", &[0; 4000], b"temperature vibration pressure temperature", &noise];
        for stage in stages() {
            let mut writer = BlockWriter::new(&stage).unwrap();
            let mut reader = BlockReader::default();
            reader.set_dictionary(stage.dictionary().cloned());
            for raw in samples {
                let mut bytes = Vec::new();
                writer.write(raw, 0, &mut bytes).unwrap();
                let mut cursor = Reader::new(&bytes);
                let block = Block::read(&mut cursor).unwrap();
                assert_eq!(cursor.remaining(), 0);
                assert_eq!(reader.read(block, raw.len()).unwrap(), raw, "{stage:?}");
                assert!(raw.is_empty() || reader.read(block, raw.len() - 1).is_err(), "the limit holds");
                assert!(bytes.len() <= raw.len() + 4, "the escape holds: {} for {}", bytes.len(), raw.len());
            }
        }
    }

    #[test]
    fn a_dictionary_makes_a_small_block_smaller_and_must_be_the_same() {
        let text = b"pressure temperature vibration".to_vec();
        let dictionary = Arc::new(Dictionary::new(b"temperature vibration pressure".repeat(4)).unwrap());
        let with = Stage::Zstd { level: 3, dictionary: Some(dictionary) };
        let mut bytes = Vec::new();
        BlockWriter::new(&with).unwrap().write(&text, 0, &mut bytes).unwrap();
        assert!(bytes.len() < text.len(), "{} bytes", bytes.len());
        let block = Block::read(&mut Reader::new(&bytes)).unwrap();
        let mut reader = BlockReader::default();
        assert!(reader.read(block, 100).unwrap_err().to_string().contains("needs a dictionary"));
    }

    #[test]
    fn levels_and_dictionaries_out_of_range_are_refused() {
        for level in [-1, 0, 20] {
            let error = Stage::Zstd { level, dictionary: None }.coders().err().unwrap();
            assert!(error.to_string().contains(&format!("zstd level {level}")));
        }
        assert!(Dictionary::new(Vec::new()).is_err());
        assert!(Dictionary::new(vec![0; DICTIONARY_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn an_unknown_stage_can_be_stepped_over() {
        let bytes = [9, 200, 1, 3, 1, 2, 3, 77];
        let mut reader = Reader::new(&bytes);
        let block = Block::read(&mut reader).unwrap();
        assert_eq!((block.stage, block.raw_bytes, block.packed), (9, 200, &[1, 2, 3][..]));
        assert_eq!(reader.u8().unwrap(), 77);
        assert!(!BlockReader::default().knows(block.stage));
        assert!(
            BlockReader::default().read(block, 300).unwrap_err().to_string().contains("stage 9 is not known")
        );
    }
}
