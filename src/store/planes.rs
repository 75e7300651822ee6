//! Columns of numbers in few bytes: as differences to the smallest or to the one before, cut to the width of the largest
//! difference, byte by byte in planes. Pure.
//!
//! ```text
//! column = form u8 (width 0 to 8, and 16 where each number is the difference to the one before)
//!          │ base varint │ lowest bytes of all │ next bytes of all │ …
//! ```
//!
//! Planes rather than whole numbers: the loops vectorise, and a general compressor behind them finds the high bytes
//! together, where nothing changes.

use super::wire::{Wire, put_varint, unzigzag, zigzag};

const FORM_STEPS: u8 = 16;
const WIDTH_MAX: u8 = 8;

/// Bytes that the largest of numbers takes, from all their bits together.
fn width_of(bits: u64) -> u8 {
    (64 - bits.leading_zeros()).div_ceil(8) as u8
}

/// Appends a column.
pub(crate) fn put(out: &mut Vec<u8>, numbers: &[u64]) {
    let Some((first, rest)) = numbers.split_first() else {
        out.extend_from_slice(&[0, 0]);
        return;
    };
    let (least, largest) =
        rest.iter().fold((*first, *first), |(least, largest), n| (least.min(*n), largest.max(*n)));
    let spread = width_of(largest - least);
    // Steps pay only where they are narrower; narrower than nothing they cannot be.
    if spread > 0 {
        let step = |pair: &[u64]| zigzag(pair[1].wrapping_sub(pair[0]) as i64);
        let bits = numbers.windows(2).fold(0, |bits, pair| bits | step(pair));
        if width_of(bits) < spread {
            out.push(FORM_STEPS | width_of(bits));
            put_varint(out, *first);
            put_planes(out, width_of(bits), numbers.windows(2).map(step));
            return;
        }
    }
    out.push(spread);
    put_varint(out, least);
    put_planes(out, spread, numbers.iter().map(|number| number - least));
}

fn put_planes(out: &mut Vec<u8>, width: u8, numbers: impl ExactSizeIterator<Item = u64> + Clone) {
    for plane in 0..width {
        out.extend(numbers.clone().map(|number| (number >> (8 * plane)) as u8));
    }
}

/// A column that is read number by number; nothing is allocated, whatever the count says.
#[derive(Debug, Clone)]
pub(crate) struct Column<'a> {
    planes: &'a [u8],
    /// Numbers in a plane: one fewer than in the column where they are steps.
    plane: usize,
    base: u64,
    steps: bool,
    at: usize,
    count: usize,
}

impl<'a> Column<'a> {
    /// The column of `count` numbers that comes next.
    pub fn read(wire: &mut Wire<'a>, count: usize) -> Option<Column<'a>> {
        let form = wire.u8()?;
        let (steps, width) = (form & FORM_STEPS != 0, form & !FORM_STEPS);
        if width > WIDTH_MAX {
            return None;
        }
        let base = wire.varint()?;
        let plane = count.saturating_sub(usize::from(steps));
        let planes = wire.take(plane.checked_mul(usize::from(width))?)?;
        Some(Column { planes, plane, base, steps, at: 0, count })
    }

    fn difference(&self, at: usize) -> u64 {
        let mut number = 0;
        let mut index = at;
        let mut shift = 0;
        while let Some(byte) = self.planes.get(index) {
            number |= u64::from(*byte) << shift;
            index += self.plane;
            shift += 8;
        }
        number
    }
}

impl Iterator for Column<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.at >= self.count {
            return None;
        }
        self.at += 1;
        if !self.steps {
            return Some(self.base.wrapping_add(self.difference(self.at - 1)));
        }
        if self.at > 1 && self.plane > 0 {
            self.base = self.base.wrapping_add(unzigzag(self.difference(self.at - 2)) as u64);
        }
        Some(self.base)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count - self.at, Some(self.count - self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(numbers: &[u64]) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, numbers);
        out
    }

    fn read(bytes: &[u8], count: usize) -> Option<Vec<u64>> {
        let mut wire = Wire(bytes);
        let numbers = Column::read(&mut wire, count)?.collect();
        wire.0.is_empty().then_some(numbers)
    }

    #[test]
    fn a_number_takes_the_bytes_of_the_least_difference() {
        let clock: Vec<u64> = (0..100).map(|at| 1_700_000_000_000_000 + at * 100 + at % 7).collect();
        let table: &[(&[u64], usize)] = &[
            (&[], 2),
            (&[7; 1000], 2),
            (&[u64::MAX], 11),
            (&[1000, 1003, 1255], 3 + 3),
            (&[1000, 1003, 1256], 3 + 6),
            (&clock, 9 + 99),
            (&[0, u64::MAX, 0, u64::MAX], 1 + 1 + 3),
        ];
        for (numbers, length) in table {
            let bytes = bytes(numbers);
            assert_eq!(bytes.len(), *length, "{numbers:?}");
            assert_eq!(read(&bytes, numbers.len()).as_deref(), Some(*numbers));
        }
    }

    #[test]
    fn counts_and_forms_that_cannot_be_are_refused() {
        let good = bytes(&[1, 2, 300]);
        for length in 0..good.len() {
            assert!(Column::read(&mut Wire(&good[..length]), 3).is_none(), "{length} bytes");
        }
        assert!(Column::read(&mut Wire(&good), usize::MAX).is_none());
        assert!(Column::read(&mut Wire(&[9, 0]), 0).is_none());
        assert!(Column::read(&mut Wire(&[32, 0]), 0).is_none());
        // Many numbers in no bytes are fine: the caller bounds what it makes of them.
        assert_eq!(Column::read(&mut Wire(&[0, 5]), usize::MAX).unwrap().next(), Some(5));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn columns_come_back(
            start in any::<u64>(),
            steps in prop::collection::vec((0u32..64, any::<i64>()), 0..60),
        ) {
            let mut at = start;
            let numbers: Vec<u64> = steps.iter().map(|(shift, step)| {
                at = at.wrapping_add((step >> shift) as u64);
                at
            }).collect();
            prop_assert_eq!(read(&bytes(&numbers), numbers.len()), Some(numbers));
        }
    }
}
