//! Checks a table against the JSON Schema of a config struct and reports everything that is wrong. Pure.
//!
//! serde stops at the first error of a table and knows no places; so the schema is checked first, and serde
//! then only sees what fits.

use serde_json::Value as Json;

use crate::registry::nearest;
use crate::units::{Period, Room, Size};

use super::diagnostic::Report;
use super::shape::{Shape, either, first_sentence, inline};
use super::tree::{Entry, Node, Table, Value};

/// What is known about the keys of a component beyond its own schema.
pub(super) struct Keys<'k> {
    /// What the table is called: "[source.plant]".
    pub name: &'k str,
    /// Whose keys they are: "the source type `mqtt`".
    pub owner: &'k str,
    /// Keys that stand in the same table and are checked by another schema.
    pub others: &'k [&'k str],
    /// Where a key that is unknown here would belong, e.g. "`slide` is a key of the operator type `window`".
    pub belongs: &'k dyn Fn(&str) -> Option<String>,
}

/// Checks a component's table: `node` gives the place, `table` the keys that this schema is about.
pub(super) fn check_component(
    node: &Node,
    table: &Table,
    shape: Shape<'_>,
    keys: &Keys<'_>,
    report: &mut Report,
) {
    match shape.alternatives().as_slice() {
        [only] => check_keys(node, table, *only, Some(keys), keys.name, report),
        // A component whose config is an enum: its branches know nothing of the common keys, so they are left out.
        _ => {
            let own = Node { place: node.place.clone(), value: Value::Table(table.clone()) };
            check(&own, shape, keys.name, report);
        }
    }
}

/// Checks a value; `name` is what it is called in messages.
pub(super) fn check(node: &Node, shape: Shape<'_>, name: &str, report: &mut Report) {
    let alternatives = shape.alternatives();
    let fitting: Vec<Shape<'_>> = alternatives.iter().copied().filter(|one| fits(node, *one)).collect();
    if is_secret(shape) {
        conceal(node, report);
    }
    match (fitting.as_slice(), &node.value) {
        ([], _) => mismatch(node, shape, &alternatives, name, report),
        ([only], _) if alternatives.len() == 1 => check_one(node, *only, name, report),
        (_, Value::Text { text, .. }) => check_text_alternatives(node, text, shape, &fitting, name, report),
        (_, Value::Table(table)) => check_table_alternatives(node, table, &fitting, name, report),
        _ => check_nearest(node, &fitting, name, report),
    }
}

/// Whether a secret and nothing else can stand here.
fn is_secret(shape: Shape<'_>) -> bool {
    let names_secret = |schema: &Json| schema["$ref"] == "#/$defs/Secret";
    let several = ["anyOf", "oneOf", "allOf"].into_iter().find_map(|key| shape.schema[key].as_array());
    names_secret(shape.schema)
        || several.is_some_and(|several| {
            let mut forms = several.iter().filter(|form| form["type"] != "null").peekable();
            forms.peek().is_some() && forms.all(names_secret)
        })
}

/// Whatever stands where a secret's hiding place should be named may be the secret itself.
fn conceal(node: &Node, report: &mut Report) {
    match node.table() {
        None => report.concealed.push(node.place.clone()),
        Some(table) => {
            let strange = table.entries.iter().filter(|entry| !matches!(entry.key.as_str(), "env" | "file"));
            report.concealed.extend(strange.map(|entry| entry.node.place.clone()));
        }
    }
}

fn fits(node: &Node, shape: Shape<'_>) -> bool {
    let types = shape.types();
    types.is_empty()
        || types.iter().any(|name| match node.value {
            Value::Text { .. } => *name == "string",
            Value::Integer(_) => matches!(*name, "integer" | "number"),
            Value::Float(_) => *name == "number",
            Value::Boolean(_) => *name == "boolean",
            Value::Datetime(_) => false,
            Value::Array(_) => *name == "array",
            Value::Table(_) => *name == "object",
        })
}

/// A value of the wrong type.
fn mismatch(node: &Node, shape: Shape<'_>, alternatives: &[Shape<'_>], name: &str, report: &mut Report) {
    let tables: Vec<Shape<'_>> =
        alternatives.iter().copied().filter(|one| one.types().contains(&"object")).collect();
    let lists = alternatives.iter().any(|one| one.types().contains(&"array"));
    let help = match &node.value {
        _ if is_secret(shape) => {
            "secrets do not stand in the file; write `{ env = \"NAME\" }` or `{ file = \"PATH\" }`".to_owned()
        }
        Value::Text { text, .. } if !tables.is_empty() => table_for_word(text, &tables),
        Value::Text { text, .. } if lists => format!("write `[{}]`", inline(&Json::from(text.as_str()))),
        Value::Integer(number) if shape.expected() == "a duration" => {
            format!("write the unit too, for example \"{number}s\"")
        }
        Value::Integer(number) if shape.expected() == "a size" => {
            format!("write the unit too, for example \"{number}KiB\"")
        }
        Value::Datetime(_) => "put it in quotes".to_owned(),
        _ => match shape.sample().as_str() {
            sample if sample.contains('…') => String::new(),
            sample => format!("write for example `{sample}`"),
        },
    };
    let message = format!("{name} must be {}, not {}", shape.expected(), node.describe());
    report.error(&node.place, message, help);
}

/// A word stands where a table with that word in it is meant: `format = "json"`.
fn table_for_word(word: &str, tables: &[Shape<'_>]) -> String {
    if let Some(key) = Shape::discriminator(tables) {
        let named = |one: &&Shape<'_>| {
            one.property(key).is_some_and(|value| value.constants().contains(&&Json::from(word)))
        };
        if let Some(meant) = tables.iter().find(named) {
            return format!("write `{}`", meant.sample());
        }
    }
    let samples: Vec<String> = tables.iter().take(8).map(|one| format!("`{}`", one.sample())).collect();
    format!("write {}", either(&samples))
}

/// Checks a value that has the right type for the only form there is.
fn check_one(node: &Node, shape: Shape<'_>, name: &str, report: &mut Report) {
    let constants = shape.constants();
    if !constants.is_empty() {
        let value = serde_json::to_value(node.to_toml()).unwrap_or_default();
        if !constants.contains(&&value) {
            not_one_of(node, &constants, "", name, report);
        }
        return;
    }
    match &node.value {
        Value::Text { text, .. } => check_text(node, text, shape, name, report),
        Value::Integer(value) => check_range(node, *value as f64, shape, name, report),
        Value::Float(value) => check_range(node, *value, shape, name, report),
        Value::Array(nodes) => check_array(node, nodes, shape, name, report),
        Value::Table(table) => check_keys(node, table, shape, None, name, report),
        Value::Boolean(_) | Value::Datetime(_) => {}
    }
}

/// None of the values that there may be: lists them, and names the nearest.
fn not_one_of(node: &Node, constants: &[&Json], also: &str, name: &str, report: &mut Report) {
    let Some(text) = node.text() else {
        let words: Vec<String> = constants.iter().map(|constant| inline(constant)).collect();
        return report.error(&node.place, format!("{name} must be {}", either(&words)), "");
    };
    let mut words: Vec<&str> = constants.iter().filter_map(|constant| constant.as_str()).collect();
    words.sort_by_key(|word| strsim::damerau_levenshtein(word, text));
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    let known = format!("it can be {}{also}", either(&quoted));
    let help = match nearest(text, words.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"? ({known})"),
        None => known,
    };
    report.error(&node.place, format!("{name} cannot be \"{text}\""), help);
}

fn check_text(node: &Node, text: &str, shape: Shape<'_>, name: &str, report: &mut Report) {
    let wrong = match shape.format() {
        "duration" => Period::parse(text).err(),
        "size" => Size::parse(text).err(),
        "room" => Room::parse(text).err(),
        _ => None,
    };
    if let Some(message) = wrong {
        let (cause, help) = message.split_once("; ").unwrap_or((&message, ""));
        return report.error(&node.place, format!("{name}: {cause}"), help);
    }
    let length = text.chars().count() as u64;
    if shape.schema["minLength"].as_u64().is_some_and(|least| length < least) {
        let message = if length == 0 { "must not be empty" } else { "is too short" };
        report.error(&node.place, format!("{name} {message}"), "");
    }
    if let Some(most) = shape.schema["maxLength"].as_u64().filter(|most| length > *most) {
        let message = format!("{name} is too long: at most {most} characters, not {length}");
        report.error(&node.place, message, "");
    }
}

fn check_range(node: &Node, value: f64, shape: Shape<'_>, name: &str, report: &mut Report) {
    let (least_of_type, most_of_type) = match shape.format() {
        "int8" => (-128.0, 127.0),
        "int16" => (-32_768.0, 32_767.0),
        "int32" => (f64::from(i32::MIN), f64::from(i32::MAX)),
        "uint8" => (0.0, 255.0),
        "uint16" => (0.0, 65_535.0),
        "uint32" => (0.0, f64::from(u32::MAX)),
        "uint64" | "uint" => (0.0, f64::INFINITY),
        _ => (f64::NEG_INFINITY, f64::INFINITY),
    };
    let bound = |key: &str| shape.schema[key].as_f64();
    let least = bound("minimum").unwrap_or(least_of_type).max(least_of_type);
    let most = bound("maximum").unwrap_or(most_of_type).min(most_of_type);
    let above = bound("exclusiveMinimum").unwrap_or(f64::NEG_INFINITY);
    let below = bound("exclusiveMaximum").unwrap_or(f64::INFINITY);
    // Comparisons are false for NaN, which lies in no range that has a bound.
    let bounded = [least, most, above, below].iter().any(|bound| bound.is_finite());
    let inside = value >= least
        && value <= most
        && (value > above || above == f64::NEG_INFINITY)
        && (value < below || below == f64::INFINITY);
    if inside || !bounded {
        return;
    }
    let mut limits = match (least.is_finite(), most.is_finite()) {
        (true, true) => vec![format!("between {least} and {most}")],
        (true, false) => vec![format!("at least {least}")],
        (false, true) => vec![format!("at most {most}")],
        (false, false) => Vec::new(),
    };
    limits.extend(above.is_finite().then(|| format!("more than {above}")));
    limits.extend(below.is_finite().then(|| format!("less than {below}")));
    let message = format!("{name} must be {}, not {}", limits.join(" and "), node.to_toml());
    report.error(&node.place, message, "");
}

fn check_array(node: &Node, nodes: &[Node], shape: Shape<'_>, name: &str, report: &mut Report) {
    let count = nodes.len() as u64;
    let least = shape.schema["minItems"].as_u64().unwrap_or(0);
    let most = shape.schema["maxItems"].as_u64().unwrap_or(u64::MAX);
    if count < least || count > most {
        let limits = match (least, most) {
            (1, u64::MAX) => "must not be empty".to_owned(),
            (least, u64::MAX) => format!("must have at least {least} entries, not {count}"),
            (least, most) if least == most => format!("must have {least} entries, not {count}"),
            (least, most) => format!("must have between {least} and {most} entries, not {count}"),
        };
        report.error(&node.place, format!("{name} {limits}"), "");
    }
    let leading = shape.schema["prefixItems"].as_array().map_or(&[][..], Vec::as_slice);
    for (index, item) in nodes.iter().enumerate() {
        let schema = leading.get(index).or_else(|| shape.schema.get("items"));
        if let Some(schema) = schema {
            check(item, shape.of(schema), &element(name, &format!("[{index}]")), report);
        }
    }
    if shape.schema["uniqueItems"] == true {
        let values: Vec<toml::Value> = nodes.iter().map(Node::to_toml).collect();
        for (index, item) in nodes.iter().enumerate() {
            if values[..index].contains(&values[index]) {
                report.error(&item.place, format!("{name} has this entry twice"), "remove one of them");
            }
        }
    }
}

/// The name of a part: `` `a` `` and `.b` give `` `a.b` ``.
fn element(name: &str, part: &str) -> String {
    match name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) {
        Some(path) => format!("`{path}{part}`"),
        None => format!("`{}`", part.trim_start_matches('.')),
    }
}

/// Checks the keys of a table: unknown ones, missing ones, and the value of each.
fn check_keys(
    node: &Node,
    table: &Table,
    shape: Shape<'_>,
    keys: Option<&Keys<'_>>,
    name: &str,
    report: &mut Report,
) {
    let mut misspelt: Vec<&str> = Vec::new();
    for entry in &table.entries {
        let further =
            ["additionalProperties", "patternProperties"].into_iter().find_map(|word| shape.schema.get(word));
        let part = match shape.schema["properties"].get(&entry.key) {
            Some(schema) => Some(schema),
            None if further == Some(&Json::Bool(false)) => {
                misspelt.extend(unknown_key(entry, table, shape, keys, name, report));
                None
            }
            None => shape.schema.get("additionalProperties").filter(|schema| schema.is_object()),
        };
        if let Some(schema) = part {
            check(&entry.node, shape.of(schema), &element(name, &format!(".{}", entry.key)), report);
        }
    }
    // A required key that is there under a misspelt name is not missing as well.
    let missing = shape.required().filter(|key| table.entry(key).is_none() && !misspelt.contains(key));
    for key in missing {
        let Some(value) = shape.property(key) else { continue };
        let meaning = first_sentence(value.description());
        let help = format!("add `{key} = {}`", value.sample());
        let help = if meaning.is_empty() { help } else { format!("{help}: {meaning}") };
        report.error(&node.place, format!("{name} lacks the key `{key}`"), help);
    }
}

/// Reports a key that is not known here; gives the one probably meant.
fn unknown_key<'s>(
    entry: &Entry,
    table: &Table,
    shape: Shape<'s>,
    keys: Option<&Keys<'_>>,
    name: &str,
    report: &mut Report,
) -> Option<&'s str> {
    let key = entry.key.as_str();
    let own: Vec<&'s str> = shape.properties().map(|(key, _)| key).collect();
    let free = own.iter().copied().filter(|own| table.entry(own).is_none());
    let meant = nearest(key, free.clone());
    let other = || nearest(key, keys.into_iter().flat_map(|keys| keys.others).copied());
    let help = match meant.or_else(other) {
        Some(near) => format!("did you mean `{near}`?"),
        None => match keys.and_then(|keys| (keys.belongs)(key)) {
            Some(belongs) => belongs,
            None if own.is_empty() => "there are no keys here".to_owned(),
            None => {
                let known: Vec<String> = own.iter().map(|key| format!("`{key}`")).collect();
                format!("the keys here are {}", known.join(", "))
            }
        },
    };
    let message = match keys {
        Some(keys) => format!("{} has no key `{key}`", keys.owner),
        None => format!("{name} has no key `{key}`"),
    };
    report.error(&entry.key_place, message, help);
    meant
}

/// A text where several forms of text are possible.
fn check_text_alternatives(
    node: &Node,
    text: &str,
    shape: Shape<'_>,
    fitting: &[Shape<'_>],
    name: &str,
    report: &mut Report,
) {
    let constants: Vec<&Json> = fitting.iter().flat_map(|one| one.constants()).collect();
    let free: Vec<Shape<'_>> = fitting.iter().copied().filter(|one| one.constants().is_empty()).collect();
    if constants.iter().any(|constant| constant.as_str() == Some(text)) {
        return;
    }
    if free.iter().any(|one| tried(node, *one, name).list.is_empty()) {
        return;
    }
    if constants.is_empty() {
        return check_nearest(node, fitting, name, report);
    }
    let tables = shape.alternatives().into_iter().filter(|one| one.types().contains(&"object"));
    let also: String = free
        .iter()
        .map(|one| format!(" or {}", one.expected()))
        .chain(tables.map(|one| format!(" or `{}`", one.sample())))
        .collect();
    not_one_of(node, &constants, &also, name, report);
}

/// A table where several forms of tables are possible: the form meant is found by the key that tells them
/// apart, or by the only key, or else by where the fewest things are wrong.
fn check_table_alternatives(
    node: &Node,
    table: &Table,
    fitting: &[Shape<'_>],
    name: &str,
    report: &mut Report,
) {
    if let Some(key) = Shape::discriminator(fitting) {
        return check_by_discriminator(node, table, key, fitting, name, report);
    }
    let tags: Vec<&str> = fitting.iter().filter_map(|one| one.only_key()).collect();
    if tags.len() != fitting.len() {
        return check_nearest(node, fitting, name, report);
    }
    let quoted: Vec<String> = tags.iter().map(|tag| format!("`{tag}`")).collect();
    match table.entries.as_slice() {
        [] => report.error(
            &node.place,
            format!("{name} is empty"),
            format!("it needs one of {}", either(&quoted)),
        ),
        [entry] => match fitting.iter().find(|one| one.only_key() == Some(&entry.key)) {
            Some(meant) => check_one(node, *meant, name, report),
            None => {
                let help = match nearest(&entry.key, tags.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("it needs one of {}", either(&quoted)),
                };
                report.error(&entry.key_place, format!("{name} has no key `{}`", entry.key), help);
            }
        },
        [_, second, ..] => {
            let message = format!("{name} takes only one key");
            report.error(&second.key_place, message, format!("keep one of {}", either(&quoted)));
        }
    }
}

fn check_by_discriminator<'s>(
    node: &Node,
    table: &Table,
    key: &str,
    fitting: &[Shape<'s>],
    name: &str,
    report: &mut Report,
) {
    let constants = |one: &Shape<'s>| one.property(key).map(Shape::constants).unwrap_or_default();
    let known: Vec<&Json> = fitting.iter().flat_map(constants).collect();
    let Some(tag) = table.node(key) else {
        let words: Vec<String> = known.iter().map(|constant| inline(constant)).collect();
        let help = format!("add `{key} = …`: {}", either(&words));
        return report.error(&node.place, format!("{name} lacks the key `{key}`"), help);
    };
    let written = serde_json::to_value(tag.to_toml()).unwrap_or_default();
    match fitting.iter().find(|one| constants(one).contains(&&written)) {
        Some(meant) => check_one(node, *meant, name, report),
        None => not_one_of(tag, &known, "", &element(name, &format!(".{key}")), report),
    }
}

/// Reports what is wrong with the form that fits best.
fn check_nearest(node: &Node, fitting: &[Shape<'_>], name: &str, report: &mut Report) {
    let attempts = fitting.iter().map(|one| tried(node, *one, name));
    if let Some(best) = attempts.min_by_key(|attempt| attempt.list.len()) {
        report.list.extend(best.list);
        report.concealed.extend(best.concealed);
    }
}

fn tried(node: &Node, shape: Shape<'_>, name: &str) -> Report {
    let mut report = Report::default();
    check_one(node, shape, name, &mut report);
    report
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tree::parse;
    use super::*;

    fn messages(value: &str, schema: &Json) -> Vec<String> {
        let mut report = Report::default();
        let tree = parse(&format!("x = {value}"), &mut report).unwrap();
        check(&tree.entries[0].node, Shape::root(schema), "`x`", &mut report);
        report.list.into_iter().map(|one| one.message).collect()
    }

    #[test]
    fn limits_of_values() {
        let number = json!({ "type": "number", "exclusiveMinimum": 0.0, "maximum": 1.0 });
        let unique = json!({ "type": "array", "uniqueItems": true, "minItems": 2, "maxItems": 3 });
        let pair = json!({ "type": "array", "prefixItems": [{ "type": "string" }, { "type": "integer" }],
            "minItems": 2, "maxItems": 2 });
        let word = json!({ "type": "string", "minLength": 2, "maxLength": 3 });
        let unsigned = json!({ "type": "integer", "format": "uint32", "minimum": 0 });
        let few = json!({ "enum": [1, 2] });
        for (value, schema, expected) in [
            ("0.5", &number, None),
            ("1", &number, None),
            ("0.0", &number, Some("`x` must be at most 1 and more than 0, not 0.0")),
            ("nan", &number, Some("`x` must be at most 1 and more than 0, not nan")),
            ("inf", &number, Some("`x` must be at most 1 and more than 0, not inf")),
            ("nan", &json!({ "type": "number" }), None),
            ("[1, 2]", &unique, None),
            ("[1, 1]", &unique, Some("`x` has this entry twice")),
            ("[1]", &unique, Some("`x` must have between 2 and 3 entries, not 1")),
            ("['a', 1]", &pair, None),
            ("['a', 'b']", &pair, Some("`x[1]` must be an integer, not text")),
            ("['a', 1, 2]", &pair, Some("`x` must have 2 entries, not 3")),
            ("'äö'", &word, None),
            ("'a'", &word, Some("`x` is too short")),
            ("'abcd'", &word, Some("`x` is too long: at most 3 characters, not 4")),
            ("4294967295", &unsigned, None),
            ("4294967296", &unsigned, Some("`x` must be between 0 and 4294967295, not 4294967296")),
            ("-1", &unsigned, Some("`x` must be between 0 and 4294967295, not -1")),
            ("3", &few, Some("`x` must be 1 or 2")),
            ("1979-05-27", &json!({ "type": "string" }), Some("`x` must be text, not a date or time")),
            ("5", &json!(true), None),
            ("5", &json!({}), None),
        ] {
            let expected: Vec<&str> = expected.into_iter().collect();
            assert_eq!(messages(value, schema), expected, "{value} for {schema}");
        }
    }

    #[test]
    fn a_schema_that_contains_itself_ends() {
        let schema = json!({ "$ref": "#/$defs/Tree", "$defs": { "Tree": { "anyOf": [
            { "type": "integer" },
            { "type": "array", "items": { "$ref": "#/$defs/Tree" } },
        ] } } });
        assert_eq!(messages("[1, [2, [3, []]]]", &schema), Vec::<String>::new());
        let words = "an integer or a list of (an integer or a list of (an integer or a list of (an integer or a list)))";
        let expected = format!("`x[1][1][0]` must be {words}, not text");
        assert_eq!(messages("[1, [2, ['a']]]", &schema), [expected]);
    }
}
