//! The `dead_letters` sink: payloads that could not be read go where a person can look at them.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::core::{BadMessage, Count, DeliveryId, Epoch, Position, Sink};
use crate::error::{Error, Result};
use crate::registry::{BuiltSink, Checked, Context, LetterBox, Problem, SinkConfig};

/// Keeps payloads that could not be read in the pipeline's dead letters, each with its topic and the reason:
/// `inputs = ["plant.bad"]` for those of the source `plant`.
///
/// `tidegate dead-letters list|show` shows them, also while the pipeline runs. They have the room that `dead_letters` under
/// `[pipeline]` gives to all dead letters, the oldest go first, and there must be a data directory. After a crash a payload
/// may be there twice.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLettersConfig {
    /// The column with the payload: bytes or text.
    #[serde(default = "default_payload")]
    pub payload: String,
    /// The column that says why, a text.
    #[serde(default = "default_reason")]
    pub reason: String,
    /// The column that says where it came from, a text. An input without such a column has the delivery's name instead.
    #[serde(default = "default_topic")]
    pub topic: String,
}

fn default_payload() -> String {
    "payload".to_owned()
}

fn default_reason() -> String {
    "reason".to_owned()
}

fn default_topic() -> String {
    "topic".to_owned()
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 => true,
        DataType::Dictionary(_, values) => **values == DataType::Utf8,
        _ => false,
    }
}

impl DeadLettersConfig {
    fn check(&self, input: &str, schema: &Schema, problems: &mut Vec<Problem>) {
        for (key, name, needed) in
            [("payload", &self.payload, true), ("reason", &self.reason, true), ("topic", &self.topic, false)]
        {
            let bytes = key == "payload";
            let problem = match schema.field_with_name(name) {
                Ok(field) if is_text(field.data_type()) => continue,
                Ok(field) if bytes && *field.data_type() == DataType::Binary => continue,
                Err(_) if !needed => continue,
                Ok(field) => {
                    let (have, want) = (field.data_type(), if bytes { "bytes or text" } else { "text" });
                    Problem::new(
                        key,
                        format!("column \"{name}\" of `{input}` is {have}, and {want} is wanted"),
                    )
                }
                Err(_) => Problem::new(key, format!("`{input}` has no column \"{name}\""))
                    .help("name the port `bad` of a source that decodes, e.g. inputs = [\"plant.bad\"]"),
            };
            problems.push(problem);
        }
    }
}

impl SinkConfig for DeadLettersConfig {
    const TYPE: &'static str = "dead_letters";
    const EXAMPLES: &'static [&'static str] = &[r#"reason = "note""#];

    fn build(self, context: &Context<'_>) -> Checked<BuiltSink> {
        let mut problems = Vec::new();
        context.inputs.iter().for_each(|input| self.check(&input.name, &input.schema, &mut problems));
        if !problems.is_empty() {
            return Err(problems);
        }
        // Who could not read it, where that is one.
        let node = match context.inputs {
            [input] => input.name.split('.').next().unwrap_or(context.name),
            _ => context.name,
        };
        let letters = LetterBox::default();
        let sink = DeadLettersSink {
            config: self,
            node: node.to_owned(),
            letters: Arc::clone(&letters),
            last: None,
            kept: 0,
        };
        Ok(BuiltSink { sink: Box::new(sink), peer: None, letters: Some(letters), notes: Vec::new() })
    }
}

struct DeadLettersSink {
    config: DeadLettersConfig,
    node: String,
    letters: LetterBox,
    /// The delivery written last.
    last: Option<DeliveryId>,
    kept: u64,
}

impl DeadLettersSink {
    fn messages(&self, id: &DeliveryId, batch: &RecordBatch) -> Result<Vec<BadMessage>> {
        let column = |name: &str, to: &DataType| match batch.column_by_name(name) {
            Some(column) => Ok(Some(cast(column, to)?)),
            None => Ok::<_, Error>(None),
        };
        let (Some(payloads), Some(reasons)) =
            (column(&self.config.payload, &DataType::Binary)?, column(&self.config.reason, &DataType::Utf8)?)
        else {
            return Err(Error::data("rows without the columns that the sink was built for"));
        };
        let topics = column(&self.config.topic, &DataType::Utf8)?;
        let (payloads, reasons) = (payloads.as_binary::<i32>(), reasons.as_string::<i32>());
        let topics = topics.as_ref().map(|topics| topics.as_string::<i32>());
        let message = |row: usize| BadMessage {
            node: self.node.clone(),
            place: match topics {
                Some(topics) if topics.is_valid(row) => topics.value(row).to_owned(),
                _ => id.to_string(),
            },
            reason: if reasons.is_valid(row) { reasons.value(row).to_owned() } else { String::new() },
            offset: id.offset,
            payload: if payloads.is_valid(row) { payloads.value(row).to_vec() } else { Vec::new() },
        };
        Ok((0..batch.num_rows()).map(message).collect())
    }
}

#[async_trait]
impl Sink for DeadLettersSink {
    async fn open(&mut self, _committed: Option<&Position>) -> Result<()> {
        match self.letters.get() {
            Some(_) => Ok(()),
            None => Err(Error::config("the pipeline keeps no dead letters: it needs a data directory")),
        }
    }

    async fn write(&mut self, id: DeliveryId, batch: RecordBatch) -> Result<()> {
        let messages = self.messages(&id, &batch)?;
        let Some(letters) = self.letters.get() else { return Err(Error::data("the sink is not open")) };
        // Durable when this returns.
        letters.keep_bad(messages).await?;
        self.kept += batch.num_rows() as u64;
        self.last = Some(id);
        Ok(())
    }

    async fn flush(&mut self, _epoch: Epoch) -> Result<Position> {
        Ok(Position(self.last.as_ref().map(ToString::to_string).unwrap_or_default()))
    }

    async fn committed(&mut self, _epoch: Epoch) -> Result<()> {
        Ok(())
    }

    fn take_counts(&mut self) -> Vec<(Count, u64)> {
        let count = Count { what: "dead_letter_rows", reason: "bad_payload" };
        match std::mem::take(&mut self.kept) {
            0 => Vec::new(),
            kept => vec![(count, kept)],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use arrow::array::{ArrayRef, BinaryArray, DictionaryArray, Int64Array, StringArray};
    use arrow::datatypes::Int32Type;

    use super::*;
    use crate::core::BadMessages;
    use crate::registry::{BatchLimits, InputSchema, NoFiles, example_schema};

    fn build(body: &str, names: &[&str], batch: &RecordBatch) -> Checked<BuiltSink> {
        let input = |name: &&str| InputSchema { name: (*name).to_owned(), schema: batch.schema() };
        let inputs: Vec<InputSchema> = names.iter().map(input).collect();
        let batch = BatchLimits::default();
        let context = Context { name: "bad", pipeline: "p", inputs: &inputs, files: &NoFiles, batch };
        toml::from_str::<DeadLettersConfig>(body).unwrap().build(&context)
    }

    #[derive(Default, Clone)]
    struct Kept(Arc<Mutex<Vec<BadMessage>>>);

    #[async_trait]
    impl BadMessages for Kept {
        async fn keep_bad(&self, list: Vec<BadMessage>) -> Result<()> {
            self.0.lock().unwrap().extend(list);
            Ok(())
        }
    }

    fn batch() -> RecordBatch {
        let topics: ArrayRef = Arc::new(DictionaryArray::<Int32Type>::from_iter([Some("plant/a"), None]));
        let reasons: ArrayRef = Arc::new(StringArray::from(vec!["malformed", "empty"]));
        let payloads: ArrayRef = Arc::new(BinaryArray::from_opt_vec(vec![Some(b"{\xff"), None]));
        RecordBatch::try_from_iter([("topic", topics), ("reason", reasons), ("payload", payloads)]).unwrap()
    }

    #[tokio::test]
    async fn payloads_are_kept_with_topic_and_reason() {
        for (inputs, node) in [(&["plant.bad"][..], "plant"), (&["plant.bad", "mill.bad"], "bad")] {
            let built = build("", inputs, &batch()).ok().unwrap();
            let mut sink = built.sink;
            assert!(sink.open(None).await.unwrap_err().message.contains("data directory"));
            let kept = Kept::default();
            assert!(built.letters.unwrap().set(Box::new(kept.clone())).is_ok());
            sink.open(None).await.unwrap();
            let id = DeliveryId { origin: "box/p/bad".into(), offset: 7, nth: 0 };
            sink.write(id, batch()).await.unwrap();
            assert_eq!(sink.flush(Epoch(1)).await.unwrap().0, "box/p/bad/7-0");
            let [(count, by)] = sink.take_counts().try_into().unwrap();
            assert_eq!((count.what, count.reason, by), ("dead_letter_rows", "bad_payload", 2));
            let message = |place: &str, reason: &str, payload: &[u8]| BadMessage {
                node: node.to_owned(),
                place: place.to_owned(),
                reason: reason.to_owned(),
                offset: 7,
                payload: payload.to_vec(),
            };
            assert_eq!(
                *kept.0.lock().unwrap(),
                [message("plant/a", "malformed", b"{\xff"), message("box/p/bad/7-0", "empty", b"")]
            );
        }
    }

    #[test]
    fn examples_and_mistakes() {
        let example = RecordBatch::new_empty(example_schema());
        for body in DeadLettersConfig::EXAMPLES {
            assert!(build(body, &["in"], &example).is_ok(), "{body}");
        }
        let number: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let numbers = RecordBatch::try_from_iter([("topic", number.clone()), ("payload", number)]).unwrap();
        let problems = build("", &["plant"], &numbers).err().unwrap();
        let told: Vec<_> = problems.iter().map(|problem| (&*problem.path, &*problem.message)).collect();
        assert_eq!(
            told,
            [
                ("payload", "column \"payload\" of `plant` is Int64, and bytes or text is wanted"),
                ("reason", "`plant` has no column \"reason\""),
                ("topic", "column \"topic\" of `plant` is Int64, and text is wanted"),
            ]
        );
        assert!(problems[1].help.as_ref().unwrap().contains("plant.bad"));
    }
}
