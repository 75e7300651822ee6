//! What is read back from disk or comes over a wire as a file: records and segments of the log, checkpoints, frames,
//! model files.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, BinaryArray, DictionaryArray, Float64Array, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::Int32Type;
use tidegate::codec::frame::{FrameDecoder, FrameEncoder, FrameOptions, FrameReader, Limits};
use tidegate::codec::stage::{Dictionary, Stage};
use tidegate::core::schema::time_array;
use tidegate::core::{
    Barrier, Change, Commit, Epoch, EventTime, Now, Position, Record, Snapshot, Stamped, State,
};
use tidegate::model::{Kernel, ModelFile, TrainingData, TrainingOptions, train, verify};
use tidegate::store::journal::Writer;
use tidegate::store::recovery::Saver;
use tidegate::store::{Log, LogOptions, LogRecord, Memory, Store, checkpoint, recovery};

use super::{Target, fuzz};

/// A batch of raw messages, as sources give them.
fn raw_batch(rows: usize) -> RecordBatch {
    let topics: DictionaryArray<Int32Type> =
        (0..rows).map(|row| Some(["line/a", "line/b"][row % 2])).collect();
    let payloads: Vec<String> = (0..rows)
        .map(|row| format!(r#"{{"ts":{},"v":{}.5}}"#, 1_700_000_000_000u64 + row as u64 * 100, row))
        .collect();
    let arrivals = (0..rows as i64).map(|row| 1_700_000_000_000_000 + row * 100_000).collect();
    let payloads = BinaryArray::from_iter_values(payloads);
    let columns: Vec<ArrayRef> = vec![Arc::new(topics), Arc::new(payloads), time_array(arrivals)];
    RecordBatch::try_new(tidegate::core::schema::raw(), columns).unwrap()
}

/// A batch of columns: another shape in the log.
fn columns_batch() -> RecordBatch {
    let tags: DictionaryArray<Int32Type> = [Some("a"), None, Some("b")].into_iter().collect();
    RecordBatch::try_from_iter([
        ("time", time_array(vec![1, 2, 3])),
        ("tag", Arc::new(tags) as ArrayRef),
        ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(-3)])) as ArrayRef),
        ("x", Arc::new(Float64Array::from(vec![0.5, f64::NAN, -0.0])) as ArrayRef),
        ("text", Arc::new(StringArray::from(vec![Some("one"), Some(""), None])) as ArrayRef),
    ])
    .unwrap()
}

/// A log with every kind of record in one segment; a sync behind every second.
fn log_of_every_kind(compress: bool) -> (Memory, Vec<Vec<u8>>) {
    let memory = Memory::new();
    let options = LogOptions { compress, ..LogOptions::default() };
    let (mut log, _) = Log::open(memory.share(), "log", options).unwrap();
    let mut writer = Writer::new(["west", "east"].map(str::to_owned).to_vec());
    let records = [
        Record::Batch { input: 0, batch: raw_batch(40) },
        Record::Tick,
        Record::Batch { input: 1, batch: columns_batch() },
        Record::Barrier(Barrier { epoch: Epoch(7), change: Some(Arc::new(Change::Stop)) }),
        Record::Batch { input: 0, batch: raw_batch(1) },
        Record::End { input: 1 },
        Record::Barrier(Barrier { epoch: Epoch(8), change: None }),
        Record::Batch { input: 0, batch: raw_batch(0) },
    ];
    for (offset, record) in (0..).zip(records) {
        let now = Now { mono: Duration::from_millis(offset * 10), wall: EventTime(1_700_000_000_000_000) };
        let position = Some(Position(format!("[1,{offset}]")));
        writer.append(&mut log, &Stamped { offset, now, record, position }).unwrap();
        if offset % 2 == 1 {
            log.sync().unwrap();
        }
    }
    let mut cursor = log.read(0);
    let mut encoded = Vec::new();
    while let Some((_, bytes)) = cursor.next(&mut log).unwrap() {
        encoded.push(bytes.to_vec());
    }
    drop(log);
    (memory, encoded)
}

#[test]
fn records_of_the_log() {
    let (_, seeds) = log_of_every_kind(false);
    fuzz(
        &Target {
            name: "log record",
            seeds,
            words: &[],
            reseal: None,
            read: &|bytes| LogRecord::decode(bytes).is_ok(),
            // A million rows may be said to be equal in a few bytes, and all payloads together have 64 MiB.
            request_bytes_max: &|length| (65 << 20) + 64 * length,
        },
        1,
    );
}

const SEGMENT: &str = "log/00000000000000000000-0000.log";
const SEGMENT_HEAD_BYTES: usize = 32;
const BLOCK_HEAD_BYTES: usize = 32;

/// Right checksums for the head of a segment and for each block that can be found from the one before.
fn reseal_segment(bytes: &mut [u8]) {
    if bytes.len() < SEGMENT_HEAD_BYTES {
        return;
    }
    let crc = crc32fast::hash(&bytes[..28]).to_le_bytes();
    bytes[28..32].copy_from_slice(&crc);
    let mut at = SEGMENT_HEAD_BYTES;
    while at + BLOCK_HEAD_BYTES <= bytes.len() {
        let stored = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        let end = at.saturating_add(BLOCK_HEAD_BYTES).saturating_add(stored);
        if end > bytes.len() {
            return;
        }
        let mut crc = crc32fast::Hasher::new();
        // The place: first offset and generation of the segment, and the position in it.
        crc.update(&0u64.to_le_bytes());
        crc.update(&0u32.to_le_bytes());
        crc.update(&(at as u64).to_le_bytes());
        crc.update(&bytes[at + 8..end]);
        let crc = crc.finalize().to_le_bytes();
        bytes[at + 4..at + 8].copy_from_slice(&crc);
        at = end;
    }
}

/// Opens a log on a damaged segment, reads all, appends, and reads that too.
fn read_segment(bytes: &[u8]) -> bool {
    let memory = Memory::new();
    memory.plant(SEGMENT, bytes.to_vec());
    let options = LogOptions { bytes_max: 512 << 20, ..LogOptions::default() };
    let Ok((mut log, _)) = Log::open(memory.share(), "log", options) else { return false };
    let mut cursor = log.read(0);
    let mut records = 0;
    let mut last = None;
    while let Some((offset, _)) = cursor.next(&mut log).unwrap() {
        assert!(last.is_none_or(|last| last < offset), "{offset} after {last:?}");
        (last, records) = (Some(offset), records + 1);
    }
    let lost = cursor.damages().records;
    assert!(last.is_none_or(|last| last < log.next_offset()));
    assert!(records + lost <= log.next_offset());
    if log.next_offset() < u64::MAX - 1 {
        let offset = log.append(b"one more").unwrap();
        log.sync().unwrap();
        assert_eq!(log.read(offset).next(&mut log).unwrap().map(|(at, _)| at), Some(offset));
    }
    records > 0
}

#[test]
fn segments_of_the_log() {
    let seeds = [false, true].map(|compress| log_of_every_kind(compress).0.contents(SEGMENT).unwrap());
    fuzz(
        &Target {
            name: "log segment",
            seeds: seeds.to_vec(),
            words: &[b"TGBK"],
            reseal: Some(reseal_segment),
            read: &read_segment,
            // A compressed block may hold what any block may: 64 MiB. Twice that while it is taken into memory.
            request_bytes_max: &|_| 160 << 20,
        },
        2,
    );
    // Nothing that is stored as it is asks for more than the search window.
    fuzz(
        &Target {
            name: "log segment as it is",
            seeds: vec![seeds[0].clone()],
            words: &[b"TGBK"],
            reseal: None,
            read: &read_segment,
            request_bytes_max: &|length| (256 << 10) + 8 * length,
        },
        2,
    );
}

const CHECKPOINT: &str = "checkpoint/00000000000000000003.ckpt";
const CHECKPOINT_HEAD_BYTES: usize = 64;
const CHECKPOINT_FOOT_BYTES: usize = 24;

fn checkpoint_seeds() -> Vec<Vec<u8>> {
    let memory = Memory::new();
    let mut store = memory.clone();
    let node = |name: &str, state: Vec<u8>| tidegate::core::NodeState {
        name: name.to_owned(),
        kind: "window".to_owned(),
        fingerprint: tidegate::core::Fingerprint(7),
        state: State::of_bytes(state),
        model: None,
        watermark: 12,
        idle: false,
        edges: vec![tidegate::core::snapshot::EdgeState::START; 2],
    };
    let snapshot = Snapshot {
        epoch: Epoch(3),
        now: Now::ZERO,
        nodes: vec![node("keep", Vec::new()), node("sum", (0..200).collect())],
    };
    let position = Position("[1,2]".to_owned());
    let commit = Commit {
        epoch: Epoch(3),
        offset: 9,
        snapshot,
        sources: vec![Some(position.clone())],
        sinks: vec![position],
    };
    let names = vec!["a".to_owned()];
    Saver::new(names.clone(), names).save(&mut store, &commit, Now::ZERO).unwrap();
    vec![memory.contents(CHECKPOINT).unwrap()]
}

/// Right checksums for the head and for the manifest, where the foot says that it is.
fn reseal_checkpoint(bytes: &mut [u8]) {
    let Some(foot) =
        bytes.len().checked_sub(CHECKPOINT_FOOT_BYTES).filter(|foot| *foot >= CHECKPOINT_HEAD_BYTES)
    else {
        return;
    };
    // Another epoch than the name's would be the end of it.
    bytes[16..24].copy_from_slice(&3u64.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..60]).to_le_bytes();
    bytes[60..64].copy_from_slice(&crc);
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let (offset, length) = (number(foot), number(foot + 8));
    let Some(end) = offset.checked_add(length).filter(|end| *end <= foot as u64) else { return };
    let mut crc = crc32fast::Hasher::new();
    crc.update(&3u64.to_le_bytes());
    crc.update(&bytes[offset as usize..end as usize]);
    let crc = crc.finalize().to_le_bytes();
    bytes[foot + 16..foot + 20].copy_from_slice(&crc);
    bytes[foot + 20..].copy_from_slice(b"end\n");
}

#[test]
fn checkpoints() {
    fuzz(
        &Target {
            name: "checkpoint",
            seeds: checkpoint_seeds(),
            words: &[b"\"sources\":", b"ends", b"snapshot"],
            reseal: Some(reseal_checkpoint),
            read: &|bytes| {
                let mut memory = Memory::new();
                memory.plant(CHECKPOINT, bytes.to_vec());
                let whole = checkpoint::load(&mut memory).is_ok_and(|loaded| loaded.is_some());
                memory.plant(CHECKPOINT, bytes.to_vec());
                recovery::recover(&mut memory).is_ok() && whole
            },
            // serde asks for at most 1 MiB on the word of a length.
            request_bytes_max: &|length| (1 << 20) + (64 << 10) + 8 * length,
        },
        1,
    );
}

fn stages() -> Vec<Stage> {
    let dictionary = Arc::new(Dictionary::new(b"line/a line/b 1.5 2.5 one two three".repeat(8)).unwrap());
    vec![
        Stage::Stored,
        Stage::Huffman,
        Stage::Lzw,
        Stage::Zstd { level: 3, dictionary: None },
        Stage::Zstd { level: 1, dictionary: Some(dictionary) },
    ]
}

fn reseal_frame(bytes: &mut [u8]) {
    if bytes.len() < 24 {
        return;
    }
    // The length is checked before any checksum: damage to it alone would be the end.
    let total = bytes.len() as u32;
    bytes[8..12].copy_from_slice(&total.to_le_bytes());
    let header = crc32fast::hash(&bytes[..16]).to_le_bytes();
    bytes[16..20].copy_from_slice(&header);
    let end = bytes.len() - 4;
    let all = crc32fast::hash(&bytes[..end]).to_le_bytes();
    bytes[end..].copy_from_slice(&all);
}

#[test]
fn frames() {
    const RAW_BYTES_MAX: usize = 1 << 20;
    for stage in stages() {
        let limits = Limits { raw_bytes_max: RAW_BYTES_MAX, ..Limits::default() };
        let seeds = [columns_batch(), raw_batch(30)].map(|batch| {
            let mut frame = Vec::new();
            FrameEncoder::new(FrameOptions { stage: stage.clone() })
                .unwrap()
                .encode(&batch, &mut frame)
                .unwrap();
            frame
        });
        let dictionaries = || stage.dictionary().cloned();
        let read = |bytes: &[u8]| {
            let mut decoder = FrameDecoder::default().with_limits(limits);
            decoder = decoder.with_dictionaries(dictionaries());
            let one = decoder.decode(bytes).is_ok();
            // A stream of it: whatever happens, it comes to an end.
            let reader = FrameReader::new(bytes).with_limits(limits).with_dictionaries(dictionaries());
            let count = reader.take(bytes.len() + 2).count();
            assert!(count <= bytes.len() + 1, "{count} frames in {} bytes", bytes.len());
            one
        };
        fuzz(
            &Target {
                name: &format!("frame, {stage:?}").chars().take(24).collect::<String>(),
                seeds: seeds.to_vec(),
                words: &[b"\x89TGF"],
                reseal: Some(reseal_frame),
                read: &read,
                request_bytes_max: &|length| RAW_BYTES_MAX + (256 << 10) + 8 * length,
            },
            4,
        );
    }
}

fn reseal_model(bytes: &mut [u8]) {
    const HEADER_BYTES: usize = 128;
    if bytes.len() < HEADER_BYTES {
        return;
    }
    let (header, body) = bytes.split_at_mut(HEADER_BYTES);
    header[16..24].copy_from_slice(&(body.len() as u64).to_le_bytes());
    header[24..56].copy_from_slice(blake3::hash(body).as_bytes());
    header[12..16].fill(0);
    let crc = crc32fast::hash(header).to_le_bytes();
    header[12..16].copy_from_slice(&crc);
}

#[test]
fn model_files() {
    let names = ["temp", "vib", "rpm"].map(str::to_owned);
    let rows: Vec<f64> = (0..600).map(|at| f64::from(at * 37 % 101) / 7.0).collect();
    let options =
        TrainingOptions { epochs_max: 2, hidden: Some(vec![4, 2, 4]), ..TrainingOptions::default() };
    let trained = train(TrainingData { names: &names, rows: &rows }, &options, &mut |_| {}).unwrap();
    let bytes = trained.bytes;
    fuzz(
        &Target {
            name: "model file",
            seeds: vec![bytes],
            words: &[b"temp"],
            reseal: Some(reseal_model),
            read: &|bytes| {
                let read = ModelFile::read(bytes);
                let runs = verify(bytes, &names, Kernel::Scalar).is_ok();
                assert!(read.is_ok() || !runs);
                read.is_ok()
            },
            request_bytes_max: &|length| (1 << 18) + 32 * length,
        },
        1,
    );
}
