//! The graph as a drawing: Mermaid for documents, DOT for Graphviz. Pure.

use std::fmt::Write;

use crate::core::Edge;

use super::Pipeline;

/// A box of the drawing. A source and the node that decodes it are one.
struct Drawn<'p> {
    id: String,
    name: &'p str,
    kind: &'p str,
    role: &'static str,
}

struct Drawing<'p> {
    boxes: Vec<Drawn<'p>>,
    /// From box, port, to box.
    edges: Vec<(String, &'static str, String)>,
}

fn drawing(pipeline: &Pipeline) -> Drawing<'_> {
    let graph = &pipeline.graph;
    // The node that decodes a source reads from an input of the graph.
    let source_of = |node: usize| match graph.nodes[node].inputs.first() {
        Some(Edge::Input(source)) => Some(*source),
        _ => None,
    };
    let node_id = |node: usize| match source_of(node) {
        Some(source) => format!("source{source}"),
        None => format!("operator{node}"),
    };
    let mut all = Drawing { boxes: Vec::new(), edges: Vec::new() };
    for (index, source) in pipeline.sources.iter().enumerate() {
        let (id, name, kind) = (format!("source{index}"), &source.name, source.kind);
        all.boxes.push(Drawn { id, name, kind, role: "source" });
    }
    let connect = |edges: &mut Vec<_>, inputs: &[Edge], id: &str| {
        for edge in inputs {
            if let Edge::Node { node, port } = *edge {
                edges.push((node_id(node), graph.nodes[node].ports[port].name, id.to_owned()));
            }
        }
    };
    for (index, node) in graph.nodes.iter().enumerate().filter(|(index, _)| source_of(*index).is_none()) {
        let id = node_id(index);
        connect(&mut all.edges, &node.inputs, &id);
        all.boxes.push(Drawn { id, name: &node.name, kind: node.kind, role: "operator" });
    }
    for (index, (sink, place)) in pipeline.sinks.iter().zip(&graph.sinks).enumerate() {
        let id = format!("sink{index}");
        connect(&mut all.edges, &place.inputs, &id);
        all.boxes.push(Drawn { id, name: &sink.name, kind: sink.kind, role: "sink" });
    }
    all
}

/// The graph as a Mermaid flowchart, from left to right.
pub fn mermaid(pipeline: &Pipeline) -> String {
    let all = drawing(pipeline);
    let mut text = String::from("flowchart LR\n");
    for Drawn { id, name, kind, role } in &all.boxes {
        let (open, close) = match *role {
            "source" => ("([", "])"),
            "sink" => ("[/", "/]"),
            _ => ("[", "]"),
        };
        let _ = writeln!(text, "    {id}{open}\"{name}<br>{kind}\"{close}");
    }
    for (from, port, to) in &all.edges {
        let arrow = if port.is_empty() { "-->".to_owned() } else { format!("-->|{port}|") };
        let _ = writeln!(text, "    {from} {arrow} {to}");
    }
    text
}

/// The graph in Graphviz's language, from left to right.
pub fn dot(pipeline: &Pipeline) -> String {
    let all = drawing(pipeline);
    let mut text =
        format!("digraph \"{}\" {{\n    rankdir=LR;\n    node [fontname=\"sans-serif\"];\n", pipeline.name());
    for Drawn { id, name, kind, role } in &all.boxes {
        let shape = match *role {
            "source" => "ellipse",
            "sink" => "parallelogram",
            _ => "box",
        };
        let _ = writeln!(text, "    {id} [label=\"{name}\\n{kind}\", shape={shape}];");
    }
    for (from, port, to) in &all.edges {
        let label = if port.is_empty() { String::new() } else { format!(" [label=\"{port}\"]") };
        let _ = writeln!(text, "    {from} -> {to}{label};");
    }
    text.push_str("}\n");
    text
}
