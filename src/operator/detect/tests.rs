//! Tests of both detectors as operators.

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, AsArray, DictionaryArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Float64Type, Int32Type, Schema};
use proptest::prelude::*;

use super::*;
use crate::core::operator::Flow;
use crate::core::schema::{tag_type, time_array, time_field};
use crate::core::{
    Count, EventTime, Model, ModelId, ModelOrigin, Now, Operator, Output, StateReader, StateWriter,
};
use crate::error::Result;
use crate::model::{Dense, ModelFile, Scratch, TrainingData, TrainingOptions, train};
use crate::registry::{BatchLimits, Files, InputSchema, NoFiles};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        time_field(),
        Field::new("device", tag_type(), true),
        Field::new("temp", DataType::Float64, true),
        Field::new("rpm", DataType::Int64, true),
        Field::new("ok", DataType::Boolean, true),
    ]))
}

fn noise(row: i64, salt: i64) -> f64 {
    let mixed = (row.wrapping_mul(0x9e37_79b9) ^ salt.wrapping_mul(0x85eb_ca6b)).wrapping_mul(0x2545_f491);
    ((mixed >> 11) & 0xffff) as f64 / 65_536.0 - 0.5
}

/// Rows a second apart of three devices in turn; `temp` and `rpm` go together, with nulls at times.
fn rows(from: i64, to: i64) -> RecordBatch {
    let devices: DictionaryArray<Int32Type> =
        (from..to).map(|row| Some(["a", "b", "c"][row.rem_euclid(3) as usize])).collect();
    let load = |row: i64| noise(row, 1) * 4.0;
    let temps = (from..to)
        .map(|row| (row % 23 != 5).then(|| 60.0 + (row % 3) as f64 * 100.0 + load(row) + noise(row, 2)));
    let rpms =
        (from..to).map(|row| (row % 23 != 7).then(|| 1500 + (load(row) * 20.0 + noise(row, 3)) as i64));
    let columns: Vec<ArrayRef> = vec![
        time_array((from..to).map(|row| row * 1_000_000).collect()),
        Arc::new(devices),
        Arc::new(temps.collect::<Float64Array>()),
        Arc::new(rpms.collect::<Int64Array>()),
        Arc::new(arrow::array::BooleanArray::from(vec![true; (to - from) as usize])),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// Rows with another temperature in some of them.
fn with_temps(batch: &RecordBatch, changed: &[(usize, f64)]) -> RecordBatch {
    let mut temps: Vec<Option<f64>> = batch.column(2).as_primitive::<Float64Type>().iter().collect();
    changed.iter().for_each(|(row, temp)| temps[*row] = Some(*temp));
    let mut columns = batch.columns().to_vec();
    columns[2] = Arc::new(Float64Array::from(temps));
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

#[derive(Default)]
struct SomeFiles(BTreeMap<&'static str, Vec<u8>>);

impl Files for SomeFiles {
    fn read(&self, path: &str) -> Result<Vec<u8>> {
        self.0.get(path).cloned().map_or_else(|| NoFiles.read(path), Ok)
    }
}

fn build_on(config: &str, schema: SchemaRef, files: &dyn Files) -> Checked<Built> {
    let inputs = [InputSchema { name: "in".to_owned(), schema }];
    let context =
        Context { name: "anomaly", pipeline: "test", inputs: &inputs, files, batch: BatchLimits::default() };
    toml::from_str::<DetectConfig>(config).unwrap().build(&context)
}

fn build(config: &str, files: &dyn Files) -> Built {
    build_on(config, schema(), files).map_err(|problems| format!("{config}: {problems:?}")).unwrap()
}

/// What came out: score, anomaly and model of each row.
type Verdict = (Option<f64>, bool, Option<String>);

fn verdicts(batch: &RecordBatch) -> Vec<Verdict> {
    let scores = batch.column_by_name("score").unwrap().as_primitive::<Float64Type>();
    let anomalies = batch.column_by_name("anomaly").unwrap().as_boolean();
    let models = batch.column_by_name("model").unwrap().as_dictionary::<Int32Type>();
    let names = models.downcast_dict::<StringArray>().unwrap();
    let names = names.into_iter().map(|name| name.map(str::to_owned));
    scores.iter().zip(anomalies.iter()).zip(names).map(|((s, a), n)| (s, a.unwrap(), n)).collect()
}

fn feed(operator: &mut dyn Operator, batch: RecordBatch) -> (Vec<Verdict>, Vec<(Count, u64)>) {
    let mut out = Output::new(Now::ZERO);
    operator.process(0, batch.clone(), &mut out).unwrap();
    let counts = out.drain_counts().collect();
    let mut found = Vec::new();
    for (port, flow) in out.drain() {
        let (0, Flow::Batch(scored)) = (port, flow) else { panic!("only rows, on port 0") };
        assert_eq!(&scored.columns()[..batch.num_columns()], batch.columns());
        found.extend(verdicts(&scored));
    }
    assert_eq!(found.len(), batch.num_rows());
    (found, counts)
}

fn restart(operator: &mut dyn Operator, mut fresh: Box<dyn Operator>) -> Box<dyn Operator> {
    let mut state = StateWriter::new();
    operator.save(&mut state);
    let bytes = state.finish().unwrap();
    let mut reader = StateReader::new(&bytes);
    fresh.load(&mut reader).unwrap();
    reader.finish().unwrap();
    for cut in [0, bytes.len() / 2, bytes.len() - 1] {
        assert!(build_like(&*fresh).load(&mut StateReader::new(&bytes[..cut])).is_err());
    }
    fresh
}

/// An operator of the same type that may be thrown away.
fn build_like(operator: &dyn Operator) -> Box<dyn Operator> {
    let config = match operator.model() {
        Some(_) => "model = { topic = 'm' }",
        None => "by = ['device']",
    };
    build(config, &NoFiles).operator
}

fn count(reason: &'static str, by: u64) -> (Count, u64) {
    (Count { what: "unscored_rows", reason }, by)
}

#[test]
fn every_device_is_held_against_its_own_past() {
    let mut operator = build("by = ['device']\ncolumns = ['temp']", &NoFiles).operator;
    let (found, counts) = feed(&mut *operator, rows(0, 1_500));
    // Rows without a temperature are missing, the first hundred temperatures of each device are learned.
    let missing = (0..1_500).filter(|row| row % 23 == 5).count() as u64;
    let unscored = found.iter().filter(|row| row.0.is_none()).count() as u64;
    assert_eq!(counts, [count("missing_values", missing), count("warm_up", 300)]);
    assert_eq!(unscored, missing + 300);
    assert!(found.iter().all(|row| !row.1 && row.2.as_deref() == Some("robust_z")));
    // 60 degrees are normal for `a`, not for `b`.
    let odd = with_temps(&rows(1_500, 1_506), &[(0, 60.0), (1, 60.0)]);
    let (found, _) = feed(&mut *operator, odd);
    assert_eq!(found.iter().map(|row| row.1).collect::<Vec<_>>(), [false, true, false, false, false, false]);
    assert!(found[1].0.unwrap() > 20.0);
}

#[test]
fn a_missing_value_leaves_the_score_to_the_other_columns() {
    let mut operator = build("by = ['device']", &NoFiles).operator;
    feed(&mut *operator, rows(0, 900));
    let (found, counts) = feed(&mut *operator, rows(900, 1_200));
    assert!(found.iter().all(|row| row.0.is_some()) && counts.is_empty());
    // The threshold is the user's.
    let mut strict = build("by = ['device']\nthreshold = 0.01", &NoFiles).operator;
    feed(&mut *strict, rows(0, 900));
    assert!(feed(&mut *strict, rows(900, 1_200)).0.iter().filter(|row| row.1).count() > 290);
}

#[test]
fn keys_are_bounded_forgotten_and_counted() {
    let mut refusing = build("by = ['device']\nmax_keys = 2\nwarmup = 5", &NoFiles).operator;
    let (found, counts) = feed(&mut *refusing, rows(0, 60));
    assert!(counts.contains(&count("max_keys", 20)), "{counts:?}");
    assert!((0..60).all(|row| row % 3 != 2 || found[row].0.is_none()));
    let mut evicting =
        build("by = ['device']\nmax_keys = 2\nwarmup = 5\non_full = 'evict'", &NoFiles).operator;
    let (found, counts) = feed(&mut *evicting, rows(0, 60));
    // Three devices in turn and room for two: nobody is ever known.
    assert!(counts.contains(&(Count { what: "evicted_keys", reason: "" }, 58)), "{counts:?}");
    assert!(found.iter().all(|row| row.0.is_none()));

    let mut forgetting = build("by = ['device']\nwarmup = 5\nkey_ttl = '1m'", &NoFiles).operator;
    feed(&mut *forgetting, rows(0, 60));
    let mut out = Output::new(Now::ZERO);
    forgetting.watermark(EventTime(100 * 1_000_000), &mut out).unwrap();
    assert!(feed(&mut *forgetting, rows(100, 103)).0.iter().all(|row| row.0.is_some()));
    forgetting.watermark(EventTime(200 * 1_000_000), &mut out).unwrap();
    assert!(feed(&mut *forgetting, rows(200, 203)).0.iter().all(|row| row.0.is_none()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn neither_cuts_nor_restarts_change_a_score(
        config in prop::sample::select(vec![
            "by = ['device']\nwarmup = 8\nhalf_life = '20s'",
            "warmup = 5\nhalf_life_rows = 15\ncolumns = ['temp']",
            "by = ['device']\nmax_keys = 2\non_full = 'evict'\nwarmup = 5",
            "method = 'metric'\ncolumns = ['temp']\nthreshold = 0.5\nrefractory_rows = 7",
            "method = 'signal'\nby = ['device']\nthreshold = 0.5",
            "method = 'process'\nlearn_rows = 150\nthreshold = 1.0",
        ]),
        cuts in prop::collection::vec(1_i64..240, 0..12),
        restarts in prop::collection::vec(1_i64..240, 0..3),
    ) {
        let want = feed(&mut *build(config, &NoFiles).operator, rows(0, 240)).0;
        let mut places: Vec<i64> = cuts.iter().chain(&restarts).copied().chain([240]).collect();
        places.sort_unstable();
        let (mut operator, mut got, mut from) = (build(config, &NoFiles).operator, Vec::new(), 0);
        for place in places {
            got.extend(feed(&mut *operator, rows(from, place)).0);
            from = place;
            if restarts.contains(&place) {
                let mut state = StateWriter::new();
                operator.save(&mut state);
                let bytes = state.finish().unwrap();
                operator = build(config, &NoFiles).operator;
                let mut reader = StateReader::new(&bytes);
                operator.load(&mut reader).unwrap();
                reader.finish().unwrap();
            }
        }
        prop_assert_eq!(got, want);
    }
}

#[test]
fn an_ensemble_finds_what_breaks_out_and_one_alarm_is_not_followed_by_many() {
    for method in ["metric", "signal", "process"] {
        let columns = if method == "metric" { "columns = ['temp']" } else { "columns = ['temp', 'rpm']" };
        let learn = if method == "process" { "learn_rows = 400" } else { "" };
        let body = format!("method = '{method}'\nby = ['device']\n{columns}\n{learn}");
        let alarms = |body: &str| -> usize {
            let mut operator = build(body, &NoFiles).operator;
            let (found, _) = feed(&mut *operator, rows(0, 2_100));
            assert!(found.iter().all(|row| row.2.as_deref() == Some(method)));
            let odd: Vec<(usize, f64)> = (0..60).map(|row| (3 * row, 75.0)).collect();
            feed(&mut *operator, with_temps(&rows(2_100, 2_400), &odd)).0.iter().filter(|row| row.1).count()
        };
        assert!(alarms(&body) > 0, "{method}");
        assert!(alarms(&format!("{body}\nthreshold = 0.2\nrefractory_rows = 0")) > 5, "{method}");
        // Of a hundred rows of each device, one may be an alarm, and records.
        let few = alarms(&format!("{body}\nthreshold = 0.2\nrefractory_rows = 1000"));
        assert!(few <= 3 + 60 * usize::from(method == "metric"), "{method}: {few}");
    }
}

#[test]
fn an_ensemble_says_what_it_cannot_do() {
    for (body, reason) in [
        ("method = 'metric'", "`metric` looks at one column, not at 2"),
        ("method = 'signal'\nwarmup = 10", "has no meaning with this method"),
        ("method = 'process'\nlearn_rows = 5", "must be at least 100"),
        ("learn_rows = 500", "has no meaning with this method"),
    ] {
        let problems = build_on(body, schema(), &NoFiles).err().unwrap();
        assert!(problems.iter().any(|problem| problem.message.contains(reason)), "{body}: {problems:?}");
    }
}

/// A model of `temp` and `rpm`, made in a moment; another seed makes another model.
fn model(seed: u64, names: [&str; 2]) -> Vec<u8> {
    let values: Vec<f64> = (0..400)
        .flat_map(|row| {
            let load = noise(row, 1) * 4.0;
            [160.0 + load + noise(row, 2), 1500.0 + load * 20.0 + noise(row, 3)]
        })
        .collect();
    let names = names.map(str::to_owned);
    let options = TrainingOptions { seed, epochs_max: 4, hidden: Some(vec![3, 1, 3]), ..Default::default() };
    train(TrainingData { names: &names, rows: &values }, &options, &mut |_| {}).unwrap().bytes
}

fn id(bytes: &[u8]) -> ModelId {
    ModelFile::read(bytes).unwrap().0
}

/// Scores by the model itself, row for row, and no operator in between.
fn offline(bytes: &[u8], batch: &RecordBatch) -> Vec<Verdict> {
    let (id, file) = ModelFile::read(bytes).unwrap();
    let dense = Dense::new(id, file, Kernel::Scalar);
    let temps = batch.column(2).as_primitive::<Float64Type>();
    let rpms = batch.column(3).as_primitive::<arrow::datatypes::Int64Type>();
    let score = |(temp, rpm): (Option<f64>, Option<i64>)| {
        let (temp, rpm) = (temp?, rpm? as f64);
        let columns = dense.file().columns.iter().map(|column| match column.name.as_str() {
            "temp" => [temp],
            _ => [rpm],
        });
        let columns: Vec<[f64; 1]> = columns.collect();
        let columns: Vec<&[f64]> = columns.iter().map(|value| &value[..]).collect();
        let mut score = [0.0];
        dense.score_columns(&mut Scratch::default(), &columns, &mut score);
        Some(score[0])
    };
    temps
        .iter()
        .zip(rpms.iter())
        .map(score)
        .map(|score| (score, score.is_some_and(|score| score > dense.file().threshold), Some(id.short())))
        .collect()
}

#[test]
fn rows_around_a_switch_equal_offline_scoring_by_each_model() {
    // The second model has its columns in another order.
    let (first, second) = (model(1, ["temp", "rpm"]), model(2, ["rpm", "temp"]));
    assert_ne!(id(&first), id(&second));
    for kernel in ["auto", "scalar"] {
        let files = SomeFiles(BTreeMap::from([("pump.tgm", first.clone())]));
        let built = build(&format!("model = {{ file = 'pump.tgm' }}\nkernel = '{kernel}'"), &files);
        let (mut operator, slot) = (built.operator, built.models.unwrap());
        assert_eq!((slot.initial, operator.model()), (Some(id(&first)), Some(id(&first))));
        assert_eq!((slot.file.as_deref(), slot.topic.as_deref()), (Some("pump.tgm"), None));
        let mut got = Vec::new();
        let mut counts = Vec::new();
        for (from, to) in [(0, 1), (1, 97), (97, 150)] {
            let (found, counted) = feed(&mut *operator, rows(from, to));
            got.extend(found);
            counts.extend(counted);
        }
        operator.update(Arc::new(slot.gate.admit(&second).unwrap())).unwrap();
        assert_eq!(operator.model(), Some(id(&second)));
        got.extend(feed(&mut *operator, rows(150, 151)).0);
        let mut operator = restart(&mut *operator, build("model = { topic = 'm' }", &files).operator);
        got.extend(feed(&mut *operator, rows(151, 400)).0);
        let mut want = offline(&first, &rows(0, 150));
        want.extend(offline(&second, &rows(150, 400)));
        assert_eq!(got, want, "{kernel}");
        let missing = want[..150].iter().filter(|row| row.0.is_none()).count() as u64;
        let counted: u64 = counts.iter().map(|(_, by)| by).sum();
        assert!(counted == missing && missing > 10 && counts[0].0.reason == "missing_values");
        assert!(want.iter().any(|row| row.1) && want.iter().any(|row| row.0.is_some() && !row.1));
    }
}

#[test]
fn a_bad_model_is_refused_with_the_reason_and_the_old_one_goes_on() {
    let good = model(1, ["temp", "rpm"]);
    let files = SomeFiles(BTreeMap::from([("pump.tgm", good.clone())]));
    let built = build("model = { file = 'pump.tgm' }", &files);
    let (mut operator, gate) = (built.operator, built.models.unwrap().gate);
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (bytes, reason) in [
        (b"hello".to_vec(), "this is not a model file"),
        (good[..good.len() - 1].to_vec(), "cut or has bytes too many"),
        (flipped, "its body does not match its checksum"),
        (
            model(1, ["temp", "torque"]),
            "wants column \"torque\" that the input does not have; it has \"temp\", \"rpm\"",
        ),
    ] {
        let error = gate.admit(&bytes).unwrap_err();
        assert!(error.message.contains(reason), "{error}");
    }
    let foreign = Model {
        id: ModelId([7; 32]),
        bytes: Arc::from(&b""[..]),
        origin: ModelOrigin::Request,
        prepared: Box::new("of another operator"),
    };
    assert!(operator.update(Arc::new(foreign)).unwrap_err().message.contains("another type of operator"));
    let robust = &mut build("", &NoFiles);
    assert!(robust.models.is_none() && robust.operator.model().is_none());
    assert!(robust.operator.update(Arc::new(gate.admit(&good).unwrap())).is_err());
    assert_eq!(operator.model(), Some(id(&good)));
    assert_eq!(feed(&mut *operator, rows(0, 50)).0, offline(&good, &rows(0, 50)));
}

#[test]
fn without_a_model_rows_go_on_without_a_score_until_one_comes() {
    let config = "model = { file = 'pump.tgm', topic = 'plant/models/pump' }\nthreshold = 0.0";
    let built = build(config, &NoFiles);
    let (mut operator, slot) = (built.operator, built.models.unwrap());
    assert_eq!((slot.initial, operator.model()), (None, None));
    let (found, counts) = feed(&mut *operator, rows(0, 10));
    assert_eq!((found, counts), (vec![(None, false, None); 10], vec![count("no_model", 10)]));
    let mut operator = restart(&mut *operator, build(config, &NoFiles).operator);
    assert_eq!(operator.model(), None);
    let good = model(1, ["temp", "rpm"]);
    operator.update(Arc::new(slot.gate.admit(&good).unwrap())).unwrap();
    let (found, _) = feed(&mut *operator, rows(0, 50));
    // With a threshold of 0 every score is an anomaly.
    let want: Vec<Verdict> = offline(&good, &rows(0, 50))
        .into_iter()
        .map(|(score, _, name)| (score, score.is_some(), name))
        .collect();
    assert_eq!(found, want);
}

#[test]
fn after_a_restart_the_checkpoint_wins_over_an_unchanged_file_only() {
    let models: [Vec<u8>; 3] = [1, 2, 3].map(|seed| model(seed, ["temp", "rpm"]));
    let config = "model = { file = 'pump.tgm', topic = 'm' }";
    let built = |file: Option<usize>| {
        let file = file.map(|file| ("pump.tgm", models[file].clone()));
        build(config, &SomeFiles(file.into_iter().collect()))
    };
    // The file at first, the model that came since, the file after the restart: what runs then.
    for (file, update, now, runs) in [
        (Some(0), None, Some(0), Some(0)),
        (Some(0), Some(1), Some(0), Some(1)),
        (Some(0), Some(1), Some(2), Some(2)),
        (Some(0), Some(1), None, Some(1)),
        (Some(0), None, None, Some(0)),
        (None, Some(1), None, Some(1)),
        (None, Some(1), Some(0), Some(0)),
        (None, None, Some(0), Some(0)),
        (None, None, None, None),
    ] {
        let before = built(file);
        let (mut operator, gate) = (before.operator, before.models.unwrap().gate);
        if let Some(update) = update {
            operator.update(Arc::new(gate.admit(&models[update]).unwrap())).unwrap();
        }
        let mut operator = restart(&mut *operator, built(now).operator);
        let wanted = runs.map(|runs: usize| id(&models[runs]));
        assert_eq!(operator.model(), wanted, "{file:?} {update:?} {now:?}");
        // And again: a second restart changes nothing.
        operator = restart(&mut *operator, built(now).operator);
        assert_eq!(operator.model(), wanted, "{file:?} {update:?} {now:?}, twice");
    }
}

#[test]
fn a_model_that_came_after_the_file_changed_wins_over_that_file() {
    let models: [Vec<u8>; 4] = [1, 2, 3, 4].map(|seed| model(seed, ["temp", "rpm"]));
    let built = |file: usize| {
        let files = SomeFiles(BTreeMap::from([("pump.tgm", models[file].clone())]));
        build("model = { file = 'pump.tgm' }", &files)
    };
    use ModelOrigin::{File, Request};
    // What was applied in turn and how it came; the file after the restart; what runs then.
    let cases = [
        (vec![(1, File), (2, Request)], 1, 2),
        (vec![(1, File), (2, Request)], 3, 3),
        (vec![(1, File), (2, Request)], 0, 0),
        (vec![(2, Request), (1, File)], 1, 1),
        // The file comes to hold what had come by another way, and then a third one comes.
        (vec![(1, Request), (1, File), (2, Request)], 1, 2),
    ];
    for (applied, now, runs) in cases {
        let before = built(0);
        let (mut operator, gate) = (before.operator, before.models.unwrap().gate);
        for (update, origin) in applied.clone() {
            let admitted = gate.admit(&models[update]).unwrap();
            operator.update(Arc::new(Model { origin, ..admitted })).unwrap();
        }
        for _ in 0..2 {
            operator = restart(&mut *operator, built(now).operator);
            assert_eq!(operator.model(), Some(id(&models[runs])), "{applied:?}, then {now}");
        }
    }
}

#[test]
fn without_the_file_a_saved_model_goes_on_and_without_both_it_is_said() {
    let good = model(1, ["temp", "rpm"]);
    let files =
        SomeFiles(BTreeMap::from([("pump.tgm", good.clone()), ("bad.tgm", good[..good.len() - 1].to_vec())]));
    let mut before = build("model = { file = 'pump.tgm' }", &files);
    assert!(before.unless_saved.is_empty() && before.models.unwrap().refused.is_none());
    for (config, reason) in [
        ("model = { file = 'gone.tgm' }", "gone.tgm: no such file"),
        ("model = { file = 'bad.tgm' }", "bad.tgm: the model file is cut or has bytes too many"),
        ("model = { file = 'bad.tgm', topic = 'm' }", "bad.tgm: the model file is cut or has bytes too many"),
    ] {
        let built = build(config, &files);
        let problem = &built.unless_saved[0];
        assert!(problem.path == "model.file" && problem.message.starts_with(reason), "{problem:?}");
        assert_eq!(built.models.unwrap().refused.as_ref(), Some(&problem.message));
        assert_eq!(built.operator.model(), None);
        let operator = restart(&mut *before.operator, built.operator);
        assert_eq!(operator.model(), Some(id(&good)), "{config}");
    }
}

#[test]
fn a_retained_message_that_comes_again_does_not_undo_what_has_come_since() {
    let models: [Vec<u8>; 2] = [1, 2].map(|seed| model(seed, ["temp", "rpm"]));
    let fresh = || build("model = { topic = 'm' }", &NoFiles);
    let (mut operator, gate) = (fresh().operator, fresh().models.unwrap().gate);
    let come = |operator: &mut dyn Operator, index: usize, origin| {
        operator.update(Arc::new(Model { origin, ..gate.admit(&models[index]).unwrap() }))
    };
    come(&mut *operator, 0, ModelOrigin::Topic).unwrap();
    come(&mut *operator, 0, ModelOrigin::Topic).unwrap();
    come(&mut *operator, 1, ModelOrigin::Request).unwrap();
    for _ in 0..2 {
        let error = come(&mut *operator, 0, ModelOrigin::Topic).unwrap_err();
        assert!(error.message.contains("another one has come since"), "{error}");
        assert_eq!(operator.model(), Some(id(&models[1])));
        operator = restart(&mut *operator, fresh().operator);
    }
    come(&mut *operator, 1, ModelOrigin::Topic).unwrap();
    come(&mut *operator, 0, ModelOrigin::Topic).unwrap();
    assert_eq!(operator.model(), Some(id(&models[0])));
}

#[test]
fn what_is_wrong_is_said_with_a_way_out() {
    for (config, path, message) in [
        ("columns = ['tmep']", "columns[0]", "column \"tmep\" does not exist"),
        ("columns = ['ok']", "columns[0]", "column \"ok\" is a true/false, not a number"),
        ("columns = ['temp', 'temp']", "columns[1]", "column \"temp\" is named twice"),
        ("columns = []", "columns", "no column is named"),
        ("by = ['devise']", "by[0]", "column \"devise\" does not exist"),
        ("by = ['temp']\ncolumns = ['rpm']", "by[0]", "column \"temp\" is a number"),
        ("threshold = 0.0", "threshold", "must be a number above 0"),
        ("threshold = nan", "threshold", "must be a number above 0"),
        ("warmup = 4", "warmup", "must be 5 to 1000000, not 4"),
        ("max_keys = 0", "max_keys", "must be at least 1"),
        ("half_life = '0s'", "half_life", "must be longer than nothing"),
        ("half_life = '5s'\nhalf_life_rows = 5", "half_life_rows", "stands beside `half_life`"),
        ("half_life_rows = 0", "half_life_rows", "must be at least 1"),
        ("kernel = 'scalar'", "kernel", "has no meaning without `model`"),
        ("model = { topic = 'm' }\nby = ['device']", "by", "has no meaning with `model`"),
        ("model = { topic = 'm' }\nmethod = 'robust_z'", "method", "has no meaning with `model`"),
        ("model = { topic = 'm' }\nwarmup = 9", "warmup", "has no meaning with `model`"),
        ("model = { topic = 'm' }\nthreshold = -1.0", "threshold", "must be a number from 0 up"),
        ("model = {}", "model", "says nowhere where the model comes from"),
        ("model = { topic = 'm/+' }", "model.topic", "`m/+` is not the name of one topic"),
        ("model = { file = '', topic = 'm' }", "model.file", "this is not the path of a file"),
    ] {
        let problems = build_on(config, schema(), &NoFiles).err().unwrap_or_default();
        let found: Vec<(&str, &str)> =
            problems.iter().map(|problem| (problem.path.as_str(), problem.message.as_str())).collect();
        assert_eq!(found, [(path, message)], "{config}");
    }
    let mut fields: Vec<Field> = schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new("score", DataType::Float64, true));
    let problems = build_on("", Arc::new(Schema::new(fields)), &NoFiles).err().unwrap();
    assert!(problems[0].message.contains("the input has a column \"score\" already"));
    let bare = Schema::new(vec![Field::new("note", DataType::Utf8, true)]);
    assert_eq!(build_on("", Arc::new(bare), &NoFiles).err().unwrap().len(), 2);
}

#[test]
fn state_means_the_columns_and_keys_and_nothing_else() {
    let meaning = |config: &str| build(config, &NoFiles).meaning;
    let base = meaning("by = ['device']");
    assert_eq!(
        base,
        meaning("by = ['device']\nthreshold = 9.0\nhalf_life = '1h'\nwarmup = 50\nmax_keys = 7")
    );
    for other in ["", "by = ['device']\ncolumns = ['temp']", "by = ['device']\non_full = 'evict'"] {
        assert_ne!(base, meaning(other), "{other}");
    }
    assert_eq!(meaning("model = { topic = 'a' }"), meaning("model = { topic = 'b' }\nkernel = 'scalar'"));
}

#[test]
fn the_output_is_what_was_promised() {
    for config in DetectConfig::EXAMPLES {
        let built = build_on(config, crate::registry::example_schema(), &NoFiles).ok().unwrap();
        let promised = built.ports[0].schema.clone();
        let mut operator = built.operator;
        let mut out = Output::new(Now::ZERO);
        let columns = crate::registry::example_schema();
        let columns = columns.fields().iter().map(|field| match field.name().as_str() {
            "time" => time_array(vec![1, 2]),
            _ => arrow::array::new_null_array(field.data_type(), 2),
        });
        let batch = RecordBatch::try_new(crate::registry::example_schema(), columns.collect()).unwrap();
        operator.process(0, batch, &mut out).unwrap();
        let flows: Vec<(usize, Flow)> = out.drain().collect();
        let [(0, Flow::Batch(scored))] = &flows[..] else { panic!("one batch") };
        assert_eq!(scored.schema(), promised);
        assert_eq!(concat_batches(&promised, [scored]).unwrap().num_rows(), 2);
    }
}
