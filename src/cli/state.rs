//! `tidegate state`: what the newest checkpoint of a data directory holds, also beside a running pipeline.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use arrow::temporal_conversions::timestamp_us_to_datetime;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::Outcome;
use crate::config::limits::about;
use crate::core::keys::NAMES;
use crate::error::{Error, Result};
use crate::store::Disk;
use crate::store::checkpoint::{self, Checkpoint, Report, Whole};
use crate::store::manifest::SavedNode;
use crate::store::show::{Fields, Value};

/// Arguments of `tidegate state`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tidegate state show /var/lib/tidegate --node features --key north/press-1")]
pub struct StateArgs {
    /// What to do.
    #[command(subcommand)]
    pub what: What,
}

/// What to do with saved state.
#[derive(Debug, Subcommand)]
pub enum What {
    /// Show the newest checkpoint of each pipeline; changes nothing, and needs nothing to be stopped.
    Show(ShowArgs),
}

/// Arguments of `tidegate state show`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate state show /var/lib/tidegate
  tidegate state show /var/lib/tidegate --pipeline press-line --node features
  tidegate state show /var/lib/tidegate --node features --key north/press-1 --json")]
pub struct ShowArgs {
    /// The data directory.
    pub directory: PathBuf,
    /// Only this pipeline.
    #[arg(long)]
    pub pipeline: Option<String>,
    /// Only this node, and its keys.
    #[arg(long)]
    pub node: Option<String>,
    /// Only this key: its values, divided by `/`. A null is `-`.
    #[arg(long)]
    pub key: Option<String>,
    /// Most keys that are shown of a node.
    #[arg(long, default_value_t = 20)]
    pub limit: usize,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// A pipeline's newest checkpoint.
#[derive(Debug, Serialize)]
struct Shown {
    pipeline: String,
    epoch: u64,
    /// When it was committed.
    committed_at: String,
    /// The first log record behind it.
    log_offset: u64,
    /// The checkpoint that it builds on; its own epoch if it is whole by itself.
    base_epoch: u64,
    /// Files that it is read from.
    files: usize,
    state_bytes: u64,
    sources: BTreeMap<String, String>,
    sinks: BTreeMap<String, String>,
    nodes: Vec<ShownNode>,
    /// Newer checkpoints that could not be used.
    passed_over: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ShownNode {
    name: String,
    r#type: String,
    fingerprint: String,
    watermark: String,
    idle: bool,
    model: Option<String>,
    bytes: u64,
    sections: Vec<ShownSection>,
    /// How many keys there are, for those that have any.
    keys: Option<usize>,
    /// Those asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shown_keys: Vec<ShownKey>,
}

#[derive(Debug, Serialize)]
struct ShownSection {
    name: String,
    elements: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct ShownKey {
    key: String,
    /// By section, what is kept for the key: the values of each element by the names of its fields.
    kept: BTreeMap<String, Vec<BTreeMap<String, Value>>>,
}

/// Shows checkpoints.
///
/// # Errors
/// If there is none, or none can be read.
pub fn run(args: &StateArgs) -> Outcome {
    let What::Show(args) = &args.what;
    let mut shown = Vec::new();
    for name in pipelines(args)? {
        let whole = newest(&args.directory.join(&name))?;
        let (whole, report) =
            whole.ok_or_else(|| Error::state(format!("pipeline `{name}` has no checkpoint yet")))?;
        shown.push(show(name, whole, report, args)?);
    }
    if args.json {
        let text = serde_json::to_string_pretty(&shown).map_err(|error| Error::data(error.to_string()))?;
        println!("{text}");
    } else {
        print!("{}", shown.iter().map(in_words).collect::<String>());
    }
    Ok(())
}

/// The pipelines of a data directory that have checkpoints, in order.
fn pipelines(args: &ShowArgs) -> Result<Vec<String>> {
    let directory = &args.directory;
    let has = |path: &Path| path.join("checkpoint").is_dir();
    if let Some(name) = &args.pipeline {
        return match has(&directory.join(name)) {
            true => Ok(vec![name.clone()]),
            false => Err(Error::state(format!("{} has no checkpoints of `{name}`", directory.display()))),
        };
    }
    let failed = |error: std::io::Error| Error::io(format!("reading {}", directory.display()), &error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string()
            && has(&entry.path())
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    match names.is_empty() {
        true => Err(Error::state(format!(
            "no pipeline in {} has a checkpoint; is it the directory given to `--data-dir`?",
            directory.display()
        ))),
        false => Ok(names),
    }
}

/// How often a checkpoint is looked for whose files a running pipeline removes meanwhile.
const TRIES: usize = 5;

fn newest(directory: &Path) -> Result<Option<(Whole, Report)>> {
    let mut found = checkpoint::peek(&mut Disk::look(directory)?);
    for _ in 1..TRIES {
        match &found {
            Ok(Some((_, report))) if report.passed_over.is_empty() => break,
            Ok(None) => break,
            _ => found = checkpoint::peek(&mut Disk::look(directory)?),
        }
    }
    found
}

fn show(pipeline: String, (checkpoint, states): Whole, report: Report, args: &ShowArgs) -> Result<Shown> {
    let Checkpoint { head, manifest, .. } = checkpoint;
    if let Some(wanted) = &args.node
        && !manifest.nodes.iter().any(|node| node.name == *wanted)
    {
        let names: Vec<&str> = manifest.nodes.iter().map(|node| node.name.as_str()).collect();
        let names = names.join(", ");
        return Err(Error::state(format!("pipeline `{pipeline}` has no node `{wanted}`; it has {names}")));
    }
    let texts = |positions: &BTreeMap<String, crate::core::Position>| {
        positions.iter().map(|(name, position)| (name.clone(), position.0.clone())).collect()
    };
    let wanted = |node: &SavedNode| args.node.as_ref().is_none_or(|name| *name == node.name);
    let nodes = manifest.nodes.iter().zip(&states).filter(|(node, _)| wanted(node));
    Ok(Shown {
        pipeline,
        epoch: head.epoch,
        committed_at: moment(head.wall_us),
        log_offset: head.log_offset,
        base_epoch: head.base_epoch,
        files: manifest.files().len(),
        state_bytes: manifest.nodes.iter().map(SavedNode::bytes).sum(),
        sources: texts(&manifest.sources),
        sinks: texts(&manifest.sinks),
        nodes: nodes.map(|(node, state)| show_node(node, state, args)).collect(),
        passed_over: report.passed_over,
    })
}

/// A section with its bytes.
struct Part<'a> {
    name: &'a str,
    fields: Option<Fields<'a>>,
    /// Its elements, where its fields are known.
    elements: Option<Vec<Vec<Value>>>,
}

fn show_node(node: &SavedNode, state: &[u8], args: &ShowArgs) -> ShownNode {
    let mut rest = state;
    let (mut sections, mut parts) = (Vec::new(), Vec::new());
    for section in &node.sections {
        let bytes: u64 = section.places.iter().map(|place| u64::from(place.bytes)).sum();
        let (own, behind) = rest.split_at(usize::try_from(bytes).unwrap_or(0).min(rest.len()));
        rest = behind;
        let fields = Fields::parse(&section.fields);
        let elements = fields.as_ref().and_then(|fields| fields.read(section.elements, own));
        parts.push(Part { name: &section.name, fields, elements });
        if !section.name.is_empty() {
            sections.push(ShownSection { name: section.name.clone(), elements: section.elements, bytes });
        }
    }
    let names = key_names(&parts);
    let keys = parts.iter().any(|part| part.name == NAMES).then_some(names.len());
    let is_wanted = |name: &String| args.key.as_ref().is_none_or(|key| key == name);
    let shown_keys = match args.node.is_some() || args.key.is_some() {
        true => names.iter().filter(|(_, name)| is_wanted(name)).take(args.limit).collect(),
        false => Vec::new(),
    };
    ShownNode {
        name: node.name.clone(),
        r#type: node.kind.clone(),
        fingerprint: format!("{:016x}", node.fingerprint.0),
        watermark: moment(node.watermark),
        idle: node.idle,
        model: node.model.map(|model| model.short()),
        bytes: node.bytes(),
        sections,
        keys,
        shown_keys: shown_keys
            .into_iter()
            .map(|(id, name)| ShownKey { key: name.clone(), kept: kept(&parts, *id) })
            .collect(),
    }
}

/// The keys that there are, by id.
fn key_names(parts: &[Part<'_>]) -> BTreeMap<u64, String> {
    let elements = parts.iter().find(|part| part.name == NAMES).and_then(|part| part.elements.as_ref());
    let names = (0u64..).zip(elements.into_iter().flatten());
    names
        .filter_map(|(id, values)| match values.first() {
            Some(Value::Name(name)) => Some((id, name.clone())),
            _ => None,
        })
        .collect()
}

/// What all sections keep for the key of an id.
fn kept(parts: &[Part<'_>], id: u64) -> BTreeMap<String, Vec<BTreeMap<String, Value>>> {
    let mut kept = BTreeMap::new();
    for part in parts.iter().filter(|part| part.name != NAMES) {
        let (Some(fields), Some(elements)) = (&part.fields, &part.elements) else { continue };
        let indexes = indexes_of(parts, part, id);
        let rows = indexes.into_iter().filter_map(|index| elements.get(index)).map(|values| {
            let named = fields.names().zip(values);
            named
                .enumerate()
                .filter(|(at, _)| fields.key() != Some(*at))
                .map(|(_, (name, value))| (name.to_owned(), value.clone()))
                .collect()
        });
        let rows: Vec<BTreeMap<String, Value>> = rows.collect();
        if !rows.is_empty() {
            kept.insert(part.name.to_owned(), rows);
        }
    }
    kept
}

/// The indexes of a section's elements that belong to the key of an id.
fn indexes_of(parts: &[Part<'_>], part: &Part<'_>, id: u64) -> Vec<usize> {
    let Some(fields) = &part.fields else { return Vec::new() };
    match (fields.of, fields.key()) {
        (Some(NAMES), _) => usize::try_from(id).into_iter().collect(),
        // Whose it is another section says, by itself: sections of sections are not looked into.
        (Some(other), _) => match parts.iter().find(|part| part.name == other) {
            Some(other) if other.fields.as_ref().is_some_and(|fields| fields.key().is_some()) => {
                indexes_of(parts, other, id)
            }
            _ => Vec::new(),
        },
        (None, Some(key)) => {
            let elements = part.elements.iter().flatten().enumerate();
            let own = elements.filter(|(_, values)| values.get(key) == Some(&Value::Unsigned(id)));
            own.map(|(index, _)| index).collect()
        }
        (None, None) => Vec::new(),
    }
}

/// A moment as text.
fn moment(micros: i64) -> String {
    match micros {
        i64::MIN => "nothing yet".to_owned(),
        i64::MAX => "the end".to_owned(),
        micros => match timestamp_us_to_datetime(micros) {
            Some(time) => format!("{time:?}Z"),
            None => format!("{micros} µs"),
        },
    }
}

fn in_words(shown: &Shown) -> String {
    let mut text = String::new();
    let builds_on = match shown.base_epoch == shown.epoch {
        true => "whole by itself".to_owned(),
        false => format!("on the base of epoch {}, in {} files", shown.base_epoch, shown.files),
    };
    let _ = writeln!(
        text,
        "{}: epoch {}, committed {}, {builds_on}, {} of state",
        shown.pipeline,
        shown.epoch,
        shown.committed_at,
        about(shown.state_bytes)
    );
    let _ = writeln!(text, "  log: goes on at offset {}", shown.log_offset);
    for reason in &shown.passed_over {
        let _ = writeln!(text, "  passed over: {reason}");
    }
    for (kind, positions) in [("source", &shown.sources), ("sink", &shown.sinks)] {
        for (name, position) in positions {
            let _ =
                writeln!(text, "  {kind} {name}: at {}", if position.is_empty() { "-" } else { position });
        }
    }
    for node in &shown.nodes {
        let model = node.model.as_ref().map(|model| format!(", model {model}")).unwrap_or_default();
        let keys = node.keys.map(|keys| format!(", {keys} keys")).unwrap_or_default();
        let idle = if node.idle { ", idle" } else { "" };
        let _ = writeln!(
            text,
            "  {} ({}): {}{keys}, watermark {}{idle}{model}, state {}",
            node.name,
            node.r#type,
            about(node.bytes),
            node.watermark,
            node.fingerprint
        );
        for section in &node.sections {
            let _ = writeln!(text, "    {}: {} in {}", section.name, section.elements, about(section.bytes));
        }
        for key in &node.shown_keys {
            let _ = writeln!(text, "    key {}", key.key);
            for (section, rows) in &key.kept {
                for row in rows {
                    let values = row.iter().map(|(name, value)| format!("{name} {}", value_in_words(value)));
                    let _ = writeln!(text, "      {section}: {}", values.collect::<Vec<_>>().join(", "));
                }
            }
        }
        let shown = node.shown_keys.len();
        if let Some(keys) = node.keys.filter(|keys| shown > 1 && *keys > shown) {
            let _ = writeln!(text, "    and {} more keys: `--limit`, or one with `--key`", keys - shown);
        }
    }
    text
}

fn value_in_words(value: &Value) -> String {
    match value {
        Value::None => "-".to_owned(),
        Value::Unsigned(value) => value.to_string(),
        Value::Signed(value) => value.to_string(),
        Value::Time(value) => moment(*value),
        Value::Float(value) => value.to_string(),
        Value::Floats(values) => format!("{values:?}"),
        Value::Boolean(value) => value.to_string(),
        Value::Name(name) => name.clone(),
    }
}
