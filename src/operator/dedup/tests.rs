//! `dedup` against tables, against a naive twin that keeps every key by itself, and against the laws.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::Field;
use proptest::prelude::*;

use super::memory::MOVED_RUNS_MAX;
use super::*;
use crate::core::schema::{time_array, time_field};
use crate::core::{Flow, Now};
use crate::operator::testing::{self, END, Outcome, Row, Run, Step, build, build_over, law, problems, run};
use crate::registry::Built;

const DEVICES: [Option<&str>; 4] = [Some("a"), Some("b"), Some("c"), None];

fn row(time: i64, device: usize, seq: Option<i64>) -> Step {
    Step::Row(Row { time, device: DEVICES[device], seq, ..Row::default() })
}

fn times_of(rows: &[String]) -> Vec<i64> {
    rows.iter().map(|row| row.split(' ').next().unwrap().parse().unwrap()).collect()
}

fn straight(body: &str, script: &[Step]) -> Outcome {
    run(&|| build::<DedupConfig>(body).unwrap(), script, &Run::default())
}

#[test]
fn the_first_of_equal_rows_passes() {
    let script = [
        row(0, 0, Some(1)),
        row(1, 1, Some(1)),
        row(2, 0, Some(1)),
        row(3, 0, Some(2)),
        row(4, 0, None),
        row(5, 0, None),
        row(6, 3, Some(1)),
        row(7, 3, Some(1)),
        row(8, 1, Some(1)),
        row(9, 0, Some(i64::MAX)),
        row(10, 0, Some(i64::MIN)),
        row(11, 0, Some(i64::MAX)),
        row(12, 0, Some(i64::MIN)),
    ];
    for by in ["\"device\", \"seq\"", "\"seq\", \"device\""] {
        let body = format!("by = [{by}]\nhorizon = \"1s\"");
        let outcome = straight(&body, &script);
        assert_eq!(times_of(&outcome.ports[0]), [0, 1, 3, 4, 5, 6, 7, 9, 10], "{body}");
        assert_eq!((outcome.count("duplicate_rows", ""), outcome.count("unkeyed_rows", "")), (4, 4));
    }
}

#[test]
fn values_are_compared_by_what_they_are() {
    let of = |time, temp: f64| Step::Row(Row { time, temp: Some(temp), ..Row::default() });
    let nan = f64::from_bits(f64::NAN.to_bits() | 1);
    let script = [of(0, 0.0), of(1, -0.0), of(2, f64::NAN), of(3, nan), of(4, 1.0), of(5, -1.0)];
    let outcome = straight("by = [\"temp\"]\nhorizon = \"1s\"", &script);
    assert_eq!(times_of(&outcome.ports[0]), [0, 2, 4, 5]);

    let of = |time, line, note| Step::Row(Row { time, line: Some(line), note: Some(note), ..Row::default() });
    let script = [of(0, "ab", "c"), of(1, "a", "bc"), of(2, "ab", "c"), of(3, "", "abc")];
    for by in ["\"line\", \"note\"", "\"line\", \"payload\""] {
        let outcome = straight(&format!("by = [{by}]\nhorizon = \"1s\""), &script);
        assert_eq!(times_of(&outcome.ports[0]), [0, 1, 3]);
    }
}

#[test]
fn a_row_is_forgotten_when_the_watermark_is_the_horizon_behind_its_span() {
    // Sixteen spans of 10 µs.
    let body = "by = [\"device\", \"seq\"]\nhorizon = \"160us\"";
    let script = [
        row(5, 0, Some(1)),
        Step::Mark(169),
        row(6, 0, Some(1)),
        row(9, 0, Some(2)),
        Step::Mark(170),
        row(9, 0, Some(3)),
        row(10, 0, Some(1)),
        row(10, 0, Some(1)),
        END,
    ];
    let outcome = straight(body, &script);
    assert_eq!(times_of(&outcome.ports[0]), [5, 9, 10]);
    assert_eq!(times_of(&outcome.ports[1]), [9]);
    assert_eq!((outcome.count("duplicate_rows", ""), outcome.count("late_rows", "")), (2, 1));
}

#[test]
fn beyond_the_limit_old_spans_give_way_and_else_rows_pass_unremembered() {
    let body = "by = [\"device\", \"seq\"]\nhorizon = \"160us\"\nmax_entries = 3";
    let script = [
        row(1, 0, Some(10)),
        row(12, 0, Some(20)),
        row(13, 0, Some(21)),
        row(14, 0, Some(30)),
        // Full: the span of row 1 gives way, and its time is late from here on.
        row(15, 0, Some(40)),
        row(2, 0, Some(50)),
        // Nothing older than its own span is there: it passes, and so does its duplicate.
        row(16, 0, Some(60)),
        row(17, 0, Some(60)),
        // It joins a run: no entry more.
        row(18, 0, Some(22)),
        row(19, 0, Some(22)),
        row(19, 0, Some(40)),
    ];
    let outcome = straight(body, &script);
    assert_eq!(times_of(&outcome.ports[0]), [1, 12, 13, 14, 15, 16, 17, 18]);
    assert_eq!(times_of(&outcome.ports[1]), [2]);
    let counts = ["forgotten_entries", "unremembered_rows", "duplicate_rows"].map(|c| outcome.count(c, ""));
    assert_eq!(counts, [1, 2, 2]);
    let hashed = straight("by = [\"vib\"]\nhorizon = \"160us\"\nmax_entries = 2", &{
        let of = |time, vib| Step::Row(Row { time, vib: Some(vib), ..Row::default() });
        [of(1, 1.0), of(11, 2.0), of(12, 3.0), of(13, 4.0), of(14, 4.0), of(15, 2.0), of(2, 9.0)]
    });
    assert_eq!(times_of(&hashed.ports[0]), [1, 11, 12, 13, 14]);
    assert_eq!((hashed.count("forgotten_entries", ""), hashed.count("unremembered_rows", "")), (1, 2));
    assert_eq!(times_of(&hashed.ports[1]), [2]);
}

#[test]
fn consecutive_numbers_cost_one_run_per_device_and_span_in_whatever_order_they_come() {
    let mut memory = Memory::new(1000, 100_000);
    fn no_hash() -> [u64; 2] {
        panic!("runs suffice")
    }
    for block in 0..100i64 {
        // Blocks of ten, each backwards, devices interleaved.
        for number in (block * 10..block * 10 + 10).rev() {
            for device in 0..50 {
                assert_eq!(memory.see_number(device, number, number / 500, no_hash), (Seen::First, 0));
                assert_eq!(memory.see_number(device, number, 7, no_hash), (Seen::Again, 0));
            }
        }
    }
    assert_eq!(memory.len(), 2 * 50);
    assert!(memory.bytes() < 50 * 24 * 20, "{}", memory.bytes());
    // The first span is over.
    assert!(memory.forget_before(1000));
    assert_eq!(memory.len(), 50);
    assert_eq!(memory.see_number(3, 400, 1, no_hash), (Seen::First, 0));
}

#[test]
fn numbers_without_order_are_hashed_and_stay_exact() {
    let mut memory = Memory::new(1, 1_000_000);
    let mut twin = std::collections::HashSet::new();
    let (mut state, mut hashed) = (7u64, 0);
    for _ in 0..6 * MOVED_RUNS_MAX {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let number = (state >> 52) as i64 * 3;
        let hash = || [number as u64 + 1, 0];
        let (seen, forgotten) = memory.see_number(0, number, 0, hash);
        assert_eq!((seen == Seen::First, forgotten), (twin.insert(number), 0), "{number}");
        hashed = memory.hashed();
    }
    assert!(hashed > 0 && memory.len() == twin.len());
    assert!(memory.bytes() < twin.len() * 64, "{} bytes for {}", memory.bytes(), twin.len());
    assert!(memory.forget_before(1));
    assert_eq!((memory.len(), memory.hashed()), (0, 0));
}

#[test]
fn names_beyond_the_limit_of_names_are_hashed() {
    let schema = Arc::new(Schema::new(vec![
        time_field(),
        Field::new("id", DataType::Utf8, true),
        Field::new("seq", DataType::Int64, true),
    ]));
    let body = "by = [\"id\", \"seq\"]\nhorizon = \"1s\"";
    let mut built = build_over::<DedupConfig>(body, std::slice::from_ref(&schema)).unwrap();
    let rows = NAMES_MAX + 1000;
    let columns: Vec<ArrayRef> = vec![
        time_array(vec![0; rows]),
        Arc::new((0..rows).map(|n| Some(n.to_string())).collect::<StringArray>()),
        Arc::new(Int64Array::from(vec![1; rows])),
    ];
    let batch = RecordBatch::try_new(schema, columns).unwrap();
    let mut out = Output::new(Now::ZERO);
    built.operator.process(0, batch.clone(), &mut out).unwrap();
    built.operator.process(0, batch, &mut out).unwrap();
    let passed: usize = out
        .drain()
        .map(|(_, flow)| match flow {
            Flow::Batch(batch) => batch.num_rows(),
            _ => 0,
        })
        .sum();
    assert_eq!(passed, rows);
}

#[test]
fn damaged_state_is_refused() {
    let make = || build::<DedupConfig>(DedupConfig::EXAMPLES[0]).unwrap();
    let load = |write: &dyn Fn(&mut StateWriter)| {
        let mut writer = StateWriter::new();
        Keys::new(vec![crate::core::schema::tag_type()], KeyLimits::default()).unwrap().save(&mut writer);
        write(&mut writer);
        let bytes = writer.finish().unwrap();
        make().operator.load(&mut StateReader::new(&bytes)).map_err(|error| error.message)
    };
    type Runs = Vec<Vec<(i64, i64, i64)>>;
    let none: Vec<Vec<([u64; 2], i64)>> = vec![Vec::new(); 64];
    let memory = |runs: Runs| {
        let none = none.clone();
        move |writer: &mut StateWriter| writer.value(&(0i64, &runs, &none))
    };
    assert_eq!(load(&memory(vec![])), Ok(()));
    for runs in [vec![(2, 1, 0)], vec![(1, 2, 0), (2, 3, 0)], vec![(1, 2, -1)]] {
        assert_eq!(load(&memory(vec![runs])), Err("the remembered keys do not fit together".into()));
    }
    assert_eq!(load(&memory(vec![vec![(1, 2, 0)]])), Err("the remembered numbers have no names".into()));
    assert!(load(&|_| {}).is_err());
    // A hash in another table than its own would never be found, and so would pass twice.
    for (shard, outcome) in [(5, Ok(())), (6, Err("the remembered keys do not fit together".to_owned()))] {
        let mut hashes = none.clone();
        hashes[shard].push(([1, 5], 3));
        assert_eq!(load(&|writer| writer.value(&(0i64, Runs::new(), &hashes))), outcome);
    }
}

#[test]
fn problems_say_where() {
    for (body, expected) in [
        (
            "by = [\"devise\"]\nhorizon = \"1s\"",
            "by[0]: column \"devise\" does not exist; did you mean \"device\"?",
        ),
        (
            "by = []\nhorizon = \"1s\"",
            "by: it is not said what makes two rows the same; name columns, for example [\"device\", \"seq\"]",
        ),
        ("by = [\"seq\", \"seq\"]\nhorizon = \"1s\"", "by[1]: \"seq\" is in the list already"),
        (
            "by = [\"seq\"]\nhorizon = \"0s\"",
            "horizon: every row would be forgotten at once; write for example \"10m\"",
        ),
        ("by = [\"seq\"]\nhorizon = \"9999d\"", "horizon: `horizon` is longer than ten years"),
        (
            "by = [\"seq\"]\nhorizon = \"1s\"\nmax_entries = 0",
            "max_entries: with a limit of none, no row would be remembered",
        ),
    ] {
        assert_eq!(problems::<DedupConfig>(body), [expected], "{body}");
    }
    for example in DedupConfig::EXAMPLES {
        assert_eq!(problems::<DedupConfig>(example), Vec::<String>::new(), "{example}");
    }
}

/// The values of a row's key as one text; none if one is null.
type KeyOf<'a> = &'a dyn Fn(&Row) -> Option<String>;

/// What the definition says, with every key kept by itself.
fn twin(script: &[Step], key: KeyOf<'_>) -> [Vec<String>; 2] {
    let (mut seen, mut floor): (HashMap<String, i64>, i64) = (HashMap::new(), i64::MIN);
    let mut ports: [Vec<Row>; 2] = Default::default();
    for step in script {
        match step {
            Step::Row(row) => match key(row) {
                None => ports[0].push(row.clone()),
                Some(_) if row.time.div_euclid(10) < floor => ports[1].push(row.clone()),
                Some(key) if seen.contains_key(&key) => {}
                Some(key) => {
                    seen.insert(key, row.time.div_euclid(10));
                    ports[0].push(row.clone());
                }
            },
            Step::Mark(i64::MAX) => {}
            Step::Mark(to) => {
                floor = floor.max((to - 160).div_euclid(10));
                seen.retain(|_, span| *span >= floor);
            }
        }
    }
    ports.map(|rows| testing::rows(&testing::batch(&rows, false)))
}

/// Rows around a slowly advancing time, with a watermark now and then.
fn script() -> impl Strategy<Value = Vec<Step>> {
    let step = (0u8..8, -250i64..40, 0usize..4, prop::option::weighted(0.95, 0i64..25));
    prop::collection::vec(step, 1..120).prop_map(|steps| {
        let (mut now, mut mark) = (300, 0);
        let steps = steps.into_iter().map(|(kind, offset, device, seq)| {
            now += 7;
            if kind == 0 {
                mark = mark.max(now + offset);
                return Step::Mark(mark);
            }
            row(now + offset, device, seq)
        });
        steps.chain([END]).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn as_the_twin_says_however_it_is_fed(
        script in script(), cuts in prop::collection::vec(0usize..120, 0..6), save in 0usize..120,
    ) {
        let numbered = |row: &Row| Some(format!("{} {}", row.device?, row.seq?));
        let timed = |row: &Row| Some(format!("{} {}", row.device?, row.time));
        let alone = |row: &Row| Some(row.seq?.to_string());
        let cases: [(&str, KeyOf<'_>); 3] =
            [("\"device\", \"seq\"", &numbered), ("\"time\", \"device\"", &timed), ("\"seq\"", &alone)];
        for (by, key) in cases {
            let body = format!("by = [{by}]\nhorizon = \"160us\"");
            let make = || -> Built { build::<DedupConfig>(&body).unwrap() };
            let outcome = law(&make, &script, &cuts, save);
            let [passed, late] = twin(&script, key);
            prop_assert_eq!(&outcome.ports[0], &passed, "{}", by);
            prop_assert_eq!(&outcome.ports[1], &late, "{}", by);
        }
    }

    #[test]
    fn a_full_memory_obeys_the_laws_too(
        script in script(), cuts in prop::collection::vec(0usize..120, 0..6), save in 0usize..120,
        entries in 1usize..12,
    ) {
        for by in ["\"device\", \"seq\"", "\"time\", \"device\""] {
            let body = format!("by = [{by}]\nhorizon = \"160us\"\nmax_entries = {entries}");
            let outcome = law(&|| build::<DedupConfig>(&body).unwrap(), &script, &cuts, save);
            let rows = script.iter().filter(|step| matches!(step, Step::Row(_))).count();
            let out = outcome.ports[0].len() + outcome.ports[1].len();
            prop_assert_eq!(out + outcome.count("duplicate_rows", "") as usize, rows);
        }
    }
}
