//! A range coder and an adaptive model of 16 symbols for it. Pure.
//!
//! Sources of the methods: G. N. N. Martin, "Range encoding", 1979; models that move whole cumulative tables towards a
//! symbol, so that a vector unit does it in two steps, after F. Giesen's "Mixing" notes of 2015.
//!
//! The coder keeps 64 bits of `low` and `range` and gives up 32 at a time, the highest first. Bytes behind the end
//! of the stream are zero, so that a stream can leave its last zeros away.

/// Probabilities have so many bits.
const SCALE_BITS: u32 = 15;
/// How many symbols a model has.
pub(crate) const SYMBOLS: usize = 16;
const RENORMALISE_BELOW: u64 = 1 << 32;

/// Writes symbols into bytes.
pub(crate) struct RangeEncoder<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    low: u64,
    range: u64,
}

impl<'a> RangeEncoder<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        Self { out, start, low: 0, range: u64::MAX }
    }

    #[inline]
    fn put(&mut self, start: u32, size: u32) {
        let unit = self.range >> SCALE_BITS;
        let (low, carried) = self.low.overflowing_add(unit * u64::from(start));
        self.low = low;
        self.range = unit * u64::from(size);
        if carried {
            self.carry();
        }
        if self.range < RENORMALISE_BELOW {
            self.out.extend_from_slice(&((self.low >> 32) as u32).to_be_bytes());
            self.low <<= 32;
            self.range <<= 32;
        }
    }

    /// Adds one to what has left already.
    #[cold]
    fn carry(&mut self) {
        for byte in self.out[self.start..].iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
    }

    /// Writes the shortest bytes that lie within the range.
    pub(crate) fn finish(mut self) {
        for bytes in 0..=8u32 {
            let mask = u64::MAX.checked_shr(8 * bytes).unwrap_or(0);
            let (sum, carried) = self.low.overflowing_add(mask);
            let value = sum & !mask;
            if value.wrapping_sub(self.low) < self.range {
                if carried {
                    self.carry();
                }
                self.out.extend_from_slice(&value.to_be_bytes()[..bytes as usize]);
                break;
            }
        }
        while self.out.len() > self.start && self.out.last() == Some(&0) {
            self.out.pop();
        }
    }
}

/// Reads symbols from foreign bytes, of which there can be any number: any bytes give some symbols.
pub(crate) struct RangeDecoder<'a> {
    rest: &'a [u8],
    code: u64,
    range: u64,
}

impl<'a> RangeDecoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Self { rest: bytes, code: 0, range: u64::MAX };
        decoder.code = decoder.next() << 32;
        decoder.code |= decoder.next();
        decoder
    }

    /// The next four bytes.
    #[inline]
    fn next(&mut self) -> u64 {
        if let Some((bytes, rest)) = self.rest.split_first_chunk::<4>() {
            self.rest = rest;
            return u64::from(u32::from_be_bytes(*bytes));
        }
        let mut bytes = [0; 4];
        bytes[..self.rest.len()].copy_from_slice(self.rest);
        self.rest = &[];
        u64::from(u32::from_be_bytes(bytes))
    }

    /// How many bytes have not been looked at.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }
}

/// An adaptive distribution over 16 symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Model {
    /// Where each symbol's share of 2^15 begins; every share is at least 1.
    starts: [i16; SYMBOLS],
    seen: u8,
    rate_max: u8,
}

/// Where all starts go after a symbol: its share becomes all that the others do not need.
const TARGETS: [[i16; SYMBOLS]; SYMBOLS] = {
    let mut targets = [[0; SYMBOLS]; SYMBOLS];
    let mut symbol = 0;
    while symbol < SYMBOLS {
        let mut at = 0;
        while at < SYMBOLS {
            targets[symbol][at] =
                if at <= symbol { at as i16 } else { ((1 << SCALE_BITS) - SYMBOLS + at) as i16 };
            at += 1;
        }
        symbol += 1;
    }
    targets
};

/// The first symbols move a model by 2^-4 of the way, later ones by less, down to 2^-`rate_max`.
const RATES: [u8; 256] = {
    let mut rates = [8; 256];
    let mut at = 0;
    while at < 160 {
        rates[at] = match at {
            0..12 => 4,
            12..28 => 5,
            28..64 => 6,
            _ => 7,
        };
        at += 1;
    }
    rates
};

impl Model {
    /// A model that begins with these weights, of which at least one is not zero.
    pub(crate) fn new(weights: &[u32; SYMBOLS], rate_max: u8) -> Self {
        let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        let room = (1u64 << SCALE_BITS) - SYMBOLS as u64;
        let mut starts = [0; SYMBOLS];
        let mut before = 0u64;
        for (at, (start, &weight)) in (0u64..).zip(starts.iter_mut().zip(weights)) {
            *start = (at + before * room / total.max(1)) as i16;
            before += u64::from(weight);
        }
        Self { starts, seen: 0, rate_max }
    }

    #[inline]
    fn share(&self, symbol: usize) -> (u32, u32) {
        let start = self.starts[symbol] as u32;
        let end = self.starts.get(symbol + 1).map_or(1 << SCALE_BITS, |&end| end as u32);
        (start, end - start)
    }

    #[inline]
    fn learn(&mut self, symbol: usize) {
        let rate = RATES[usize::from(self.seen)].min(self.rate_max);
        self.seen = self.seen.saturating_add(1);
        for (start, &target) in self.starts.iter_mut().zip(&TARGETS[symbol]) {
            *start += (target - *start) >> rate;
        }
    }

    /// Codes a symbol of 0 to 15.
    #[inline]
    pub(crate) fn encode(&mut self, symbol: usize, to: &mut RangeEncoder<'_>) {
        let symbol = symbol % SYMBOLS;
        let (start, size) = self.share(symbol);
        to.put(start, size);
        self.learn(symbol);
    }

    /// The next symbol, 0 to 15.
    #[inline]
    pub(crate) fn decode(&mut self, from: &mut RangeDecoder<'_>) -> usize {
        let unit = from.range >> SCALE_BITS;
        let target = (from.code / unit).min((1 << SCALE_BITS) - 1) as i16;
        let mut above = 0u16;
        for &start in &self.starts {
            above += u16::from(start <= target);
        }
        // The first start is 0, so that at least one is not above the target.
        let symbol = (above.wrapping_sub(1)) as usize % SYMBOLS;
        let (start, size) = self.share(symbol);
        from.code = from.code.wrapping_sub(unit * u64::from(start));
        from.range = unit * u64::from(size);
        if from.range < RENORMALISE_BELOW {
            from.code = from.code << 32 | from.next();
            from.range <<= 32;
        }
        self.learn(symbol);
        symbol
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols(seed: u64, len: usize, skew: u32) -> Vec<usize> {
        let mut state = seed;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 33) as u32).leading_zeros() as usize * skew as usize % SYMBOLS
            })
            .collect()
    }

    #[test]
    fn symbols_come_back_in_about_their_entropy() {
        for (seed, len, skew) in [(1, 0, 1), (2, 1, 3), (3, 5000, 1), (4, 5000, 0), (5, 20_000, 7)] {
            let symbols = symbols(seed, len, skew);
            let mut bytes = vec![7];
            let mut model = Model::new(&[1; SYMBOLS], 7);
            let mut encoder = RangeEncoder::new(&mut bytes);
            symbols.iter().for_each(|&symbol| model.encode(symbol, &mut encoder));
            encoder.finish();
            let mut model = Model::new(&[1; SYMBOLS], 7);
            let mut decoder = RangeDecoder::new(&bytes[1..]);
            for &symbol in &symbols {
                assert_eq!(model.decode(&mut decoder), symbol);
            }
            assert_eq!(decoder.remaining(), 0);
            // Leading zeros have two bits of entropy; a constant has none.
            let bits = if skew == 0 { 0.05 } else { 2.06 };
            assert!(bytes.len() as f64 <= 12.0 + len as f64 * bits / 8.0, "{} for {len}", bytes.len());
        }
    }

    #[test]
    fn carries_run_through_what_has_left() {
        // The least likely of many outcomes again and again makes `low` cross word limits.
        for last in 0..SYMBOLS {
            let symbols: Vec<usize> =
                (0..4000).map(|at| if at % 3 == 0 { 15 } else { (at * last) % SYMBOLS }).collect();
            let mut bytes = Vec::new();
            let mut model = Model::new(&[1; SYMBOLS], 4);
            let mut encoder = RangeEncoder::new(&mut bytes);
            symbols.iter().for_each(|&symbol| model.encode(symbol, &mut encoder));
            encoder.finish();
            let mut model = Model::new(&[1; SYMBOLS], 4);
            let mut decoder = RangeDecoder::new(&bytes);
            assert!(symbols.iter().all(|&symbol| model.decode(&mut decoder) == symbol), "{last}");
        }
    }

    #[test]
    fn every_share_stays_at_least_one() {
        let mut model = Model::new(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1_000_000], 7);
        for step in 0..20_000usize {
            model.learn(if step < 10_000 { 15 } else { step * step % SYMBOLS });
            assert!((0..SYMBOLS).all(|symbol| model.share(symbol).1 >= 1 && model.share(symbol).1 < 1 << 15));
        }
    }
}
