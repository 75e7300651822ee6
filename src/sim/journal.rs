//! The process's journal: records are appended and synced before anything follows from them. The steps are those of
//! the runtime's journal thread. Pure.

use std::collections::VecDeque;

use super::around::{Step, Surroundings, accepted_of, breach, note};
use super::bug::Bug;
use super::oracle::Accepted;
use super::plant;
use super::shell::{QUEUE, Report, Shell};
use crate::Kind;
use crate::core::{Position, Record, Stamped};
use crate::store::journal::{Replay, ReplayFrom, Writer};
use crate::store::recovery::Recovered;
use crate::store::{Damages, Log, LogOptions, Retain};

/// The log: small enough that a stalled sink fills it.
pub(super) const LOG: LogOptions = LogOptions {
    segment_bytes_max: 1024,
    block_bytes_max: 512,
    bytes_max: 7 << 10,
    compress: false,
    retain: Retain { time: std::time::Duration::ZERO, bytes_max: 0 },
    offset_min: 0,
    now_us: 0,
    needed_from: 0,
};
/// Where the journal is with its group.
#[derive(PartialEq, Eq)]
enum Stage {
    Gather,
    Append,
    Sync,
    HandOn,
}

/// The journal of one process.
pub(super) struct Journal {
    pub log: Log,
    writer: Writer,
    replay: Option<Replay>,
    /// Which record the replay should give next.
    expected: u64,
    /// Records behind the checkpoint that the replay has passed over.
    missing: u64,
    stage: Stage,
    group: VecDeque<Stamped>,
    /// How many of the group are appended.
    appended: usize,
    /// How far the log had grown at the last report.
    told_bytes: u64,
    positions: Vec<(usize, Position)>,
}

impl Shell {
    /// One step of the journal.
    pub fn keep(&mut self, around: &mut Surroundings) -> Step {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        if let Some(mut replay) = journal.replay.take() {
            let more = give_again(around, journal, &mut replay, &mut self.engine_feed)?;
            if more {
                journal.replay = Some(replay);
            } else {
                let replayed = replay.finish(&journal.log);
                journal.check_told(around, &replayed.damages)?;
                self.begin(around, replayed);
            }
            return Ok(());
        }
        match journal.stage {
            Stage::Gather => {
                // Whatever has gathered goes with one sync.
                journal.group.append(&mut self.feed);
                if !journal.group.is_empty() {
                    journal.make_room(&mut self.removals);
                    journal.stage = Stage::Append;
                }
                Ok(())
            }
            Stage::Append => {
                journal.append(around, &mut self.removals)?;
                if journal.appended < journal.group.len() {
                    return Ok(());
                }
                journal.stage = Stage::Sync;
                match around.bug {
                    Some(Bug::AcknowledgeBeforeSync) => self.reports.push_back(journal.report()),
                    Some(Bug::EffectsBeforeSync) => journal.stage = Stage::HandOn,
                    _ => {}
                }
                Ok(())
            }
            Stage::Sync if around.is_stuck(around.sinks.len()) => Ok(()),
            Stage::Sync => {
                // A sync that fails is tried again; until it succeeds nothing follows from the group.
                let Ok(below) = journal.log.sync() else { return Ok(()) };
                around.safe = below;
                self.reports.push_back(journal.report());
                journal.stage = Stage::HandOn;
                Ok(())
            }
            Stage::HandOn => {
                if self.engine_feed.len() < QUEUE
                    && let Some(stamped) = journal.group.pop_front()
                {
                    self.engine_feed.push_back(stamped);
                }
                if journal.group.is_empty() {
                    journal.appended = 0;
                    journal.stage = match journal.log.pending_bytes() {
                        0 => Stage::Gather,
                        _ => Stage::Sync,
                    };
                }
                Ok(())
            }
        }
    }
}

impl Journal {
    /// Opens the log behind a checkpoint. What the log has lost is forgotten; nothing that was safe may be.
    pub fn open(around: &mut Surroundings, recovered: &Recovered, from: ReplayFrom) -> Step<Self> {
        let mut options = LogOptions { offset_min: recovered.log_offset, ..LOG };
        if around.bug == Some(Bug::OffsetsGivenTwice) {
            options.offset_min = 0;
        }
        let (log, report) = Log::open(around.store(), "log", options)?;
        let rotten = around.lost.flips > 0;
        if log.next_offset() < around.safe
            || !rotten && (report.damages.records > 0 || report.lost_at_end > 0)
        {
            return breach(format!(
                "all before {} was synced, and the log ends at {} with {report:?}",
                around.safe,
                log.next_offset()
            ));
        }
        around.accepted.split_off(&log.next_offset());
        let recall = Box::new(|_: &str, id: &str| plant::recall_model(id));
        let told_bytes = log.grown_bytes();
        let writer = Writer::new(from.sources.clone());
        let expected = from.offset;
        let replay = Some(Replay::new(&log, from, recall));
        Ok(Self {
            log,
            writer,
            replay,
            expected,
            missing: 0,
            stage: Stage::Gather,
            group: VecDeque::new(),
            appended: 0,
            told_bytes,
            positions: Vec::new(),
        })
    }

    /// The replay has come to records that lie behind others: those between are lost.
    fn miss(&mut self, around: &mut Surroundings, upto: u64) -> Step {
        let missing = std::mem::replace(&mut self.expected, upto + 1)..upto;
        self.missing += upto - missing.start;
        let mut fresh = missing.clone().filter(|offset| !around.lost.offsets.contains(offset));
        let Some(first) = fresh.next() else { return Ok(()) };
        for offset in missing {
            around.lost.offsets.insert(offset);
            if let Some(Accepted::Messages { readings, .. }) =
                around.accepted.remove(&offset).map(|entry| entry.accepted)
            {
                around.lost.readings.extend(readings);
            }
        }
        around.dispute(first..self.log.next_offset());
        let (lost, flips) = (around.lost.offsets.len() as u64, around.lost.flips);
        if lost > flips * QUEUE as u64 {
            return breach(format!("{lost} records are lost, and only {flips} bits have rotted"));
        }
        Ok(())
    }

    /// The end of a replay: what was passed over is told.
    fn check_told(&mut self, around: &mut Surroundings, damages: &Damages) -> Step {
        if self.expected < self.log.next_offset() {
            self.miss(around, self.log.next_offset())?;
        }
        if damages.records != self.missing {
            return breach(format!("{} records are missing, and told are {damages:?}", self.missing));
        }
        Ok(())
    }

    fn make_room(&mut self, removals: &mut VecDeque<u64>) {
        for offset in removals.drain(..) {
            // Old parts that cannot be removed now go with the next ones.
            let _ = self.log.remove_before(offset);
        }
    }

    /// Appends the rest of the group; it stays where it is while the log is full or the disk fails.
    fn append(&mut self, around: &mut Surroundings, removals: &mut VecDeque<u64>) -> Step {
        while let Some(stamped) = self.group.get(self.appended) {
            match self.writer.append(&mut self.log, stamped) {
                Ok(()) => {
                    if let (Record::Batch { input, .. }, Some(position)) =
                        (&stamped.record, &stamped.position)
                    {
                        self.positions.push((*input, position.clone()));
                    }
                    note(around, stamped)?;
                    self.appended += 1;
                }
                Err(error) if error.kind == Kind::Unavailable => {
                    let _ = self.log.sync();
                    self.make_room(removals);
                    return Ok(());
                }
                Err(error) if error.kind == Kind::Io => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn report(&mut self) -> Report {
        Report::Synced {
            positions: std::mem::take(&mut self.positions),
            grown_bytes: self.log.grown_bytes()
                - std::mem::replace(&mut self.told_bytes, self.log.grown_bytes()),
            log_bytes: self.log.bytes(),
        }
    }
}

/// One step of the replay; false at the end of the log.
fn give_again(
    around: &mut Surroundings,
    journal: &mut Journal,
    replay: &mut Replay,
    engine_feed: &mut VecDeque<Stamped>,
) -> Step<bool> {
    if engine_feed.len() >= QUEUE {
        return Ok(true);
    }
    // What was in doubt when the log was opened is safe before anything follows from it.
    let Ok(safe) = journal.log.sync() else { return Ok(true) };
    around.safe = safe;
    let Some(stamped) = replay.next(&mut journal.log)? else { return Ok(false) };
    if stamped.offset > journal.expected {
        journal.miss(around, stamped.offset)?;
    }
    journal.expected = stamped.offset + 1;
    let accepted = accepted_of(around.running, &stamped.record)?;
    match around.accepted.get(&stamped.offset) {
        Some(entry) if entry.now == stamped.now && entry.accepted == accepted => {}
        _ => return breach(format!("record {} comes back as another: {accepted:?}", stamped.offset)),
    }
    engine_feed.push_back(stamped);
    Ok(true)
}
