//! Tidegate inside another program: ends of a pipeline that the program itself holds.
//!
//! A pipeline file for such a program has sources and sinks of type `rows`, known to [`registry`] and not to the
//! command line. There are two ways to run it:
//!
//! - whole, with files, brokers, log and checkpoints: [`feed`] gives a source its rows as a [`Stream`], [`take`] gives
//!   a sink's rows as one, and [`runtime::pipeline::start`](crate::runtime::pipeline::start) runs it on the program's
//!   tokio;
//! - the engine alone, without tokio, clock or thread: [`Engine::new`](crate::core::Engine::new) on the pipeline's
//!   graph, records in, effects out; [`fit`] makes a batch what a source has declared.

use std::pin::Pin;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};

use crate::builtin;
use crate::config::Pipeline;
use crate::core::ends::SourceBatch;
use crate::core::schema::{TIME, tag_type, time_field, time_type, type_name};
use crate::core::{DeliveryId, Epoch, Position, Sink, Source};
use crate::error::{Error, Result};
use crate::registry::{
    BuiltSink, BuiltSource, Checked, Context, Problem, Registry, SinkConfig, SourceConfig, SourceOutput,
};

/// The name of both types.
const ROWS: &str = "rows";

/// Batches that wait between a sink and the program at most.
const TAKEN_MAX: usize = 4;

/// All built-in components, and the sources and sinks that a program holds itself.
pub fn registry() -> Registry {
    builtin::registry().source::<RowsSourceConfig>().sink::<RowsSinkConfig>()
}

/// Rows that the program around the engine gives, with a column `time` and those named here.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RowsSourceConfig {
    /// The columns beside `time`, for instance `{ device = "tag", vib = "f64" }`; values may be null.
    pub columns: IndexMap<String, ColumnKind>,
    /// Whether the rows come as they happen, so that `idle` and `ahead` of `event_time` apply.
    #[serde(default)]
    pub live: bool,
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// A text out of few: the name of a device, a line. Keys are mostly of this kind.
    Tag,
    /// A number of double precision.
    F64,
    /// An integer of 64 bits.
    I64,
    /// True or false.
    Bool,
    /// Any text.
    Text,
    /// Bytes, for an operator that decodes them.
    Bytes,
    /// A moment beside the row's own `time`.
    Time,
}

impl ColumnKind {
    fn data_type(self) -> DataType {
        match self {
            Self::Tag => tag_type(),
            Self::F64 => DataType::Float64,
            Self::I64 => DataType::Int64,
            Self::Bool => DataType::Boolean,
            Self::Text => DataType::Utf8,
            Self::Bytes => DataType::Binary,
            Self::Time => time_type(),
        }
    }
}

impl SourceConfig for RowsSourceConfig {
    const TYPE: &'static str = ROWS;
    const EXAMPLES: &'static [&'static str] = &[r#"columns = { line = "tag", device = "tag", vib = "f64" }
event_time = { lateness = "5s" }"#];

    fn build(self, _context: &Context<'_>) -> Checked<BuiltSource> {
        if self.columns.contains_key(TIME) {
            let problem = Problem::new(format!("columns.{TIME}"), "every row has a `time` already");
            return Err(vec![problem.help("leave it out here")]);
        }
        let columns = self.columns.iter().map(|(name, kind)| Field::new(name, kind.data_type(), true));
        let schema = Arc::new(Schema::new([time_field()].into_iter().chain(columns).collect::<Vec<_>>()));
        Ok(BuiltSource {
            source: Box::new(StreamSource { rows: None, schema: schema.clone(), given: 0 }),
            output: SourceOutput::Columns(schema),
            topics: Vec::new(),
            acknowledges: false,
            live: self.live,
            companion: None,
            connected: None,
            delivery: None,
            vitals: None,
            notes: vec!["its rows come from the program around it".to_owned()],
        })
    }
}

/// Rows for the program around the engine. They count as delivered when the program has them: after a restart, those
/// since the last checkpoint come again.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RowsSinkConfig {}

impl SinkConfig for RowsSinkConfig {
    const TYPE: &'static str = ROWS;
    const EXAMPLES: &'static [&'static str] = &[""];

    fn build(self, _context: &Context<'_>) -> Checked<BuiltSink> {
        let notes = vec!["its rows go to the program around it".to_owned()];
        Ok(BuiltSink {
            sink: Box::new(ChannelSink { rows: Outlet::Missing }),
            peer: None,
            letters: None,
            notes,
        })
    }
}

/// Gives a pipeline's `rows` source its rows. The source ends when the stream does; while the pipeline is full the
/// stream is not polled. Batches are made to [`fit`]; one that does not ends the pipeline with the reason.
///
/// # Errors
/// If the pipeline has no such source, or it is of another type.
pub fn feed(
    pipeline: &mut Pipeline,
    source: &str,
    rows: impl Stream<Item = RecordBatch> + Send + 'static,
) -> Result<()> {
    let planned = pipeline
        .sources
        .iter_mut()
        .find(|planned| planned.name == source && planned.kind == ROWS)
        .ok_or_else(|| Error::config(format!("the pipeline has no source `{source}` of type `{ROWS}`")))?;
    let schema = planned.schema.clone();
    planned.source = Box::new(StreamSource { rows: Some(Box::pin(rows)), schema, given: 0 });
    Ok(())
}

/// The rows of a pipeline's `rows` sink. The stream ends with the pipeline. It must be read: four batches wait for the
/// program, then the pipeline waits too; when the stream is dropped, the pipeline ends with an error.
///
/// # Errors
/// If the pipeline has no such sink, or it is of another type.
pub fn take(pipeline: &mut Pipeline, sink: &str) -> Result<ReceiverStream<RecordBatch>> {
    let planned = pipeline
        .sinks
        .iter_mut()
        .find(|planned| planned.name == sink && planned.kind == ROWS)
        .ok_or_else(|| Error::config(format!("the pipeline has no sink `{sink}` of type `{ROWS}`")))?;
    let (rows, taken) = mpsc::channel(TAKEN_MAX);
    planned.sink = Box::new(ChannelSink { rows: Outlet::Open(rows) });
    Ok(ReceiverStream::new(taken))
}

/// A batch in the columns that a source has declared: found by name, in the declared order, others left out. Texts
/// become tags, and times of any unit become UTC microseconds; all else must have the declared type.
///
/// # Errors
/// Names the column that is not there or of another type.
pub fn fit(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    let columns: Result<Vec<ArrayRef>> = schema
        .fields()
        .iter()
        .map(|field| {
            let column = batch.column_by_name(field.name()).ok_or_else(|| {
                Error::data(format!("the program's rows have no column \"{}\"", field.name()))
            })?;
            match (field.data_type(), column.data_type()) {
                (wanted, given) if wanted == given => Ok(Arc::clone(column)),
                (wanted @ DataType::Dictionary(..), DataType::Utf8 | DataType::Dictionary(..)) => {
                    Ok(cast(column, wanted)?)
                }
                (DataType::Timestamp(..), DataType::Timestamp(unit, _)) => Ok(micros(column, unit)?),
                (wanted, given) => Err(Error::data(format!(
                    "column \"{}\" of the program's rows is {} ({given}) and was declared as {} ({wanted})",
                    field.name(),
                    type_name(given),
                    type_name(wanted),
                ))),
            }
        })
        .collect();
    Ok(RecordBatch::try_new(schema.clone(), columns?)?)
}

/// Times of any unit as UTC microseconds; nothing else is known of time zones. A time beyond their range is null.
fn micros(column: &ArrayRef, unit: &TimeUnit) -> Result<ArrayRef> {
    let counts = cast(column, &DataType::Int64)?;
    let micros: TimestampMicrosecondArray =
        counts.as_primitive::<Int64Type>().unary_opt(|count| match unit {
            TimeUnit::Second => count.checked_mul(1_000_000),
            TimeUnit::Millisecond => count.checked_mul(1000),
            TimeUnit::Microsecond => Some(count),
            TimeUnit::Nanosecond => Some(count.div_euclid(1000)),
        });
    Ok(Arc::new(micros.with_timezone("UTC")))
}

struct StreamSource {
    /// None until the program has given them.
    rows: Option<Pin<Box<dyn Stream<Item = RecordBatch> + Send>>>,
    schema: SchemaRef,
    /// Rows given in all, over restarts: the position.
    given: u64,
}

#[async_trait]
impl Source for StreamSource {
    async fn open(&mut self, from: Option<&Position>) -> Result<()> {
        self.given = from.map_or(Ok(0), Position::get)?;
        match self.rows {
            Some(_) => Ok(()),
            None => {
                Err(Error::config("nobody gives this source its rows; call `embed::feed` before the start"))
            }
        }
    }

    async fn next(&mut self) -> Result<Option<SourceBatch>> {
        let Some(rows) = &mut self.rows else { return Ok(None) };
        let Some(batch) = rows.next().await else { return Ok(None) };
        let batch = fit(&self.schema, &batch)?;
        self.given += batch.num_rows() as u64;
        Ok(Some(SourceBatch { batch, position: Position::of(&self.given)? }))
    }

    async fn acknowledge(&mut self, _upto: &Position) -> Result<()> {
        // Nobody waits for it.
        Ok(())
    }
}

/// Where a sink's rows go.
enum Outlet {
    /// The program has not asked for them.
    Missing,
    Open(mpsc::Sender<RecordBatch>),
    /// The end was told.
    Ended,
}

struct ChannelSink {
    rows: Outlet,
}

#[async_trait]
impl Sink for ChannelSink {
    async fn open(&mut self, _committed: Option<&Position>) -> Result<()> {
        match self.rows {
            Outlet::Missing => {
                Err(Error::config("nobody takes this sink's rows; call `embed::take` before the start"))
            }
            Outlet::Open(_) | Outlet::Ended => Ok(()),
        }
    }

    async fn write(&mut self, _id: DeliveryId, batch: RecordBatch) -> Result<()> {
        let gone = || Error::refused("the program no longer reads this sink's rows");
        match &self.rows {
            Outlet::Open(rows) => rows.send(batch).await.map_err(|_| gone()),
            Outlet::Missing | Outlet::Ended => Err(gone()),
        }
    }

    async fn flush(&mut self, _epoch: Epoch) -> Result<Position> {
        // What was sent is the program's.
        Ok(Position(String::new()))
    }

    async fn committed(&mut self, _epoch: Epoch) -> Result<()> {
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        self.rows = Outlet::Ended;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, StringArray, TimestampMillisecondArray};

    use super::*;
    use crate::config::{self, Options};
    use crate::core::schema::times;
    use crate::registry::NoFiles;
    use crate::runtime::pipeline::start;

    const PIPELINE: &str = r#"
        [pipeline]
        name = "inside"
        [source.plant]
        type = "rows"
        columns = { device = "tag", vib = "f64" }
        [operator.strong]
        type = "filter"
        inputs = ["plant"]
        where = "vib > 4"
        [sink.results]
        type = "rows"
        inputs = ["strong"]
    "#;

    fn pipeline() -> Pipeline {
        config::load(PIPELINE, "inside.toml", &registry(), &Options::new(&NoFiles)).unwrap()
    }

    /// As a program may have them: other order, other types of the same meaning, one column too many.
    fn rows(from_ms: i64, vib: &[f64]) -> RecordBatch {
        let times = TimestampMillisecondArray::from_iter_values((from_ms..).take(vib.len()));
        RecordBatch::try_from_iter([
            ("vib", Arc::new(Float64Array::from(vib.to_vec())) as ArrayRef),
            ("mood", Arc::new(StringArray::from(vec!["fine"; vib.len()]))),
            ("device", Arc::new(StringArray::from(vec!["press-1"; vib.len()]))),
            ("time", Arc::new(times)),
        ])
        .unwrap()
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime
            .block_on(async { tokio::time::timeout(std::time::Duration::from_secs(10), work).await.unwrap() })
    }

    #[test]
    fn rows_go_through_a_pipeline_that_the_program_holds() {
        let mut pipeline = pipeline();
        // More batches than all channels hold: the pipeline waits for its reader.
        let given = (0..50).map(|batch| rows(1000 * batch, &[1.0, 5.0, 9.0]));
        feed(&mut pipeline, "plant", tokio_stream::iter(given.collect::<Vec<_>>())).unwrap();
        let mut results = take(&mut pipeline, "results").unwrap();
        block_on(async {
            let running = start(pipeline).await.unwrap();
            let mut micros = Vec::new();
            while let Some(batch) = results.next().await {
                micros.extend_from_slice(times(&batch).unwrap().values());
            }
            running.task.await.unwrap().unwrap();
            let expected: Vec<i64> =
                (0..50).flat_map(|batch| [batch * 1_000_000 + 1000, batch * 1_000_000 + 2000]).collect();
            assert_eq!(micros, expected);
        });
    }

    #[test]
    fn what_is_not_connected_or_does_not_fit_is_told() {
        let failure = |pipeline: Pipeline| {
            block_on(async { start(pipeline).await.unwrap().task.await.unwrap().unwrap_err().to_string() })
        };
        let mut unread = pipeline();
        feed(&mut unread, "plant", tokio_stream::pending()).unwrap();
        assert!(failure(unread).contains("call `embed::take`"));
        let mut unfed = pipeline();
        let _results = take(&mut unfed, "results").unwrap();
        assert!(failure(unfed).contains("call `embed::feed`"));

        for (batch, expected) in [
            (rows(0, &[1.0]).project(&[1, 2, 3]).unwrap(), "have no column \"vib\""),
            (
                RecordBatch::try_from_iter([
                    ("time", rows(0, &[1.0]).column(3).clone()),
                    ("device", rows(0, &[1.0]).column(2).clone()),
                    ("vib", rows(0, &[1.0]).column(1).clone()),
                ])
                .unwrap(),
                "column \"vib\" of the program's rows is text (Utf8) and was declared as number (Float64)",
            ),
        ] {
            let mut wrong = pipeline();
            feed(&mut wrong, "plant", tokio_stream::once(batch)).unwrap();
            let _results = take(&mut wrong, "results").unwrap();
            let told = failure(wrong);
            assert!(told.contains(expected), "{told}");
        }
        let error = feed(&mut pipeline(), "plnt", tokio_stream::empty()).unwrap_err();
        assert!(error.message.contains("no source `plnt`"), "{error}");
        assert!(take(&mut pipeline(), "strong").is_err());
    }

    #[test]
    fn a_dropped_reader_ends_the_pipeline() {
        let mut pipeline = pipeline();
        feed(&mut pipeline, "plant", tokio_stream::iter([rows(0, &[9.0])])).unwrap();
        drop(take(&mut pipeline, "results").unwrap());
        let told = block_on(async { start(pipeline).await.unwrap().task.await.unwrap().unwrap_err() });
        assert!(told.message.contains("no longer reads"), "{told}");
    }

    #[test]
    fn its_own_types_are_documented() {
        assert_eq!(config::undocumented(&registry()), Vec::<String>::new());
        registry().check_names().unwrap();
    }
}
