//! `dedup`: leaves out rows that were there before. Pure.
//!
//! This file is the configuration and the operator; `memory` holds what is remembered, `identity` says which
//! rows are the same.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Int64Type, Schema};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::core::schema::{TIME, time_type, times, type_name};
use crate::core::{EventTime, KeyLimits, Keys, OnFull, Operator, Output, StateReader, StateWriter};
use crate::error::{Error, Result};
use crate::registry::{Built, Checked, Context, Kept, OperatorConfig, Problem};
use crate::units::Period;

mod identity;
mod memory;
#[cfg(test)]
mod tests;

use identity::Identity;
use memory::{Memory, Seen};

/// Into how many spans the horizon is divided: a key is forgotten with its span.
const SPANS: i64 = 16;

/// The longest horizon.
const HORIZON_MAX: Period = Period::seconds(3660 * 86_400);

/// The most names whose numbers are kept as runs; keys of further names are hashed.
const NAMES_MAX: usize = 1 << 16;

/// Leaves out rows that were there before: of rows with the same values in the columns of `by`, the first one
/// passes and the others are dropped and counted (`duplicate_rows`).
///
/// That a row passed is remembered until the watermark is `horizon` behind the row's time, and at most a
/// sixteenth of `horizon` longer. A row that is older than what is remembered cannot be judged: it leaves
/// unchanged on the port `late` and is counted (`late_rows`). Rows behind the watermark, but not that old, are
/// treated like all others. A row with a null in `by` has no identity: it passes, and is counted
/// (`unkeyed_rows`).
///
/// It makes "at least once" (MQTT with QoS 1, a source that starts again) "exactly once", if every message can
/// be told from every other. A sequence number that starts anew when a device restarts needs something beside
/// it, for instance the time or a boot count.
///
/// With one column of integers in `by` and otherwise tags, texts or true/false, consecutive numbers of one device
/// are remembered as one entry for each sixteenth of the horizon. Other keys are remembered as hashes of 128 bits
/// (BLAKE3): two different keys are taken for the same with a probability of 2⁻¹²⁸.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DedupConfig {
    /// The columns that make two rows the same, for instance the device and its sequence number. Numbers are
    /// the same by value, and all NaN are one.
    #[schemars(length(min = 1))]
    by: Vec<String>,
    /// How far back in event time rows are remembered: longer than a message can be under way, with the time
    /// its sender or a broker may be disconnected.
    horizon: Period,
    /// The most entries remembered at once: hashes, and runs of consecutive numbers. An entry takes 24 to 57
    /// bytes. Beyond, the oldest sixteenths of the horizon are forgotten early (counted as
    /// `forgotten_entries`), and rows as old as they were are late. Where that would make too little room, rows
    /// pass unremembered (counted as `unremembered_rows`): a duplicate of theirs passes too.
    #[serde(default = "max_entries")]
    #[schemars(range(min = 1))]
    max_entries: usize,
}

/// What a hash takes with its place in the table; a run of numbers takes less.
const ENTRY_BYTES_MAX: usize = 57;

fn max_entries() -> usize {
    1_000_000
}

impl OperatorConfig for DedupConfig {
    const TYPE: &'static str = "dedup";
    const EXAMPLES: &'static [&'static str] = &[
        r#"# Redelivered messages of devices that count their messages.
by = ["device", "seq"]
horizon = "10m"
"#,
        r#"# One row per device and time, whatever else is in it.
by = ["line", "device", "time"]
horizon = "1h"
max_entries = 200000
"#,
        r#"# The same payload again.
by = ["device", "payload"]
horizon = "30s"
"#,
    ];

    fn build(self, context: &Context<'_>) -> Checked<Built> {
        let input = context.schema();
        let mut problems = Vec::new();
        if input.column_with_name(TIME).is_none_or(|(_, field)| *field.data_type() != time_type()) {
            let problem = Problem::new("", "the input has no `time` column, by which rows are forgotten");
            problems.push(problem.help("put a `decode` operator before this one"));
        }
        let by = self.key_columns(input, &mut problems);
        if self.horizon.micros() == 0 {
            let problem = Problem::new("horizon", "every row would be forgotten at once");
            problems.push(problem.help("write for example \"10m\""));
        } else if self.horizon > HORIZON_MAX {
            problems.push(Problem::new("horizon", "`horizon` is longer than ten years"));
        }
        if self.max_entries == 0 {
            problems.push(Problem::new("max_entries", "with a limit of none, no row would be remembered"));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let span_micros = (self.horizon.micros() / SPANS).max(1);
        let meaning = format!("by {:?} within {}", self.by, self.horizon);
        let numbered = numbered(&by, input, self.horizon, span_micros)?;
        let dedup = Dedup {
            by,
            numbered,
            horizon: self.horizon,
            memory: Memory::new(span_micros, self.max_entries),
            ids: Vec::new(),
            verdicts: Vec::new(),
        };
        let kept =
            vec![Kept { what: "entries", max: self.max_entries, key: "max_entries", bytes: ENTRY_BYTES_MAX }];
        Ok(Built::new(dedup, input.clone(), meaning).port("late", input.clone()).keeps(&self.by, kept))
    }
}

impl DedupConfig {
    /// The positions of the columns of `by`.
    fn key_columns(&self, input: &Schema, problems: &mut Vec<Problem>) -> Vec<usize> {
        let mut places = Vec::new();
        if self.by.is_empty() {
            let problem = Problem::new("by", "it is not said what makes two rows the same");
            problems.push(problem.help("name columns, for example [\"device\", \"seq\"]"));
        }
        for (index, name) in self.by.iter().enumerate() {
            let path = format!("by[{index}]");
            let Some((place, field)) = input.column_with_name(name) else {
                problems.push(Problem::no_column(path, name, input));
                continue;
            };
            if places.contains(&place) {
                problems.push(Problem::new(path, format!("\"{name}\" is in the list already")));
            } else if !identity::supports(field.data_type()) {
                let kind = type_name(field.data_type());
                let message =
                    format!("column \"{name}\" is {kind} ({}), which is not compared", field.data_type());
                problems.push(
                    Problem::new(path, message).help("a `select` with CAST before can make a text of it"),
                );
            } else {
                places.push(place);
            }
        }
        places
    }
}

/// How the columns of `by` are used if they are names and one number.
struct Numbered {
    /// Column of the number.
    number: usize,
    /// Columns of the names; there may be none.
    names: Vec<usize>,
    keys: Keys,
}

/// The names and the number among the key columns; none if they are anything else.
fn numbered(
    by: &[usize],
    input: &Schema,
    horizon: Period,
    span_micros: i64,
) -> std::result::Result<Option<Numbered>, Vec<Problem>> {
    let is_number = |place: &usize| *input.field(*place).data_type() == DataType::Int64;
    let (numbers, names): (Vec<usize>, Vec<usize>) = by.iter().partition(|place| is_number(place));
    let types: Vec<DataType> = names.iter().map(|place| input.field(*place).data_type().clone()).collect();
    let [number] = numbers[..] else { return Ok(None) };
    if !types.iter().all(Keys::supports) {
        return Ok(None);
    }
    // A name not seen for so long has nothing left that is remembered.
    let ttl = horizon.0.saturating_add(std::time::Duration::from_micros(span_micros.unsigned_abs()));
    let limits = KeyLimits { max_keys: NAMES_MAX, key_ttl: Some(ttl), on_full: OnFull::Refuse };
    let keys = Keys::new(types, limits).map_err(|error| vec![Problem::new("by", error.message)])?;
    Ok(Some(Numbered { number, names, keys }))
}

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Pass,
    Duplicate,
    Late,
}

/// What is counted in one batch.
#[derive(Default)]
struct Counts {
    unkeyed: u64,
    unremembered: u64,
    forgotten: u64,
}

struct Dedup {
    by: Vec<usize>,
    numbered: Option<Numbered>,
    horizon: Period,
    memory: Memory,
    /// Room for one batch: the ids of the names, and what becomes of each row.
    ids: Vec<u32>,
    verdicts: Vec<Verdict>,
}

impl Operator for Dedup {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let columns: Vec<&ArrayRef> = self.by.iter().map(|place| batch.column(*place)).collect();
        let nulls = columns.iter().fold(None, |nulls: Option<NullBuffer>, column| {
            NullBuffer::union(nulls.as_ref(), column.logical_nulls().as_ref())
        });
        let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
        let mut identity = Identity::of(columns.into_iter());
        let moments = times(&batch)?.values();
        self.verdicts.clear();
        let (memory, verdicts, ids) = (&mut self.memory, &mut self.verdicts, &mut self.ids);
        let mut judge = Judge { memory, nulls, counts: Counts::default() };
        match &mut self.numbered {
            None => verdicts.extend(moments.iter().enumerate().map(|(row, time)| {
                judge.judge(row, *time, |memory, span| memory.see_hash(identity.hash(row), span))
            })),
            Some(Numbered { number, names, keys }) => {
                let numbers = batch.column(*number).as_primitive::<Int64Type>().values();
                let names: Vec<ArrayRef> = names.iter().map(|place| batch.column(*place).clone()).collect();
                ids.clear();
                match names[..] {
                    [] => ids.resize(moments.len(), 0),
                    _ => _ = keys.resolve(&names, moments, 0, ids),
                }
                let rows = moments.iter().zip(numbers).zip(ids.iter()).enumerate();
                verdicts.extend(rows.map(|(row, ((time, number), name))| {
                    judge.judge(row, *time, |memory, span| match *name {
                        crate::core::keys::REFUSED => memory.see_hash(identity.hash(row), span),
                        name => memory.see_number(name, *number, span, || identity.hash(row)),
                    })
                }));
            }
        }
        let counts = judge.counts;
        drop(identity);
        out.count("unkeyed_rows", "", counts.unkeyed);
        out.count("unremembered_rows", "", counts.unremembered);
        out.count("forgotten_entries", "", counts.forgotten);
        divide(batch, verdicts, out)
    }

    fn watermark(&mut self, to: EventTime, _out: &mut Output) -> Result<()> {
        // Nothing comes after the end, so nothing needs to be forgotten for it.
        if to != EventTime::MAX
            && self.memory.forget_before(to.minus(self.horizon.0).micros())
            && let Some(numbered) = &mut self.numbered
        {
            numbered.keys.expire(to);
        }
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter) {
        if let Some(numbered) = &mut self.numbered {
            numbered.keys.save(state);
        }
        self.memory.save(state);
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        if let Some(numbered) = &mut self.numbered {
            numbered.keys.load(state)?;
        }
        self.memory.load(state)?;
        let names = match &self.numbered {
            None => 0,
            Some(numbered) if numbered.names.is_empty() => 1,
            Some(numbered) => numbered.keys.capacity(),
        };
        if self.memory.names() > names {
            return Err(Error::state("the remembered numbers have no names"));
        }
        Ok(())
    }
}

/// Judges the rows of one batch.
struct Judge<'a> {
    memory: &'a mut Memory,
    /// Where a value of the key is null, if anywhere.
    nulls: Option<NullBuffer>,
    counts: Counts,
}

impl Judge<'_> {
    fn judge(&mut self, row: usize, time: i64, see: impl FnOnce(&mut Memory, i64) -> (Seen, u64)) -> Verdict {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            self.counts.unkeyed += 1;
            return Verdict::Pass;
        }
        let Some(span) = self.memory.span(time) else { return Verdict::Late };
        let (seen, forgotten) = see(self.memory, span);
        self.counts.forgotten += forgotten;
        match seen {
            Seen::First => Verdict::Pass,
            Seen::Again => Verdict::Duplicate,
            Seen::Unremembered => {
                self.counts.unremembered += 1;
                Verdict::Pass
            }
        }
    }
}

/// Sends the rows where their verdicts say.
fn divide(batch: RecordBatch, verdicts: &[Verdict], out: &mut Output) -> Result<()> {
    let rows = verdicts.len();
    let count = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
    let (passed, late) = (count(Verdict::Pass), count(Verdict::Late));
    out.count("duplicate_rows", "", (rows - passed - late) as u64);
    out.count("late_rows", "", late as u64);
    if passed == rows {
        out.emit(0, batch);
        return Ok(());
    }
    for (port, verdict, some) in [(0, Verdict::Pass, passed > 0), (1, Verdict::Late, late > 0)] {
        if some && out.wants(port) {
            let chosen = BooleanBuffer::collect_bool(rows, |row| verdicts[row] == verdict);
            out.emit(port, filter_record_batch(&batch, &BooleanArray::new(chosen, None))?);
        }
    }
    Ok(())
}
