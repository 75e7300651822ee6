//! The broker of the `mqtt` sink, for a spool that stands before it: messages of several deliveries under way at once, and
//! what became of each.

use std::collections::VecDeque;

use async_trait::async_trait;

use super::writer::{MqttSettings, Payloads};
use crate::codec::text_ndjson::NdjsonWriter;
use crate::core::{Attempt, Parcel, Peer, Refusal};
use crate::error::{Error, Result};
use crate::net::publisher::{Message, Progress, Publisher};

/// An MQTT broker.
pub struct MqttPeer {
    settings: MqttSettings,
    publisher: Option<Publisher>,
    json: NdjsonWriter,
}

impl MqttPeer {
    /// Not connected yet.
    pub fn new(settings: MqttSettings) -> Self {
        Self { settings, publisher: None, json: NdjsonWriter::new() }
    }
}

/// Messages under way, in order: number, delivery, row.
type UnderWay = VecDeque<(u64, usize, usize)>;

/// Takes in how things stand: what is settled, and what was refused.
fn note(progress: &Progress, under_way: &mut UnderWay, parcels: &mut [Parcel]) {
    for (number, reason) in &progress.refusals {
        let known = under_way.binary_search_by_key(number, |(number, ..)| *number);
        if let Some((_, parcel, row)) = known.ok().and_then(|at| under_way.get(at).copied())
            && let Some(parcel) = parcels.get_mut(parcel)
        {
            parcel.refused.push(Refusal { rows: row..row + 1, status: None, reason: reason.clone() });
        }
    }
    while let Some((_, parcel, row)) = under_way.pop_front_if(|(number, ..)| *number < progress.oldest) {
        if let Some(parcel) = parcels.get_mut(parcel) {
            parcel.settled = row + 1;
        }
    }
}

#[async_trait]
impl Peer for MqttPeer {
    async fn open(&mut self) -> Result<()> {
        let publisher = Publisher::start(&self.settings.publisher)?;
        publisher.keep_refusals();
        self.publisher = Some(publisher);
        Ok(())
    }

    async fn deliver(&mut self, parcels: &mut [Parcel]) -> Result<Attempt> {
        let Some(publisher) = &self.publisher else { return Err(Error::data("the sink is not open")) };
        let mut under_way = UnderWay::new();
        let first = publisher.next();
        for index in 0..parcels.len() {
            let Some(Parcel { rows, replayed, settled, .. }) = parcels.get(index).cloned() else { break };
            let mut topics = self.settings.topic.over(&rows)?;
            let mut payloads = Payloads::over(&self.settings.payload, &mut self.json, &rows)?;
            for row in settled..rows.num_rows() {
                let Some(payload) = payloads.of(row) else { continue };
                let (qos, retain) = (self.settings.qos, self.settings.retain);
                // Room comes when older messages are settled, so nothing need be known to wait for it.
                while !publisher.has_room() {
                    let oldest = under_way.front().map_or(first, |(number, ..)| *number);
                    if let Some(away) = wait(publisher, oldest, &mut under_way, parcels).await {
                        return Ok(away);
                    }
                }
                under_way.push_back((publisher.next(), index, row));
                publisher.push(Message { topic: topics.topic(row), payload, qos, retain, replayed });
            }
        }
        while let Some(oldest) = under_way.front().map(|(number, ..)| *number) {
            if let Some(away) = wait(publisher, oldest, &mut under_way, parcels).await {
                return Ok(away);
            }
        }
        // Rows without a message are settled with the others.
        parcels.iter_mut().for_each(|parcel| parcel.settled = parcel.rows.num_rows());
        Ok(Attempt::Settled)
    }

    async fn back(&mut self) {
        match &self.publisher {
            Some(publisher) => publisher.connected().await,
            None => std::future::pending().await,
        }
    }
}

/// Waits until the message `oldest` is settled, or the broker is away: then everything is taken back.
async fn wait(
    publisher: &Publisher,
    oldest: u64,
    under_way: &mut UnderWay,
    parcels: &mut [Parcel],
) -> Option<Attempt> {
    let progress = publisher.progress(oldest, oldest + 1).await;
    note(&progress, under_way, parcels);
    let reason = progress.away?;
    if !publisher.withdraw() {
        return None;
    }
    // A message that was refused before those in front of it were settled goes again with them.
    for parcel in parcels {
        let settled = parcel.settled;
        parcel.refused.retain(|refusal| refusal.rows.start < settled);
    }
    Some(Attempt::Away { reason, after: None })
}
