//! The engine alone: records in, effects out, with an operator that writes down all that happens to it.

use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};

use super::*;
use crate::core::event::{Barrier, Change};
use crate::core::graph::{Fingerprint, Node, Port, SinkNode};
use crate::core::model::{Model, ModelOrigin};
use crate::core::operator::Operator;
use crate::core::state::StateWriter;

type Diary = Arc<Mutex<Vec<String>>>;

/// Passes rows on, keeps their total, and tells it at every watermark and tick.
struct Probe {
    name: &'static str,
    diary: Diary,
    total: i64,
    /// Ticks are wanted this often.
    every: Option<Duration>,
    deadline: Option<Duration>,
    /// Every row's number is the watermark behind it, and a negative one says that nothing comes for now.
    own_watermark: bool,
    model: Option<ModelId>,
    damaged: bool,
}

impl Probe {
    fn note(&self, what: String) {
        self.diary.lock().unwrap().push(format!("{} {what}", self.name));
    }

    fn tell(&self, out: &mut Output, total: i64) {
        out.emit(0, numbers(&[total]));
    }
}

impl Operator for Probe {
    fn process(&mut self, port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let values = values(&batch);
        self.note(format!("{port}: {values:?}"));
        if values.contains(&666) {
            return Err(Error::data("this row is too much"));
        }
        self.total += values.iter().sum::<i64>();
        out.count("seen", "", values.len() as u64);
        if self.deadline.is_none() {
            self.deadline = self.every.map(|every| out.now().mono + every);
        }
        out.emit(0, batch);
        if self.own_watermark {
            for value in values {
                if value < 0 {
                    out.idle(true);
                } else {
                    out.watermark(EventTime(value));
                }
            }
        }
        Ok(())
    }

    fn watermark(&mut self, to: EventTime, out: &mut Output) -> Result<()> {
        self.note(format!(
            "to {}",
            if to == EventTime::MAX { "the end".to_owned() } else { to.0.to_string() }
        ));
        if !self.own_watermark {
            self.tell(out, self.total);
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    fn tick(&mut self, out: &mut Output) -> Result<()> {
        self.note(format!("tick at {}", out.now().mono.as_secs()));
        self.deadline = self.every.map(|every| out.now().mono + every);
        self.tell(out, -self.total);
        Ok(())
    }

    fn update(&mut self, model: Arc<Model>) -> Result<()> {
        if model.bytes.is_empty() {
            return Err(Error::model("an empty model"));
        }
        self.note(format!("model {}", model.bytes[0]));
        self.model = Some(model.id);
        self.total = i64::from(model.bytes[0]);
        Ok(())
    }

    fn model(&self) -> Option<ModelId> {
        self.model
    }

    fn save(&mut self, state: &mut StateWriter) {
        state.value(&(self.total, self.deadline));
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        if self.damaged {
            return Err(Error::state("cannot read this"));
        }
        (self.total, self.deadline) = state.value()?;
        Ok(())
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

fn numbers(values: &[i64]) -> RecordBatch {
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(values.to_vec())) as ArrayRef]).unwrap()
}

fn values(batch: &RecordBatch) -> Vec<i64> {
    batch.column(0).as_primitive::<Int64Type>().values().to_vec()
}

fn input(index: usize) -> Edge {
    Edge::Input(index)
}

fn from(node: usize) -> Edge {
    Edge::Node { node, port: 0 }
}

/// A graph under construction, with one diary for all its nodes.
#[derive(Default)]
struct Plan {
    diary: Diary,
    nodes: Vec<Node>,
    sinks: Vec<SinkNode>,
}

impl Plan {
    fn node(self, name: &'static str, inputs: &[Edge]) -> Self {
        self.shaped(name, inputs, 1, |_| {})
    }

    /// A node whose input is rows that carry their own watermark.
    fn clocked(self, name: &'static str, from: usize) -> Self {
        self.shaped(name, &[input(from)], 1, |probe| probe.own_watermark = true)
    }

    fn shaped(
        mut self,
        name: &'static str,
        inputs: &[Edge],
        meaning: u64,
        shape: impl FnOnce(&mut Probe),
    ) -> Self {
        let mut probe = Probe {
            name,
            diary: Arc::clone(&self.diary),
            total: 0,
            every: None,
            deadline: None,
            own_watermark: false,
            model: None,
            damaged: false,
        };
        shape(&mut probe);
        self.nodes.push(Node {
            name: name.to_owned(),
            kind: "probe",
            own_watermark: probe.own_watermark,
            operator: Box::new(probe),
            inputs: inputs.to_vec(),
            ports: vec![Port { name: "", schema: schema() }],
            fingerprint: Fingerprint(meaning),
            models: None,
        });
        self
    }

    fn sink(mut self, inputs: &[Edge]) -> Self {
        let name = format!("out{}", self.sinks.len());
        self.sinks.push(SinkNode { name, inputs: inputs.to_vec() });
        self
    }

    fn graph(self) -> Graph {
        let inputs = self.nodes.iter().flat_map(|node| &node.inputs).chain(&self.sinks[0].inputs);
        let used = inputs.filter_map(|edge| match edge {
            Edge::Input(input) => Some(input + 1),
            Edge::Node { .. } => None,
        });
        let names = (0..used.max().unwrap_or(0)).map(|input| format!("in{input}")).collect();
        Graph::new(names, self.nodes, self.sinks).unwrap()
    }

    fn engine(self) -> (Engine, Diary) {
        let diary = Arc::clone(&self.diary);
        (Engine::new(self.graph(), None).unwrap().0, diary)
    }
}

fn at(seconds: u64) -> Now {
    Now { mono: Duration::from_secs(seconds), wall: EventTime(0) }
}

fn rows(input: usize, values: &[i64]) -> Record {
    Record::Batch { input, batch: numbers(values) }
}

fn end(input: usize) -> Record {
    Record::End { input }
}

fn barrier(epoch: u64, change: Option<Change>) -> Record {
    Record::Barrier(Barrier { epoch: Epoch(epoch), change: change.map(Arc::new) })
}

fn new_graph(epoch: u64, graph: Graph) -> Record {
    barrier(epoch, Some(Change::Graph(Mutex::new(Some(graph)))))
}

fn new_model(epoch: u64, node: &str, bytes: &[u8]) -> Record {
    let mut id = [0; 32];
    id[..bytes.len()].copy_from_slice(bytes);
    let model = Model {
        id: ModelId(id),
        bytes: Arc::from(bytes),
        origin: ModelOrigin::Request,
        prepared: Box::new(()),
    };
    barrier(epoch, Some(Change::Model { node: node.to_owned(), model: Arc::new(model) }))
}

/// Gives a record at a time and tells the effects; snapshots are kept apart.
fn give_at(engine: &mut Engine, now: Now, record: Record) -> (Vec<String>, Vec<Snapshot>) {
    engine.handle(now, record).unwrap();
    let (mut told, mut snapshots) = (Vec::new(), Vec::new());
    while let Some(effect) = engine.poll() {
        told.push(match effect {
            Effect::Emit { sink, event: Event::Batch(batch) } => format!("{sink}: {:?}", values(&batch)),
            Effect::Emit { sink, event: Event::Barrier(barrier) } => format!("{sink}: cut {}", barrier.epoch),
            Effect::Emit { sink, event: Event::End } => format!("{sink}: end"),
            Effect::Snapshot(snapshot) => {
                snapshots.push(snapshot);
                format!("snapshot {}", snapshots[0].epoch)
            }
            Effect::Rejected { epoch, node, error } => {
                format!("refused {epoch} by {node}: {}", error.message)
            }
        });
    }
    (told, snapshots)
}

fn give(engine: &mut Engine, record: Record) -> Vec<String> {
    give_at(engine, at(0), record).0
}

fn written(diary: &Diary) -> Vec<String> {
    std::mem::take(&mut *diary.lock().unwrap())
}

#[test]
fn a_record_goes_through_the_nodes_in_order_and_to_every_reader_of_a_port() {
    let plan = Plan::default().node("a", &[input(0)]).node("b", &[from(0)]).node("c", &[from(0), from(1)]);
    let (mut engine, diary) = plan.sink(&[from(2)]).sink(&[from(0), input(0)]).engine();
    let effects = give(&mut engine, rows(0, &[1, 2]));
    assert_eq!(written(&diary), ["a 0: [1, 2]", "b 0: [1, 2]", "c 0: [1, 2]", "c 1: [1, 2]"]);
    assert_eq!(effects, ["1: [1, 2]", "1: [1, 2]", "0: [1, 2]", "0: [1, 2]"]);
    let stats: Vec<_> = engine.stats().map(|(name, stats)| (name, stats.rows_in, stats.batches_in)).collect();
    assert_eq!(stats, [("a", 2, 1), ("b", 2, 1), ("c", 4, 2)]);
    let counted = engine.stats().last().unwrap().1.counts.values().sum::<u64>();
    assert_eq!((counted, engine.stats().last().unwrap().1.rows_out), (4, 4));
}

#[test]
fn what_nobody_reads_does_not_leave_and_hides_nothing_else() {
    let ticking = |probe: &mut Probe| probe.every = Some(Duration::from_secs(1));
    // `unread` stands before and behind `read`, so that neither takes the other's readers for its own.
    let plan = Plan::default()
        .shaped("unread", &[input(0)], 1, ticking)
        .shaped("read", &[input(0)], 2, ticking)
        .shaped("unread too", &[input(0)], 3, ticking);
    let (mut engine, _) = plan.sink(&[from(1)]).engine();
    assert_eq!(give(&mut engine, rows(0, &[1, 2])), ["0: [1, 2]"]);
    assert_eq!(give_at(&mut engine, at(1), Record::Tick).0, ["0: [-3]"]);
    let ended = give(&mut engine, Record::End { input: 0 });
    assert_eq!(ended, ["0: [3]", "0: end"]);
    let left: Vec<u64> = engine.stats().map(|(_, stats)| stats.rows_out).collect();
    assert_eq!(left, [0, 4, 0]);
}

#[test]
fn an_error_names_its_node() {
    let (mut engine, _) = Plan::default().node("a", &[input(0)]).sink(&[from(0)]).engine();
    let error = engine.handle(at(0), rows(0, &[666])).unwrap_err();
    assert_eq!(error.to_string(), "a: this row is too much");
}

#[test]
fn a_node_is_as_far_as_the_least_of_its_inputs_without_those_that_are_idle_or_have_ended() {
    let plan = Plan::default().clocked("a", 0).clocked("b", 1).node("c", &[from(0), from(1)]);
    let (mut engine, diary) = plan.sink(&[from(2)]).engine();
    // What is given, and what the node with the two inputs hears of the watermark.
    let table: Vec<(Record, &[&str], i64)> = vec![
        (rows(0, &[10]), &[], i64::MIN),
        (rows(1, &[7]), &["c to 7"], 7),
        (rows(1, &[5]), &[], 7),
        (rows(1, &[20]), &["c to 10"], 10),
        (rows(0, &[12, 15]), &["c to 12", "c to 15"], 15),
        (rows(0, &[-1]), &["c to 20"], 20),
        (rows(1, &[30]), &["c to 30"], 30),
        (rows(1, &[-1]), &[], 30),
        (rows(1, &[40]), &[], 30),
        (end(1), &[], 30),
        (rows(0, &[50]), &[], 30),
        (end(0), &["c to the end"], i64::MAX),
        (end(0), &[], i64::MAX),
    ];
    for (step, (record, expected, watermark)) in table.into_iter().enumerate() {
        give(&mut engine, record);
        let heard: Vec<String> =
            written(&diary).into_iter().filter(|line| line.starts_with("c to")).collect();
        assert_eq!(heard, expected, "step {step}");
        assert_eq!(engine.watermark(2), EventTime(watermark), "step {step}");
    }
}

#[test]
fn a_sink_ends_once_with_the_last_of_its_inputs_and_what_was_held_back_comes_before() {
    let plan = Plan::default().node("a", &[input(0)]).node("b", &[input(1)]);
    let (mut engine, _) = plan.sink(&[from(0), from(1)]).sink(&[from(1)]).engine();
    give(&mut engine, rows(0, &[1, 2]));
    assert_eq!(give(&mut engine, end(0)), ["0: [3]"]);
    assert_eq!(give(&mut engine, end(1)), ["0: [0]", "1: [0]", "0: end", "1: end"]);
    assert_eq!(give(&mut engine, end(1)), Vec::<String>::new(), "an end that is said again");
    assert_eq!(
        give(&mut engine, barrier(1, Some(Change::Stop))),
        ["snapshot 1", "0: cut 1", "1: cut 1"],
        "an ended input holds no cut up"
    );
}

#[test]
fn a_tick_reaches_the_nodes_whose_deadline_has_come() {
    let every = |seconds| move |probe: &mut Probe| probe.every = Some(Duration::from_secs(seconds));
    let plan = Plan::default().shaped("a", &[input(0)], 1, every(5)).shaped("b", &[from(0)], 1, every(9));
    let (mut engine, diary) = plan.node("c", &[from(1)]).sink(&[from(2)]).engine();
    assert_eq!(engine.deadline(), None);
    give_at(&mut engine, at(10), rows(0, &[4]));
    assert_eq!(engine.deadline(), Some(Duration::from_secs(15)));
    written(&diary);
    let table: [(u64, &[&str], u64); 4] = [
        (14, &[], 15),
        (15, &["a tick at 15", "b 0: [-4]", "c 0: [-4]"], 19),
        (19, &["b tick at 19", "c 0: [0]"], 20),
        (40, &["a tick at 40", "b 0: [-4]", "b tick at 40", "c 0: [-4]", "c 0: [4]"], 45),
    ];
    for (seconds, expected, next) in table {
        give_at(&mut engine, at(seconds), Record::Tick);
        assert_eq!(written(&diary), expected, "at {seconds}");
        assert_eq!(engine.deadline(), Some(Duration::from_secs(next)), "at {seconds}");
    }
}

#[test]
fn a_cut_makes_the_change_then_saves_then_passes_the_barrier_on() {
    let plan = || Plan::default().node("a", &[input(0)]).sink(&[from(0)]).sink(&[input(0)]);
    let (mut engine, diary) = plan().engine();
    give(&mut engine, rows(0, &[1]));
    let (effects, snapshots) = give_at(&mut engine, at(3), new_model(4, "a", &[90]));
    assert_eq!(effects, ["snapshot 4", "0: cut 4", "1: cut 4"]);
    assert_eq!(written(&diary), ["a 0: [1]", "a model 90"]);
    assert_eq!((snapshots[0].epoch, snapshots[0].now), (Epoch(4), at(3)));
    assert_eq!(engine.model(0).unwrap().0[0], 90);
    // What is saved is what the next record meets: the total that came with the model.
    let (mut again, _) = Engine::new(plan().graph(), Some(&snapshots[0])).unwrap();
    assert_eq!(give(&mut again, end(0)), give(&mut engine, end(0)));
}

#[test]
fn a_refused_model_is_told_and_leaves_everything_as_it_was() {
    let plan = || Plan::default().node("a", &[input(0)]).sink(&[from(0)]);
    let (mut engine, _) = plan().engine();
    give(&mut engine, rows(0, &[5]));
    give(&mut engine, new_model(1, "a", &[7]));
    let (_, before) = give_at(&mut engine, at(0), barrier(2, None));
    let table = [
        (new_model(3, "a", &[]), "refused 3 by a: an empty model", 3),
        (new_model(4, "z", &[1]), "refused 4 by z: there is no operator `z`", 4),
    ];
    for (record, told, epoch) in table {
        let (effects, after) = give_at(&mut engine, at(0), record);
        assert_eq!(effects, [told.to_owned(), format!("snapshot {epoch}"), format!("0: cut {epoch}")]);
        assert_eq!(after[0].nodes, before[0].nodes);
        assert_eq!(engine.model(0).unwrap().0[0], 7);
    }
}

#[test]
fn another_graph_takes_the_state_of_nodes_with_the_same_name_and_meaning() {
    let plan = Plan::default().node("a", &[input(0)]).node("b", &[from(0)]).node("c", &[from(0)]);
    let (mut engine, _) = plan.sink(&[from(1), from(2)]).engine();
    give(&mut engine, rows(0, &[5]));
    // `a` keeps its place and meaning, `b` means something else now, `c` is gone, `d` is new.
    let next = Plan::default()
        .node("d", &[input(0)])
        .node("a", &[input(0)])
        .shaped("b", &[from(1)], 2, |_| {})
        .sink(&[from(0)])
        .sink(&[from(1)])
        .sink(&[from(2)]);
    let effects = give(&mut engine, new_graph(9, next.graph()));
    assert_eq!(effects, ["snapshot 9", "0: cut 9", "1: cut 9", "2: cut 9"], "the sinks of the new graph");
    let effects = give(&mut engine, end(0));
    assert_eq!(effects, ["0: [0]", "0: end", "1: [5]", "1: end", "2: [5]", "2: [5]", "2: end"]);
}

#[test]
fn another_graph_knows_which_inputs_have_ended() {
    let plan = || Plan::default().node("a", &[input(0)]).node("b", &[from(0), input(1)]);
    let (mut engine, diary) = plan().sink(&[from(0)]).engine();
    give(&mut engine, rows(0, &[5]));
    assert_eq!(give(&mut engine, end(0)), ["0: [5]", "0: end"]);
    written(&diary);
    let next = plan().sink(&[from(0)]).sink(&[from(1)]).sink(&[from(0)]);
    let next_diary = Arc::clone(&next.diary);
    let effects = give(&mut engine, new_graph(1, next.graph()));
    assert_eq!(effects, ["2: end", "snapshot 1", "0: cut 1", "1: cut 1", "2: cut 1"], "sink 0 has heard it");
    assert_eq!(give(&mut engine, end(0)), Vec::<String>::new());
    assert_eq!(written(&next_diary), Vec::<String>::new(), "`a` let out what it held back before");
    assert_eq!(give(&mut engine, end(1)), ["1: [10]", "1: end"]);
}

#[test]
fn a_node_restored_while_an_input_that_had_been_idle_is_behind_does_not_go_back() {
    let plan = || {
        let plan = Plan::default().clocked("a", 0).clocked("b", 1).node("c", &[from(0), from(1)]);
        plan.sink(&[from(2)])
    };
    let (mut engine, _) = plan().engine();
    for record in [rows(1, &[20, -1]), rows(0, &[50, -1])] {
        give(&mut engine, record);
    }
    let (_, snapshots) = give_at(&mut engine, at(0), barrier(1, None));
    let (mut again, _) = Engine::new(plan().graph(), Some(&snapshots[0])).unwrap();
    assert_eq!(again.watermark(2), EventTime(50));
    for engine in [&mut engine, &mut again] {
        assert_eq!(give(engine, rows(1, &[25])), ["0: [25]"], "no watermark: 25 is behind");
    }
}

#[test]
fn a_graph_whose_state_cannot_be_loaded_leaves_the_old_one_running() {
    let (mut engine, diary) = Plan::default().node("a", &[input(0)]).sink(&[from(0)]).engine();
    give(&mut engine, rows(0, &[5]));
    let next = Plan::default().shaped("a", &[input(0)], 1, |probe| probe.damaged = true);
    let next = next.node("x", &[from(0)]).sink(&[from(1)]).sink(&[from(0)]);
    let effects = give(&mut engine, new_graph(2, next.graph()));
    assert_eq!(effects, ["refused 2 by a: cannot read this", "snapshot 2", "0: cut 2"]);
    written(&diary);
    assert_eq!(give(&mut engine, rows(0, &[6])), ["0: [6]"]);
    assert_eq!(give(&mut engine, end(0)), ["0: [11]", "0: end"]);
    assert_eq!(written(&diary), ["a 0: [6]", "a to the end"]);
}

#[test]
fn an_engine_built_on_a_snapshot_goes_on_as_the_one_that_was_saved() {
    let plan = || {
        let every = |probe: &mut Probe| probe.every = Some(Duration::from_secs(4));
        let plan = Plan::default().clocked("a", 0).clocked("b", 1).node("c", &[from(0), from(1)]);
        plan.shaped("d", &[from(2)], 1, every).sink(&[from(3)]).sink(&[from(2)])
    };
    let script = || {
        vec![
            (at(1), rows(0, &[3, 8])),
            (at(1), rows(1, &[5])),
            (at(2), rows(1, &[-1])),
            (at(5), Record::Tick),
            (at(6), rows(0, &[9])),
            (at(7), end(0)),
            (at(9), Record::Tick),
            (at(9), end(1)),
        ]
    };
    for cut in 0..=script().len() {
        let (mut engine, _) = plan().engine();
        let mut snapshot = None;
        let (mut expected, mut actual) = (Vec::new(), Vec::new());
        for (step, (now, record)) in script().into_iter().enumerate() {
            if step == cut {
                snapshot = give_at(&mut engine, now, barrier(1, None)).1.pop();
            }
            let effects = give_at(&mut engine, now, record).0;
            if step >= cut {
                expected.extend(effects);
            }
        }
        if let Some(snapshot) = snapshot {
            let (mut again, restored) = Engine::new(plan().graph(), Some(&snapshot)).unwrap();
            assert_eq!(restored, [Restored::Loaded; 4]);
            // A source that is opened again at its end says so again.
            let ended =
                script().into_iter().take(cut).filter(|(_, record)| matches!(record, Record::End { .. }));
            for (now, record) in ended.chain(script().into_iter().skip(cut)) {
                actual.extend(give_at(&mut again, now, record).0);
            }
        }
        assert_eq!(actual, expected, "cut before step {cut}");
    }
}

#[test]
fn a_snapshot_says_what_became_of_each_node_and_damage_names_it() {
    let (mut engine, _) =
        Plan::default().node("a", &[input(0)]).node("b", &[from(0)]).sink(&[from(1)]).engine();
    let (_, snapshots) = give_at(&mut engine, at(1), barrier(1, None));
    let next =
        Plan::default().node("a", &[input(0)]).shaped("b", &[from(0)], 2, |_| {}).node("n", &[from(1)]);
    let (_, restored) = Engine::new(next.sink(&[from(2)]).graph(), Some(&snapshots[0])).unwrap();
    assert_eq!(restored, [Restored::Loaded, Restored::Changed, Restored::New]);
    let mut longer = snapshots[0].clone();
    let mut bytes = longer.nodes[1].state.to_bytes().unwrap().into_owned();
    bytes.push(0);
    longer.nodes[1].state = crate::core::State::of_bytes(bytes);
    let plan = Plan::default().node("a", &[input(0)]).node("b", &[from(0)]).sink(&[from(1)]);
    let error = Engine::new(plan.graph(), Some(&longer)).err().unwrap();
    assert_eq!(error.to_string(), "b: 1 bytes of saved state are left over");
}

#[test]
fn a_node_that_is_new_among_others_knows_how_far_its_inputs_are() {
    let before = || Plan::default().clocked("a", 0).clocked("b", 1).node("joined", &[from(0), from(1)]);
    let (mut engine, _) = before().sink(&[from(2)]).engine();
    give(&mut engine, rows(0, &[70]));
    give(&mut engine, rows(1, &[50]));
    let (_, snapshots) = give_at(&mut engine, at(1), barrier(1, None));
    // `n` is new behind both, `m` behind `n`; `joined` goes on.
    let after = || before().node("n", &[from(0), from(1)]).node("m", &[from(3)]).sink(&[from(2), from(4)]);
    let (mut swapped, _) = Engine::new(after().graph(), Some(&snapshots[0])).unwrap();
    assert_eq!((swapped.watermark(3), swapped.watermark(4)), (EventTime(50), EventTime(50)));
    assert_eq!(swapped.watermark(2), EventTime(50));
    give(&mut swapped, rows(0, &[90]));
    assert_eq!(swapped.watermark(3), EventTime(50), "the other one holds it back");
    // Saved at once, before any record: it is still known after a crash.
    let (mut fresh, _) = Engine::new(after().graph(), Some(&snapshots[0])).unwrap();
    let (_, saved) = give_at(&mut fresh, at(2), barrier(2, None));
    let (again, _) = Engine::new(after().graph(), Some(&saved[0])).unwrap();
    assert_eq!((again.watermark(3), again.watermark(4)), (EventTime(50), EventTime(50)));
}

#[test]
fn a_new_node_behind_an_idle_input_is_not_held_back_by_it() {
    let before = || Plan::default().clocked("a", 0).clocked("b", 1);
    let (mut engine, _) = before().sink(&[from(0), from(1)]).engine();
    give(&mut engine, rows(0, &[70]));
    give(&mut engine, rows(1, &[50, -1]));
    let (_, snapshots) = give_at(&mut engine, at(1), barrier(1, None));
    let after = before().node("n", &[from(0), from(1)]).sink(&[from(2)]);
    let (mut engine, _) = Engine::new(after.graph(), Some(&snapshots[0])).unwrap();
    give(&mut engine, rows(0, &[80]));
    assert_eq!(engine.watermark(2), EventTime(80));
}
