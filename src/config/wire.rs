//! How components hang together: inputs resolved, cycles, unused ones, and the order to build in. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::registry::{Inputs, Registry, nearest};

use super::declare::{Component, Declared, Role};
use super::diagnostic::{Place, Report};
use super::shape::either;
use super::tree::Node;

/// One input of a component.
#[derive(Debug, Clone)]
pub(super) struct Link<'t> {
    /// Index of the component it comes from: a source or an operator.
    pub from: usize,
    /// The port there; empty for the main one.
    pub port: &'t str,
    /// The input as written.
    pub node: &'t Node,
}

impl Link<'_> {
    /// The place of the port's name inside the input's text.
    pub fn port_place(&self) -> Place {
        let text = self.node.text().unwrap_or("");
        self.node.find("", Some(&(text.len() - self.port.len()..text.len())))
    }
}

/// The wiring of a file.
pub(super) struct Wires<'t> {
    /// The inputs of each component; none if one of them leads nowhere. Sources have no inputs.
    pub links: Vec<Option<Vec<Link<'t>>>>,
    /// Indices of the operators, each behind all it reads from. Those in or behind a cycle are left out.
    pub order: Vec<usize>,
}

/// Resolves all inputs and reports what is wrong with the wiring.
pub(super) fn wire<'t>(declared: &Declared<'t>, registry: &Registry, report: &mut Report) -> Wires<'t> {
    let components = declared.components.as_slice();
    let mut resolver = Resolver { names: BTreeMap::new(), components, meant: BTreeSet::new() };
    for (index, component) in components.iter().enumerate() {
        resolver.names.entry(component.name).or_insert(index);
    }
    let links: Vec<_> = components
        .iter()
        .enumerate()
        .map(|(index, component)| match component.role {
            Role::Source => Some(Vec::new()),
            _ => {
                one_input_only(component, registry, report);
                resolver.links(index, report)
            }
        })
        .collect();
    let order = order(components, &links);
    report_cycles(components, &links, &order, report);
    let all_known =
        components.iter().all(|component| component.role == Role::Source || component.inputs.is_some());
    if report_ends(declared, report) && all_known {
        report_unused(&resolver, registry, report);
    }
    Wires { links, order }
}

struct Resolver<'c, 't> {
    names: BTreeMap<&'t str, usize>,
    components: &'c [Component<'t>],
    /// Components that a misspelt input probably means: they are not unused.
    meant: BTreeSet<usize>,
}

impl<'t> Resolver<'_, 't> {
    fn links(&mut self, index: usize, report: &mut Report) -> Option<Vec<Link<'t>>> {
        let inputs = self.components[index].inputs.as_ref()?;
        let mut links = Vec::with_capacity(inputs.len());
        let mut seen = BTreeSet::new();
        for input in inputs {
            let text = input.text()?;
            if !seen.insert(text) {
                report.error(
                    &input.place,
                    format!("the input `{text}` is there twice"),
                    "remove one of them",
                );
                continue;
            }
            links.extend(self.link(index, text, input, report));
        }
        (links.len() == inputs.len() && !links.is_empty()).then_some(links)
    }

    fn link(
        &mut self,
        reader: usize,
        text: &'t str,
        node: &'t Node,
        report: &mut Report,
    ) -> Option<Link<'t>> {
        let (name, port) = match text.split_once('.') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        };
        match self.names.get(name).copied() {
            Some(from) if self.components[from].role == Role::Sink => {
                let help = "data leaves the pipeline there; read what the sink reads";
                report.error(&node.place, format!("nothing can be read from the sink `{name}`"), help);
                None
            }
            Some(_) if port == Some("") => {
                let help = format!("write \"{name}\" for the main output");
                report.error(&node.place, format!("behind the dot of `{text}` the port is missing"), help);
                None
            }
            Some(from) => Some(Link { from, port: port.unwrap_or(""), node }),
            None => {
                let place = node.find("", Some(&(0..name.len())));
                let help = self.unknown(reader, name);
                report.error(&place, format!("there is no source or operator `{name}`"), help);
                None
            }
        }
    }

    /// Which one was probably meant, or which ones there are.
    fn unknown(&mut self, reader: usize, name: &str) -> String {
        let readable =
            |(index, component): &(usize, &Component<'_>)| component.role != Role::Sink && *index != reader;
        let known: Vec<(usize, &Component<'_>)> =
            self.components.iter().enumerate().filter(readable).collect();
        match nearest(name, known.iter().map(|(_, component)| component.name)) {
            Some(near) => {
                self.meant.extend(self.names.get(near));
                format!("did you mean \"{near}\"?")
            }
            None if known.is_empty() => String::new(),
            None => {
                let names: Vec<String> =
                    known.iter().take(20).map(|(_, component)| format!("\"{}\"", component.name)).collect();
                format!("it can be {}", either(&names))
            }
        }
    }
}

fn one_input_only(component: &Component<'_>, registry: &Registry, report: &mut Report) {
    let kind = component.kind.filter(|_| component.role == Role::Operator);
    let Some(operator) = kind.and_then(|kind| registry.operator_type(kind)) else { return };
    let second = component.inputs.as_ref().and_then(|inputs| inputs.get(1));
    if let (Some(Inputs::One), Some(second)) = (operator.inputs, second) {
        let several = registry.operators.iter().filter(|other| other.inputs == Some(Inputs::Many));
        let several: Vec<String> = several.map(|other| format!("`{}`", other.name)).collect();
        let help = match several.as_slice() {
            [] => "keep one of them".to_owned(),
            several => format!("join them first with an operator of type {}", either(several)),
        };
        report.error(&second.place, format!("the operator type `{}` takes one input", operator.name), help);
    }
}

/// Kahn's topological order; among those that could come next, the one that stands first in the file.
fn order(components: &[Component<'_>], links: &[Option<Vec<Link<'_>>>]) -> Vec<usize> {
    let is_operator = |index: usize| components[index].role == Role::Operator;
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); components.len()];
    let mut waits_for = vec![0usize; components.len()];
    for (index, inputs) in links.iter().enumerate().filter(|(index, _)| is_operator(*index)) {
        for link in inputs.iter().flatten().filter(|link| is_operator(link.from)) {
            readers[link.from].push(index);
            waits_for[index] += 1;
        }
    }
    let mut ready: BTreeSet<usize> =
        (0..components.len()).filter(|index| is_operator(*index) && waits_for[*index] == 0).collect();
    let mut order = Vec::new();
    while let Some(next) = ready.pop_first() {
        order.push(next);
        for reader in std::mem::take(&mut readers[next]) {
            waits_for[reader] -= 1;
            if waits_for[reader] == 0 {
                ready.insert(reader);
            }
        }
    }
    order
}

/// What has no place in the order reads, directly or not, from a cycle: walking up from it ends in one.
fn report_cycles(
    components: &[Component<'_>],
    links: &[Option<Vec<Link<'_>>>],
    order: &[usize],
    report: &mut Report,
) {
    let mut left: BTreeSet<usize> =
        (0..components.len()).filter(|index| components[*index].role == Role::Operator).collect();
    for index in order {
        left.remove(index);
    }
    let stuck = left.clone();
    while let Some(start) = left.pop_first() {
        let (mut path, mut steps, mut at) = (Vec::new(), BTreeMap::new(), start);
        let closing = loop {
            steps.insert(at, path.len());
            path.push(at);
            let Some(link) = links[at].iter().flatten().find(|link| stuck.contains(&link.from)) else {
                break None;
            };
            if let Some(begin) = steps.get(&link.from) {
                break Some((*begin, link));
            }
            if !left.remove(&link.from) {
                break None;
            }
            at = link.from;
        };
        if let Some((begin, link)) = closing {
            // The path goes against the data; shown is the way of the data.
            let mut names: Vec<&str> =
                path[begin..].iter().rev().map(|index| components[*index].name).collect();
            names.insert(0, components[link.from].name);
            let message = format!("operators read from each other in a circle: {}", names.join(" → "));
            report.error(&link.node.place, message, "data flows one way only; remove one of these inputs");
        }
    }
}

/// Something must come in and something must go out; says whether all is there.
fn report_ends(declared: &Declared<'_>, report: &mut Report) -> bool {
    let is_there = |role: Role| declared.components.iter().any(|component| component.role == role);
    let start = Place::file(0..0);
    for (role, message, help) in [
        (Role::Source, "nothing comes in: there is no source", "add one: `[source.NAME]` with its `type`"),
        (Role::Sink, "nothing goes out: there is no sink", "add one: `[sink.NAME]` with `type` and `inputs`"),
    ] {
        if !is_there(role) && !declared.meant.contains(role.word()) {
            report.error(&start, message, help);
        }
    }
    is_there(Role::Sink)
}

/// Every source and operator must be read by something. An input that is wrong otherwise still counts.
fn report_unused(resolver: &Resolver<'_, '_>, registry: &Registry, report: &mut Report) {
    let mut read = resolver.meant.clone();
    for component in resolver.components {
        let names = component.inputs.iter().flatten().filter_map(|input| input.text()?.split('.').next());
        read.extend(names.filter_map(|name| resolver.names.get(name)));
    }
    for (index, component) in resolver.components.iter().enumerate() {
        let same_name = resolver.names.get(component.name) != Some(&index);
        let alone = registry
            .sources
            .iter()
            .filter(|source| component.role == Role::Source && component.kind == Some(source.name))
            .filter_map(|source| source.alone_with)
            .any(|key| component.own.entry(key).is_some());
        if component.role != Role::Sink && !read.contains(&index) && !same_name && !alone {
            let word = component.role.word();
            let message = format!("nothing reads from the {word} `{}`", component.name);
            let help = format!(
                "name it in the inputs of an operator or a sink, or remove [{word}.{}]",
                component.name
            );
            report.error(component.name_place, message, help);
        }
    }
}
