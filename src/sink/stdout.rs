//! The `stdout` sink.

use std::io::Write;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::codec::text;
use crate::core::{DeliveryId, Epoch, Position, Sink};
use crate::error::{Error, Result};
use crate::registry::{BuiltSink, Checked, Context, Problem, SinkConfig};
use crate::sink::encode::{RowEncoder, RowFormat};

/// Writes rows to standard output, for looking and for piping into other programs.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StdoutConfig {
    /// `ndjson`, `csv`, or `frames` for what `compress` makes.
    #[serde(default = "default_format")]
    pub format: RowFormat,
}

fn default_format() -> RowFormat {
    RowFormat::Ndjson
}

impl SinkConfig for StdoutConfig {
    const TYPE: &'static str = "stdout";
    const EXAMPLES: &'static [&'static str] = &["", r#"format = "csv""#];

    fn build(self, context: &Context<'_>) -> Checked<BuiltSink> {
        for input in context.inputs {
            let fits = match self.format {
                RowFormat::Frames if !crate::sink::encode::has_frames(&input.schema) => {
                    Err(Error::config(format!("`{}` has no column `frame`", input.name)))
                }
                RowFormat::Frames => Ok(()),
                RowFormat::Csv if input.schema != *context.schema() => {
                    Err(Error::config(format!("`{}` has other columns than the first input", input.name)))
                }
                RowFormat::Ndjson | RowFormat::Csv => text::check_schema(&input.schema),
            };
            fits.map_err(|error| vec![Problem::new("format", error.message)])?;
        }
        let sink = StdoutSink { encoder: RowEncoder::new(self.format), headed: false, buffer: Vec::new() };
        Ok(BuiltSink { sink: Box::new(sink), peer: None, letters: None, notes: Vec::new() })
    }
}

struct StdoutSink {
    encoder: RowEncoder,
    headed: bool,
    buffer: Vec<u8>,
}

impl StdoutSink {
    fn write_out(&mut self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let outcome = out.write_all(&self.buffer).and_then(|()| out.flush());
        self.buffer.clear();
        outcome.map_err(|error| Error::io("writing to standard output", &error))
    }
}

#[async_trait]
impl Sink for StdoutSink {
    async fn open(&mut self, _committed: Option<&Position>) -> Result<()> {
        Ok(())
    }

    async fn write(&mut self, _id: DeliveryId, batch: RecordBatch) -> Result<()> {
        if !std::mem::replace(&mut self.headed, true) {
            self.encoder.head(&batch.schema(), &mut self.buffer);
        }
        self.encoder.encode(&batch, &mut self.buffer)?;
        self.write_out()
    }

    async fn flush(&mut self, _epoch: Epoch) -> Result<Position> {
        Ok(Position(String::new()))
    }

    async fn committed(&mut self, _epoch: Epoch) -> Result<()> {
        Ok(())
    }
}
