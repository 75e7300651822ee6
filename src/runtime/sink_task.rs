//! The task around one sink: deliveries in order, positions back at every barrier.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::spool::SpoolStatus;
use super::wire::{Delivery, Report, SinkOrder, report_failure};
use crate::core::{Count, Position, Sink};
use crate::error::{Error, Result};

/// How long rows may stay in a sink's buffer, where a reader of a file does not see them.
const SHOW_AFTER: Duration = Duration::from_millis(10);

/// What a sink has taken so far.
#[derive(Debug, Default)]
pub struct SinkCounters {
    /// Rows written.
    pub rows: AtomicU64,
    /// Batches written.
    pub batches: AtomicU64,
    /// What the sink itself counts.
    pub others: Mutex<BTreeMap<Count, u64>>,
    /// The spool before it and its receiver, where there is one.
    pub spool: Mutex<Option<SpoolStatus>>,
}

impl SinkCounters {
    /// Adds what was counted.
    pub fn add(&self, counts: Vec<(Count, u64)>) {
        if let (false, Ok(mut others)) = (counts.is_empty(), self.others.lock()) {
            counts.into_iter().for_each(|(count, by)| *others.entry(count).or_default() += by);
        }
    }
}

/// What a sink task needs besides its sink.
pub struct SinkLines {
    /// Which sink of the graph.
    pub sink: usize,
    /// The sink's name.
    pub name: String,
    /// The position committed last.
    pub committed: Option<Position>,
    /// From the engine; bounded.
    pub deliveries: mpsc::Receiver<Delivery>,
    /// From the coordinator; at most one per epoch under way.
    pub orders: mpsc::UnboundedReceiver<SinkOrder>,
    /// To the coordinator.
    pub reports: mpsc::UnboundedSender<Report>,
    /// What it has taken.
    pub counters: Arc<SinkCounters>,
}

/// Starts a sink. One that talks to a peer waits as a task among others. Any other is held up by the system itself, in a
/// write to a pipe that nobody reads or to a file system that hangs, and has a thread of its own for that: nothing
/// else stands still with it. The task ends with the sink.
///
/// # Errors
/// If the system gives no thread.
pub fn spawn(sink: Box<dyn Sink>, network: bool, lines: SinkLines) -> Result<JoinHandle<()>> {
    if network {
        return Ok(tokio::spawn(run(sink, lines)));
    }
    let runtime = Handle::current();
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new()
        .name("sink".to_owned())
        .spawn(move || {
            runtime.block_on(run(sink, lines));
            let _ = ended.send(());
        })
        .map_err(|error| Error::io("starting a sink's thread", &error))?;
    Ok(tokio::spawn(async move {
        let _ = end.await;
    }))
}

/// Runs a sink until it is told to close, fails, or nobody writes any more.
pub async fn run(mut sink: Box<dyn Sink>, mut lines: SinkLines) {
    let outcome = drive(sink.as_mut(), &mut lines).await;
    report_failure(outcome, &lines.name, &lines.reports);
}

async fn drive(sink: &mut dyn Sink, lines: &mut SinkLines) -> Result<()> {
    sink.open(lines.committed.as_ref()).await?;
    let mut writing = true;
    // When what was written must show.
    let mut show_at: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            order = lines.orders.recv() => match order {
                Some(SinkOrder::Committed(epoch)) => sink.committed(epoch).await?,
                Some(SinkOrder::Close(epoch)) => {
                    sink.committed(epoch).await?;
                    sink.close().await;
                    return Ok(());
                }
                None => return Ok(()),
            },
            delivery = lines.deliveries.recv(), if writing => match delivery {
                Some(delivery) => {
                    if let Delivery::Batch { .. } = &delivery {
                        show_at.get_or_insert_with(|| Instant::now() + SHOW_AFTER);
                    }
                    deliver(sink, delivery, lines).await?;
                }
                None => writing = false,
            },
            () = until(show_at), if show_at.is_some() => {
                show_at = None;
                sink.show().await?;
            }
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn deliver(sink: &mut dyn Sink, delivery: Delivery, lines: &SinkLines) -> Result<()> {
    match delivery {
        Delivery::Batch { id, batch } => {
            let rows = batch.num_rows() as u64;
            sink.write(id, batch).await?;
            lines.counters.rows.fetch_add(rows, Ordering::Relaxed);
            lines.counters.batches.fetch_add(1, Ordering::Relaxed);
            lines.counters.add(sink.take_counts());
            Ok(())
        }
        Delivery::Barrier(epoch) => {
            let position = sink.flush(epoch).await?;
            lines.counters.add(sink.take_counts());
            let _ = lines.reports.send(Report::Flushed { sink: lines.sink, epoch, position });
            Ok(())
        }
        Delivery::End => sink.end().await,
    }
}
