//! The end of a world: what was delivered against the oracle, against an engine that never failed, and against what
//! was published. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::time::Duration;

use super::around::{Entry, Surroundings};
use super::cells;
use super::oracle::{Accepted, Oracle};
use super::plant::{self, Guest, LEFT_OUT, Reading, Variant};
use super::world::{Summary, Violation};
use crate::core::{Effect, Engine, Event, Record, Snapshot};

/// By the offset of the record that causes them: rows for a sink.
type Rows = BTreeMap<u64, Vec<String>>;

/// The end of the world: everything against the oracle, a fresh engine, and what was published.
pub(super) fn verify(
    around: &Surroundings,
    guest: Option<&Guest<'_>>,
    summary: &mut Summary,
) -> Result<(), Violation> {
    verify_accepted(around, summary)?;
    let due = due(around);
    let again = again(around, guest)?;
    let has_log = around.has_log;
    for (sink, expected) in again.iter().enumerate() {
        if let Some(due) = due.get(sink)
            && due != expected
        {
            return Err(differ("an engine that never failed and the oracle", sink, expected, due));
        }
        let mut actual = around.sinks[sink].by_offset()?;
        if !has_log && sink > 0 {
            // What an earlier incarnation delivered and did not commit stays with the receiver.
            actual.retain(|offset, _| expected.contains_key(offset));
        }
        let mut expected = expected.clone();
        let receiver = &around.sinks[sink];
        let is_missing = |offset: &&u64| {
            receiver.is_disputed(**offset) && !receiver.skips_known() && !actual.contains_key(offset)
        };
        if let Some(missing) = expected.keys().find(is_missing) {
            return Err(Violation::of(format!("nothing of record {missing} has come to sink {sink}")));
        }
        for rows in [&mut actual, &mut expected] {
            rows.retain(|offset, _| !receiver.is_disputed(*offset));
        }
        if actual != expected {
            return Err(differ("what was delivered and the oracle", sink, &actual, &expected));
        }
        summary.deliveries += around.sinks[sink].len() as u64;
    }
    verify_acknowledged(around, due.first())?;
    verify_commits(around, summary)
}

/// The accepted records are whole, in order, and hold only what was published.
fn verify_accepted(around: &Surroundings, summary: &mut Summary) -> Result<(), Violation> {
    let published: BTreeSet<&Reading> = around.brokers.iter().flat_map(|broker| &broker.messages).collect();
    let mut seen = BTreeSet::new();
    let mut mono = Duration::ZERO;
    let offsets = (0..).filter(|offset| !around.lost.offsets.contains(offset));
    for (expected, (offset, entry)) in offsets.zip(&around.accepted) {
        if *offset != expected || entry.now.mono < mono {
            return Err(Violation::of(format!(
                "record {offset} at {:?} comes in place of {expected}, after {mono:?}",
                entry.now.mono
            )));
        }
        mono = entry.now.mono;
        match &entry.accepted {
            Accepted::Messages { readings, .. } => {
                if let Some(invented) = readings.iter().find(|reading| !published.contains(reading)) {
                    return Err(Violation::of(format!("nobody published {invented:?}")));
                }
                let new = readings.iter().filter(|reading| seen.insert(*reading)).count();
                summary.duplicates += (readings.len() - new) as u64;
            }
            Accepted::Cut { factor: Some(_) } => summary.models += 1,
            Accepted::End { .. } => summary.ends += 1,
            Accepted::Cut { factor: None } | Accepted::Tick => {}
        }
    }
    summary.records = around.accepted.len() as u64;
    summary.refused = around.refused;
    summary.log_tight = around.log_tight;
    summary.epochs_full = around.epochs_full;
    summary.graphs = around.variants.len() as u64;
    summary.lost = around.lost.offsets.len() as u64;
    summary.fallbacks = around.lost.fallbacks;
    summary.spooled = around.spooled;
    summary.known = around.known;
    summary.spool_full = around.spool_full;
    summary.unsaved = around.unsaved;
    Ok(())
}

/// The file that the plant was first started with, and from which offset on others hold.
fn variants(around: &Surroundings) -> (Variant, Peekable<impl Iterator<Item = (u64, Variant)>>) {
    let mut variants = around.variants.iter().copied();
    let (_, first) = variants.next().unwrap_or_default();
    (first, variants.peekable())
}

/// By sink and offset: what the oracle says.
fn due(around: &Surroundings) -> [Rows; 2] {
    let (first, mut others) = variants(around);
    let mut oracle = Oracle::new(first);
    let mut due = [BTreeMap::new(), BTreeMap::new()];
    for (offset, entry) in &around.accepted {
        while let Some((_, variant)) = others.next_if(|(from, _)| from <= offset) {
            oracle.restart(variant);
        }
        let rows = oracle.accept(entry.now, &entry.accepted);
        for (due, rows) in due.iter_mut().zip(rows).filter(|(_, rows)| !rows.is_empty()) {
            due.insert(*offset, rows);
        }
    }
    due
}

/// By sink and offset: what an engine says that is given the same records and never fails; another graph goes on with
/// the state of the cut before it.
fn again(around: &Surroundings, guest: Option<&Guest<'_>>) -> Result<Vec<Rows>, Violation> {
    let (first, mut others) = variants(around);
    let (mut engine, _) = Engine::new(plant::graph(first, guest)?, None)?;
    let (mut variant, mut cut): (Variant, Option<Snapshot>) = (first, None);
    let mut said = vec![Rows::new(); around.sinks.len()];
    for (offset, entry) in &around.accepted {
        while let Some((_, next)) = others.next_if(|(from, _)| from <= offset) {
            variant = next;
            (engine, _) = Engine::new(plant::graph(variant, guest)?, cut.as_ref())?;
        }
        engine.handle(entry.now, placed(entry, variant))?;
        while let Some(effect) = engine.poll() {
            match effect {
                Effect::Emit { sink, event: Event::Batch(batch) } => {
                    said[sink].entry(*offset).or_default().extend(cells::rows(&batch)?);
                }
                Effect::Snapshot(snapshot) => cut = Some(snapshot),
                Effect::Emit { .. } | Effect::Rejected { .. } => {}
            }
        }
    }
    Ok(said)
}

/// A record with its source where the graph has it.
fn placed(entry: &Entry, variant: Variant) -> Record {
    match (&entry.accepted, &entry.record) {
        (Accepted::Messages { source, .. }, Record::Batch { batch, .. }) => {
            Record::Batch { input: variant.place_of(*source), batch: batch.clone() }
        }
        (Accepted::End { source }, _) => Record::End { input: variant.place_of(*source) },
        (_, record) => record.clone(),
    }
}

/// Whatever a broker may forget is in the file, unless the plant leaves it out.
fn verify_acknowledged(around: &Surroundings, ledger: Option<&Rows>) -> Result<(), Violation> {
    let rows: BTreeSet<(&str, &str)> = ledger
        .into_iter()
        .flat_map(BTreeMap::values)
        .flatten()
        .filter_map(|row| {
            let mut cells = row.split(", ").skip(1);
            Some((cells.next()?, cells.next()?))
        })
        .collect();
    for broker in &around.brokers {
        let kept = broker.messages.iter().take(broker.acknowledged);
        let due =
            |reading: &&Reading| reading.value % LEFT_OUT != 0 && !around.lost.readings.contains(*reading);
        for reading in kept.filter(due) {
            let (device, seq) = (format!("{:?}", reading.device), reading.seq.to_string());
            if !rows.contains(&(device.as_str(), seq.as_str())) {
                return Err(Violation::of(format!("acknowledged and not delivered: {reading:?}")));
            }
        }
    }
    Ok(())
}

/// Every commit had the file exactly where its cut was.
fn verify_commits(around: &Surroundings, summary: &mut Summary) -> Result<(), Violation> {
    let file = &around.sinks[0];
    for (epoch, offset, position) in &around.commits {
        let stood: usize = position.get()?;
        let before = file.deliveries_before(*offset);
        if stood != before {
            return Err(Violation::of(format!(
                "epoch {epoch} cut before record {offset} with {stood} deliveries in the file, not {before}"
            )));
        }
    }
    summary.commits = around.commits.len() as u64;
    Ok(())
}

fn differ(what: &str, sink: usize, left: &Rows, right: &Rows) -> Violation {
    let offsets: BTreeSet<&u64> = left.keys().chain(right.keys()).collect();
    let first = offsets.into_iter().find(|offset| left.get(offset) != right.get(offset));
    let (left, right) = (first.and_then(|at| left.get(at)), first.and_then(|at| right.get(at)));
    Violation::of(format!("{what} differ at sink {sink}, record {first:?}: {left:?} and {right:?}"))
}
