//! The stage between the coordinator and the engine that makes records durable before anything follows from them.
//!
//! It takes whatever has gathered while the last sync ran, writes it with one write and one sync (group commit),
//! tells the coordinator, which lets the sources acknowledge, and only then hands the records to the engine. At
//! the start it first hands on what the log holds behind the checkpoint.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::wire::{Report, Stamped};
use crate::core::{Barrier, Change, Epoch, EventTime, Model, Now, Position, Record};
use crate::error::{Error, Kind, Result};
use crate::store::log::Log;
use crate::store::record::{LogRecord, RecordKind, Stamp, encode_batch};

/// How long to wait before a failed write or sync is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Most records of one group: a bound on what waits for one sync.
const GROUP_MAX: usize = 64;

/// Brings a kept model back by the node's name and the model's id.
pub type Recall = Box<dyn Fn(&str, &str) -> Result<std::sync::Arc<Model>> + Send>;

/// What the log held behind the checkpoint.
#[derive(Debug)]
pub struct Replayed {
    /// Offset of the next record.
    pub offset: u64,
    /// The largest monotonic time seen.
    pub mono: Duration,
    /// The newest position of each source that gave something.
    pub positions: Vec<Option<Position>>,
    /// Epochs that began and were not committed: epoch, offset behind the barrier, positions.
    pub under_way: Vec<(Epoch, u64, Vec<Option<Position>>)>,
    /// How many records there were.
    pub records: u64,
}

/// What the journal is connected to.
pub struct JournalLines {
    /// Records from the coordinator.
    pub feed: mpsc::Receiver<Stamped>,
    /// Offsets before which records are not needed any more.
    pub removals: mpsc::UnboundedReceiver<u64>,
    /// To the engine.
    pub engine: mpsc::Sender<Stamped>,
    /// To the coordinator.
    pub reports: mpsc::UnboundedSender<Report>,
    /// What was replayed, once.
    pub replayed: oneshot::Sender<Replayed>,
}

/// Where a replay begins.
pub struct ReplayFrom {
    /// Offset of the first record behind the checkpoint.
    pub offset: u64,
    /// Positions of the sources at the checkpoint.
    pub positions: Vec<Option<Position>>,
    /// Monotonic time of the checkpoint.
    pub mono: Duration,
    /// Brings models back.
    pub recall: Recall,
}

/// What a barrier's change looks like in the log.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LoggedChange {
    Stop,
    Graph,
    Model { node: String, id: String },
}

/// Starts the journal's thread.
///
/// # Errors
/// If the system gives no thread.
pub fn spawn(log: Log, from: ReplayFrom, lines: JournalLines) -> Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name("journal".to_owned())
        .spawn(move || {
            let reports = lines.reports.clone();
            if let Err(error) = drive(log, from, lines) {
                let _ = reports.send(Report::Failed(error));
            }
        })
        .map_err(|error| Error::io("starting the journal thread", &error))
}

fn drive(mut log: Log, from: ReplayFrom, mut lines: JournalLines) -> Result<()> {
    let Some(replayed) = replay(&mut log, from, &lines.engine)? else { return Ok(()) };
    if lines.replayed.send(replayed).is_err() {
        return Ok(());
    }
    let mut group = Vec::with_capacity(GROUP_MAX);
    while let Some(first) = lines.feed.blocking_recv() {
        group.push(first);
        while group.len() < GROUP_MAX
            && let Ok(next) = lines.feed.try_recv()
        {
            group.push(next);
        }
        while let Ok(offset) = lines.removals.try_recv() {
            remove(&mut log, offset);
        }
        let mut positions: Vec<(usize, Position)> = Vec::new();
        for stamped in &group {
            append(&mut log, stamped, &mut lines.removals)?;
            note_position(stamped, &mut positions);
        }
        let below = sync(&mut log);
        let report = Report::Synced { below, positions, log_bytes: log.bytes() };
        if lines.reports.send(report).is_err() {
            return Ok(());
        }
        for stamped in group.drain(..) {
            if lines.engine.blocking_send(stamped).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn note_position(stamped: &Stamped, positions: &mut Vec<(usize, Position)>) {
    let (Record::Batch { input, .. }, Some(position)) = (&stamped.record, &stamped.position) else { return };
    match positions.iter_mut().find(|(known, _)| known == input) {
        Some((_, known)) => *known = position.clone(),
        None => positions.push((*input, position.clone())),
    }
}

/// Appends a record; waits while the log is full or the disk fails. The record is not acknowledged meanwhile, so
/// nothing is lost and the sources are held back.
fn append(log: &mut Log, stamped: &Stamped, removals: &mut mpsc::UnboundedReceiver<u64>) -> Result<()> {
    let mut told = false;
    loop {
        match log.append_with(|out| encode(stamped, out)) {
            Ok(offset) if offset == stamped.offset => return Ok(()),
            Ok(offset) => {
                return Err(Error::state(format!(
                    "the log gave offset {offset} to record {}",
                    stamped.offset
                )));
            }
            Err(error) if error.kind == Kind::Unavailable => {
                if !std::mem::replace(&mut told, true) {
                    warn!(%error, "the log is full; sources wait for the sinks");
                }
                // What is in memory must reach the engine's side of the log before room can come.
                sync(log);
                match removals.blocking_recv() {
                    Some(offset) => remove(log, offset),
                    None => return Err(error),
                }
            }
            Err(error) if error.kind == Kind::Io => {
                if !std::mem::replace(&mut told, true) {
                    warn!(%error, "the log cannot be written; trying again");
                }
                std::thread::sleep(RETRY_AFTER);
            }
            Err(error) => return Err(error),
        }
    }
}

fn sync(log: &mut Log) -> u64 {
    let mut told = false;
    loop {
        match log.sync() {
            Ok(below) => return below,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    warn!(%error, "the log cannot be synced; nothing is acknowledged until it can");
                }
                std::thread::sleep(RETRY_AFTER);
            }
        }
    }
}

fn remove(log: &mut Log, offset: u64) {
    if let Err(error) = log.remove_before(offset) {
        warn!(%error, "old parts of the log cannot be removed");
    }
}

fn encode(stamped: &Stamped, out: &mut Vec<u8>) -> Result<()> {
    let now = Stamp {
        mono_us: u64::try_from(stamped.now.mono.as_micros()).unwrap_or(u64::MAX),
        wall_us: stamped.now.wall.micros(),
    };
    let kind = match &stamped.record {
        Record::Batch { input, batch } => {
            let position = stamped.position.as_ref().map_or("", |position| position.0.as_str());
            return encode_batch(now, *input as u32, position, batch, out);
        }
        Record::End { input } => RecordKind::End { input: *input as u32 },
        Record::Tick => RecordKind::Tick,
        Record::Barrier(barrier) => {
            let change = match barrier.change.as_deref() {
                None => None,
                Some(Change::Stop) => Some(LoggedChange::Stop),
                Some(Change::Graph(_)) => Some(LoggedChange::Graph),
                Some(Change::Model { node, model }) => {
                    Some(LoggedChange::Model { node: node.clone(), id: model.id.to_string() })
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

/// Hands on what the log holds behind the checkpoint; `None` when the engine is gone.
fn replay(log: &mut Log, from: ReplayFrom, engine: &mpsc::Sender<Stamped>) -> Result<Option<Replayed>> {
    let mut replayed =
        Replayed { offset: 0, mono: from.mono, positions: from.positions, under_way: Vec::new(), records: 0 };
    let mut cursor = log.read(from.offset);
    while let Some((offset, bytes)) = cursor.next(log)? {
        let logged = LogRecord::decode(bytes)?;
        let now =
            Now { mono: Duration::from_micros(logged.now.mono_us), wall: EventTime(logged.now.wall_us) };
        replayed.mono = replayed.mono.max(now.mono);
        replayed.records += 1;
        let record = match logged.kind {
            RecordKind::Batch { input, position, batch } => {
                let input = input as usize;
                match replayed.positions.get_mut(input) {
                    Some(place) => *place = Some(Position(position)),
                    None => {
                        return Err(Error::state(format!(
                            "the log has rows of source {}, but the pipeline has only {}: finish the log with the \
                             pipeline that wrote it, or remove it",
                            input + 1,
                            replayed.positions.len()
                        )));
                    }
                }
                Record::Batch { input, batch }
            }
            RecordKind::End { input } => Record::End { input: input as usize },
            RecordKind::Tick => Record::Tick,
            RecordKind::Barrier { epoch, change } => {
                let epoch = Epoch(epoch);
                replayed.under_way.push((epoch, offset + 1, replayed.positions.clone()));
                Record::Barrier(Barrier { epoch, change: recall_change(change, &from.recall) })
            }
        };
        let stamped = Stamped { offset, now, record, position: None };
        if engine.blocking_send(stamped).is_err() {
            return Ok(None);
        }
    }
    let damages = cursor.damages();
    if damages.records > 0 {
        warn!(
            records = damages.records,
            stretches = damages.stretches,
            "damaged records in the log were skipped"
        );
    }
    replayed.offset = log.next_offset();
    if replayed.records > 0 {
        info!(records = replayed.records, from = from.offset, to = replayed.offset, "log replayed");
    }
    Ok(Some(replayed))
}

fn recall_change(change: Option<Vec<u8>>, recall: &Recall) -> Option<std::sync::Arc<Change>> {
    let change: LoggedChange = serde_json::from_slice(&change?).ok()?;
    match change {
        LoggedChange::Stop | LoggedChange::Graph => None,
        LoggedChange::Model { node, id } => match recall(&node, &id) {
            Ok(model) => Some(std::sync::Arc::new(Change::Model { node, model })),
            Err(error) => {
                warn!(node, id, %error, "a model that the log refers to cannot be brought back");
                None
            }
        },
    }
}
