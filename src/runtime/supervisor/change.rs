//! How one engine takes another's place: after a reload, after a failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::{error, warn};

use super::begin::ready;
use super::{Run, Supervisor};
use crate::core::{Commit, Restored};
use crate::error::{Error, Kind, Result};
use crate::runtime::coordinator::Outcome;
use crate::runtime::ends::{CLOSING_MAX, Handover, Reopen};
use crate::runtime::reload::{Reloaded, Replacement};
use crate::runtime::suspects::{FAILURES_MAX, Suspects};
use crate::store::recovery::Recovered;

/// A restart waits so long for everything of the engine before it to be written.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);

impl Supervisor {
    /// Puts another graph in the place of one that stands still at a cut, or has to be given up.
    pub(super) async fn reload(
        &mut self,
        mut run: Run,
        replacement: Replacement,
        commit: Option<Commit>,
    ) -> Result<Run> {
        let Replacement { mut pipeline, rebuild, answer } = replacement;
        let epoch = commit.as_ref().map(|commit| commit.epoch);
        let from_checkpoint = commit.is_none();
        // While the old engine is still there, the new one is built on what it will begin from.
        let tried = match commit {
            Some(commit) => self.base(&run, commit),
            None => self.recover(),
        };
        let ready = match tried.and_then(|recovered| ready(&mut pipeline, recovered)) {
            Ok(ready) => ready,
            Err(error) => {
                let _ = answer.send(Err(error));
                return Ok(self.go_on(run));
            }
        };
        let (handover, reopen) = match epoch {
            Some(epoch) => (Handover::AtCut(epoch), Reopen::None),
            None => {
                self.ends.drop_sinks();
                let complete = self.give_up(&mut run).await;
                (Handover::FromCheckpoint, self.reopen(&run, complete))
            }
        };
        // From here on there is a way back only by starting the old graph again.
        let patience = run.settings.stop_timeout.0;
        let complete = self.wind_down(run, epoch.is_some()).await?;
        let reopen = if complete { reopen } else { Reopen::All };
        let recovered = ready.recovered.clone();
        let restored = ready.restored.clone();
        let began = match self.begin(pipeline, ready, handover, reopen).await {
            Ok(mut run) => match self.enter_and_open(&mut run, handover, patience).await {
                Ok(()) => Ok(run),
                Err(error) => {
                    self.ends.drop_sinks();
                    let _ = self.wind_down(run, false).await;
                    Err(error)
                }
            },
            Err(error) => Err(error),
        };
        match began {
            Ok(run) => {
                self.rebuild = rebuild;
                let named = |wanted: fn(&Restored) -> bool| {
                    let nodes = restored.iter().filter(|(_, outcome)| wanted(outcome));
                    nodes.map(|(name, _)| name.clone()).collect()
                };
                let reloaded = Reloaded {
                    epoch: epoch.unwrap_or(recovered.epoch),
                    kept: named(|outcome| *outcome == Restored::Loaded),
                    fresh: named(|outcome| *outcome != Restored::Loaded),
                    from_checkpoint,
                };
                let _ = answer.send(Ok(reloaded));
                Ok(run)
            }
            Err(error) => {
                let reason = error.to_string();
                let _ = answer.send(Err(error));
                self.back(recovered, &reason).await
            }
        }
    }

    /// The graph before goes on at the same cut.
    async fn back(&mut self, recovered: Recovered, reason: &str) -> Result<Run> {
        warn!(reason, "the new graph cannot run; the one before is started again");
        let Some(rebuild) = self.rebuild.clone() else {
            return Err(Error::config(format!(
                "the new graph cannot run, and the one before is gone: {reason}"
            )));
        };
        let mut pipeline = rebuild()?;
        let ready = ready(&mut pipeline, recovered)?;
        let reopen = if pipeline.has_log() && self.data.is_some() { Reopen::None } else { Reopen::All };
        self.begin(pipeline, ready, Handover::FromCheckpoint, reopen).await
    }

    fn go_on(&mut self, mut run: Run) -> Run {
        if let Some(coordinator) = &mut run.coordinator {
            coordinator.release();
        }
        run
    }

    /// What a cut that was committed left to begin from: what a start would find.
    fn base(&mut self, run: &Run, commit: Commit) -> Result<Recovered> {
        if self.data.is_some() {
            let recovered = self.recover()?;
            return if recovered.epoch == commit.epoch {
                Ok(recovered)
            } else {
                Err(Error::state(format!("the checkpoint of epoch {} cannot be read back", commit.epoch)))
            };
        }
        let names = |names: Vec<String>| names.into_iter();
        let sources = names(run.metrics.source_names().to_vec()).zip(commit.sources);
        Ok(Recovered {
            epoch: commit.epoch,
            log_offset: commit.offset,
            needed_from: commit.offset,
            sources: sources.filter_map(|(name, position)| Some((name, position?))).collect(),
            sinks: names(run.sink_names.clone()).zip(commit.sinks).collect(),
            snapshot: Some(commit.snapshot),
            passed_over: Vec::new(),
        })
    }

    /// Takes part in the pipeline with a new engine and waits until all that is new is open.
    async fn enter_and_open(&mut self, run: &mut Run, handover: Handover, patience: Duration) -> Result<()> {
        // Behind a cut nothing is replayed; a log that is may wait for its sinks for long.
        if handover != Handover::FromCheckpoint {
            let entered = tokio::time::timeout(patience, self.enter(run)).await;
            match entered {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(Outcome::EngineFailed { error, .. }))) => return Err(error),
                Ok(Ok(Some(_))) => return Err(Error::data("the engine has stopped at once")),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(Error::new(Kind::Unavailable, "the log is not replayed in time")),
            }
        }
        let all = async {
            for opened in run.opened.drain(..) {
                if let Ok(outcome) = opened.await {
                    outcome?;
                }
            }
            Ok(())
        };
        // What is not open by then is still waiting for its peer.
        tokio::time::timeout(patience, all).await.unwrap_or(Ok(()))
    }

    /// The engine has failed: it is built again from the last checkpoint, and gets what the log holds behind it.
    pub(super) async fn restart(&mut self, mut run: Run, offset: Option<u64>, error: Error) -> Result<Run> {
        self.served.ready.store(false, Ordering::Relaxed);
        self.failures += 1;
        let in_log = offset.filter(|_| run.has_log);
        let failures = match in_log {
            Some(offset) => self.suspects.failed(offset, &error.message, self.data.as_mut())?,
            None => self.failures,
        };
        let Some(rebuild) = self.rebuild.clone().filter(|_| self.data.is_some()) else {
            self.ends.drop_sinks();
            let _ = self.wind_down(run, false).await;
            return Err(error);
        };
        // A cut cannot be left out, and without a log the record is not there to be left out.
        let hopeless = if in_log.is_some() { failures > FAILURES_MAX } else { failures >= FAILURES_MAX };
        if hopeless {
            self.ends.drop_sinks();
            let _ = self.wind_down(run, false).await;
            return Err(error);
        }
        let wait = self.backoff.wait();
        error!(
            %error,
            offset = in_log,
            failures,
            wait_ms = wait.as_millis() as u64,
            "the engine has failed; it is built again from the last checkpoint"
        );
        self.served.metrics().control.restarting(&error.to_string());
        self.ends.drop_sinks();
        let complete = self.give_up(&mut run).await;
        let reopen = self.reopen(&run, complete);
        let complete = self.wind_down(run, false).await?;
        let reopen = if complete { reopen } else { Reopen::All };
        tokio::time::sleep(wait).await;
        let recovered = self.recover()?;
        if run_is_past(&self.suspects, recovered.log_offset) {
            self.suspects.forget_before(recovered.log_offset, self.data.as_mut())?;
        }
        let mut pipeline = rebuild()?;
        let ready = ready(&mut pipeline, recovered)?;
        self.begin(pipeline, ready, Handover::FromCheckpoint, reopen).await
    }

    /// Takes from a coordinator what the next one must know; whether all that it was given is on its way to the log.
    async fn give_up(&mut self, run: &mut Run) -> bool {
        run.caller.call_off();
        let Some(mut coordinator) = run.coordinator.take() else { return true };
        self.unheard.extend(coordinator.unheard());
        let given = tokio::time::timeout(HAND_OVER_MAX, coordinator.hand_over(run.has_log)).await;
        given.unwrap_or(false)
    }

    /// What must be opened anew where not all that sources have given is in the log.
    fn reopen(&self, run: &Run, complete: bool) -> Reopen {
        match (run.has_log, &self.data) {
            (true, _) if complete => Reopen::None,
            (_, Some(_)) => Reopen::All,
            (_, None) => {
                warn!("there is no data directory: state, and rows that were under way, are lost");
                Reopen::Acknowledging
            }
        }
    }

    /// Ends an engine and what stands before it; whether the log has all that it was given.
    pub(super) async fn wind_down(&mut self, mut run: Run, in_order: bool) -> Result<bool> {
        if !in_order {
            run.caller.call_off();
        }
        let patience = run.settings.stop_timeout.0.max(CLOSING_MAX);
        if let Some(mut coordinator) = run.coordinator.take() {
            self.unheard.extend(coordinator.unheard());
        }
        drop((run.feed.take(), run.reports.take(), run.removals.take(), std::mem::take(&mut run.orders)));
        let complete = match run.journal.take() {
            None => true,
            Some(journal) => match join(journal, patience).await {
                Some(complete) => complete,
                None => return Err(Error::state("the log's disk does not answer")),
            },
        };
        if join(run.engine, CLOSING_MAX).await.is_none() {
            warn!("an operator does not come to an end; its thread is left behind");
        }
        Ok(complete)
    }
}

fn run_is_past(suspects: &Suspects, offset: u64) -> bool {
    suspects.skipped().any(|suspect| suspect.offset < offset)
}

/// Waits for a thread to end.
async fn join<T: Send + 'static>(thread: std::thread::JoinHandle<T>, most: Duration) -> Option<T> {
    let ended = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&ended);
    let joined = tokio::time::timeout(most, async {
        while !thread.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tell.store(true, Ordering::Relaxed);
    });
    let _ = joined.await;
    if ended.load(Ordering::Relaxed) { thread.join().ok() } else { None }
}
