//! The spool against a model, with the power going at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use proptest::prelude::*;

use super::super::Memory;
use super::super::memory::Faults;
use super::*;

const DIR: &str = "spool/cloud";
const OPTIONS: SpoolOptions = SpoolOptions { bytes_max: BYTES_MIN, when_full: WhenFull::Block };

fn id(offset: u64, nth: u32) -> DeliveryId {
    DeliveryId { origin: Arc::from("box/p/cloud"), offset, nth }
}

/// Rows that say which delivery they belong to.
fn rows(offset: u64, nth: u32, count: usize) -> RecordBatch {
    let of = (offset * 10 + u64::from(nth)) as i64;
    let row: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count as i64));
    let of: ArrayRef = Arc::new(Int64Array::from_iter_values(std::iter::repeat_n(of, count)));
    RecordBatch::try_from_iter([("of", of), ("row", row)]).unwrap()
}

/// One row with a text that zstd cannot make small.
fn wide(seed: u64, bytes: usize) -> RecordBatch {
    let mut state = seed * 2 + 1;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b' ' + (state >> 57) as u8 % 94)
    };
    let text: String = (0..bytes).map(|_| letter()).collect();
    let column: ArrayRef = Arc::new(StringArray::from(vec![text]));
    RecordBatch::try_from_iter([("text", column)]).unwrap()
}

fn open(memory: &Memory, options: SpoolOptions, committed: Option<&Position>) -> Spool {
    Spool::open(&memory.clone(), DIR, options, committed).unwrap().0
}

fn numbers(batch: &RecordBatch, column: &str) -> Vec<i64> {
    batch.column_by_name(column).unwrap().as_primitive::<Int64Type>().values().to_vec()
}

#[test]
fn entries_come_back_in_order_and_known_ones_are_skipped_even_when_they_are_gone() {
    let memory = Memory::new();
    let mut spool = open(&memory, OPTIONS, None);
    let stored = |count| Appended { rows: count, ..Appended::default() };
    let known = |count| Appended { known: count, ..Appended::default() };
    assert_eq!(spool.append(Lane::Live, &id(3, 0), &rows(3, 0, 2), 100).unwrap(), stored(2));
    assert_eq!(spool.append(Lane::Live, &id(3, 1), &rows(3, 1, 1), 200).unwrap(), stored(1));
    assert_eq!(spool.append(Lane::Backlog, &id(4, 0), &rows(4, 0, 5), 300).unwrap(), stored(5));
    assert_eq!(spool.append(Lane::Live, &id(4, 0), &rows(4, 0, 5), 400).unwrap(), known(5));
    let stats = spool.stats().unwrap();
    assert_eq!((stats.entries, stats.rows, stats.oldest_us), (3, 8, Some(100)));
    // Readable before they are durable.
    let first = spool.next(Lane::Live).unwrap().unwrap();
    assert_eq!((first.sequence, first.head.name(), first.rows), (0, id(3, 0), rows(3, 0, 2)));
    spool.sync().unwrap();
    spool.settle(Lane::Live, 1).unwrap();
    spool.mark().unwrap();
    assert_eq!(spool.next(Lane::Live).unwrap().unwrap().head.id, id(3, 1));
    assert_eq!(spool.next(Lane::Live).unwrap(), None);
    let position = spool.position().unwrap();
    drop(spool);
    memory.crash(3);

    let mut spool = open(&memory, OPTIONS, Some(&position));
    assert_eq!(spool.stats().unwrap().entries, 2);
    assert_eq!(spool.next(Lane::Live).unwrap().unwrap().head.id, id(3, 1));
    assert_eq!(spool.next(Lane::Backlog).unwrap().unwrap().head.queued_us, 300);
    for lane in [Lane::Live, Lane::Backlog] {
        spool.settle(lane, u64::MAX).unwrap();
    }
    spool.mark().unwrap();
    drop(spool);
    memory.crash(4);
    let mut spool = open(&memory, OPTIONS, None);
    assert!(spool.is_empty());
    for (offset, nth, count) in [(3, 0, 2), (3, 1, 1), (4, 0, 5)] {
        assert_eq!(
            spool.append(Lane::Live, &id(offset, nth), &rows(offset, nth, count), 9).unwrap(),
            known(count)
        );
    }
    // Another origin counts its records anew.
    let stranger = DeliveryId { origin: Arc::from("other/p/cloud"), ..id(3, 0) };
    assert_eq!(spool.append(Lane::Live, &stranger, &rows(3, 0, 2), 9).unwrap(), stored(2));
    assert_eq!(spool.append(Lane::Live, &id(5, 0), &rows(5, 0, 1), 9).unwrap(), stored(1));
}

#[test]
fn a_delivery_too_large_for_an_entry_is_divided_under_names_of_its_own_and_goes_on_where_it_stopped() {
    let memory = Memory::new();
    let mut spool = open(&memory, OPTIONS, None);
    let large = rows(7, 0, 20_000);
    // The disk fails after the first parts.
    memory.set_faults(Faults { disk_bytes_max: Some(1000), ..Faults::default() });
    let mut failures = 0;
    for offset in 8.. {
        match spool.append(Lane::Live, &id(offset, 0), &wide(offset, 100_000), 0) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind, crate::Kind::Io);
                failures += 1;
                break;
            }
        }
    }
    assert_eq!(failures, 1);
    memory.set_faults(Faults::default());
    spool.sync().unwrap();
    spool.settle(Lane::Live, u64::MAX).unwrap();
    spool.rewind();
    let large_id = id(100, 2);
    let half = large.slice(0, 8_000);
    assert_eq!(spool.append(Lane::Live, &large_id, &half, 0).unwrap().rows, 8_000);
    let appended = spool.append(Lane::Live, &large_id, &large, 0).unwrap();
    assert_eq!((appended.known, appended.rows), (8_000, 12_000));
    let mut parts = Vec::new();
    let mut names = BTreeSet::new();
    while let Some(entry) = spool.next(Lane::Live).unwrap() {
        assert_eq!(
            entry.head.first_row,
            parts.iter().map(|part: &RecordBatch| part.num_rows() as u64).sum::<u64>()
        );
        assert!(names.insert(entry.head.name().to_string()));
        parts.push(entry.rows);
    }
    assert!(parts.len() > 2, "{}", parts.len());
    assert!(names.contains("box/p/cloud/100-2") && names.contains("box/p/cloud/100-2/8000-0"), "{names:?}");
    assert_eq!(arrow::compute::concat_batches(&large.schema(), &parts).unwrap(), large);
    // One row that is too large by itself is said to be, and the rest goes on.
    let giant =
        arrow::compute::concat_batches(&wide(1, 1).schema(), &[wide(1, 9), wide(2, 200_000), wide(3, 9)]);
    let appended = spool.append(Lane::Live, &id(101, 0), &giant.unwrap(), 0).unwrap();
    assert_eq!(appended, Appended { rows: 2, known: 0, too_large: vec![1] });
}

#[test]
fn a_full_spool_refuses_or_drops_the_oldest_and_never_grows_beyond_its_bound() {
    let on_disk = |memory: &Memory| -> u64 {
        let mut store = memory.share();
        let dirs = ["live", "backlog", "marks"].map(|name| format!("{DIR}/{name}"));
        let mut bytes = 0;
        for dir in dirs {
            for name in store.list(&dir).unwrap() {
                bytes += store.len(&format!("{dir}/{name}")).unwrap();
            }
        }
        bytes
    };
    let memory = Memory::new();
    let mut spool = open(&memory, OPTIONS, None);
    let mut offset = 0;
    let error = loop {
        match spool.append(Lane::Backlog, &id(offset, 0), &wide(offset, 20_000), 0) {
            Ok(_) => offset += 1,
            Err(error) => break error,
        }
        assert!(on_disk(&memory) <= BYTES_MIN);
    };
    assert_eq!(error.kind, crate::Kind::Unavailable);
    assert!((40..70).contains(&offset), "{offset}");
    spool.settle(Lane::Backlog, 10).unwrap();
    spool.append(Lane::Live, &id(offset, 0), &wide(offset, 20_000), 0).unwrap();

    let memory = Memory::new();
    let mut spool = open(&memory, SpoolOptions { when_full: WhenFull::DropOldest, ..OPTIONS }, None);
    for offset in 0..200 {
        let lane = if offset % 50 < 25 { Lane::Live } else { Lane::Backlog };
        spool.append(lane, &id(offset, 0), &wide(offset, 20_000), offset as i64).unwrap();
        assert!(on_disk(&memory) <= BYTES_MIN, "{}", on_disk(&memory));
    }
    let stats = spool.stats().unwrap();
    assert_eq!(stats.rows + stats.dropped_rows, 200, "{stats:?}");
    assert!(stats.bytes <= stats.bytes_max && stats.entries == stats.rows);
    let mut left = 0;
    let mut offsets = Vec::new();
    for lane in [Lane::Live, Lane::Backlog] {
        while let Some(entry) = spool.next(lane).unwrap() {
            left += 1;
            offsets.push(entry.head.id.offset);
        }
    }
    assert_eq!(left, stats.entries);
    assert!(offsets.contains(&199));
    // None of the dropped ones comes in again.
    assert_eq!(spool.append(Lane::Live, &id(0, 0), &wide(0, 20_000), 0).unwrap().known, 1);
}

/// What the test does to the spool.
#[derive(Debug, Clone)]
enum Step {
    /// The pipeline delivers the next of its deliveries.
    Append { backlog: bool, rows: usize },
    /// A barrier: sync, mark, commit.
    Flush,
    /// The receiver takes some entries of a lane.
    Deliver { backlog: bool, count: usize },
    /// The power goes; a start, and the deliveries behind the last commit come again.
    Crash { seed: u64 },
    /// A sync fails, at some time.
    FailSync { after: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (any::<bool>(), 1..4usize).prop_map(|(backlog, rows)| Step::Append { backlog, rows }),
        2 => Just(Step::Flush),
        3 => (any::<bool>(), 1..5usize).prop_map(|(backlog, count)| Step::Deliver { backlog, count }),
        1 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        1 => (0..3u64).prop_map(|after| Step::FailSync { after }),
    ];
    proptest::collection::vec(step, 1..60)
}

/// The pipeline, the receiver and the disk around a spool.
struct World {
    memory: Memory,
    spool: Spool,
    /// Rows of all deliveries that ever were made, by offset; they are the same when they come again.
    made: Vec<usize>,
    /// The next delivery to be made: below `made.len()` after a crash.
    next: usize,
    /// Where the last commit stands, and the position in it.
    committed: (usize, Option<Position>),
    delivered: BTreeMap<u64, u32>,
}

impl World {
    fn append(&mut self, backlog: bool, count: usize) {
        if self.next == self.made.len() {
            self.made.push(count);
        }
        let (offset, count) = (self.next as u64, self.made[self.next]);
        let lane = if backlog { Lane::Backlog } else { Lane::Live };
        // A failed sync is tried again.
        for _ in 0..2 {
            match self.spool.append(lane, &id(offset, 0), &rows(offset, 0, count), offset as i64) {
                Ok(_) => break,
                Err(error) => assert_eq!(error.kind, crate::Kind::Io),
            }
        }
        self.next += 1;
    }

    fn flush(&mut self) {
        for _ in 0..4 {
            if self.spool.sync().and_then(|()| self.spool.mark()).is_ok() {
                assert!(self.spool.is_synced());
                self.committed = (self.next, Some(self.spool.position().unwrap()));
                return;
            }
        }
        panic!("one fault at a time, and four tries");
    }

    fn deliver(&mut self, backlog: bool, count: usize) {
        let lane = if backlog { Lane::Backlog } else { Lane::Live };
        for _ in 0..count {
            let Some(entry) = self.spool.next(lane).unwrap() else { return };
            let offset = entry.head.id.offset;
            assert_eq!(entry.rows, rows(offset, 0, self.made[offset as usize]), "what went in comes out");
            *self.delivered.entry(offset).or_default() += 1;
            self.spool.settle(lane, entry.sequence + 1).unwrap();
        }
    }

    fn crash(&mut self, seed: u64) {
        self.memory.set_faults(Faults::default());
        self.memory.crash(seed);
        self.spool = open(&self.memory, OPTIONS, self.committed.1.as_ref());
        self.next = self.committed.0;
        self.check();
        while self.next < self.made.len() {
            // Whichever lane they went to before.
            self.append(seed & (1 << (self.next % 64)) != 0, 0);
        }
    }

    /// No delivery is twice in the spool, and each lane is in order.
    fn check(&mut self) {
        self.spool.rewind();
        let mut seen = BTreeSet::new();
        for lane in [Lane::Live, Lane::Backlog] {
            let mut before = None;
            while let Some(entry) = self.spool.next(lane).unwrap() {
                let offset = entry.head.id.offset;
                assert!(seen.insert(offset), "delivery {offset} is twice in the spool");
                assert!(before < Some(offset), "{offset} comes behind {before:?}");
                before = Some(offset);
            }
        }
        assert_eq!(seen.len() as u64, self.spool.stats().unwrap().entries);
        let rows = seen.iter().map(|offset| self.made[*offset as usize] as u64).sum::<u64>();
        assert!(self.spool.stats().unwrap().rows >= rows);
        self.spool.rewind();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn nothing_is_lost_and_nothing_is_twice_in_the_spool_whenever_the_power_goes(steps in steps(), last: u64) {
        let memory = Memory::new();
        let spool = open(&memory, OPTIONS, None);
        let mut world =
            World { memory, spool, made: Vec::new(), next: 0, committed: (0, None), delivered: BTreeMap::new() };
        for step in steps {
            match step {
                Step::Append { backlog, rows } => world.append(backlog, rows),
                Step::Flush => world.flush(),
                Step::Deliver { backlog, count } => world.deliver(backlog, count),
                Step::Crash { seed } => world.crash(seed),
                Step::FailSync { after } => {
                    world.memory.set_faults(Faults { fail_sync_after: Some(after), ..Faults::default() });
                }
            }
        }
        world.crash(last);
        world.check();
        world.deliver(false, usize::MAX);
        world.deliver(true, usize::MAX);
        prop_assert!(world.spool.is_empty());
        let all: Vec<u64> = (0..world.made.len() as u64).collect();
        prop_assert_eq!(world.delivered.keys().copied().collect::<Vec<_>>(), all, "every delivery arrives");
        prop_assert_eq!(world.spool.stats().unwrap().lost_entries, 0);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at: usize, to: u8) {
        let _ = entry::decode(&bytes);
        let head = EntryHead { id: id(1, 0), first_row: 0, rows: 2, rows_before: 5, queued_us: -1 };
        let mut good = Vec::new();
        entry::encode(&head, &rows(1, 0, 2), &mut good).unwrap();
        prop_assert_eq!(entry::decode(&good).unwrap(), (head, rows(1, 0, 2)));
        let end = at % good.len();
        prop_assert!(entry::decode(&good[..end]).is_err());
        good[end] = to;
        let _ = entry::decode(&good);
    }
}

#[test]
fn opening_reads_no_more_of_a_large_spool_than_of_a_small_one() {
    let reads = |entries: u64| {
        let memory = Memory::new();
        let mut spool = open(&memory, SpoolOptions { bytes_max: 64 << 20, ..OPTIONS }, None);
        for offset in 0..entries {
            spool.append(Lane::Live, &id(offset, 0), &wide(offset, 100_000), 0).unwrap();
        }
        spool.sync().unwrap();
        drop(spool);
        let before = memory.counters().reads;
        let mut spool = open(&memory, SpoolOptions { bytes_max: 64 << 20, ..OPTIONS }, None);
        assert_eq!(spool.stats().unwrap().entries, entries);
        memory.counters().reads - before
    };
    // Eight segments of eight megabytes at most: their heads, and the blocks of the last.
    let (small, large) = (reads(60), reads(420));
    assert!(large <= small + 8, "{small} reads, {large} reads");
    assert_eq!(numbers(&rows(1, 0, 2), "row"), [0, 1]);
}
