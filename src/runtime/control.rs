//! What has been done to a running pipeline from outside and by its own repair: reloads, restarts of its engine, records
//! left out. Health and metrics show it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::clock::wall;

/// How a reload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReloadOutcome {
    /// The new graph runs.
    Applied,
    /// The file says what runs already.
    Unchanged,
    /// The file is wrong, or cannot take the place of what runs.
    Rejected,
}

impl ReloadOutcome {
    /// As it stands in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Rejected => "rejected",
        }
    }
}

#[derive(Debug, Default)]
struct State {
    reloading_since_us: Option<i64>,
    last: Option<(ReloadOutcome, i64, String)>,
    reloads: BTreeMap<ReloadOutcome, u64>,
    restarts: u64,
    failure: Option<(i64, String)>,
    skipped: u64,
    skipped_last: Option<(u64, String)>,
}

/// The story of one pipeline. It goes on over reloads.
#[derive(Debug, Default)]
pub struct Control(Mutex<State>);

impl Control {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reload is under way.
    pub fn reloading(&self) {
        self.state().reloading_since_us = Some(wall().micros());
    }

    /// A reload has ended.
    pub fn reloaded(&self, outcome: ReloadOutcome, message: &str) {
        let mut state = self.state();
        state.reloading_since_us = None;
        *state.reloads.entry(outcome).or_default() += 1;
        state.last = Some((outcome, wall().micros(), message.to_owned()));
    }

    /// The engine has failed and is built again.
    pub fn restarting(&self, reason: &str) {
        let mut state = self.state();
        state.restarts += 1;
        state.failure = Some((wall().micros(), reason.to_owned()));
    }

    /// A record was left out.
    pub fn skipped(&self, offset: u64, reason: &str) {
        let mut state = self.state();
        state.skipped += 1;
        state.skipped_last = Some((offset, reason.to_owned()));
    }

    /// How many reloads have ended how.
    pub fn reloads(&self) -> BTreeMap<ReloadOutcome, u64> {
        self.state().reloads.clone()
    }

    /// How often the engine was built again.
    pub fn restarts(&self) -> u64 {
        self.state().restarts
    }

    /// How many records were left out.
    pub fn records_skipped(&self) -> u64 {
        self.state().skipped
    }

    /// As `/health` shows it.
    pub fn to_json(&self) -> Value {
        let seconds = |since_us: i64| (wall().micros() - since_us).max(0) / 1_000_000;
        let state = self.state();
        let last = state.last.as_ref().map(|(outcome, at_us, message)| {
            json!({ "outcome": outcome.word(), "seconds_ago": seconds(*at_us), "message": message })
        });
        let failure = state
            .failure
            .as_ref()
            .map(|(at_us, reason)| json!({ "seconds_ago": seconds(*at_us), "reason": reason }));
        let skipped =
            state.skipped_last.as_ref().map(|(offset, reason)| json!({ "offset": offset, "reason": reason }));
        json!({
            "reloading_for_seconds": state.reloading_since_us.map(seconds),
            "last_reload": last,
            "engine_restarts": state.restarts,
            "last_engine_failure": failure,
            "records_skipped": state.skipped,
            "last_record_skipped": skipped,
        })
    }

    /// Whether a reload is under way.
    pub fn is_reloading(&self) -> bool {
        self.state().reloading_since_us.is_some()
    }
}
