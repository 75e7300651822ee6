//! What can be written in a pipeline file: one JSON Schema for editors, and the reference in Markdown. Pure.
//!
//! Both are made from the doc comments of the config structs; [`undocumented`] finds what lacks one.

use std::fmt::Write;

use schemars::schema_for;
use serde_json::{Map, Value as Json, json};

use crate::registry::{Inputs, Registry, nearest};
use crate::{Error, Result};

use super::declare::{ROLES, Role};
use super::keys::{Broker, DECODE_KEYS, Settings};
use super::shape::{Shape, inline};

/// Tables inside tables are described this deep.
const DEPTH_MAX: usize = 5;

/// A type of component, as the reference sees it.
struct Entry {
    role: Role,
    name: &'static str,
    inputs: Option<Inputs>,
    examples: &'static [&'static str],
    schema: Json,
}

fn entries(registry: &Registry) -> Vec<Entry> {
    fn of<B>(role: Role, types: &[crate::registry::ComponentType<B>]) -> Vec<Entry> {
        let entry = |one: &crate::registry::ComponentType<B>| Entry {
            role,
            name: one.name,
            inputs: one.inputs,
            examples: one.examples,
            schema: (one.schema)().to_value(),
        };
        types.iter().map(entry).collect()
    }
    let mut all = of(Role::Source, &registry.sources);
    all.extend(of(Role::Operator, &registry.operators));
    all.extend(of(Role::Sink, &registry.sinks));
    all
}

/// The keys that a role's components have in common; for sources those of decoding too.
fn common(role: Role, registry: &Registry) -> Json {
    let mut schema = role.common_schema();
    let decode = registry.operator_type("decode").filter(|_| role == Role::Source);
    if let Some(decode) = decode.map(|decode| (decode.schema)().to_value()) {
        for key in DECODE_KEYS {
            if let Some(property) = decode["properties"].get(key) {
                schema["properties"][key] = property.clone();
            }
        }
        if let Some(definitions) = decode["$defs"].as_object() {
            let all = definitions.iter().map(|(name, definition)| (name.clone(), definition.clone()));
            match schema["$defs"].as_object_mut() {
                Some(there) => there.extend(all),
                None => schema["$defs"] = all.collect::<Map<_, _>>().into(),
            }
        }
    }
    schema
}

/// One JSON Schema of the whole file, for editors.
pub fn schema(registry: &Registry) -> Json {
    let mut definitions = Map::new();
    let mut tables = Map::new();
    for (name, schema) in [("pipeline", schema_for!(Settings)), ("broker", schema_for!(Broker))] {
        tables.insert(name.to_owned(), embed(schema.to_value(), name, &mut definitions));
    }
    for role in ROLES {
        let mut common = embed(common(role, registry), role.word(), &mut definitions);
        let mut choices = Vec::new();
        for entry in entries(registry).into_iter().filter(|entry| entry.role == role) {
            let name = format!("{}.{}", role.word(), entry.name);
            common["properties"]["type"]["const"] = entry.name.into();
            let own = embed(entry.schema, &name, &mut definitions);
            let merged = merge(&own, &common, &definitions);
            definitions.insert(name.clone(), merged);
            choices.push(json!({ "$ref": format!("#/$defs/{name}") }));
        }
        let table = json!({
            "description": format!("The {0}s: each is a table [{0}.NAME] with a `type`.", role.word()),
            "type": "object",
            "additionalProperties": { "oneOf": choices },
        });
        tables.insert(role.word().to_owned(), table);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tidegate pipeline",
        "description": "A graph of sources, operators and sinks.",
        "type": "object",
        "properties": tables,
        "required": ["pipeline", "source", "sink"],
        "additionalProperties": false,
        "$defs": definitions,
    })
}

/// Moves a document's definitions, under a prefix, to those of the whole, and gives what is left of it.
fn embed(mut schema: Json, prefix: &str, definitions: &mut Map<String, Json>) -> Json {
    rename_references(&mut schema, prefix);
    if let Some(document) = schema.as_object_mut() {
        document.remove("$schema");
        document.remove("title");
        if let Some(Json::Object(own)) = document.remove("$defs") {
            definitions.extend(own.into_iter().map(|(name, one)| (format!("{prefix}.{name}"), one)));
        }
    }
    schema
}

fn rename_references(schema: &mut Json, prefix: &str) {
    match schema {
        Json::Object(map) => {
            for (key, value) in map.iter_mut() {
                match value {
                    Json::String(reference) if key == "$ref" => {
                        if let Some(name) = reference.strip_prefix("#/$defs/") {
                            *reference = format!("#/$defs/{prefix}.{name}");
                        }
                    }
                    value => rename_references(value, prefix),
                }
            }
        }
        Json::Array(values) => values.iter_mut().for_each(|value| rename_references(value, prefix)),
        _ => {}
    }
}

/// A type's own schema with the common keys in each of its forms.
fn merge(own: &Json, common: &Json, definitions: &Map<String, Json>) -> Json {
    let root = json!({ "$defs": definitions });
    let shape = Shape { schema: own, root: &root };
    let forms: Vec<Json> = shape
        .alternatives()
        .into_iter()
        .filter(|form| form.schema.is_object())
        .map(|form| {
            let mut form = form.schema.clone();
            for (key, property) in common["properties"].as_object().into_iter().flatten() {
                // A key that the type itself has is its own.
                if form["properties"].get(key).is_none() {
                    form["properties"][key] = property.clone();
                }
            }
            let own_required = form["required"].as_array().cloned().unwrap_or_default();
            let common_required = common["required"].as_array().into_iter().flatten().cloned();
            form["required"] = common_required.chain(own_required).collect();
            form
        })
        .collect();
    match <[Json; 1]>::try_from(forms) {
        Ok([only]) => only,
        Err(forms) => json!({ "description": shape.description(), "oneOf": forms }),
    }
}

/// The reference of one type of component, in Markdown; of all of that name, if several kinds have it.
///
/// # Errors
/// If there is no such type.
pub fn explain(registry: &Registry, name: &str) -> Result<String> {
    let all = entries(registry);
    let mut parts: Vec<String> =
        all.iter().filter(|entry| entry.name == name).map(|entry| component(entry, registry)).collect();
    match name {
        "pipeline" => parts.push(settings_table("[pipeline]", &schema_for!(Settings).to_value())),
        "broker" => parts.push(settings_table("[broker]", &schema_for!(Broker).to_value())),
        _ => {}
    }
    if !parts.is_empty() {
        return Ok(parts.join("\n"));
    }
    let mut names: Vec<&str> = all.iter().map(|entry| entry.name).collect();
    names.sort_unstable();
    names.dedup();
    Err(Error::config(match nearest(name, names.iter().copied()) {
        Some(near) => format!("there is no type `{name}`; did you mean `{near}`?"),
        None => format!("there is no type `{name}`; there are {}", names.join(", ")),
    }))
}

/// The whole reference, in Markdown.
pub fn reference(registry: &Registry) -> String {
    let mut text = String::from("# The pipeline file\n\n");
    text.push_str("Made from the code. Durations are written \"250ms\", \"10s\", \"1h30m\"; sizes \"64KiB\", \"10MB\".\n\n");
    text.push_str(&settings_table("[pipeline]", &schema_for!(Settings).to_value()));
    text.push('\n');
    text.push_str(&settings_table("[broker]", &schema_for!(Broker).to_value()));
    for role in ROLES {
        let word = role.word();
        let _ = write!(text, "\n# Keys of every {word}\n\n");
        keys(&mut text, Shape::root(&common(role, registry)), 0);
        let mut of_role: Vec<Entry> =
            entries(registry).into_iter().filter(|entry| entry.role == role).collect();
        of_role.sort_by_key(|entry| entry.name);
        for entry in of_role {
            text.push('\n');
            text.push_str(&own_part(&entry));
        }
    }
    text
}

fn settings_table(title: &str, schema: &Json) -> String {
    let shape = Shape::root(schema);
    let mut text = format!("# `{title}`\n\n{}\n\n", paragraphs(shape.description()));
    keys(&mut text, shape, 0);
    text
}

fn component(entry: &Entry, registry: &Registry) -> String {
    let mut text = own_part(entry);
    let _ = write!(text, "\nKeys of every {}:\n\n", entry.role.word());
    keys(&mut text, Shape::root(&common(entry.role, registry)), 0);
    text
}

/// What a type is, its own keys and its examples.
fn own_part(entry: &Entry) -> String {
    let shape = Shape::root(&entry.schema);
    let word = entry.role.word();
    let mut text = format!("## `{}` ({word})\n\n{}\n", entry.name, paragraphs(shape.description()));
    match (entry.role, entry.inputs) {
        (Role::Operator, Some(Inputs::One)) => text.push_str("\nTakes one input.\n"),
        (Role::Operator | Role::Sink, Some(Inputs::Many)) => {
            text.push_str("\nTakes one or more inputs, all with the same columns.\n");
        }
        _ => {}
    }
    text.push('\n');
    forms(&mut text, shape, 0);
    for example in entry.examples {
        let inputs = if entry.role == Role::Source { "" } else { "inputs = [\"…\"]\n" };
        let body = example.trim();
        let body = if body.is_empty() { String::new() } else { format!("{body}\n") };
        let _ = write!(text, "\n```toml\n[{word}.NAME]\ntype = \"{}\"\n{inputs}{body}```\n", entry.name);
    }
    text
}

/// The keys of a table in each of its forms, as a list.
fn forms(text: &mut String, shape: Shape<'_>, depth: usize) {
    let tables: Vec<Shape<'_>> =
        shape.alternatives().into_iter().filter(|one| one.types().contains(&"object")).collect();
    let discriminator = Shape::discriminator(&tables);
    match tables.as_slice() {
        [only] => keys(text, *only, depth),
        several => {
            for form in several {
                let tag = discriminator.and_then(|key| {
                    let constant = form.property(key)?.constants().first().copied()?.clone();
                    Some(format!("{key} = {}", inline(&constant)))
                });
                let sample = tag.unwrap_or_else(|| form.sample());
                let indent = "  ".repeat(depth);
                let _ = writeln!(text, "{indent}- `{sample}`: {}", one_line(form.description()));
                let only_tag = form.only_key().is_some();
                if !only_tag {
                    keys(text, *form, depth + 1);
                }
            }
        }
    }
}

/// The keys of a table, as a list: what each may be, whether it must be there, what it means.
fn keys(text: &mut String, shape: Shape<'_>, depth: usize) {
    for (key, value) in shape.properties() {
        // A key with one possible value tells forms apart; it stands in the form's title.
        if depth > 0 && value.schema.get("const").is_some() {
            continue;
        }
        let presence = if shape.required().any(|required| required == key) {
            ", required".to_owned()
        } else {
            match value.schema.get("default") {
                Some(default) if !default.is_null() && !is_empty(default) => {
                    format!(", default `{}`", inline(default))
                }
                _ => ", optional".to_owned(),
            }
        };
        let indent = "  ".repeat(depth);
        let _ = writeln!(
            text,
            "{indent}- `{key}` ({}{presence}): {}",
            value.expected(),
            one_line(value.description())
        );
        nested(text, value, depth);
    }
}

/// What the words of a value mean, and the keys of the tables inside it: itself, a list's entries, a map's values.
fn nested(text: &mut String, value: Shape<'_>, depth: usize) {
    if depth >= DEPTH_MAX {
        return;
    }
    for form in value.alternatives() {
        // A word with a meaning of its own.
        if let ([word], false) = (form.constants().as_slice(), form.description().is_empty()) {
            let indent = "  ".repeat(depth + 1);
            let _ = writeln!(text, "{indent}- `{}`: {}", inline(word), one_line(form.description()));
        }
        for inner in ["items", "additionalProperties"] {
            if let Some(inner) = form.schema.get(inner).filter(|inner| inner.is_object()) {
                nested_table(text, form.of(inner), depth + 1);
            }
        }
    }
    nested_table(text, value, depth + 1);
}

fn nested_table(text: &mut String, shape: Shape<'_>, depth: usize) {
    let with_keys = shape.alternatives().iter().any(|one| one.properties().next().is_some());
    if with_keys {
        forms(text, shape, depth);
    }
}

fn is_empty(value: &Json) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

fn one_line(description: &str) -> String {
    description.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Paragraphs without the line breaks of the source; lists and code stay as they are.
fn paragraphs(description: &str) -> String {
    description
        .split("\n\n")
        .map(|paragraph| match paragraph.trim_start().starts_with(['-', '*', '|', '`']) {
            true => paragraph.to_owned(),
            false => one_line(paragraph),
        })
        .collect::<Vec<_>>()
        .join("\n\n")
}

/// What lacks documentation or takes keys that nobody knows: every key of every type and of the common tables
/// has a doc comment, every type an example, and unknown keys are denied everywhere.
pub fn undocumented(registry: &Registry) -> Vec<String> {
    let mut flaws = Vec::new();
    for (name, schema) in [("[pipeline]", schema_for!(Settings)), ("[broker]", schema_for!(Broker))] {
        document_flaws(name, &schema.to_value(), &mut flaws);
    }
    for role in ROLES {
        document_flaws(&format!("keys of every {}", role.word()), &role.common_schema(), &mut flaws);
    }
    for entry in entries(registry) {
        let name = format!("{} {}", entry.role.word(), entry.name);
        document_flaws(&name, &entry.schema, &mut flaws);
        if entry.examples.is_empty() {
            flaws.push(format!("{name}: there is no example"));
        }
    }
    flaws
}

fn document_flaws(name: &str, schema: &Json, flaws: &mut Vec<String>) {
    if Shape::root(schema).description().is_empty() {
        flaws.push(format!("{name}: the struct has no doc comment"));
    }
    shape_flaws(name, Shape::root(schema), DEPTH_MAX, flaws);
}

fn shape_flaws(name: &str, shape: Shape<'_>, depth: usize, flaws: &mut Vec<String>) {
    if depth == 0 {
        return;
    }
    let alternatives = shape.alternatives();
    for form in &alternatives {
        let has_keys = form.properties().next().is_some();
        if has_keys && form.schema["additionalProperties"] != false {
            flaws.push(format!("{name}: unknown keys are not denied"));
        }
        if has_keys && alternatives.len() > 1 && form.description().is_empty() {
            flaws.push(format!("{name}: the form `{}` has no doc comment", form.sample()));
        }
        for (key, value) in form.properties() {
            let told_by_form = value.schema.get("const").is_some()
                || (alternatives.len() > 1 && form.only_key() == Some(key));
            if value.description().is_empty() && !told_by_form {
                flaws.push(format!("{name}: `{key}` has no doc comment"));
            }
            shape_flaws(&format!("{name}: `{key}`"), value, depth - 1, flaws);
        }
        for inner in ["items", "additionalProperties"] {
            if let Some(inner) = form.schema.get(inner).filter(|inner| inner.is_object()) {
                shape_flaws(name, form.of(inner), depth - 1, flaws);
            }
        }
    }
}
