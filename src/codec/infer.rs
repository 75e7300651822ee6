//! What sample messages say about the columns in them: fields with types and paths, and where the time stands. Pure.
//!
//! The types are chosen so that later messages fit too. A number is `f64` until the sample shows that it counts
//! (enough readings, many values, none with a fraction) or that `f64` could not hold it: a temperature that happens
//! to be `21` in the first messages must not make a later `21.5` a bad message.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::csv::{header_names, records};
use super::fields::{FIELDS_MAX, Field, FieldKind, PATH_KEYS_MAX};
use super::number::text_to_bits;
use super::payload::PAYLOAD_BYTES_MAX;
use super::timestamp::{TimeUnit, parse_rfc3339};
use crate::core::schema::TIME;
use crate::error::{Error, Result};

/// So many readings without a fraction, and so many different ones, make a number an integer.
const INTEGER_READINGS_MIN: u64 = 20;
const INTEGER_VALUES_MIN: usize = 8;

/// Integers are exact in an `f64` below 2⁵³.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// The times of numbers lie between 2000 and 2099, in seconds.
const TIME_S: (f64, f64) = (9.46e8, 4.1e9);

/// Names that a time most likely has, the likeliest first.
const TIME_NAMES: [&str; 8] =
    ["ts", "time", "timestamp", "t", "date", "datetime", "@timestamp", "source_timestamp"];

/// How the messages are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// JSON objects or arrays of them.
    Json {
        /// Where in the object the readings stand, if it is said; else it is looked for.
        array: Option<Vec<String>>,
        /// Whether a number may stand in quotes.
        lenient: bool,
    },
    /// CSV records.
    Csv {
        /// The byte between cells.
        delimiter: u8,
        /// The names of the columns; none if every message begins with them.
        columns: Vec<String>,
    },
}

/// What is known before a message is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// How the messages are written.
    pub layout: Layout,
    /// Where the time stands, if it is said; else it is looked for.
    pub time: Option<Vec<String>>,
    /// Names that other columns have.
    pub taken: Vec<String>,
}

impl Default for Known {
    fn default() -> Self {
        Self { layout: Layout::Json { array: None, lenient: true }, time: None, taken: Vec::new() }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// How many readings the messages held.
    pub readings: u64,
    /// How many messages could not be read.
    pub unusable: u64,
    /// Where the readings of a message stand, if it was looked for and is not the message itself.
    pub array: Option<Vec<String>>,
    /// Where the time stands, if it was looked for and found.
    pub time: Option<(Vec<String>, TimeUnit)>,
    /// All other values, in the order in which they first occurred.
    pub fields: Vec<Field>,
}

/// Looks at messages.
///
/// # Errors
/// If none of them can be read, or they hold no values besides the time.
pub fn infer<'m>(known: &Known, messages: impl Iterator<Item = &'m [u8]>) -> Result<Found> {
    let mut sample = Sample::default();
    if let Layout::Json { array: Some(array), .. } = &known.layout {
        sample.array = Some(array.clone());
    }
    for message in messages {
        let read = match &known.layout {
            _ if message.len() > PAYLOAD_BYTES_MAX => None,
            Layout::Json { .. } => sample.json(message),
            Layout::Csv { delimiter, columns } => sample.csv(message, *delimiter, columns),
        };
        sample.unusable += u64::from(read.is_none());
    }
    let what = match known.layout {
        Layout::Json { .. } => "a JSON object or an array of them",
        Layout::Csv { .. } => "CSV records of as many cells as there are columns",
    };
    if sample.readings == 0 {
        return Err(Error::data(format!("none of {} messages holds {what}", sample.unusable)));
    }
    sample.result(known)
}

/// The JSON in a line: a topic and a space in front are passed over. None for a blank line.
pub fn json_payload(line: &str) -> Option<&[u8]> {
    let start = line.find(['{', '[']).unwrap_or(0);
    Some(line.get(start..)?.as_bytes()).filter(|payload| !payload.trim_ascii().is_empty())
}

/// What was seen at one path.
#[derive(Debug, Default)]
struct Seen {
    integers: u64,
    numbers: u64,
    booleans: u64,
    texts: u64,
    times: u64,
    numeric_texts: u64,
    least: f64,
    most: f64,
    /// The bits of the first different numbers.
    values: BTreeSet<u64>,
}

impl Seen {
    fn total(&self) -> u64 {
        self.integers + self.numbers + self.booleans + self.texts + self.times + self.numeric_texts
    }

    fn number(&mut self, value: f64, integer: bool) {
        if self.integers + self.numbers == 0 {
            (self.least, self.most) = (value, value);
        }
        (self.least, self.most) = (self.least.min(value), self.most.max(value));
        if self.values.len() < INTEGER_VALUES_MIN {
            self.values.insert(value.to_bits());
        }
        if integer { self.integers += 1 } else { self.numbers += 1 }
    }

    /// A value written as text: a CSV cell or a JSON string.
    fn text(&mut self, text: &str) {
        if parse_rfc3339(text.trim().as_bytes()).is_some() {
            self.times += 1;
        } else if text_to_bits(FieldKind::F64, text.as_bytes()).is_ok() {
            self.numeric_texts += 1;
        } else {
            self.texts += 1;
        }
    }

    /// The type that takes all of it.
    fn kind(&self, lenient: bool) -> FieldKind {
        let numbers = self.integers + self.numbers;
        let quoted = self.numeric_texts > 0 && !lenient;
        if self.texts + self.times > 0 || quoted || self.booleans > 0 && numbers + self.numeric_texts > 0 {
            FieldKind::Text
        } else if self.booleans > 0 {
            FieldKind::Bool
        } else if self.numbers + self.numeric_texts == 0 && self.counts() {
            FieldKind::I64
        } else {
            FieldKind::F64
        }
    }

    fn counts(&self) -> bool {
        let many = self.integers >= INTEGER_READINGS_MIN && self.values.len() >= INTEGER_VALUES_MIN;
        many || self.least <= -EXACT_MAX || self.most >= EXACT_MAX
    }

    /// What it counts if it is a time, by its size.
    fn time_unit(&self) -> Option<TimeUnit> {
        if self.booleans + self.texts + self.numeric_texts > 0 {
            return None;
        }
        if self.times > 0 {
            return (self.integers + self.numbers == 0).then_some(TimeUnit::Rfc3339);
        }
        let (from, to) = TIME_S;
        let units = [
            (TimeUnit::Seconds, 1.0),
            (TimeUnit::Milliseconds, 1e3),
            (TimeUnit::Microseconds, 1e6),
            (TimeUnit::Nanoseconds, 1e9),
        ];
        let fits = |scale: f64| self.least >= from * scale && self.most <= to * scale;
        units.into_iter().find(|(_, scale)| self.total() > 0 && fits(*scale)).map(|(unit, _)| unit)
    }
}

/// Everything seen so far.
#[derive(Debug, Default)]
struct Sample {
    readings: u64,
    unusable: u64,
    array: Option<Vec<String>>,
    /// In the order in which the paths first occurred.
    seen: Vec<(Vec<String>, Seen)>,
    places: BTreeMap<Vec<String>, usize>,
}

impl Sample {
    /// None if it is a message that holds no reading.
    fn json(&mut self, message: &[u8]) -> Option<()> {
        match serde_json::from_slice::<Value>(message).ok()? {
            Value::Array(readings) => {
                let objects = readings.iter().filter(|reading| reading.is_object());
                let before = self.readings;
                for reading in objects {
                    self.reading(reading);
                }
                (self.readings > before).then_some(())
            }
            value @ Value::Object(_) => {
                if self.array.is_none() {
                    self.array = array_of_objects(&value, &mut Vec::new());
                }
                let array = self.array.clone();
                let inner = array.as_ref().and_then(|path| at(&value, path)?.as_array());
                match inner {
                    None => self.reading(&value),
                    Some(inner) => {
                        for reading in inner.iter().filter(|reading| reading.is_object()) {
                            self.collect(&value, &mut Vec::new());
                            self.reading(reading);
                        }
                    }
                }
                Some(())
            }
            _ => None,
        }
    }

    fn reading(&mut self, reading: &Value) {
        self.readings += 1;
        self.collect(reading, &mut Vec::new());
    }

    fn collect(&mut self, value: &Value, path: &mut Vec<String>) {
        let Value::Object(object) = value else { return };
        for (key, value) in object {
            path.push(key.clone());
            match value {
                _ if path.len() > PATH_KEYS_MAX => {}
                Value::Null | Value::Array(_) => {}
                Value::Object(_) => self.collect(value, path),
                Value::Bool(_) => self.see(path, |seen| seen.booleans += 1),
                Value::Number(number) => {
                    let size = number.as_f64().unwrap_or(f64::NAN);
                    self.see(path, |seen| seen.number(size, number.is_i64()));
                }
                Value::String(text) => self.see(path, |seen| seen.text(text)),
            }
            path.pop();
        }
    }

    /// None if it is a message that is no such CSV.
    fn csv(&mut self, message: &[u8], delimiter: u8, columns: &[String]) -> Option<()> {
        let mut names = columns.to_vec();
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut line = 0usize;
        records(message, delimiter, |cells, text| {
            if line == 0 && columns.is_empty() {
                names = header_names(text, delimiter)?;
            } else {
                rows.push(cells.iter().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect());
            }
            line += 1;
            Ok(())
        })
        .ok()?;
        if rows.is_empty() || rows.iter().any(|row| row.len() != names.len()) {
            return None;
        }
        for row in rows {
            self.readings += 1;
            for (name, cell) in names.iter().zip(&row).filter(|(name, _)| !name.is_empty()) {
                self.see(std::slice::from_ref(name), |seen| see_cell(seen, cell));
            }
        }
        Some(())
    }

    fn see(&mut self, path: &[String], note: impl FnOnce(&mut Seen)) {
        let place = match self.places.get(path) {
            Some(place) => *place,
            None if self.seen.len() >= FIELDS_MAX => return,
            None => {
                self.places.insert(path.to_vec(), self.seen.len());
                self.seen.push((path.to_vec(), Seen::default()));
                self.seen.len() - 1
            }
        };
        if let Some((_, seen)) = self.seen.get_mut(place) {
            note(seen);
        }
    }

    /// The likeliest time among the values that could be one and are there in most readings.
    fn time(&self) -> Option<(Vec<String>, TimeUnit)> {
        let rank = |path: &[String]| {
            let name = path.last().map(|name| name.to_ascii_lowercase()).unwrap_or_default();
            let known = TIME_NAMES.iter().position(|known| *known == name);
            let sounds = ["time", "date", "stamp"].into_iter().any(|part| name.contains(part));
            known.or(sounds.then_some(TIME_NAMES.len()))
        };
        let candidates = self.seen.iter().enumerate().filter_map(|(place, (path, seen))| {
            let unit = seen.time_unit().filter(|_| seen.total() * 2 >= self.readings)?;
            // Any number can be as large as a time; a text that looks like one is one.
            let rank = match rank(path) {
                None if unit != TimeUnit::Rfc3339 => return None,
                rank => rank.unwrap_or(TIME_NAMES.len() + 1),
            };
            Some((rank, place, path, unit))
        });
        candidates
            .min_by_key(|(rank, place, ..)| (*rank, *place))
            .map(|(_, _, path, unit)| (path.clone(), unit))
    }

    fn result(self, known: &Known) -> Result<Found> {
        let time = if known.time.is_none() { self.time() } else { None };
        let time_path = known.time.as_ref().or(time.as_ref().map(|(path, _)| path));
        let (lenient, said) = match &known.layout {
            Layout::Json { array, lenient } => (*lenient, array.is_some()),
            Layout::Csv { .. } => (true, true),
        };
        let mut names: BTreeSet<String> = known.taken.iter().cloned().collect();
        names.insert(TIME.to_owned());
        let mut fields = Vec::with_capacity(self.seen.len());
        let values = self.seen.iter().filter(|(path, seen)| Some(path) != time_path && seen.total() > 0);
        for (path, seen) in values {
            fields.push(Field {
                name: column_name(path, &mut names),
                kind: seen.kind(lenient),
                path: path.clone(),
            });
        }
        if fields.is_empty() {
            return Err(Error::data(format!("{} readings hold no values besides the time", self.readings)));
        }
        let array = self.array.filter(|_| !said);
        Ok(Found { readings: self.readings, unusable: self.unusable, array, time, fields })
    }
}

/// A CSV cell; an empty one is null.
fn see_cell(seen: &mut Seen, cell: &str) {
    let text = cell.trim();
    let number = text_to_bits(FieldKind::F64, text.as_bytes());
    match (text, number) {
        ("", _) | (_, Ok(None)) => {}
        (_, Ok(Some(bits))) => seen.number(f64::from_bits(bits), text.parse::<i64>().is_ok()),
        _ if ["true", "false"].iter().any(|word| text.eq_ignore_ascii_case(word)) => seen.booleans += 1,
        _ => seen.text(text),
    }
}

/// The first path to an array with objects in it.
fn array_of_objects(value: &Value, path: &mut Vec<String>) -> Option<Vec<String>> {
    let Value::Object(object) = value else { return None };
    for (key, value) in object {
        path.push(key.clone());
        let found = match value {
            _ if path.len() > PATH_KEYS_MAX => None,
            Value::Array(items) if items.iter().any(Value::is_object) => Some(path.clone()),
            value => array_of_objects(value, path),
        };
        if found.is_some() {
            return found;
        }
        path.pop();
    }
    None
}

fn at<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

/// A name for the column of a path that no other column has.
fn column_name(path: &[String], names: &mut BTreeSet<String>) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    let joined: String = path.join("_").chars().map(plain).collect();
    let base = if joined.is_empty() { "value".to_owned() } else { joined };
    let candidates = [base.clone(), format!("{base}_in_message")].into_iter();
    let mut numbered = candidates.chain((2u32..).map(|number| format!("{base}_{number}")));
    let name = numbered.find(|name| !names.contains(name)).unwrap_or(base);
    names.insert(name.clone());
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(known: &Known, messages: &[&str]) -> Found {
        infer(known, messages.iter().map(|message| message.as_bytes())).unwrap()
    }

    /// Fields as `name:type@path`.
    fn shown(found: &Found) -> Vec<String> {
        let show = |field: &Field| {
            let path = field.path.join("/");
            match path == field.name {
                true => format!("{}:{}", field.name, field.kind.word()),
                false => format!("{}:{}@{path}", field.name, field.kind.word()),
            }
        };
        found.fields.iter().map(show).collect()
    }

    #[test]
    fn times_types_and_paths_are_seen() {
        let found = found(
            &Known { taken: vec!["device".to_owned()], ..Known::default() },
            &[
                r#"{"ts":1700000000123,"temp":21,"motor":{"rpm":1450,"on":true},"state":"run","n":"12"}"#,
                r#"{"ts":1700000000223,"temp":21.5,"motor":{"rpm":1451,"on":null},"state":null,"n":"13"}"#,
                r#"{"device":"a","time":"x","a.b":1,"a_b":"2024-01-01T00:00:00Z"}"#,
                "garbage",
                "17",
            ],
        );
        assert_eq!((found.readings, found.unusable), (3, 2));
        assert_eq!(found.time, Some((vec!["ts".to_owned()], TimeUnit::Milliseconds)));
        let expected = [
            "temp:f64",
            "motor_rpm:f64@motor/rpm",
            "motor_on:bool@motor/on",
            "state:text",
            "n:f64",
            "device_in_message:text@device",
            "time_in_message:text@time",
            "a_b:f64@a.b",
            "a_b_in_message:text@a_b",
        ];
        assert_eq!(shown(&found), expected);
    }

    #[test]
    fn numbers_are_integers_only_where_the_sample_shows_it() {
        let number = |values: &[&str]| {
            let messages: Vec<String> = values.iter().map(|value| format!("{{\"v\":{value}}}")).collect();
            let messages: Vec<&str> = messages.iter().map(String::as_str).collect();
            found(&Known::default(), &messages).fields[0].kind
        };
        let counter: Vec<String> = (0..20).map(|value| value.to_string()).collect();
        let counter: Vec<&str> = counter.iter().map(String::as_str).collect();
        assert_eq!(number(&counter), FieldKind::I64);
        assert_eq!(number(&counter[..19]), FieldKind::F64, "too few readings");
        assert_eq!(number(&["21"; 100]), FieldKind::F64, "too few values");
        assert_eq!(number(&[counter.as_slice(), &["0.5"]].concat()), FieldKind::F64);
        assert_eq!(number(&["9007199254740993"]), FieldKind::I64, "f64 would lose the last digit");
        assert_eq!(number(&["1", "true"]), FieldKind::Text);
        let strict = Known { layout: Layout::Json { array: None, lenient: false }, ..Known::default() };
        assert_eq!(found(&strict, &[r#"{"n":"12"}"#]).fields[0].kind, FieldKind::Text);
    }

    #[test]
    fn what_is_a_time() {
        for (message, expected) in [
            (r#"{"v":1,"when":"2024-01-01T00:00:00Z"}"#, Some(("when", TimeUnit::Rfc3339))),
            (r#"{"v":1,"serial":1700000000}"#, None),
            (r#"{"v":1,"ts":12}"#, None),
            (r#"{"v":1,"ts":1700000000.5}"#, Some(("ts", TimeUnit::Seconds))),
            (r#"{"v":1,"created_date":1700000000000000,"ts":1700000000}"#, Some(("ts", TimeUnit::Seconds))),
            (r#"{"v":1,"timestampNs":1700000000000000000}"#, Some(("timestampNs", TimeUnit::Nanoseconds))),
        ] {
            let time = found(&Known::default(), &[message]).time;
            let expected = expected.map(|(path, unit)| (vec![path.to_owned()], unit));
            assert_eq!(time, expected, "{message}");
        }
        let seldom = [r#"{"v":1}"#, r#"{"v":1}"#, r#"{"v":1,"ts":1700000000}"#];
        assert_eq!(found(&Known::default(), &seldom).time, None, "most readings would be without a time");
        let said = Known { time: Some(vec!["v".to_owned()]), ..Known::default() };
        let found = found(&said, &[r#"{"v":1,"ts":1700000000}"#]);
        assert_eq!((found.time.clone(), shown(&found)), (None, vec!["ts:f64".to_owned()]));
    }

    #[test]
    fn readings_in_arrays() {
        let nested = r#"{"gateway":7,"data":{"readings":[{"time":"2024-01-01T00:00:00Z","v":1.5},{"time":"2024-01-01T00:00:01Z","v":2}]}}"#;
        let found_nested = found(&Known::default(), &[nested]);
        assert_eq!(found_nested.array, Some(vec!["data".to_owned(), "readings".to_owned()]));
        assert_eq!(found_nested.time, Some((vec!["time".to_owned()], TimeUnit::Rfc3339)));
        assert_eq!(
            (found_nested.readings, shown(&found_nested)),
            (2, vec!["gateway:f64".into(), "v:f64".into()])
        );
        let plain = found(&Known::default(), &[r#"[{"v":1},{"w":true}]"#]);
        assert_eq!((plain.array.clone(), shown(&plain)), (None, vec!["v:f64".into(), "w:bool".into()]));
        let said = Layout::Json { array: Some(vec!["b".to_owned()]), lenient: true };
        let said = found(&Known { layout: said, ..Known::default() }, &[r#"{"a":[{"x":1}],"b":[{"y":1}]}"#]);
        assert_eq!((said.array.clone(), shown(&said)), (None, vec!["y:f64".to_owned()]));
    }

    #[test]
    fn csv_with_a_header_or_named_columns() {
        let csv = |columns: &[&str]| Known {
            layout: Layout::Csv {
                delimiter: b';',
                columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            },
            ..Known::default()
        };
        let rows =
            found(&csv(&[]), &["ts;Temp °C;on;note\n1700000000;1,5;true;\"a;b\"\n1700000001;2;;x\n", "ts"]);
        assert_eq!((rows.readings, rows.unusable), (2, 1));
        assert_eq!(rows.time, Some((vec!["ts".to_owned()], TimeUnit::Seconds)));
        assert_eq!(shown(&rows), ["Temp__C:text@Temp °C", "on:bool", "note:text"]);
        let rows = found(&csv(&["a", "b"]), &["1.5;x", "2;y;z"]);
        assert_eq!((rows.unusable, shown(&rows)), (1, vec!["a:f64".to_owned(), "b:text".to_owned()]));
    }

    #[test]
    fn nothing_to_go_by() {
        for messages in [&["7", "online"][..], &[], &["{}"], &[r#"{"ts":1700000000}"#], &["[1]"]] {
            let messages = messages.iter().map(|message| message.as_bytes());
            assert!(infer(&Known::default(), messages).is_err());
        }
    }

    #[test]
    fn many_keys_and_deep_ones_are_bounded() {
        let wide: Vec<String> = (0..FIELDS_MAX + 10).map(|key| format!("\"k{key}\":1")).collect();
        let deep = "{\"a\":".repeat(PATH_KEYS_MAX + 1) + "1" + &"}".repeat(PATH_KEYS_MAX + 1);
        assert_eq!(found(&Known::default(), &[&format!("{{{}}}", wide.join(","))]).fields.len(), FIELDS_MAX);
        assert_eq!(shown(&found(&Known::default(), &[&deep, r#"{"b":1}"#])), ["b:f64"]);
    }
}
