//! A pipeline file as a tree in which every key and value knows its place. Pure.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Origin, Place, Report};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text {
        text: String,
        /// How far behind the start of the place the text itself begins, if it stands there byte for byte.
        offset: Option<usize>,
    },
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime(toml::value::Datetime),
    Array(Vec<Node>),
    Table(Table),
}

/// Keys and their values, in the order of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub entries: Vec<Entry>,
}

/// One key of a table.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub key_place: Place,
    pub node: Node,
}

impl Table {
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub fn entry_mut(&mut self, key: &str) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.key == key)
    }

    pub fn node(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.key.as_str())
    }

    /// The table with only the keys for which `keep` says so.
    pub fn only(&self, keep: impl Fn(&str) -> bool) -> Self {
        Self { entries: self.entries.iter().filter(|entry| keep(&entry.key)).cloned().collect() }
    }

    /// The same without places, as serde takes it.
    pub fn to_toml(&self) -> toml::Table {
        self.entries.iter().map(|entry| (entry.key.clone(), entry.node.to_toml())).collect()
    }
}

impl Node {
    pub fn table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The texts of a list of texts.
    pub fn texts(&self) -> Vec<&str> {
        match &self.value {
            Value::Array(nodes) => nodes.iter().filter_map(Self::text).collect(),
            _ => Vec::new(),
        }
    }

    /// What the value is, for messages.
    pub fn describe(&self) -> &'static str {
        match &self.value {
            Value::Text { .. } => "text",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Boolean(_) => "true/false",
            Value::Datetime(_) => "a date or time",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    pub fn to_toml(&self) -> toml::Value {
        match &self.value {
            Value::Text { text, .. } => toml::Value::String(text.clone()),
            Value::Integer(value) => toml::Value::Integer(*value),
            Value::Float(value) => toml::Value::Float(*value),
            Value::Boolean(value) => toml::Value::Boolean(*value),
            Value::Datetime(value) => toml::Value::Datetime(*value),
            Value::Array(nodes) => toml::Value::Array(nodes.iter().map(Self::to_toml).collect()),
            Value::Table(table) => toml::Value::Table(table.to_toml()),
        }
    }

    /// The place of what a path such as `columns.vib[1]` leads to, or of the last thing on the way there.
    /// With a span, the place of that part of the text, where the text stands byte for byte.
    pub fn find(&self, path: &str, span: Option<&Range<usize>>) -> Place {
        let (node, rest) = self.walk(path);
        let narrowed = span.filter(|_| rest.is_empty()).and_then(|span| match &node.value {
            Value::Text { text, offset: Some(offset) }
                if span.start <= span.end && span.end <= text.len() =>
            {
                let start = node.place.span.start + offset;
                Some(Place { origin: node.place.origin, span: start + span.start..start + span.end })
            }
            _ => None,
        });
        narrowed.unwrap_or_else(|| node.place.clone())
    }

    /// The key that a path ends with, if the path leads to a value of a table.
    pub fn find_key(&self, path: &str) -> Option<(&str, &Place)> {
        let (node, rest) = self.walk(path);
        let cut = path.rfind(['.', '['])?;
        let (parent, _) = self.walk(&path[..cut]);
        let entry = parent.table()?.entries.iter().find(|entry| std::ptr::eq(&entry.node, node))?;
        rest.is_empty().then_some((&entry.key, &entry.key_place))
    }

    /// Follows a path as far as it leads; the rest of it is left over.
    fn walk<'n, 'p>(&'n self, path: &'p str) -> (&'n Self, &'p str) {
        let (mut node, mut rest) = (self, path);
        loop {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let next = match &node.value {
                _ if rest.is_empty() => None,
                Value::Table(table) => step_into_table(table, rest),
                Value::Array(nodes) => step_into_array(nodes, rest),
                _ => None,
            };
            match next {
                Some((child, behind)) => (node, rest) = (child, behind),
                None => return (node, rest),
            }
        }
    }
}

/// The entry whose key the path starts with, quoted or not; of several the longest, since keys may hold dots.
fn step_into_table<'n, 'p>(table: &'n Table, path: &'p str) -> Option<(&'n Node, &'p str)> {
    table
        .entries
        .iter()
        .filter_map(|entry| {
            let quoted = path
                .strip_prefix('"')
                .and_then(|path| path.strip_prefix(entry.key.as_str()))
                .and_then(|path| path.strip_prefix('"'));
            let behind = quoted.or_else(|| path.strip_prefix(entry.key.as_str()))?;
            (behind.is_empty() || behind.starts_with(['.', '['])).then_some((entry, behind))
        })
        .max_by_key(|(entry, _)| entry.key.len())
        .map(|(entry, behind)| (&entry.node, behind))
}

fn step_into_array<'n, 'p>(nodes: &'n [Node], path: &'p str) -> Option<(&'n Node, &'p str)> {
    let (index, behind) = path.strip_prefix('[')?.split_once(']')?;
    Some((nodes.get(index.parse::<usize>().ok()?)?, behind))
}

/// Reads a whole file. Syntax errors go to the report; then there is no tree.
pub(super) fn parse(text: &str, report: &mut Report) -> Option<Table> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        syntax_errors(text, &errors, report);
        return None;
    }
    let before = report.errors();
    let reader = Reader { text, origin: Origin::File, shift: 0 };
    let table = reader.table(document.get_ref(), report);
    (report.errors() == before).then_some(table)
}

/// One error per line: the parser goes on behind an error, and what it then meets on the same line follows
/// from the first.
fn syntax_errors(text: &str, errors: &[toml::de::Error], report: &mut Report) {
    let mut found: Vec<(Range<usize>, &str)> =
        errors.iter().map(|error| (error.span().unwrap_or(0..0), error.message())).collect();
    found.sort_by_key(|(span, _)| span.start);
    found.dedup_by(|(later, _), (earlier, _)| {
        text.get(earlier.start..later.start).is_some_and(|between| !between.contains('\n'))
    });
    for (span, message) in found {
        let (message, help) = explain_syntax(text, &span, message);
        report.error(&Place::file(span), format!("this is not TOML: {message}"), help);
    }
}

/// The parser's message, with a way out where one is known.
fn explain_syntax(text: &str, span: &Range<usize>, message: &str) -> (String, String) {
    let word = text.get(span.clone()).unwrap_or("");
    if message.starts_with("string values must be quoted") {
        return match word {
            "" => ("a value is missing".to_owned(), String::new()),
            word => ("text must be in quotes".to_owned(), format!("write \"{word}\"")),
        };
    }
    let help = match message {
        "duplicate key" => "a key or table may be there only once; remove or rename one of the two",
        _ => "",
    };
    (message.to_owned(), help.to_owned())
}

/// Reads one value, as it stands behind the `=` of a `--set`.
///
/// # Errors
/// With the parser's message, and nothing reported.
pub(super) fn parse_value(
    text: &str,
    origin: Origin,
    shift: usize,
    report: &mut Report,
) -> Result<Node, String> {
    match DeValue::parse(text) {
        Ok(value) => Ok(Reader { text, origin, shift }.node(&value, report)),
        Err(error) => Err(error.message().to_owned()),
    }
}

struct Reader<'t> {
    text: &'t str,
    origin: Origin,
    /// Where the text begins in the text of its origin.
    shift: usize,
}

impl Reader<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        Place { origin: self.origin, span: span.start + self.shift..span.end + self.shift }
    }

    fn table(&self, table: &DeTable<'_>, report: &mut Report) -> Table {
        let mut entries: Vec<Entry> = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref().as_ref().to_owned(),
                key_place: self.place(key.span()),
                node: self.node(value, report),
            })
            .collect();
        entries.sort_by_key(|entry| entry.key_place.span.start);
        Table { entries }
    }

    fn node(&self, value: &Spanned<DeValue<'_>>, report: &mut Report) -> Node {
        let place = self.place(value.span());
        let mut too_large = |what: &str, help: &str| report.error(&place, what, help);
        let read = match value.get_ref() {
            DeValue::String(text) => Value::Text {
                text: text.as_ref().to_owned(),
                offset: verbatim(self.text.get(value.span()).unwrap_or(""), text),
            },
            DeValue::Integer(integer) => {
                let read = i64::from_str_radix(integer.as_str(), integer.radix());
                Value::Integer(read.unwrap_or_else(|_| {
                    too_large("this integer is too large", "integers have 64 bits, sign included");
                    0
                }))
            }
            DeValue::Float(float) => {
                let read = float.as_str().parse::<f64>().ok();
                let written_infinite = float.as_str().contains("inf");
                Value::Float(
                    read.filter(|read| read.is_finite() || read.is_nan() || written_infinite).unwrap_or_else(
                        || {
                            too_large("this number is too large", "");
                            0.0
                        },
                    ),
                )
            }
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::Datetime(value) => Value::Datetime(*value),
            DeValue::Array(values) => {
                Value::Array(values.iter().map(|value| self.node(value, report)).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table, report)),
        };
        Node { place, value: read }
    }
}

/// How many bytes of quotes stand before the text, if it stands in the file byte for byte.
fn verbatim(raw: &str, text: &str) -> Option<usize> {
    let quotes = ["'''", "\"\"\"", "'", "\""].into_iter().find(|quotes| raw.starts_with(quotes))?;
    let inner = raw.strip_prefix(quotes)?.strip_suffix(quotes)?;
    let newline = match quotes.len() {
        3 if inner.starts_with("\r\n") => 2,
        3 if inner.starts_with('\n') => 1,
        _ => 0,
    };
    (inner.get(newline..) == Some(text)).then_some(quotes.len() + newline)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Node {
        let mut report = Report::default();
        let table = parse(text, &mut report);
        assert!(report.list.is_empty(), "{text}: {:?}", report.list);
        Node { place: Place::file(0..0), value: Value::Table(table.unwrap()) }
    }

    #[test]
    fn paths_lead_to_places() {
        let text =
            "size = \"10s\"\ncolumns = { vib = ['mean', \"r\\u006ds\"], 'a.b' = 1 }\n[sub.deep]\nx = 1\n";
        for (path, span, expected) in [
            ("size", None, "\"10s\""),
            ("size", Some(1..3), "0s"),
            ("size", Some(0..9), "\"10s\""),
            ("columns.vib[0]", Some(1..2), "e"),
            ("columns.vib[1]", Some(1..2), "\"r\\u006ds\""),
            ("columns.vib[7]", None, "['mean', \"r\\u006ds\"]"),
            ("columns.a.b", None, "1"),
            ("columns.\"a.b\"", None, "1"),
            ("columns.temp", Some(0..1), "{ vib = ['mean', \"r\\u006ds\"], 'a.b' = 1 }"),
            ("sub.deep.x", None, "1"),
            ("sub.deep", None, "[sub.deep]"),
            ("sub.deep.y.z[3]", None, "[sub.deep]"),
            ("[0]", None, ""),
            ("", None, ""),
        ] {
            let place = read(text).find(path, span.as_ref());
            assert_eq!(&text[place.span], expected, "{path} {span:?}");
        }
    }

    #[test]
    fn only_text_that_stands_byte_for_byte_is_narrowed() {
        for (raw, text, expected) in [
            ("'a'", "a", Some(1)),
            ("\"a\"", "a", Some(1)),
            ("\"\"", "", Some(1)),
            ("\"\"\"\na\"\"\"", "a", Some(4)),
            ("'''\r\na'''", "a", Some(5)),
            ("\"\\t\"", "\t", None),
            ("\"\"\"a\\\n  b\"\"\"", "ab", None),
            ("a", "a", None),
        ] {
            assert_eq!(verbatim(raw, text), expected, "{raw}");
        }
    }

    #[test]
    fn numbers_too_large_are_refused_at_their_place() {
        for text in ["x = 9223372036854775808", "x = 0xFFFFFFFFFFFFFFFF", "x = 1e999"] {
            let mut report = Report::default();
            assert!(parse(text, &mut report).is_none());
            assert_eq!(report.list.len(), 1);
            assert_eq!(report.list[0].place, Place::file(4..text.len()));
        }
        assert!(
            matches!(read("x = inf").table().unwrap().entries[0].node.value, Value::Float(x) if x.is_infinite())
        );
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_crash() {
        for text in [format!("{} = 1", vec!["a"; 20_000].join(".")), format!("a = {}", "[".repeat(20_000)), {
            format!("a = {}", "{a=".repeat(20_000))
        }] {
            let mut report = Report::default();
            assert!(parse(&text, &mut report).is_none());
            assert_eq!(report.list.len(), 1, "one line, one error");
        }
    }

    #[test]
    fn order_is_that_of_the_file() {
        let node = read("z = 1\na = 2\nm.q = 1\n");
        assert_eq!(node.table().unwrap().keys().collect::<Vec<_>>(), ["z", "a", "m"]);
    }
}
