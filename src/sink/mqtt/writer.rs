//! The running part of the `mqtt` sink.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use async_trait::async_trait;
use bytes::Bytes;

use super::template::{Filled, Template};
use crate::codec::text_ndjson::NdjsonWriter;
use crate::core::{DeliveryId, Epoch, Position, Sink};
use crate::error::{Error, Result};
use crate::net::publisher::{Message, Publisher, PublisherSettings};

/// How an MQTT sink works.
#[derive(Clone)]
pub struct MqttSettings {
    /// The connection.
    pub publisher: PublisherSettings,
    /// What to publish on.
    pub topic: Template,
    /// What to send.
    pub payload: Payload,
    /// 0 or 1.
    pub qos: u8,
    /// Whether the broker keeps messages.
    pub retain: bool,
}

/// What a message carries.
#[derive(Debug, Clone)]
pub enum Payload {
    /// The row as a JSON object.
    Row,
    /// A text with columns in it.
    Template(Template),
    /// The text or bytes of a column.
    Column(String),
}

/// The `mqtt` sink.
pub struct MqttSink {
    settings: MqttSettings,
    publisher: Option<Publisher>,
    json: NdjsonWriter,
    /// The delivery written last.
    last: Option<DeliveryId>,
}

impl MqttSink {
    /// Not connected yet.
    pub fn new(settings: MqttSettings) -> Self {
        Self { settings, publisher: None, json: NdjsonWriter::new(), last: None }
    }
}

/// The payloads of a batch.
pub(super) enum Payloads {
    Texts(Filled),
    /// One line after the other, each up to its line break.
    Lines {
        bytes: Bytes,
        ends: Vec<usize>,
    },
    Bytes(arrow::array::BinaryArray),
}

impl Payloads {
    /// Those of a batch; `json` writes rows.
    pub fn over(payload: &Payload, json: &mut NdjsonWriter, batch: &RecordBatch) -> Result<Self> {
        Ok(match payload {
            Payload::Template(template) => Self::Texts(template.over(batch)?),
            Payload::Row => {
                let mut bytes = Vec::new();
                json.write(batch, &mut bytes)?;
                // JSON has no line break inside a row.
                let ends = memchr::memchr_iter(b'\n', &bytes).collect();
                Self::Lines { bytes: bytes.into(), ends }
            }
            Payload::Column(name) => {
                let column = batch
                    .column_by_name(name)
                    .ok_or_else(|| Error::data(format!("column \"{name}\" does not exist")))?;
                match column.data_type() {
                    DataType::Binary => Self::Bytes(column.as_binary::<i32>().clone()),
                    DataType::Utf8 => {
                        let texts = column.as_string::<i32>().clone();
                        Self::Bytes(texts.into())
                    }
                    other => {
                        return Err(Error::data(format!("column \"{name}\" of type {other} is no payload")));
                    }
                }
            }
        })
    }

    /// The payload of a row, if it has one.
    pub fn of(&mut self, row: usize) -> Option<Bytes> {
        match self {
            Self::Texts(filled) => Some(filled.text(row).into()),
            Self::Lines { bytes, ends } => {
                let start = row.checked_sub(1).map_or(Some(0), |before| Some(ends.get(before)? + 1))?;
                Some(bytes.slice(start..*ends.get(row)?))
            }
            Self::Bytes(column) => column.is_valid(row).then(|| Bytes::copy_from_slice(column.value(row))),
        }
    }
}

#[async_trait]
impl Sink for MqttSink {
    async fn open(&mut self, _committed: Option<&Position>) -> Result<()> {
        // What was published behind the committed position is published again: at least once.
        self.publisher = Some(Publisher::start(&self.settings.publisher)?);
        Ok(())
    }

    async fn write(&mut self, id: DeliveryId, batch: RecordBatch) -> Result<()> {
        let mut topics = self.settings.topic.over(&batch)?;
        let mut payloads = Payloads::over(&self.settings.payload, &mut self.json, &batch)?;
        let Some(publisher) = &self.publisher else { return Err(Error::data("the sink is not open")) };
        for row in 0..batch.num_rows() {
            let Some(payload) = payloads.of(row) else { continue };
            let (qos, retain) = (self.settings.qos, self.settings.retain);
            publisher.room().await;
            publisher.push(Message { topic: topics.topic(row), payload, qos, retain, replayed: false });
        }
        self.last = Some(id);
        Ok(())
    }

    async fn flush(&mut self, _epoch: Epoch) -> Result<Position> {
        if let Some(publisher) = &self.publisher {
            publisher.flush().await;
        }
        Ok(Position(self.last.as_ref().map(ToString::to_string).unwrap_or_default()))
    }

    async fn committed(&mut self, _epoch: Epoch) -> Result<()> {
        Ok(())
    }
}
