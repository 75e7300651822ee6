//! The LZW stage: variable-width codes of 9 to 12 bits, least significant bit first, as in GIF (minimum code
//! size 8, clear code 256, end code 257), on `weezl`. Pure.
//!
//! Source of the method: T. A. Welch, "A Technique for High-Performance Data Compression", IEEE Computer 17(6),
//! 1984. There is no escape for input that expands in here: the block that carries the bytes has one (see
//! [`super::stage`]).

use weezl::{BitOrder, LzwStatus, decode, encode};

use super::stage::Coder;
use crate::error::{Error, Result};

const SYMBOL_BITS: u8 = 8;
/// Output grows by this many bytes at a time while encoding.
const CHUNK_BYTES: usize = 16 << 10;

/// An LZW encoder and decoder whose tables are made at first use and kept.
#[derive(Default)]
pub(crate) struct Lzw {
    encoder: Option<encode::Encoder>,
    decoder: Option<decode::Decoder>,
}

impl Coder for Lzw {
    fn compress(&mut self, raw: &[u8], _segment: usize, out: &mut Vec<u8>) -> Result<()> {
        let encoder = self.encoder.get_or_insert_with(|| encode::Encoder::new(BitOrder::Lsb, SYMBOL_BITS));
        encoder.reset();
        encoder.finish();
        let mut read = 0;
        loop {
            let start = out.len();
            out.resize(start + CHUNK_BYTES, 0);
            let step = encoder.encode_bytes(&raw[read..], &mut out[start..]);
            read += step.consumed_in;
            out.truncate(start + step.consumed_out);
            match step.status {
                Ok(LzwStatus::Done) => return Ok(()),
                Ok(LzwStatus::Ok) => {}
                Ok(LzwStatus::NoProgress) => return Err(Error::data("LZW: the encoder stands still")),
                Err(error) => return Err(Error::data(format!("LZW: {error}"))),
            }
        }
    }

    fn decompress(&mut self, bytes: &[u8], out: &mut [u8]) -> Result<()> {
        let decoder = self.decoder.get_or_insert_with(|| decode::Decoder::new(BitOrder::Lsb, SYMBOL_BITS));
        decoder.reset();
        let (mut read, mut written) = (0, 0);
        // Each step either moves forward or ends the loop, so that it runs at most once per byte.
        while !decoder.has_ended() {
            let step = decoder.decode_bytes(&bytes[read..], &mut out[written..]);
            read += step.consumed_in;
            written += step.consumed_out;
            match step.status {
                Ok(LzwStatus::Done) => break,
                Ok(LzwStatus::Ok) if step.consumed_in + step.consumed_out > 0 => {}
                Ok(_) => break,
                Err(error) => return Err(Error::data(format!("LZW: {error}"))),
            }
        }
        if written != out.len() || !decoder.has_ended() || read != bytes.len() {
            return Err(Error::data(format!(
                "LZW: {written} of {} bytes came out of {read} of {} bytes",
                out.len(),
                bytes.len()
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(raw: &[u8]) -> Vec<u8> {
        let mut out = vec![7];
        Lzw::default().compress(raw, 0, &mut out).unwrap();
        assert_eq!(out.remove(0), 7, "what was there stays");
        out
    }

    fn unpacked(bytes: &[u8], length: usize) -> Result<Vec<u8>> {
        let mut out = vec![0; length];
        Lzw::default().decompress(bytes, &mut out).map(|()| out)
    }

    #[test]
    fn known_vector() {
        // Codes of 9 bits, LSB first: clear (256), 'a', 258 = "aa", 'b', end (257).
        let codes = [256u64, 97, 258, 98, 257];
        let word: u64 = codes.iter().enumerate().fold(0, |word, (at, code)| word | code << (9 * at));
        assert_eq!(packed(b"aaab"), word.to_le_bytes()[..6]);
        assert_eq!(unpacked(&word.to_le_bytes()[..6], 4).unwrap(), b"aaab");
    }

    #[test]
    fn long_repeats_shrink_and_the_full_table_is_cleared() {
        let mut raw = vec![0u8; 50_000];
        raw.extend((0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 20) as u8));
        let bytes = packed(&raw);
        assert!(packed(&raw[..50_000]).len() < 1_000);
        assert_eq!(unpacked(&bytes, raw.len()).unwrap(), raw);
    }

    #[test]
    fn a_wrong_length_or_a_cut_is_an_error() {
        let bytes = packed(b"the quick brown fox jumps over the lazy dog the quick brown fox");
        for length in [0, 10, 62, 64, 1000] {
            assert!(unpacked(&bytes, length).is_err(), "{length}");
        }
        for cut in 0..bytes.len() {
            assert!(unpacked(&bytes[..cut], 63).is_err(), "{cut}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_goes_in_comes_out(raw in prop::collection::vec(0u8..6, 0..3000)) {
            prop_assert_eq!(unpacked(&packed(&raw), raw.len()).unwrap(), raw);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), length in 0usize..2000) {
            let _ = unpacked(&bytes, length);
        }
    }
}
