//! The spool before a sink, from the keys that stand in the sink's table. Pure.

use crate::core::schema::REPLAYED_COLUMN;
use crate::registry::{InputSchema, Problem};
use crate::units::Room;

use super::declare::{Component, report_problems};
use super::diagnostic::{Report, Severity};
use super::keys::{Priority, ROOM_MIN, SinkKeys, SpoolFull, Spooling};

/// Room for a spool when nothing is said.
const SPOOL_BYTES: u64 = 256 << 20;

/// The spool before a sink, if it has one; reports what is wrong with its keys.
pub(super) fn spooling(
    component: &Component<'_>,
    inputs: &[InputSchema],
    network: bool,
    keeps_state: bool,
    report: &mut Report,
) -> Option<Spooling> {
    let keys = component.sink_keys.as_ref()?;
    report_problems(component.node, keys.problems(network, keeps_state), Severity::Error, report);
    let spooling = keys.spooling(network, keeps_state)?;
    if spooling.priority == Priority::Live {
        refuse_replayed(component, inputs, report);
    }
    Some(spooling)
}

/// The column that tells gathered rows from new ones must not be there already.
fn refuse_replayed(component: &Component<'_>, inputs: &[InputSchema], report: &mut Report) {
    if let Some(input) = inputs.iter().find(|input| input.schema.field_with_name(REPLAYED_COLUMN).is_ok()) {
        let message = format!(
            "`priority = \"live\"` adds a column `{REPLAYED_COLUMN}`, and `{}` has one already",
            input.name
        );
        report.error(&component.node.find("priority", None), message, "give that column another name");
    }
}

impl SinkKeys {
    /// What no schema can say, for a sink that writes to a receiver or not, with a data directory or without.
    pub(super) fn problems(&self, network: bool, keeps_state: bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        let said: Vec<&str> = [
            ("spool", self.spool.is_some()),
            ("on_full", self.on_full != SpoolFull::default()),
            ("max_age", self.max_age.is_some()),
            ("priority", self.priority != Priority::default()),
            ("max_rate", self.max_rate.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, said)| said.then_some(key))
        .collect();
        let off = self.spool == Some(Room(0));
        for key in said {
            if !network {
                let message = format!("`{key}` is for sinks that write to a receiver that may be away");
                problems.push(Problem::new(key, message).help("leave it out: this sink keeps rows itself"));
            } else if !(keeps_state || key == "spool" && off) {
                let message = if key == "spool" {
                    "a spool needs a data directory, and there is none".to_owned()
                } else {
                    format!("`{key}` is for a spool, which needs a data directory, and there is none")
                };
                problems.push(
                    Problem::new(key, message)
                        .help("give one with `data_dir = \"…\"` under [pipeline] or `--data-dir`"),
                );
            } else if off && key != "spool" {
                let message = format!("`{key}` is for a spool, and there is none: `spool = \"off\"`");
                problems.push(Problem::new(key, message).help("leave one of them out"));
            }
        }
        if self.spool.is_some_and(|room| room.0 > 0 && room.0 < ROOM_MIN) {
            problems.push(Problem::new("spool", "`spool` must be \"off\" or at least \"1MiB\""));
        }
        if self.max_age.is_some_and(|age| age.0.is_zero()) {
            problems.push(Problem::new("max_age", "must be longer than nothing"));
        }
        problems
    }

    /// The spool before such a sink, if there is one.
    pub(super) fn spooling(&self, network: bool, keeps_state: bool) -> Option<Spooling> {
        let bytes_max = self.spool.map_or(SPOOL_BYTES, |room| room.0);
        (network && keeps_state && bytes_max > 0).then_some(Spooling {
            bytes_max,
            on_full: self.on_full,
            max_age: self.max_age.map(|age| age.0),
            priority: self.priority,
            rows_per_second: self.max_rate,
        })
    }
}
