//! The running part of the `simulate` source: the plant by the clock, or as fast as it goes; as columns, or as messages
//! to a broker. The plant is stepped on a thread for blocking work, and what a dropped `next` had begun the following
//! one finishes.

mod keys;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::arrivals::PlantPosition;
use super::config::PlantConfig;
use super::payloads::{Encoder, PayloadFormat};
use super::plant::Plant;
use crate::core::ends::SourceBatch;
use crate::core::{Position, Source};
use crate::error::{Error, Result};
use crate::net::publisher::{Message, Publisher, PublisherSettings};
use crate::registry::BatchLimits;

pub use keys::{FaultKeys, RandomFaultKeys, SimulateConfig, Speed};

/// How a simulated plant is run.
pub struct SimulateSettings {
    /// The plant.
    pub config: PlantConfig,
    /// Whether it starts at the time of the clock.
    pub start_now: bool,
    /// How fast event time goes.
    pub speed: Speed,
    /// Where messages go, if the readings are published.
    pub publish: Option<Publish>,
    /// Bounds of a batch.
    pub batch: BatchLimits,
}

/// Where and how readings are published.
#[derive(Clone)]
pub struct Publish {
    /// The connection.
    pub publisher: PublisherSettings,
    /// What messages look like.
    pub format: PayloadFormat,
}

type Stepping = JoinHandle<(Box<Plant>, Result<Option<RecordBatch>>)>;

/// The `simulate` source.
pub struct SimulateSource {
    settings: SimulateSettings,
    /// The plant, unless it is being stepped.
    plant: Option<Box<Plant>>,
    stepping: Option<Stepping>,
    /// The event time that was reached when the source was opened, and when that was.
    opened: (i64, Instant),
    outlet: Option<(Publisher, Encoder)>,
}

impl SimulateSource {
    /// Not open yet.
    pub fn new(settings: SimulateSettings) -> Self {
        Self { settings, plant: None, stepping: None, opened: (0, Instant::now()), outlet: None }
    }

    /// The event time of this moment.
    fn event_now(&self) -> i64 {
        let (at, since) = self.opened;
        match self.settings.speed {
            Speed::Max => i64::MAX,
            Speed::Times(speed) => at.saturating_add((since.elapsed().as_secs_f64() * speed * 1e6) as i64),
        }
    }

    /// When an event time comes, by the clock of this process.
    fn instant(&self, event_us: i64) -> Instant {
        let (at, since) = self.opened;
        match self.settings.speed {
            Speed::Max => since,
            Speed::Times(speed) => {
                let seconds = event_us.saturating_sub(at).max(0) as f64 / 1e6 / speed;
                // A century is far enough.
                since + Duration::from_secs_f64(seconds.min(3.2e9))
            }
        }
    }

    /// Waits until readings are due; false at the plant's end. Cancel-safe.
    async fn until_due(&mut self) -> Result<bool> {
        let Some(plant) = &mut self.plant else { return Ok(true) };
        let Some(due) = plant.next_due_us() else { return Ok(false) };
        if due > self.event_now() {
            // Others may become due while the first one waits, as in any batch.
            let at = self.instant(due) + self.settings.batch.age;
            tokio::time::sleep_until(tokio::time::Instant::from_std(at)).await;
        }
        Ok(true)
    }

    /// The readings that are due, at most a batch. Cancel-safe.
    async fn step(&mut self) -> Result<Option<SourceBatch>> {
        let until = self.event_now().saturating_add(1);
        if let Some(mut plant) = self.plant.take() {
            let rows = self.settings.batch.rows;
            self.stepping = Some(tokio::task::spawn_blocking(move || {
                let batch = plant.next_batch(rows, until);
                (plant, batch)
            }));
        }
        let Some(stepping) = &mut self.stepping else { return Err(not_open()) };
        let outcome = stepping.await;
        self.stepping = None;
        let (plant, batch) =
            outcome.map_err(|error| Error::data(format!("the simulated plant failed: {error}")))?;
        let position = Position(plant.position().to_string());
        self.plant = Some(plant);
        Ok(batch?.map(|batch| SourceBatch { batch, position }))
    }

    /// Publishes the readings that are due, as far as there is room. Cancel-safe: a reading is taken from the plant
    /// only when it can be put into the queue.
    async fn publish_due(&mut self) -> Result<()> {
        let until = self.event_now().saturating_add(1);
        loop {
            let Some((publisher, encoder)) = &self.outlet else { return Err(not_open()) };
            publisher.room().await;
            let Some(plant) = &mut self.plant else { return Err(not_open()) };
            let Some(reading) = plant.next(until) else { return Ok(()) };
            for message in 0..encoder.messages() {
                let mut payload = Vec::new();
                if encoder.append(&reading, message, &mut payload) {
                    publisher.push(Message {
                        topic: encoder.topic(reading.device, message).to_owned(),
                        payload: Bytes::from(payload),
                        qos: 1,
                        retain: false,
                        replayed: false,
                    });
                }
            }
        }
    }
}

fn not_open() -> Error {
    Error::data("the simulated plant is not open")
}

#[async_trait]
impl Source for SimulateSource {
    async fn open(&mut self, from: Option<&Position>) -> Result<()> {
        let config = &mut self.settings.config;
        let from = from.filter(|_| self.settings.publish.is_none());
        let (plant, reached) = match from {
            Some(position) => {
                let position: PlantPosition = position.0.parse()?;
                let reached = position.last.map_or(position.start_us(), |last| last.delivery_us);
                (Plant::resume(config, &position)?, reached)
            }
            None => {
                if self.settings.start_now {
                    config.start_us = crate::clock::wall().0;
                }
                (Plant::new(config)?, config.start_us)
            }
        };
        if let Some(publish) = &self.settings.publish {
            let encoder = Encoder::new(&plant, publish.format);
            self.outlet = Some((Publisher::start(&publish.publisher)?, encoder));
        }
        self.opened = (reached, Instant::now());
        self.plant = Some(Box::new(plant));
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<SourceBatch>> {
        loop {
            let more = self.until_due().await?;
            match &self.outlet {
                Some((publisher, _)) if !more => {
                    publisher.flush().await;
                    return Ok(None);
                }
                Some(_) => self.publish_due().await?,
                None if !more => return Ok(None),
                None => {
                    if let Some(rows) = self.step().await? {
                        return Ok(Some(rows));
                    }
                }
            }
        }
    }

    async fn acknowledge(&mut self, _upto: &Position) -> Result<()> {
        // Nobody waits for it.
        Ok(())
    }

    async fn close(&mut self) {
        self.outlet = None;
    }
}
