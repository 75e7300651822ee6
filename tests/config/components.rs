//! Throw-away components: configuration is tested without the real ones, so that its messages stay the same
//! when those change. They never run.

#![expect(dead_code, reason = "their keys are there to be read by serde; what never runs uses none of them")]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use tidegate::core::ends::SourceBatch;
use tidegate::core::schema::{raw, tag_type, time_field};
use tidegate::core::{Attempt, DeliveryId, Epoch, Operator, Output, Parcel, Peer, Position, Sink, Source};
use tidegate::registry::{
    Built, BuiltSink, BuiltSource, Checked, Context, Delivery, Inputs, Kept, OperatorConfig, Problem,
    Registry, SinkConfig, SourceConfig, SourceOutput, nearest,
};
use tidegate::units::{Period, Secret, Size};

pub fn registry() -> Registry {
    Registry::new()
        .source::<Sensor>()
        .source::<Recording>()
        .operator::<Decode>()
        .operator::<Window>()
        .operator::<Filter>()
        .operator::<Union>()
        .sink::<Cloud>()
        .sink::<Print>()
}

/// Sits where the running part would.
struct Nothing;

#[async_trait]
impl Source for Nothing {
    async fn open(&mut self, _from: Option<&Position>) -> tidegate::Result<()> {
        Ok(())
    }

    async fn next(&mut self) -> tidegate::Result<Option<SourceBatch>> {
        Ok(None)
    }

    async fn acknowledge(&mut self, _upto: &Position) -> tidegate::Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Sink for Nothing {
    async fn open(&mut self, _committed: Option<&Position>) -> tidegate::Result<()> {
        Ok(())
    }

    async fn write(&mut self, _id: DeliveryId, _batch: RecordBatch) -> tidegate::Result<()> {
        Ok(())
    }

    async fn flush(&mut self, _epoch: Epoch) -> tidegate::Result<Position> {
        Ok(Position(String::new()))
    }

    async fn committed(&mut self, _epoch: Epoch) -> tidegate::Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Peer for Nothing {
    async fn open(&mut self) -> tidegate::Result<()> {
        Ok(())
    }

    async fn deliver(&mut self, _parcels: &mut [Parcel]) -> tidegate::Result<Attempt> {
        Ok(Attempt::Settled)
    }
}

impl Operator for Nothing {
    fn process(&mut self, _port: usize, _batch: RecordBatch, _out: &mut Output) -> tidegate::Result<()> {
        Ok(())
    }
}

/// Messages from sensors.
///
/// Every topic filter becomes a subscription.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Sensor {
    /// Where the sensors speak. TCP or TLS.
    #[schemars(extend("examples" = ["mqtt://localhost:1883"]))]
    url: String,
    /// Topics to listen to; `{names}` become tag columns.
    #[schemars(length(min = 1), extend("examples" = [["plant/{device}"]]))]
    topics: Vec<String>,
    /// Quality of service.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1))]
    qos: u8,
    /// The name of the session.
    client_id: Option<String>,
    /// The password.
    password: Option<Secret>,
    /// The largest packet that is taken.
    packet_max: Option<Size>,
    /// Messages under way.
    #[serde(default = "thousand")]
    in_flight: u32,
    /// Whether the broker spreads by topic.
    #[serde(default)]
    shared_by_topic: bool,
}

fn thousand() -> u32 {
    1000
}

fn one() -> u8 {
    1
}

impl SourceConfig for Sensor {
    const TYPE: &'static str = "sensor";
    const EXAMPLES: &'static [&'static str] =
        &["url = \"mqtt://localhost:1883\"\ntopics = [\"plant/{device}\"]\nformat = { type = \"json\" }"];

    fn build(self, _context: &Context<'_>) -> Checked<BuiltSource> {
        let mut problems = Vec::new();
        if !self.url.starts_with("mqtt") {
            problems.push(Problem::new("url", format!("`{}` is not the address of a broker", self.url)));
        }
        for (index, topic) in self.topics.iter().enumerate() {
            if let Some(at) = topic.find('#').filter(|at| at + 1 < topic.len()) {
                let problem =
                    Problem::new(format!("topics[{index}]"), "`#` can stand only at the end of a topic");
                problems.push(problem.within(Some(at..at + 1)));
            }
        }
        let shared = self.topics.iter().enumerate().filter(|(_, topic)| topic.starts_with("$share/"));
        let delivery = Delivery {
            comes_again: self.qos == 1,
            decided_by: "qos",
            in_flight: self.in_flight,
            in_flight_key: "in_flight",
            shared: shared.map(|(index, _)| index).collect(),
            shared_by_topic: self.shared_by_topic,
        };
        match problems.is_empty() {
            false => Err(problems),
            true => Ok(BuiltSource {
                source: Box::new(Nothing),
                output: SourceOutput::Raw,
                topics: self.topics,
                acknowledges: self.qos == 1,
                live: true,
                companion: None,
                connected: None,
                delivery: Some(delivery),
                vitals: None,
                notes: self
                    .client_id
                    .is_none()
                    .then(|| "the session ends with the process".to_owned())
                    .into_iter()
                    .collect(),
            }),
        }
    }
}

/// Rows from a recording.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Recording {
    /// Columns of numbers.
    columns: Vec<String>,
}

impl SourceConfig for Recording {
    const TYPE: &'static str = "recording";
    const EXAMPLES: &'static [&'static str] = &["columns = [\"temp\"]"];

    fn build(self, _context: &Context<'_>) -> Checked<BuiltSource> {
        let fields = self.columns.iter().map(|name| Field::new(name, DataType::Float64, false));
        let schema = Schema::new([time_field()].into_iter().chain(fields).collect::<Vec<_>>());
        Ok(BuiltSource {
            source: Box::new(Nothing),
            output: SourceOutput::Columns(Arc::new(schema)),
            topics: Vec::new(),
            acknowledges: false,
            live: false,
            companion: None,
            connected: None,
            delivery: None,
            vitals: None,
            notes: Vec::new(),
        })
    }
}

/// Makes columns of messages.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Decode {
    /// What is in a message.
    format: Option<Format>,
    /// The columns and their types.
    #[serde(default)]
    fields: BTreeMap<String, FieldType>,
    /// Where time comes from and how late rows may be.
    event_time: Option<EventTimeKeys>,
    /// Topic patterns.
    #[serde(default)]
    topics: Vec<String>,
    /// Whether the source follows the clock.
    #[serde(default)]
    live: bool,
}

/// The format of a message.
#[derive(Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Format {
    /// JSON objects.
    Json {
        /// The path of the time.
        time: Option<String>,
        /// The unit of the time.
        time_unit: Option<TimeUnit>,
    },
    /// One line of comma-separated values.
    Csv {
        /// The names of the columns, in order.
        columns: Vec<String>,
        /// What stands between two values.
        #[serde(default = "comma")]
        #[schemars(length(min = 1, max = 1))]
        separator: String,
    },
}

fn comma() -> String {
    ",".to_owned()
}

/// A unit of time.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum TimeUnit {
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
}

/// The type of a column.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum FieldType {
    F64,
    I64,
    Text,
}

/// Lateness.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EventTimeKeys {
    /// How much later than the newest row a row may come.
    #[serde(default = "no_time")]
    lateness: Period,
    /// After what silence a source holds nothing back.
    idle: Option<Period>,
}

fn no_time() -> Period {
    Period::seconds(0)
}

impl OperatorConfig for Decode {
    const TYPE: &'static str = "decode";
    const EXAMPLES: &'static [&'static str] = &["format = { type = \"json\" }\nfields = { temp = \"f64\" }"];

    fn build(self, context: &Context<'_>) -> Checked<Built> {
        let schema = context.schema();
        if *schema != raw() {
            return match self.format {
                Some(_) => {
                    Err(vec![Problem::new("format", "this source gives columns; there is nothing to decode")])
                }
                None => Ok(Built::new(Nothing, schema.clone(), "")),
            };
        }
        if self.format.is_none() {
            let problem =
                Problem::new("format", "this source gives raw messages, and nothing says what is in them");
            return Err(vec![problem.help("add `format = { type = \"json\" }`")]);
        }
        let mut fields = vec![time_field()];
        for topic in &self.topics {
            let names = topic.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
            fields.extend(names.map(|name| Field::new(name, tag_type(), false)));
        }
        fields.extend(self.fields.iter().map(|(name, kind)| {
            let kind = match kind {
                FieldType::F64 => DataType::Float64,
                FieldType::I64 => DataType::Int64,
                FieldType::Text => DataType::Utf8,
            };
            Field::new(name, kind, true)
        }));
        Ok(Built::new(Nothing, Arc::new(Schema::new(fields)), format!("{:?} {}", self.topics, self.live)))
    }
}

/// Sums up rows over time.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Window {
    /// How long a window is. At least one second.
    size: Period,
    /// How far the next window begins behind the last one.
    slide: Option<Period>,
    /// Columns that tell the windows of one time apart.
    #[serde(default)]
    by: Vec<String>,
    /// The statistics of each column.
    columns: BTreeMap<String, Vec<Stat>>,
}

/// A statistic.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Stat {
    Mean,
    Max,
    Kurtosis,
}

impl OperatorConfig for Window {
    const TYPE: &'static str = "window";
    const EXAMPLES: &'static [&'static str] =
        &["size = \"10s\"\ncolumns = { temp = [\"mean\"] }", "size = \"1m\"\nslide = \"10s\"\ncolumns = {}"];

    fn build(self, context: &Context<'_>) -> Checked<Built> {
        let schema = context.schema();
        let mut problems = Vec::new();
        if self.slide.is_some_and(|slide| slide > self.size) {
            let problem = Problem::new(
                "slide",
                "`slide` is longer than `size`: rows between two windows would be lost",
            );
            problems.push(problem.help(format!("write at most \"{}\"", self.size)));
        }
        for (index, name) in self.by.iter().enumerate() {
            if schema.field_with_name(name).is_err() {
                problems.push(Problem::no_column(format!("by[{index}]"), name, schema));
            }
        }
        for name in self.columns.keys() {
            if schema.field_with_name(name).is_err() {
                problems.push(Problem::no_column(format!("columns.{name}"), name, schema));
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut fields = vec![time_field()];
        for (name, stats) in &self.columns {
            let name = |stat: &Stat| format!("{name}_{}", format!("{stat:?}").to_lowercase());
            fields.extend(stats.iter().map(|stat| Field::new(name(stat), DataType::Float64, true)));
        }
        let meaning = format!("{} {:?} {:?} {:?}", self.size, self.slide, self.by, self.columns);
        let kept = vec![Kept { what: "windows", max: 1000, key: "max_windows", bytes: 50 }];
        let built = Built::new(Nothing, Arc::new(Schema::new(fields)), meaning);
        Ok(built.port("late", schema.clone()).keeps(&self.by, kept))
    }
}

/// Lets rows pass.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// Words that must be columns.
    #[serde(rename = "where")]
    condition: String,
}

impl OperatorConfig for Filter {
    const TYPE: &'static str = "filter";
    const EXAMPLES: &'static [&'static str] = &["where = \"temp\""];

    fn build(self, context: &Context<'_>) -> Checked<Built> {
        let mut problems = Vec::new();
        let names: Vec<&str> = context.schema().fields().iter().map(|field| field.name().as_str()).collect();
        let mut at = 0;
        for word in self.condition.split(' ') {
            if !word.is_empty() && !names.contains(&word) {
                let problem = Problem::new("where", format!("column \"{word}\" does not exist"));
                let problem = match nearest(word, names.iter().copied()) {
                    Some(near) => problem.help(format!("did you mean \"{near}\"?")),
                    None => problem,
                };
                problems.push(problem.within(Some(at..at + word.len())));
            }
            at += word.len() + 1;
        }
        match problems.is_empty() {
            true => Ok(Built::new(Nothing, context.schema().clone(), self.condition)),
            false => Err(problems),
        }
    }
}

/// Joins streams of equal columns.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Union {}

impl OperatorConfig for Union {
    const TYPE: &'static str = "union";
    const INPUTS: Inputs = Inputs::Many;
    const EXAMPLES: &'static [&'static str] = &[""];

    fn build(self, context: &Context<'_>) -> Checked<Built> {
        let schemas: Vec<&SchemaRef> = context.inputs.iter().map(|input| &input.schema).collect();
        assert!(schemas.windows(2).all(|pair| pair[0] == pair[1]), "the planner has made them equal");
        Ok(Built::new(Nothing, context.schema().clone(), ""))
    }
}

/// Sends rows away.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Cloud {
    /// Where to.
    url: String,
    /// Headers of each request.
    #[serde(default)]
    headers: BTreeMap<String, Value>,
    /// What to do when it fails.
    retry: Option<Retry>,
    /// How many requests at a time.
    #[schemars(range(min = 1, max = 64))]
    parallel: Option<u32>,
    /// One topic or several.
    to: Option<OneOrMany>,
}

/// A text or a secret.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Value {
    /// The text itself.
    Plain(String),
    /// Where it is hidden.
    Hidden(Secret),
}

/// How to try again.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Retry {
    /// Not at all.
    Never,
    /// Always after the same time.
    Every(Period),
    /// Ever later.
    Backoff {
        /// The first pause.
        first: Period,
        /// The longest pause.
        longest: Period,
    },
}

/// One or several.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl SinkConfig for Cloud {
    const TYPE: &'static str = "cloud";
    const EXAMPLES: &'static [&'static str] = &["url = \"https://example.com\""];

    fn build(self, _context: &Context<'_>) -> Checked<BuiltSink> {
        Ok(BuiltSink {
            sink: Box::new(Nothing),
            peer: Some(Box::new(Nothing)),
            letters: None,
            notes: Vec::new(),
        })
    }
}

/// Prints rows.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Print {
    /// How a row looks.
    #[serde(default)]
    format: PrintFormat,
}

/// How a row looks.
#[derive(Default, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum PrintFormat {
    #[default]
    Ndjson,
    Csv,
}

impl SinkConfig for Print {
    const TYPE: &'static str = "print";
    const EXAMPLES: &'static [&'static str] = &["", "format = \"csv\""];

    fn build(self, _context: &Context<'_>) -> Checked<BuiltSink> {
        Ok(BuiltSink { sink: Box::new(Nothing), peer: None, letters: None, notes: Vec::new() })
    }
}
