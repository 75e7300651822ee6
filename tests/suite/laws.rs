//! Every registered operator is held to the laws of `sim::laws`: each of its examples is a subject. The laws are
//! themselves tested, on operators that break one each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int32Type, SchemaRef};
use tidegate::core::{EventTime, Operator, Output, StateReader, StateWriter};
use tidegate::registry::{Built, example_schema};
use tidegate::sim::laws::{self, hold_built, hold_type};
use tidegate::{Result, builtin};

#[test]
fn every_type_is_registered_once() {
    builtin::registry().check_names().unwrap();
    let twice = builtin::registry().operator::<tidegate::operator::filter::FilterConfig>();
    let error = twice.check_names().unwrap_err();
    assert!(error.message.starts_with("the operator type `filter` is registered twice"), "{error}");
}

/// `LAW_CASES` in the environment sets another number of scripts.
#[test]
fn every_operator_keeps_the_laws() {
    let scripts = std::env::var("LAW_CASES").map_or(laws::SCRIPTS, |text| text.parse().expect("a number"));
    let operators = builtin::registry().operators;
    let broken: Vec<String> = operators
        .iter()
        .filter_map(|component| hold_type(component, scripts).err())
        .map(|broken| broken.to_string())
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}

// From here on: the laws themselves are tested.

/// Which law an operator breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// None: it counts rows per device and tells at each watermark.
    Sound,
    /// It counts and forgets the count at a restart.
    Forgetful,
    /// It tells how many rows a batch had.
    CountsBatches,
    /// It holds a row back past the watermark.
    LetsRowsGoLate,
    /// It tells its devices in the order of a hash with a random key.
    HashOrder,
    /// It takes the number in the dictionary for the device.
    TakesKeysForNames,
    /// It reads the bytes behind an array as if the array began with them.
    ForgetsOffsets,
    /// It speaks on a tick after the end.
    SpeaksAfterTheEnd,
    /// It emits other columns than it promised.
    OtherColumns,
    /// It writes more into its state than it reads back.
    LeavesStateOver,
    /// It tells on one port what it leaves out on the other.
    MindsReaders,
    /// It keeps every law by saying nothing.
    Silent,
}

struct Faulty {
    fault: Fault,
    rows: i64,
    by_device: std::collections::BTreeMap<String, i64>,
    hashed: HashMap<String, i64>,
    held: Vec<RecordBatch>,
}

impl Faulty {
    fn build(fault: Fault) -> Built {
        let (schema, other) = (schema_of(fault), schema_of(fault));
        let operator =
            Self { fault, rows: 0, by_device: Default::default(), hashed: HashMap::new(), held: Vec::new() };
        Built::new(operator, schema, "").port("other", other)
    }
}

/// Rows as they came, or counts.
fn schema_of(fault: Fault) -> SchemaRef {
    match fault {
        Fault::LetsRowsGoLate | Fault::OtherColumns => example_schema(),
        _ => counts(&[]).schema(),
    }
}

fn counts(rows: &[(String, i64)]) -> RecordBatch {
    let names: StringArray = rows.iter().map(|(name, _)| Some(name.as_str())).collect();
    let numbers: Int64Array = rows.iter().map(|(_, number)| Some(*number)).collect();
    RecordBatch::try_from_iter([
        ("name", Arc::new(names) as ArrayRef),
        ("rows", Arc::new(numbers) as ArrayRef),
    ])
    .unwrap()
}

impl Operator for Faulty {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let devices = batch.column(2).as_dictionary::<Int32Type>();
        let names = devices.values().as_string::<i32>();
        for key in devices.keys().iter().flatten() {
            *self.by_device.entry(names.value(key as usize).to_owned()).or_default() += 1;
            *self.hashed.entry(names.value(key as usize).to_owned()).or_default() += 1;
        }
        self.rows += batch.num_rows() as i64;
        match self.fault {
            Fault::CountsBatches => out.emit(0, counts(&[("batch".to_owned(), batch.num_rows() as i64)])),
            Fault::TakesKeysForNames => {
                let keys = devices.keys().iter().flatten();
                out.emit(0, counts(&keys.map(|key| (key.to_string(), 1)).collect::<Vec<_>>()));
            }
            Fault::ForgetsOffsets => {
                let payload = batch.column(9).as_binary::<i32>();
                let begin = payload.value_offsets()[0];
                let bytes = |pair: &[i32]| {
                    let range = (pair[0] - begin) as usize..(pair[1] - begin) as usize;
                    String::from_utf8_lossy(&payload.value_data()[range]).into_owned()
                };
                let rows: Vec<_> = payload.value_offsets().windows(2).map(|pair| (bytes(pair), 1)).collect();
                out.emit(0, counts(&rows));
            }
            Fault::MindsReaders => {
                let rows = batch.num_rows() as i64;
                let port = usize::from(out.wants(1));
                (0..rows).for_each(|_| out.emit(port, counts(&[("row".to_owned(), 1)])));
            }
            Fault::OtherColumns => out.emit(0, counts(&[("x".to_owned(), 1)])),
            Fault::LetsRowsGoLate => self.held.push(batch),
            _ => {}
        }
        Ok(())
    }

    fn watermark(&mut self, to: EventTime, out: &mut Output) -> Result<()> {
        match self.fault {
            Fault::LetsRowsGoLate if to != EventTime::MAX => {}
            Fault::LetsRowsGoLate => {
                self.held.drain(..).for_each(|held| out.emit(0, held));
            }
            Fault::Forgetful => out.emit(0, counts(&[("all".to_owned(), self.rows)])),
            Fault::HashOrder => {
                let rows: Vec<_> = self.hashed.iter().map(|(name, rows)| (name.clone(), *rows)).collect();
                out.emit(0, counts(&rows));
            }
            Fault::Sound | Fault::LeavesStateOver => {
                let rows: Vec<_> = self.by_device.iter().map(|(name, rows)| (name.clone(), *rows)).collect();
                out.emit(0, counts(&rows));
            }
            _ => {}
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Duration> {
        (self.fault == Fault::SpeaksAfterTheEnd).then_some(Duration::ZERO)
    }

    fn tick(&mut self, out: &mut Output) -> Result<()> {
        out.emit(0, counts(&[("tick".to_owned(), 1)]));
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter) {
        if self.fault != Fault::Forgetful {
            state.value(&(&self.by_device, self.rows, self.held.len()));
            self.held.iter().for_each(|held| state.batch(held));
        }
        if self.fault == Fault::LeavesStateOver {
            state.value(&1u8);
        }
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        if self.fault != Fault::Forgetful {
            let held: usize;
            (self.by_device, self.rows, held) = state.value()?;
            self.hashed = self.by_device.clone().into_iter().collect();
            self.held = (0..held).map(|_| state.batch()).collect::<Result<_>>()?;
        }
        Ok(())
    }
}

#[test]
fn an_operator_that_breaks_a_law_is_found_by_that_law() {
    let table: [(Fault, &[&str]); 11] = [
        (Fault::Forgetful, &["state"]),
        (Fault::CountsBatches, &["cuts"]),
        (Fault::LetsRowsGoLate, &["watermark"]),
        // Whichever run first meets the other order; a short script can be the same twice by chance.
        (Fault::HashOrder, &["determinism", "cuts", "state", "form"]),
        (Fault::TakesKeysForNames, &["form"]),
        (Fault::ForgetsOffsets, &["form"]),
        (Fault::SpeaksAfterTheEnd, &["watermark"]),
        (Fault::OtherColumns, &["going on"]),
        (Fault::MindsReaders, &["ports"]),
        (Fault::Silent, &["silent"]),
        (Fault::LeavesStateOver, &["state"]),
    ];
    hold_built(&|| Ok(Faulty::build(Fault::Sound)), 2, laws::SCRIPTS).unwrap();
    for (fault, expected) in table {
        let broken =
            hold_built(&|| Ok(Faulty::build(fault)), 1, 64).expect_err(&format!("{fault:?} goes unseen"));
        assert!(expected.contains(&broken.law), "{fault:?} is found by another law: {broken}");
    }
}

#[test]
fn a_breach_is_told_with_a_short_script() {
    let broken = hold_built(&|| Ok(Faulty::build(Fault::CountsBatches)), 1, 64).unwrap_err();
    // Two rows in one batch are enough; the end and the tick behind it always stand there.
    assert_eq!(broken.script.lines().count(), 4, "{broken}");
    let broken = hold_built(&|| Ok(Faulty::build(Fault::LeavesStateOver)), 1, 64).unwrap_err();
    assert!(broken.reason.contains("1 bytes of saved state are left over"), "{broken}");
    assert_eq!(broken.script.lines().count(), 2, "{broken}");
}
