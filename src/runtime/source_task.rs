//! The task around one source: rows to the coordinator, acknowledgements back. It outlives engines: a reload that
//! leaves the source as it is does not touch it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::metrics::SourceCounters;
use super::wire::{Arrival, SourceId};
use crate::core::{Position, Source};
use crate::error::{Error, Result};

/// What a source task needs besides its source.
pub struct SourceLines {
    /// Its number.
    pub id: SourceId,
    /// The source's name.
    pub name: String,
    /// Where to go on.
    pub from: Option<Position>,
    /// Told when it is open, or why not.
    pub opened: oneshot::Sender<Result<()>>,
    /// To the coordinator; bounded, so that a full pipeline stops the source.
    pub arrivals: mpsc::Sender<Arrival>,
    /// Positions that are safe. Only the newest matters, and there is at most one per sync or commit.
    pub acknowledgements: mpsc::UnboundedReceiver<Position>,
    /// Where what it gives and counts goes.
    pub counters: Arc<SourceCounters>,
    /// Whether it has said its end.
    pub ended: Arc<AtomicBool>,
    /// For failures.
    pub failures: mpsc::UnboundedSender<(SourceId, Error)>,
}

/// Runs a source until it ends, fails, or nobody acknowledges any more; gives it back closed.
pub async fn run(mut source: Box<dyn Source>, mut lines: SourceLines) -> Box<dyn Source> {
    let opened = source.open(lines.from.as_ref()).await.map_err(|error| error.at(&lines.name));
    let (told, _) = oneshot::channel();
    let _ = std::mem::replace(&mut lines.opened, told).send(opened.clone());
    let outcome = match opened {
        Ok(()) => drive(source.as_mut(), &mut lines).await.map_err(|error| error.at(&lines.name)),
        Err(error) => Err(error),
    };
    source.close().await;
    if let Err(error) = outcome {
        // The coordinator may be gone already, and then nobody waits for it.
        let _ = lines.failures.send((lines.id, error));
    }
    source
}

async fn drive(source: &mut dyn Source, lines: &mut SourceLines) -> Result<()> {
    loop {
        tokio::select! {
            biased;
            position = lines.acknowledgements.recv() => match position {
                Some(position) => source.acknowledge(&position).await?,
                None => return Ok(()),
            },
            next = reserve_and_next(source, &lines.arrivals) => {
                let Some((permit, next)) = next? else { return Ok(()) };
                lines.counters.add(source.take_counts());
                let Some(rows) = next else {
                    lines.ended.store(true, Ordering::Relaxed);
                    permit.send(Arrival::End { source: lines.id });
                    break;
                };
                lines.counters.rows(&rows.batch);
                let (batch, position) = (rows.batch, rows.position);
                permit.send(Arrival::Batch { source: lines.id, batch, position });
            }
        }
    }
    // Ended; what is still unacknowledged may become safe later.
    while let Some(position) = lines.acknowledgements.recv().await {
        source.acknowledge(&position).await?;
    }
    Ok(())
}

type Next<'a> = (mpsc::Permit<'a, Arrival>, Option<crate::core::ends::SourceBatch>);

/// First a place in the channel, then rows: a source is only asked for what can be passed on.
async fn reserve_and_next<'a>(
    source: &mut dyn Source,
    arrivals: &'a mpsc::Sender<Arrival>,
) -> Result<Option<Next<'a>>> {
    match arrivals.reserve().await {
        Ok(permit) => Ok(Some((permit, source.next().await?))),
        Err(_) => Ok(None),
    }
}
