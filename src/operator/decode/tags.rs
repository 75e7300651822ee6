//! Tags from topics: `plant/{line}/{device}/telemetry` makes the columns `line` and `device`. Pure.
//!
//! Each topic is matched once; what it gives is remembered by the dictionary that the topics come in and, when that
//! is a new one, by the topic's name. The dictionaries of the tags only grow, and stay the same arrays as long as
//! no new value comes, so that what reads them can remember its own answers.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, DictionaryArray, Int32Array, StringArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::Int32Type;
use hashbrown::HashMap;

use crate::error::{Error, Result};

/// When more topics, or more values of one tag, than this are known, all are forgotten before the next batch with
/// a topic that is new. A batch adds no more than the topics in its dictionary.
pub(super) const KNOWN_MAX: usize = 1 << 16;

/// Stands for null among keys.
const NONE: i32 = -1;

/// One level of a topic pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    /// This text.
    Text(Box<str>),
    /// Any text: `+`.
    Any,
    /// Any text, which is the value of this tag.
    Tag(usize),
    /// Whatever follows, also nothing: `#`.
    Rest,
}

/// The patterns of a source: the names of all their tags in order of appearance, and the levels of each.
#[derive(Debug, Clone, Default)]
pub(super) struct Patterns {
    pub(super) tags: Vec<String>,
    patterns: Vec<Vec<Level>>,
}

impl Patterns {
    /// Adds a pattern as it is written in `topics`.
    ///
    /// # Errors
    /// If a tag occurs twice in it; the name.
    pub(super) fn add(&mut self, pattern: &str) -> Result<(), String> {
        // A shared subscription is `$share/<group>/<filter>`; messages come under the topic alone.
        let filter = match pattern.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) {
            Some((_, filter)) => filter,
            None => pattern,
        };
        let mut levels = Vec::new();
        for text in filter.split('/') {
            let level = match text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                Some(name) => {
                    let known = self.tags.iter().position(|tag| tag == name);
                    let tag = known.unwrap_or(self.tags.len());
                    if known.is_none() {
                        self.tags.push(name.to_owned());
                    }
                    if levels.contains(&Level::Tag(tag)) {
                        return Err(name.to_owned());
                    }
                    Level::Tag(tag)
                }
                None if text == "+" => Level::Any,
                None if text == "#" => Level::Rest,
                None => Level::Text(text.into()),
            };
            levels.push(level);
        }
        self.patterns.push(levels);
        Ok(())
    }

    /// Fills `values` with the tags of a topic, by the first pattern that it fits; none if it fits no pattern.
    fn find<'t>(&self, topic: &'t str, values: &mut Vec<Option<&'t str>>) {
        for pattern in &self.patterns {
            values.clear();
            values.resize(self.tags.len(), None);
            if fits(pattern, topic, values) {
                return;
            }
        }
        values.clear();
        values.resize(self.tags.len(), None);
    }
}

fn fits<'t>(pattern: &[Level], topic: &'t str, values: &mut [Option<&'t str>]) -> bool {
    let mut texts = topic.split('/');
    for level in pattern {
        if *level == Level::Rest {
            return true;
        }
        let Some(text) = texts.next() else { return false };
        match level {
            Level::Text(wanted) if **wanted != *text => return false,
            Level::Tag(tag) => {
                if let Some(value) = values.get_mut(*tag) {
                    *value = Some(text);
                }
            }
            Level::Text(_) | Level::Any | Level::Rest => {}
        }
    }
    texts.next().is_none()
}

/// The values of one tag so far.
#[derive(Debug, Default)]
struct Dictionary {
    keys: HashMap<Box<str>, i32>,
    values: Vec<Box<str>>,
    /// The values as an array, unless one has come since.
    array: Option<ArrayRef>,
    /// Of each topic in the present dictionary of topics, the key of its value here.
    of_topic: Vec<i32>,
    /// Whether one of them is null.
    has_null: bool,
}

impl Dictionary {
    fn key(&mut self, value: Option<&str>) -> i32 {
        let Some(value) = value else { return NONE };
        if let Some(key) = self.keys.get(value) {
            return *key;
        }
        let key = self.values.len() as i32;
        self.keys.insert(value.into(), key);
        self.values.push(value.into());
        self.array = None;
        key
    }

    fn column(&mut self, topic_keys: &[i32], rows: &[u32]) -> Result<ArrayRef> {
        let mut keys = gather(&self.of_topic, topic_keys, rows);
        let nulls = if self.has_null { clear_nulls(&mut keys) } else { None };
        let values = self.array.get_or_insert_with(|| Arc::new(StringArray::from_iter_values(&self.values)));
        let keys = Int32Array::try_new(keys.into(), nulls)?;
        Ok(Arc::new(DictionaryArray::try_new(keys, Arc::clone(values))?))
    }
}

/// For each row the key of its topic's value.
fn gather(of_topic: &[i32], topic_keys: &[i32], rows: &[u32]) -> Vec<i32> {
    let key_of = |row: &u32| {
        let topic = topic_keys.get(*row as usize).copied().unwrap_or(NONE);
        of_topic.get(topic as usize).copied().unwrap_or(NONE)
    };
    rows.iter().map(key_of).collect()
}

fn clear_nulls(keys: &mut [i32]) -> Option<NullBuffer> {
    let nulls: NullBuffer = keys.iter().map(|key| *key != NONE).collect::<Vec<bool>>().into();
    keys.iter_mut().for_each(|key| *key = (*key).max(0));
    Some(nulls).filter(|nulls| nulls.null_count() > 0)
}

/// Finds the tags of rows by their topics.
#[derive(Debug)]
pub(super) struct Tags {
    patterns: Patterns,
    dictionaries: Vec<Dictionary>,
    /// The keys of each topic seen so far, one per tag.
    known: HashMap<Box<str>, Box<[i32]>>,
    /// The dictionary of topics that `Dictionary::of_topic` stands for. Held, so that no other can take its address.
    topics: Option<ArrayRef>,
}

impl Tags {
    pub(super) fn new(patterns: Patterns) -> Self {
        let dictionaries = patterns.tags.iter().map(|_| Dictionary::default()).collect();
        Self { patterns, dictionaries, known: HashMap::new(), topics: None }
    }

    /// The columns of the tags, for the given rows of a column of topics.
    ///
    /// # Errors
    /// If the topics are not texts.
    pub(super) fn columns(
        &mut self,
        topics: &DictionaryArray<Int32Type>,
        rows: &[u32],
    ) -> Result<Vec<ArrayRef>> {
        if !self.topics.as_ref().is_some_and(|known| Arc::ptr_eq(known, topics.values())) {
            self.learn(topics.values())?;
        }
        let keys = topics.keys().values();
        self.dictionaries.iter_mut().map(|dictionary| dictionary.column(keys, rows)).collect()
    }

    /// Looks up every topic of a new dictionary.
    fn learn(&mut self, topics: &ArrayRef) -> Result<()> {
        let names = topics
            .as_any()
            .downcast_ref::<StringArray>()
            .ok_or_else(|| Error::data("the topics of a raw batch are not texts"))?;
        let full = |dictionary: &Dictionary| dictionary.values.len() > KNOWN_MAX;
        if self.known.len() > KNOWN_MAX || self.dictionaries.iter().any(full) {
            self.known.clear();
            self.dictionaries.iter_mut().for_each(|dictionary| *dictionary = Dictionary::default());
        }
        for dictionary in &mut self.dictionaries {
            dictionary.of_topic.clear();
            dictionary.has_null = false;
        }
        let mut values = Vec::with_capacity(self.dictionaries.len());
        for row in 0..names.len() {
            let name = names.value(row);
            if !self.known.contains_key(name) {
                self.patterns.find(name, &mut values);
                let found = self.dictionaries.iter_mut().zip(&values);
                let keys = found.map(|(dictionary, value)| dictionary.key(*value)).collect();
                self.known.insert(name.into(), keys);
            }
            let keys = self.known.get(name).map(|keys| &**keys).unwrap_or_default();
            for (dictionary, key) in self.dictionaries.iter_mut().zip(keys) {
                dictionary.of_topic.push(*key);
                dictionary.has_null |= *key == NONE;
            }
        }
        self.topics = Some(Arc::clone(topics));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::util::display::array_value_to_string;

    use super::*;

    fn patterns(written: &[&str]) -> Patterns {
        let mut patterns = Patterns::default();
        written.iter().for_each(|pattern| patterns.add(pattern).unwrap());
        patterns
    }

    fn topics(names: &[String]) -> DictionaryArray<Int32Type> {
        let keys = (0..names.len() as i32).collect::<Vec<_>>();
        DictionaryArray::try_new(keys.into(), Arc::new(StringArray::from_iter_values(names))).unwrap()
    }

    fn texts(column: &ArrayRef) -> Vec<Option<String>> {
        (0..column.len())
            .map(|row| column.is_valid(row).then(|| array_value_to_string(column, row).unwrap()))
            .collect()
    }

    #[test]
    fn topics_fit_patterns_as_in_mqtt() {
        for (written, topic, expected) in [
            (&["a/{x}/c"][..], "a/b/c", Some("b")),
            (&["a/{x}/c"], "a//c", Some("")),
            (&["a/{x}/c"], "a/b/d", None),
            (&["a/{x}/c"], "a/b", None),
            (&["a/{x}/c"], "a/b/c/d", None),
            (&["{x}"], "ä", Some("ä")),
            (&["{x}/#"], "a", Some("a")),
            (&["{x}/#"], "a/b/c", Some("a")),
            (&["+/{x}/+"], "a/b/c", Some("b")),
            (&["$share/g/a/{x}"], "a/b", Some("b")),
            (&["a/{x}", "+/b/{x}"], "c/b/d", Some("d")),
            (&["a/+/{x}", "a/{x}/#"], "a/b/c", Some("c")),
            (&["a/b"], "a/b", None),
        ] {
            let patterns = patterns(written);
            let mut values = Vec::new();
            patterns.find(topic, &mut values);
            assert_eq!(values.first().copied().flatten(), expected, "{written:?} {topic}");
        }
        assert_eq!(Patterns::default().add("{a}/x/{a}"), Err("a".to_owned()));
    }

    #[test]
    fn dictionaries_stay_the_same_while_nothing_new_comes() {
        let mut tags = Tags::new(patterns(&["p/{line}/{device}"]));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let first = topics(&names(&["p/1/a", "p/1/b", "x/1/a"]));
        let columns = tags.columns(&first, &[2, 1, 0, 0]).unwrap();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(texts(&columns[0]), [None, text("1"), text("1"), text("1")]);
        assert_eq!(texts(&columns[1]), [None, text("b"), text("a"), text("a")]);
        let values = |column: &ArrayRef| Arc::clone(column.as_dictionary::<Int32Type>().values());
        let (line, device) = (values(&columns[0]), values(&columns[1]));

        // Another dictionary of the same topics, in another order.
        let second = tags.columns(&topics(&names(&["p/1/b", "p/1/a"])), &[0, 1]).unwrap();
        assert_eq!(texts(&second[1]), [text("b"), text("a")]);
        assert!(Arc::ptr_eq(&values(&second[0]), &line) && Arc::ptr_eq(&values(&second[1]), &device));
        assert_eq!(second[0].null_count(), 0);

        // A new device, and the keys of the old ones as before.
        let third = tags.columns(&topics(&names(&["p/1/c", "p/1/a"])), &[0, 1]).unwrap();
        assert!(Arc::ptr_eq(&values(&third[0]), &line) && !Arc::ptr_eq(&values(&third[1]), &device));
        assert_eq!(third[1].as_dictionary::<Int32Type>().keys().values(), &[2, 0]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut tags = Tags::new(patterns(&["p/{device}"]));
        let names = |from: usize, to: usize| (from..to).map(|n| format!("p/{n}")).collect::<Vec<_>>();
        let (mut at, step) = (0, 30_000);
        for _ in 0..4 {
            let names = names(at, at + step);
            let columns = tags.columns(&topics(&names), &[0, step as u32 - 1]).unwrap();
            let ends = [Some(at.to_string()), Some((at + step - 1).to_string())];
            assert_eq!(texts(&columns[0]), ends);
            assert!(
                tags.known.len() <= KNOWN_MAX + step && tags.dictionaries[0].values.len() <= KNOWN_MAX + step
            );
            at += step;
        }
        assert!(tags.known.len() < 4 * step);
    }
}
