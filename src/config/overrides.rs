//! `--set path=value`: site overrides without editing the author's file. Pure.

use toml::de::{DeTable, DeValue};

use crate::registry::nearest;

use super::diagnostic::{Origin, Place, Report};
use super::tree::{Entry, Node, Table, Value, parse_value};

const EXAMPLE: &str = "write for example `--set source.plant.url=mqtt://localhost:1883`";

/// Puts every override into the tree; the last one of a path wins. What cannot be put there is reported.
pub(super) fn apply(tree: &mut Table, set: &[String], report: &mut Report) {
    for (index, text) in set.iter().enumerate() {
        let origin = Origin::Set(index);
        let Some(assignment) = split(text) else {
            let place = Place { origin, span: 0..text.len() };
            report.error(&place, "an override has the form `path=value`", EXAMPLE);
            continue;
        };
        let Some(keys) = path(assignment.path, origin) else {
            let place = Place { origin, span: 0..assignment.path.len() };
            report.error(&place, "this is not a path of keys with dots between them", EXAMPLE);
            continue;
        };
        if let Some(node) = value(&assignment, origin, report) {
            insert(tree, &keys, node, report);
        }
    }
}

struct Assignment<'t> {
    path: &'t str,
    value: &'t str,
    /// Where the value begins.
    value_start: usize,
}

/// Splits at the first `=` outside quotes.
fn split(text: &str) -> Option<Assignment<'_>> {
    let mut quote = None;
    let equals = text.char_indices().find(|(_, character)| match (quote, character) {
        (None, '=') => true,
        (None, '"' | '\'') => {
            quote = Some(*character);
            false
        }
        (Some(open), character) if open == *character => {
            quote = None;
            false
        }
        _ => false,
    });
    let (at, _) = equals?;
    let behind = &text[at + 1..];
    let value_start = at + 1 + (behind.len() - behind.trim_start().len());
    Some(Assignment { path: &text[..at], value: behind.trim(), value_start })
}

/// The keys of a dotted path, each with its place, read by the rules of TOML.
fn path(text: &str, origin: Origin) -> Option<Vec<(String, Place)>> {
    if text.contains(['\n', '\r', '#']) {
        return None;
    }
    let document = format!("{text} = 0");
    let parsed = DeTable::parse(&document).ok()?;
    let (mut keys, mut table) = (Vec::new(), parsed.get_ref());
    loop {
        let (key, value) = table.iter().next()?;
        keys.push((key.get_ref().as_ref().to_owned(), Place { origin, span: key.span() }));
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => return Some(keys),
        }
    }
}

/// A TOML value, or a bare word as text: a shell has already taken the quotes away.
fn value(assignment: &Assignment<'_>, origin: Origin, report: &mut Report) -> Option<Node> {
    let text = assignment.value;
    let place = Place { origin, span: assignment.value_start..assignment.value_start + text.len() };
    let before = report.errors();
    match parse_value(text, origin, assignment.value_start, report) {
        Ok(node) => (report.errors() == before).then_some(node),
        Err(message) if text.starts_with(['[', '{', '"', '\'']) => {
            report.error(&place, format!("this value is not TOML: {message}"), "");
            None
        }
        Err(_) => Some(Node { place, value: Value::Text { text: text.to_owned(), offset: Some(0) } }),
    }
}

fn insert(tree: &mut Table, keys: &[(String, Place)], node: Node, report: &mut Report) {
    let [(first, first_place), rest @ ..] = keys else { return };
    let component = ["source", "operator", "sink"].contains(&first.as_str());
    if keys.len() < if component { 3 } else { 2 } {
        report.error(first_place, "this path is too short: it must lead to one key of a table", EXAMPLE);
        return;
    }
    if let (true, Some((name, place))) = (component, rest.first()) {
        let named = tree.node(first).and_then(Node::table);
        if named.is_none_or(|table| table.entry(name).is_none()) {
            let names = named.into_iter().flat_map(Table::keys);
            let help = nearest(name, names).map(|near| format!("did you mean `{near}`?"));
            let message = format!("the file has no [{first}.{name}]");
            report.error(place, message, help.unwrap_or_default());
            return;
        }
    }
    let Some(((last, last_place), way)) = keys.split_last() else { return };
    let mut table = tree;
    for (key, place) in way {
        if table.entry(key).is_none() {
            let empty = Node { place: place.clone(), value: Value::Table(Table::default()) };
            table.entries.push(Entry { key: key.clone(), key_place: place.clone(), node: empty });
        }
        let Some(Node { value, .. }) = table.entry_mut(key).map(|entry| &mut entry.node) else { return };
        match value {
            Value::Table(inner) => table = inner,
            _ => {
                let message = format!("`{key}` is not a table in the file, so it has no `{last}`");
                report.error(place, message, format!("set `{key}` as a whole"));
                return;
            }
        }
    }
    let entry = Entry { key: last.clone(), key_place: last_place.clone(), node };
    match table.entry_mut(last) {
        Some(there) => *there = entry,
        None => table.entries.push(entry),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::parse;
    use super::*;

    const FILE: &str = "[pipeline]\nname = \"a\"\n[source.plant]\nurl = \"x\"\nbatch = { rows = 5 }\n";

    fn applied(set: &[&str]) -> Result<toml::Table, Vec<String>> {
        let mut report = Report::default();
        let mut tree = parse(FILE, &mut report).unwrap();
        let set: Vec<String> = set.iter().map(|text| (*text).to_owned()).collect();
        apply(&mut tree, &set, &mut report);
        if report.list.is_empty() {
            return Ok(tree.to_toml());
        }
        let shown = |place: &Place| match place.origin {
            Origin::Set(index) => set[index][place.span.clone()].to_owned(),
            Origin::File => "in the file".to_owned(),
        };
        Err(report.list.iter().map(|error| format!("{}: {}", shown(&error.place), error.message)).collect())
    }

    #[test]
    fn values_are_toml_or_bare_words() {
        for (set, path, expected) in [
            ("source.plant.url=mqtt://h:1883?a=b", ["source", "plant", "url"], "\"mqtt://h:1883?a=b\""),
            ("source.plant.url = \"y\"", ["source", "plant", "url"], "\"y\""),
            ("source.plant.qos=1", ["source", "plant", "qos"], "1"),
            ("source.plant.age=5s", ["source", "plant", "age"], "\"5s\""),
            ("source.plant.topics=[\"a\", 'b']", ["source", "plant", "topics"], "[\"a\", \"b\"]"),
            ("source.plant.empty=", ["source", "plant", "empty"], "\"\""),
            ("source.plant.\"a=b\"=true", ["source", "plant", "a=b"], "true"),
            ("source.plant.batch={age=1}", ["source", "plant", "batch"], "{ age = 1 }"),
        ] {
            let table = applied(&[set]).unwrap();
            let mut value = &toml::Value::Table(table);
            for key in path {
                value = &value[key];
            }
            assert_eq!(value.to_string(), expected, "{set}");
        }
    }

    #[test]
    fn the_last_override_wins_and_tables_are_kept() {
        let table =
            applied(&["source.plant.batch.rows=7", "source.plant.batch.rows=8", "pipeline.log=on"]).unwrap();
        assert_eq!(table["source"]["plant"]["batch"]["rows"].as_integer(), Some(8));
        assert_eq!(table["pipeline"]["name"].as_str(), Some("a"));
        assert_eq!(table["pipeline"]["log"].as_str(), Some("on"));
    }

    #[test]
    fn what_leads_nowhere_is_an_error_in_the_override() {
        for (set, expected) in [
            ("nonsense", "nonsense: an override has the form `path=value`"),
            ("=5", ": this is not a path of keys with dots between them"),
            ("a b=5", "a b: this is not a path of keys with dots between them"),
            ("a\nb=5", "a\nb: this is not a path of keys with dots between them"),
            ("source=5", "source: this path is too short: it must lead to one key of a table"),
            ("source.plant=5", "source: this path is too short: it must lead to one key of a table"),
            ("source.plnt.url=5", "plnt: the file has no [source.plnt]"),
            ("sink.out.url=5", "out: the file has no [sink.out]"),
            ("pipeline.name.x=5", "name: `name` is not a table in the file, so it has no `x`"),
            ("pipeline.queue=[1,", "[1,: this value is not TOML: unclosed array, expected `]`"),
            ("pipeline.queue=99999999999999999999", "99999999999999999999: this integer is too large"),
        ] {
            assert_eq!(applied(&[set]).unwrap_err(), [expected], "{set}");
        }
    }
}
