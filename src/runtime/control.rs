//! What has been done to a running pipeline from outside and by its own repair: reloads, restarts of its engine, records
//! left out. Health and metrics show it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

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
    failure: Option<String>,
    skipped: u64,
    skipped_last: Option<String>,
}

/// The same for `/health`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlHealth {
    /// Since when a reload is under way; `null` if none is.
    pub reloading_seconds: Option<f64>,
    /// The reload that ended last.
    pub last_reload: Option<ReloadHealth>,
    /// How often the engine was built again after a failure.
    pub engine_restarts: u64,
    /// Why, the last time.
    pub last_engine_failure: Option<String>,
    /// Records that were left out because the engine failed at them again and again.
    pub records_skipped: u64,
    /// The last of them.
    pub last_record_skipped: Option<String>,
}

/// A reload that has ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReloadHealth {
    /// `applied`, `unchanged` or `rejected`.
    pub outcome: String,
    /// When.
    pub seconds_ago: f64,
    /// What became of the operators, or all that is wrong.
    pub message: String,
}

impl ControlHealth {
    /// What a person should know.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(reload) = self.last_reload.as_ref().filter(|reload| reload.outcome == "rejected") {
            let first = reload.message.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
            problems.push(format!("the last reload was rejected: {}", first.trim()));
        }
        if let Some(last) = &self.last_record_skipped {
            problems.push(format!("{} records were left out; the last: {last}", self.records_skipped));
        }
        problems
    }
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
        state.failure = Some(reason.to_owned());
    }

    /// A record was left out.
    pub fn skipped(&self, offset: u64, reason: &str) {
        let mut state = self.state();
        state.skipped += 1;
        state.skipped_last = Some(format!("record {offset}: {reason}"));
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
    pub fn health(&self) -> ControlHealth {
        let seconds = |since_us: i64| (wall().micros() - since_us).max(0) as f64 / 1e6;
        let state = self.state();
        ControlHealth {
            reloading_seconds: state.reloading_since_us.map(seconds),
            last_reload: state.last.as_ref().map(|(outcome, at_us, message)| ReloadHealth {
                outcome: outcome.word().to_owned(),
                seconds_ago: seconds(*at_us),
                message: message.clone(),
            }),
            engine_restarts: state.restarts,
            last_engine_failure: state.failure.clone(),
            records_skipped: state.skipped,
            last_record_skipped: state.skipped_last.clone(),
        }
    }

    /// Whether a reload is under way.
    pub fn is_reloading(&self) -> bool {
        self.state().reloading_since_us.is_some()
    }
}
