//! What a running pipeline does, and on whom each of its parts waits, for the admin port, `tidegate status`, heartbeats
//! and the service manager. Everything is read from counters: a part that hangs need not answer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::activity::{EngineDoes, Held, JournalDoes};
use super::control::ControlHealth;
use super::metrics::{Owed, PipelineMetrics};
use super::sink_task::SinkCounters;
use super::spool::{Letters, LettersHealth, SpoolHealth};
use crate::clock::wall;

/// Waiting longer than this is worth a word.
const PATIENCE: Duration = Duration::from_secs(5);

/// Epochs are late after this many checkpoint intervals.
const INTERVALS_LATE: u32 = 3;

/// The state of one pipeline.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PipelineHealth {
    /// The pipeline's name.
    pub pipeline: String,
    /// Whether it takes rows.
    pub ready: bool,
    /// What it waits for before it takes rows: `its state`, while that is read; `messages`, to find its columns in; `the
    /// log`, while the engine is given what the log holds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waits_for: Option<String>,
    /// How long it has run.
    #[serde(default)]
    pub uptime_seconds: f64,
    /// The epoch committed last; 0 if none.
    #[serde(default)]
    pub epoch: u64,
    /// Its sources.
    #[serde(default)]
    pub sources: Vec<SourceHealth>,
    /// What the engine does: `idle`, `works`, or the sink it waits for.
    #[serde(default)]
    pub engine: Doing,
    /// What the log does, and its size; without a log there is nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub log: Option<LogHealth>,
    /// Its sinks.
    #[serde(default)]
    pub sinks: Vec<SinkHealth>,
    /// Epochs that are not committed, and on whom they wait.
    #[serde(default)]
    pub epochs_under_way: Vec<EpochHealth>,
    /// Its dead letters, if it keeps any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dead_letters: Option<LettersHealth>,
    /// Reloads, restarts of the engine, records left out.
    #[serde(default)]
    pub control: ControlHealth,
    /// What is wrong, in words; empty in a healthy pipeline.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// A source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceHealth {
    /// Its name.
    pub source: String,
    /// Whether it is connected, if it talks to a peer.
    pub connected: Option<bool>,
    /// Rows it has given since the start.
    pub rows: u64,
    /// How long ago the last ones came; `null` if none have.
    pub seconds_since_rows: Option<f64>,
    /// What keeps its rows from being taken; `null` if nothing does.
    pub waits_for: Option<String>,
}

/// What a thread does and for how long.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Doing {
    /// In a few words.
    pub does: String,
    /// For how long.
    pub seconds: f64,
}

/// The input log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LogHealth {
    /// Bytes on disk.
    pub bytes: u64,
    /// What its thread does: `idle`, `writes`, `waits for room`, `tries again`.
    pub does: String,
    /// For how long.
    pub seconds: f64,
}

/// A sink.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SinkHealth {
    /// Its name.
    pub sink: String,
    /// Rows it has taken since the start.
    pub rows: u64,
    /// How many epochs wait for it.
    pub epochs_owed: usize,
    /// The spool before it and how its receiver is, where there is a spool.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub spool: Option<SpoolHealth>,
}

/// An epoch that is not committed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochHealth {
    /// Its number.
    pub epoch: u64,
    /// On whom it waits: `engine`, names of sinks, or nobody while it is being written.
    pub waits_for: Vec<String>,
    /// Since when.
    pub seconds: f64,
}

impl PipelineHealth {
    /// Of a pipeline that has not begun, and what it waits for.
    pub fn waiting(pipeline: String, waits_for: &str) -> Self {
        Self { pipeline, waits_for: Some(waits_for.to_owned()), ..Self::default() }
    }

    /// Of a pipeline that runs.
    pub fn of(metrics: &PipelineMetrics, ready: bool) -> Self {
        let (engine, engine_for) = metrics.engine_does.get();
        let engine = EngineDoes::of(engine);
        let (held, held_for) = metrics.held.get();
        let replays = Held::of(held) == Held::Replay;
        let held = Some(Held::of(held)).filter(|held| *held != Held::Free && held_for >= PATIENCE);
        let owed = metrics.owed();
        let mut health = Self {
            pipeline: metrics.pipeline().to_owned(),
            ready,
            waits_for: replays.then(|| "the log".to_owned()),
            uptime_seconds: metrics.uptime().as_secs_f64(),
            epoch: metrics.committed(),
            sources: Vec::new(),
            engine: Doing { does: engine_words(engine, metrics), seconds: engine_for.as_secs_f64() },
            log: log_health(metrics),
            sinks: sinks(metrics, &owed),
            epochs_under_way: owed.iter().map(epoch_health).collect(),
            dead_letters: metrics.letters.get().map(Letters::health),
            control: metrics.control.health(),
            problems: Vec::new(),
        };
        health.problems.extend(health.control.problems());
        for sink in &health.sinks {
            health.problems.extend(sink.spool.iter().flat_map(|spool| spool.problems(&sink.sink)));
        }
        health.problems.extend(health.dead_letters.as_ref().and_then(LettersHealth::problem));
        if engine != EngineDoes::Idle && engine_for >= PATIENCE {
            health.problems.push(match engine {
                EngineDoes::WaitsForSink(_) => {
                    format!("the engine {}, {}", health.engine.does, span(engine_for))
                }
                _ => format!("the engine has been at one record for {}", span(engine_for)),
            });
        }
        if let Some(log) = &health.log
            && matches!(log.does.as_str(), WAITS_FOR_ROOM | TRIES_AGAIN)
        {
            let why = match log.does.as_str() {
                TRIES_AGAIN => "the log cannot be written, nothing is acknowledged",
                _ => "the log is full and waits for an epoch to be committed",
            };
            health.problems.push(format!("{why}, {}", span(Duration::from_secs_f64(log.seconds))));
        }
        if let Some((length, why)) = metrics.unsaved() {
            health.problems.push(format!("the checkpoint cannot be written: {why}, {}", span(length)));
        }
        let late = PATIENCE.max(metrics.checkpoint() * INTERVALS_LATE);
        for epoch in &owed {
            let waiting = epoch.since.elapsed();
            if waiting >= late && !epoch.whom.is_empty() {
                let whom: Vec<String> = epoch.whom.iter().map(|whom| whom_in_words(whom)).collect();
                let (number, whom) = (epoch.epoch, whom.join(" and "));
                health.problems.push(format!("epoch {number} waits for {whom}, {}", span(waiting)));
            }
        }
        for (name, connected, rows, quiet) in metrics.source_states() {
            if connected == Some(false) {
                let rows = match rows {
                    0 => "it has given no rows yet".to_owned(),
                    _ => format!("its last rows came {} ago", span(quiet)),
                };
                health.problems.push(format!("source `{name}` is not connected; {rows}"));
            }
            health.sources.push(SourceHealth {
                source: name.to_owned(),
                connected,
                rows,
                seconds_since_rows: (rows > 0).then_some(quiet.as_secs_f64()),
                waits_for: held.map(|held| held_in_words(held, engine, metrics)),
            });
        }
        health
    }
}

fn engine_words(engine: EngineDoes, metrics: &PipelineMetrics) -> String {
    match engine {
        EngineDoes::Idle => "is idle".to_owned(),
        EngineDoes::Works => "works".to_owned(),
        EngineDoes::WaitsForSink(sink) => {
            let name = metrics.sink_names().get(sink).map_or("?", String::as_str);
            format!("waits for sink `{name}` to take rows")
        }
    }
}

const WAITS_FOR_ROOM: &str = "waits for room";
const TRIES_AGAIN: &str = "tries again";

fn log_health(metrics: &PipelineMetrics) -> Option<LogHealth> {
    let bytes = metrics.log_bytes();
    let (does, since) = metrics.journal_does.get();
    let does = match JournalDoes::of(does) {
        JournalDoes::Idle => "idle",
        JournalDoes::Writes => "writes",
        JournalDoes::Full => WAITS_FOR_ROOM,
        JournalDoes::Fails => TRIES_AGAIN,
    };
    metrics.has_log().then(|| LogHealth { bytes, does: does.to_owned(), seconds: since.as_secs_f64() })
}

fn sinks(metrics: &PipelineMetrics, owed: &[Owed]) -> Vec<SinkHealth> {
    let rows = metrics.totals().sink_rows;
    let owes = |name: &String| owed.iter().filter(|epoch| epoch.whom.contains(name)).count();
    let spool = |counters: &SinkCounters| {
        let status = counters.spool.lock().ok()?;
        Some(status.as_ref()?.health(wall()))
    };
    let sinks = rows.into_iter().zip(&metrics.sinks);
    let sinks = sinks.map(|((sink, rows), counters)| SinkHealth {
        epochs_owed: owes(&sink),
        sink,
        rows,
        spool: spool(counters),
    });
    sinks.collect()
}

fn epoch_health(owed: &Owed) -> EpochHealth {
    let seconds = owed.since.elapsed().as_secs_f64();
    EpochHealth { epoch: owed.epoch, waits_for: owed.whom.clone(), seconds }
}

fn whom_in_words(whom: &str) -> String {
    if whom == "engine" { "the engine".to_owned() } else { format!("sink `{whom}`") }
}

fn held_in_words(held: Held, engine: EngineDoes, metrics: &PipelineMetrics) -> String {
    match held {
        Held::Free => String::new(),
        Held::FirstCheckpoint => "the first checkpoint".to_owned(),
        Held::Replay => "the log, which is given to the engine again".to_owned(),
        Held::LogFull => "room in the log".to_owned(),
        Held::Stopping => "the stop that has begun".to_owned(),
        Held::Reload => "the cut at which another graph begins".to_owned(),
        Held::RecordsBefore => match engine {
            EngineDoes::WaitsForSink(sink) => {
                format!("sink `{}`", metrics.sink_names().get(sink).map_or("?", String::as_str))
            }
            _ => "the log and the engine".to_owned(),
        },
    }
}

/// A length of time as people say it: `0.4 s`, `43 s`, `12 min`, `3 h 5 min`, `2 d 4 h`.
pub fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", length.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::Instant;

    use super::super::activity::Activity;
    use super::*;
    use crate::core::{Epoch, Epochs};
    use crate::error::Error;

    fn ago(seconds: u64) -> Instant {
        Instant::now() - Duration::from_secs(seconds)
    }

    #[test]
    fn a_pipeline_at_rest_has_no_problems() {
        let metrics = PipelineMetrics::new("a", vec!["plant".into()], vec!["cloud".into()]);
        let health = PipelineHealth::of(&metrics, true);
        assert_eq!(health.problems, Vec::<String>::new());
        assert_eq!((health.ready, health.log, health.engine.does.as_str()), (true, None, "is idle"));
        assert_eq!(health.sources[0].seconds_since_rows, None);
        let text = serde_json::to_string(&PipelineHealth::of(&metrics, true)).unwrap();
        assert_eq!(serde_json::from_str::<PipelineHealth>(&text).unwrap().pipeline, "a");
    }

    #[test]
    fn whatever_is_stuck_says_on_whom_it_waits() {
        let connected = Some(Arc::new(AtomicBool::new(false)));
        let mut metrics =
            PipelineMetrics::new("a", vec!["plant".into()], vec!["cloud".into(), "file".into()])
                .with_connected(vec![connected])
                .with_checkpoint(Duration::from_secs(10))
                .with_log(true);
        metrics.engine_does = Arc::new(Activity::since(ago(1_000)));
        metrics.journal_does = Arc::new(Activity::since(ago(1_000)));
        metrics.held = Activity::since(ago(1_000));
        metrics.engine_does.begin_at(EngineDoes::WaitsForSink(0).number(), ago(43));
        metrics.journal_does.begin_at(JournalDoes::Fails as u16, ago(20));
        metrics.held.begin_at(Held::RecordsBefore as u16, ago(42));
        let mut epochs = Epochs::new(vec!["cloud".into(), "file".into()], 4);
        epochs.begin(Epoch(812), 0, vec![]);
        metrics.set_owed(&epochs);
        let health = PipelineHealth::of(&metrics, true);
        assert_eq!(
            health.problems,
            [
                "the engine waits for sink `cloud` to take rows, 43 s",
                "the log cannot be written, nothing is acknowledged, 20 s",
                "source `plant` is not connected; it has given no rows yet",
            ],
            "an epoch that has just begun is no problem"
        );
        assert!(metrics.save_failed(&Error::io("writing", &std::io::ErrorKind::StorageFull.into())));
        assert!(!metrics.save_failed(&Error::io("syncing", &std::io::ErrorKind::StorageFull.into())));
        let problems = PipelineHealth::of(&metrics, true).problems;
        assert_eq!(problems[2], "the checkpoint cannot be written: syncing: no storage space, 0.0 s");
        assert!(metrics.saves_again().is_some());
        assert_eq!(PipelineHealth::of(&metrics, true).problems, health.problems);
        assert_eq!(health.sources[0].waits_for.as_deref(), Some("sink `cloud`"));
        assert_eq!(health.epochs_under_way[0].waits_for, ["engine", "cloud", "file"]);
        metrics.age_owed(Duration::from_secs(43));
        let problems = PipelineHealth::of(&metrics, true).problems;
        assert!(
            problems.contains(
                &"epoch 812 waits for the engine and sink `cloud` and sink `file`, 43 s".to_owned()
            ),
            "{problems:?}"
        );
    }

    #[test]
    fn spans() {
        for (seconds, expected) in [
            (0.42, "0.4 s"),
            (43.9, "43 s"),
            (720.0, "12 min"),
            (11_100.0, "3 h 5 min"),
            (190_000.0, "2 d 4 h"),
        ] {
            assert_eq!(span(Duration::from_secs_f64(seconds)), expected);
        }
    }
}
