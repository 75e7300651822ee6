//! The `heartbeat` source: a row every so often that says that the pipeline is alive and how it does, so that at the far
//! end "no alarms" is not the same as "gateway dead". Touches the clock.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::Instant;

use crate::clock::wall;
use crate::core::ends::SourceBatch;
use crate::core::schema::time_field;
use crate::core::{Position, Source};
use crate::error::{Error, Result};
use crate::registry::{BuiltSource, Checked, Context, Problem, SourceConfig, SourceOutput, Vitals};
use crate::units::Period;

/// A row at regular times that says that this pipeline is alive: what comes from it goes through the engine and out by a
/// sink as everything else does, so where it stays away, nothing works.
///
/// Its columns are `time`, `pipeline`, `beat` (a count that goes on after a restart), `uptime_seconds` (since the start of
/// the process), `healthy`, `problems` (in words, as `tidegate status` says them; null if there are none) and
/// `version`. The first row comes at the start.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatConfig {
    /// Time between two rows, from `"100ms"` to `"1d"`.
    #[serde(default = "every")]
    pub every: Period,
}

fn every() -> Period {
    Period::seconds(30)
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        time_field(),
        Field::new("pipeline", DataType::Utf8, false),
        Field::new("beat", DataType::Int64, false),
        Field::new("uptime_seconds", DataType::Float64, false),
        Field::new("healthy", DataType::Boolean, false),
        Field::new("problems", DataType::Utf8, true),
        Field::new("version", DataType::Utf8, false),
    ]))
}

impl SourceConfig for HeartbeatConfig {
    const TYPE: &'static str = "heartbeat";
    const EXAMPLES: &'static [&'static str] = &["", r#"every = "10s""#];

    fn build(self, context: &Context<'_>) -> Checked<BuiltSource> {
        let allowed = Duration::from_millis(100)..=Duration::from_secs(86_400);
        if !allowed.contains(&self.every.0) {
            let problem = Problem::new("every", "`every` must be between \"100ms\" and \"1d\"");
            return Err(vec![problem.help("\"30s\" is usual")]);
        }
        let vitals = Vitals::default();
        let source = HeartbeatSource {
            pipeline: context.pipeline.to_owned(),
            every: self.every.0,
            schema: schema(),
            vitals: vitals.clone(),
            beat: 0,
            opened: None,
            due: None,
        };
        Ok(BuiltSource {
            source: Box::new(source),
            output: SourceOutput::Columns(schema()),
            topics: Vec::new(),
            acknowledges: false,
            live: true,
            companion: None,
            connected: None,
            delivery: None,
            vitals: Some(vitals),
            notes: Vec::new(),
        })
    }
}

struct HeartbeatSource {
    pipeline: String,
    every: Duration,
    schema: SchemaRef,
    vitals: Vitals,
    /// The next row's count.
    beat: i64,
    opened: Option<Instant>,
    /// When the next row comes.
    due: Option<Instant>,
}

impl HeartbeatSource {
    fn row(&self, uptime: Duration) -> Result<RecordBatch> {
        let problems = self.vitals.get().map_or_else(Vec::new, |ask| ask());
        let words = (!problems.is_empty()).then(|| problems.join("; "));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMicrosecondArray::from(vec![wall().micros()]).with_timezone("UTC")),
            Arc::new(StringArray::from(vec![self.pipeline.as_str()])),
            Arc::new(Int64Array::from(vec![self.beat])),
            Arc::new(Float64Array::from(vec![uptime.as_secs_f64()])),
            Arc::new(BooleanArray::from(vec![problems.is_empty()])),
            Arc::new(StringArray::from(vec![words])),
            Arc::new(StringArray::from(vec![env!("CARGO_PKG_VERSION")])),
        ];
        RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|error| Error::data(format!("a heartbeat cannot be written: {error}")))
    }
}

#[async_trait]
impl Source for HeartbeatSource {
    async fn open(&mut self, from: Option<&Position>) -> Result<()> {
        self.beat = from.map_or(Ok(0), Position::get)?;
        let now = Instant::now();
        (self.opened, self.due) = (Some(now), Some(now));
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<SourceBatch>> {
        let (Some(opened), Some(due)) = (self.opened, self.due) else {
            return Err(Error::data("the heartbeat is not open"));
        };
        tokio::time::sleep_until(due).await;
        // After a time in which rows were not taken there is one row, not one for each that was missed.
        let now = Instant::now();
        self.due = Some(if now - due >= self.every { now } else { due } + self.every);
        let batch = self.row(now - opened)?;
        self.beat += 1;
        Ok(Some(SourceBatch { batch, position: Position::of(&self.beat)? }))
    }

    async fn acknowledge(&mut self, _upto: &Position) -> Result<()> {
        // Nobody waits for it.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::registry::{BatchLimits, NoFiles};

    fn built(text: &str) -> Checked<BuiltSource> {
        let config: HeartbeatConfig = toml::from_str(text).unwrap();
        let context = Context {
            name: "alive",
            pipeline: "press",
            inputs: &[],
            files: &NoFiles,
            batch: BatchLimits::default(),
        };
        config.build(&context)
    }

    #[tokio::test]
    async fn a_row_at_the_start_and_then_every_so_often_and_the_count_goes_on() {
        let mut built = built("every = \"100ms\"").unwrap();
        let source = &mut built.source;
        source.open(Some(&Position("7".to_owned()))).await.unwrap();
        let started = Instant::now();
        for (expected, position) in [(7, "8"), (8, "9"), (9, "10")] {
            let rows = source.next().await.unwrap().unwrap();
            assert_eq!(rows.batch["beat"].as_primitive::<Int64Type>().value(0), expected);
            assert_eq!(rows.position.0, position);
            assert!(
                started.elapsed() + Duration::from_millis(5)
                    >= Duration::from_millis(100) * (expected as u32 - 7)
            );
        }
        // Nobody asked for a while: one row at once, and the next in its time.
        tokio::time::sleep(Duration::from_millis(450)).await;
        source.next().await.unwrap().unwrap();
        let since = Instant::now();
        source.next().await.unwrap().unwrap();
        assert!(since.elapsed() >= Duration::from_millis(90), "{:?}", since.elapsed());
    }

    #[tokio::test]
    async fn it_says_what_is_wrong() {
        let mut built = built("").unwrap();
        let problems: Box<crate::registry::Ask> = Box::new(|| vec!["one".to_owned(), "two".to_owned()]);
        assert!(built.vitals.as_ref().unwrap().set(problems).is_ok());
        built.source.open(None).await.unwrap();
        let batch = built.source.next().await.unwrap().unwrap().batch;
        assert_eq!(batch["problems"].as_string::<i32>().value(0), "one; two");
        assert!(!batch["healthy"].as_boolean().value(0));
        assert_eq!(batch["pipeline"].as_string::<i32>().value(0), "press");
    }

    #[test]
    fn an_impossible_interval_is_refused() {
        for text in ["every = \"1ms\"", "every = \"2d\""] {
            assert_eq!(built(text).err().unwrap()[0].path, "every");
        }
    }
}
