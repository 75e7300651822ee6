//! Configuration through the public interface: the messages of bad files, the plan of good ones, the drawings,
//! the schema and the reference.
//!
//! `tests/config/*.toml` are bad files, each with its messages beside it in a `.err` file; `# --set …` and
//! `# --data-dir …` at the head of a file are its command line. `UPDATE=1 cargo test --test config` writes what
//! is expected anew: look at the difference before you commit it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "config/components.rs"]
mod components;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use tidegate::config::{self, Diagnostics, Options, Pipeline, draw};
use tidegate::registry::{
    BatchLimits, Built, BuiltSink, Checked, Context, NoFiles, OperatorConfig, Problem, Registry, SinkConfig,
};

const GOOD: &str = include_str!("config/good.toml");

fn load(text: &str, set: &[&str]) -> Result<Pipeline, Diagnostics> {
    let set = set.iter().map(|text| (*text).to_owned()).collect();
    let options = Options { set, ..Options::new(&NoFiles) };
    config::load(text, "pipeline.toml", &components::registry(), &options)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

/// Compares with a file, or writes it.
fn golden(name: &str, actual: &str) -> Result<(), String> {
    let path = folder().join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, actual).map_err(|error| format!("{name}: {error}"))?;
    }
    let expected = std::fs::read_to_string(&path).map_err(|error| format!("{name}: {error}"))?;
    if expected == actual {
        Ok(())
    } else {
        Err(format!("--- {name}, expected:\n{expected}\n--- found:\n{actual}"))
    }
}

#[test]
fn every_bad_file_gives_its_messages() {
    let registry = components::registry();
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".toml") && name != "good.toml")
        .collect();
    names.sort();
    assert!(names.len() >= 20, "the table of bad files has shrunk: {names:?}");
    let failures: Vec<String> = names
        .iter()
        .filter_map(|name| {
            let text = std::fs::read_to_string(folder().join(name)).unwrap();
            let arguments = |flag: &str| -> Vec<String> {
                let lines = text.lines().take_while(|line| line.starts_with("# --"));
                lines
                    .filter_map(|line| Some(line.strip_prefix("# ")?.strip_prefix(flag)?.trim().to_owned()))
                    .collect()
            };
            let options = Options {
                set: arguments("--set"),
                data_dir: arguments("--data-dir").pop(),
                ..Options::new(&NoFiles)
            };
            match config::load(&text, name, &registry, &options) {
                Ok(pipeline) => Some(format!("{name} is not bad: {pipeline:?}")),
                Err(all) => golden(&name.replace(".toml", ".err"), &format!("{all}\n")).err(),
            }
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_good_file_becomes_a_pipeline() {
    let pipeline = load(GOOD, &[]).unwrap();
    assert_eq!(pipeline.name(), "press-line");
    assert_eq!(pipeline.graph.inputs, ["plant", "yard"]);
    let nodes: Vec<(&str, &str)> =
        pipeline.graph.nodes.iter().map(|node| (node.name.as_str(), node.kind)).collect();
    let expected = [
        ("plant", "decode"),
        ("yard", "decode"),
        ("features", "window"),
        ("hot", "filter"),
        ("all", "union"),
    ];
    assert_eq!(nodes, expected);
    let sources: Vec<_> = pipeline
        .sources
        .iter()
        .map(|s| (s.name.as_str(), s.kind, s.acknowledges, s.live, s.notes.len()))
        .collect();
    assert_eq!(sources, [("plant", "sensor", true, true, 0), ("yard", "sensor", true, true, 1)]);
    assert_eq!(pipeline.sources[0].batch, BatchLimits { rows: 100, bytes: 65_536, ..BatchLimits::default() });
    assert_eq!(pipeline.sources[1].batch, BatchLimits { rows: 500, ..BatchLimits::default() });
    let sinks: Vec<_> =
        pipeline.sinks.iter().map(|sink| (sink.name.as_str(), sink.kind, sink.peer.is_some())).collect();
    assert_eq!(sinks, [("away", "cloud", true), ("here", "print", false)]);
    assert_eq!(pipeline.renamed.len(), 1);
    assert!(pipeline.has_log());
    assert!(pipeline.warnings.is_empty(), "{}", pipeline.warnings);
}

#[test]
fn overrides_and_the_data_directory_change_the_plan() {
    let pipeline =
        load(GOOD, &["source.plant.batch.rows=7", "pipeline.log=off", "pipeline.name=other"]).unwrap();
    assert_eq!((pipeline.sources[0].batch.rows, pipeline.has_log(), pipeline.name()), (7, false, "other"));
    let options = Options { data_dir: Some("/mnt/data".to_owned()), ..Options::new(&NoFiles) };
    let pipeline = config::load(GOOD, "a.toml", &components::registry(), &options).unwrap();
    assert_eq!(pipeline.settings.data_dir.as_deref(), Some("/mnt/data"));
}

#[test]
fn what_only_may_be_wrong_is_a_warning() {
    let text = GOOD
        .replace("data_dir = \"/var/lib/tidegate\"\n", "")
        .replace("[source.plant]", "[broker]\n[source.plant]");
    let pipeline = load(&text, &[]).unwrap();
    assert!(!pipeline.has_log());
    let shown = pipeline.warnings.to_string();
    assert!(shown.contains("nothing survives a restart") && shown.contains("in memory only"), "{shown}");
}

/// What cannot be kept is refused in the bad files; here is what is only said, and what is neither.
#[test]
fn promises_and_limits_that_only_need_saying() {
    let warnings = |text: &str, set: &[&str]| load(text, set).unwrap().warnings.to_string();
    let forgets = "keeps nothing for a subscriber that is away";
    let lossy = GOOD.replace("client_id = \"gateway-7\"", "qos = 0");
    assert!(warnings(&lossy, &[]).contains(forgets), "{}", warnings(&lossy, &[]));
    assert_eq!(warnings(&lossy, &["pipeline.log=off"]), "");
    assert!(!warnings(&lossy.replace("data_dir = \"/var/lib/tidegate\"\n", ""), &[]).contains(forgets));

    let small = ["pipeline.log=off", "source.plant.in_flight=99"];
    let shown = warnings(GOOD, &small);
    assert!(
        shown.contains("a batch of `plant` never has 100 rows") && shown.contains("batch = { rows = 100"),
        "{shown}"
    );
    let enough = ["pipeline.log=off", "source.plant.in_flight=100"];
    assert_eq!(warnings(GOOD, &enough), "", "a batch may have all that is under way");
    assert_eq!(warnings(GOOD, &small[1..]), "", "with a log nothing waits for the checkpoint");
    let unsaid = GOOD
        .replace("batch = { rows = 500 }\n", "")
        .replace("batch = { rows = 100, bytes = \"64KiB\" }\n", "");
    assert_eq!(warnings(&unsaid, &small), "", "a limit that nobody wrote is none to speak of");

    let shared = GOOD
        .replace("\"plant/{line}", "\"$share/g/plant/{line}")
        .replace("by = [\"line\", \"device\"]\n", "");
    assert!(
        warnings(&shared, &[]).contains("`features` sees only a part of the rows"),
        "{}",
        warnings(&shared, &[])
    );
}

#[test]
fn the_bounds_of_a_pipeline_are_computed() {
    let bounds = load(GOOD, &[]).unwrap().bounds();
    // Two sources fill a batch each; four wait in each of two channels, four are written to the log together, one
    // waits behind them, one is in the coordinator's hands and one in the engine's.
    assert_eq!(bounds.batches.count, 2 + 2 * 4 + 4 + 1 + 2);
    let (plant, yard) = (65_536 + 16 * 100, (1 << 20) + 16 * 500);
    assert_eq!(bounds.batches.bytes, plant + yard + 15 * yard);
    assert_eq!(bounds.results, 2 * 6);
    // `hot` has a time and two numbers, `all` a time, two tags and three numbers.
    assert_eq!(bounds.results_bytes, 6 * 500 * (8 + 2 * 8) + 6 * 500 * (8 + 2 * 4 + 3 * 8));
    assert_eq!((bounds.log_bytes_max, bounds.checkpoint_bytes), (Some(256 << 20), 5 * 1000 * 50));
    assert_eq!(bounds.keeping.len(), 1);
    assert!(bounds.rates_max.is_empty());
    let hour = bounds.outage_seconds(1000.0, 94.0).unwrap();
    assert_eq!(hour, (192 << 20) as f64 / (1000.0 * 100.0));

    let without = load(GOOD, &["pipeline.log=off", "pipeline.checkpoint=10s"]).unwrap().bounds();
    assert_eq!(without.batches.count, 2 + 2 * 4 + 2);
    assert_eq!((without.log_bytes_max, without.outage_seconds(1.0, 1.0)), (None, None));
    assert_eq!(without.rates_max, [("plant".to_owned(), 100.0), ("yard".to_owned(), 100.0)]);
    let fits = load(GOOD, &["pipeline.memory=20MiB"]);
    assert!(fits.is_ok(), "{}", fits.unwrap_err());
    let most = bounds.batches.bytes;
    assert!(load(GOOD, &[&format!("pipeline.memory={most}B")]).is_ok());
    assert!(load(GOOD, &[&format!("pipeline.memory={}B", most - 1)]).is_err());
}

/// The fingerprint of every node: of plant, yard, features, hot and all.
fn prints(text: &str) -> [u64; 5] {
    let graph = load(text, &[]).unwrap().graph;
    let print = |name| graph.nodes[graph.node(name).unwrap()].fingerprint.0;
    ["plant", "yard", "features", "hot", "all"].map(print)
}

#[test]
fn state_is_kept_exactly_where_it_means_the_same() {
    let before = prints(GOOD);
    for (from, to, changed) in [
        ("mqtt://localhost:1883", "mqtt://elsewhere:1883", [false, false, false, false, false]),
        ("where = \"vib_mean\"", "where = \"vib_mean \"", [false, false, false, true, false]),
        ("size = \"10s\"", "size = \"20s\"", [false, false, true, true, true]),
        ("\"plant/{line}/{device}\"", "\"site/{line}/{device}\"", [true, false, true, true, true]),
        (
            "inputs = [\"features.late\", \"yard\"]",
            "inputs = [\"plant\", \"yard\"]",
            [false, false, false, false, true],
        ),
        (
            "inputs = [\"features.late\", \"yard\"]",
            "inputs = [\"yard\", \"features.late\"]",
            [false, false, false, false, true],
        ),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let after = prints(&GOOD.replace(from, to));
        let differs: Vec<bool> = before.iter().zip(&after).map(|(before, after)| before != after).collect();
        assert_eq!(differs, changed, "{from} → {to}");
    }
}

#[test]
fn the_graph_is_drawn() {
    let pipeline = load(GOOD, &[]).unwrap();
    golden("good.mmd", &draw::mermaid(&pipeline)).unwrap();
    golden("good.dot", &draw::dot(&pipeline)).unwrap();
}

#[test]
fn the_reference_and_the_schema_are_made_from_the_code() {
    let registry = components::registry();
    golden("reference.md", &config::reference(&registry)).unwrap();
    let schema = serde_json::to_string_pretty(&config::schema(&registry)).unwrap();
    golden("schema.json", &(schema + "\n")).unwrap();
    let window = config::explain(&registry, "window").unwrap();
    assert!(window.contains("- `size` (a duration, required): How long a window is."), "{window}");
    assert!(
        window.contains("[operator.NAME]\ntype = \"window\"\ninputs = [\"…\"]\nsize = \"10s\""),
        "{window}"
    );
    assert!(
        config::explain(&registry, "pipeline")
            .unwrap()
            .contains("- `checkpoint` (a duration, default `\"30s\"`)")
    );
    let unknown = config::explain(&registry, "windw").unwrap_err().to_string();
    assert_eq!(unknown, "there is no type `windw`; did you mean `window`?");
}

/// Every reference of the schema leads somewhere, and every table in it is closed.
#[test]
fn the_schema_holds_together() {
    fn walk(schema: &serde_json::Value, root: &serde_json::Value) {
        if let Some(reference) = schema["$ref"].as_str() {
            let target = root.pointer(reference.trim_start_matches('#'));
            assert!(target.is_some(), "{reference} leads nowhere");
        }
        match schema {
            serde_json::Value::Object(map) => map.values().for_each(|value| walk(value, root)),
            serde_json::Value::Array(values) => values.iter().for_each(|value| walk(value, root)),
            _ => {}
        }
    }
    let schema = config::schema(&components::registry());
    walk(&schema, &schema);
    let window = &schema["$defs"]["operator.window"];
    assert_eq!(window["properties"]["type"]["const"], "window");
    assert_eq!(window["required"], serde_json::json!(["type", "inputs", "size", "columns"]));
    assert_eq!(window["additionalProperties"], false);
    assert!(schema["$defs"]["source.sensor"]["properties"]["format"].is_object());
}

/// Decoding that cannot do without `format`, and says so in its schema.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "its keys are there to be read by serde")]
struct StrictDecode {
    /// What is in a message.
    format: String,
    /// Topic patterns.
    topics: Vec<String>,
    /// Whether the source follows the clock.
    live: bool,
}

impl OperatorConfig for StrictDecode {
    const TYPE: &'static str = "decode";
    const EXAMPLES: &'static [&'static str] = &[];

    fn build(self, _context: &Context<'_>) -> Checked<Built> {
        Err(vec![Problem::new("topics[0]", "cannot be decoded")])
    }
}

/// What decoding finds wrong stands in the source's own table, as if it were the source's.
#[test]
fn decoding_speaks_of_the_table_of_its_source() {
    let mut registry = components::registry();
    registry.operators.clear();
    let registry = registry.operator::<StrictDecode>();
    let file = "[pipeline]\nname = \"a\"\n[source.plant]\ntype = \"sensor\"\nurl = \"mqtt://x\"\n\
        topics = [\"a\"]\n[sink.out]\ntype = \"print\"\ninputs = [\"plant\"]\n";
    let messages = |text: &str| -> Vec<(usize, String)> {
        let all = config::load(text, "a.toml", &registry, &Options::new(&NoFiles)).unwrap_err();
        all.iter().map(|one| (all.line_and_column(&one.place).0, one.message.clone())).collect()
    };
    let lacks = "[source.plant] lacks the key `format`: this source gives raw messages";
    assert_eq!(messages(file), [(3, lacks.to_owned())]);
    let given = file.replace("topics", "format = \"x\"\ntopics");
    assert_eq!(messages(&given), [(7, "cannot be decoded".to_owned())]);
    let unknown = file.replace("topics", "format = \"x\"\nfields = {}\ntopics");
    assert_eq!(messages(&unknown)[0], (7, "a source has no key `fields`".to_owned()));
}

/// Has flaws of every sort.
#[derive(Deserialize, JsonSchema)]
#[expect(dead_code, reason = "its keys are there to be read by serde")]
struct Sloppy {
    /// Has one.
    documented: String,
    bare: Option<Inner>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "its keys are there to be read by serde")]
struct Inner {
    deep: Vec<u8>,
}

impl SinkConfig for Sloppy {
    const TYPE: &'static str = "sloppy";
    const EXAMPLES: &'static [&'static str] = &[];

    fn build(self, _context: &Context<'_>) -> Checked<BuiltSink> {
        Err(Vec::new())
    }
}

#[test]
fn what_lacks_documentation_is_found() {
    assert_eq!(config::undocumented(&components::registry()), Vec::<String>::new());
    let expected = [
        "sink sloppy: unknown keys are not denied",
        "sink sloppy: `bare` has no doc comment",
        "sink sloppy: `bare`: `deep` has no doc comment",
        "sink sloppy: there is no example",
    ];
    assert_eq!(config::undocumented(&Registry::new().sink::<Sloppy>()), expected);
}

#[test]
fn a_password_in_the_file_is_not_repeated() {
    let text = GOOD.replace("client_id = \"gateway-7\"", "password = \"hunter2\"");
    let shown = load(&text, &[]).unwrap_err().to_string();
    assert!(shown.contains("secrets do not stand in the file") && !shown.contains("hunter2"), "{shown}");
    let text = GOOD.replace("client_id = \"gateway-7\"", "password = { value = \"hunter2\" }");
    let shown = load(&text, &[]).unwrap_err().to_string();
    assert!(shown.contains("`password` has no key `value`") && !shown.contains("hunter2"), "{shown}");
    let shown = load(GOOD, &["source.plant.password=hunter2"]).unwrap_err().to_string();
    assert!(shown.contains("secrets do not stand in the file") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn long_chains_and_wide_graphs_are_no_trouble() {
    let mut text =
        "[pipeline]\nname = \"a\"\n[source.n0]\ntype = \"recording\"\ncolumns = [\"temp\"]\n".to_owned();
    let length = 2_000;
    for index in (1..=length).rev() {
        text += &format!(
            "[operator.n{index}]\ntype = \"filter\"\ninputs = [\"n{}\"]\nwhere = \"temp\"\n",
            index - 1
        );
    }
    text += &format!("[sink.out]\ntype = \"print\"\ninputs = [\"n{length}\"]\n");
    assert_eq!(load(&text, &[]).unwrap().graph.nodes.len(), length + 1);
    let circle = text.replace("inputs = [\"n0\"]", &format!("inputs = [\"n{length}\"]"));
    assert!(load(&circle, &[]).unwrap_err().to_string().contains("in a circle"));
}

/// Pieces that files are made of, right and wrong.
const PIECES: &[&str] = &[
    "[",
    "]",
    "[[",
    "=",
    "\"",
    "'",
    "'''",
    "\"\"\"",
    "{",
    "}",
    ",",
    ".",
    "\n",
    "\r\n",
    "#",
    "\\",
    "é",
    "\u{0}",
    "5",
    "-1",
    "1e999",
    "10s",
    "\"10s\"",
    "true",
    "inf",
    "1979-05-27",
    "[source.plant]",
    "[operator.x]",
    "[sink.here]",
    "type",
    "inputs",
    "[\"plant\"]",
    "[\"all.late\"]",
    "[\"here\"]",
    "\"window\"",
    "format",
    "{ type = \"json\" }",
    "columns",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done to a good file, there is a pipeline or there are messages, and these can be shown.
    #[test]
    fn no_text_brings_it_down(edits in prop::collection::vec((0usize..2_000, 0usize..12, 0usize..PIECES.len()), 1..6)) {
        let mut text = GOOD.to_owned();
        for (at, length, piece) in edits {
            let floor = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            let (start, end) = (floor(at), floor(at + length));
            text.replace_range(start..end, PIECES[piece]);
        }
        if let Err(all) = load(&text, &[]) {
            prop_assert!(!all.is_empty());
            prop_assert!(all.render(true).len() >= all.to_string().len());
            for one in all.iter() {
                let (line, column) = all.line_and_column(&one.place);
                prop_assert!(line >= 1 && column >= 1);
            }
        }
    }

    /// Nor does any override.
    #[test]
    fn no_override_brings_it_down(
        path in prop_oneof![
            Just("source.plant.url".to_owned()),
            Just("operator.features.columns".to_owned()),
            Just("sink.here.inputs".to_owned()),
            "[a-z.\"=\\[ ]{0,12}",
        ],
        pieces in prop::collection::vec(0usize..PIECES.len(), 0..4),
    ) {
        let value: String = pieces.iter().map(|piece| PIECES[*piece]).collect();
        if let Err(all) = load(GOOD, &[&format!("{path}={value}")]) {
            prop_assert!(!all.to_string().is_empty());
        }
    }
}
