//! Damaged logs and records at random: nothing panics, nothing is invented, and what is read of a log is what was written.
//!
//! A stable compiler and `cargo test` are all that is needed; `TIDEGATE_MUTATIONS` is how many logs are damaged.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, DictionaryArray, Float64Array, Int32Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};

use super::record::raw_schema;
use super::{Log, LogOptions, LogReader, LogRecord, Memory, RecordKind, Stamp, Store};

const DIR: &str = "log";

/// Damaged logs, and ten damaged records for each, in an ordinary run.
const MUTATIONS: u64 = 300;

/// Random numbers that are the same every time (Marsaglia, "Xorshift RNGs", 2003).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides.max(1) as u64) as usize
    }

    /// Damages some bytes: bits, bytes, zeros, cuts, repetitions, bytes from elsewhere, claims of many bytes.
    fn damage(&mut self, bytes: &mut Vec<u8>, elsewhere: &[u8]) {
        for _ in 0..=self.roll(3) {
            let (at, length) = (self.roll(bytes.len()), self.roll(64));
            let end = (at + length).min(bytes.len());
            match self.roll(8) {
                _ if bytes.is_empty() => {}
                0 => bytes[at] ^= 1 << self.roll(8),
                1 => bytes[at] = self.roll(256) as u8,
                2 => bytes[at..end].fill(0),
                3 => bytes.truncate(at),
                4 => bytes.extend_from_within(at..end),
                5 => {
                    let from = self.roll(elsewhere.len());
                    let taken = &elsewhere[from..(from + length).min(elsewhere.len())];
                    bytes.splice(at..end, taken.iter().copied());
                }
                6 => bytes[at..end].fill(0xff),
                _ => drop(bytes.drain(at..end)),
            }
        }
    }
}

fn raw(from: u64, rows: u64) -> RecordBatch {
    let keys = Int32Array::from_iter_values((0..rows).map(|row| (row % 3) as i32));
    let topics = StringArray::from_iter_values(["plant/a", "plant/b", "plant/c"]);
    let payloads =
        (from..from + rows).map(|row| format!("{{\"n\":{row},\"temp\":{}.{:02}}}", row % 40, row % 97));
    let arrivals = (from..from + rows).map(|row| 1_700_000_000_000_000 + row as i64 * 50);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(DictionaryArray::try_new(keys, Arc::new(topics)).unwrap()),
        Arc::new(BinaryArray::from_iter_values(payloads)),
        Arc::new(TimestampMicrosecondArray::from_iter_values(arrivals).with_timezone("UTC")),
    ];
    RecordBatch::try_new(raw_schema(), columns).unwrap()
}

/// Records of every kind, in bytes.
fn records() -> Vec<Vec<u8>> {
    let other = Arc::new(Float64Array::from(vec![Some(1.5), None])) as ArrayRef;
    let other = RecordBatch::try_from_iter_with_nullable([("temp", other, true)]).unwrap();
    let of = |at: u64| match at % 8 {
        5 => RecordKind::Tick,
        6 => RecordKind::Barrier { epoch: at, change: at.is_multiple_of(3).then(|| b"\"stop\"".to_vec()) },
        7 if at % 16 == 7 => RecordKind::End { source: "plant".to_owned() },
        7 => RecordKind::Batch { source: "yard".to_owned(), position: "7".to_owned(), batch: other.clone() },
        _ => RecordKind::Batch {
            source: "plant".to_owned(),
            position: at.to_string(),
            batch: raw(at * 30, 1 + at * 7 % 30),
        },
    };
    let bytes = |at: u64| {
        let mut bytes = Vec::new();
        let now = Stamp { mono_us: at * 1000, wall_us: 1_700_000_000_000_000 + at as i64 };
        LogRecord { now, kind: of(at) }.encode(&mut bytes).unwrap();
        bytes
    };
    (0..120).map(bytes).collect()
}

const OPTIONS: LogOptions = LogOptions {
    segment_bytes_max: 4096,
    block_bytes_max: 3000,
    bytes_max: 64 << 10,
    compress: true,
    retain: super::Retain { time: std::time::Duration::ZERO, bytes_max: 0 },
    offset_min: 0,
    now_us: 0,
    needed_from: 0,
};

/// The files of a log with these records.
fn files(records: &[Vec<u8>], compress: bool) -> Vec<(String, Vec<u8>)> {
    let memory = Memory::new();
    let (mut log, _) = Log::open(memory.share(), DIR, LogOptions { compress, ..OPTIONS }).unwrap();
    for (at, record) in records.iter().enumerate() {
        log.append(record).unwrap();
        if at % 5 == 4 {
            log.sync().unwrap();
        }
    }
    log.sync().unwrap();
    drop(log);
    memory.paths().into_iter().map(|path| (path.clone(), memory.contents(&path).unwrap())).collect()
}

#[test]
fn of_a_damaged_log_nothing_is_read_that_was_not_written() {
    let count = std::env::var("TIDEGATE_MUTATIONS").ok().and_then(|count| count.parse().ok());
    let count = count.unwrap_or(MUTATIONS);
    let records = records();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let logs = [files(&records, false), files(&records, true)];
    let (mut read, mut lost) = (0u64, 0u64);
    for round in 0..count {
        let original = &logs[(round % 2) as usize];
        let memory = Memory::new();
        let wounded = dice.roll(original.len());
        for (at, (path, bytes)) in original.iter().enumerate() {
            let mut bytes = bytes.clone();
            if at == wounded || dice.roll(8) == 0 {
                dice.damage(&mut bytes, &original[dice.0 as usize % original.len()].1);
            }
            if dice.roll(100) > 0 {
                memory.plant(path, bytes);
            }
        }
        let seen = |offset: u64, bytes: &[u8]| {
            let known = records.get(offset as usize).map(Vec::as_slice);
            assert_eq!(known, Some(bytes), "round {round}: record {offset} is another");
            assert!(LogRecord::decode(bytes).is_ok());
        };
        // A head may claim a format that is not known: that is refused.
        let Ok(mut reader) = LogReader::open(memory.share(), DIR) else { continue };
        let mut next = 0;
        while let Some((offset, bytes)) = reader.next_record().unwrap() {
            assert!(offset >= next, "round {round}: {offset} after {next}");
            next = offset + 1;
            seen(offset, bytes);
            read += 1;
        }
        lost += reader.damages().records;
        let Ok((mut log, _)) = Log::open(memory.share(), DIR, OPTIONS) else { continue };
        let mut cursor = log.read(0);
        while let Some((offset, bytes)) = cursor.next(&mut log).unwrap() {
            seen(offset, bytes);
        }
        // It goes on, whatever it was.
        let offset = log.append(b"another").unwrap();
        assert_eq!(log.sync().unwrap(), offset + 1);
    }
    println!("{count} damaged logs: {read} records read as they were written, {lost} told as lost");
    assert!(read > count * 40 && lost > count, "{read} records read, {lost} lost");
}

#[test]
fn a_damaged_record_is_refused_or_is_another_record() {
    let records = records();
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let (mut accepted, count) = (0u64, MUTATIONS * 10);
    for _ in 0..count {
        let mut bytes = records[dice.roll(records.len())].clone();
        dice.damage(&mut bytes, &records[dice.0 as usize % records.len()]);
        let Ok(read) = LogRecord::decode(&bytes) else { continue };
        accepted += 1;
        let mut again = Vec::new();
        read.encode(&mut again).unwrap();
        assert_eq!(LogRecord::decode(&again).unwrap(), read);
    }
    println!("{count} damaged records: {accepted} are records too");
}

#[test]
fn opening_reads_the_heads_and_the_last_segment() {
    let record = vec![7; 900];
    let reads_of = |segments: u64| {
        let memory = Memory::new();
        let options = LogOptions { bytes_max: 1 << 20, compress: false, ..OPTIONS };
        let (mut log, _) = Log::open(memory.share(), DIR, options).unwrap();
        for _ in 0..segments * 4 {
            log.append(&record).unwrap();
            log.sync().unwrap();
        }
        drop(log);
        let before = memory.counters().reads;
        let (log, report) = Log::open(memory.share(), DIR, options).unwrap();
        assert!(report.segments as u64 >= segments, "{report:?}");
        (memory.counters().reads - before, log.segments().len() as u64)
    };
    let ((few, few_segments), (many, many_segments)) = (reads_of(10), reads_of(100));
    // One read of a head more for each segment more, and nothing else.
    assert_eq!(many - few, many_segments - few_segments);
    assert!(few < few_segments + 16, "{few} reads for {few_segments} segments");
}
