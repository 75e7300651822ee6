//! Runs one engine after the other for one pipeline: the first, one with another graph after a reload, one more like it
//! after a failure. Sources and sinks go on meanwhile wherever that is right.
//!
//! There is one way to begin, from a checkpoint and what the log holds behind it, and a reload uses it as well: the old
//! engine makes a cut, nothing follows that cut until it is committed, and then the new graph begins from it like a
//! process that is started. So a crash at any moment of a reload is a crash before or after a start, and needs no
//! code of its own.

mod begin;
mod change;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::coordinator::{Coordinator, Doors, Outcome, Request};
use super::durable::DataDir;
use super::ends::{Ends, Handover, Opened, Reopen};
use super::metrics::PipelineMetrics;
use super::models::Models;
use super::reload::{Current, Rebuild};
use super::served::Served;
use super::spool::Letters;
use super::suspects::Suspects;
use super::valve::Caller;
use super::wire::{Report, SinkOrder, Stamped};
use crate::clock::Clock;
use crate::config::{self, Pipeline, PlannedSource};
use crate::core::{Engine, ModelSlot, Restored};
use crate::error::{Error, Result};
use crate::net::backoff::Backoff;
use crate::store::journal::Replayed;
use crate::store::recovery::Recovered;

/// Waits before an engine that has failed is built again.
const RESTART_AFTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// One pipeline's engines.
pub(super) struct Supervisor {
    name: String,
    data: Option<DataDir>,
    installation: String,
    /// Where dead letters go, if anywhere; their room is that of the start.
    letters: Option<Letters>,
    rebuild: Option<Rebuild>,
    doors: Doors,
    requests: mpsc::Sender<Request>,
    ends: Ends,
    clock: Option<Clock>,
    served: Served,
    current: Arc<Current>,
    suspects: Suspects,
    generation: u64,
    followers: Vec<JoinHandle<()>>,
    backoff: Backoff,
    /// Engines in a row that have failed before anything was committed.
    failures: u32,
    /// Requests that no engine has heard yet.
    unheard: VecDeque<Request>,
}

/// A graph that can be run, and where it goes on.
struct Ready {
    engine: Engine,
    restored: Vec<(String, Restored)>,
    recovered: Recovered,
}

/// One engine with its threads.
pub(super) struct Run {
    engine: std::thread::JoinHandle<()>,
    journal: Option<std::thread::JoinHandle<bool>>,
    caller: Caller,
    replayed: Replaying,
    reports: Option<mpsc::UnboundedReceiver<Report>>,
    feed: Option<mpsc::Sender<Stamped>>,
    removals: Option<mpsc::UnboundedSender<u64>>,
    deadline: watch::Receiver<Option<Duration>>,
    orders: Vec<mpsc::UnboundedSender<SinkOrder>>,
    sources: Vec<PlannedSource>,
    reopen: Reopen,
    sink_names: Vec<String>,
    metrics: Arc<PipelineMetrics>,
    models: Arc<Models>,
    slots: BTreeMap<String, ModelSlot>,
    settings: config::Settings,
    has_log: bool,
    log_bytes_max: u64,
    coordinator: Option<Coordinator>,
    /// What is being opened for it.
    opened: Vec<Opened>,
}

enum Replaying {
    Done(Box<Replayed>),
    FromLog(oneshot::Receiver<Replayed>),
}

/// The channels that outlive engines.
pub(super) struct Channels {
    pub doors: Doors,
    pub requests: mpsc::Sender<Request>,
    pub ends: Ends,
}

impl Supervisor {
    /// Ready to begin.
    ///
    /// # Errors
    /// If the data directory cannot be read.
    pub fn new(
        pipeline: &Pipeline,
        mut data: Option<DataDir>,
        rebuild: Option<Rebuild>,
        channels: Channels,
        served: Served,
    ) -> Result<Self> {
        let installation = match &data {
            Some(data) => data.installation().to_owned(),
            None => uuid::Uuid::new_v4().to_string(),
        };
        let room = pipeline.settings.dead_letters_bytes();
        let letters = match data.as_ref().filter(|_| room > 0) {
            Some(data) => Some(Letters::open(data.store(), room)?),
            None => None,
        };
        let suspects = match &mut data {
            Some(data) => Suspects::load(data)?,
            None => Suspects::default(),
        };
        Ok(Self {
            name: pipeline.settings.name.clone(),
            data,
            installation,
            letters,
            rebuild,
            doors: channels.doors,
            requests: channels.requests,
            ends: channels.ends,
            clock: None,
            current: Arc::clone(served.current()),
            served,
            suspects,
            generation: 0,
            followers: Vec::new(),
            backoff: Backoff::new(RESTART_AFTER.0, RESTART_AFTER.1),
            failures: 0,
            unheard: VecDeque::new(),
        })
    }

    /// What the data directory holds.
    fn recover(&mut self) -> Result<Recovered> {
        match &mut self.data {
            Some(data) => data.recover(),
            None => Ok(Recovered::default()),
        }
    }

    /// Builds the first engine.
    ///
    /// # Errors
    /// If the data directory holds state that cannot be loaded, or the system gives no threads.
    pub async fn first(&mut self, mut pipeline: Pipeline) -> Result<Run> {
        let recovered = self.recover()?;
        let ready = begin::ready(&mut pipeline, recovered)?;
        self.begin(pipeline, ready, Handover::FromCheckpoint, Reopen::None).await
    }

    /// Runs until the pipeline has stopped, or cannot go on.
    ///
    /// # Errors
    /// The failure of whichever part cannot go on.
    pub async fn run(mut self, first: Run) -> Result<()> {
        let outcome = self.engines(first).await;
        self.served.ready.store(false, Ordering::Relaxed);
        self.followers.iter().for_each(JoinHandle::abort);
        self.ends.close(outcome.is_ok()).await;
        // The directory's lock goes with the last handle.
        drop(self.data);
        outcome
    }

    async fn engines(&mut self, mut run: Run) -> Result<()> {
        loop {
            let outcome = self.live(&mut run).await;
            if run.coordinator.as_ref().is_some_and(|coordinator| coordinator.committed_offset().is_some()) {
                self.failures = 0;
                self.backoff.reset();
            }
            run = match outcome {
                Ok(Outcome::Stopped) => {
                    self.served.ready.store(false, Ordering::Relaxed);
                    self.wind_down(run, true).await?;
                    return Ok(());
                }
                Ok(Outcome::Reload { replacement, commit }) => self.reload(run, *replacement, commit).await?,
                Ok(Outcome::EngineFailed { offset, error }) => self.restart(run, offset, error).await?,
                Err(error) => {
                    self.ends.drop_sinks();
                    let _ = self.wind_down(run, false).await;
                    return Err(error);
                }
            };
        }
    }

    /// Lets an engine run until something else must happen.
    async fn live(&mut self, run: &mut Run) -> Result<Outcome> {
        if run.coordinator.is_none()
            && let Some(outcome) = self.enter(run).await?
        {
            return Ok(outcome);
        }
        let Some(coordinator) = &mut run.coordinator else {
            return Err(Error::data("the engine has not begun"));
        };
        for request in self.unheard.drain(..) {
            coordinator.request(request);
        }
        self.served.ready.store(true, Ordering::Relaxed);
        coordinator.run(&mut self.doors).await
    }
}
