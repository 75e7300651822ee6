//! `decode`: messages to columns, and the time of the data: watermarks, idleness, rows ahead of the clock. Pure.
//!
//! This file is the configuration as it is written; `plan` checks it against the input and builds, `running`
//! is the operator, `sample` finds columns in messages, `tags` finds tags in topics, `progress` makes the watermark.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::codec::fields::FieldKind;
use crate::codec::timestamp::TimeUnit;
use crate::registry::{Built, Checked, Context, OperatorConfig};
use crate::units::Period;

mod plan;
mod progress;
mod running;
mod sample;
mod tags;
#[cfg(test)]
mod tests;

/// Decodes messages into typed columns and says how far time has come.
///
/// Every source has this step built in: `format`, `fields` and `event_time` stand in the source's own table, and
/// inputs that name the source read decoded rows. As an operator it decodes a column of bytes or text that an
/// earlier step left as it was.
///
/// Emitted columns: `time` (UTC, microseconds), then for a source the tags of its topics and for an operator all
/// other columns of the input, then the fields in the order of the configuration. A message with several readings
/// becomes several rows. A field that is absent or null is null.
///
/// A message that cannot be used leaves no row. It is counted (`bad_payloads`, by reason: `malformed`,
/// `wrong_type`, `out_of_range`, `bad_time`, `not_utf8`, `empty`, `too_deep`, `too_large`, `missing`) and leaves
/// on the port `bad` with its `time` of arrival, `topic`, `reason` and `payload`; in an operator with the other
/// columns of the input in place of the topic.
///
/// The watermark, which closes windows downstream, follows the data: it is the largest multiple of `grid` that is
/// not behind the largest `time` so far less `lateness`. It moves right behind the row that moves it, wherever
/// batches begin and end. An operator whose `format` names no `time` keeps the `time` and the watermark
/// of its input instead.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecodeConfig {
    /// What a message looks like. Without it a source gives messages as they are, in the columns `time` (of
    /// arrival), tags, `topic` and `payload`.
    format: Option<Format>,
    /// The columns and their types, for instance `{ temp = "f64", rpm = "i64" }`. A field stands in the message
    /// under its own name, or under `path`. A value of another type makes the message bad. Without them a source of
    /// JSON, or of CSV that names its columns, finds them in its first messages when it runs (up to 100, or those of
    /// two seconds), the time too if `format` names none, and keeps them in the data directory.
    #[serde(default)]
    fields: Fields,
    /// How the time of the data goes on.
    event_time: Option<EventTimeKeys>,
    /// The column to decode, of bytes or text. Only in an operator; a source decodes its messages.
    column: Option<String>,
    /// Whether the rows come as they happen, so that `idle` and `ahead` apply. A source knows this itself; in an
    /// operator, which cannot know it, it is to be said.
    #[serde(default)]
    live: bool,
    /// The topic patterns of the source whose messages these are; none in an operator. Set by the engine.
    #[serde(default)]
    #[schemars(skip)]
    topics: Option<Vec<String>>,
}

/// What a message looks like.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Format {
    /// JSON (RFC 8259): an object is one reading, an array of objects one reading each.
    Json {
        /// Where the time of a reading stands: a path of keys with dots between them, or a list of keys where
        /// keys have dots in them. Without it the time is that of arrival.
        time: Option<Path>,
        /// What a number there counts, or `rfc3339` for text.
        time_unit: Option<Unit>,
        /// Where in the object an array of readings stands, a row each. Fields that a reading lacks, the time
        /// too, are taken from the object around it.
        array: Option<Path>,
        /// Whether a value is taken that says the same in another type: `"12.5"` for a number, `1` or `"true"`
        /// for true, `17` for a text.
        #[serde(default = "yes")]
        lenient: bool,
    },
    /// CSV (RFC 4180): one or more lines of values.
    Csv {
        /// What stands between two values: `,` `;` `|` `:` `#`, a tab (`"\t"`) or a space.
        #[serde(default = "comma")]
        #[schemars(length(min = 1, max = 1))]
        delimiter: String,
        /// Whether every message begins with a line of column names.
        #[serde(default)]
        header: bool,
        /// The names of the columns in order, where no header says them. Without both, columns are found by
        /// number: `path = "0"` is the first.
        #[serde(default)]
        columns: Vec<String>,
        /// The column with the time. Without it the time is that of arrival.
        time: Option<String>,
        /// What a number there counts, or `rfc3339` for text.
        time_unit: Option<Unit>,
    },
    /// One bare value, for instance `23.5`; the time is that of arrival.
    Value {
        /// The column that it goes to. Its type stands in `fields`; without `fields` it is `f64`. If nothing is
        /// said it is the one in `fields`, or else `value`.
        #[serde(default)]
        column: Option<String>,
    },
    /// Messages are left as they are: columns `time` (of arrival), tags, `topic` and `payload`.
    None {},
}

fn yes() -> bool {
    true
}

fn comma() -> String {
    ",".to_owned()
}

/// The way to a value.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Path {
    /// Keys with dots between them: `motor.bearing.temp`.
    Dotted(String),
    /// Keys one by one, which may have dots in them: `["ns=2;s=Line.Speed", "value"]`.
    Keys(Vec<String>),
}

impl Path {
    fn keys(&self) -> Vec<String> {
        match self {
            Self::Dotted(path) => path.split('.').map(str::to_owned).collect(),
            Self::Keys(keys) => keys.clone(),
        }
    }

    /// As a name that may have dots in it.
    fn name(&self) -> String {
        match self {
            Self::Dotted(path) => path.clone(),
            Self::Keys(keys) => keys.join("."),
        }
    }
}

/// What a number counts since 1970, or that it is a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Unit {
    /// Whole seconds or seconds with a fraction.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
    /// Seconds with a fraction; the same as `s`.
    FloatS,
    /// Text as in `2023-11-14T22:13:20.123Z`; without an offset it is UTC.
    Rfc3339,
    /// Text as in `rfc3339`, or a number whose size tells its unit: right for times from March 1973 to 5138.
    #[default]
    Auto,
}

impl Unit {
    fn time_unit(self) -> TimeUnit {
        match self {
            Self::S | Self::FloatS => TimeUnit::Seconds,
            Self::Ms => TimeUnit::Milliseconds,
            Self::Us => TimeUnit::Microseconds,
            Self::Ns => TimeUnit::Nanoseconds,
            Self::Rfc3339 => TimeUnit::Rfc3339,
            Self::Auto => TimeUnit::Auto,
        }
    }
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum FieldType {
    /// A number of double precision.
    F64,
    /// A number of single precision, half the size.
    F32,
    /// An integer of 64 bits.
    I64,
    /// True or false.
    Bool,
    /// A text.
    Text,
    /// A time; text or a number, as for the unit `auto`.
    Time,
    /// A time in seconds.
    TimeS,
    /// A time in milliseconds.
    TimeMs,
    /// A time in microseconds.
    TimeUs,
    /// A time in nanoseconds.
    TimeNs,
    /// A time as text.
    TimeRfc3339,
}

impl FieldType {
    fn kind(self) -> FieldKind {
        match self {
            Self::F64 => FieldKind::F64,
            Self::F32 => FieldKind::F32,
            Self::I64 => FieldKind::I64,
            Self::Bool => FieldKind::Bool,
            Self::Text => FieldKind::Text,
            Self::Time => FieldKind::Time(TimeUnit::Auto),
            Self::TimeS => FieldKind::Time(TimeUnit::Seconds),
            Self::TimeMs => FieldKind::Time(TimeUnit::Milliseconds),
            Self::TimeUs => FieldKind::Time(TimeUnit::Microseconds),
            Self::TimeNs => FieldKind::Time(TimeUnit::Nanoseconds),
            Self::TimeRfc3339 => FieldKind::Time(TimeUnit::Rfc3339),
        }
    }
}

/// A column: its type, or its type and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
enum FieldSpec {
    /// Its type; it stands in the message under its own name.
    Type(FieldType),
    /// Its type and its place.
    Placed(PlacedField),
}

/// A column that stands in the message in another place than under its own name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PlacedField {
    /// The type of the column.
    #[serde(rename = "type")]
    kind: FieldType,
    /// Where it stands: a path of keys with dots between them (`motor.temp`), or a list of keys; in CSV the name
    /// of a column or its number from 0.
    path: Option<Path>,
}

impl FieldSpec {
    fn kind(&self) -> FieldKind {
        match self {
            Self::Type(kind) | Self::Placed(PlacedField { kind, .. }) => kind.kind(),
        }
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::Type(_) => None,
            Self::Placed(placed) => placed.path.as_ref(),
        }
    }
}

/// The columns in the order in which the table gives them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Fields(Vec<(String, FieldSpec)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of columns and their types, as in { temp = \"f64\" }")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

impl JsonSchema for Fields {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Fields".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        std::collections::BTreeMap::<String, FieldSpec>::json_schema(generator)
    }
}

/// How the time of the data goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EventTimeKeys {
    /// How far a row may be behind the latest one and still be in time: what waits for rows waits so much longer.
    #[serde(default = "lateness")]
    lateness: Period,
    /// A source that gave no row for so long no longer holds back what it is joined with, until its next row. A
    /// recorded source, or one that is replayed, is never idle.
    #[serde(default = "idle")]
    idle: Period,
    /// A row that is further than this ahead of the gateway's clock comes from a clock gone wrong: it does not move
    /// time, is counted (`ahead_rows`) and leaves on the port `ahead`. Not for recorded sources, and not while the
    /// gateway's clock stands before 2024, as it does at start in a gateway without a battery for it.
    #[serde(default = "ahead")]
    ahead: Period,
    /// The steps in which the watermark moves. Finer steps close windows sooner and make smaller batches. If
    /// nothing is said it is a fifth of `lateness`, but between 100 ms and 1 s.
    grid: Option<Period>,
}

impl Default for EventTimeKeys {
    fn default() -> Self {
        Self { lateness: lateness(), idle: idle(), ahead: ahead(), grid: None }
    }
}

fn lateness() -> Period {
    Period::seconds(5)
}

fn idle() -> Period {
    Period::seconds(30)
}

fn ahead() -> Period {
    Period::seconds(300)
}

impl OperatorConfig for DecodeConfig {
    const TYPE: &'static str = "decode";
    const EXAMPLES: &'static [&'static str] = &[
        r#"# JSON with a time of its own.
column = "payload"
format = { type = "json", time = "ts", time_unit = "ms" }
fields = { a = "f64", b = "f64" }
event_time = { lateness = "2s" }
"#,
        r#"# Rows keep the time of the input; one field under another name.
column = "payload"
format = { type = "json" }
fields = { pressure = { type = "f64", path = "a" }, b = "f64" }
"#,
        r#"# A line of values in a text.
column = "note"
format = { type = "csv", delimiter = ";", columns = ["state", "level"] }
fields = { state = "text", level = "f64" }
"#,
        r#"# A text that is a number.
column = "note"
format = { type = "value", column = "setpoint" }
"#,
    ];

    fn build(self, context: &Context<'_>) -> Checked<Built> {
        plan::build(self, context)
    }
}
