//! A receiver without a spool before it: each delivery is tried until it is taken or refused, and the pipeline waits.

use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tracing::{debug, info, warn};

use crate::core::{Attempt, Count, DeliveryId, Epoch, Parcel, Peer, Position, Refusal, Sink};
use crate::error::Result;
use crate::net::backoff::Backoff;

/// The first pause between two tries, as behind a spool.
const PAUSE: Duration = Duration::from_millis(200);

/// A sink that hands its deliveries to a peer, one after the other.
pub struct Retrying<P> {
    /// What the receiver is called in log lines.
    to: String,
    peer: P,
    /// The delivery written last.
    last: Option<DeliveryId>,
    refusals: u64,
    rows_refused: u64,
    rows_refused_untold: u64,
}

impl<P: Peer> Retrying<P> {
    /// Not open yet.
    pub fn new(to: String, peer: P) -> Self {
        Self { to, peer, last: None, refusals: 0, rows_refused: 0, rows_refused_untold: 0 }
    }

    fn refused(&mut self, refusal: &Refusal) {
        let rows = refusal.rows.len() as u64;
        self.refusals += 1;
        self.rows_refused += rows;
        self.rows_refused_untold += rows;
        // A receiver that refuses everything must not fill the disk with log lines.
        if self.refusals.is_power_of_two() {
            warn!(
                to = self.to,
                status = refusal.status,
                reason = refusal.reason,
                rows,
                refusals = self.refusals,
                rows_refused = self.rows_refused,
                "the receiver refuses rows for good; they are dropped"
            );
        }
    }

    async fn pause(&mut self, backoff: &mut Backoff, tries: u64, reason: &str, after: Option<Duration>) {
        let pause = after.unwrap_or_else(|| backoff.wait());
        let (to, pause_ms) = (&self.to, pause.as_millis());
        match tries {
            1 => warn!(to, reason, pause_ms, "the receiver is away; the pipeline waits"),
            _ => debug!(to, reason, pause_ms, tries, "the receiver is still away"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.peer.back(), if after.is_none() => {}
        }
    }
}

#[async_trait]
impl<P: Peer> Sink for Retrying<P> {
    fn take_counts(&mut self) -> Vec<(Count, u64)> {
        let rows = std::mem::take(&mut self.rows_refused_untold);
        if rows > 0 { vec![(Count { what: "refused_deliveries", reason: "" }, rows)] } else { Vec::new() }
    }

    async fn open(&mut self, _committed: Option<&Position>) -> Result<()> {
        // What was sent behind the committed position is sent again under the same names.
        self.peer.open().await
    }

    async fn write(&mut self, id: DeliveryId, batch: RecordBatch) -> Result<()> {
        let pause_max = self.peer.pause_max();
        let mut backoff = Backoff::new(PAUSE.min(pause_max), pause_max);
        let mut parcel = Parcel::new(id, batch);
        let (mut tries, mut settled) = (0u64, 0);
        loop {
            let attempt = self.peer.deliver(std::slice::from_mut(&mut parcel)).await?;
            for refusal in std::mem::take(&mut parcel.refused) {
                self.refused(&refusal);
            }
            let Attempt::Away { reason, after } = attempt else { break };
            if std::mem::replace(&mut settled, parcel.settled) < parcel.settled {
                backoff.reset();
                tries = 0;
            }
            tries += 1;
            self.pause(&mut backoff, tries, &reason, after).await;
        }
        if tries > 0 {
            info!(to = self.to, tries, "the receiver is back");
        }
        self.last = Some(parcel.id);
        Ok(())
    }

    async fn flush(&mut self, _epoch: Epoch) -> Result<Position> {
        // `write` returns when its rows are taken: nothing is under way here.
        Ok(Position(self.last.as_ref().map(ToString::to_string).unwrap_or_default()))
    }

    async fn committed(&mut self, _epoch: Epoch) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    /// Takes one row at a time, is away after each, and seems to be back at once.
    #[derive(Default)]
    struct Flickering {
        tries: usize,
    }

    #[async_trait]
    impl Peer for Flickering {
        async fn open(&mut self) -> Result<()> {
            Ok(())
        }

        async fn deliver(&mut self, parcels: &mut [Parcel]) -> Result<Attempt> {
            self.tries += 1;
            for parcel in parcels {
                let row = parcel.settled;
                parcel.settled += 1;
                if row % 2 == 1 {
                    let refusal = Refusal { rows: row..row + 1, status: None, reason: "odd".to_owned() };
                    parcel.refused.push(refusal);
                }
                if !parcel.is_settled() {
                    return Ok(Attempt::Away { reason: "no route".to_owned(), after: None });
                }
            }
            Ok(Attempt::Settled)
        }

        fn pause_max(&self) -> Duration {
            Duration::from_secs(3600)
        }

        async fn back(&mut self) {}
    }

    #[tokio::test]
    async fn a_delivery_goes_on_where_it_stopped_as_soon_as_the_receiver_is_back() {
        let mut sink = Retrying::new("there".to_owned(), Flickering::default());
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..20));
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let id = DeliveryId { origin: "box/p/cloud".into(), offset: 3, nth: 0 };
        tokio::time::timeout(Duration::from_secs(10), sink.write(id, batch)).await.unwrap().unwrap();
        assert_eq!(sink.peer.tries, 20);
        assert_eq!(sink.take_counts(), [(Count { what: "refused_deliveries", reason: "" }, 10)]);
        assert_eq!(sink.take_counts(), []);
        assert_eq!(sink.flush(Epoch(1)).await.unwrap().0, "box/p/cloud/3-0");
    }
}
