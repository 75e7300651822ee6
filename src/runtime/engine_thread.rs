//! The thread on which one engine runs. It waits only for its feed and, when a sink is full, for that sink.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::activity::{Activity, EngineDoes};
use super::suspects::Mark;
use super::valve::Valve;
use super::wire::{Delivery, Report, Stamped};
use crate::core::engine::NodeStats;
use crate::core::{DeliveryId, Effect, Engine, Event, ModelId, Record};
use crate::error::{Error, Result};

/// How often the counts are copied out while records keep coming.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);

/// What the engine has done, as last published.
#[derive(Debug, Clone, Default)]
pub struct EngineStats {
    /// Name and counts of every node, in graph order.
    pub nodes: Vec<(String, NodeStats)>,
    /// Watermark of every node, microseconds since 1970.
    pub watermarks: Vec<i64>,
    /// The model that each node runs, if it runs one.
    pub models: Vec<Option<ModelId>>,
    /// Longest single call so far.
    pub call_max: Duration,
    /// Offset of the last record handled.
    pub offset: u64,
}

/// What the engine thread is connected to.
pub struct EngineLines {
    /// Records, already safe where there is a journal.
    pub feed: mpsc::Receiver<Stamped>,
    /// One per sink, bounded; a full one stops the engine.
    pub sinks: Vec<mpsc::Sender<Delivery>>,
    /// `installation/pipeline/sink` of each sink.
    pub origins: Vec<Arc<str>>,
    /// To the coordinator.
    pub reports: mpsc::UnboundedSender<Report>,
    /// When the engine wants its next tick.
    pub deadline: watch::Sender<Option<Duration>>,
    /// The published counts.
    pub stats: Arc<Mutex<EngineStats>>,
    /// Through which deliveries go to the sinks.
    pub valve: Valve,
    /// Where the record is noted that is being handled, in case it ends the process.
    pub mark: Option<Mark>,
    /// Offsets of records that have failed too often: they are left out.
    pub skip: Vec<u64>,
    /// What this thread does.
    pub does: Arc<Activity>,
}

/// Starts the thread. It ends when its feed closes, a sink is gone, or the engine fails.
///
/// # Errors
/// If the system gives no thread.
pub fn spawn(engine: Engine, lines: EngineLines) -> Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || {
            // They close behind the report: whoever finds them closed finds the reason as well.
            let mut lines = lines;
            let mut handling = None;
            let outcome = catch_unwind(AssertUnwindSafe(|| drive(engine, &mut lines, &mut handling)));
            let error = match outcome {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(panic) => Error::data(format!("an operator panicked: {}", panic_text(panic.as_ref()))),
            };
            let _ = lines.reports.send(Report::Engine { offset: handling, error });
        })
        .map_err(|error| Error::io("starting the engine thread", &error))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

fn drive(mut engine: Engine, lines: &mut EngineLines, handling: &mut Option<u64>) -> Result<()> {
    let mut stats = EngineStats::default();
    let mut published = Instant::now();
    publish(&engine, &mut stats, lines);
    loop {
        let stamped = match lines.feed.try_recv() {
            Ok(stamped) => stamped,
            Err(mpsc::error::TryRecvError::Disconnected) => break,
            Err(mpsc::error::TryRecvError::Empty) => {
                publish(&engine, &mut stats, lines);
                lines.does.begin(EngineDoes::Idle.number());
                match lines.feed.blocking_recv() {
                    Some(stamped) => stamped,
                    None => break,
                }
            }
        };
        stats.offset = stamped.offset;
        let started = Instant::now();
        lines.does.begin_at(EngineDoes::Works.number(), started);
        let going = handle(&mut engine, stamped, lines, handling)?;
        stats.call_max = stats.call_max.max(started.elapsed());
        if !going {
            break;
        }
        if published.elapsed() >= PUBLISH_EVERY {
            publish(&engine, &mut stats, lines);
            published = Instant::now();
        }
    }
    publish(&engine, &mut stats, lines);
    Ok(())
}

/// One record and all its effects; false when a sink or the coordinator is gone.
fn handle(
    engine: &mut Engine,
    stamped: Stamped,
    lines: &mut EngineLines,
    handling: &mut Option<u64>,
) -> Result<bool> {
    let Stamped { offset, now, mut record, .. } = stamped;
    if lines.skip.contains(&offset) {
        match &mut record {
            // The cut itself must be made: sinks and epochs wait for it.
            Record::Barrier(barrier) => barrier.change = None,
            _ => return Ok(lines.reports.send(Report::Skipped { offset, record }).is_ok()),
        }
    }
    *handling = Some(offset);
    if let Some(mark) = &lines.mark {
        mark.enter(offset);
    }
    let outcome = engine.handle(now, record);
    if let Some(mark) = &lines.mark {
        mark.leave();
    }
    outcome?;
    *handling = None;
    let mut emitted = vec![0u32; lines.sinks.len()];
    while let Some(effect) = engine.poll() {
        let sent = match effect {
            Effect::Emit { sink, event } => {
                let delivery = match event {
                    Event::Batch(batch) => {
                        let nth = emitted[sink];
                        emitted[sink] += 1;
                        Delivery::Batch {
                            id: DeliveryId { origin: Arc::clone(&lines.origins[sink]), offset, nth },
                            batch,
                        }
                    }
                    Event::Barrier(barrier) => Delivery::Barrier(barrier.epoch),
                    Event::End => Delivery::End,
                };
                give(lines, sink, delivery)
            }
            Effect::Snapshot(snapshot) => lines.reports.send(Report::Snapshot(snapshot)).is_ok(),
            Effect::Rejected { epoch, node, error } => {
                lines.reports.send(Report::Rejected { epoch, node, error }).is_ok()
            }
        };
        if !sent {
            return Ok(false);
        }
    }
    let deadline = engine.deadline();
    lines.deadline.send_if_modified(|known| std::mem::replace(known, deadline) != deadline);
    Ok(true)
}

/// Hands a delivery over, waiting for a sink that is full; false when it is gone.
fn give(lines: &mut EngineLines, sink: usize, delivery: Delivery) -> bool {
    match lines.sinks[sink].try_send(delivery) {
        Ok(()) => true,
        Err(mpsc::error::TrySendError::Closed(_)) => false,
        Err(mpsc::error::TrySendError::Full(delivery)) => {
            lines.does.begin(EngineDoes::WaitsForSink(sink).number());
            let given = lines.valve.send(&lines.sinks[sink], delivery);
            lines.does.begin(EngineDoes::Works.number());
            given
        }
    }
}

fn publish(engine: &Engine, stats: &mut EngineStats, lines: &EngineLines) {
    stats.nodes.clear();
    stats.nodes.extend(engine.stats().map(|(name, counts)| (name.to_owned(), counts.clone())));
    stats.watermarks.clear();
    stats.watermarks.extend((0..stats.nodes.len()).map(|node| engine.watermark(node).micros()));
    stats.models.clear();
    stats.models.extend((0..stats.nodes.len()).map(|node| engine.model(node)));
    if let Ok(mut shared) = lines.stats.lock() {
        shared.clone_from(stats);
    }
}
