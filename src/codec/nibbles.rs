//! The adaptive stage for bytes that are no numbers: bits of booleans and validity, short texts. Pure.
//!
//! The bytes are those of the range coder of [`super::series`]; nothing else. Each byte is two symbols of 16: the high
//! half with the model for the high half before (0 at first), then the low half with the model for this high half. All models
//! begin uniform and learn at the rate 6.

use super::series::range::{Model, RangeDecoder, RangeEncoder, SYMBOLS};
use super::stage::Coder;
use crate::error::{Error, Result};

const RATE: u8 = 6;

/// The coder; it keeps nothing between calls.
pub(crate) struct Nibbles;

struct Models {
    high: [Model; SYMBOLS],
    low: [Model; SYMBOLS],
}

impl Models {
    fn new() -> Self {
        let uniform = Model::new(&[1; SYMBOLS], RATE);
        Self { high: [uniform; SYMBOLS], low: [uniform; SYMBOLS] }
    }
}

impl Coder for Nibbles {
    fn compress(&mut self, raw: &[u8], _segment: usize, out: &mut Vec<u8>) -> Result<()> {
        let mut models = Models::new();
        let mut encoder = RangeEncoder::new(out);
        let mut before = 0;
        for &byte in raw {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            models.high[before].encode(high, &mut encoder);
            models.low[high].encode(low, &mut encoder);
            before = high;
        }
        encoder.finish();
        Ok(())
    }

    fn decompress(&mut self, bytes: &[u8], out: &mut [u8]) -> Result<()> {
        let mut models = Models::new();
        let mut decoder = RangeDecoder::new(bytes);
        let mut before = 0;
        for byte in out {
            let high = models.high[before].decode(&mut decoder);
            let low = models.low[high].decode(&mut decoder);
            *byte = (high << 4 | low) as u8;
            before = high;
        }
        if decoder.remaining() > 0 {
            return Err(Error::data(format!("the adaptive stage: {} bytes too many", decoder.remaining())));
        }
        Ok(())
    }
}
