//! How real bytes are damaged: bits, lengths, cuts, repetitions, splices. One seed, one damage.

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        let mut dice = Self(seed);
        dice.roll();
        dice
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound.max(1) as u64) as usize
    }

    pub fn one_of<'a, T: ?Sized>(&mut self, values: &[&'a T]) -> &'a T {
        values[self.below(values.len())]
    }
}

/// Most changes to one input.
const CHANGES_MAX: usize = 6;
/// Most bytes that one change adds.
const ADDED_BYTES_MAX: usize = 64;

/// Numbers at which lengths and counts go wrong.
const EXTREMES: [u64; 14] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];

/// Damages one of the seeds; `words` are pieces that mean something in its grammar.
pub fn damaged(dice: &mut Dice, seeds: &[Vec<u8>], words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = seeds[dice.below(seeds.len())].clone();
    // Mostly few: much damage reaches little.
    let most = 1 + dice.below(CHANGES_MAX);
    let changes = 1 + dice.below(most);
    for _ in 0..changes {
        change(dice, &mut bytes, seeds, words);
    }
    bytes
}

fn change(dice: &mut Dice, bytes: &mut Vec<u8>, seeds: &[Vec<u8>], words: &[&[u8]]) {
    let at = dice.below(bytes.len());
    match dice.below(12) {
        0 | 1 => overwrite(bytes, at, &[dice.roll() as u8]),
        2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
        // Lengths and counts: fixed widths and variable ones.
        3 | 4 => {
            let number = extreme(dice, bytes.len()).to_le_bytes();
            let width = [1, 2, 4, 8][dice.below(4)];
            overwrite(bytes, at, &number[..width]);
        }
        5 => {
            let mut number = extreme(dice, bytes.len());
            let mut varint = Vec::new();
            while number >= 0x80 {
                varint.push(number as u8 | 0x80);
                number >>= 7;
            }
            varint.push(number as u8);
            match dice.below(2) {
                0 => overwrite(bytes, at, &varint),
                _ => insert(bytes, at, &varint),
            }
        }
        6 => bytes.truncate(at),
        7 => {
            let end = (at + dice.below(ADDED_BYTES_MAX)).min(bytes.len());
            bytes.drain(at.min(end)..end);
        }
        8 => {
            let end = (at + dice.below(ADDED_BYTES_MAX)).min(bytes.len());
            let part = bytes[at.min(end)..end].to_vec();
            let to = dice.below(bytes.len());
            insert(bytes, to, &part);
        }
        9 => {
            let other = &seeds[dice.below(seeds.len())];
            let from = dice.below(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        10 if !words.is_empty() => {
            let word = dice.one_of(words);
            insert(bytes, at, word);
        }
        _ => {
            let filler = [0, 0xff, b'"', b'['][dice.below(4)];
            bytes.extend(vec![filler; dice.below(ADDED_BYTES_MAX)]);
        }
    }
}

fn extreme(dice: &mut Dice, length: usize) -> u64 {
    match dice.below(EXTREMES.len() + 2) {
        0 => length as u64,
        1 => (length as u64).wrapping_sub(dice.below(70) as u64),
        at => EXTREMES[at - 2],
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(with) {
        *to = *from;
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, part: &[u8]) {
    let at = at.min(bytes.len());
    bytes.splice(at..at, part.iter().copied());
}
