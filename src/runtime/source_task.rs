//! The task around one source: rows to the coordinator, acknowledgements back.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::metrics::PipelineMetrics;
use super::wire::{Arrival, Report, report_failure};
use crate::core::{Position, Source};
use crate::error::Result;

/// What a source task needs besides its source.
pub struct SourceLines {
    /// Which input of the graph.
    pub input: usize,
    /// The source's name.
    pub name: String,
    /// Where to go on.
    pub from: Option<Position>,
    /// To the coordinator; bounded, so that a full pipeline stops the source.
    pub arrivals: mpsc::Sender<Arrival>,
    /// Positions that are safe. Only the newest matters, and there is at most one per sync or commit.
    pub acknowledgements: mpsc::UnboundedReceiver<Position>,
    /// Where what the source counts goes.
    pub metrics: Arc<PipelineMetrics>,
    /// For failures.
    pub reports: mpsc::UnboundedSender<Report>,
}

/// Runs a source until it ends, fails, or nobody listens any more.
pub async fn run(mut source: Box<dyn Source>, mut lines: SourceLines) {
    let outcome = drive(source.as_mut(), &mut lines).await;
    source.close().await;
    report_failure(outcome, &lines.name, &lines.reports);
}

async fn drive(source: &mut dyn Source, lines: &mut SourceLines) -> Result<()> {
    source.open(lines.from.as_ref()).await?;
    loop {
        tokio::select! {
            biased;
            position = lines.acknowledgements.recv() => match position {
                Some(position) => source.acknowledge(&position).await?,
                None => return Ok(()),
            },
            next = reserve_and_next(source, &lines.arrivals) => {
                let Some((permit, next)) = next? else { return Ok(()) };
                lines.metrics.source_counts(lines.input, source.take_counts());
                let Some(rows) = next else {
                    permit.send(Arrival::End { input: lines.input });
                    break;
                };
                permit.send(Arrival::Batch { input: lines.input, batch: rows.batch, position: rows.position });
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
