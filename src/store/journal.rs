//! The engine's records in a log, and back: what the journal writes before anything follows from it, and what a
//! restart gives the engine again. Touches files only through the log's `Store`.
//!
//! The runtime's journal thread and the simulated world run this same code.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cursor::{Cursor, Damage, Damages};
use super::log::Log;
use super::record::{LogRecord, RecordKind, Stamp, encode_batch};
use crate::core::{
    Barrier, Change, Epoch, EventTime, Model, ModelOrigin, Now, Position, Record, Stamped, Start,
};
use crate::{Error, Result};

/// Brings a kept model back by the node's name and the model's id.
pub type Recall = Box<dyn Fn(&str, &str) -> Result<Model> + Send>;

/// What a barrier's change looks like in the log.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LoggedChange {
    Stop,
    Graph,
    Model {
        node: String,
        id: String,
        #[serde(default)]
        origin: ModelOrigin,
    },
}

/// Writes records, each with the name of its source.
#[derive(Debug)]
pub struct Writer {
    /// The names of the graph's inputs; they change where a record changes the graph.
    sources: Vec<String>,
}

impl Writer {
    /// For a graph whose inputs have these names.
    #[must_use]
    pub fn new(sources: Vec<String>) -> Self {
        Self { sources }
    }

    /// Appends a record under its own offset. It is durable after the next sync. Records behind one that brings another
    /// graph are of that graph's sources.
    ///
    /// # Errors
    /// As [`Log::append_with`], with the log unchanged; and [`State`](crate::Kind::State) when the log and the record
    /// do not agree on the offset, which cannot be helped.
    pub fn append(&mut self, log: &mut Log, stamped: &Stamped) -> Result<()> {
        let offset = log.append_with(|out| encode(stamped, &self.sources, out))?;
        if offset != stamped.offset {
            return Err(Error::state(format!("the log gave offset {offset} to record {}", stamped.offset)));
        }
        if let Record::Barrier(Barrier { change: Some(change), .. }) = &stamped.record
            && let Change::Graph(graph) = change.as_ref()
            && let Ok(graph) = graph.lock()
            && let Some(graph) = graph.as_ref()
        {
            self.sources.clone_from(&graph.inputs);
        }
        Ok(())
    }
}

fn encode(stamped: &Stamped, sources: &[String], out: &mut Vec<u8>) -> Result<()> {
    let name_of = |input: usize| {
        let missing = || Error::state(format!("record {} is of no source of the graph", stamped.offset));
        sources.get(input).map(String::as_str).ok_or_else(missing)
    };
    let now = Stamp {
        mono_us: u64::try_from(stamped.now.mono.as_micros()).unwrap_or(u64::MAX),
        wall_us: stamped.now.wall.micros(),
    };
    let kind = match &stamped.record {
        Record::Batch { input, batch } => {
            let position = stamped.position.as_ref().map_or("", |position| position.0.as_str());
            return encode_batch(now, name_of(*input)?, position, batch, out);
        }
        Record::End { input } => RecordKind::End { source: name_of(*input)?.to_owned() },
        Record::Tick => RecordKind::Tick,
        Record::Barrier(barrier) => {
            let change = match barrier.change.as_deref() {
                None => None,
                Some(Change::Stop) => Some(LoggedChange::Stop),
                Some(Change::Graph(_)) => Some(LoggedChange::Graph),
                Some(Change::Model { node, model }) => {
                    let (node, id) = (node.clone(), model.id.to_string());
                    Some(LoggedChange::Model { node, id, origin: model.origin })
                }
            };
            let change = change.map(|change| serde_json::to_vec(&change)).transpose();
            let change =
                change.map_err(|error| Error::state(format!("a change cannot be logged: {error}")))?;
            RecordKind::Barrier { epoch: barrier.epoch.0, change }
        }
    };
    LogRecord { now, kind }.encode(out)
}

/// Where a replay begins.
pub struct ReplayFrom {
    /// Offset of the first record behind the checkpoint.
    pub offset: u64,
    /// The epoch of the checkpoint; 0 where there is none.
    pub epoch: Epoch,
    /// The names of the graph's inputs: records are given to the source of their name.
    pub sources: Vec<String>,
    /// Positions of the sources at the checkpoint, in the same order.
    pub positions: Vec<Option<Position>>,
    /// Monotonic time of the checkpoint.
    pub mono: Duration,
}

/// What the log held behind the checkpoint.
#[derive(Debug)]
pub struct Replayed {
    /// Where the pipeline goes on.
    pub start: Start,
    /// The largest monotonic time seen.
    pub mono: Duration,
    /// How many records there were.
    pub records: u64,
    /// What could not be read and was passed over.
    pub damages: Damages,
    /// Models that could not be brought back, and why; the engine goes on without these changes.
    pub forgotten: Vec<String>,
    /// Records of sources that the pipeline does not have, by the source's name: they were passed over.
    pub without_place: BTreeMap<String, u64>,
}

impl Replayed {
    /// Where a pipeline without a log goes on.
    pub fn nothing(from: ReplayFrom) -> Self {
        let start = Start {
            offset: from.offset,
            epoch: Epoch(from.epoch.0 + 1),
            positions: from.positions,
            // Epochs count from 1.
            anchored: from.epoch > Epoch(0),
            ..Start::default()
        };
        Self {
            start,
            mono: from.mono,
            records: 0,
            damages: Damages::default(),
            forgotten: Vec::new(),
            without_place: BTreeMap::new(),
        }
    }
}

/// Reads the log from a checkpoint on, record by record.
pub struct Replay {
    cursor: Cursor,
    recall: Recall,
    sources: Vec<String>,
    /// Records behind the checkpoint that the log does not have any more.
    gone: Option<Damage>,
    so_far: Replayed,
}

impl Replay {
    /// Begins behind a checkpoint.
    pub fn new(log: &Log, mut from: ReplayFrom, recall: Recall) -> Self {
        let sources = std::mem::take(&mut from.sources);
        let first = log.first_offset();
        let gone = (from.offset < first).then(|| Damage {
            path: log.dir().to_owned(),
            position: 0,
            from: from.offset,
            to: first,
        });
        Self { cursor: log.read(from.offset), recall, sources, gone, so_far: Replayed::nothing(from) }
    }

    /// The next record for the engine; `None` at the end of the log. Records of sources that the pipeline does not have
    /// are counted and passed over.
    ///
    /// # Errors
    /// If the log cannot be read or a record cannot be understood.
    pub fn next(&mut self, log: &mut Log) -> Result<Option<Stamped>> {
        loop {
            let Some((offset, bytes)) = self.cursor.next(log)? else { return Ok(None) };
            let logged = LogRecord::decode(bytes)?;
            let now =
                Now { mono: Duration::from_micros(logged.now.mono_us), wall: EventTime(logged.now.wall_us) };
            self.so_far.mono = self.so_far.mono.max(now.mono);
            self.so_far.records += 1;
            self.so_far.start.records_since_cut += 1;
            let record = match logged.kind {
                RecordKind::Batch { source, position, batch } => {
                    let Some(input) = self.place_of(source) else { continue };
                    if let Some(place) = self.so_far.start.positions.get_mut(input) {
                        *place = Some(Position(position).after(place.take()));
                    }
                    Record::Batch { input, batch }
                }
                RecordKind::End { source } => {
                    let Some(input) = self.place_of(source) else { continue };
                    Record::End { input }
                }
                RecordKind::Tick => Record::Tick,
                RecordKind::Barrier { epoch, change } => self.barrier(offset, Epoch(epoch), change)?,
            };
            return Ok(Some(Stamped { offset, now, record, position: None }));
        }
    }

    /// What was found; the log goes on where it ends now. All of it counts as behind the last cut: where it is large,
    /// the next cut is due, and how large the part behind the cut is need not be known.
    pub fn finish(mut self, log: &Log) -> Replayed {
        self.so_far.start.log_bytes_since_cut = log.needed_bytes();
        self.so_far.start.log_bytes = log.needed_bytes();
        self.so_far.start.offset = log.next_offset();
        self.so_far.damages = self.cursor.damages().clone();
        if let Some(gone) = self.gone {
            self.so_far.damages.add(gone);
        }
        self.so_far
    }

    /// The input that takes the records of a source.
    fn place_of(&mut self, source: String) -> Option<usize> {
        let place = self.sources.iter().position(|name| *name == source);
        if place.is_none() {
            *self.so_far.without_place.entry(source).or_default() += 1;
        }
        place
    }

    fn barrier(&mut self, offset: u64, epoch: Epoch, change: Option<Vec<u8>>) -> Result<Record> {
        let start = &mut self.so_far.start;
        start.under_way.push((epoch, offset + 1, start.positions.clone()));
        start.epoch = Epoch(epoch.0 + 1);
        start.records_since_cut = 0;
        let Some(change) = change else { return Ok(Record::Barrier(Barrier { epoch, change: None })) };
        let change: LoggedChange = serde_json::from_slice(&change).map_err(|error| {
            Error::state(format!("the change at epoch {epoch} in the log cannot be read: {error}"))
        })?;
        let change = match change {
            LoggedChange::Stop | LoggedChange::Graph => None,
            LoggedChange::Model { node, id, origin } => match (self.recall)(&node, &id) {
                Ok(model) => {
                    let model = Arc::new(Model { origin, ..model });
                    Some(Arc::new(Change::Model { node, model }))
                }
                Err(error) => {
                    self.so_far.forgotten.push(format!("{node}: {id}: {error}"));
                    None
                }
            },
        };
        Ok(Record::Barrier(Barrier { epoch, change }))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::RecordBatch;

    use super::*;
    use crate::core::{Graph, ModelId};
    use crate::store::memory::Memory;
    use crate::store::{LogOptions, Store, record::raw_schema};

    fn model(id: u8, origin: ModelOrigin) -> Model {
        Model { id: ModelId([id; 32]), bytes: Arc::from([id]), origin, prepared: Box::new(id) }
    }

    fn stamped(offset: u64, record: Record) -> Stamped {
        let now = Now { mono: Duration::from_micros(offset * 10), wall: EventTime(-5) };
        Stamped { offset, now, record, position: Some(Position(format!("p{offset}"))) }
    }

    fn barrier(epoch: u64, change: Option<Change>) -> Record {
        Record::Barrier(Barrier { epoch: Epoch(epoch), change: change.map(Arc::new) })
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn log_of(records: Vec<Record>) -> Log {
        let (mut log, _) = Log::open(Memory::new().share(), "log", LogOptions::default()).unwrap();
        let mut writer = Writer::new(names(&["a", "b"]));
        for (offset, record) in (0..).zip(records) {
            writer.append(&mut log, &stamped(offset, record)).unwrap();
        }
        log.sync().unwrap();
        log
    }

    fn replay(log: &mut Log, sources: &[&str]) -> Result<(Vec<String>, Replayed)> {
        let from = ReplayFrom {
            offset: 0,
            epoch: Epoch(6),
            sources: names(sources),
            positions: vec![None; sources.len()],
            mono: Duration::from_micros(3),
        };
        let recall: Recall = Box::new(|node, id| match id.starts_with("0101") {
            true => Ok(model(1, ModelOrigin::Request)),
            false => Err(Error::model(format!("{node} has lost it"))),
        });
        let mut replay = Replay::new(log, from, recall);
        let mut given = Vec::new();
        while let Some(stamped) = replay.next(log)? {
            if let Record::Barrier(Barrier { change: Some(change), .. }) = &stamped.record
                && let Change::Model { model, .. } = change.as_ref()
            {
                assert_eq!(model.origin, ModelOrigin::Topic, "how it came is kept");
            }
            given.push(match stamped.record {
                Record::Batch { input, batch } => format!("rows {input} {}", batch.num_rows()),
                other => format!("{other:?}"),
            });
        }
        Ok((given, replay.finish(log)))
    }

    #[test]
    fn records_that_the_log_has_removed_although_they_were_needed_are_told() {
        let options = LogOptions { offset_min: 5, ..LogOptions::default() };
        let (mut log, _) = Log::open(Memory::new().share(), "log", options).unwrap();
        Writer::new(names(&["a"])).append(&mut log, &stamped(5, Record::Tick)).unwrap();
        log.sync().unwrap();
        let (given, replayed) = replay(&mut log, &["a"]).unwrap();
        assert_eq!((given.len(), replayed.start.offset), (1, 6));
        let told = &replayed.damages.first[0];
        assert_eq!((replayed.damages.records, told.from, told.to), (5, 0, 5));
    }

    #[test]
    fn a_replay_gives_the_records_again_and_says_where_the_pipeline_goes_on() {
        let rows = |input| Record::Batch { input, batch: RecordBatch::new_empty(raw_schema()) };
        let change =
            |id| Change::Model { node: "score".to_owned(), model: Arc::new(model(id, ModelOrigin::Topic)) };
        let mut log = log_of(vec![
            rows(1),
            barrier(7, Some(change(1))),
            Record::Tick,
            barrier(8, Some(change(2))),
            rows(0),
            barrier(9, Some(Change::Stop)),
            Record::End { input: 1 },
        ]);
        let (given, replayed) = replay(&mut log, &["a", "b"]).unwrap();
        let short = ModelId([1; 32]).to_string();
        assert_eq!(given[0], "rows 1 0");
        assert_eq!(
            given[1],
            format!("Barrier(Barrier {{ epoch: Epoch(7), change: Some(Model(score <- {short})) }})")
        );
        assert_eq!(given[3], "Barrier(Barrier { epoch: Epoch(8), change: None })", "that model is gone");
        assert_eq!(
            given[5], "Barrier(Barrier { epoch: Epoch(9), change: None })",
            "a stop is over at a restart"
        );
        assert_eq!(replayed.forgotten.len(), 1);
        assert_eq!((replayed.records, replayed.mono), (7, Duration::from_micros(60)));
        let start = replayed.start;
        assert_eq!((start.offset, start.epoch, start.records_since_cut), (7, Epoch(10), 1));
        assert_eq!(start.log_bytes_since_cut, log.bytes());
        let at = |offset: u64| Some(Position(format!("p{offset}")));
        assert_eq!(start.positions, [at(4), at(0)]);
        assert_eq!(start.under_way[0], (Epoch(7), 2, vec![None, at(0)]));
        assert_eq!(start.under_way[2], (Epoch(9), 6, vec![at(4), at(0)]));
    }

    #[test]
    fn records_find_their_source_by_its_name_and_those_of_no_source_are_counted() {
        let rows = |input| Record::Batch { input, batch: RecordBatch::new_empty(raw_schema()) };
        let mut log = log_of(vec![rows(0), rows(1), Record::End { input: 0 }, Record::Tick]);
        let (given, replayed) = replay(&mut log, &["new", "b"]).unwrap();
        assert_eq!(given, ["rows 1 0", "Tick"]);
        assert_eq!(replayed.start.positions, [None, Some(Position("p1".to_owned()))]);
        assert_eq!(replayed.without_place, BTreeMap::from([("a".to_owned(), 2)]));
        let (given, replayed) = replay(&mut log, &["b", "a"]).unwrap();
        assert_eq!(given, ["rows 1 0", "rows 0 0", "End { input: 1 }", "Tick"]);
        assert!(replayed.without_place.is_empty());
    }

    #[test]
    fn behind_another_graph_records_are_of_its_sources() {
        let rows = |input| Record::Batch { input, batch: RecordBatch::new_empty(raw_schema()) };
        let graph = Graph::new(names(&["c", "b"]), Vec::new(), Vec::new()).unwrap();
        let change = Change::Graph(std::sync::Mutex::new(Some(graph)));
        let mut log = log_of(vec![rows(0), barrier(7, Some(change)), rows(0)]);
        let (given, replayed) = replay(&mut log, &["c", "a"]).unwrap();
        assert_eq!((&given[0][..], &given[2][..]), ("rows 1 0", "rows 0 0"));
        assert!(replayed.without_place.is_empty());
        let mut log = log_of(Vec::new());
        let error = Writer::new(names(&["a"])).append(&mut log, &stamped(0, rows(1))).unwrap_err();
        assert_eq!(error.message, "record 0 is of no source of the graph");
        assert_eq!(log.next_offset(), 0, "nothing was written");
    }

    #[test]
    fn a_record_out_of_order_is_refused() {
        let mut log = log_of(vec![Record::Tick]);
        let error = Writer::new(Vec::new()).append(&mut log, &stamped(5, Record::Tick)).unwrap_err();
        assert_eq!(error.message, "the log gave offset 1 to record 5");
    }
}
