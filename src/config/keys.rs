//! The keys that the pipeline file has in common for all components: `[pipeline]`, `[broker]`, and what a
//! `[source.*]`, `[operator.*]` or `[sink.*]` has beside the keys of its type. Pure.
//!
//! Their doc comments are the reference, as those of the components are.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::registry::{BatchLimits, Problem};
use crate::units::{Period, Room, Size};

/// The longest name of a pipeline or component: names become directories and labels.
pub(super) const NAME_LENGTH_MAX: usize = 64;

/// The smallest and the largest `size` of the input log.
const LOG_SIZES: std::ops::RangeInclusive<u64> = 32 << 20..=1 << 40;

/// Most bytes of a batch that the input log takes: batches are its records.
pub(super) const LOGGED_BATCH_BYTES_MAX: u64 = 16 << 20;

/// The keys of decoding that stand in a source's own table.
pub(super) const DECODE_KEYS: [&str; 3] = ["format", "fields", "event_time"];

/// Settings of the pipeline as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The pipeline's name: letters, digits, `-` and `_`. Its part of the data directory is called so.
    pub name: String,
    /// How often the state is saved. A restart goes on from the last time.
    #[serde(default = "checkpoint")]
    pub checkpoint: Period,
    /// Where state, log and spools are kept; `--data-dir` has precedence. Without it nothing survives a restart.
    pub data_dir: Option<String>,
    /// Whether input is written to a log before it is acknowledged: `"auto"`, `"on"` or `"off"`; or a table that also
    /// says how large the log may grow and how long records stay: `{ size = "256MiB", retain = "24h" }`.
    #[serde(default, deserialize_with = "word_or_table")]
    #[schemars(with = "WrittenLog", extend("default" = "auto"))]
    pub log: LogKeys,
    /// How long a stop may take before the rest is left to the log, and how long a reload or another model may wait for
    /// sinks.
    #[serde(default = "stop_timeout")]
    pub stop_timeout: Period,
    /// How many batches wait in each channel between source, engine and sink at most.
    #[serde(default = "queue")]
    #[schemars(range(min = 1, max = 1024))]
    pub queue: usize,
    /// The memory that batches between source, engine and sinks may take: with a budget given here, a file whose
    /// buffers could grow beyond it is refused. `tidegate check` prints the bound.
    pub memory: Option<Size>,
    /// The disk that log, spools and dead letters may take: with a budget given here, a file that could need more is
    /// refused. `tidegate check` prints the bound.
    pub disk: Option<Size>,
    /// Room on disk for dead letters: rows that a receiver refuses or that waited too long, and records that cannot be
    /// processed. `"off"`: they are counted and dropped. 16 MiB if nothing is said and there is a data directory; when
    /// it is full the oldest go. See `tidegate dead-letters`.
    pub dead_letters: Option<Room>,
    /// When a batch from a source is closed, unless the source says otherwise: `{ rows, bytes, age }`.
    #[serde(default)]
    #[schemars(extend("default" = {}))]
    pub batch: BatchKeys,
}

fn checkpoint() -> Period {
    Period::seconds(30)
}

fn stop_timeout() -> Period {
    Period::seconds(10)
}

fn queue() -> usize {
    4
}

/// The input log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogKeys {
    /// When it is written. `"auto"`: as soon as there is a data directory and a source that acknowledges.
    #[serde(default)]
    pub mode: LogMode,
    /// The disk that records may take which a restart would need. When it is three quarters full, sources wait.
    #[serde(default = "log_size")]
    pub size: Size,
    /// How long records stay beyond that, for `tidegate replay --log` and `tidegate log export`.
    #[serde(default = "retain")]
    #[schemars(extend("examples" = ["24h"]))]
    pub retain: Period,
    /// The disk that records may take which only `retain` keeps. They go earlier where it is used up, and where the disk
    /// is full.
    #[serde(default = "retain_size")]
    pub retain_size: Size,
}

fn log_size() -> Size {
    Size(256 << 20)
}

fn retain() -> Period {
    Period::seconds(0)
}

fn retain_size() -> Size {
    Size(1 << 30)
}

impl Default for LogKeys {
    fn default() -> Self {
        Self { mode: LogMode::default(), size: log_size(), retain: retain(), retain_size: retain_size() }
    }
}

impl LogKeys {
    /// Disk that records may take which only `retain` keeps.
    pub fn retained_bytes_max(self) -> u64 {
        if self.retain.0.is_zero() { 0 } else { self.retain_size.0 }
    }

    fn problems(self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !LOG_SIZES.contains(&self.size.0) {
            let problem = Problem::new("log.size", "`log.size` must be between \"32MiB\" and \"1024GiB\"");
            problems
                .push(problem.help("\"256MiB\" is usual: `tidegate check --rate` says how long it lasts"));
        }
        if !self.retain.0.is_zero() && self.retain_size.0 < *LOG_SIZES.start() {
            let problem = Problem::new("log.retain_size", "`log.retain_size` is less than \"32MiB\"");
            problems
                .push(problem.help("records go in parts of up to 16 MiB; leave out `retain` to keep none"));
        }
        problems
    }
}

/// How the log's settings are written: the mode alone, or all of them.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum WrittenLog {
    /// When it is written.
    Mode(LogMode),
    /// All of it.
    Keys(LogKeys),
}

fn word_or_table<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<LogKeys, D::Error> {
    Ok(match WrittenLog::deserialize(deserializer)? {
        WrittenLog::Mode(mode) => LogKeys { mode, ..LogKeys::default() },
        WrittenLog::Keys(keys) => keys,
    })
}

/// When the input log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogMode {
    /// As soon as there is a data directory and a source that acknowledges.
    #[default]
    Auto,
    /// Always; needs a data directory.
    On,
    /// Never: messages are acknowledged at the checkpoint.
    Off,
}

impl Settings {
    /// What no schema can say.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(problem) = name_problem(&self.name) {
            problems.push(Problem { path: "name".to_owned(), ..problem });
        }
        if self.checkpoint.0 < Duration::from_millis(100) {
            let problem = Problem::new("checkpoint", "`checkpoint` is shorter than saving may take");
            problems.push(problem.help("the shortest is \"100ms\"; \"30s\" is usual"));
        }
        if self.stop_timeout.0.is_zero() {
            let problem = Problem::new("stop_timeout", "`stop_timeout` leaves no time to stop in");
            problems.push(problem.help("\"10s\" is usual"));
        }
        problems.extend(self.batch.problems());
        problems.extend(self.log.problems());
        if self.dead_letters.is_some_and(|room| room.0 > 0 && room.0 < ROOM_MIN) {
            let problem = "`dead_letters` must be \"off\" or at least \"1MiB\"";
            problems.push(Problem::new("dead_letters", problem));
        }
        problems
    }

    /// Bytes on disk that dead letters may take; 0 where none are kept.
    pub fn dead_letters_bytes(&self) -> u64 {
        match (&self.data_dir, self.dead_letters) {
            (None, _) => 0,
            (Some(_), said) => said.map_or(DEAD_LETTERS_BYTES, |room| room.0),
        }
    }
}

/// Limits at which a batch is closed; the first one reached counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchKeys {
    /// Rows in a batch at most; 8192 if nothing is said.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub rows: Option<usize>,
    /// Bytes of raw messages in a batch at most; `"1MiB"` if nothing is said.
    pub bytes: Option<Size>,
    /// How long the first message of a batch waits for others at most; `"20ms"` if nothing is said.
    pub age: Option<Period>,
}

impl BatchKeys {
    /// The limits said here, and for the rest those given.
    pub fn over(self, limits: BatchLimits) -> BatchLimits {
        BatchLimits {
            rows: self.rows.unwrap_or(limits.rows),
            bytes: self.bytes.map_or(limits.bytes, Size::as_usize),
            age: self.age.map_or(limits.age, |age| age.0),
        }
    }

    pub(super) fn problems(self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.bytes.is_some_and(|bytes| !(1 << 10..=1 << 30).contains(&bytes.0)) {
            problems.push(Problem::new("batch.bytes", "`batch.bytes` must be between \"1KiB\" and \"1GiB\""));
        }
        if self.age.is_some_and(|age| age.0 > Duration::from_secs(60)) {
            let problem = Problem::new("batch.age", "`batch.age` is longer than \"60s\"");
            problems.push(problem.help("rows wait so long before anything sees them; \"20ms\" is usual"));
        }
        problems
    }
}

/// An MQTT broker inside the process, for demos, tests and fan-out: in memory, not durable.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// Address and port for MQTT 3.1.1.
    #[serde(default = "listen")]
    pub listen: String,
    /// Address and port for MQTT 5, which needs one of its own; none if nothing is said.
    pub listen_v5: Option<String>,
    /// Clients connected at the same time at most.
    #[serde(default = "connections_max")]
    #[schemars(range(min = 1, max = 65_535))]
    pub connections_max: usize,
    /// The largest payload that is taken.
    #[serde(default = "payload_max")]
    pub payload_max: Size,
    /// Messages on their way to one client and not yet acknowledged at most.
    #[serde(default = "inflight_max")]
    #[schemars(range(min = 1, max = 65_535))]
    pub inflight_max: u16,
}

fn listen() -> String {
    "127.0.0.1:1883".to_owned()
}

fn connections_max() -> usize {
    1_000
}

fn payload_max() -> Size {
    Size(1 << 20)
}

fn inflight_max() -> u16 {
    100
}

impl Broker {
    /// What no schema can say.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (key, address) in [("listen", Some(&self.listen)), ("listen_v5", self.listen_v5.as_ref())] {
            if let Some(address) = address.filter(|address| !is_address(address)) {
                let problem = Problem::new(key, format!("`{address}` is not an address with a port"));
                problems.push(problem.help("write for example \"127.0.0.1:1883\""));
            }
        }
        if self.listen_v5.as_ref() == Some(&self.listen) {
            let problem = Problem::new("listen_v5", "MQTT 3.1.1 and MQTT 5 cannot share a port");
            problems.push(problem.help("give each a port of its own"));
        }
        if !(1..=256 << 20).contains(&self.payload_max.0) {
            problems.push(Problem::new("payload_max", "`payload_max` must be between \"1B\" and \"256MiB\""));
        }
        problems
    }
}

/// Whether a text is an IP address with a port; the address in brackets for IPv6. It is not looked up.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let v4 = host.split('.').count() == 4 && host.split('.').all(|part| part.parse::<u8>().is_ok());
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).is_some_and(|host| {
        host.contains(':')
            && host.chars().all(|character| character.is_ascii_hexdigit() || matches!(character, ':' | '.'))
    });
    port.parse::<u16>().is_ok() && (v4 || v6)
}

/// What every source has beside the keys of its type. `format`, `fields` and `event_time` are those of the
/// operator type `decode`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceKeys {
    /// Which type of source this is.
    #[serde(rename = "type")]
    pub kind: String,
    /// When a batch is closed, where it differs from `batch` under `[pipeline]`: `{ rows, bytes, age }`.
    #[serde(default)]
    #[schemars(extend("default" = {}))]
    pub batch: BatchKeys,
}

/// What every operator has beside the keys of its type.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OperatorKeys {
    /// Which type of operator this is.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where its rows come from: names of sources and operators; `name.port` for a port, e.g. `features.late`.
    #[schemars(length(min = 1), extend("examples" = [["plant"]]))]
    pub inputs: Vec<String>,
    /// The name it had before: it goes on with the state that was saved under that name.
    pub was: Option<String>,
}

/// What every sink has beside the keys of its type. All but `type` and `inputs` are for sinks that write to a receiver that
/// may be away (`http`, `mqtt`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SinkKeys {
    /// Which type of sink this is.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where its rows come from: names of sources and operators; `name.port` for a port, e.g. `features.late`.
    #[schemars(length(min = 1), extend("examples" = [["plant"]]))]
    pub inputs: Vec<String>,
    /// Room on disk for rows that wait for the receiver: a spool. `"off"`: none, the pipeline waits instead. 256 MiB if
    /// nothing is said and there is a data directory.
    pub spool: Option<Room>,
    /// What happens when the spool is full.
    #[serde(default)]
    pub on_full: SpoolFull,
    /// Rows that wait for longer do not go out any more: they become dead letters. Without it they wait for ever.
    pub max_age: Option<Period>,
    /// What goes out first when the receiver is back.
    #[serde(default)]
    pub priority: Priority,
    /// Rows per second at most of what has gathered while the receiver was away, so that new rows, and others on the same
    /// line, have room beside it.
    #[schemars(range(min = 1))]
    pub max_rate: Option<u32>,
}

/// Room for dead letters when nothing is said.
const DEAD_LETTERS_BYTES: u64 = 16 << 20;

/// The least room for a spool or for dead letters.
pub(super) const ROOM_MIN: u64 = 1 << 20;

/// What happens when a spool is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpoolFull {
    /// The pipeline waits until the receiver has taken something.
    #[default]
    Block,
    /// The oldest rows are dropped, and counted.
    DropOldest,
}

/// What goes out first when a receiver is back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// The oldest rows: all arrive in order.
    #[default]
    Order,
    /// New rows; what has gathered goes beside them. Every row gets a column `replayed` that says which it is; requests and
    /// messages of gathered rows say so too, as header `Tidegate-Replayed: true` or user property `replayed`.
    Live,
}

/// The spool before a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spooling {
    /// Bytes on disk at most.
    pub bytes_max: u64,
    /// What happens when it is full.
    pub on_full: SpoolFull,
    /// How long rows may wait.
    pub max_age: Option<Duration>,
    /// What goes out first.
    pub priority: Priority,
    /// Rows per second of what has gathered, at most.
    pub rows_per_second: Option<u32>,
}

/// Why a name cannot be one, if so.
pub(super) fn name_problem(name: &str) -> Option<Problem> {
    let wrong = |message: String, help: &str| Some(Problem::new("", message).help(help));
    let allowed = "a name has letters (a-z, A-Z), digits, `-` and `_`";
    match name {
        "" => wrong("a name must not be empty".to_owned(), allowed),
        _ if name.contains('.') => wrong(
            format!("the name `{name}` has a dot in it"),
            "dots lead to ports, as in `features.late`; write `-` or `_` instead",
        ),
        _ if name.len() > NAME_LENGTH_MAX => wrong(
            format!("the name `{name}` is too long"),
            "names become directories and labels; they have at most 64 characters",
        ),
        _ => {
            let strange = name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_'))?;
            wrong(format!("the name `{name}` has the character `{}` in it", strange.escape_debug()), allowed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "press-line_2", "7"] {
            assert_eq!(name_problem(name), None);
        }
        for (name, part) in [
            ("", "empty"),
            ("a.b", "dot"),
            ("a b", "character ` `"),
            ("ä", "character `ä`"),
            ("../x", "dot"),
            ("a/b", "character `/`"),
            (&"x".repeat(65), "too long"),
        ] {
            assert!(name_problem(name).unwrap().message.contains(part), "{name}");
        }
    }

    #[test]
    fn addresses() {
        for address in ["127.0.0.1:1883", "0.0.0.0:0", "[::1]:1883"] {
            assert!(is_address(address), "{address}");
        }
        for address in ["", "1883", "127.0.0.1", "127.0.0.1:70000", "127.0.0.256:1", "::1:1883", "plant:1883"]
        {
            assert!(!is_address(address), "{address}");
        }
    }

    #[test]
    fn what_nothing_is_said_about_has_its_default() {
        let settings: Settings = toml::from_str("name = \"a\"\nbatch = { rows = 5 }").unwrap();
        assert_eq!(
            (settings.checkpoint, settings.queue, settings.log.mode),
            (Period::seconds(30), 4, LogMode::Auto)
        );
        assert_eq!(
            settings.batch.over(BatchLimits::default()),
            BatchLimits { rows: 5, ..BatchLimits::default() }
        );
        assert_eq!(settings.problems(), []);
        let broker: Broker = toml::from_str("").unwrap();
        assert_eq!(broker.problems(), []);
        assert_eq!(broker.listen, "127.0.0.1:1883");
    }

    #[test]
    fn impossible_settings_are_all_refused() {
        let text = "name = \"a b\"\ncheckpoint = \"0s\"\nstop_timeout = \"0s\"\nbatch = { bytes = \"1B\", age = \"2m\" }";
        let paths: Vec<String> = toml::from_str::<Settings>(text)
            .unwrap()
            .problems()
            .into_iter()
            .map(|problem| problem.path)
            .collect();
        assert_eq!(paths, ["name", "checkpoint", "stop_timeout", "batch.bytes", "batch.age"]);
        let text = "listen = \"localhost\"\nlisten_v5 = \"localhost\"\npayload_max = \"1GiB\"";
        let paths: Vec<String> = toml::from_str::<Broker>(text)
            .unwrap()
            .problems()
            .into_iter()
            .map(|problem| problem.path)
            .collect();
        assert_eq!(paths, ["listen", "listen_v5", "listen_v5", "payload_max"]);
    }
}
