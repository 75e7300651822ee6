//! The stage between the coordinator and the engine that makes records durable before anything follows from them.
//!
//! It takes whatever has gathered while the last sync ran, writes it with one write and one sync (group commit),
//! tells the coordinator, which lets the sources acknowledge, and only then hands the records to the engine. At
//! the start it first hands on what the log holds behind the checkpoint.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::activity::{Activity, JournalDoes};
use super::valve::Valve;
use super::wire::{Report, Stamped};
use crate::core::{Position, Record};
use crate::error::{Error, Kind, Result};
use crate::store::journal::{Replay, Replayed, Writer};
use crate::store::log::Log;

/// How long to wait before a failed write or sync is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Most records of one group: a bound on what waits for one sync.
const GROUP_MAX: usize = 64;

/// Bytes of rows after which a group is closed, so that memory stays small where the disk is slow.
const GROUP_BYTES_MAX: usize = 2 << 20;

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
    /// Through which records go to the engine.
    pub valve: Valve,
    /// What this thread does.
    pub does: Arc<Activity>,
}

/// Starts the journal's thread. It ends when its feed closes, and then says whether all that it was given is in the
/// log: records that come when the engine is gone are written as well, since their sources go on behind them.
///
/// # Errors
/// If the system gives no thread.
pub fn spawn(
    log: Log,
    writer: Writer,
    replay: Replay,
    lines: JournalLines,
) -> Result<std::thread::JoinHandle<bool>> {
    std::thread::Builder::new()
        .name("journal".to_owned())
        .spawn(move || {
            let reports = lines.reports.clone();
            let outcome = drive(log, writer, replay, lines);
            outcome.map_err(|error| reports.send(Report::Failed(error))).is_ok()
        })
        .map_err(|error| Error::io("starting the journal thread", &error))
}

fn drive(mut log: Log, mut writer: Writer, replay: Replay, mut lines: JournalLines) -> Result<()> {
    // What was in doubt when the log was opened is safe before anything follows from it.
    sync(&mut log, &lines.reports, &lines.does)?;
    let Some(replayed) = give_again(&mut log, replay, &mut lines)? else { return Ok(()) };
    let JournalLines { mut feed, mut removals, engine, reports, replayed: told, mut valve, does } = lines;
    if told.send(replayed).is_err() {
        return Ok(());
    }
    let mut engine = Some(engine);
    let mut told_bytes = log.grown_bytes();
    // Not more than the channel holds: what is under way, and memory and log must have room for, is bounded by it.
    let group_max = GROUP_MAX.min(feed.max_capacity());
    let mut group = Vec::with_capacity(group_max);
    while let Some(first) = feed.blocking_recv() {
        let mut bytes = first.record.bytes();
        group.push(first);
        while group.len() < group_max
            && bytes < GROUP_BYTES_MAX
            && let Ok(next) = feed.try_recv()
        {
            bytes += next.record.bytes();
            group.push(next);
        }
        while let Ok(offset) = removals.try_recv() {
            remove(&mut log, offset);
        }
        let mut positions: Vec<(usize, Position)> = Vec::new();
        if let Some(last) = group.last() {
            log.note_time(last.now.wall.micros());
        }
        does.begin(JournalDoes::Writes as u16);
        for stamped in &group {
            append(&mut log, &mut writer, stamped, &mut removals, &reports, &does)?;
            note_position(stamped, &mut positions);
        }
        let below = sync(&mut log, &reports, &does)?;
        does.begin(JournalDoes::Idle as u16);
        let grown_bytes = log.grown_bytes() - std::mem::replace(&mut told_bytes, log.grown_bytes());
        let report = Report::Synced {
            below,
            positions,
            grown_bytes,
            log_bytes: log.needed_bytes(),
            retained_bytes: log.retained_bytes(),
        };
        // Nobody may hear it any more.
        let _ = reports.send(report);
        for stamped in group.drain(..) {
            engine = engine.filter(|engine| valve.send(engine, stamped));
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
fn append(
    log: &mut Log,
    writer: &mut Writer,
    stamped: &Stamped,
    removals: &mut mpsc::UnboundedReceiver<u64>,
    reports: &mpsc::UnboundedSender<Report>,
    does: &Activity,
) -> Result<()> {
    let mut told = false;
    loop {
        match writer.append(log, stamped) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind == Kind::Unavailable => {
                if !std::mem::replace(&mut told, true) {
                    warn!(%error, "the log is full; sources wait for the sinks");
                }
                // What is in memory must reach the engine's side of the log before room can come.
                sync(log, reports, does)?;
                does.stay(JournalDoes::Full as u16);
                match removals.blocking_recv() {
                    Some(offset) => remove(log, offset),
                    None => return Err(error),
                }
            }
            Err(error) if error.kind == Kind::Io && !reports.is_closed() => {
                if !std::mem::replace(&mut told, true) {
                    warn!(%error, "the log cannot be written; trying again");
                }
                does.stay(JournalDoes::Fails as u16);
                std::thread::sleep(RETRY_AFTER);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Syncs, as soon as the disk can; an error only when nobody waits for it any more.
fn sync(log: &mut Log, reports: &mpsc::UnboundedSender<Report>, does: &Activity) -> Result<u64> {
    let mut told = false;
    loop {
        match log.sync() {
            Ok(below) => return Ok(below),
            Err(error) if reports.is_closed() => return Err(error),
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    warn!(%error, "the log cannot be synced; nothing is acknowledged until it can");
                }
                does.stay(JournalDoes::Fails as u16);
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

/// Hands on what the log holds behind the checkpoint; `None` when the engine is gone.
fn give_again(log: &mut Log, mut replay: Replay, lines: &mut JournalLines) -> Result<Option<Replayed>> {
    while let Some(stamped) = replay.next(log)? {
        if !lines.valve.send(&lines.engine, stamped) {
            return Ok(None);
        }
    }
    let replayed = replay.finish(log);
    let damages = &replayed.damages;
    if damages.records > 0 {
        warn!(
            records = damages.records,
            stretches = damages.stretches,
            "damaged records in the log were skipped"
        );
    }
    for (source, records) in &replayed.without_place {
        warn!(
            source,
            records,
            "records in the log are of a source that this pipeline does not have; they are passed over"
        );
    }
    for model in &replayed.forgotten {
        warn!(model, "a model that the log refers to cannot be brought back");
    }
    if replayed.records > 0 {
        info!(records = replayed.records, to = replayed.start.offset, "log replayed");
    }
    Ok(Some(replayed))
}
