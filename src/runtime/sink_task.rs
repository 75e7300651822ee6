//! The task around one sink: deliveries in order, positions back at every barrier.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::spool::SpoolStatus;
use super::wire::{Delivery, Joining, Report, SinkOrder, report_failure};
use crate::core::{Count, Epoch, Position, Sink};
use crate::error::Result;

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
    /// The sink's name.
    pub name: String,
    /// The position committed last.
    pub committed: Option<Position>,
    /// Where it takes part first.
    pub place: Joining,
    /// From the coordinator, at most one per epoch under way, and from whoever changes the pipeline.
    pub orders: mpsc::UnboundedReceiver<SinkOrder>,
    /// What it has taken.
    pub counters: Arc<SinkCounters>,
    /// Whether it was told that nothing more comes.
    pub ended: Arc<AtomicBool>,
    /// Told when it is open, or why not.
    pub opened: oneshot::Sender<Result<()>>,
    /// The sink that had this name before: it must let go of what both may hold.
    pub before: Option<watch::Receiver<bool>>,
}

/// Runs a sink until it is told to close, fails, or nobody gives orders any more.
pub async fn run(mut sink: Box<dyn Sink>, mut lines: SinkLines) {
    if let Some(before) = &mut lines.before {
        // An error says that it is gone.
        let _ = before.wait_for(|gone| *gone).await;
    }
    let opened = sink.open(lines.committed.as_ref()).await.map_err(|error| error.at(&lines.name));
    let (told, _) = oneshot::channel();
    let _ = std::mem::replace(&mut lines.opened, told).send(opened.clone());
    let outcome = match opened {
        Ok(()) => drive(sink.as_mut(), &mut lines).await,
        Err(error) => Err(error),
    };
    report_failure(outcome, &lines.name, &lines.place.reports);
}

async fn drive(sink: &mut dyn Sink, lines: &mut SinkLines) -> Result<()> {
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
                Some(SinkOrder::Finish(epoch)) => return finish(sink, epoch, lines).await,
                Some(SinkOrder::Join(place)) => {
                    // Everything from the engine before was committed, or none of it counts.
                    lines.place = place;
                    writing = true;
                }
                None => {
                    sink.close().await;
                    return Ok(());
                }
            },
            delivery = lines.place.deliveries.recv(), if writing => match delivery {
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

/// The pipeline goes on without this sink.
async fn finish(sink: &mut dyn Sink, epoch: Epoch, lines: &SinkLines) -> Result<()> {
    if !lines.ended.swap(true, Ordering::Relaxed) {
        sink.end().await?;
    }
    sink.flush(epoch).await?;
    lines.counters.add(sink.take_counts());
    sink.committed(epoch).await?;
    sink.close().await;
    Ok(())
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
            let _ = lines.place.reports.send(Report::Flushed { sink: lines.place.sink, epoch, position });
            Ok(())
        }
        // A source that goes on from its end says it again.
        Delivery::End if lines.ended.swap(true, Ordering::Relaxed) => Ok(()),
        Delivery::End => sink.end().await,
    }
}
