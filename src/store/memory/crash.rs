//! What a crash leaves of a file's bytes, and the dice that decide. Pure.

use std::ops::Range;

/// What a disk writes at once: a torn write leaves whole sectors, old or new.
const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub bytes: Vec<u8>,
    /// Sure to be there after a crash, but for `doomed`.
    pub durable: usize,
    /// What a failed sync was to write: a later successful one does not write it either.
    pub doomed: Vec<Range<usize>>,
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough dice for a crash, from one number.
pub(super) struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound.max(1) as u64) as usize
    }

    pub fn coin(&mut self) -> bool {
        self.roll() & 1 == 1
    }
}

impl Content {
    pub fn crash(&mut self, stale: &[u8], dice: &mut Dice) {
        for doomed in std::mem::take(&mut self.doomed) {
            if dice.coin() {
                zero(&mut self.bytes, doomed);
            }
        }
        let unsynced = self.bytes.len().saturating_sub(self.durable);
        let kept = self.durable + dice.below(unsynced + 1);
        self.bytes.truncate(kept);
        if dice.coin() {
            lose_some_sectors(&mut self.bytes, self.durable, stale, dice);
        }
        self.durable = self.bytes.len();
    }
}

pub(super) fn zero(bytes: &mut [u8], range: Range<usize>) {
    let end = range.end.min(bytes.len());
    if let Some(part) = bytes.get_mut(range.start.min(end)..end) {
        part.fill(0);
    }
}

/// The file had grown, but about every other sector beyond `from` was never written: it is zeros, or what the file had
/// there that had the block before.
fn lose_some_sectors(bytes: &mut [u8], from: usize, stale: &[u8], dice: &mut Dice) {
    let mut start = from;
    while start < bytes.len() {
        let end = (start / SECTOR_BYTES + 1) * SECTOR_BYTES;
        let sector = start..end.min(bytes.len());
        if dice.coin() {
            let before = stale.get(sector.clone()).filter(|_| dice.coin());
            if let Some(place) = bytes.get_mut(sector) {
                match before {
                    Some(before) => place.copy_from_slice(before),
                    None => place.fill(0),
                }
            }
        }
        start = end;
    }
}
