//! The pipeline file's side of the `file` source.

use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

use super::pace::Pace;
use super::parquet::ColumnPlan;
use super::reader::{FileSettings, FileSource, Layout};
use super::text::{PaceTime, TextLayout};
use crate::codec::timestamp::TimeUnit;
use crate::registry::{BuiltSource, Checked, Context, Problem, SourceConfig, SourceOutput};

/// Reads files once, from the first to the last row, and ends: recorded data for tests, back-testing and batch work.
///
/// NDJSON and CSV files give one raw message per record, its topic the file's name without directories; `format`
/// and `fields` say what is in it. Records have no time of arrival of their own: the first arrives at
/// 1970-01-01T00:00:00Z and every other one a millisecond after the one before, so that each run gives the same
/// results. Parquet files bring their columns with them. A restart goes on behind the last row that was committed;
/// a file that has become shorter since is an error.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// The file. Relative to the directory that Tidegate was started in.
    #[serde(default)]
    pub path: Option<String>,
    /// Several files instead, read one after the other. All are of one kind, and Parquet files have the same columns.
    #[serde(default)]
    #[schemars(length(max = 10_000))]
    pub paths: Vec<String>,
    /// `ndjson`, `csv`, `parquet`, or `messages`: recorded MQTT messages, one per line, a topic, a space and the
    /// payload, as `mosquitto_sub -v` writes them. Without it the file's ending decides (`.ndjson`, `.jsonl`, `.json`,
    /// `.csv`, `.tsv`, `.parquet`, `.messages`).
    #[serde(default)]
    pub kind: Option<FileKind>,
    /// For recorded messages: topic patterns whose `{names}` become tag columns, as in the `mqtt` source.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub topics: Vec<String>,
    /// For CSV: whether the first line of each file names the columns. It then goes in front of every message, so
    /// `format` says `header = true` too. Without a header line `format` lists the `columns`.
    #[serde(default)]
    pub header: Option<bool>,
    /// For CSV: what stands between cells, the same as in `format`; `,` if nothing is said, a tab for `.tsv`.
    #[serde(default)]
    #[schemars(length(min = 1, max = 1))]
    pub delimiter: Option<String>,
    /// Where the event time is. For Parquet the column that becomes `time` (without it, the column `time`). For NDJSON
    /// and CSV only `pace` needs it: the path of the value, as `time` in `format`.
    #[serde(default)]
    pub time: Option<String>,
    /// Unit of event times that are numbers: `s`, `ms`, `us` or `ns`; `auto` (by size) if nothing is said.
    #[serde(default)]
    pub time_unit: Option<String>,
    /// For Parquet: columns of text that are tags, for columns that are not dictionaries in the file already.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub tags: Vec<String>,
    /// Rows per second at most. Without `rate` and `pace` the file is read as fast as the pipeline takes it.
    #[serde(default)]
    pub rate: Option<f64>,
    /// Give rows at the speed of their event times: 1.0 as they were recorded, 60.0 an hour in a minute. The first row
    /// comes at once.
    #[serde(default)]
    pub pace: Option<f64>,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// One JSON value per line.
    Ndjson,
    /// Comma-separated values.
    Csv,
    /// Apache Parquet.
    Parquet,
    /// Recorded MQTT messages: topic, space, payload.
    Messages,
}

/// Slowest and fastest pace that is taken.
const PACE: std::ops::RangeInclusive<f64> = 1e-6..=1e9;

impl SourceConfig for FileConfig {
    const TYPE: &'static str = "file";
    const EXAMPLES: &'static [&'static str] = &[
        r#"path = "data/press.ndjson"
format = { type = "json", time = "ts", time_unit = "ms" }
fields = { temp = "f64", vib = "f64" }"#,
        r#"paths = ["data/meters-1.csv", "data/meters-2.csv"]
time = "ts"
pace = 60.0
format = { type = "csv", header = true, time = "ts" }
fields = { power = "f64", energy = "f64" }"#,
        r#"# What `mosquitto_sub -v -t 'plant/#' > plant.messages` has recorded.
path = "data/plant.messages"
topics = ["plant/{line}/{device}/telemetry"]
format = { type = "json", time = "ts", time_unit = "ms" }
fields = { temp = "f64", vib = "f64" }"#,
    ];

    fn build(self, context: &Context<'_>) -> Checked<BuiltSource> {
        let mut problems = Vec::new();
        let paths = self.all_paths(&mut problems);
        let kind = self.kind_of(&paths, &mut problems);
        let pace = self.pace(&mut problems);
        let unit = self.time_unit.as_deref().unwrap_or("auto").parse::<TimeUnit>();
        let unit = unit.map_err(|error| problems.push(Problem::new("time_unit", error.message))).ok();
        let (Some(kind), Some(unit), Some(first)) = (kind, unit, paths.first()) else { return Err(problems) };
        self.refuse_foreign_keys(kind, &mut problems);
        // The same rules as for the source whose messages these were.
        crate::source::mqtt::config::filters(&self.topics, &mut problems);
        let mut notes = Vec::new();
        let (layout, output) = match kind {
            FileKind::Parquet => {
                let plan = self.columns(first, unit, context).map_err(|found| problems.extend(found)).ok();
                let Some(plan) = plan.filter(|_| problems.is_empty()) else { return Err(problems) };
                notes.extend(plan.left_out.iter().map(|left_out| format!("{first}: {left_out}")));
                let schema = plan.schema.clone();
                (Layout::Parquet(Box::new(plan)), SourceOutput::Columns(schema))
            }
            FileKind::Ndjson | FileKind::Csv | FileKind::Messages => {
                let layout = self.text_layout(kind, &paths, unit, pace, &mut problems);
                let Some(layout) = layout.filter(|_| problems.is_empty()) else { return Err(problems) };
                (Layout::Text(layout), SourceOutput::Raw)
            }
        };
        let topics = self.topics;
        let settings = FileSettings {
            paths: paths.into_iter().map(Into::into).collect(),
            layout,
            pace,
            batch: context.batch,
        };
        Ok(BuiltSource {
            source: Box::new(FileSource::new(settings)),
            output,
            topics,
            acknowledges: false,
            live: false,
            companion: None,
            connected: None,
            delivery: None,
            vitals: None,
            notes,
        })
    }
}

impl FileConfig {
    fn all_paths(&self, problems: &mut Vec<Problem>) -> Vec<String> {
        let paths = match (&self.path, self.paths.is_empty()) {
            (Some(path), true) => vec![path.clone()],
            (None, false) => self.paths.clone(),
            (Some(_), false) => {
                problems.push(
                    Problem::new("paths", "`path` and `paths` together").help("put all files into `paths`"),
                );
                Vec::new()
            }
            (None, true) => {
                problems
                    .push(Problem::new("", "no file is named").help("add for example `path = \"data.csv\"`"));
                Vec::new()
            }
        };
        for (index, path) in paths.iter().enumerate() {
            if Path::new(path).file_name().is_none() {
                let at = if self.path.is_some() { "path".to_owned() } else { format!("paths[{index}]") };
                problems.push(Problem::new(at, format!("`{path}` is not the path of a file")));
            }
        }
        paths
    }

    fn kind_of(&self, paths: &[String], problems: &mut Vec<Problem>) -> Option<FileKind> {
        if self.kind.is_some() {
            return self.kind;
        }
        let kinds: Vec<Option<FileKind>> = paths.iter().map(|path| by_ending(path)).collect();
        for (index, (path, kind)) in paths.iter().zip(&kinds).enumerate() {
            let at = if self.path.is_some() { "path".to_owned() } else { format!("paths[{index}]") };
            if kind.is_none() {
                problems.push(
                    Problem::new(at, format!("the ending of `{path}` says no kind of file"))
                        .help("add `kind = \"ndjson\"`, \"csv\", \"parquet\" or \"messages\""),
                );
            } else if kinds.first() != Some(kind) {
                problems.push(
                    Problem::new(at, "this file is of another kind than the first one")
                        .help("make a source for each kind, and put `union` behind them"),
                );
            }
        }
        kinds.first().copied().flatten()
    }

    fn pace(&self, problems: &mut Vec<Problem>) -> Pace {
        for (key, value) in [("rate", self.rate), ("pace", self.pace)] {
            if let Some(value) = value.filter(|value| !PACE.contains(value)) {
                let range = "must be from 0.000001 to 1000000000";
                problems.push(Problem::new(key, format!("`{key} = {value}` is out of range: it {range}")));
            }
        }
        match (self.rate, self.pace) {
            (Some(_), Some(_)) => {
                problems.push(
                    Problem::new("rate", "`rate` and `pace` together")
                        .help("leave one of them out: `pace` follows event time, `rate` does not"),
                );
                Pace::Fast
            }
            (Some(rows_per_second), None) => Pace::Rate { rows_per_second },
            (None, Some(speed)) => Pace::EventTime { speed },
            (None, None) => Pace::Fast,
        }
    }

    fn refuse_foreign_keys(&self, kind: FileKind, problems: &mut Vec<Problem>) {
        let parquet = kind == FileKind::Parquet;
        let wrong = [
            ("header", self.header.is_some() && kind != FileKind::Csv, "CSV"),
            ("delimiter", self.delimiter.is_some() && kind != FileKind::Csv, "CSV"),
            ("tags", !self.tags.is_empty() && !parquet, "Parquet"),
            ("topics", !self.topics.is_empty() && kind != FileKind::Messages, "recorded messages in"),
        ];
        for (key, _, of) in wrong.into_iter().filter(|(_, wrong, _)| *wrong) {
            problems.push(Problem::new(key, format!("`{key}` is for {of} files only")).help("leave it out"));
        }
        if !parquet && self.pace.is_none() && self.time.is_some() {
            problems.push(
                Problem::new("time", "for NDJSON and CSV this is only needed for `pace`")
                    .help("the time of rows belongs into `format`: `format = { time = \"…\" }`"),
            );
        }
    }

    fn text_layout(
        &self,
        kind: FileKind,
        paths: &[String],
        unit: TimeUnit,
        pace: Pace,
        problems: &mut Vec<Problem>,
    ) -> Option<TextLayout> {
        let tabs = paths.first().is_some_and(|path| path.ends_with(".tsv"));
        let delimiter = match self.delimiter.as_deref().map(str::as_bytes) {
            None if tabs => b'\t',
            None => b',',
            Some([byte]) if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n') => *byte,
            Some(_) => {
                problems.push(Problem::new("delimiter", "a delimiter is one ASCII character, not a quote"));
                return None;
            }
        };
        let csv = (kind == FileKind::Csv).then_some(delimiter);
        let header = csv.is_some() && self.header.unwrap_or(true);
        let time = match (pace, &self.time) {
            (Pace::EventTime { .. }, Some(path)) => match PaceTime::new(path, unit, csv, header) {
                Ok(time) => Some(time),
                Err(error) => {
                    problems.push(Problem::new("time", error.message));
                    return None;
                }
            },
            (Pace::EventTime { .. }, None) => {
                problems.push(
                    Problem::new("pace", "to pace by event time, the place of the time must be known")
                        .help("add `time = \"…\"`, the same as in `format`, or use `rate`"),
                );
                return None;
            }
            _ => None,
        };
        Some(TextLayout { csv, header, topics: kind == FileKind::Messages, time })
    }

    fn columns(&self, path: &str, unit: TimeUnit, context: &Context<'_>) -> Checked<ColumnPlan> {
        let at = if self.path.is_some() { "path" } else { "paths[0]" };
        let problem = |error: crate::Error| vec![Problem::new(at, error.message)];
        let bytes = context.files.read(path).map_err(problem)?;
        let schema = super::parquet::schema_of(bytes).map_err(|error| problem(error.at(path)))?;
        ColumnPlan::new(&schema, self.time.as_deref(), unit, &self.tags)
    }
}

fn by_ending(path: &str) -> Option<FileKind> {
    match Path::new(path).extension()?.to_str()? {
        "ndjson" | "jsonl" | "json" => Some(FileKind::Ndjson),
        "csv" | "tsv" => Some(FileKind::Csv),
        "parquet" => Some(FileKind::Parquet),
        "messages" => Some(FileKind::Messages),
        _ => None,
    }
}
