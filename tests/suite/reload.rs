//! Reloads of a pipeline that runs, engines that fail, and stops that cannot be carried through: over the real runtime,
//! with ends that the test holds, and as a process.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use tidegate::config::{self, Options, Pipeline};
use tidegate::core::ends::SourceBatch;
use tidegate::core::schema::time_field;
use tidegate::core::{
    DeliveryId, Epoch, Model, ModelId, ModelOrigin, Operator, Output, Position, Sink, Source, StateReader,
    StateWriter,
};
use tidegate::registry::{
    Built, BuiltSink, BuiltSource, Checked, Context, NoFiles, OperatorConfig, Registry, SinkConfig,
    SourceConfig, SourceOutput,
};
use tidegate::runtime::coordinator::Request;
use tidegate::runtime::pipeline::{Running, start_in};
use tidegate::runtime::reload::{Rebuild, Reloaded, Replacement};

use tidegate::store::{Disk, LetterBody, LetterKind, dead_letters, recovery};

use crate::support::{self, Message, Plant, TIDEGATE, lines, metric, soon};

/// What a test holds of its pipeline: numbers to give and numbers taken, by the name of the stage.
#[derive(Default)]
struct Stage {
    state: Mutex<State>,
    changed: Condvar,
    notify: tokio::sync::Notify,
}

#[derive(Default)]
struct State {
    /// How many numbers each source may give: it gives 1, 2, 3 and so on, one by one.
    allowed: BTreeMap<String, i64>,
    /// How often each source was opened.
    opened: BTreeMap<String, usize>,
    /// The last number that was acknowledged to each source.
    acknowledged: BTreeMap<String, i64>,
    /// What each sink has taken, in order: the delivery, and what it holds.
    taken: BTreeMap<String, Vec<(String, Vec<i64>)>>,
    /// Sinks that do not come back from a write.
    stuck: Vec<String>,
    /// How often the trap has snapped.
    snapped: usize,
}

static STAGES: LazyLock<Mutex<BTreeMap<String, Arc<Stage>>>> = LazyLock::new(Mutex::default);

fn stage(name: &str) -> Arc<Stage> {
    Arc::clone(STAGES.lock().unwrap().entry(name.to_owned()).or_default())
}

impl Stage {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let outcome = act(&mut self.state.lock().unwrap());
        self.changed.notify_all();
        self.notify.notify_waiters();
        outcome
    }

    /// Lets a source give numbers up to this one.
    fn allow(&self, source: &str, upto: i64) {
        self.with(|state| state.allowed.insert(source.to_owned(), upto));
    }

    /// All that a sink has taken, each delivery once.
    fn numbers(&self, sink: &str) -> Vec<i64> {
        let state = self.state.lock().unwrap();
        let mut seen: Vec<&str> = Vec::new();
        let mut numbers = Vec::new();
        for (delivery, values) in state.taken.get(sink).into_iter().flatten() {
            if !seen.contains(&delivery.as_str()) {
                seen.push(delivery);
                numbers.extend(values);
            }
        }
        numbers
    }

    async fn until(&self, what: &str, done: impl Fn(&State) -> bool) {
        let started = Instant::now();
        while !done(&self.state.lock().unwrap()) {
            if started.elapsed() > Duration::from_secs(20) {
                let state = self.state.lock().unwrap();
                panic!("waited 20 s for {what}: {:?}, {:?}", state.taken, state.acknowledged);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_taken(&self, sink: &str, number: i64) {
        let taken = |state: &State| {
            let taken = state.taken.get(sink).into_iter().flatten();
            taken.flat_map(|(_, values)| values).any(|value| *value == number)
        };
        self.until(&format!("{number} in {sink}"), taken).await;
    }
}

fn numbers_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![time_field(), Field::new("n", DataType::Int64, false)]))
}

fn numbers(schema: &SchemaRef, values: &[i64]) -> RecordBatch {
    let times = values.iter().map(|value| value * 1_000_000);
    let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
    let columns = vec![Arc::new(times) as ArrayRef, Arc::new(Int64Array::from(values.to_vec()))];
    RecordBatch::try_new(schema.clone(), columns).unwrap()
}

/// Numbers that the test allows.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CountConfig {
    /// The stage.
    stage: String,
    /// Where it counts from, as an address would be.
    #[serde(default)]
    address: String,
    /// Numbers in a batch.
    #[serde(default)]
    together: i64,
}

impl SourceConfig for CountConfig {
    const TYPE: &'static str = "count";
    const EXAMPLES: &'static [&'static str] = &["stage = \"a\""];

    fn build(self, context: &Context<'_>) -> Checked<BuiltSource> {
        Ok(BuiltSource {
            source: Box::new(Count {
                stage: stage(&self.stage),
                name: context.name.to_owned(),
                given: 0,
                together: self.together.max(1),
                broken: self.address == "broken",
            }),
            output: SourceOutput::Columns(numbers_schema()),
            topics: Vec::new(),
            acknowledges: true,
            live: false,
            companion: None,
            connected: None,
            delivery: None,
            vitals: None,
            notes: Vec::new(),
        })
    }
}

struct Count {
    stage: Arc<Stage>,
    name: String,
    given: i64,
    together: i64,
    broken: bool,
}

#[async_trait]
impl Source for Count {
    async fn open(&mut self, from: Option<&Position>) -> tidegate::Result<()> {
        if self.broken {
            return Err(tidegate::Error::config("there is nothing at this address"));
        }
        self.given = from.map_or(Ok(0), Position::get)?;
        self.stage.with(|state| {
            *state.opened.entry(self.name.clone()).or_default() += 1;
            // Where it goes on from is safe.
            if from.is_some() {
                state.acknowledged.insert(self.name.clone(), self.given);
            }
        });
        Ok(())
    }

    async fn next(&mut self) -> tidegate::Result<Option<SourceBatch>> {
        loop {
            let told = self.stage.notify.notified();
            let allowed = self.stage.state.lock().unwrap().allowed.get(&self.name).copied().unwrap_or(0);
            if allowed > self.given {
                let first = self.given + 1;
                self.given = allowed.min(self.given + self.together);
                let batch = numbers(&numbers_schema(), &(first..=self.given).collect::<Vec<_>>());
                return Ok(Some(SourceBatch { batch, position: Position::of(&self.given)? }));
            }
            let _ = tokio::time::timeout(Duration::from_millis(20), told).await;
        }
    }

    async fn acknowledge(&mut self, upto: &Position) -> tidegate::Result<()> {
        let upto: i64 = upto.get()?;
        assert!(upto <= self.given, "{} of {} acknowledged before it was given", upto, self.name);
        self.stage.with(|state| state.acknowledged.insert(self.name.clone(), upto));
        Ok(())
    }
}

/// Adds up all it has seen, and does not survive one number.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SumConfig {
    /// The stage.
    stage: String,
    /// The number.
    #[serde(default)]
    trap: i64,
    /// Whether the whole process goes with it.
    #[serde(default)]
    aborts: bool,
    /// What the state means.
    #[serde(default)]
    meaning: String,
}

impl OperatorConfig for SumConfig {
    const TYPE: &'static str = "sum";
    const EXAMPLES: &'static [&'static str] = &["stage = \"a\""];

    fn build(self, context: &Context<'_>) -> Checked<Built> {
        let schema = context.schema().clone();
        let meaning = self.meaning.clone();
        Ok(Built::new(Sum { stage: stage(&self.stage), config: self, sum: 0 }, schema, meaning))
    }
}

struct Sum {
    stage: Arc<Stage>,
    config: SumConfig,
    sum: i64,
}

impl Operator for Sum {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> tidegate::Result<()> {
        let values = batch.column(1).as_primitive::<Int64Type>().values();
        if values.contains(&self.config.trap) {
            self.stage.with(|state| state.snapped += 1);
            if self.config.aborts {
                std::process::abort();
            }
            panic!("the trap has snapped");
        }
        let mut sums = Vec::new();
        for value in values {
            self.sum += value;
            sums.push(self.sum);
        }
        let columns = vec![batch.column(0).clone(), Arc::new(Int64Array::from(sums)) as ArrayRef];
        out.emit(0, RecordBatch::try_new(batch.schema(), columns)?);
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter) {
        state.value(&self.sum);
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> tidegate::Result<()> {
        self.sum = state.value()?;
        if self.config.trap < 0 {
            return Err(tidegate::Error::state("this state cannot be loaded"));
        }
        Ok(())
    }
}

/// Numbers for the test.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TakeConfig {
    /// The stage.
    stage: String,
    /// Something that may change.
    #[serde(default)]
    address: String,
}

impl SinkConfig for TakeConfig {
    const TYPE: &'static str = "take";
    const EXAMPLES: &'static [&'static str] = &["stage = \"a\""];

    fn build(self, context: &Context<'_>) -> Checked<BuiltSink> {
        let (stage, name) = (stage(&self.stage), context.name.to_owned());
        let broken = self.address == "broken";
        Ok(BuiltSink {
            sink: Box::new(Take { stage, name, broken }),
            peer: None,
            letters: None,
            notes: Vec::new(),
        })
    }
}

struct Take {
    stage: Arc<Stage>,
    name: String,
    broken: bool,
}

#[async_trait]
impl Sink for Take {
    async fn open(&mut self, _committed: Option<&Position>) -> tidegate::Result<()> {
        if self.broken { Err(tidegate::Error::config("nobody is at this address")) } else { Ok(()) }
    }

    async fn write(&mut self, id: DeliveryId, batch: RecordBatch) -> tidegate::Result<()> {
        // As a write to a file system that is away: the thread stands still.
        let mut state = self.stage.state.lock().unwrap();
        while state.stuck.contains(&self.name) {
            state = self.stage.changed.wait(state).unwrap();
        }
        let values = batch.column(1).as_primitive::<Int64Type>().values().to_vec();
        state.taken.entry(self.name.clone()).or_default().push((id.to_string(), values));
        Ok(())
    }

    async fn flush(&mut self, _epoch: Epoch) -> tidegate::Result<Position> {
        Ok(Position(String::new()))
    }

    async fn committed(&mut self, _epoch: Epoch) -> tidegate::Result<()> {
        Ok(())
    }
}

fn registry() -> Registry {
    tidegate::builtin::registry().source::<CountConfig>().operator::<SumConfig>().sink::<TakeConfig>()
}

fn load(text: &str, data: Option<&Path>) -> tidegate::Result<Pipeline> {
    let data_dir = data.map(|data| data.display().to_string());
    let options = Options { data_dir, ..Options::new(&NoFiles) };
    config::load(text, "test.toml", &registry(), &options)
        .map_err(|diagnostics| tidegate::Error::config(diagnostics.render(false)))
}

fn rebuild(text: &str, data: Option<&Path>) -> Rebuild {
    let (text, data) = (text.to_owned(), data.map(Path::to_owned));
    Arc::new(move || load(&text, data.as_deref()))
}

async fn start(text: &str, data: Option<&Path>) -> Running {
    start_in(load(text, data).unwrap(), None, Some(rebuild(text, data))).await.unwrap()
}

async fn reload(running: &Running, text: &str, data: Option<&Path>) -> tidegate::Result<Reloaded> {
    let (answer, answered) = tokio::sync::oneshot::channel();
    let (pipeline, rebuild) = (load(text, data).unwrap(), Some(rebuild(text, data)));
    let replacement = Replacement { pipeline, rebuild, answer };
    running.requests.send(Request::Reload(Box::new(replacement))).await.ok().unwrap();
    soon("the reload", answered).await.unwrap()
}

async fn stop(running: Running) {
    running.requests.send(Request::Stop).await.ok().unwrap();
    soon("the stop", running.task).await.unwrap().unwrap();
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// The answer to another model for the sum, which takes none.
async fn ask_for_a_model(running: &Running) -> tidegate::Result<()> {
    let (answer, answered) = tokio::sync::oneshot::channel();
    let model = Model {
        id: ModelId([1; 32]),
        bytes: Arc::from([1]),
        origin: ModelOrigin::Request,
        prepared: Box::new(()),
    };
    let (node, model) = ("sum".to_owned(), Arc::new(model));
    let request = Request::Model { node, model, generation: 1, answer };
    running.requests.send(request).await.ok().unwrap();
    soon("the answer about a model", answered).await.unwrap()
}

/// A pipeline with one source, one sum and one sink, and what else is said.
fn pipeline(stage: &str, sum: &str, more: &str) -> String {
    format!(
        "[pipeline]\nname = \"p\"\ncheckpoint = \"200ms\"\nstop_timeout = \"1s\"\n\
         [source.a]\ntype = \"count\"\nstage = \"{stage}\"\n\
         [operator.sum]\ntype = \"sum\"\ninputs = [\"a\"]\nstage = \"{stage}\"\n{sum}\n\
         [sink.out]\ntype = \"take\"\ninputs = [\"sum\"]\nstage = \"{stage}\"\n{more}"
    )
}

fn sums(upto: i64) -> Vec<i64> {
    (1..=upto).map(|n| n * (n + 1) / 2).collect()
}

#[test]
fn a_reload_keeps_state_and_connections_and_loses_nothing() {
    for (name, with_data) in [("keep-log", true), ("keep-memory", false)] {
        let directory = tempfile::tempdir().unwrap();
        let data = with_data.then(|| directory.path());
        let stage = stage(name);
        run(async {
            let running = start(&pipeline(name, "", ""), data).await;
            stage.allow("a", 5);
            stage.until_taken("out", 15).await;
            // A second sum beside the first, behind another source; another sink for the first.
            let more = format!(
                "[source.b]\ntype = \"count\"\nstage = \"{name}\"\n\
                 [operator.sum2]\ntype = \"sum\"\ninputs = [\"b\"]\nstage = \"{name}\"\n\
                 [sink.out2]\ntype = \"take\"\ninputs = [\"sum2\", \"sum\"]\nstage = \"{name}\"\n"
            );
            stage.allow("a", 8);
            stage.allow("b", 2);
            let reloaded = reload(&running, &pipeline(name, "", &more), data).await.unwrap();
            assert_eq!(
                (reloaded.kept, reloaded.fresh),
                (vec!["a".to_owned(), "sum".to_owned()], vec!["b".to_owned(), "sum2".to_owned()])
            );
            assert!(!reloaded.from_checkpoint);
            stage.until_taken("out", 36).await;
            stage.until_taken("out2", 3).await;
            // The sum means something else now: it starts fresh; the source and the sinks go on.
            stage.allow("a", 8);
            let reloaded =
                reload(&running, &pipeline(name, "meaning = \"other\"", &more), data).await.unwrap();
            assert_eq!(reloaded.fresh, ["sum"]);
            stage.allow("a", 9);
            stage
                .until("9 in out", |state| {
                    state.taken["out"].last().is_some_and(|(_, values)| values == &[9])
                })
                .await;
            // Back to one: what is gone is closed.
            reload(&running, &pipeline(name, "meaning = \"other\"", ""), data).await.unwrap();
            stage.allow("b", 7);
            stage.allow("a", 10);
            stage.until_taken("out", 19).await;
            stop(running).await;
            let mut expected = sums(8);
            expected.extend([9, 19]);
            assert_eq!(stage.numbers("out"), expected, "{name}");
            stage.with(|state| {
                assert_eq!((state.opened["a"], state.opened["b"]), (1, 1), "{name}: connections are kept");
                assert_eq!(state.acknowledged["a"], 10, "{name}");
                assert!(state.acknowledged["b"] <= 3, "{name}: {:?}", state.acknowledged);
            });
        });
    }
}

#[test]
fn what_cannot_take_its_place_leaves_everything_as_it_was() {
    for (name, with_data) in [("refuse-log", true), ("refuse-memory", false)] {
        let directory = tempfile::tempdir().unwrap();
        let data = with_data.then(|| directory.path());
        let stage = stage(name);
        run(async {
            let running = start(&pipeline(name, "", ""), data).await;
            stage.allow("a", 3);
            stage.until_taken("out", 6).await;
            let broken_sink = format!(
                "[sink.out2]\ntype = \"take\"\ninputs = [\"sum\"]\nstage = \"{name}\"\naddress = \"broken\"\n"
            );
            let broken_source = format!(
                "[source.b]\ntype = \"count\"\nstage = \"{name}\"\naddress = \"broken\"\n\
                 [sink.out2]\ntype = \"take\"\ninputs = [\"b\"]\nstage = \"{name}\"\n"
            );
            for (round, (sum, more, reason)) in [
                ("trap = -1", "", "this state cannot be loaded"),
                ("", broken_sink.as_str(), "out2: nobody is at this address"),
                ("", broken_source.as_str(), "b: there is nothing at this address"),
            ]
            .into_iter()
            .enumerate()
            {
                let error = reload(&running, &pipeline(name, sum, more), data).await.unwrap_err().to_string();
                assert!(error.contains(reason), "{name}: {error}");
                let upto = 4 + round as i64;
                stage.allow("a", upto);
                stage.until_taken("out", upto * (upto + 1) / 2).await;
            }
            stop(running).await;
            assert_eq!(stage.numbers("out"), sums(6), "{name}");
        });
    }
}

#[test]
fn a_sink_that_never_answers_is_taken_out_by_a_reload() {
    for (name, with_data) in [("stuck-log", true), ("stuck-memory", false)] {
        let directory = tempfile::tempdir().unwrap();
        let data = with_data.then(|| directory.path());
        let stage = stage(name);
        let stuck = format!("[sink.stuck]\ntype = \"take\"\ninputs = [\"sum\"]\nstage = \"{name}\"\n");
        run(async {
            let running = start(&pipeline(name, "", &stuck), data).await;
            stage.allow("a", 3);
            stage.until_taken("stuck", 6).await;
            stage.with(|state| state.stuck.push("stuck".to_owned()));
            // More than all channels hold: the engine stands still.
            stage.allow("a", 50);
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert!(!stage.numbers("out").contains(&1275), "the engine has come through");
            let started = Instant::now();
            let reloaded = reload(&running, &pipeline(name, "", ""), data).await.unwrap();
            assert!(reloaded.from_checkpoint);
            assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
            stage.allow("a", 60);
            if with_data {
                stage.until_taken("out", 1830).await;
            } else {
                // Without a data directory there is nothing to go back to: what was under way is lost, but it goes on.
                stage.until("number 60", |state| state.acknowledged.get("a") == Some(&60)).await;
            }
            stop(running).await;
            if with_data {
                assert_eq!(stage.numbers("out"), sums(60));
            }
            stage.with(|state| state.stuck.clear());
        });
    }
}

#[test]
fn behind_a_sink_that_never_answers_changes_are_refused_in_time_and_others_get_their_rows() {
    let name = "stuck-flush";
    let directory = tempfile::tempdir().unwrap();
    let data = Some(directory.path());
    let stage = stage(name);
    let stuck = format!("[sink.stuck]\ntype = \"take\"\ninputs = [\"sum\"]\nstage = \"{name}\"\n");
    run(async {
        let text = pipeline(name, "", &stuck).replace("[source.a]", "queue = 16\n[source.a]");
        let running = start(&text, data).await;
        stage.allow("a", 1);
        stage.until_taken("stuck", 1).await;
        stage.with(|state| state.stuck.push("stuck".to_owned()));
        // Four cuts wait for it; there is no place for a fifth.
        for upto in 2..9 {
            stage.allow("a", upto);
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        stage.until_taken("out", 36).await;
        let started = Instant::now();
        let error = ask_for_a_model(&running).await.unwrap_err();
        assert_eq!(error.kind, tidegate::Kind::Unavailable, "{error}");
        assert!(error.message.matches("waits for stuck").count() == 4, "{error}");
        assert!(started.elapsed() < Duration::from_secs(3));
        let reloaded = reload(&running, &pipeline(name, "", ""), data).await.unwrap();
        assert!(reloaded.from_checkpoint);
        stage.allow("a", 10);
        stage.until_taken("out", 55).await;
        stop(running).await;
        assert_eq!(stage.numbers("out"), sums(10));
        stage.with(|state| state.stuck.clear());
    });
}

#[test]
fn a_record_that_the_engine_does_not_survive_is_left_out_after_three_times() {
    let name = "trap";
    let directory = tempfile::tempdir().unwrap();
    let data = Some(directory.path());
    let stage = stage(name);
    run(async {
        let running = start(&pipeline(name, "trap = 4", ""), data).await;
        // One after the other, so that each is a record of its own.
        for upto in 1..=8 {
            stage.allow("a", upto);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        let expected: Vec<i64> = [1, 2, 3, 5, 6, 7, 8]
            .iter()
            .scan(0, |sum, n| {
                *sum += n;
                Some(*sum)
            })
            .collect();
        stage.until_taken("out", 32).await;
        let control = Arc::clone(&running.served.metrics().control);
        assert_eq!((control.restarts(), control.records_skipped()), (3, 1));
        let problems = running.served.health().problems;
        assert!(problems[0].contains("1 records were left out"), "{problems:?}");
        stop(running).await;
        assert_eq!(stage.numbers("out"), expected);
        stage.with(|state| {
            assert_eq!(state.snapped, 3);
            assert_eq!(state.opened["a"], 1, "the source keeps its connection");
            assert_eq!(state.acknowledged["a"], 8);
        });
    });
    // What was left out is kept aside.
    let mut letters = Vec::new();
    let mut disk = Disk::open(directory.path().join("p")).unwrap();
    dead_letters::read(&mut disk, |_, letter| {
        letters.push(letter);
        Ok(())
    })
    .unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].kind, letters[0].node.as_str()), (LetterKind::Poison, "a"));
    let LetterBody::Rows(rows) = &letters[0].body else { panic!("{:?}", letters[0].body) };
    assert_eq!(rows.column(1).as_primitive::<Int64Type>().values().to_vec(), [4]);
}

#[test]
fn of_a_batch_only_the_rows_are_left_out_that_the_engine_does_not_survive() {
    let name = "trap-in-batch";
    let directory = tempfile::tempdir().unwrap();
    let data = Some(directory.path());
    let stage = stage(name);
    run(async {
        let text = pipeline(name, "trap = 4", "").replacen("stage =", "together = 10\nstage =", 1);
        let running = start(&text, data).await;
        stage.allow("a", 20);
        stage.until_taken("out", 206).await;
        let control = Arc::clone(&running.served.metrics().control);
        assert_eq!((control.restarts(), control.records_skipped()), (3, 1));
        stop(running).await;
        let left: Vec<i64> = (1..=20).filter(|n| *n != 4).collect();
        let sums = left.iter().scan(0, |sum, n| {
            *sum += n;
            Some(*sum)
        });
        assert_eq!(stage.numbers("out"), sums.collect::<Vec<_>>());
        stage.with(|state| assert_eq!(state.snapped, 3));
    });
    let mut left_out = Vec::new();
    let mut disk = Disk::open(directory.path().join("p")).unwrap();
    dead_letters::read(&mut disk, |_, letter| {
        let LetterBody::Rows(rows) = letter.body else { panic!("{:?}", letter.body) };
        left_out.extend(rows.column(1).as_primitive::<Int64Type>().values().to_vec());
        Ok(())
    })
    .unwrap();
    assert_eq!(left_out, [4]);
}

#[test]
fn an_engine_that_fails_without_a_log_goes_back_to_its_checkpoint_and_gives_up_in_the_end() {
    let name = "trap-without-log";
    let directory = tempfile::tempdir().unwrap();
    let data = Some(directory.path());
    let stage = stage(name);
    run(async {
        let text = pipeline(name, "trap = 4", "").replace("[source.a]", "log = \"off\"\n[source.a]");
        let running = start(&text, data).await;
        stage.allow("a", 8);
        let error = soon("the end", running.task).await.unwrap().unwrap_err();
        assert!(error.message.contains("the trap has snapped"), "{error}");
        stage.with(|state| {
            assert_eq!(state.snapped, 3);
            assert_eq!(state.opened["a"], 3, "it is opened again where the checkpoint stands");
        });
    });
}

/// Only where the test below has started this program for it.
#[test]
fn the_process_that_aborts() {
    let Some(directory) = std::env::var_os("TIDEGATE_ABORTS_IN") else { return };
    let directory = Path::new(&directory);
    let name = "abort";
    let stage = stage(name);
    run(async {
        let running = start(&pipeline(name, "trap = 4\naborts = true", ""), Some(directory)).await;
        stage.allow("a", 3);
        stage.until("3", |state| state.acknowledged.get("a") >= Some(&3)).await;
        stage.allow("a", 4);
        // The record with 4 is in the log before the engine sees it.
        tokio::time::sleep(Duration::from_secs(1)).await;
        stage.allow("a", 6);
        stage.until("6", |state| state.acknowledged.get("a") == Some(&6)).await;
        stop(running).await;
        println!("SUM {:?}", stage.numbers("out").last());
    });
}

#[test]
fn a_record_that_the_process_does_not_survive_is_left_out_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut deaths = 0;
    loop {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "reload::the_process_that_aborts", "--nocapture", "--test-threads", "1"])
            .env("TIDEGATE_ABORTS_IN", directory.path())
            .output()
            .unwrap();
        if output.status.success() {
            let said = support::text(&output.stdout);
            assert!(said.contains("SUM Some(17)"), "{said}");
            break;
        }
        deaths += 1;
        assert!(deaths <= 3, "{}", support::text(&output.stderr));
    }
    assert_eq!(deaths, 3);
}

const PRESS: &str = r#"
[pipeline]
name = "press"
checkpoint = "300ms"
stop_timeout = "2s"

[source.plant]
type = "mqtt"
url = "mqtt://127.0.0.1:PORT"
client_id = "press-gateway"
topics = ["plant/{device}"]
format = { type = "json", time = "ts", time_unit = "ms" }
fields = { value = "f64" }

[operator.high]
type = "filter"
inputs = ["plant"]
where = "value >= 0"

[sink.rows]
type = "file"
inputs = ["high"]
path = "OUT/rows.ndjson"
"#;

#[test]
fn the_process_reloads_by_admin_port_signal_and_changed_file() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().display().to_string();
    let messages = (0..2000).map(|n| Message::new("plant/a", format!(r#"{{"ts":{n},"value":{n}}}"#)));
    let plant = Plant::start(vec![("plant/+", messages.collect())]);
    let file = directory.path().join("press.toml");
    let text = PRESS.replace("PORT", &plant.port.to_string()).replace("OUT", &out);
    std::fs::write(&file, &text).unwrap();
    let data = directory.path().join("data").display().to_string();
    let running = support::Running::start(&file, &["--data-dir", &data, "--watch"]);
    let post = |path: &str| running.request("POST", path, b"").unwrap();
    let written = |name: &str| lines(&directory.path().join(name)).len();
    running.wait_for("all rows", |_| written("rows.ndjson") == 2000);
    let connections = plant.connections();

    let (status, answer) = post("/reload");
    assert_eq!(status, 409, "{answer}");
    // Everything wrong is told, and what runs goes on. The watcher says the same by itself.
    std::fs::write(
        &file,
        text.replace("value >= 0", "valu >= 0").replace("inputs = [\"high\"]", "inputs = [\"hi\"]"),
    )
    .unwrap();
    let (status, answer) = post("/reload/press");
    assert_eq!(status, 422);
    assert!(
        answer.contains("did you mean") && answer.contains("valu") && answer.contains("`hi`"),
        "{answer}"
    );
    running.wait_for("the watcher", |metrics| {
        support::series(metrics, "tidegate_reloads_total", &[("outcome", "rejected")]) >= 2.0
    });
    let (_, health) = running.request("GET", "/health", b"").unwrap();
    assert!(health.contains("the last reload was rejected"), "{health}");

    // Another path for the rows: the connection is kept.
    std::fs::write(&file, text.replace("rows.ndjson", "others.ndjson")).unwrap();
    running.wait_for("the watcher", |metrics| {
        support::series(metrics, "tidegate_reloads_total", &[("outcome", "applied")]) == 1.0
    });
    std::fs::write(&file, text.replace("name = \"press\"", "name = \"other\"")).unwrap();
    let (status, answer) = post("/reload/press");
    assert_eq!(status, 422, "{answer}");
    assert!(answer.contains("`name` under [pipeline] cannot change"), "{answer}");
    let (status, _) = post("/reload/other");
    assert_eq!(status, 404);
    let metrics = running.metrics();
    assert_eq!(metric(&metrics, "tidegate_source_connected"), 1.0);
    assert_eq!(metric(&metrics, "tidegate_source_rows_total"), 2000.0, "counts go on");
    let applied =
        |metrics: &str| support::series(metrics, "tidegate_reloads_total", &[("outcome", "applied")]);
    let before = applied(&metrics);
    std::fs::write(&file, &text).unwrap();
    running.signal("HUP");
    running.wait_for("the signal", |metrics| applied(metrics) > before);
    assert_eq!(plant.connections(), connections, "one connection all the time");
    assert_eq!(running.terminate(), Some(0));
    assert_eq!((written("rows.ndjson"), written("others.ndjson")), (2000, 0));
}

const FLOOD: &str = r#"
[pipeline]
name = "flood"
checkpoint = "200ms"
stop_timeout = "1s"
log = "on"

[source.plant]
type = "simulate"
devices = 50
rate_hz = 1000.0
speed = "max"

[sink.out]
type = "stdout"
inputs = ["plant"]
"#;

/// Starts the flood with nobody reading its output, and waits until it stands still.
fn flood(directory: &Path) -> std::process::Child {
    let file = directory.join("flood.toml");
    std::fs::write(&file, FLOOD).unwrap();
    let child = Command::new(TIDEGATE)
        .args(["--log-level", "warn", "run"])
        .arg(&file)
        .arg("--data-dir")
        .arg(directory.join("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(2));
    child
}

fn signal(child: &std::process::Child, name: &str) {
    Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
}

#[test]
fn a_stop_that_a_sink_holds_up_ends_in_time_with_its_own_code() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = flood(directory.path());
    let started = Instant::now();
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(75));
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(4), "{took:?}");
    // Started again it is stuck in the log's replay; it hears a stop all the same, and a second one at once.
    let mut child = flood(directory.path());
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(75));
    let mut child = flood(directory.path());
    let started = Instant::now();
    signal(&child, "TERM");
    std::thread::sleep(Duration::from_millis(200));
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(started.elapsed() < Duration::from_millis(900));
}

/// A pipeline file that differs from others of its kind in this and that.
#[derive(Debug, Clone)]
struct Variant {
    second_source: bool,
    meaning: &'static str,
    total_is_called: &'static str,
    above: Option<u8>,
    both: bool,
    raw_address: &'static str,
    queue: u8,
}

impl Variant {
    fn of(dice: &mut u64) -> Self {
        let mut roll = |sides: u64| {
            // SplitMix64 (Steele, Lea, Flood 2014).
            *dice = dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = *dice;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) % sides
        };
        let second_source = roll(2) == 0;
        Self {
            second_source,
            meaning: ["", "other"][usize::from(roll(3) == 0)],
            total_is_called: ["sum", "total"][roll(2) as usize],
            above: (roll(2) == 0).then(|| roll(3) as u8),
            both: second_source && roll(2) == 0,
            raw_address: ["", "elsewhere"][roll(2) as usize],
            queue: 1 + roll(4) as u8,
        }
    }

    fn text(&self, stage: &str) -> String {
        let (name, meaning, address, queue) =
            (self.total_is_called, self.meaning, self.raw_address, self.queue);
        let was = if name == "sum" { "total" } else { "sum" };
        let mut text = format!(
            "[pipeline]\nname = \"p\"\ncheckpoint = \"150ms\"\nstop_timeout = \"5s\"\nqueue = {queue}\n\
             [source.a]\ntype = \"count\"\nstage = \"{stage}\"\n\
             [operator.{name}]\ntype = \"sum\"\ninputs = [\"a\"]\nstage = \"{stage}\"\nwas = \"{was}\"\n\
             meaning = \"{meaning}\"\n\
             [sink.raw]\ntype = \"take\"\ninputs = [\"a\"]\nstage = \"{stage}\"\naddress = \"{address}\"\n\
             [sink.sums]\ntype = \"take\"\ninputs = [\"{name}\"]\nstage = \"{stage}\"\n"
        );
        let mut more = Vec::new();
        if self.second_source {
            text += &format!("[source.b]\ntype = \"count\"\nstage = \"{stage}\"\n");
            more.push("b");
        }
        if self.both {
            text += "[operator.both]\ntype = \"union\"\ninputs = [\"a\", \"b\"]\n";
            more.push("both");
        }
        if let Some(least) = self.above {
            text +=
                &format!("[operator.above]\ntype = \"filter\"\ninputs = [\"a\"]\nwhere = \"n > {least}\"\n");
            more.push("above");
        }
        for (index, input) in more.iter().enumerate() {
            text += &format!(
                "[sink.more{index}]\ntype = \"take\"\ninputs = [\"{input}\"]\nstage = \"{stage}\"\n"
            );
        }
        text
    }
}

/// What the checkpoint says of the graph that ran last is what the file says.
fn check_graph(text: &str, data: &Path) {
    let mut disk = Disk::open(data.join("p")).unwrap();
    let recovered = recovery::recover(&mut disk).unwrap();
    let built = load(text, Some(data)).unwrap();
    let nodes: Vec<_> = built.graph.nodes.iter().map(|node| (node.name.clone(), node.fingerprint)).collect();
    let snapshot = recovered.snapshot.unwrap();
    let saved: Vec<_> = snapshot.nodes.iter().map(|node| (node.name.clone(), node.fingerprint)).collect();
    assert_eq!(saved, nodes);
    let mut sinks: Vec<&String> = built.graph.sinks.iter().map(|sink| &sink.name).collect();
    sinks.sort();
    assert_eq!(recovered.sinks.keys().collect::<Vec<_>>(), sinks);
}

/// The sums of 1 to `upto`, begun anew behind `fresh_after`.
fn sums_begun_anew(upto: i64, fresh_after: i64) -> Vec<i64> {
    let fresh = (fresh_after + 1..=upto).scan(0, |sum, n| {
        *sum += n;
        Some(*sum)
    });
    sums(fresh_after).into_iter().chain(fresh).collect()
}

/// More of them by `RELOAD_SEEDS=200`.
fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("RELOAD_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(8)
}

fn all_taken(stage: &Stage, sink: &str) -> Vec<i64> {
    let state = stage.state.lock().unwrap();
    state.taken.get(sink).into_iter().flatten().flat_map(|(_, values)| values.clone()).collect()
}

#[test]
fn from_any_pipeline_to_any_other_the_graph_is_the_other_ones_and_nothing_is_lost() {
    let mut kept_and_fresh = (0, 0);
    for seed in seeds() {
        let mut dice = seed;
        let name = format!("any-{seed}");
        let stage = stage(&name);
        let directory = tempfile::tempdir().unwrap();
        let data = Some(directory.path());
        let (from, to) = (Variant::of(&mut dice), Variant::of(&mut dice));
        let in_rest = seed % 2 == 0;
        run(async {
            let running = start(&from.text(&name), data).await;
            stage.allow("b", 1000);
            stage.allow("a", if in_rest { 40 } else { 200 });
            if in_rest {
                stage.until_taken("raw", 40).await;
            } else {
                tokio::time::sleep(Duration::from_millis(seed * 7 % 60)).await;
            }
            let reloaded = reload(&running, &to.text(&name), data).await.unwrap();
            assert!(!reloaded.from_checkpoint, "{name}");
            let same = from.meaning == to.meaning;
            assert_eq!(
                reloaded.kept.iter().any(|node| node == to.total_is_called),
                same,
                "{name}: {reloaded}"
            );
            stage.allow("a", 200);
            stage.until_taken("raw", 200).await;
            stop(running).await;
            assert_eq!(all_taken(&stage, "raw"), (1..=200).collect::<Vec<_>>(), "{name}: {from:?} {to:?}");
            let taken = all_taken(&stage, "sums");
            let fresh_after = match (same, in_rest) {
                (true, _) => 200,
                (false, true) => 40,
                (false, false) => {
                    let sums = sums(200);
                    taken.iter().zip(&sums).take_while(|(taken, sum)| taken == sum).count() as i64
                }
            };
            assert_eq!(taken, sums_begun_anew(200, fresh_after), "{name}: {from:?} {to:?}");
            stage.with(|state| assert_eq!(state.opened["a"], 1, "{name}"));
            if same { kept_and_fresh.0 += 1 } else { kept_and_fresh.1 += 1 }
        });
        check_graph(&to.text(&name), directory.path());
    }
    println!("{} times the sum was kept, {} times it began anew", kept_and_fresh.0, kept_and_fresh.1);
    assert!(kept_and_fresh.0 > 0 && kept_and_fresh.1 > 0);
}

#[test]
fn a_crash_at_any_moment_of_a_reload_comes_back_with_everything() {
    for seed in seeds() {
        let mut dice = seed + 1000;
        let name = format!("crash-{seed}");
        let stage = stage(&name);
        let directory = tempfile::tempdir().unwrap();
        let data = Some(directory.path());
        let (from, to) = (Variant::of(&mut dice), Variant::of(&mut dice));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let running = start(&from.text(&name), data).await;
            stage.allow("a", 300);
            tokio::time::sleep(Duration::from_millis(20 + seed * 13 % 50)).await;
            let text = to.text(&name);
            let reload = reload(&running, &text, data);
            let _ = tokio::time::timeout(Duration::from_micros(seed * 3777 % 25_000), reload).await;
        });
        // As if the process had died: nobody is told, nothing is finished.
        runtime.shutdown_background();
        run(async {
            let text = to.text(&name);
            let started = Instant::now();
            let running = loop {
                match start_in(load(&text, data).unwrap(), None, Some(rebuild(&text, data))).await {
                    Ok(running) => break running,
                    Err(error) => assert!(started.elapsed() < Duration::from_secs(10), "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            if tokio::time::timeout(Duration::from_secs(8), stage.until_taken("raw", 300)).await.is_err() {
                panic!("{name}: {:#?}", running.served.health());
            }
            stop(running).await;
            assert_eq!(stage.numbers("raw"), (1..=300).collect::<Vec<_>>(), "{name}: {from:?} {to:?}");
            if from.meaning == to.meaning {
                assert_eq!(stage.numbers("sums"), sums(300), "{name}: {from:?} {to:?}");
            }
        });
        check_graph(&to.text(&name), directory.path());
    }
}
