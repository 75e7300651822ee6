//! `detect`: marks rows that are unlike what is normal, by a quantized model or by a robust z-score. Pure.

mod keyed;
mod network;
mod numbers;
mod robust;
mod streaming;
#[cfg(test)]
mod tests;
mod zscore;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use schemars::JsonSchema;
use serde::Deserialize;

use self::keyed::Keyed;
use self::network::{Gate, Network};
use self::numbers::is_numeric;
pub(crate) use self::numbers::{ADDED, ModelName, Numbers, output_schema, with_scores};
use self::robust::{Estimation, HalfLife};
use self::streaming::{Alarms, Streaming};
use self::zscore::RobustZ;
use crate::core::schema::{TIME, time_type, type_name};
use crate::core::{KeyLimits, Keys, ModelGate, ModelSlot, keys::OnFull};
use crate::model::Kernel;
use crate::model::streaming::ensemble::{Kind, Learned};
use crate::registry::{Built, Checked, Context, Kept, OperatorConfig, Problem};
use crate::units::Period;

/// Scores every row by how far it is from normal, and marks the anomalies.
///
/// The input's columns go on unchanged, and three are added: `score` (a number, larger is stranger, null where a row
/// cannot be scored), `anomaly` (whether the score is above the threshold, false where it is null) and `model` (the
/// first 12 digits of the model's id, or `robust_z`).
///
/// With `model`, a quantized model made by `tidegate model train` scores the row as a whole: the mean squared error,
/// in standard deviations of the training data, of its reconstruction. A row in which a column of the model
/// is null, NaN or infinite has no score. Models can be replaced while data flow, by a changed file, by a retained
/// MQTT message or by `POST /models/<name>`: from the next row on the column `model` shows the new one. A model that
/// does not fit, is damaged or fails its self-test is refused with the reason, and the old one goes on. After a
/// restart the model that came last goes on: a file that is as it was, or one that cannot be taken, and a retained
/// message that was heeded before do not change it. A file that has become another since is heeded.
///
/// Without `model`, the method is `robust_z`: each column of each key has a running mean and deviation that forget
/// by half-life and that outliers hardly move (Huber's Proposal 2, exponentially weighted). The score is the
/// largest distance of the row's columns from their means, in deviations. It needs no training, and learns a
/// lasting change within about five half-lives. For normal noise the default threshold of 6 gives about one false
/// alarm in a hundred million values; noise with heavy tails (Laplace) gives one in 1,000.
///
/// `metric`, `signal` and `process` are ensembles of detectors that learn row by row, for each key, with nothing to set.
/// Their score adds up in powers of ten: 3 is as rare as one row in a thousand, by what each detector has seen so far.
/// `metric` is for one number about a machine or a service: it knows what the last hours looked like, categories of shapes
/// from longer ago, the time of day, and records: those of rows that are rare otherwise, too, are alarms at once. `signal`
/// is for sampled signals, one or several columns that belong together: what predicts the next row, shapes of the last
/// rows, those as well that are more regular than usual, and the level. `process` is for a process that is normal at first:
/// it learns `learn_rows` and watches the level of all columns together from then on. Keys of these take up to 64 KiB.
///
/// Rows without a score are counted as `unscored_rows`, with the reason `missing_values`, `warm_up`, `max_keys` or
/// `no_model`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DetectConfig {
    /// How rows are scored without a model: `robust_z`, which is also what happens without this key, or an ensemble for a
    /// kind of data, `metric`, `signal` or `process`.
    #[serde(default)]
    method: Option<Method>,
    /// Where the model comes from.
    #[serde(default)]
    model: Option<ModelSource>,
    /// The columns that are looked at: numbers or integers. Without it, all such columns that are not in `by`. A
    /// model picks its own among them, by name.
    #[serde(default)]
    columns: Option<Vec<String>>,
    /// Without a model: the columns that make the key. Each key has its own normal. Without it, all rows share one.
    #[serde(default)]
    by: Vec<String>,
    /// Rows with a score above this are anomalies. Without it 6 for `robust_z`, 4 for `metric`, 7 for `signal`, 10 for
    /// `process`, and for a model its own.
    #[serde(default)]
    threshold: Option<f64>,
    /// For models: which code computes them. All give the same scores, bit for bit. To compare their cost, replay with
    /// `--set operator.NAME.kernel=scalar`.
    #[serde(default)]
    kernel: Option<KernelName>,
    /// For `robust_z`: after this long in event time a value counts half. `"10m"` without it. The memory is never
    /// shorter than `warmup` values.
    #[serde(default)]
    half_life: Option<Period>,
    /// For `robust_z`: after this many values a value counts half; in place of `half_life`.
    #[serde(default)]
    #[schemars(range(min = 1))]
    half_life_rows: Option<u32>,
    /// For `robust_z`: how many values of a column must be learned before it is scored, for each key; 100 without
    /// it. Values equal to the one before are not counted: they say nothing about the spread.
    #[serde(default)]
    #[schemars(range(min = 5))]
    warmup: Option<u32>,
    /// For `metric`, `signal` and `process`: after so many rows of a key nothing more is learned. Without it, learning never
    /// ends.
    #[serde(default)]
    #[schemars(range(min = 100))]
    learn_rows: Option<u32>,
    /// For `metric`, `signal` and `process`: for so many rows after an alarm of a key only records are alarms. 300 for
    /// `metric` without it, else 0.
    #[serde(default)]
    refractory_rows: Option<u32>,
    /// Without a model: the most keys at once. For `robust_z` 100,000 without it: one takes 56 bytes per column, and its
    /// name. For `metric`, `signal` and `process` 1,000: one takes up to 64 KiB.
    #[serde(default)]
    #[schemars(range(min = 1))]
    max_keys: Option<usize>,
    /// Without a model: a key without rows for this long in event time is forgotten. Without it, keys stay.
    #[serde(default)]
    key_ttl: Option<Period>,
    /// Without a model: what happens to a new key when there are `max_keys`: `"refuse"` leaves its rows without a score,
    /// `"evict"` forgets the key that was seen longest ago (counted as `evicted_keys`).
    #[serde(default)]
    on_full: Option<OnFull>,
}

/// How rows are scored without a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The distance from a running mean, in running deviations, both robust.
    RobustZ,
    /// One number about a machine or a service.
    Metric,
    /// Sampled signals, one or several.
    Signal,
    /// Several columns of a process that is normal at first.
    Process,
}

/// Where a model comes from: a file, a topic, or a file to begin with and a topic for news.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSource {
    /// A model file. It is watched, and read again when it changes. With a `topic` it need not be there: rows have no
    /// score until a model comes.
    #[serde(default)]
    file: Option<String>,
    /// A topic on the broker of the pipeline's MQTT source, on which models are published, retained, as the bytes of
    /// the file.
    #[serde(default)]
    topic: Option<String>,
}

/// Which code computes a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum KernelName {
    /// The fastest that the processor has.
    #[serde(rename = "auto")]
    Auto,
    /// Plain code, for any processor.
    #[serde(rename = "scalar")]
    Scalar,
    /// For x86-64 with AVX2.
    #[serde(rename = "avx2")]
    Avx2,
    /// For x86-64 with AVX-512 VNNI.
    #[serde(rename = "avx512-vnni")]
    Avx512Vnni,
}

const THRESHOLD: f64 = 6.0;
const HALF_LIFE: Period = Period::seconds(600);
const WARM_UP: u32 = 100;
const WARM_UP_MAX: u32 = 1_000_000;
const METRIC_THRESHOLD: f64 = 4.0;
const SIGNAL_THRESHOLD: f64 = 7.0;
const PROCESS_THRESHOLD: f64 = 10.0;
const METRIC_REFRACTORY_ROWS: u32 = 300;
const LEARN_ROWS_MIN: u32 = 100;
const KEY_BYTES_MAX: usize = 64 << 10;
/// Keys of the ensembles are large: all of them together take 64 MiB at most.
const ENSEMBLE_MAX_KEYS: usize = 1_000;

impl OperatorConfig for DetectConfig {
    const TYPE: &'static str = "detect";
    const EXAMPLES: &'static [&'static str] = &[
        r#"# Each device against its own past; nothing to train.
by = ["line", "device"]
columns = ["temp", "vib"]
half_life = "1h"
"#,
        r#"# Quick to learn and to forget, counted in rows; the device seen longest ago gives way to a new one.
by = ["device"]
half_life_rows = 200
warmup = 20
threshold = 8.0
max_keys = 1000
key_ttl = "1d"
on_full = "evict"
"#,
        r#"# The whole of a device's signals, with nothing to set.
method = "signal"
by = ["device"]
columns = ["temp", "vib"]
"#,
        r#"# A process that ran well for its first hour.
method = "process"
columns = ["temp", "vib", "rpm"]
learn_rows = 3600
"#,
        r#"# One number; for a day after an alarm, only records are another.
method = "metric"
columns = ["temp"]
refractory_rows = 1440
"#,
        r#"# A trained model, replaced by file or by MQTT while data flow.
model = { file = "models/pump.tgm", topic = "plant/models/pump" }
"#,
    ];

    fn build(self, context: &Context<'_>) -> Checked<Built> {
        let mut problems = Vec::new();
        let input = context.schema();
        if input.column_with_name(TIME).is_none_or(|(_, field)| *field.data_type() != time_type()) {
            problems.push(
                Problem::new("", "the input has no `time` column")
                    .help("put a `decode` operator before this one"),
            );
        }
        for name in ADDED.into_iter().filter(|name| input.column_with_name(name).is_some()) {
            problems.push(
                Problem::new("", format!("the input has a column \"{name}\" already, and `detect` adds one"))
                    .help("rename it with a `select` operator before this one"),
            );
        }
        let columns = self.columns(input, &mut problems);
        match self.model.clone() {
            Some(source) => self.build_network(&source, &columns, context, problems),
            None => match self.method.and_then(Method::kind) {
                Some(kind) => self.build_streaming(kind, &columns, input, problems),
                None => self.build_robust_z(&columns, input, problems),
            },
        }
    }
}

impl DetectConfig {
    /// The places of the columns that are looked at.
    fn columns(&self, input: &SchemaRef, problems: &mut Vec<Problem>) -> Vec<usize> {
        let Some(names) = &self.columns else {
            let numeric = input.fields().iter().enumerate().filter(|(_, field)| {
                is_numeric(field.data_type()) && !self.by.iter().any(|key| key == field.name())
            });
            let places: Vec<usize> = numeric.map(|(place, _)| place).collect();
            if places.is_empty() {
                problems.push(Problem::new("", "the input has no numeric column that could be scored"));
            }
            return places;
        };
        if names.is_empty() {
            problems
                .push(Problem::new("columns", "no column is named").help("leave `columns` out to take all"));
        }
        let mut places = Vec::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            let path = format!("columns[{index}]");
            match input.column_with_name(name) {
                None => problems.push(Problem::no_column(path, name, input)),
                Some((_, field)) if !is_numeric(field.data_type()) => {
                    let kind = type_name(field.data_type());
                    problems.push(Problem::new(path, format!("column \"{name}\" is a {kind}, not a number")));
                }
                Some((place, _)) if places.contains(&place) => {
                    problems.push(Problem::new(path, format!("column \"{name}\" is named twice")));
                }
                Some((place, _)) => places.push(place),
            }
        }
        places
    }

    /// Says of every key that is there and has no meaning beside the others that it has none.
    fn check_unused(&self, problems: &mut Vec<Problem>) {
        let with_model = [
            ("method", self.method.is_some()),
            ("by", !self.by.is_empty()),
            ("half_life", self.half_life.is_some()),
            ("half_life_rows", self.half_life_rows.is_some()),
            ("warmup", self.warmup.is_some()),
            ("max_keys", self.max_keys.is_some()),
            ("key_ttl", self.key_ttl.is_some()),
            ("on_full", self.on_full.is_some()),
            ("learn_rows", self.learn_rows.is_some()),
            ("refractory_rows", self.refractory_rows.is_some()),
        ];
        let without_model = [("kernel", self.kernel.is_some())];
        if self.model.is_none() {
            self.check_method(problems);
        }
        let (keys, help) = match self.model {
            Some(_) => (&with_model[..], "a model brings its own normal; leave out this key or `model`"),
            None => (&without_model[..], "only models have kernels; leave out this key or name a `model`"),
        };
        for (key, _) in keys.iter().filter(|(_, given)| *given) {
            let with = if self.model.is_some() { "with" } else { "without" };
            problems.push(Problem::new(*key, format!("has no meaning {with} `model`")).help(help));
        }
    }

    fn build_network(
        &self,
        source: &ModelSource,
        columns: &[usize],
        context: &Context<'_>,
        mut problems: Vec<Problem>,
    ) -> Checked<Built> {
        let input = context.schema();
        self.check_unused(&mut problems);
        if self.threshold.is_some_and(|threshold| !(threshold.is_finite() && threshold >= 0.0)) {
            problems.push(Problem::new("threshold", "must be a number from 0 up"));
        }
        source.check(&mut problems);
        let kernel = match Kernel::parse(self.kernel.unwrap_or(KernelName::Auto).word()) {
            Ok(kernel) => kernel,
            Err(error) => {
                problems.push(Problem::new("kernel", error.message));
                Kernel::Scalar
            }
        };
        let offered = columns.iter().map(|place| input.field(*place).name().clone()).collect();
        let gate = Arc::new(Gate { offered, kernel });
        if !problems.is_empty() {
            return Err(problems);
        }
        let (first, refused) = match source.first(&gate, context) {
            Ok(first) => (first, None),
            Err(problem) => (None, Some(problem)),
        };
        let output = output_schema(input);
        let initial = first.as_ref().map(|model| model.id);
        let network =
            Network::new(gate.clone(), self.threshold, input.clone(), output.clone(), first.as_ref())
                .map_err(|error| vec![Problem::new("model", error.message)])?;
        let mut built = Built::new(network, output, "model");
        built.models = Some(ModelSlot {
            gate,
            file: source.file.clone(),
            topic: source.topic.clone(),
            initial,
            refused: refused.as_ref().map(|problem| problem.message.clone()),
        });
        built.unless_saved.extend(refused);
        Ok(built)
    }

    fn build_robust_z(
        &self,
        columns: &[usize],
        input: &SchemaRef,
        mut problems: Vec<Problem>,
    ) -> Checked<Built> {
        self.check_unused(&mut problems);
        let threshold = self.threshold.unwrap_or(THRESHOLD);
        if !(threshold.is_finite() && threshold > 0.0) {
            problems.push(Problem::new("threshold", "must be a number above 0"));
        }
        let warm_up = self.warmup.unwrap_or(WARM_UP);
        if !(5..=WARM_UP_MAX).contains(&warm_up) {
            problems.push(Problem::new("warmup", format!("must be 5 to {WARM_UP_MAX}, not {warm_up}")));
        }
        let half_life = self.half_life(&mut problems);
        let (keyed, limits) = self.keyed(KeyLimits::default().max_keys, input, problems)?;
        let names: Vec<&String> = columns.iter().map(|place| input.field(*place).name()).collect();
        let meaning = format!("{} of {names:?} by {:?} {:?}", zscore::NAME, self.by, limits.on_full);
        let output = output_schema(input);
        let estimation = Estimation { half_life, warm_up };
        let operator = RobustZ::new(estimation, threshold, keyed, columns.to_vec(), output.clone());
        let bytes = columns.len() * size_of::<robust::Estimate>() + Kept::KEY_BYTES;
        let max = if self.by.is_empty() { 1 } else { limits.max_keys };
        let kept = vec![Kept { what: "keys", max, key: "max_keys", bytes }];
        Ok(Built::new(operator, output, meaning).keeps(&self.by, kept))
    }

    /// Says of the keys of one method that they have no meaning with another.
    fn check_method(&self, problems: &mut Vec<Problem>) {
        let (keys, help): (&[(&str, bool)], _) = match self.method.and_then(Method::kind) {
            Some(_) => (
                &[
                    ("half_life", self.half_life.is_some()),
                    ("half_life_rows", self.half_life_rows.is_some()),
                    ("warmup", self.warmup.is_some()),
                ],
                "only `robust_z` has it; leave out this key or change `method`",
            ),
            None => (
                &[
                    ("learn_rows", self.learn_rows.is_some()),
                    ("refractory_rows", self.refractory_rows.is_some()),
                ],
                "only `metric`, `signal` and `process` have it; leave out this key or name one of these as `method`",
            ),
        };
        for (key, _) in keys.iter().filter(|(_, given)| *given) {
            problems.push(Problem::new(*key, "has no meaning with this method").help(help));
        }
    }

    fn build_streaming(
        &self,
        kind: Kind,
        columns: &[usize],
        input: &SchemaRef,
        mut problems: Vec<Problem>,
    ) -> Checked<Built> {
        self.check_unused(&mut problems);
        let (threshold, refractory_rows) = match kind {
            Kind::Metric => (METRIC_THRESHOLD, METRIC_REFRACTORY_ROWS),
            Kind::Signal => (SIGNAL_THRESHOLD, 0),
            Kind::Process => (PROCESS_THRESHOLD, 0),
        };
        let threshold = self.threshold.unwrap_or(threshold);
        if !(threshold.is_finite() && threshold > 0.0) {
            problems.push(Problem::new("threshold", "must be a number above 0"));
        }
        if self.learn_rows.is_some_and(|rows| rows < LEARN_ROWS_MIN) {
            problems.push(Problem::new("learn_rows", format!("must be at least {LEARN_ROWS_MIN}")));
        }
        if kind == Kind::Metric && columns.len() > 1 {
            problems.push(
                Problem::new("columns", format!("`metric` looks at one column, not at {}", columns.len()))
                    .help("name one, or take `method = \"signal\"`"),
            );
        }
        if Learned::bytes_max(kind, columns.len()) > KEY_BYTES_MAX {
            problems.push(
                Problem::new(
                    "columns",
                    format!("{} columns together take more than 64 KiB a key", columns.len()),
                )
                .help("name fewer, or put several `detect` operators side by side"),
            );
        }
        let (keyed, limits) = self.keyed(ENSEMBLE_MAX_KEYS, input, problems)?;
        let names: Vec<&String> = columns.iter().map(|place| input.field(*place).name()).collect();
        let learn_rows = self.learn_rows.unwrap_or(u32::MAX);
        let meaning =
            format!("{kind:?} of {names:?} by {:?} {:?}, learns {learn_rows} rows", self.by, limits.on_full);
        let output = output_schema(input);
        let alarms = Alarms {
            threshold,
            refractory_rows: self.refractory_rows.unwrap_or(refractory_rows),
            learn_rows,
        };
        let operator = Streaming::new(kind, alarms, keyed, columns.to_vec(), output.clone());
        let bytes = Learned::bytes_max(kind, columns.len()) + Kept::KEY_BYTES;
        let max = if self.by.is_empty() { 1 } else { limits.max_keys };
        let kept = vec![Kept { what: "keys", max, key: "max_keys", bytes }];
        Ok(Built::new(operator, output, meaning).keeps(&self.by, kept))
    }

    /// The columns of the key and what holds them; or everything that is wrong.
    fn keyed(
        &self,
        max_keys: usize,
        input: &SchemaRef,
        mut problems: Vec<Problem>,
    ) -> Checked<(Keyed, KeyLimits)> {
        if self.max_keys == Some(0) {
            problems.push(Problem::new("max_keys", "must be at least 1"));
        }
        let by = self.keys(input, &mut problems);
        let limits = KeyLimits {
            max_keys: self.max_keys.unwrap_or(max_keys),
            key_ttl: self.key_ttl.map(|ttl| ttl.0),
            on_full: self.on_full.unwrap_or_default(),
        };
        let types = by.iter().map(|place| input.field(*place).data_type().clone()).collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        let keys = Keys::new(types, limits).map_err(|error| vec![Problem::new("by", error.message)])?;
        Ok((Keyed::new(keys, by), limits))
    }

    fn half_life(&self, problems: &mut Vec<Problem>) -> HalfLife {
        match (self.half_life, self.half_life_rows) {
            (Some(_), Some(_)) => {
                problems.push(
                    Problem::new("half_life_rows", "stands beside `half_life`")
                        .help("give one of the two: forgetting goes by time or by rows"),
                );
            }
            (Some(half_life), None) if half_life.0.is_zero() => {
                problems.push(Problem::new("half_life", "must be longer than nothing"));
            }
            (None, Some(0)) => problems.push(Problem::new("half_life_rows", "must be at least 1")),
            (None, Some(rows)) => return HalfLife::Rows(f64::from(rows)),
            _ => {}
        }
        HalfLife::Micros(self.half_life.unwrap_or(HALF_LIFE).micros() as f64)
    }

    fn keys(&self, input: &SchemaRef, problems: &mut Vec<Problem>) -> Vec<usize> {
        let mut places = Vec::with_capacity(self.by.len());
        for (index, name) in self.by.iter().enumerate() {
            let path = format!("by[{index}]");
            match input.column_with_name(name) {
                None => problems.push(Problem::no_column(path, name, input)),
                Some((_, field)) if !Keys::supports(field.data_type()) => {
                    let kind = type_name(field.data_type());
                    problems.push(
                        Problem::new(path, format!("column \"{name}\" is a {kind}"))
                            .help("keys are texts, integers or true/false"),
                    );
                }
                Some((place, _)) if places.contains(&place) => {
                    problems.push(Problem::new(path, format!("column \"{name}\" is named twice")));
                }
                Some((place, _)) => places.push(place),
            }
        }
        places
    }
}

impl Method {
    /// The ensemble that it is, if it is one.
    fn kind(self) -> Option<Kind> {
        match self {
            Self::RobustZ => None,
            Self::Metric => Some(Kind::Metric),
            Self::Signal => Some(Kind::Signal),
            Self::Process => Some(Kind::Process),
        }
    }
}

impl ModelSource {
    fn check(&self, problems: &mut Vec<Problem>) {
        if self.file.is_none() && self.topic.is_none() {
            problems.push(
                Problem::new("model", "says nowhere where the model comes from")
                    .help("give `file`, `topic` or both"),
            );
        }
        if self.file.as_deref() == Some("") {
            problems.push(Problem::new("model.file", "this is not the path of a file"));
        }
        if let Some(topic) =
            self.topic.as_deref().filter(|topic| topic.is_empty() || topic.contains(['#', '+']))
        {
            problems.push(
                Problem::new("model.topic", format!("`{topic}` is not the name of one topic"))
                    .help("models come on exactly one topic, without `+` and `#`"),
            );
        }
    }

    /// The model of the file, if it is there. Without a topic it must be.
    fn first(&self, gate: &Gate, context: &Context<'_>) -> Result<Option<crate::core::Model>, Problem> {
        let Some(file) = self.file.as_deref().filter(|file| !file.is_empty()) else { return Ok(None) };
        match context.files.read(file) {
            Ok(bytes) => match gate.admit(&bytes) {
                Ok(model) => Ok(Some(model)),
                Err(error) => Err(Problem::new("model.file", format!("{file}: {}", error.message))),
            },
            Err(error) if self.topic.is_none() => Err(Problem::new("model.file", error.message)
                .help("make one with `tidegate model train`, or add a `topic` that it will come by")),
            Err(_) => Ok(None),
        }
    }
}

impl KernelName {
    fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512-vnni",
        }
    }
}
