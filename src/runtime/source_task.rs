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
    // A batch that waits for room. A place is asked for only when there is something to put into it: one that a silent
    // source held would be missing to all others.
    let mut waiting: Option<Arrival> = None;
    loop {
        tokio::select! {
            biased;
            position = lines.acknowledgements.recv() => match position {
                Some(position) => source.acknowledge(&position).await?,
                None => return Ok(()),
            },
            place = lines.arrivals.reserve(), if waiting.is_some() => {
                // Nobody listens any more.
                let Ok(place) = place else { return Ok(()) };
                let Some(arrival) = waiting.take() else { continue };
                let end = matches!(arrival, Arrival::End { .. });
                place.send(arrival);
                if end {
                    break;
                }
            }
            next = source.next(), if waiting.is_none() => {
                let next = next?;
                lines.counters.add(source.take_counts());
                waiting = Some(match next {
                    None => {
                        lines.ended.store(true, Ordering::Relaxed);
                        Arrival::End { source: lines.id }
                    }
                    Some(rows) => {
                        lines.counters.rows(&rows.batch);
                        Arrival::Batch { source: lines.id, batch: rows.batch, position: rows.position }
                    }
                });
            }
        }
    }
    // Ended; what is still unacknowledged may become safe later.
    while let Some(position) = lines.acknowledgements.recv().await {
        source.acknowledge(&position).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::array::RecordBatch;
    use arrow::datatypes::Schema;
    use async_trait::async_trait;

    use super::*;
    use crate::core::ends::SourceBatch;

    /// Gives this many batches and is silent then.
    struct Given(usize);

    #[async_trait]
    impl Source for Given {
        async fn open(&mut self, _from: Option<&Position>) -> Result<()> {
            Ok(())
        }

        async fn next(&mut self) -> Result<Option<SourceBatch>> {
            match self.0.checked_sub(1) {
                None => std::future::pending().await,
                Some(left) => {
                    self.0 = left;
                    let batch = RecordBatch::new_empty(Arc::new(Schema::empty()));
                    Ok(Some(SourceBatch { batch, position: Position(left.to_string()) }))
                }
            }
        }

        async fn acknowledge(&mut self, _upto: &Position) -> Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn silent_sources_take_no_room_from_others_and_what_waits_is_bounded() {
        let (arrivals, mut arrivals_in) = mpsc::channel(2);
        let (failures, _failures) = mpsc::unbounded_channel();
        let mut acknowledgements = Vec::new();
        for (id, count) in [(1, 0), (2, 0), (3, 0), (4, 9)] {
            let (acknowledged, acknowledged_in) = mpsc::unbounded_channel();
            acknowledgements.push(acknowledged);
            let lines = SourceLines {
                id,
                name: "a".to_owned(),
                from: None,
                opened: oneshot::channel().0,
                arrivals: arrivals.clone(),
                acknowledgements: acknowledged_in,
                counters: Arc::default(),
                ended: Arc::default(),
                failures: failures.clone(),
            };
            tokio::spawn(run(Box::new(Given(count)), lines));
        }
        for left in (0..9).rev() {
            let next = tokio::time::timeout(Duration::from_secs(5), arrivals_in.recv()).await.unwrap();
            let Some(Arrival::Batch { source: 4, position, .. }) = next else { panic!("{next:?}") };
            assert_eq!(position.0, left.to_string());
        }
    }
}
