//! The pipeline file's side of the `file` sink.

use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

use super::writer::{FileSettings, FileSink};
use crate::codec::text;
use crate::registry::{BuiltSink, Checked, Context, Problem, SinkConfig};
use crate::sink::encode::{RowFormat, has_frames};
use crate::units::{Period, Size};

/// Writes rows to files, exactly once: what was written behind the last checkpoint is cut off at a restart and
/// written again. A row can be read a moment after it comes; it is safe at the next checkpoint.
///
/// Without `rotate` there is one file that grows. With it, the open file ends in `.part`, and a finished one gets its
/// numbered name (`out-000001.ndjson`) when everything in it is committed. Files turn over at checkpoints only.
/// Parquet shows when it is finished; until then its rows are kept in a `.part` file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// Where to write; directories on the way are made. Relative to the directory that Tidegate was started in.
    pub path: String,
    /// `ndjson`, `csv`, `parquet`, or `frames` for what `compress` makes. Without it the file's ending decides
    /// (`.ndjson`, `.jsonl`, `.csv`, `.parquet`, `.tgf`).
    #[serde(default)]
    pub format: Option<FileFormat>,
    /// When to begin a new file; without it, never.
    #[serde(default)]
    pub rotate: Option<Rotate>,
    /// What happens to a file that is there when there is no checkpoint to go on from: `append` writes behind it,
    /// `replace` begins anew.
    #[serde(default)]
    pub existing: Existing,
}

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    /// One JSON object per line.
    Ndjson,
    /// Comma-separated values with a header line.
    Csv,
    /// Apache Parquet, zstd-compressed.
    Parquet,
    /// Compressed frames; `tidegate decode` reads them.
    Frames,
}

/// When to begin a new file: at the first checkpoint at which one of these is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// The file is this old.
    #[serde(default)]
    pub every: Option<Period>,
    /// The file is this large.
    #[serde(default)]
    pub size: Option<Size>,
}

/// What to do with a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Existing {
    /// Write behind what is there.
    #[default]
    Append,
    /// Begin anew.
    Replace,
}

impl SinkConfig for FileConfig {
    const TYPE: &'static str = "file";
    const EXAMPLES: &'static [&'static str] = &[
        r#"path = "out/windows.ndjson""#,
        r#"path = "out/windows.parquet"
rotate = { every = "1h", size = "64MiB" }"#,
    ];

    fn build(self, context: &Context<'_>) -> Checked<BuiltSink> {
        let mut problems = Vec::new();
        let ending = Path::new(&self.path).extension().and_then(|ending| ending.to_str()).unwrap_or("");
        let format = self.format.or(match ending {
            "ndjson" | "jsonl" | "json" => Some(FileFormat::Ndjson),
            "csv" => Some(FileFormat::Csv),
            "parquet" => Some(FileFormat::Parquet),
            "tgf" => Some(FileFormat::Frames),
            _ => None,
        });
        if Path::new(&self.path).file_name().is_none() {
            problems.push(Problem::new("path", "this is not the path of a file"));
        }
        if self.rotate.is_some_and(|rotate| rotate.every.is_none() && rotate.size.is_none()) {
            problems.push(Problem::new("rotate", "say when: `every`, `size` or both"));
        }
        if self.rotate.and_then(|rotate| rotate.every).is_some_and(|every| every.0.is_zero()) {
            problems.push(Problem::new("rotate.every", "must be longer than nothing"));
        }
        let Some(format) = format else {
            problems.push(
                Problem::new("path", format!("the ending `{ending}` says no format"))
                    .help("add `format = \"ndjson\"`, \"csv\", \"parquet\" or \"frames\""),
            );
            return Err(problems);
        };
        check_columns(format, context, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut notes = Vec::new();
        if format == FileFormat::Parquet && self.rotate.is_none() {
            notes
                .push("Parquet without `rotate`: the file shows only when all sources have ended".to_owned());
        }
        let settings = FileSettings {
            path: self.path.into(),
            rows: match format {
                FileFormat::Ndjson => Some(RowFormat::Ndjson),
                FileFormat::Csv => Some(RowFormat::Csv),
                FileFormat::Frames => Some(RowFormat::Frames),
                FileFormat::Parquet => None,
            },
            rotate_every: self.rotate.and_then(|rotate| rotate.every).map(|every| every.0),
            rotate_bytes: self.rotate.and_then(|rotate| rotate.size).map(|size| size.0),
            replace: self.existing == Existing::Replace,
            schema: context.schema().clone(),
        };
        Ok(BuiltSink { sink: Box::new(FileSink::new(settings)), peer: None, letters: None, notes })
    }
}

fn check_columns(format: FileFormat, context: &Context<'_>, problems: &mut Vec<Problem>) {
    let first = context.schema();
    for input in context.inputs {
        match format {
            FileFormat::Frames if !has_frames(&input.schema) => problems.push(
                Problem::new("format", format!("`{}` has no column `frame`", input.name))
                    .help("put an operator of type `compress` in front, or choose another format"),
            ),
            FileFormat::Csv | FileFormat::Parquet if input.schema != *first => problems.push(
                Problem::new(
                    "",
                    format!("`{}` has other columns than `{}`", input.name, context.inputs[0].name),
                )
                .help("a file of this format has one set of columns: use one sink for each, or `ndjson`"),
            ),
            FileFormat::Ndjson | FileFormat::Csv => {
                if let Err(error) = text::check_schema(&input.schema) {
                    problems.push(Problem::new("format", error.message));
                }
            }
            _ => {}
        }
    }
}
