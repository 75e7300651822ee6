//! From the tree of a file to its settings and components: names, types and keys checked, nothing built yet. Pure.

use std::collections::{BTreeMap, BTreeSet};

use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::registry::{Problem, Registry, nearest};

use super::check::{Keys, check, check_component};
use super::diagnostic::{Place, Report, Severity};
use super::keys::{
    BatchKeys, Broker, DECODE_KEYS, OperatorKeys, Settings, SinkKeys, SourceKeys, name_problem,
};
use super::shape::{Shape, either};
use super::tree::{Entry, Node, Table, Value};

/// The name of a registered type, and its schema.
pub(super) type Kind = (&'static str, fn() -> schemars::Schema);

/// What a component is in the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Source,
    Operator,
    Sink,
}

pub(super) const ROLES: [Role; 3] = [Role::Source, Role::Operator, Role::Sink];

impl Role {
    /// The word in the file: `[source.plant]`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Operator => "operator",
            Self::Sink => "sink",
        }
    }

    /// The same with its article.
    pub fn with_article(self) -> &'static str {
        match self {
            Self::Source => "a source",
            Self::Operator => "an operator",
            Self::Sink => "a sink",
        }
    }

    /// The keys that stand beside those of the type.
    pub fn common_keys(self) -> &'static [&'static str] {
        match self {
            Self::Source => &["type", "batch", "format", "fields", "event_time"],
            Self::Operator => &["type", "inputs", "was"],
            Self::Sink => &["type", "inputs", "spool", "on_full", "max_age", "priority", "max_rate"],
        }
    }

    /// The schema of these keys, without those of decoding.
    pub fn common_schema(self) -> Json {
        match self {
            Self::Source => schema_for!(SourceKeys),
            Self::Operator => schema_for!(OperatorKeys),
            Self::Sink => schema_for!(SinkKeys),
        }
        .to_value()
    }

    /// The registered types of this role, by name, with their schemas.
    pub fn types(self, registry: &Registry) -> Vec<Kind> {
        match self {
            Self::Source => registry.sources.iter().map(|one| (one.name, one.schema)).collect(),
            Self::Operator => registry.operators.iter().map(|one| (one.name, one.schema)).collect(),
            Self::Sink => registry.sinks.iter().map(|one| (one.name, one.schema)).collect(),
        }
    }

    fn type_names(self, registry: &Registry) -> Vec<&'static str> {
        let mut names: Vec<_> = self.types(registry).into_iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names
    }
}

/// One `[source.*]`, `[operator.*]` or `[sink.*]`.
pub(super) struct Component<'t> {
    pub role: Role,
    pub name: &'t str,
    pub name_place: &'t Place,
    /// Its whole table.
    pub node: &'t Node,
    /// Its type, if there is such a type.
    pub kind: Option<&'static str>,
    /// The keys of its type.
    pub own: Table,
    /// The keys of decoding, for sources.
    pub decode: Table,
    pub batch: BatchKeys,
    /// The keys that all sinks have, for a sink.
    pub sink_keys: Option<SinkKeys>,
    pub was: Option<&'t Node>,
    /// Its inputs as written; none if they are not a list of texts.
    pub inputs: Option<Vec<&'t Node>>,
    /// Whether nothing is wrong with its keys.
    pub valid: bool,
}

/// What a file says, as far as it can be understood.
pub(super) struct Declared<'t> {
    pub settings: Option<Settings>,
    pub broker: Option<Broker>,
    pub components: Vec<Component<'t>>,
    /// Tables that are there, but misspelt or not as they must be: they are not missing as well.
    pub meant: BTreeSet<&'static str>,
}

const TABLES: [&str; 5] = ["pipeline", "broker", "source", "operator", "sink"];

/// Reads all tables and reports everything that is wrong with their keys.
pub(super) fn declare<'t>(tree: &'t Table, registry: &Registry, report: &mut Report) -> Declared<'t> {
    let unknown = tree.entries.iter().filter(|entry| !TABLES.contains(&entry.key.as_str()));
    let mut meant: BTreeSet<&'static str> =
        unknown.filter_map(|entry| unknown_table(entry, report)).collect();
    let settings = match tree.entry("pipeline") {
        Some(entry) => read(entry, Settings::problems, report),
        None if meant.contains("pipeline") => None,
        None => {
            let help = "add `[pipeline]` with `name = \"…\"`";
            report.error(&Place::file(0..0), "there is no table [pipeline]", help);
            None
        }
    };
    let broker = tree.entry("broker").and_then(|entry| read(entry, Broker::problems, report));
    let mut components: Vec<Component<'t>> = Vec::new();
    for role in ROLES {
        let Some(entry) = tree.entry(role.word()) else { continue };
        let Value::Table(named) = &entry.node.value else {
            not_a_table(entry, &format!("`{}`", role.word()), role, report);
            meant.insert(role.word());
            continue;
        };
        for entry in &named.entries {
            match component(entry, role, registry, report) {
                Some(component) => components.push(component),
                None => {
                    meant.insert(role.word());
                }
            }
        }
    }
    refuse_same_names(&components, report);
    Declared { settings, broker, components, meant }
}

/// Gives the table that was probably meant.
fn unknown_table(entry: &Entry, report: &mut Report) -> Option<&'static str> {
    let meant = nearest(&entry.key, TABLES.into_iter());
    let help = match meant {
        Some(near) => format!("did you mean `{near}`?"),
        None => "a pipeline file has [pipeline], [broker], [source.*], [operator.*] and [sink.*]".to_owned(),
    };
    let what = if entry.node.table().is_some() { "table" } else { "key" };
    report.error(&entry.key_place, format!("there is no {what} `{}` in a pipeline file", entry.key), help);
    meant
}

fn not_a_table(entry: &Entry, name: &str, role: Role, report: &mut Report) {
    let message = format!("{name} must be a table, not {}", entry.node.describe());
    let help = format!("every {0} has a name: `[{0}.NAME]`, and its keys below", role.word());
    report.error(&entry.key_place, message, help);
}

/// Reads one of the tables that have no type.
fn read<T: DeserializeOwned + JsonSchema>(
    entry: &Entry,
    problems: impl Fn(&T) -> Vec<Problem>,
    report: &mut Report,
) -> Option<T> {
    let before = report.errors();
    let name = format!("[{}]", entry.key);
    let schema = schema_for!(T).to_value();
    match entry.node.table() {
        None => check(&entry.node, Shape::root(&schema), &name, report),
        Some(table) => {
            let keys = Keys { name: &name, owner: &name, others: &[], belongs: &|_| None };
            check_component(&entry.node, table, Shape::root(&schema), &keys, report);
        }
    }
    if report.errors() > before {
        return None;
    }
    let read = T::deserialize(entry.node.to_toml());
    match &read {
        Ok(read) => report_problems(&entry.node, problems(read), Severity::Error, report),
        Err(error) => report.error(&entry.node.place, error.message(), ""),
    }
    read.ok()
}

/// Reports what a component says about its own table, each at its place: that of the value, or of the key if
/// the message is about the key, as in `column "vibr" does not exist` for `columns = { vibr = ["mean"] }`.
pub(super) fn report_problems(node: &Node, problems: Vec<Problem>, severity: Severity, report: &mut Report) {
    for problem in problems {
        let place = match node.find_key(&problem.path) {
            Some((key, place)) if problem.message.contains(&format!("\"{key}\"")) => place.clone(),
            _ => node.find(&problem.path, problem.span.as_ref()),
        };
        let help = problem.help.unwrap_or_default();
        match severity {
            Severity::Error => report.error(&place, problem.message, help),
            Severity::Warning => report.warning(&place, problem.message, help),
        }
    }
}

fn component<'t>(
    entry: &'t Entry,
    role: Role,
    registry: &Registry,
    report: &mut Report,
) -> Option<Component<'t>> {
    let before = report.errors();
    if let Some(problem) = name_problem(&entry.key) {
        report.error(&entry.key_place, problem.message, problem.help.unwrap_or_default());
    }
    let name = format!("[{}.{}]", role.word(), entry.key);
    let Some(table) = entry.node.table() else {
        not_a_table(entry, &name, role, report);
        return None;
    };
    let kind = component_type(entry, table, role, registry, report);
    check_common(&entry.node, table, &name, role, report);
    let own = table.only(|key| !role.common_keys().contains(&key));
    let decode = table.only(|key| role == Role::Source && DECODE_KEYS.contains(&key));
    if role == Role::Source {
        check_decode(&decode, registry, report);
    }
    if let Some((kind, schema)) = kind {
        let schema = schema().to_value();
        let keys = Keys {
            name: &name,
            owner: &format!("the {} type `{kind}`", role.word()),
            others: role.common_keys(),
            belongs: &|key| belongs(key, role, registry),
        };
        check_component(&entry.node, &own, Shape::root(&schema), &keys, report);
    }
    let inputs = table.node("inputs").and_then(|node| match &node.value {
        Value::Array(inputs) => inputs.iter().map(|input| input.text().map(|_| input)).collect(),
        _ => None,
    });
    let valid = report.errors() == before && kind.is_some();
    let batch = table.node("batch").filter(|_| valid).map(BatchKeys::deserialize_from);
    let batch = batch.and_then(Result::ok).unwrap_or_default();
    report_problems(&entry.node, batch.problems(), Severity::Error, report);
    let sink_keys = Some(table).filter(|_| valid && role == Role::Sink).and_then(|table| {
        let common = table.only(|key| role.common_keys().contains(&key));
        SinkKeys::deserialize(common.to_toml()).ok()
    });
    let (name, name_place, node) = (&entry.key, &entry.key_place, &entry.node);
    let (kind, was) = (kind.map(|(kind, _)| kind), table.node("was"));
    Some(Component { role, name, name_place, node, kind, own, decode, batch, sink_keys, was, inputs, valid })
}

impl BatchKeys {
    fn deserialize_from(node: &Node) -> Result<Self, toml::de::Error> {
        serde::Deserialize::deserialize(node.to_toml())
    }
}

/// The component's type, looked up.
fn component_type(
    entry: &Entry,
    table: &Table,
    role: Role,
    registry: &Registry,
    report: &mut Report,
) -> Option<Kind> {
    let quoted: Vec<String> = role.type_names(registry).iter().map(|name| format!("\"{name}\"")).collect();
    let known = format!("the {} types are {}", role.word(), quoted.join(", "));
    let Some(node) = table.node("type") else {
        let message = format!("[{}.{}] lacks the key `type`", role.word(), entry.key);
        let help = format!("add `type = …`; {known}");
        report.error(&entry.node.place, message, help);
        return None;
    };
    let name = node.text()?;
    let found = role.types(registry).into_iter().find(|(known, _)| *known == name);
    if found.is_none() {
        let elsewhere = ROLES.into_iter().find(|other| other.type_names(registry).contains(&name));
        let help = match (nearest(name, role.type_names(registry).into_iter()), elsewhere) {
            (_, Some(other)) => {
                format!("`{name}` is {} type: write [{}.{}]", other.with_article(), other.word(), entry.key)
            }
            (Some(near), None) => format!("did you mean \"{near}\"? ({known})"),
            (None, None) => known,
        };
        report.error(&node.place, format!("there is no {} type `{name}`", role.word()), help);
    }
    found
}

/// Checks the keys that every component of a role has; that `type` is there is checked elsewhere.
fn check_common(node: &Node, table: &Table, name: &str, role: Role, report: &mut Report) {
    let mut schema = role.common_schema();
    if let Some(required) = schema["required"].as_array_mut() {
        required.retain(|key| key != "type");
    }
    let common = table.only(|key| role.common_keys().contains(&key) && !DECODE_KEYS.contains(&key));
    let keys = Keys { name, owner: name, others: &[], belongs: &|_| None };
    check_component(node, &common, Shape::root(&schema), &keys, report);
}

/// Checks the keys of decoding against the schema of the operator that decodes. Which of them must be there
/// is known only when the source says what it gives.
fn check_decode(decode: &Table, registry: &Registry, report: &mut Report) {
    let Some(operator) = registry.operator_type("decode") else { return };
    let schema = (operator.schema)().to_value();
    for entry in &decode.entries {
        match Shape::root(&schema).property(&entry.key) {
            Some(shape) => check(&entry.node, shape, &format!("`{}`", entry.key), report),
            None => report.error(&entry.key_place, format!("a source has no key `{}`", entry.key), ""),
        }
    }
}

/// Where a key that is unknown here would be right.
fn belongs(key: &str, role: Role, registry: &Registry) -> Option<String> {
    if let Some(other) = ROLES.into_iter().find(|other| *other != role && other.common_keys().contains(&key))
    {
        return Some(match (key, role) {
            ("inputs", Role::Source) => "a source has no inputs; it is where data enters".to_owned(),
            _ => format!("`{key}` is a key of {}s", other.word()),
        });
    }
    let mut owners: Vec<String> = Vec::new();
    for other in [role].into_iter().chain(ROLES.into_iter().filter(|other| *other != role)) {
        for (name, schema) in other.types(registry) {
            if Shape::root(&schema().to_value()).property(key).is_some() {
                owners.push(format!("the {} type `{name}`", other.word()));
            }
        }
    }
    owners.truncate(3);
    (!owners.is_empty()).then(|| format!("`{key}` is a key of {}", either(&owners)))
}

/// One name, one component: names are how inputs, metrics and saved state are found.
fn refuse_same_names(components: &[Component<'_>], report: &mut Report) {
    let mut seen = BTreeMap::new();
    for component in components {
        if let Some(first) = seen.insert(component.name, component.role) {
            let message = format!("the name `{0}` is taken by [{1}.{0}]", component.name, first.word());
            report.error(
                component.name_place,
                message,
                "every source, operator and sink has a name of its own",
            );
        }
    }
}
