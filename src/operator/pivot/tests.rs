//! `pivot` against tables, against a naive twin that keeps all readings, and against the laws.

use proptest::prelude::*;

use super::*;
use crate::operator::testing::{END, Outcome, Row, Run, Step, build, law, problems, run};

const DEVICES: [Option<&str>; 4] = [Some("a"), Some("b"), Some("c"), None];
const SIGNALS: [Option<&str>; 4] = [Some("x"), Some("y"), Some("z"), None];

/// A reading of a signal: `line` and `note` name it, `temp` is its value.
fn reading(time: i64, device: usize, signal: usize, value: Option<f64>) -> Step {
    let signal = SIGNALS[signal];
    Step::Row(Row {
        time,
        device: DEVICES[device],
        line: signal,
        note: signal,
        temp: value,
        ..Row::default()
    })
}

fn body(more: &str) -> String {
    format!("tag = \"note\"\nvalue = \"temp\"\ncolumns = [\"x\", \"y\"]\nby = [\"device\"]\n{more}")
}

fn straight(body: &str, script: &[Step]) -> Outcome {
    let outcome = run(&|| build::<PivotConfig>(body).unwrap(), script, &Run::default());
    assert_eq!(outcome.behind, Vec::<String>::new());
    outcome
}

#[test]
fn a_value_is_the_last_reading_at_or_before_the_grid_point() {
    let script = [
        reading(-15, 0, 0, Some(1.0)),
        reading(-10, 0, 0, Some(2.0)),
        reading(-10, 0, 0, Some(3.0)),
        reading(-12, 0, 0, Some(4.0)),
        reading(-9, 0, 1, Some(5.0)),
        reading(1, 1, 0, Some(6.0)),
        Step::Mark(-10),
        Step::Mark(-9),
        Step::Mark(0),
        Step::Mark(1),
        reading(21, 0, 0, Some(7.0)),
        END,
    ];
    let outcome = straight(&body("grid = \"10us\"\nhold = \"25us\""), &script);
    let expected = ["-10 a 3.0 -", "0 a 3.0 5.0", "10 a 3.0 5.0", "10 b 6.0 -", "20 b 6.0 -", "30 a 7.0 -"];
    // At 10 the reading of −10 is 20 old, at 20 it would be 30; that of −9 is 29 old at 20.
    assert_eq!(outcome.ports[0], expected);
    // What the watermark has let out when: −10 only once it is behind.
    for (steps, rows) in [(7, 0), (8, 1), (9, 1), (10, 2)] {
        assert_eq!(
            straight(&body("grid = \"10us\"\nhold = \"25us\""), &script[..steps]).ports[0].len(),
            rows
        );
    }
}

#[test]
fn the_readings_of_a_cell_come_to_one_value() {
    let readings = [(3, 4.0), (9, 1.0), (1, 7.0), (10, 2.0), (11, 9.0)];
    let script: Vec<Step> = readings.map(|(time, value)| reading(time, 0, 0, Some(value))).to_vec();
    let script = [script, vec![END]].concat();
    for (aggregate, expected) in [("last", "2.0"), ("mean", "3.5"), ("min", "1.0"), ("max", "7.0")] {
        let more = format!("grid = \"10us\"\nhold = \"1ms\"\naggregate = \"{aggregate}\"");
        let rows = [format!("10 a {expected} -"), "20 a 9.0 -".to_owned()];
        assert_eq!(straight(&body(&more), &script).ports[0], rows, "{aggregate}");
    }
    let large = [reading(1, 0, 0, Some(f64::MAX)), reading(2, 0, 0, Some(f64::MAX)), END];
    let outcome = straight(&body("grid = \"10us\"\naggregate = \"mean\""), &large);
    assert_eq!(outcome.ports[0], [format!("10 a {:e} -", f64::MAX)]);
}

#[test]
fn what_is_no_reading_is_counted() {
    let script = [
        reading(1, 0, 2, Some(1.0)),
        reading(1, 0, 3, Some(1.0)),
        reading(1, 0, 0, None),
        reading(1, 0, 0, Some(f64::NAN)),
        reading(1, 0, 1, Some(f64::INFINITY)),
        reading(i64::MAX, 0, 1, Some(1.0)),
        Step::Mark(31),
        reading(30, 0, 0, Some(1.0)),
        reading(30, 0, 2, Some(1.0)),
        reading(31, 0, 0, Some(2.0)),
        END,
        reading(99, 0, 0, Some(2.0)),
    ];
    let outcome = straight(&body("grid = \"10us\""), &script);
    assert_eq!(outcome.ports[0], ["40 a 2.0 -"]);
    let late: Vec<&str> = outcome.ports[1].iter().map(|row| row.split(' ').next().unwrap()).collect();
    assert_eq!(late, ["30", "99"]);
    let counts = ["unknown_rows", "skipped_values", "late_rows"].map(|what| outcome.count(what, ""));
    assert_eq!(counts, [3, 4, 2]);
}

#[test]
fn a_long_silence_makes_no_rows_and_no_work() {
    let year = 365 * 86_400_000_000;
    let script = [
        reading(5, 0, 0, Some(1.0)),
        reading(40 * year + 5, 0, 0, Some(2.0)),
        Step::Mark(30 * year),
        Step::Mark(39 * year),
        END,
    ];
    let outcome = straight(&body("grid = \"10us\"\nhold = \"20us\""), &script);
    let expected = [10, 20].map(|time| format!("{time} a 1.0 -")).to_vec();
    assert_eq!(outcome.ports[0], [expected, vec![format!("{} a 2.0 -", 40 * year + 10)]].concat());
}

#[test]
fn more_keys_than_allowed_are_refused_or_evict() {
    let script = [
        reading(1, 0, 0, Some(1.0)),
        reading(2, 1, 0, Some(2.0)),
        // Not of our signals: it takes no place.
        reading(3, 2, 2, Some(3.0)),
        reading(4, 2, 0, Some(4.0)),
        Step::Mark(40),
        // By now nothing holds, and there is room again.
        reading(41, 2, 0, Some(5.0)),
        END,
    ];
    for (policy, expected) in [
        ("refuse", ["10 a 1.0 -", "10 b 2.0 -", "50 c 5.0 -"]),
        ("evict", ["10 c 4.0 -", "10 b 2.0 -", "50 c 5.0 -"]),
    ] {
        let more = format!("grid = \"10us\"\nmax_keys = 2\non_full = \"{policy}\"");
        let outcome = straight(&body(&more), &script);
        assert_eq!(outcome.ports[0], expected, "{policy}");
        let counts = ["refused_rows", "evicted_keys"].map(|what| outcome.count(what, ""));
        assert_eq!(counts, if policy == "refuse" { [1, 0] } else { [0, 1] });
    }
}

#[test]
fn more_cells_than_allowed_are_refused_until_some_are_passed() {
    let script = [
        reading(1, 0, 0, Some(1.0)),
        reading(11, 0, 0, Some(2.0)),
        reading(21, 0, 0, Some(3.0)),
        reading(12, 0, 0, Some(4.0)),
        Step::Mark(11),
        reading(22, 0, 0, Some(5.0)),
        END,
    ];
    let outcome = straight(&body("grid = \"10us\"\nmax_cells = 2"), &script);
    assert_eq!(outcome.ports[0], ["10 a 1.0 -", "20 a 4.0 -", "30 a 5.0 -"]);
    assert_eq!(outcome.count("refused_rows", "cell_limit"), 1);
}

#[test]
fn many_rows_leave_in_several_batches() {
    let script = [reading(0, 0, 0, Some(1.0)), reading(20_000, 1, 1, Some(2.0)), END];
    let outcome = straight(&body("grid = \"2us\"\nhold = \"20ms\""), &script);
    assert_eq!(outcome.ports[0].len(), 10_000 + 1);
    assert_eq!(outcome.ports[0].last().unwrap(), "20000 b - 2.0");
}

#[test]
fn damaged_state_is_refused() {
    let built = |columns: &str| {
        build::<PivotConfig>(&format!(
            "tag = \"note\"\nvalue = \"temp\"\ncolumns = [{columns}]\nby = [\"device\"]\ngrid = \"1s\""
        ))
        .unwrap()
    };
    let mut writer = StateWriter::new();
    let mut one = built("\"x\"");
    let Step::Row(row) = reading(1, 0, 0, Some(1.0)) else { unreachable!() };
    let mut out = Output::new(crate::core::Now::ZERO);
    one.operator.process(0, crate::operator::testing::batch(&[row], false), &mut out).unwrap();
    one.operator.save(&mut writer);
    let bytes = writer.finish().unwrap();
    assert!(built("\"x\"").operator.load(&mut StateReader::new(&bytes)).is_ok());
    let error = built("\"x\", \"y\"").operator.load(&mut StateReader::new(&bytes)).err().unwrap();
    assert_eq!(error.message, "the saved readings do not fit together");
    for cut in 0..bytes.len() {
        assert!(built("\"x\"").operator.load(&mut StateReader::new(&bytes[..cut])).is_err(), "cut at {cut}");
    }
}

#[test]
fn problems_say_where() {
    let of = |tag: &str, value: &str, columns: &str, more: &str| {
        format!("tag = \"{tag}\"\nvalue = \"{value}\"\ncolumns = [{columns}]\n{more}")
    };
    let (x, second) = ("\"x\"", "grid = \"1s\"");
    for (body, expected) in [
        (of("nota", "temp", x, second), "tag: column \"nota\" does not exist; did you mean \"note\"?"),
        (
            of("rpm", "temp", x, second),
            "tag: column \"rpm\" is integer, not a tag or a text; such columns here are: line, device, note",
        ),
        (
            of("note", "ok", x, second),
            "value: column \"ok\" is true/false, not a number; such columns here are: seq, temp, vib, rpm",
        ),
        (of("note", "temp", "", second), "columns: no signal becomes a column"),
        (of("note", "temp", "\"x\", \"x\"", second), "columns[1]: \"x\" is in the list already"),
        (
            of("note", "temp", "\"time\"", second),
            "columns[0]: two emitted columns would be called \"time\"; rename the column of the input, or the signal, with a `select` before",
        ),
        (
            of("note", "temp", x, "grid = \"1s\"\nby = [\"note\"]"),
            "by[0]: \"note\" makes the columns, so it is no key; leave it out of `by`",
        ),
        (
            of("note", "temp", x, "grid = \"0s\""),
            "grid: grid points would have no distance; write for example \"1s\"",
        ),
        (
            of("note", "temp", x, "grid = \"1ms\"\nhold = \"1m\""),
            "hold: a reading would be held for more than 10000 grid points of 1ms; choose a shorter `hold` or a wider `grid`",
        ),
        (
            of("note", "temp", x, "grid = \"1ms\"\nhold = \"0s\""),
            "hold: no reading would count; make it at least as long as `grid`, or leave it out",
        ),
        (
            of("note", "temp", x, "grid = \"1s\"\nmax_cells = 0"),
            "max_cells: with a limit of none, every reading would be left out",
        ),
    ] {
        assert_eq!(problems::<PivotConfig>(&body), [expected], "{body}");
    }
    for example in PivotConfig::EXAMPLES {
        assert_eq!(problems::<PivotConfig>(example), Vec::<String>::new(), "{example}");
    }
}

/// An emitted row: time, device, the two signals.
type Emitted = (i64, Option<&'static str>, [Option<f64>; 2]);

/// What the definition says, from all readings so far.
fn twin(script: &[Step], grid: i64, hold: i64, aggregate: &str) -> (Vec<Emitted>, usize) {
    let point = |time: i64| (time as f64 / grid as f64).ceil() as i64;
    let mut readings: Vec<(Option<&str>, usize, i64, f64)> = Vec::new();
    let (mut next, mut rows, mut late) = (i64::MIN, Vec::new(), 0);
    for step in script {
        match step {
            Step::Row(row) => {
                let signal = SIGNALS[..2].iter().position(|signal| *signal == row.note);
                let (Some(signal), Some(value)) = (signal, row.temp) else { continue };
                if point(row.time) < next {
                    late += 1;
                } else {
                    readings.push((row.device, signal, row.time, value));
                }
            }
            Step::Mark(to) => {
                let points = || readings.iter().map(|reading| point(reading.2));
                let end = match *to {
                    i64::MAX => points().max().unwrap_or(0) + 1,
                    to => point(to),
                };
                for g in next.max(points().min().unwrap_or(end))..end {
                    for device in DEVICES {
                        let values = [0, 1].map(|signal| {
                            let at =
                                readings.iter().filter(|r| r.0 == device && r.1 == signal && point(r.2) <= g);
                            let cell = at.clone().map(|r| point(r.2)).max()?;
                            let cell: Vec<_> = at.filter(|r| point(r.2) == cell).collect();
                            let newest = cell.iter().map(|r| r.2).max()?;
                            let values = || cell.iter().map(|r| r.3);
                            let value = match aggregate {
                                "last" => cell.iter().rev().find(|r| r.2 == newest)?.3,
                                "mean" => values().sum::<f64>() / cell.len() as f64,
                                "min" => values().fold(f64::INFINITY, f64::min),
                                _ => values().fold(f64::NEG_INFINITY, f64::max),
                            };
                            (newest > g * grid - hold).then_some(value)
                        });
                        if values.iter().any(Option::is_some) {
                            rows.push((g * grid, device, values));
                        }
                    }
                }
                next = next.max(end);
            }
        }
    }
    (rows, late)
}

fn parse(row: &str) -> Emitted {
    let parts: Vec<&str> = row.split(' ').collect();
    let device = DEVICES.iter().find(|device| device.unwrap_or("-") == parts[1]).unwrap();
    (parts[0].parse().unwrap(), *device, [2, 3].map(|at| parts[at].parse().ok()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn as_the_twin_says_however_it_is_fed(
        steps in prop::collection::vec(
            (0u8..7, -40i64..60, 0usize..4, 0usize..4, prop::option::weighted(0.9, 0i64..9)), 1..80),
        cuts in prop::collection::vec(0usize..80, 0..6), save in 0usize..80,
        hold in 1i64..60, aggregate in 0usize..4, is_dictionary in any::<bool>(),
    ) {
        let (mut now, mut mark) = (-100, i64::MIN);
        let steps = steps.into_iter().map(|(kind, offset, device, signal, value)| {
            now += 6;
            if kind == 0 {
                mark = mark.max(now + offset - 30);
                return Step::Mark(mark);
            }
            reading(now + offset, device, signal, value.map(|value| value as f64))
        });
        let script: Vec<Step> = steps.chain([END]).collect();
        let aggregate = ["last", "mean", "min", "max"][aggregate];
        let mut body = body(&format!("grid = \"10us\"\nhold = \"{hold}us\"\naggregate = \"{aggregate}\""));
        if is_dictionary {
            body = body.replace("\"note\"", "\"line\"");
        }
        let outcome = law(&|| build::<PivotConfig>(&body).unwrap(), &script, &cuts, save);
        let (mut expected, late) = twin(&script, 10, hold, aggregate);
        let mut found: Vec<Emitted> = outcome.ports[0].iter().map(|row| parse(row)).collect();
        prop_assert!(found.is_sorted_by_key(|row| row.0));
        found.sort_by_key(|row| (row.0, row.1));
        expected.sort_by_key(|row| (row.0, row.1));
        prop_assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert_eq!((found.0, found.1), (expected.0, expected.1));
            for (a, b) in found.2.iter().zip(expected.2) {
                prop_assert!(a.is_some() == b.is_some() && a.zip(b).is_none_or(|(a, b)| (a - b).abs() < 1e-9));
            }
        }
        prop_assert_eq!(outcome.ports[1].len(), late);
        prop_assert_eq!(outcome.behind, Vec::<String>::new());
    }

    #[test]
    fn full_it_obeys_the_laws_too(
        steps in prop::collection::vec((0u8..7, -40i64..60, 0usize..4, 0usize..2, 0i64..9), 1..60),
        cuts in prop::collection::vec(0usize..60, 0..6), save in 0usize..60, cells in 1usize..8,
        evict in any::<bool>(),
    ) {
        let (mut now, mut mark) = (0, i64::MIN);
        let steps = steps.into_iter().map(|(kind, offset, device, signal, value)| {
            now += 6;
            if kind == 0 {
                mark = mark.max(now + offset - 30);
                return Step::Mark(mark);
            }
            reading(now + offset, device, signal, Some(value as f64))
        });
        let script: Vec<Step> = steps.chain([END]).collect();
        let policy = if evict { "evict" } else { "refuse" };
        let more = format!("grid = \"10us\"\nhold = \"30us\"\nmax_keys = 2\non_full = \"{policy}\"\nmax_cells = {cells}");
        let outcome = law(&|| build::<PivotConfig>(&body(&more)).unwrap(), &script, &cuts, save);
        prop_assert_eq!(outcome.behind, Vec::<String>::new());
    }
}
