//! Gives records their one order, decides when a cut is due, and keeps the epochs under way. Pure.
//!
//! The runtime's coordinator and the simulated world run this same code; they differ only in what carries the
//! records. Room in memory is the shell's: while [`Sequencer::takes`] is false it must bring no more rows, so at
//! most a few records wait here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;

use super::ends::Position;
use super::epochs::{Commit, Epochs};
use super::event::{Barrier, Change, Epoch, Now, Record};
use super::snapshot::Snapshot;

/// How many epochs may be under way at once.
pub const EPOCHS_UNDER_WAY_MAX: usize = 4;

/// Which part of the log may gather behind a cut before the next one is due. Two checkpoints are kept, so with a
/// quarter there is always a cut whose commit makes room before the log is full.
const LOG_PARTS_PER_CUT: u64 = 4;

/// Cuts in a row that may be made only to make room: the log is kept from the older of two checkpoints on, so the
/// third is the first whose commit removes everything before itself. Beyond that, one per checkpoint interval.
const RELIEFS_MAX: u32 = 3;

/// A record in its place.
#[derive(Debug)]
pub struct Stamped {
    /// Its number in the pipeline's one order, which is its offset in the log.
    pub offset: u64,
    /// When it entered.
    pub now: Now,
    /// The record.
    pub record: Record,
    /// For a batch: where its source stands behind it.
    pub position: Option<Position>,
}

/// An epoch that has begun: its number, the offset behind its barrier, and where each source stood.
pub type Begun = (Epoch, u64, Vec<Option<Position>>);

/// Where a pipeline begins: fresh, or behind what was recovered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Start {
    /// Offset of the next record.
    pub offset: u64,
    /// Number of the next cut.
    pub epoch: Epoch,
    /// Where each source stands.
    pub positions: Vec<Option<Position>>,
    /// Epochs that began before the restart and are still under way.
    pub under_way: Vec<Begun>,
    /// Records behind the last cut.
    pub records_since_cut: u64,
    /// Bytes of log behind the last cut, at most.
    pub log_bytes_since_cut: u64,
    /// Bytes of the whole log.
    pub log_bytes: u64,
    /// Whether there is a checkpoint to come back to.
    pub anchored: bool,
}

/// How records are put in order.
#[derive(Debug, Clone, Copy)]
pub struct SequencerSettings {
    /// Time between two cuts.
    pub checkpoint: Duration,
    /// Most bytes of the log: a quarter of it behind the last cut brings the next one forward.
    pub log_bytes_max: u64,
    /// Whether state survives a stop; if not, a stop lets everything flow out.
    pub keeps_state: bool,
}

/// The order and the epochs of one pipeline.
#[derive(Debug)]
pub struct Sequencer {
    settings: SequencerSettings,
    epochs: Epochs,
    next_offset: u64,
    next_epoch: Epoch,
    positions: Vec<Option<Position>>,
    ended: Vec<bool>,
    outbox: VecDeque<Stamped>,
    cut_at: Duration,
    records_since_cut: u64,
    log_bytes_since_cut: u64,
    log_bytes: u64,
    anchored: bool,
    /// Cuts made since rows last came only to make room.
    reliefs: u32,
    ticked: Option<Duration>,
    stopping: Option<Epoch>,
    /// The cut behind which nothing follows for now.
    held: Option<Epoch>,
}

impl Sequencer {
    /// Goes on from `start` at the monotonic time `mono`; `sinks` are their names in graph order.
    pub fn new(settings: SequencerSettings, sinks: Vec<String>, start: Start, mono: Duration) -> Self {
        let mut epochs = Epochs::new(sinks, EPOCHS_UNDER_WAY_MAX);
        // A process that is stopped while a sink is stuck leaves one more behind than may be under way, and so does
        // the next. Any later epoch stands for those before it: the oldest need not be committed.
        let too_many = start.under_way.len().saturating_sub(EPOCHS_UNDER_WAY_MAX);
        for (epoch, offset, positions) in start.under_way.into_iter().skip(too_many) {
            epochs.begin(epoch, offset, positions);
        }
        Self {
            settings,
            epochs,
            next_offset: start.offset,
            next_epoch: start.epoch,
            ended: vec![false; start.positions.len()],
            positions: start.positions,
            outbox: VecDeque::new(),
            cut_at: mono + settings.checkpoint,
            records_since_cut: start.records_since_cut,
            log_bytes_since_cut: start.log_bytes_since_cut,
            log_bytes: start.log_bytes,
            anchored: start.anchored || !settings.keeps_state,
            reliefs: 0,
            ticked: None,
            stopping: None,
            held: None,
        }
    }

    /// Whether rows may come: all that came before have gone on, the pipeline is not stopping, the log has room for
    /// them and for the cut that must follow, and there is a checkpoint to come back to.
    ///
    /// The very first rows wait for a first checkpoint of nothing: it says where each sink began. Without it a sink
    /// that wrote and died could not tell its own rows from what was there before, and they would come twice.
    pub fn takes(&self) -> bool {
        self.outbox.is_empty()
            && self.stopping.is_none()
            && self.held.is_none()
            && !self.is_tight()
            && self.anchored
    }

    /// Whether the log has grown so large that rows stop, while a quarter of it is still free. A log filled to the brim could not take the cut whose
    /// commit makes room, and would stay full for ever.
    pub fn is_tight(&self) -> bool {
        self.log_bytes > self.settings.log_bytes_max / LOG_PARTS_PER_CUT * (LOG_PARTS_PER_CUT - 1)
    }

    /// Whether a cut is due at once: to have a first checkpoint, or only to make room. In both cases nothing is under
    /// way whose commit would do.
    fn is_cut_due_now(&self) -> bool {
        let relief = self.is_tight() && self.reliefs < RELIEFS_MAX;
        (relief || !self.anchored) && self.epochs.is_idle() && self.may_cut()
    }

    /// Whether a stop has begun.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// Whether another cut may be made now. A change has to wait until it may.
    pub fn may_cut(&self) -> bool {
        self.stopping.is_none() && self.held.is_none() && self.epochs.may_begin()
    }

    /// Whether an epoch is the one that ends the pipeline.
    pub fn is_last(&self, epoch: Epoch) -> bool {
        self.stopping == Some(epoch)
    }

    /// The epochs under way.
    pub fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// Rows have come from a source, which stands at `position` behind them.
    pub fn rows(&mut self, now: Now, input: usize, batch: RecordBatch, position: Position) {
        self.positions[input] = Some(position.clone());
        self.reliefs = 0;
        self.push(now, Record::Batch { input, batch }, Some(position));
        if self.log_bytes_since_cut > self.settings.log_bytes_max / LOG_PARTS_PER_CUT && self.may_cut() {
            self.cut(now, None);
        }
    }

    /// A source has ended; with the last one the pipeline stops.
    pub fn end(&mut self, now: Now, input: usize) {
        self.ended[input] = true;
        self.push(now, Record::End { input }, None);
        if self.ended.iter().all(|ended| *ended) {
            self.stop(now);
        }
    }

    /// When something is due next: the engine's `deadline` or a cut.
    pub fn due(&self, deadline: Option<Duration>) -> Option<Duration> {
        if self.is_stopping() || self.held.is_some() {
            return None;
        }
        if self.is_cut_due_now() {
            return Some(Duration::ZERO);
        }
        let tick = deadline.filter(|_| deadline != self.ticked);
        let cut = (self.is_cut_wanted() && self.epochs.may_begin()).then_some(self.cut_at);
        tick.into_iter().chain(cut).min()
    }

    /// Time has passed: whatever is due is put in order.
    pub fn pass(&mut self, now: Now, deadline: Option<Duration>) {
        if self.is_stopping() || self.held.is_some() {
            return;
        }
        if let Some(due) = deadline.filter(|due| *due <= now.mono && deadline != self.ticked) {
            // Once per deadline: the engine says a new one after it has seen the tick.
            self.ticked = Some(due);
            self.push(now, Record::Tick, None);
        }
        if self.is_cut_due_now() {
            self.reliefs += u32::from(self.is_tight());
            self.cut(now, None);
        } else if now.mono >= self.cut_at && self.is_cut_wanted() && self.may_cut() {
            self.cut(now, None);
        }
    }

    /// Whether there is anything behind the last cut, or room to be made.
    fn is_cut_wanted(&self) -> bool {
        self.records_since_cut > 0 || self.is_tight()
    }

    /// Puts a cut in order and gives its number.
    pub fn cut(&mut self, now: Now, change: Option<Change>) -> Epoch {
        let epoch = self.next_epoch;
        self.next_epoch = Epoch(epoch.0 + 1);
        let barrier = Barrier { epoch, change: change.map(Arc::new) };
        let offset = self.push(now, Record::Barrier(barrier), None);
        self.epochs.begin(epoch, offset + 1, self.positions.clone());
        self.records_since_cut = 0;
        self.log_bytes_since_cut = 0;
        self.cut_at = now.mono + self.settings.checkpoint;
        epoch
    }

    /// Puts a cut in order behind which nothing follows until [`Sequencer::release`]: once it is committed, the state at
    /// the cut is all there is, and another graph can go on from it.
    pub fn hold(&mut self, now: Now) -> Epoch {
        let epoch = self.cut(now, None);
        self.held = Some(epoch);
        epoch
    }

    /// Whether an epoch is the one that is held.
    pub fn is_held(&self, epoch: Epoch) -> bool {
        self.held == Some(epoch)
    }

    /// Things go on behind a cut that was held.
    pub fn release(&mut self) {
        self.held = None;
    }

    /// Stops at a cut. Where no state is kept every input ends first, so that nothing stays inside.
    pub fn stop(&mut self, now: Now) {
        if self.is_stopping() {
            return;
        }
        self.held = None;
        if !self.settings.keeps_state {
            for input in 0..self.ended.len() {
                if !std::mem::replace(&mut self.ended[input], true) {
                    self.push(now, Record::End { input }, None);
                }
            }
        }
        self.stopping = Some(self.cut(now, Some(Change::Stop)));
    }

    /// The next record on its way to the log or the engine.
    pub fn poll(&mut self) -> Option<Stamped> {
        self.outbox.pop_front()
    }

    /// There was no room for what [`Sequencer::poll`] gave: it comes first again.
    pub fn put_back(&mut self, stamped: Stamped) {
        self.outbox.push_front(stamped);
    }

    /// How many records wait to be polled.
    pub fn waiting(&self) -> usize {
        self.outbox.len()
    }

    /// The log has grown, and holds so much now.
    pub fn logged(&mut self, grown_bytes: u64, log_bytes: u64) {
        self.log_bytes_since_cut += grown_bytes;
        self.log_bytes = log_bytes;
    }

    /// The engine has made its cut.
    pub fn snapshot(&mut self, snapshot: Snapshot) {
        self.epochs.snapshot(snapshot);
    }

    /// A sink has everything before an epoch's barrier safe.
    pub fn flushed(&mut self, sink: usize, epoch: Epoch, position: Position) {
        self.epochs.flushed(sink, epoch, position);
    }

    /// The oldest epoch, once nothing is owed to it.
    pub fn commit(&mut self) -> Option<Commit> {
        self.epochs.poll()
    }

    /// What [`Sequencer::commit`] gave is durable.
    pub fn committed(&mut self) {
        self.anchored = true;
    }

    fn push(&mut self, now: Now, record: Record, position: Option<Position>) -> u64 {
        let offset = self.next_offset;
        self.next_offset += 1;
        self.records_since_cut += 1;
        self.outbox.push_back(Stamped { offset, now, record, position });
        offset
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Schema;

    use super::*;
    use crate::core::event::EventTime;

    const SETTINGS: SequencerSettings =
        SequencerSettings { checkpoint: Duration::from_secs(10), log_bytes_max: 400, keeps_state: true };

    fn at(seconds: u64) -> Now {
        Now { mono: Duration::from_secs(seconds), wall: EventTime(0) }
    }

    fn sequencer(settings: SequencerSettings) -> Sequencer {
        let start =
            Start { positions: vec![None, None], epoch: Epoch(1), anchored: true, ..Start::default() };
        Sequencer::new(settings, vec!["out".to_owned()], start, Duration::ZERO)
    }

    fn rows(sequencer: &mut Sequencer, seconds: u64) {
        let empty = RecordBatch::new_empty(Arc::new(Schema::empty()));
        sequencer.rows(at(seconds), 0, empty, Position(format!("p{seconds}")));
    }

    /// What waits, as one letter each with its offset.
    fn polled(sequencer: &mut Sequencer) -> Vec<String> {
        std::iter::from_fn(|| sequencer.poll())
            .map(|stamped| {
                let what = match &stamped.record {
                    Record::Batch { input, .. } => format!("rows {input}"),
                    Record::End { input } => format!("end {input}"),
                    Record::Tick => "tick".to_owned(),
                    Record::Barrier(barrier) => match barrier.change.as_deref() {
                        Some(Change::Stop) => format!("stop {}", barrier.epoch),
                        _ => format!("cut {}", barrier.epoch),
                    },
                };
                format!("{}: {what}", stamped.offset)
            })
            .collect()
    }

    #[test]
    fn records_are_numbered_in_the_order_they_came_and_hold_new_rows_back_until_they_have_gone_on() {
        let mut sequencer = sequencer(SETTINGS);
        rows(&mut sequencer, 1);
        assert!(!sequencer.takes());
        let first = sequencer.poll().unwrap();
        sequencer.put_back(first);
        sequencer.end(at(2), 1);
        assert_eq!(polled(&mut sequencer), ["0: rows 0", "1: end 1"]);
        assert!(sequencer.takes());
        sequencer.end(at(3), 0);
        assert_eq!(polled(&mut sequencer), ["2: end 0", "3: stop 1"], "all sources have ended");
        assert!(!sequencer.takes() && sequencer.is_last(Epoch(1)));
    }

    #[test]
    fn a_tick_is_given_once_per_deadline_and_a_cut_only_where_there_is_something_to_cut() {
        let mut sequencer = sequencer(SETTINGS);
        let deadline = Some(Duration::from_secs(5));
        assert_eq!(sequencer.due(None), None);
        assert_eq!(sequencer.due(deadline), deadline);
        sequencer.pass(at(4), deadline);
        assert_eq!(polled(&mut sequencer), Vec::<String>::new());
        sequencer.pass(at(6), deadline);
        sequencer.pass(at(7), deadline);
        assert_eq!(polled(&mut sequencer), ["0: tick"]);
        assert_eq!(sequencer.due(deadline), Some(Duration::from_secs(10)), "the cut");
        sequencer.pass(at(10), deadline);
        sequencer.pass(at(30), deadline);
        assert_eq!(polled(&mut sequencer), ["1: cut 1"]);
    }

    #[test]
    fn of_the_epochs_that_a_restart_finds_under_way_only_the_last_few_are_kept() {
        let under_way = (1..=7).map(|epoch| (Epoch(epoch), epoch * 10, vec![None])).collect();
        let start =
            Start { positions: vec![None], epoch: Epoch(8), under_way, anchored: true, ..Start::default() };
        let mut sequencer = Sequencer::new(SETTINGS, Vec::new(), start, Duration::ZERO);
        let owed = |sequencer: &Sequencer| -> Vec<u64> {
            sequencer.epochs().owed().map(|(epoch, _)| epoch.0).collect()
        };
        assert_eq!(owed(&sequencer), [4, 5, 6, 7]);
        sequencer.stop(at(1));
        assert_eq!(owed(&sequencer), [4, 5, 6, 7, 8], "a stop never waits");
        for epoch in 1..=4 {
            sequencer.snapshot(Snapshot { epoch: Epoch(epoch), now: at(1), nodes: Vec::new() });
        }
        assert_eq!(
            sequencer.commit().unwrap().epoch,
            Epoch(4),
            "what the replay says of older ones is no matter"
        );
    }

    #[test]
    fn a_quarter_of_the_log_brings_the_cut_forward_counting_what_was_there_at_the_start() {
        let start =
            Start { positions: vec![None], log_bytes_since_cut: 60, anchored: true, ..Start::default() };
        let mut sequencer = Sequencer::new(SETTINGS, Vec::new(), start, Duration::ZERO);
        rows(&mut sequencer, 1);
        sequencer.logged(40, 100);
        rows(&mut sequencer, 1);
        assert_eq!(polled(&mut sequencer).len(), 2, "a hundred is not more than a hundred");
        sequencer.logged(1, 101);
        rows(&mut sequencer, 1);
        assert_eq!(polled(&mut sequencer), ["2: rows 0", "3: cut 0"]);
    }

    #[test]
    fn a_log_that_grows_tight_stops_rows_and_is_cut_until_there_is_room_or_it_proves_useless() {
        let mut sequencer = sequencer(SETTINGS);
        sequencer.logged(0, 300);
        assert!(sequencer.takes());
        sequencer.logged(0, 301);
        assert!(!sequencer.takes());
        for epoch in 1..=3 {
            assert_eq!(sequencer.due(None), Some(Duration::ZERO));
            sequencer.pass(at(1), None);
            assert_eq!(polled(&mut sequencer), [format!("{}: cut {epoch}", epoch - 1)]);
            assert!(sequencer.due(None) > Some(Duration::ZERO), "one at a time");
            sequencer.flushed(0, Epoch(epoch), Position("o".to_owned()));
            sequencer.snapshot(Snapshot { epoch: Epoch(epoch), now: at(1), nodes: Vec::new() });
            assert!(sequencer.commit().is_some());
        }
        assert_eq!(sequencer.due(None), Some(Duration::from_secs(11)), "from here on by the clock");
        sequencer.logged(0, 300);
        assert!(sequencer.takes() && sequencer.due(None).is_none());
    }

    #[test]
    fn the_first_rows_wait_for_a_first_checkpoint_wherever_state_is_kept() {
        let start = Start { positions: vec![None], epoch: Epoch(1), ..Start::default() };
        let begin = |start: &Start, keeps_state| {
            let settings = SequencerSettings { keeps_state, ..SETTINGS };
            Sequencer::new(settings, Vec::new(), start.clone(), Duration::ZERO)
        };
        let mut sequencer = begin(&start, true);
        assert!(!sequencer.takes());
        assert_eq!(sequencer.due(None), Some(Duration::ZERO));
        sequencer.pass(at(0), None);
        assert_eq!(polled(&mut sequencer), ["0: cut 1"]);
        assert_eq!(sequencer.due(None), None);
        sequencer.snapshot(Snapshot { epoch: Epoch(1), now: at(0), nodes: Vec::new() });
        assert!(sequencer.commit().is_some() && !sequencer.takes(), "it is not durable yet");
        sequencer.committed();
        assert!(sequencer.takes());
        // A cut that the log holds from before is that first one.
        let again = Start { under_way: vec![(Epoch(1), 1, vec![None])], epoch: Epoch(2), ..start.clone() };
        let sequencer = begin(&again, true);
        assert!(!sequencer.takes() && sequencer.due(None).is_none());
        assert!(begin(&start, false).takes());
    }

    #[test]
    fn no_more_than_four_epochs_are_under_way_and_a_stop_is_never_refused() {
        let mut sequencer = sequencer(SETTINGS);
        for round in 1..=4 {
            rows(&mut sequencer, round * 10);
            sequencer.pass(at(round * 10), None);
        }
        rows(&mut sequencer, 60);
        sequencer.pass(at(60), None);
        assert!(!sequencer.may_cut());
        assert_eq!(sequencer.due(None), None);
        polled(&mut sequencer);
        sequencer.stop(at(61));
        sequencer.stop(at(62));
        assert_eq!(polled(&mut sequencer), ["9: stop 5"]);
        sequencer.flushed(0, Epoch(1), Position("o".to_owned()));
        assert_eq!(sequencer.commit(), None, "the engine owes its snapshot");
        sequencer.snapshot(Snapshot { epoch: Epoch(1), now: at(10), nodes: Vec::new() });
        let commit = sequencer.commit().unwrap();
        assert_eq!((commit.epoch, commit.offset), (Epoch(1), 2));
        assert_eq!(commit.sources, [Some(Position("p10".to_owned())), None]);
    }

    #[test]
    fn nothing_follows_a_cut_that_is_held_but_a_stop() {
        let mut sequencer = sequencer(SETTINGS);
        rows(&mut sequencer, 1);
        let epoch = sequencer.hold(at(2));
        assert_eq!(polled(&mut sequencer), ["0: rows 0", "1: cut 1"]);
        let deadline = Some(Duration::from_secs(3));
        sequencer.pass(at(30), deadline);
        assert!(!sequencer.takes() && !sequencer.may_cut() && sequencer.due(deadline).is_none());
        assert!(sequencer.is_held(epoch) && polled(&mut sequencer).is_empty());
        sequencer.release();
        assert!(sequencer.takes() && sequencer.may_cut() && !sequencer.is_held(epoch));
        sequencer.hold(at(31));
        sequencer.stop(at(32));
        assert_eq!(polled(&mut sequencer), ["2: cut 2", "3: stop 3"]);
    }

    #[test]
    fn where_no_state_is_kept_a_stop_ends_every_input_first() {
        let mut sequencer = sequencer(SequencerSettings { keeps_state: false, ..SETTINGS });
        sequencer.end(at(1), 1);
        sequencer.stop(at(2));
        assert_eq!(polled(&mut sequencer), ["0: end 1", "1: end 0", "2: stop 1"]);
    }
}
