//! The sources and sinks of one pipeline while they run. They outlive engines: one that another pipeline file says in
//! the same words goes on as it is, with its connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tracing::{info, warn};

use super::metrics::PipelineMetrics;
use super::sink_task::{self, SinkLines};
use super::source_task::{self, SourceLines};
use super::wire::{Arrival, Delivery, Joining, Report, SinkOrder, SourceId};
use crate::config::PlannedSource;
use crate::core::{Epoch, Fingerprint, Position, Sink, Source};
use crate::error::{Error, Result};

/// How long a source or sink may take to end.
pub const CLOSING_MAX: Duration = Duration::from_secs(5);

/// How long a sink that is not waited for may take to end by itself.
const LEAVING_MAX: Duration = Duration::from_secs(2);

/// Which sources that could run on are opened anew at their position all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reopen {
    /// None: all they have given is in the log, in the state, or on its way.
    None,
    /// Those whose other side waits for acknowledgements: it gives again what was not acknowledged.
    Acknowledging,
    /// All: what they gave since the checkpoint is gone.
    All,
}

/// Where an engine goes on from, as its sinks see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// From a cut at which everything was committed.
    AtCut(Epoch),
    /// From a checkpoint: what sinks have behind it comes again, so each is opened at its committed position.
    FromCheckpoint,
}

struct RunningSource {
    name: String,
    identity: Fingerprint,
    id: SourceId,
    acknowledges: bool,
    acknowledgements: mpsc::UnboundedSender<Position>,
    ended: Arc<AtomicBool>,
    connected: Option<Arc<AtomicBool>>,
    task: JoinHandle<Box<dyn Source>>,
}

impl RunningSource {
    /// Closes it; gives it back unless it does not come to an end.
    async fn close(self) -> Option<Box<dyn Source>> {
        drop(self.acknowledgements);
        let abort = self.task.abort_handle();
        match tokio::time::timeout(CLOSING_MAX, self.task).await {
            Ok(outcome) => outcome.ok(),
            Err(_) => {
                warn!(source = self.name, "the source does not close; it is dropped");
                abort.abort();
                None
            }
        }
    }
}

struct RunningSink {
    name: String,
    identity: Fingerprint,
    orders: mpsc::UnboundedSender<SinkOrder>,
    ended: Arc<AtomicBool>,
    /// Its other half goes with the sink.
    gone: watch::Receiver<bool>,
    /// For sinks that are tasks; a thread cannot be ended from outside.
    abort: Option<AbortHandle>,
}

impl RunningSink {
    /// Waits until it has ended.
    async fn wait(&mut self, most: Duration) -> bool {
        tokio::time::timeout(most, self.gone.wait_for(|gone| *gone)).await.is_ok()
    }
}

/// What a source has in common with the coordinator.
pub struct Entrance {
    /// Its number.
    pub id: SourceId,
    /// The way back for positions that are safe.
    pub acknowledgements: mpsc::UnboundedSender<Position>,
    /// Whether it has said its end already.
    pub ended: bool,
    /// Whether it was open before: it knows its positions, and one that was opened anew knows none from before.
    pub goes_on: bool,
}

/// Told when a source or sink is open, or why not.
pub type Opened = oneshot::Receiver<Result<()>>;

/// A sink that is to run.
pub struct SinkToRun {
    /// Its name.
    pub name: String,
    /// While it is the same, one that runs can run on.
    pub identity: Fingerprint,
    /// The running part, with its spool where it has one.
    pub sink: Box<dyn Sink>,
    /// Whether it waits for a peer rather than for this machine's disk or pipes.
    pub network: bool,
}

/// What sinks are connected to.
pub struct Exits {
    /// To each sink, bounded.
    pub deliveries: Vec<mpsc::Sender<Delivery>>,
    /// Orders to each sink.
    pub orders: Vec<mpsc::UnboundedSender<SinkOrder>>,
    /// Those that are opened now.
    pub opened: Vec<Opened>,
}

/// All sources and sinks that run.
pub struct Ends {
    arrivals: mpsc::Sender<Arrival>,
    failures: mpsc::UnboundedSender<(SourceId, Error)>,
    sources: Vec<RunningSource>,
    sinks: Vec<RunningSink>,
    /// Sinks that were told to end and may still hold what their successors want.
    leaving: BTreeMap<String, watch::Receiver<bool>>,
    next_source: SourceId,
}

impl Ends {
    /// None yet.
    pub fn new(arrivals: mpsc::Sender<Arrival>, failures: mpsc::UnboundedSender<(SourceId, Error)>) -> Self {
        Self {
            arrivals,
            failures,
            sources: Vec::new(),
            sinks: Vec::new(),
            leaving: BTreeMap::new(),
            next_source: 0,
        }
    }

    /// For each source how it says whether it is connected: by the one that runs, if that goes on.
    pub fn connected(&self, planned: &[PlannedSource]) -> Vec<Option<Arc<AtomicBool>>> {
        let running =
            |source: &PlannedSource| self.sources.iter().find(|running| running.identity == source.identity);
        planned
            .iter()
            .map(|source| running(source).map_or(&source.connected, |running| &running.connected).clone())
            .collect()
    }

    /// Makes these the sources that run, each from its position. Those that run in the same words go on; the others
    /// are closed first.
    pub async fn take_sources(
        &mut self,
        planned: Vec<PlannedSource>,
        positions: &[Option<Position>],
        reopen: Reopen,
        metrics: &PipelineMetrics,
    ) -> (Vec<Entrance>, Vec<Opened>) {
        let mut running = std::mem::take(&mut self.sources);
        let mut found: Vec<Option<RunningSource>> = Vec::new();
        for source in &planned {
            let place = running.iter().position(|known| known.identity == source.identity);
            found.push(place.map(|place| running.swap_remove(place)));
        }
        for gone in running {
            let name = gone.name.clone();
            gone.close().await;
            info!(source = name, "source closed");
        }
        let (mut entrances, mut opened) = (Vec::new(), Vec::new());
        for (input, (source, found)) in planned.into_iter().zip(found).enumerate() {
            let from = positions.get(input).cloned().flatten();
            let (object, connected) = match found {
                Some(known)
                    if reopen == Reopen::None || (reopen == Reopen::Acknowledging && !known.acknowledges) =>
                {
                    entrances.push(known.entrance(true));
                    self.sources.push(known);
                    continue;
                }
                Some(known) => {
                    let connected = known.connected.clone();
                    match known.close().await {
                        Some(object) => (object, connected),
                        None => (source.source, source.connected),
                    }
                }
                None => (source.source, source.connected),
            };
            let (told, open) = oneshot::channel();
            opened.push(open);
            let (acknowledgements, acknowledgements_in) = mpsc::unbounded_channel();
            self.next_source += 1;
            let ended = Arc::new(AtomicBool::new(false));
            let lines = SourceLines {
                id: self.next_source,
                name: source.name.clone(),
                from,
                opened: told,
                arrivals: self.arrivals.clone(),
                acknowledgements: acknowledgements_in,
                counters: Arc::clone(&metrics.sources[input]),
                ended: Arc::clone(&ended),
                failures: self.failures.clone(),
            };
            let started = RunningSource {
                name: source.name,
                identity: source.identity,
                id: self.next_source,
                acknowledges: source.acknowledges,
                acknowledgements,
                ended,
                connected,
                task: tokio::spawn(source_task::run(object, lines)),
            };
            entrances.push(started.entrance(false));
            self.sources.push(started);
        }
        (entrances, opened)
    }

    /// Makes these the sinks that run, from an engine's point of view in this order.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub async fn take_sinks(
        &mut self,
        planned: Vec<SinkToRun>,
        committed: &BTreeMap<String, Position>,
        handover: Handover,
        queue: usize,
        reports: &mpsc::UnboundedSender<Report>,
        metrics: &PipelineMetrics,
    ) -> Result<Exits> {
        let next = planned.iter().map(|sink| (sink.name.clone(), sink.identity)).collect();
        let mut running = self.leave_out(next, handover).await;
        let mut exits = Exits { deliveries: Vec::new(), orders: Vec::new(), opened: Vec::new() };
        for (index, planned) in planned.into_iter().enumerate() {
            let (deliveries, deliveries_in) = mpsc::channel(queue);
            exits.deliveries.push(deliveries);
            let place = Joining { sink: index, deliveries: deliveries_in, reports: reports.clone() };
            if let Some(known) = running.remove(&planned.name) {
                exits.orders.push(known.orders.clone());
                let _ = known.orders.send(SinkOrder::Join(place));
                self.sinks.push(known);
                continue;
            }
            let (told, open) = oneshot::channel();
            exits.opened.push(open);
            let (orders, orders_in) = mpsc::unbounded_channel();
            exits.orders.push(orders.clone());
            let ended = Arc::new(AtomicBool::new(false));
            let lines = SinkLines {
                committed: committed.get(&planned.name).cloned(),
                before: self.leaving.remove(&planned.name),
                name: planned.name.clone(),
                place,
                orders: orders_in,
                counters: Arc::clone(&metrics.sinks[index]),
                ended: Arc::clone(&ended),
                opened: told,
            };
            let (goes, gone) = watch::channel(false);
            let abort = spawn_sink(planned.sink, lines, planned.network, goes)?;
            let (name, identity) = (planned.name, planned.identity);
            self.sinks.push(RunningSink { name, identity, orders, ended, gone, abort });
        }
        Ok(exits)
    }

    /// Ends the sinks that do not go on; gives those that do, by name.
    async fn leave_out(
        &mut self,
        planned: BTreeMap<String, Fingerprint>,
        handover: Handover,
    ) -> BTreeMap<String, RunningSink> {
        let mut staying = BTreeMap::new();
        let Handover::AtCut(epoch) = handover else {
            self.drop_sinks();
            return staying;
        };
        for mut sink in std::mem::take(&mut self.sinks) {
            match planned.get(&sink.name) {
                // One that has finished what it had must be opened anew for more.
                Some(next) if *next == sink.identity && !sink.ended.load(Ordering::Relaxed) => {
                    staying.insert(sink.name.clone(), sink);
                    continue;
                }
                Some(_) => {
                    // Without orders it ends as it is; its successor goes on at its position.
                    let (orders, _) = mpsc::unbounded_channel();
                    sink.orders = orders;
                }
                None => {
                    let _ = sink.orders.send(SinkOrder::Finish(epoch));
                }
            }
            if sink.wait(CLOSING_MAX).await {
                info!(sink = sink.name, "sink closed");
            } else {
                warn!(sink = sink.name, "the sink does not close");
                self.let_go(sink);
            }
        }
        staying
    }

    /// It ends when it comes back from what it does, since nobody gives orders any more, or is ended where that can be
    /// done from outside.
    fn let_go(&mut self, sink: RunningSink) {
        if let Some(abort) = sink.abort {
            tokio::spawn(async move {
                tokio::time::sleep(LEAVING_MAX).await;
                abort.abort();
            });
        }
        self.leaving.insert(sink.name, sink.gone);
    }

    /// Sinks that were told to end and may not have.
    pub fn leaving(&self) -> impl Iterator<Item = &str> {
        self.leaving.keys().map(String::as_str)
    }

    /// Ends all sinks as they are, without waiting for them.
    pub fn drop_sinks(&mut self) {
        for sink in std::mem::take(&mut self.sinks) {
            self.let_go(sink);
        }
    }

    /// The pipeline has ended: in order, so that everyone is done in a moment, or with a failure.
    pub async fn close(mut self, in_order: bool) {
        for source in std::mem::take(&mut self.sources) {
            if !in_order {
                source.task.abort();
            }
            source.close().await;
        }
        if in_order {
            for sink in &mut self.sinks {
                // A sink on a thread that was never told to close ends when nobody can tell it any more.
                sink.wait(CLOSING_MAX).await;
            }
        }
        self.drop_sinks();
    }
}

impl RunningSource {
    fn entrance(&self, goes_on: bool) -> Entrance {
        Entrance {
            id: self.id,
            acknowledgements: self.acknowledgements.clone(),
            ended: self.ended.load(Ordering::Relaxed),
            goes_on,
        }
    }
}

/// Starts a sink. One that writes to this machine's files and pipes gets a thread of its own: such writes block, and a
/// reader that has stopped reading, or a disk that is away, must not hold up the tasks of all others.
fn spawn_sink(
    sink: Box<dyn Sink>,
    lines: SinkLines,
    network: bool,
    goes: watch::Sender<bool>,
) -> Result<Option<AbortHandle>> {
    if network {
        let task = tokio::spawn(async move {
            sink_task::run(sink, lines).await;
            drop(goes);
        });
        return Ok(Some(task.abort_handle()));
    }
    let failed = |error: std::io::Error| Error::io("starting a sink's thread", &error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    std::thread::Builder::new()
        .name(format!("sink {}", lines.name))
        .spawn(move || {
            runtime.block_on(sink_task::run(sink, lines));
            drop(goes);
        })
        .map_err(failed)?;
    Ok(None)
}
