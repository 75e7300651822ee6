//! Randomness looked up by counter: the same (seed, counter) gives the same numbers, in any order of asking.
//! Pure; depends on nothing.
//!
//! The generator is SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
//! OOPSLA 2014, with the finalizer "Mix13" of D. Stafford). It was chosen over generators of longer period
//! because its whole state is one word: a stream can start at any counter without a walk to it, which is what
//! makes every reading of the plant a function of its tick.

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Scrambles a word so that close inputs give unrelated outputs (a bijection).
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The seed of a sub-stream: of a device, of a purpose, of a fault.
pub fn derive(seed: u64, counter: u64) -> u64 {
    mix(seed ^ mix(counter.wrapping_add(GOLDEN)))
}

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream that belongs to this counter under this seed.
    pub fn at(seed: u64, counter: u64) -> Self {
        Self { state: derive(seed, counter) }
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Uniform in [0, 1), with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// Uniform in [-1, 1).
    pub fn signed(&mut self) -> f64 {
        2.0 * self.uniform() - 1.0
    }

    /// Uniform in [low, high); `low` where the interval is empty.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform in 0..count; 0 for a count of 0. Multiplication instead of a remainder (Lemire 2019); the
    /// bias is below count ÷ 2⁶⁴.
    pub fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.bits()) * count as u128) >> 64) as usize
    }

    /// Nearly normal, with mean 0 and standard deviation 1: the sum of four uniform 16-bit pieces of one
    /// word (Irwin–Hall). Its tails end at ±3.46, as a real sensor's do: a fault-free plant has no wild value.
    pub fn normal(&mut self) -> f64 {
        let bits = self.bits();
        let sum = (bits & 0xffff) + ((bits >> 16) & 0xffff) + ((bits >> 32) & 0xffff) + (bits >> 48);
        // Mean 4 · 65535 / 2, variance 4 · (65536² − 1) / 12.
        (sum as f64 - 131_070.0) * (1.0 / 37_837.227_251_5)
    }
}

/// A smooth curve in (-1, 1) through one random point per unit of `x` (value noise): slow drift that can be
/// asked for at any `x` without the way to it.
pub fn wander(seed: u64, x: f64) -> f64 {
    let left = x.floor();
    let part = x - left;
    let node = left as i64 as u64;
    let from = Random::at(seed, node).signed();
    let to = Random::at(seed, node.wrapping_add(1)).signed();
    from + (to - from) * part * part * (3.0 - 2.0 * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_numbers_follow_the_published_generator() {
        // The reference implementation started at state 1234567 (Rosetta Code's and Vigna's splitmix64.c).
        let mut random = Random { state: 1_234_567 };
        let expected = [6_457_827_717_110_365_317_u64, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([random.bits(), random.bits(), random.bits()], expected);
    }

    #[test]
    fn moments_are_as_stated() {
        let mut random = Random::at(7, 0);
        let (mut sum, mut square, mut uniform, mut largest) = (0.0, 0.0, 0.0, 0.0_f64);
        let count = 100_000;
        for _ in 0..count {
            let value = random.normal();
            sum += value;
            square += value * value;
            largest = largest.max(value.abs());
            let part = random.uniform();
            assert!((0.0..1.0).contains(&part));
            uniform += part;
        }
        let count = f64::from(count);
        assert!((sum / count).abs() < 0.01, "mean {}", sum / count);
        assert!((square / count - 1.0).abs() < 0.02, "variance {}", square / count);
        assert!((uniform / count - 0.5).abs() < 0.005);
        assert!(largest < 3.47, "{largest}");
    }

    #[test]
    fn neighbouring_counters_are_unrelated() {
        let count = 20_000;
        let mut product = 0.0;
        for counter in 0..count {
            product += Random::at(3, counter).normal() * Random::at(3, counter + 1).normal();
        }
        assert!((product / count as f64).abs() < 0.03, "{product}");
    }

    #[test]
    fn wander_is_smooth_and_bounded() {
        let mut last = wander(11, -3.0);
        let mut range = 0.0_f64;
        for step in 1..6_000 {
            let value = wander(11, -3.0 + f64::from(step) / 1_000.0);
            assert!((value - last).abs() < 0.004, "a jump at step {step}");
            assert!(value.abs() < 1.0);
            range = range.max((value - wander(11, -3.0)).abs());
            last = value;
        }
        assert!(range > 0.2, "it does not move");
    }

    #[test]
    fn below_stays_below() {
        let mut random = Random::at(1, 1);
        let mut seen = [0_u32; 5];
        for _ in 0..1_000 {
            seen[random.below(5)] += 1;
        }
        assert!(seen.iter().all(|&count| count > 130), "{seen:?}");
        assert_eq!(random.below(0), 0);
    }
}
