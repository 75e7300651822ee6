//! `compress`: rows become self-describing, checksummed, compressed frames. Pure.
//!
//! Rows wait as slices of the batches they came in. Where a frame ends depends on the rows and the watermarks alone,
//! so that the same rows give the same frames however they were cut into batches.

mod parts;

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::Deserialize;

use self::parts::{join, measure_rows, merge_tail};
use crate::codec::frame::{FRAME_COLUMN, FrameEncoder, FrameOptions, Limits, RAW_BYTES_MAX};
use crate::codec::stage::{Dictionary, Prefer, Stage};
use crate::core::schema::{TIME, time_array, time_field, time_type, times};
use crate::core::{EventTime, Operator, Output, StateReader, StateWriter};
use crate::error::{Error, Result};
use crate::registry::{Built, Checked, Context, OperatorConfig, Problem};
use crate::units::{Period, Size};

/// Packs rows into compressed frames: one row out for many rows in.
///
/// A frame holds whole rows with their columns' names and types, is checksummed, and can be decoded without anything
/// else: by `tidegate decode`, also out of a file with other frames before and behind it. It ends as soon as one of
/// `rows`, `bytes` and `every` is reached, and when the input ends.
///
/// Emitted columns: `time` (the latest time of the frame's rows, or the watermark where that is later: a frame is
/// never late), `rows` (how many are inside), `raw_bytes` (what these rows take uncompressed, in Arrow's columnar
/// layout; as JSON text they would be about three times that) and `frame` (the bytes).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompressConfig {
    /// What codes the columns. Numbers are predicted and turned into small integers before, whatever is chosen here.
    #[serde(default)]
    codec: Codec,
    /// For auto: what to go for.
    #[serde(default)]
    prefer: Option<Preference>,
    /// For zstd: 1 (fast) to 19 (small); 3 without it.
    #[serde(default)]
    #[schemars(range(min = 1, max = 19))]
    level: Option<i32>,
    /// For zstd: a file with a dictionary, which makes small frames smaller. `tidegate decode` then needs it too.
    #[serde(default)]
    dictionary: Option<String>,
    /// A frame ends with this many rows.
    #[serde(default = "rows")]
    #[schemars(range(min = 1, max = 4_194_304))]
    rows: usize,
    /// A frame ends before the row with which its rows would take more than this, uncompressed. At most `"32MiB"`.
    #[serde(default = "bytes")]
    bytes: Size,
    /// A frame ends when the watermark reaches the next multiple of this, counted from 1970 UTC: so long may a row wait
    /// here in event time.
    #[serde(default = "every")]
    every: Period,
}

/// A coder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    /// What makes each column small, found by trying and kept for 64 frames or until the column changes.
    #[default]
    Auto,
    /// Zstandard (RFC 8878).
    Zstd,
    /// Huffman codes: fast, and a small decoder.
    Huffman,
    /// A range coder that learns as it goes: the smallest, most of all for frames of few rows, and slower.
    Adaptive,
    /// Lempel, Ziv and Welch's dictionary coder, codes of 9 to 12 bits.
    Lzw,
    /// Nothing but bits packed together.
    Stored,
}

/// What an automatic choice goes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preference {
    /// Little CPU time.
    Speed,
    /// Small frames for little CPU time; what is taken without `prefer`.
    Balanced,
    /// The smallest frames.
    Ratio,
}

fn rows() -> usize {
    1000
}

fn bytes() -> Size {
    Size(4 << 20)
}

fn every() -> Period {
    Period::seconds(10)
}

const BYTES_MAX: u64 = 32 << 20;
const LEVEL: i32 = 3;
/// With so many slices in wait, small ones are put together: each costs some hundred bytes beside its rows.
const PARTS_MAX: usize = 64;

impl OperatorConfig for CompressConfig {
    const TYPE: &'static str = "compress";
    const EXAMPLES: &'static [&'static str] = &[
        r#"# Frames of up to 1,000 rows or ten seconds.
codec = "auto"
"#,
        r#"# Few large frames, small on the wire.
codec = "auto"
prefer = "ratio"
rows = 50_000
bytes = "8MiB"
every = "5m"
"#,
        r#"# For a receiver that has no zstd.
codec = "huffman"
rows = 64
"#,
    ];

    fn build(self, context: &Context<'_>) -> Checked<Built> {
        let mut problems = Vec::new();
        let input = context.schema();
        if input.column_with_name(TIME).is_none_or(|(_, field)| *field.data_type() != time_type()) {
            problems.push(
                Problem::new("", "the input has no `time` column")
                    .help("put a `decode` operator before this one"),
            );
        }
        let rows_max = Limits::default().rows_max;
        if !(1..=rows_max).contains(&self.rows) {
            problems.push(Problem::new("rows", format!("must be 1 to {rows_max}, not {}", self.rows)));
        }
        if !(1..=BYTES_MAX).contains(&self.bytes.0) {
            let limit = Size(BYTES_MAX);
            problems.push(Problem::new("bytes", format!("must be 1B to {limit}, not {}", self.bytes)));
        }
        if self.every.0.is_zero() {
            problems.push(Problem::new("every", "must be longer than nothing"));
        }
        let stage = self.stage(context, &mut problems);
        let encoder = stage.and_then(|stage| check_encoder(stage, input, &mut problems));
        let (Some(encoder), true) = (encoder, problems.is_empty()) else { return Err(problems) };
        let schema = output_schema();
        let compress = Compress {
            limits: FrameLimits {
                rows: self.rows,
                bytes: self.bytes.as_usize(),
                every_us: self.every.micros().max(1),
            },
            encoder,
            input: input.clone(),
            output: schema.clone(),
            waiting: Waiting::default(),
            watermark: EventTime::MIN,
            row_bytes: Vec::new(),
        };
        // Rows that wait belong to the next frame whatever the limits and the codec become.
        Ok(Built::new(compress, schema, ""))
    }
}

impl CompressConfig {
    fn stage(&self, context: &Context<'_>, problems: &mut Vec<Problem>) -> Option<Stage> {
        if self.codec != Codec::Zstd {
            for (key, given) in [("level", self.level.is_some()), ("dictionary", self.dictionary.is_some())] {
                if given {
                    problems.push(
                        Problem::new(key, "has a meaning for zstd only")
                            .help("leave it out, or choose `codec = \"zstd\"`"),
                    );
                }
            }
        }
        if self.codec != Codec::Auto && self.prefer.is_some() {
            problems.push(
                Problem::new("prefer", "has a meaning for auto only")
                    .help("leave it out, or choose `codec = \"auto\"`"),
            );
        }
        match self.codec {
            Codec::Auto => Some(Stage::Auto {
                prefer: match self.prefer {
                    Some(Preference::Speed) => Prefer::Speed,
                    Some(Preference::Balanced) | None => Prefer::Balanced,
                    Some(Preference::Ratio) => Prefer::Ratio,
                },
            }),
            Codec::Adaptive => Some(Stage::Adaptive),
            Codec::Huffman => Some(Stage::Huffman),
            Codec::Lzw => Some(Stage::Lzw),
            Codec::Stored => Some(Stage::Stored),
            Codec::Zstd => {
                let level = self.level.unwrap_or(LEVEL);
                if !(1..=19).contains(&level) {
                    problems.push(Problem::new(
                        "level",
                        format!("zstd has no level {level} here; use 1 (fast) to 19 (small)"),
                    ));
                    return None;
                }
                let dictionary = match &self.dictionary {
                    None => None,
                    Some(path) => match context.files.read(path).and_then(Dictionary::new) {
                        Ok(dictionary) => Some(Arc::new(dictionary)),
                        Err(error) => {
                            problems.push(Problem::new("dictionary", error.message));
                            return None;
                        }
                    },
                };
                Some(Stage::Zstd { level, dictionary })
            }
        }
    }
}

/// An encoder, if frames can carry the input's columns: no batch will meet a type that they cannot.
fn check_encoder(stage: Stage, input: &SchemaRef, problems: &mut Vec<Problem>) -> Option<FrameEncoder> {
    let mut encoder = match FrameEncoder::new(FrameOptions { stage }) {
        Ok(encoder) => encoder,
        Err(error) => {
            problems.push(Problem::new("codec", error.message));
            return None;
        }
    };
    match encoder.encode(&RecordBatch::new_empty(input.clone()), &mut Vec::new()) {
        Ok(_) => Some(encoder),
        Err(error) => {
            problems
                .push(Problem::new("", error.message).help("leave the column out with a `select` operator"));
            None
        }
    }
}

fn output_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        time_field(),
        Field::new("rows", DataType::Int64, false),
        Field::new("raw_bytes", DataType::Int64, false),
        Field::new(FRAME_COLUMN, DataType::Binary, false),
    ]))
}

/// When a frame ends.
struct FrameLimits {
    rows: usize,
    bytes: usize,
    every_us: i64,
}

/// The rows of the next frame.
struct Waiting {
    parts: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
    time_max: i64,
    /// The watermark that ends the frame.
    due_us: i64,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { parts: Vec::new(), rows: 0, bytes: 0, time_max: i64::MIN, due_us: i64::MAX }
    }
}

struct Compress {
    limits: FrameLimits,
    encoder: FrameEncoder,
    input: SchemaRef,
    output: SchemaRef,
    waiting: Waiting,
    /// How far the watermark has come.
    watermark: EventTime,
    /// What each row of the batch at hand takes.
    row_bytes: Vec<usize>,
}

/// Frames that end in one call.
#[derive(Default)]
struct Frames {
    times: Vec<i64>,
    rows: Vec<i64>,
    raw_bytes: Vec<i64>,
    frames: Vec<Vec<u8>>,
}

impl Compress {
    /// How many of the rows from `from` on go into the frame at hand, and what they take. 0: the frame is full.
    fn fitting(&self, from: usize) -> (usize, usize) {
        let room = self.limits.rows.saturating_sub(self.waiting.rows);
        let (mut rows, mut bytes) = (0, 0);
        for row_bytes in self.row_bytes[from..].iter().take(room) {
            let taken = self.waiting.bytes + bytes;
            // A row larger than the limit has a frame for itself.
            if taken > 0 && taken + row_bytes > self.limits.bytes {
                break;
            }
            rows += 1;
            bytes += row_bytes;
        }
        (rows, bytes)
    }

    /// Puts rows of the batch into the frame at hand.
    fn push(
        &mut self,
        batch: &RecordBatch,
        times: &[i64],
        from: usize,
        rows: usize,
        bytes: usize,
    ) -> Result<()> {
        let waiting = &mut self.waiting;
        if waiting.rows == 0 {
            let start = times[from].max(self.watermark.micros());
            let slot = start.div_euclid(self.limits.every_us);
            waiting.due_us = slot.saturating_add(1).saturating_mul(self.limits.every_us);
        }
        waiting.parts.push(batch.slice(from, rows));
        if waiting.parts.len() >= PARTS_MAX {
            merge_tail(&self.input, &mut waiting.parts)?;
        }
        waiting.rows += rows;
        waiting.bytes += bytes;
        waiting.time_max = times[from..from + rows].iter().copied().fold(waiting.time_max, i64::max);
        Ok(())
    }

    /// Ends the frame at hand.
    fn close(&mut self, frames: &mut Frames, out: &mut Output) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.parts.is_empty() {
            return Ok(());
        }
        let batch = join(&self.input, &waiting.parts)?;
        let mut frame = Vec::new();
        match self.encoder.encode(&batch, &mut frame) {
            Ok(encoded) => {
                frames.times.push(waiting.time_max.max(self.watermark.micros()));
                frames.rows.push(waiting.rows as i64);
                frames.raw_bytes.push(encoded.raw_bytes as i64);
                frames.frames.push(frame);
                Ok(())
            }
            // One row alone can be larger than any frame; it must not stop the others.
            Err(_) if waiting.bytes > RAW_BYTES_MAX => {
                out.count("lost_rows", "too_large", waiting.rows as u64);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn emit(&self, frames: Frames, out: &mut Output) -> Result<()> {
        if frames.times.is_empty() {
            return Ok(());
        }
        let columns: Vec<ArrayRef> = vec![
            time_array(frames.times),
            Arc::new(Int64Array::from(frames.rows)),
            Arc::new(Int64Array::from(frames.raw_bytes)),
            Arc::new(BinaryArray::from_iter_values(frames.frames)),
        ];
        out.emit(0, RecordBatch::try_new(self.output.clone(), columns)?);
        Ok(())
    }
}

impl Operator for Compress {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let times = times(&batch)?.values().clone();
        measure_rows(&batch, &mut self.row_bytes);
        let mut frames = Frames::default();
        let mut from = 0;
        while from < times.len() {
            let (rows, bytes) = self.fitting(from);
            if rows == 0 {
                self.close(&mut frames, out)?;
                continue;
            }
            self.push(&batch, &times, from, rows, bytes)?;
            from += rows;
            if self.waiting.rows >= self.limits.rows {
                self.close(&mut frames, out)?;
            }
        }
        self.emit(frames, out)
    }

    fn watermark(&mut self, to: EventTime, out: &mut Output) -> Result<()> {
        let mut frames = Frames::default();
        if to == EventTime::MAX || to.micros() >= self.waiting.due_us {
            self.close(&mut frames, out)?;
        }
        // The frame left before the watermark; only those to come are behind it.
        self.watermark = self.watermark.max(to);
        self.emit(frames, out)
    }

    fn save(&mut self, state: &mut StateWriter) {
        let waiting = &self.waiting;
        state.value(&(self.watermark, waiting.bytes as u64, waiting.due_us, waiting.parts.len() as u64));
        waiting.parts.iter().for_each(|part| state.batch(part));
        state.value(&self.encoder.choices());
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        let (watermark, bytes, due_us, parts): (EventTime, u64, i64, u64) = state.value()?;
        self.watermark = watermark;
        self.waiting = Waiting { bytes: bytes as usize, due_us, ..Waiting::default() };
        for _ in 0..parts {
            let part = state.batch()?;
            // Arrow's stream format may number dictionaries in the fields; the columns are what must agree.
            let same =
                |(a, b): (&Arc<Field>, &Arc<Field>)| a.name() == b.name() && a.data_type() == b.data_type();
            let fields = part.schema_ref().fields().iter().zip(self.input.fields());
            if part.num_columns() != self.input.fields().len() || !fields.into_iter().all(same) {
                return Err(Error::state("saved rows have other columns than the input"));
            }
            let part = RecordBatch::try_new(self.input.clone(), part.columns().to_vec())?;
            let latest = times(&part)?.values().iter().copied().max();
            self.waiting.time_max = self.waiting.time_max.max(latest.unwrap_or(i64::MIN));
            self.waiting.rows += part.num_rows();
            self.waiting.parts.push(part);
        }
        let choices: Vec<u8> = state.value()?;
        self.encoder.resume(&choices);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, DictionaryArray, Float64Array, StringArray};
    use arrow::compute::concat_batches;
    use arrow::datatypes::Int32Type;
    use proptest::prelude::*;

    use super::*;
    use crate::codec::frame::{FrameDecoder, decode};
    use crate::core::operator::Flow;
    use crate::core::schema::tag_type;
    use crate::core::{Count, Now};
    use crate::registry::{Files, InputSchema, NoFiles};

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            time_field(),
            Field::new("device", tag_type(), true),
            Field::new("temp", DataType::Float64, true),
            Field::new("note", DataType::Utf8, true),
        ]))
    }

    /// Rows a second apart, from one to another; nulls and texts of many lengths among them.
    fn rows(from: i64, to: i64) -> RecordBatch {
        let devices: DictionaryArray<Int32Type> =
            (from..to).map(|row| (row % 5 != 4).then(|| ["press", "pump"][row as usize % 2])).collect();
        let temps = (from..to).map(|row| (row % 7 != 3).then_some(20.0 + (row as f64).sin()));
        let notes = (from..to).map(|row| (row % 3 != 0).then(|| "x".repeat(row as usize % 11)));
        let columns: Vec<ArrayRef> = vec![
            time_array((from..to).map(|row| row * 1_000_000).collect()),
            Arc::new(devices),
            Arc::new(temps.collect::<Float64Array>()),
            Arc::new(notes.collect::<StringArray>()),
        ];
        RecordBatch::try_new(schema(), columns).unwrap()
    }

    fn build_on(config: &str, schema: SchemaRef, files: &dyn Files) -> Checked<Built> {
        let inputs = [InputSchema { name: "in".to_owned(), schema }];
        let batch = crate::registry::BatchLimits::default();
        let context = Context { name: "pack", pipeline: "test", inputs: &inputs, files, batch };
        toml::from_str::<CompressConfig>(config).unwrap().build(&context)
    }

    fn build(config: &str) -> Box<dyn Operator> {
        build_on(config, schema(), &NoFiles).map_err(|problems| format!("{problems:?}")).unwrap().operator
    }

    /// A frame: time in seconds, rows, raw bytes, the bytes.
    type Frame = (i64, i64, i64, Vec<u8>);

    fn take(out: &mut Output) -> Vec<Frame> {
        let mut frames = Vec::new();
        for (port, flow) in out.drain() {
            let (0, Flow::Batch(batch)) = (port, flow) else { panic!("only rows, on port 0") };
            let integers =
                |column: usize| batch.column(column).as_primitive::<arrow::datatypes::Int64Type>().clone();
            let times = times(&batch).unwrap();
            for row in 0..batch.num_rows() {
                frames.push((
                    times.value(row) / 1_000_000,
                    integers(1).value(row),
                    integers(2).value(row),
                    batch.column(3).as_binary::<i32>().value(row).to_vec(),
                ));
            }
        }
        frames
    }

    fn decoded(frames: &[Frame]) -> RecordBatch {
        let parts: Vec<RecordBatch> = frames.iter().map(|frame| decode(&frame.3).unwrap().batch).collect();
        concat_batches(&schema(), &parts).unwrap()
    }

    /// 60 rows with watermarks between them, cut into batches at `cuts`, saved and loaded at `restarts`.
    fn run(config: &str, cuts: &[i64], restarts: &[i64]) -> Vec<Frame> {
        let mut operator = build(config);
        let (mut frames, mut out, mut from) = (Vec::new(), Output::new(Now::ZERO), 0);
        let mut watermark = i64::MIN;
        for row in 1..=60 {
            let marks = row % 6 == 0;
            if marks || cuts.contains(&row) || restarts.contains(&row) {
                operator.process(0, rows(from, row), &mut out).unwrap();
                from = row;
            }
            if marks {
                operator.watermark(EventTime((row - 3) * 1_000_000), &mut out).unwrap();
            }
            for frame in take(&mut out) {
                assert!(frame.0 >= watermark, "{} is behind {watermark}", frame.0);
                frames.push(frame);
            }
            watermark = if marks { row - 3 } else { watermark };
            if restarts.contains(&row) {
                let mut state = StateWriter::new();
                operator.save(&mut state);
                let bytes = state.finish().unwrap();
                operator = build(config);
                let mut reader = StateReader::new(&bytes);
                operator.load(&mut reader).unwrap();
                reader.finish().unwrap();
            }
        }
        operator.watermark(EventTime::MAX, &mut out).unwrap();
        let last = take(&mut out);
        assert!(last.iter().all(|frame| frame.0 >= watermark));
        frames.extend(last);
        frames
    }

    #[test]
    fn frames_end_by_rows_bytes_and_time() {
        let sizes = |config: &str| -> Vec<(i64, i64)> {
            run(config, &[], &[]).iter().map(|frame| (frame.0, frame.1)).collect()
        };
        assert_eq!(sizes("every = '1h'"), [(59, 60)]);
        assert_eq!(sizes("rows = 25\nevery = '1h'"), [(24, 25), (49, 25), (59, 10)]);
        assert_eq!(sizes("rows = 60\nevery = '1h'"), [(59, 60)]);
        // Watermarks 3, 9, 15, … behind the rows 5, 11, 17, …: the first at or behind 20 is 21, the first at or behind
        // 40 is 45; the last frame would be due at 60.
        assert_eq!(sizes("every = '20s'"), [(23, 24), (47, 24), (59, 12)]);
        assert_eq!(sizes("rows = 1").len(), 60);
        assert_eq!(sizes("bytes = '1B'").len(), 60);
        let by_bytes = run("bytes = '300B'\nevery = '1h'", &[], &[]);
        assert!(by_bytes.len() > 4 && by_bytes.iter().all(|frame| frame.1 > 3), "{}", by_bytes.len());
        assert_eq!(decoded(&by_bytes), rows(0, 60));
    }

    #[test]
    fn a_frame_that_waited_is_not_behind_the_watermark() {
        let mut operator = build("rows = 3\nevery = '100s'");
        let mut out = Output::new(Now::ZERO);
        operator.process(0, rows(5, 6), &mut out).unwrap();
        for second in [10, 50, 99, 100] {
            assert!(take(&mut out).is_empty());
            operator.watermark(EventTime(second * 1_000_000), &mut out).unwrap();
        }
        // Its row is of second 5, but the watermark was at 99 when it left.
        assert_eq!(take(&mut out).iter().map(|frame| (frame.0, frame.1)).collect::<Vec<_>>(), [(99, 1)]);
    }

    #[test]
    fn every_codec_gives_the_rows_back() {
        for config in [
            "",
            "prefer = 'ratio'",
            "codec = 'adaptive'",
            "codec = 'zstd'\nlevel = 19",
            "codec = 'huffman'",
            "codec = 'lzw'",
            "codec = 'stored'",
        ] {
            let frames = run(&format!("{config}\nrows = 17"), &[], &[]);
            assert_eq!(decoded(&frames), rows(0, 60), "{config}");
            assert!(frames.iter().all(|frame| frame.2 > 17), "{config}");
        }
    }

    struct OneFile(Vec<u8>);

    impl Files for OneFile {
        fn read(&self, path: &str) -> Result<Vec<u8>> {
            match path {
                "plant.dict" => Ok(self.0.clone()),
                _ => NoFiles.read(path),
            }
        }
    }

    #[test]
    fn a_dictionary_is_needed_on_both_sides() {
        let files = OneFile((0..2_000u32).flat_map(|word| (word * 17).to_le_bytes()).collect());
        let built = build_on("codec = 'zstd'\ndictionary = 'plant.dict'", schema(), &files);
        let mut operator = built.map_err(|problems| format!("{problems:?}")).unwrap().operator;
        let mut out = Output::new(Now::ZERO);
        operator.process(0, rows(0, 50), &mut out).unwrap();
        operator.watermark(EventTime::MAX, &mut out).unwrap();
        let frame = take(&mut out).remove(0).3;
        assert!(decode(&frame).unwrap_err().message.contains("needs the dictionary"));
        let dictionary = Arc::new(Dictionary::new(files.0).unwrap());
        let mut decoder = FrameDecoder::default().with_dictionaries([dictionary]);
        assert_eq!(decoder.decode(&frame).unwrap().batch, rows(0, 50));
    }

    #[test]
    fn a_row_too_large_for_any_frame_is_counted_and_left_out() {
        let mut operator = build("codec = 'stored'");
        let mut out = Output::new(Now::ZERO);
        let small = rows(1, 2);
        let mut columns = small.columns().to_vec();
        columns[3] = Arc::new(StringArray::from(vec!["x".repeat(RAW_BYTES_MAX + 1)]));
        operator.process(0, small.clone(), &mut out).unwrap();
        operator.process(0, RecordBatch::try_new(schema(), columns).unwrap(), &mut out).unwrap();
        operator.process(0, small.clone(), &mut out).unwrap();
        operator.watermark(EventTime::MAX, &mut out).unwrap();
        let counts: Vec<(Count, u64)> = out.drain_counts().collect();
        assert_eq!(counts, [(Count { what: "lost_rows", reason: "too_large" }, 1)]);
        let frames = take(&mut out);
        assert_eq!(decoded(&frames), concat_batches(&schema(), [&small, &small]).unwrap());
    }

    #[test]
    fn many_small_batches_are_put_together() {
        let mut operator = build("rows = 5000\nevery = '10h'");
        let mut out = Output::new(Now::ZERO);
        for row in 0..1_000 {
            operator.process(0, rows(row, row + 1), &mut out).unwrap();
        }
        let mut state = StateWriter::new();
        operator.save(&mut state);
        let bytes = state.finish().unwrap();
        let mut reader = StateReader::new(&bytes);
        let (_, _, _, parts): (EventTime, u64, i64, u64) = reader.value().unwrap();
        assert!(parts < PARTS_MAX as u64, "{parts}");
        operator.watermark(EventTime::MAX, &mut out).unwrap();
        assert_eq!(decoded(&take(&mut out)), rows(0, 1_000));
    }

    #[test]
    fn what_is_wrong_is_said_with_a_way_out() {
        for (config, path, message) in [
            ("codec = 'zstd'\nlevel = 20", "level", "zstd has no level 20 here; use 1 (fast) to 19 (small)"),
            ("codec = 'lzw'\nprefer = 'ratio'", "prefer", "has a meaning for auto only"),
            ("codec = 'lzw'\nlevel = 3", "level", "has a meaning for zstd only"),
            ("codec = 'stored'\ndictionary = 'a'", "dictionary", "has a meaning for zstd only"),
            ("codec = 'zstd'\ndictionary = 'a'", "dictionary", "a: no such file"),
            ("rows = 0", "rows", "must be 1 to 4194304, not 0"),
            ("bytes = '33MiB'", "bytes", "must be 1B to 32MiB, not 33MiB"),
            ("every = '0s'", "every", "must be longer than nothing"),
        ] {
            let problems = build_on(config, schema(), &NoFiles).err().unwrap();
            let found: Vec<(&str, &str)> =
                problems.iter().map(|problem| (problem.path.as_str(), problem.message.as_str())).collect();
            assert_eq!(found, [(path, message)], "{config}");
        }
        let odd = Schema::new(vec![time_field(), Field::new("d", DataType::Decimal128(9, 2), true)]);
        let problems = build_on("", Arc::new(odd), &NoFiles).err().unwrap();
        assert!(problems[0].message.contains("column \"d\" has the type Decimal128"), "{problems:?}");
        let timeless = Schema::new(vec![Field::new("d", DataType::Int64, true)]);
        assert!(build_on("", Arc::new(timeless), &NoFiles).is_err());
    }

    #[test]
    fn state_of_other_columns_is_refused() {
        let mut operator = build("");
        operator.process(0, rows(0, 3), &mut Output::new(Now::ZERO)).unwrap();
        let mut state = StateWriter::new();
        operator.save(&mut state);
        let bytes = state.finish().unwrap();
        let other = Schema::new(schema().fields().iter().take(3).cloned().collect::<Vec<_>>());
        let mut other = build_on("", Arc::new(other), &NoFiles).ok().unwrap().operator;
        let error = other.load(&mut StateReader::new(&bytes)).unwrap_err();
        assert_eq!(error.message, "saved rows have other columns than the input");
        for cut in 0..bytes.len() {
            assert!(build("").load(&mut StateReader::new(&bytes[..cut])).is_err(), "{cut}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn neither_cuts_nor_restarts_change_a_byte(
            config in prop::sample::select(vec![
                "rows = 25\nevery = '1h'",
                "every = '20s'",
                "bytes = '300B'\nevery = '30s'\ncodec = 'huffman'",
                "rows = 7\nbytes = '200B'",
                "rows = 9\nprefer = 'ratio'",
            ]),
            cuts in prop::collection::vec(1_i64..60, 0..12),
            restarts in prop::collection::vec(1_i64..60, 0..4),
        ) {
            let want = run(config, &[], &[]);
            prop_assert_eq!(&decoded(&want), &rows(0, 60));
            let got = run(config, &cuts, &restarts);
            let sizes = |frames: &[Frame]| -> Vec<_> { frames.iter().map(|f| (f.0, f.1, f.2, f.3.len())).collect() };
            prop_assert_eq!(sizes(&got), sizes(&want));
            prop_assert!(got == want, "the same sizes, other bytes");
        }
    }
}
