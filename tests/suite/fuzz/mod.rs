//! Every reader of foreign bytes is given real bytes, damaged, and where a checksum guards them, with the checksum put
//! right again, so that what lies behind it is reached. None may panic, and none may ask for more memory than a stated
//! bound because a length says so.
//!
//! `FUZZ=1000000 cargo test --release --test suite fuzz::` tries a million of each; a case that fails is printed with
//! its number, and `FUZZ_FIRST=number FUZZ=1` tries that one alone.

mod engine;
mod files;
mod mutation;
mod payloads;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::allocator::largest_request;
use mutation::{Dice, damaged};

/// Damaged inputs in the normal test, for each reader.
const CASES: u64 = 3000;

/// A reader, and what it is given.
struct Target<'a> {
    name: &'a str,
    seeds: Vec<Vec<u8>>,
    /// Pieces that mean something in its grammar.
    words: &'a [&'a [u8]],
    /// Puts checksums right.
    reseal: Option<fn(&mut [u8])>,
    /// Reads; whether there was anything to read. What is read must hold together: it asserts.
    read: &'a dyn Fn(&[u8]) -> bool,
    /// The largest request for memory that an input may cause, by its length.
    request_bytes_max: &'a dyn Fn(usize) -> usize,
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Tries `1 / share` of the cases that are asked for.
fn fuzz(target: &Target<'_>, share: u64) {
    for (at, seed) in target.seeds.iter().enumerate() {
        assert!((target.read)(seed), "{}: seed {at} is not read", target.name);
        if let Some(reseal) = target.reseal {
            let mut again = seed.clone();
            reseal(&mut again);
            assert!(again == *seed, "{}: seed {at} is sealed otherwise", target.name);
        }
    }
    let (first, cases) =
        (number_of("FUZZ_FIRST").unwrap_or(0), number_of("FUZZ").unwrap_or(CASES).div_ceil(share));
    let (mut read, mut largest_of_all) = (0u64, 0);
    for case in first..first + cases {
        let mut dice = Dice::new(case);
        let mut bytes = damaged(&mut dice, &target.seeds, target.words);
        if let Some(reseal) = target.reseal
            && dice.below(8) > 0
        {
            reseal(&mut bytes);
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| largest_request(|| (target.read)(&bytes))));
        let Ok((is_read, largest)) = outcome else {
            panic!("{}: case {case} panics on {} bytes: {}", target.name, bytes.len(), shown(&bytes));
        };
        let bound = (target.request_bytes_max)(bytes.len());
        assert!(
            largest <= bound,
            "{}: case {case} asks for {largest} bytes, more than {bound}, on {}: {}",
            target.name,
            bytes.len(),
            shown(&bytes)
        );
        read += u64::from(is_read);
        largest_of_all = largest_of_all.max(largest);
    }
    println!("{}: {cases} inputs, {read} of them read; at most {largest_of_all} bytes at once", target.name);
    // Were nothing ever read, the damage would be too great to reach anything.
    assert!(cases < 1000 || read > 0, "{}: nothing is ever read", target.name);
}

fn shown(bytes: &[u8]) -> String {
    bytes.iter().take(2000).map(|byte| format!("{byte:02x}")).collect()
}
