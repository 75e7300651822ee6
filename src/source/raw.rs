//! Collects raw messages into batches: no allocation per message.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, BinaryArray, DictionaryArray, Int32Array, RecordBatch, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use hashbrown::HashMap;

use crate::core::schema;
use crate::error::Result;
use crate::registry::BatchLimits;

/// More different topics than this start a new dictionary.
const TOPICS_MAX: usize = 1 << 16;

/// Messages on their way into a batch of the raw schema.
pub struct RawBuilder {
    limits: BatchLimits,
    ids: HashMap<Box<str>, i32>,
    names: Vec<Box<str>>,
    dictionary: Option<ArrayRef>,
    keys: Vec<i32>,
    offsets: Vec<i32>,
    payload: Vec<u8>,
    arrival: Vec<i64>,
    first: Option<Duration>,
}

impl RawBuilder {
    /// Empty.
    pub fn new(limits: BatchLimits) -> Self {
        Self {
            limits,
            ids: HashMap::new(),
            names: Vec::new(),
            dictionary: None,
            keys: Vec::new(),
            offsets: vec![0],
            payload: Vec::new(),
            arrival: Vec::new(),
            first: None,
        }
    }

    /// How many messages are in it.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no message is in it.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether it has reached its limit of rows or bytes.
    pub fn is_full(&self) -> bool {
        self.keys.len() >= self.limits.rows || self.payload.len() >= self.limits.bytes
    }

    /// When it must be handed on, by the clock that `push` was given.
    pub fn due(&self) -> Option<Duration> {
        self.first.map(|first| first + self.limits.age)
    }

    /// Adds a message that came at `mono`, wall clock `arrival_micros`.
    pub fn push(&mut self, topic: &str, payload: &[u8], arrival_micros: i64, mono: Duration) {
        let key = match self.ids.get(topic) {
            Some(key) => *key,
            None => self.add_topic(topic),
        };
        self.keys.push(key);
        self.payload.extend_from_slice(payload);
        self.offsets.push(self.payload.len() as i32);
        self.arrival.push(arrival_micros);
        self.first.get_or_insert(mono);
    }

    /// Takes out what is there as one batch; `None` if there is nothing.
    ///
    /// # Errors
    /// If the parts do not make a batch, which would be a fault of this type.
    pub fn finish(&mut self) -> Result<Option<RecordBatch>> {
        if self.is_empty() {
            return Ok(None);
        }
        self.first = None;
        let dictionary =
            Arc::clone(self.dictionary.get_or_insert_with(|| {
                Arc::new(StringArray::from_iter_values(self.names.iter())) as ArrayRef
            }));
        // Copies of just the size needed: what grows stays here, and no batch that waits in a queue holds more than
        // its rows.
        let keys = Int32Array::from(self.keys.as_slice().to_vec());
        let topics = DictionaryArray::try_new(keys, dictionary)?;
        let payload = BinaryArray::try_new(
            OffsetBuffer::new(ScalarBuffer::from(self.offsets.as_slice().to_vec())),
            Buffer::from_vec(self.payload.as_slice().to_vec()),
            None,
        )?;
        let arrival = schema::time_array(self.arrival.as_slice().to_vec());
        self.keys.clear();
        self.offsets.truncate(1);
        self.payload.clear();
        self.arrival.clear();
        let columns: Vec<ArrayRef> = vec![Arc::new(topics), Arc::new(payload), arrival];
        if self.names.len() > TOPICS_MAX {
            self.ids.clear();
            self.names.clear();
            self.dictionary = None;
        }
        Ok(Some(RecordBatch::try_new(schema::raw(), columns)?))
    }

    #[cold]
    fn add_topic(&mut self, topic: &str) -> i32 {
        let key = self.names.len() as i32;
        self.names.push(topic.into());
        self.ids.insert(topic.into(), key);
        self.dictionary = None;
        key
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn messages_come_out_as_they_went_in_and_the_dictionary_is_shared_while_it_stays_the_same() {
        let mut builder = RawBuilder::new(BatchLimits { rows: 3, ..BatchLimits::default() });
        for (topic, payload) in [("a", "1"), ("b", ""), ("a", "333")] {
            assert!(!builder.is_full());
            builder.push(topic, payload.as_bytes(), 7, Duration::from_secs(1));
        }
        assert!(builder.is_full());
        assert_eq!(builder.due(), Some(Duration::from_millis(1020)));
        let first = builder.finish().unwrap().unwrap();
        let payloads: Vec<_> = first.column(1).as_binary::<i32>().iter().flatten().collect();
        assert_eq!(payloads, [b"1".as_slice(), b"", b"333"]);
        assert!(builder.finish().unwrap().is_none() && builder.due().is_none());
        builder.push("b", b"x", 8, Duration::ZERO);
        let second = builder.finish().unwrap().unwrap();
        let values = |batch: &RecordBatch| Arc::clone(batch.column(0).as_dictionary::<Int32Type>().values());
        assert!(Arc::ptr_eq(&values(&first), &values(&second)));
        builder.push("c", b"x", 8, Duration::ZERO);
        let third = builder.finish().unwrap().unwrap();
        assert_eq!(values(&third).len(), 3);
        assert_eq!(third.column(0).as_dictionary::<Int32Type>().keys().value(0), 2);
    }
}
