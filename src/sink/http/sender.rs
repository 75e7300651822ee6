//! The `http` sink without a spool: each delivery is tried until it is taken or refused; the pipeline waits.

use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tracing::{debug, info, warn};

use super::peer::{HttpPeer, HttpSettings};
use crate::core::{Attempt, Count, DeliveryId, Epoch, Parcel, Peer, Position, Refusal, Sink};
use crate::error::Result;
use crate::net::backoff::Backoff;

/// The `http` sink.
pub struct HttpSink {
    peer: HttpPeer,
    /// The delivery written last.
    last: Option<DeliveryId>,
    requests_refused: u64,
    rows_refused: u64,
    rows_refused_untold: u64,
}

impl HttpSink {
    /// Not open yet.
    pub fn new(settings: HttpSettings) -> Self {
        Self {
            peer: HttpPeer::new(settings),
            last: None,
            requests_refused: 0,
            rows_refused: 0,
            rows_refused_untold: 0,
        }
    }

    fn refused(&mut self, refusal: &Refusal) {
        let rows = refusal.rows.len() as u64;
        self.requests_refused += 1;
        self.rows_refused += rows;
        self.rows_refused_untold += rows;
        // A server that refuses everything must not fill the disk with log lines.
        if self.requests_refused.is_power_of_two() {
            warn!(
                url = self.peer.target(),
                status = refusal.status,
                answer = refusal.reason,
                rows,
                requests_refused = self.requests_refused,
                rows_refused = self.rows_refused,
                "the server refuses a request; its rows are dropped"
            );
        }
    }
}

#[async_trait]
impl Sink for HttpSink {
    fn take_counts(&mut self) -> Vec<(Count, u64)> {
        let rows = std::mem::take(&mut self.rows_refused_untold);
        if rows > 0 { vec![(Count { what: "refused_deliveries", reason: "" }, rows)] } else { Vec::new() }
    }

    async fn open(&mut self, _committed: Option<&Position>) -> Result<()> {
        // What was sent behind the committed position is sent again under the same keys.
        self.peer.open().await
    }

    async fn write(&mut self, id: DeliveryId, batch: RecordBatch) -> Result<()> {
        let least = Duration::from_millis(200).min(self.peer.pause_max());
        let mut backoff = Backoff::new(least, self.peer.pause_max());
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
            let pause = after.unwrap_or_else(|| backoff.wait());
            let (url, pause_ms) = (self.peer.target(), pause.as_millis());
            match tries {
                1 => warn!(url, reason, pause_ms, "a request failed; trying for ever"),
                _ => debug!(url, reason, pause_ms, tries, "a request failed again"),
            }
            tokio::time::sleep(pause).await;
        }
        if tries > 0 {
            info!(url = self.peer.target(), tries, "the server takes requests again");
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
