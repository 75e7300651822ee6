//! The process that runs the plant: the runtime's tasks as steps that a scheduler takes in any order.
//!
//! The order of things is that of `runtime`: stamp, append, sync, acknowledge, engine, sinks; snapshot and flushed
//! positions make a commit; the commit makes room in the log. What decides is the production code itself:
//! [`Sequencer`], `store::journal`, `store::log`, [`Engine`], [`recovery`]. Here are only the queues between them. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use arrow::array::RecordBatch;

use super::around::{Fall, Step, Surroundings, breach, note};
use super::bug::Bug;
use super::cells;
use super::journal::{Journal, LOG};
use super::outside::{Broker, Name};
use super::plant::{self, MODEL_NODE, SOURCES};
use super::spooled::{self, Spooled};
use super::start::{come_back, take_for_the_same};
use crate::Kind;
use crate::core::{
    Barrier, Change, Commit, Effect, Engine, Epoch, Event, EventTime, Now, Position, Record, Sequencer,
    SequencerSettings, Snapshot, Stamped,
};
use crate::store::journal::{ReplayFrom, Replayed};
use crate::store::recovery::{self, Saver};

/// The sink that may have a spool before it.
pub(super) const SPOOLED: usize = 1;
/// Places in each bounded queue.
pub(super) const QUEUE: usize = 3;
/// Most reports that may wait: the coordinator is never behind by more than what its bounded queues let happen.
const REPORTS_MAX: usize = 256;
/// Four epochs, and the one that ends the pipeline.
const EPOCHS_MAX: usize = 5;
/// Rows, a tick, and as many cuts as there may be epochs.
const WAITING_MAX: usize = 2 + EPOCHS_MAX;

/// Most bytes of the log's files: besides the log, the copy of a block that was in doubt and a file that was given up.
const LOG_FILES_BYTES_MAX: u64 = LOG.bytes_max + 2 * LOG.segment_bytes_max;
/// Most files of checkpoints: two that are kept, one in the making, one to be removed, and as many that are damaged.
const CHECKPOINTS_MAX: usize = 40;

/// From anywhere to the coordinator.
pub(super) enum Report {
    Synced { positions: Vec<(usize, Position)>, grown_bytes: u64, log_bytes: u64 },
    Snapshot(Snapshot),
    Flushed { sink: usize, epoch: Epoch, position: Position },
}

enum Delivery {
    Rows { name: Name, batch: RecordBatch },
    Barrier(Epoch),
    End,
}

enum Arrival {
    Rows { input: usize, batch: RecordBatch, position: Position },
    End { input: usize },
}

/// One process.
pub(super) struct Shell {
    pub mono: Duration,
    pub finished: bool,
    recovered_epoch: Epoch,
    sequencer: Option<Sequencer>,
    pub journal: Option<Journal>,
    pub engine: Engine,
    sink_names: Vec<String>,
    requests: VecDeque<u8>,
    arrivals: VecDeque<Arrival>,
    /// Which sources have said that they have ended.
    ended: [bool; SOURCES.len()],
    pub feed: VecDeque<Stamped>,
    pub engine_feed: VecDeque<Stamped>,
    effects: VecDeque<(u64, Effect)>,
    emitted: Vec<u32>,
    deliveries: Vec<VecDeque<Delivery>>,
    spooled: Option<Spooled>,
    orders: Vec<VecDeque<Epoch>>,
    acknowledgements: Vec<VecDeque<Position>>,
    pub reports: VecDeque<Report>,
    committing: Option<Commit>,
    saver: Saver,
    pub removals: VecDeque<u64>,
    told: Vec<Epoch>,
}

impl Shell {
    /// Starts a process on what the disk holds.
    pub fn open(around: &mut Surroundings, guest: Option<&plant::Guest<'_>>) -> Step<Self> {
        around.incarnation += 1;
        let recovered = recovery::recover(around.store().as_mut())?;
        come_back(around, &recovered)?;
        let (mut graph, sources) = (plant::graph(around.variant, guest)?, around.variant.source_names());
        if around.bug == Some(Bug::StateOfAnotherMeaning) {
            take_for_the_same(&mut graph, recovered.snapshot.as_ref());
        }
        let sink_names: Vec<String> = graph.sinks.iter().map(|sink| sink.name.clone()).collect();
        let (engine, _) = Engine::new(graph, recovered.snapshot.as_ref())?;
        for (sink, name) in around.sinks.iter_mut().zip(&sink_names) {
            sink.open(recovered.sinks.get(name), around.bug == Some(Bug::TruncationIgnored))?;
        }
        let mut spooled = None;
        if around.spools {
            let position = sink_names.get(SPOOLED).and_then(|name| recovered.sinks.get(name));
            spooled = Some(Spooled::open(around, position)?);
        }
        let mut from = ReplayFrom {
            offset: recovered.log_offset,
            epoch: recovered.epoch,
            positions: sources.iter().map(|name| recovered.sources.get(name).cloned()).collect(),
            sources,
            mono: recovered.snapshot.as_ref().map_or(Duration::ZERO, |snapshot| snapshot.now.mono),
        };
        if around.bug == Some(Bug::ReplayFromWrongOffset) && recovered.snapshot.is_some() {
            from.offset += 1;
        }
        let sinks = sink_names.len();
        let saver = Saver::new(from.sources.clone(), sink_names.clone());
        let mut shell = Self {
            mono: Duration::ZERO,
            finished: false,
            recovered_epoch: recovered.epoch,
            sequencer: None,
            journal: None,
            engine,
            sink_names,
            requests: VecDeque::new(),
            arrivals: VecDeque::new(),
            ended: [false; SOURCES.len()],
            feed: VecDeque::new(),
            engine_feed: VecDeque::new(),
            effects: VecDeque::new(),
            emitted: vec![0; sinks],
            deliveries: (0..sinks).map(|_| VecDeque::new()).collect(),
            spooled,
            orders: vec![VecDeque::new(); sinks],
            acknowledgements: vec![VecDeque::new(); SOURCES.len()],
            reports: VecDeque::new(),
            committing: None,
            saver,
            removals: VecDeque::new(),
            told: vec![recovered.epoch; sinks],
        };
        if around.has_log {
            shell.journal = Some(Journal::open(around, &recovered, from)?);
        } else {
            around.accepted.split_off(&recovered.log_offset);
            shell.begin(around, Replayed::nothing(from));
        }
        Ok(shell)
    }

    /// The log is replayed: now the order goes on and the sources are opened.
    pub fn begin(&mut self, around: &mut Surroundings, mut replayed: Replayed) {
        if around.bug == Some(Bug::ForgetUnflushedEpochs) {
            replayed.start.under_way.clear();
            replayed.start.epoch = Epoch(self.recovered_epoch.0 + 1);
        }
        replayed.start.anchored |= around.bug == Some(Bug::RowsBeforeFirstCheckpoint);
        let settings = SequencerSettings {
            checkpoint: around.checkpoint,
            log_bytes_max: LOG.bytes_max,
            keeps_state: true,
        };
        self.mono = replayed.mono;
        self.sequencer = Some(Sequencer::new(settings, self.sink_names.clone(), replayed.start, self.mono));
        around.brokers.iter_mut().for_each(Broker::connect);
    }

    fn now(&self, around: &Surroundings) -> Now {
        Now { mono: self.mono, wall: EventTime(around.wall_us) }
    }

    /// Asks for another model, and remembers it where the process does.
    pub fn request(&mut self, factor: u8) {
        if self.requests.len() < QUEUE {
            self.requests.push_back(factor);
        }
    }

    /// Asks for the end.
    pub fn stop(&mut self, around: &Surroundings) {
        let now = self.now(around);
        if let Some(sequencer) = &mut self.sequencer {
            sequencer.stop(now);
        }
    }

    /// A source takes what its broker has, if there is room behind it.
    pub fn receive(&mut self, around: &mut Surroundings, source: usize) -> Step {
        if self.sequencer.is_none() || self.arrivals.len() >= QUEUE || self.ended[source] {
            return Ok(());
        }
        let max = 1 + around.dice.below(3);
        let input = around.running.place_of(source);
        let broker = &mut around.brokers[source];
        if let Some((readings, position)) = broker.receive(max)? {
            let batch = plant::messages(&readings, around.wall_us)?;
            self.arrivals.push_back(Arrival::Rows { input, batch, position });
        } else if broker.is_at_end() {
            self.ended[source] = true;
            self.arrivals.push_back(Arrival::End { input });
        }
        Ok(())
    }

    /// A source passes an acknowledgement on.
    pub fn acknowledge(&mut self, around: &mut Surroundings, source: usize) -> Step {
        if let Some(position) = self.acknowledgements[around.running.place_of(source)].pop_front() {
            let committed = around.commits.last().map_or(0, |(_, offset, _)| *offset);
            let safe = if around.has_log { around.safe } else { committed };
            let offset = around.offsets.get(&(source, position.clone()));
            // That mistake shall be found by what gets lost.
            let mistaken = around.bug == Some(Bug::AcknowledgeBeforeSync);
            if !mistaken && offset.is_none_or(|offset| *offset >= safe) {
                return breach(format!(
                    "{position:?} of record {offset:?} is acknowledged, and safe are {safe}"
                ));
            }
            around.brokers[source].acknowledge(&position)?;
        }
        Ok(())
    }

    /// One turn of the coordinator: what waits goes on, then the first thing that is there.
    pub fn coordinate(&mut self, around: &mut Surroundings) -> Step {
        let now = self.now(around);
        let Some(sequencer) = &mut self.sequencer else { return Ok(()) };
        if sequencer.may_cut()
            && let Some(factor) = self.requests.pop_front()
        {
            let model = std::sync::Arc::new(plant::model_of(factor));
            sequencer.cut(now, Some(Change::Model { node: MODEL_NODE.to_owned(), model }));
        }
        while self.feed.len() < QUEUE
            && let Some(stamped) = sequencer.poll()
        {
            if matches!(stamped.record, Record::Barrier(_)) && around.dice.happens(500) {
                around.cut_begins();
            }
            self.feed.push_back(stamped);
        }
        around.log_tight += u64::from(sequencer.is_tight());
        around.epochs_full += u64::from(!sequencer.is_stopping() && !sequencer.may_cut());
        let deadline = self.engine.deadline();
        if let Some(report) = self.reports.pop_front() {
            match report {
                Report::Synced { positions, grown_bytes, log_bytes } => {
                    sequencer.logged(grown_bytes, log_bytes);
                    for (input, position) in positions {
                        self.acknowledgements[input].push_back(position);
                    }
                }
                Report::Snapshot(snapshot) => sequencer.snapshot(snapshot),
                Report::Flushed { sink, epoch, position } => sequencer.flushed(sink, epoch, position),
            }
        } else if sequencer.takes()
            && let Some(arrival) = self.arrivals.pop_front()
        {
            match arrival {
                Arrival::Rows { input, batch, position } => sequencer.rows(now, input, batch, position),
                Arrival::End { input } => sequencer.end(now, input),
            }
        } else if sequencer.waiting() == 0 && sequencer.due(deadline).is_some_and(|due| due <= now.mono) {
            sequencer.pass(now, deadline);
        }
        if self.committing.is_none() {
            self.committing = sequencer.commit();
            if self.committing.is_some() {
                around.cut_begins();
            }
        }
        Ok(())
    }

    /// The checkpoint of a commit is written, and everyone is told. What the disk refuses is tried again.
    pub fn save(&mut self, around: &mut Surroundings) -> Step {
        if around.is_stuck(around.sinks.len() + 1) {
            return Ok(());
        }
        let Some(commit) = self.committing.take() else { return Ok(()) };
        let now = self.now(around);
        let saved = match self.saver.save(around.store().as_mut(), &commit, now) {
            Ok(saved) => saved,
            Err(error) if error.kind == Kind::Io => {
                around.unsaved += 1;
                self.committing = Some(commit);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        if let Some((last, ..)) = around.commits.last()
            && *last >= commit.epoch
        {
            return breach(format!("epoch {} is committed behind {last}", commit.epoch));
        }
        let first = commit.sinks.first().cloned().unwrap_or(Position(String::new()));
        around.lost.whole_checkpoints += 1;
        around.commits.push((commit.epoch, commit.offset, first));
        let too_far = around.bug == Some(Bug::LogRemovedTooFar);
        self.removals.push_back(if too_far { commit.offset } else { saved.remove_before });
        for orders in &mut self.orders {
            orders.push_back(commit.epoch);
        }
        if !around.has_log {
            for (line, position) in self.acknowledgements.iter_mut().zip(commit.sources) {
                line.extend(position);
            }
        }
        if let Some(sequencer) = &mut self.sequencer {
            sequencer.committed();
            self.finished = sequencer.is_last(commit.epoch);
        }
        Ok(())
    }

    /// One step of the engine: the next effect of the last record, or the next record.
    pub fn run(&mut self, around: &mut Surroundings) -> Step {
        if let Some((offset, effect)) = self.effects.pop_front() {
            return self.pass_on(around, offset, effect);
        }
        let feed = if around.has_log { &mut self.engine_feed } else { &mut self.feed };
        let Some(stamped) = feed.pop_front() else { return Ok(()) };
        if !around.has_log {
            note(around, &stamped)?;
        }
        self.emitted.fill(0);
        let Stamped { offset, now, record, .. } = stamped;
        if around.bug == Some(Bug::SnapshotBeforeChange)
            && let Record::Barrier(Barrier { epoch, change: Some(_) }) = &record
        {
            // The state is taken first, and only then the change is made.
            self.engine.handle(now, Record::Barrier(Barrier { epoch: *epoch, change: None }))?;
            self.effects.extend(std::iter::from_fn(|| self.engine.poll()).map(|effect| (offset, effect)));
            self.engine.handle(now, record)?;
            while self.engine.poll().is_some() {}
            return Ok(());
        }
        self.engine.handle(now, record)?;
        self.effects.extend(std::iter::from_fn(|| self.engine.poll()).map(|effect| (offset, effect)));
        Ok(())
    }

    fn pass_on(&mut self, around: &mut Surroundings, offset: u64, effect: Effect) -> Step {
        match effect {
            Effect::Emit { sink, event } if self.deliveries[sink].len() >= QUEUE => {
                // The sink is full: the engine waits.
                self.effects.push_front((offset, Effect::Emit { sink, event }));
            }
            Effect::Emit { sink, event: Event::Batch(batch) } => {
                let incarnation = if around.has_log { 0 } else { around.incarnation };
                let name = (incarnation, offset, self.emitted[sink]);
                self.emitted[sink] += 1;
                self.deliveries[sink].push_back(Delivery::Rows { name, batch });
            }
            Effect::Emit { sink, event: Event::Barrier(barrier) } => {
                self.deliveries[sink].push_back(Delivery::Barrier(barrier.epoch));
            }
            Effect::Emit { sink, event: Event::End } => self.deliveries[sink].push_back(Delivery::End),
            Effect::Snapshot(snapshot) => self.reports.push_back(Report::Snapshot(snapshot)),
            Effect::Rejected { .. } => around.refused += 1,
        }
        Ok(())
    }

    /// One step of a sink: an order first, else the next delivery unless it stalls.
    pub fn deliver(&mut self, around: &mut Surroundings, sink: usize) -> Step {
        if let Some(epoch) = self.orders[sink].pop_front() {
            let before = std::mem::replace(&mut self.told[sink], epoch);
            if epoch <= before {
                return breach(format!("sink {sink} is told of epoch {epoch} after {before}"));
            }
            return Ok(());
        }
        let spools = sink == SPOOLED && around.spools;
        if !spools && (around.is_stuck(sink) || around.dice.happens(around.slow[sink])) {
            return Ok(());
        }
        let fails = std::mem::take(&mut around.failing[sink]);
        let delivery = self.deliveries[sink].pop_front();
        if fails && around.dice.happens(500) {
            return Err(Fall::Died);
        }
        match delivery {
            None | Some(Delivery::End) => {}
            Some(Delivery::Rows { name, batch }) => {
                if around.has_log && name.1 >= around.safe {
                    return breach(format!("an effect of record {} leaves before it is safe", name.1));
                }
                match &mut self.spooled {
                    Some(spooled) if spools => {
                        if !spooled.write(around, name, &batch)? {
                            self.deliveries[sink].push_front(Delivery::Rows { name, batch });
                            return Ok(());
                        }
                    }
                    _ => {
                        let rows = cells::rows(&batch)?;
                        around.sinks[sink].write(&mut around.dice, name, rows)?;
                    }
                }
            }
            Some(Delivery::Barrier(epoch)) => {
                let in_name_only = around.bug == Some(Bug::CommitWithoutFlush);
                let position = match &mut self.spooled {
                    Some(spooled) if spools => {
                        let Some(position) = spooled.flush(around)? else {
                            self.deliveries[sink].push_front(Delivery::Barrier(epoch));
                            return Ok(());
                        };
                        position
                    }
                    _ => around.sinks[sink].flush(in_name_only)?,
                };
                self.reports.push_back(Report::Flushed { sink, epoch, position });
            }
        }
        // A sink can also fail when the other side has done all that was asked.
        if fails { Err(Fall::Died) } else { Ok(()) }
    }

    /// One step of the task behind the spool.
    pub fn drain(&mut self, around: &mut Surroundings) -> Step {
        self.spooled.as_mut().map_or(Ok(()), |spooled| spooled.drain(around, SPOOLED))
    }

    /// Whether nothing waits in the spool.
    pub fn has_drained(&self) -> bool {
        self.spooled.as_ref().is_none_or(Spooled::is_empty)
    }

    /// Nothing is ever larger than it may be.
    pub fn check_bounds(&self, around: &Surroundings) -> Step {
        let queues = [self.arrivals.len(), self.feed.len(), self.engine_feed.len(), self.requests.len()];
        let waiting = self.sequencer.as_ref().map_or(0, Sequencer::waiting);
        let epochs = self.sequencer.as_ref().map_or(0, |sequencer| sequencer.epochs().owed().count());
        let log = self.journal.as_ref().map_or(0, |journal| journal.log.bytes());
        let full = queues.into_iter().chain(self.deliveries.iter().map(VecDeque::len)).max() > Some(QUEUE);
        if full || waiting > WAITING_MAX || epochs > EPOCHS_MAX || log > LOG.bytes_max {
            return breach(format!(
                "beyond a bound: queues {queues:?}, {waiting} records, {epochs} epochs, {log} bytes of log"
            ));
        }
        if self.reports.len() > REPORTS_MAX {
            return breach(format!("{} reports wait", self.reports.len()));
        }
        let spool = around.memory.bytes_under("spool/");
        if spool > spooled::FILES_BYTES_MAX {
            return breach(format!("the spool takes {spool} bytes of disk"));
        }
        let on_disk = around.memory.bytes_under("log/");
        let checkpoints = around.memory.paths().iter().filter(|path| path.starts_with("checkpoint/")).count();
        if on_disk > LOG_FILES_BYTES_MAX || checkpoints > CHECKPOINTS_MAX {
            return breach(format!(
                "the log takes {on_disk} bytes of disk, and there are {checkpoints} checkpoints"
            ));
        }
        Ok(())
    }

    /// On whom what is under way waits, for the message when something gets stuck.
    pub fn waits_for(&self) -> String {
        let Some(sequencer) = &self.sequencer else { return "the replay".to_owned() };
        let owed: Vec<String> =
            sequencer.epochs().owed().map(|(epoch, whom)| format!("epoch {epoch} for {whom:?}")).collect();
        let log = self.journal.as_ref().map_or(0, |journal| journal.log.bytes());
        let queues = [self.arrivals.len(), sequencer.waiting(), self.feed.len(), self.engine_feed.len()];
        let sinks: Vec<usize> = self.deliveries.iter().map(VecDeque::len).collect();
        format!(
            "[{}], log {log} bytes, queues {queues:?}, effects {}, sinks {sinks:?}",
            owed.join(", "),
            self.effects.len()
        )
    }
}
