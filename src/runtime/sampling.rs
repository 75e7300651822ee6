//! Columns found at the start: the first messages of sources that do not say theirs, looked at before the graph is built.
//!
//! The messages are not lost by that: they go into the pipeline first, in front of what the source gives next.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use arrow::array::{Array, BinaryArray};
use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::durable::FoundColumns;
use crate::config::{Finder, Pipeline, PlannedSource, Unsampled};
use crate::core::ends::SourceBatch;
use crate::core::{Count, Position, Source};
use crate::error::{Error, Result};
use crate::registry::Columns;

/// So many messages are enough.
const MESSAGES: usize = 100;

/// So long after the first message the sample ends.
pub const WAIT_MAX: Duration = Duration::from_secs(2);

/// Messages that say nothing are held back, while better ones are waited for, up to so many and so many bytes.
const HELD_MESSAGES_MAX: usize = 10_000;
const HELD_BYTES_MAX: usize = 64 << 20;

/// A source that is open, with its first messages.
pub struct Sampled {
    source: Box<dyn Source>,
    held: VecDeque<SourceBatch>,
    /// How many messages were taken for the sample, and the bytes of their payloads.
    messages: usize,
    bytes: usize,
    ended: bool,
    /// Whether the source has given something and nobody has asked for it from the start since.
    fresh: bool,
}

#[async_trait]
impl Source for Sampled {
    async fn open(&mut self, from: Option<&Position>) -> Result<()> {
        if from.is_none() && std::mem::take(&mut self.fresh) {
            return Ok(());
        }
        // It goes on elsewhere than at its start, so what it gave there is not wanted.
        self.held.clear();
        self.ended = false;
        self.source.close().await;
        self.source.open(from).await
    }

    async fn next(&mut self) -> Result<Option<SourceBatch>> {
        match self.held.pop_front() {
            Some(batch) => Ok(Some(batch)),
            None if self.ended => Ok(None),
            None => self.source.next().await,
        }
    }

    async fn acknowledge(&mut self, upto: &Position) -> Result<()> {
        self.source.acknowledge(upto).await
    }

    fn take_counts(&mut self) -> Vec<(Count, u64)> {
        self.source.take_counts()
    }

    async fn close(&mut self) {
        self.source.close().await;
    }
}

impl Sampled {
    /// Opens a source and takes messages until they tell the columns.
    async fn take(
        mut source: Box<dyn Source>,
        name: &str,
        finder: &Finder,
        wait: Duration,
    ) -> Result<(Self, Columns)> {
        source.open(None).await?;
        info!(source = name, "its columns are not said: waiting for the first message to find them");
        let held = VecDeque::new();
        let mut sampled = Self { source, held, messages: 0, bytes: 0, ended: false, fresh: true };
        let mut said = false;
        loop {
            sampled.more(wait).await?;
            match finder.columns(&sampled.payloads()) {
                Ok(columns) => return Ok((sampled, columns)),
                Err(error) if sampled.ended || sampled.is_full() => {
                    sampled.close().await;
                    let help =
                        "say the columns with `fields`; `tidegate infer` writes it from sample messages";
                    return Err(Error::data(format!("no columns found: {}; {help}", error.message)).at(name));
                }
                Err(error) if !std::mem::replace(&mut said, true) => {
                    warn!(source = name, %error, "no columns found yet: waiting for other messages");
                }
                Err(_) => {}
            }
        }
    }

    /// Takes messages: enough of them, or those that come within a time of the first one.
    async fn more(&mut self, wait: Duration) -> Result<()> {
        let enough = self.messages + MESSAGES;
        let mut until = None;
        while self.messages < enough && !self.is_full() {
            let next = match until {
                None => self.source.next().await,
                Some(until) => match timeout_at(until, self.source.next()).await {
                    Ok(next) => next,
                    Err(_) => return Ok(()),
                },
            };
            match next? {
                Some(batch) => {
                    self.messages += batch.batch.num_rows();
                    self.bytes += payloads_of(&batch).map_or(0, payload_bytes);
                    self.held.push_back(batch);
                }
                None => {
                    self.ended = true;
                    return Ok(());
                }
            }
            until.get_or_insert_with(|| Instant::now() + wait);
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.messages >= HELD_MESSAGES_MAX || self.bytes >= HELD_BYTES_MAX
    }

    fn payloads(&self) -> Vec<&[u8]> {
        let columns = self.held.iter().filter_map(payloads_of);
        columns.flat_map(|column| (0..column.len()).map(|row| column.value(row))).collect()
    }
}

fn payloads_of(batch: &SourceBatch) -> Option<&BinaryArray> {
    batch.batch.column_by_name("payload")?.as_any().downcast_ref()
}

/// Batches may share buffers, so it is the payloads that are counted.
fn payload_bytes(column: &BinaryArray) -> usize {
    let offsets = column.value_offsets();
    let (first, last) = (offsets.first().copied().unwrap_or(0), offsets.last().copied().unwrap_or(0));
    usize::try_from(last - first).unwrap_or(usize::MAX)
}

/// Waits for the first messages of all these sources at the same time, and from the first one on so long for others
/// ([`WAIT_MAX`] is usual). Dropping this ends the waiting.
///
/// # Errors
/// If a source fails, or its messages say nothing about columns.
pub async fn find_columns(
    unsampled: Vec<Unsampled>,
    wait: Duration,
) -> Result<(FoundColumns, Vec<PlannedSource>)> {
    let mut waiting = JoinSet::new();
    for Unsampled { source: mut planned, finder, .. } in unsampled {
        waiting.spawn(async move {
            let (sampled, columns) = Sampled::take(planned.source, &planned.name, &finder, wait).await?;
            info!(
                source = planned.name,
                messages = sampled.messages,
                format = %toml::Value::Table(columns.format.clone()),
                fields = %toml::Value::Table(columns.fields.clone()),
                "columns found"
            );
            if columns.written.get("time").or(columns.format.get("time")).is_none() {
                warn!(
                    source = planned.name,
                    "no value looks like a time: rows get the time of their arrival"
                );
            }
            planned.source = Box::new(sampled);
            Ok::<_, Error>((columns, planned))
        });
    }
    let (mut found, mut opened) = (BTreeMap::new(), Vec::new());
    while let Some(outcome) = waiting.join_next().await {
        let outcome = outcome.map_err(|error| Error::data(format!("taking messages failed: {error}")))?;
        let (columns, source) = outcome?;
        found.insert(source.name.clone(), columns);
        opened.push(source);
    }
    Ok((found, opened))
}

/// Puts open sources into a pipeline, in the places of those that were built anew.
pub fn put_in(pipeline: &mut Pipeline, opened: Vec<PlannedSource>) {
    for planned in opened {
        if let Some(place) = pipeline.sources.iter_mut().find(|source| source.name == planned.name) {
            *place = planned;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Options, Planned};
    use crate::registry::{BatchLimits, NoFiles};
    use crate::source::raw::RawBuilder;

    /// Gives messages one by one; with a position of n from the n-th on. At the end it waits for ever, or ends.
    struct Script {
        messages: Vec<&'static str>,
        at: usize,
        ends: bool,
        opened: usize,
    }

    #[async_trait]
    impl Source for Script {
        async fn open(&mut self, from: Option<&Position>) -> Result<()> {
            self.opened += 1;
            self.at = from.map_or(Ok(0), Position::get)?;
            Ok(())
        }

        async fn next(&mut self) -> Result<Option<SourceBatch>> {
            let Some(message) = self.messages.get(self.at) else {
                if self.ends {
                    return Ok(None);
                }
                return std::future::pending().await;
            };
            let mut builder = RawBuilder::new(BatchLimits::default());
            builder.push("a", message.as_bytes(), 0, Duration::ZERO);
            self.at += 1;
            let position = Position(self.at.to_string());
            Ok(builder.finish()?.map(|batch| SourceBatch { batch, position }))
        }

        async fn acknowledge(&mut self, _upto: &Position) -> Result<()> {
            Ok(())
        }
    }

    fn unsampled(messages: &[&'static str], ends: bool) -> Unsampled {
        let file = "[pipeline]\nname = \"a\"\n[source.plant]\ntype = \"mqtt\"\nurl = \"mqtt://x\"\ntopics = [\"a\"]\n\
                    format = { type = \"json\" }\n[sink.out]\ntype = \"stdout\"\ninputs = [\"plant\"]\n";
        let registry = crate::builtin::registry();
        let planned = config::plan(file, "a.toml", &registry, &Options::new(&NoFiles));
        let Ok(Planned::Unsampled(mut outline)) = planned else { panic!("its columns are not said") };
        let mut unsampled = outline.unsampled.remove(0);
        let messages = messages.to_vec();
        unsampled.source.source = Box::new(Script { messages, at: 0, ends, opened: 0 });
        unsampled
    }

    /// Long enough for everything that is there, short enough for a test.
    const WAIT: Duration = Duration::from_millis(100);

    async fn rest(source: &mut dyn Source) -> Vec<String> {
        let mut all = Vec::new();
        while let Ok(Ok(Some(batch))) = tokio::time::timeout(WAIT, source.next()).await {
            let column = batch.batch.column(1).as_any().downcast_ref::<BinaryArray>().unwrap().clone();
            all.extend(column.iter().flatten().map(|payload| String::from_utf8_lossy(payload).into_owned()));
        }
        all
    }

    #[tokio::test]
    async fn messages_of_the_sample_are_given_first() {
        let many = vec![r#"{"ts":1700000000,"temp":1.5}"#; 250];
        for (messages, ends) in
            [(&many[..1], false), (&many[..7], true), (&many[..], false), (&many[..], true)]
        {
            let (found, mut opened) = find_columns(vec![unsampled(messages, ends)], WAIT).await.unwrap();
            assert_eq!(found["plant"].fields, toml::from_str("temp = \"f64\"").unwrap());
            assert_eq!(found["plant"].format["time"].as_str(), Some("ts"));
            let source = opened[0].source.as_mut();
            source.open(None).await.unwrap();
            assert_eq!(rest(source).await, messages);
        }
    }

    #[tokio::test]
    async fn a_recovered_position_has_precedence_over_the_sample() {
        let messages = [r#"{"n":0.5}"#, r#"{"n":1.5}"#, r#"{"n":2.5}"#];
        let (_, mut opened) = find_columns(vec![unsampled(&messages, true)], WAIT).await.unwrap();
        let source = opened[0].source.as_mut();
        source.open(Some(&Position("1".to_owned()))).await.unwrap();
        assert_eq!(rest(source).await, messages[1..]);
    }

    #[tokio::test]
    async fn messages_that_say_nothing_are_held_until_others_come() {
        let messages = ["online", "7", r#"{"n":0.5}"#];
        let (found, mut opened) = find_columns(vec![unsampled(&messages, false)], WAIT).await.unwrap();
        assert_eq!(found["plant"].fields.len(), 1);
        opened[0].source.open(None).await.unwrap();
        assert_eq!(rest(opened[0].source.as_mut()).await, messages);
        let error =
            find_columns(vec![unsampled(&messages[..2], true)], WAIT).await.err().unwrap().to_string();
        assert!(
            error.contains("plant: no columns found: none of 2 messages") && error.contains("`fields`"),
            "{error}"
        );
        let noise = vec!["online"; HELD_MESSAGES_MAX + MESSAGES];
        assert!(find_columns(vec![unsampled(&noise, false)], WAIT).await.is_err(), "what is held is bounded");
    }

    #[tokio::test]
    async fn sources_are_waited_for_at_the_same_time_and_in_vain_for_ever() {
        let message = [r#"{"n":0.5}"#];
        let started = Instant::now();
        find_columns(vec![unsampled(&message, false), unsampled(&message, false)], WAIT).await.unwrap();
        assert!(started.elapsed() >= WAIT && started.elapsed() < WAIT * 2);
        let in_vain = find_columns(vec![unsampled(&[], false), unsampled(&message, false)], WAIT);
        assert!(tokio::time::timeout(WAIT * 3, in_vain).await.is_err());
    }
}
