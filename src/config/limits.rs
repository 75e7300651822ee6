//! The pipeline as a whole: promises that its parts cannot keep together, and what it may need of memory and disk. Pure.
//!
//! Bounds are bounds only where they say so: batches of messages are counted and limited, so their bytes are an upper
//! bound but for the one message that closes each; what rows become as columns, and what a key takes, are estimates.

use arrow::datatypes::{DataType, Schema};

use crate::core::Edge;
use crate::registry::{Delivery, Keyed};
use crate::units::Size;

use super::build::{Keeper, Plan};
use super::declare::Component;
use super::diagnostic::{Place, Report};
use super::keys::LOGGED_BATCH_BYTES_MAX;
use super::tree::Node;
use super::{LogMode, Pipeline, PlannedSource, Settings, Spooling, has_log};

/// When so large a part of the log is filled, rows stop; the rest is for what is under way then.
const LOG_PARTS: u64 = 4;

/// Bytes of a message in a batch beside its payload: number of the topic, place of the payload, time of arrival.
const MESSAGE_BYTES: u64 = 16;

/// What a text in a column is taken to have, in bytes: an estimate.
const TEXT_BYTES: u64 = 24;

/// Bytes that a message takes in the log beside its payload, where nothing of it can be shortened.
pub(super) const LOGGED_BESIDE_MAX: f64 = 6.0;

/// States on disk at most: two chains, each of a base and deltas that come to no more than it, and a base in the making.
const CHECKPOINTS: u64 = 5;

/// Batches of messages under way to the log when the coordinator takes no more: the one in its hands, the channel to
/// the journal, and the group that the journal writes. As many may wait on the way to the engine without a log: the
/// channel to the coordinator, the one in its hands, the channel to the engine.
fn batches_before_log(queue: usize) -> u64 {
    2 * queue as u64 + 1
}

/// Everything about a file that its parts cannot know.
pub(super) struct Whole<'w, 't> {
    pub settings: &'w Settings,
    /// `[pipeline]`.
    pub node: &'w Node,
    pub components: &'w [Component<'t>],
    pub plan: &'w Plan,
}

impl Whole<'_, '_> {
    /// Reports what cannot be right.
    pub fn check(&self, report: &mut Report) {
        let has_log = has_log(self.settings, self.sources().map(|(_, source)| source));
        for (component, source) in self.sources() {
            if let Some(delivery) = &source.delivery {
                self.check_promise(component, delivery, report);
                if source.acknowledges && !has_log {
                    self.check_in_flight(component, source, delivery, report);
                }
            }
            if has_log {
                self.check_log(component, source, report);
            }
        }
        for keeper in &self.plan.keepers {
            self.check_shared(keeper, report);
        }
        self.check_memory(has_log, report);
        self.check_disk(has_log, report);
    }

    fn sources(&self) -> impl Iterator<Item = (&Component<'_>, &PlannedSource)> {
        let unsampled = self.plan.unsampled.iter().map(|unsampled| &unsampled.source);
        let sources = self.plan.sources.iter().chain(unsampled);
        sources.filter_map(|source| {
            let component = self.components.iter().find(|component| component.name == source.name)?;
            Some((component, source))
        })
    }

    /// With a log demanded, every message counts: one that the broker forgets at once cannot be promised.
    fn check_promise(&self, component: &Component<'_>, delivery: &Delivery, report: &mut Report) {
        let place = component.node.find(delivery.decided_by, None);
        let name = component.name;
        let by_quality = delivery.decided_by == "qos";
        match self.settings.log.mode {
            _ if delivery.comes_again => {}
            LogMode::On => {
                let why = if by_quality {
                    "at QoS 0 the broker forgets a message as soon as it is sent"
                } else {
                    "it acknowledges messages before they are in the log"
                };
                let message =
                    format!("the log promises that no message is lost, and `{name}` cannot keep that: {why}");
                let fix = if by_quality { "`qos = 1`" } else { "`ack = \"safe\"`" };
                report.error(&place, message, format!("write {fix}, or `log = \"auto\"` under [pipeline]"));
            }
            LogMode::Auto if by_quality && self.settings.data_dir.is_some() => {
                let message = "at QoS 0 the broker keeps nothing for a subscriber that is away: what is published while \
                               the pipeline is stopped is lost, whatever the data directory keeps";
                report.warning(&place, message, "write `qos = 1` and a `client_id` if every message counts");
            }
            LogMode::Auto | LogMode::Off => {}
        }
    }

    /// Without a log, messages wait for the checkpoint under way: a batch never grows beyond them. It is closed before,
    /// so nothing stands still, but the limit that is written has no effect.
    fn check_in_flight(
        &self,
        component: &Component<'_>,
        source: &PlannedSource,
        delivery: &Delivery,
        report: &mut Report,
    ) {
        let Some(place) = self.batch_key(component, "rows") else { return };
        if source.batch.rows as u64 > u64::from(delivery.in_flight) {
            let message = format!(
                "a batch of `{}` never has {} rows: without a log, messages are acknowledged at the checkpoint, and no \
                 more than {} are under way before that",
                component.name, source.batch.rows, delivery.in_flight
            );
            let help = format!(
                "write at most {}, raise `{}`, or use a log",
                delivery.in_flight, delivery.in_flight_key
            );
            report.warning(&place, message, help);
        }
    }

    /// What is under way when rows stop must fit into the rest of the log: a log filled to the brim cannot take the cut
    /// whose commit makes room.
    fn check_log(&self, component: &Component<'_>, source: &PlannedSource, report: &mut Report) {
        let (room, batches) = (self.settings.log.size.0 / LOG_PARTS, batches_before_log(self.settings.queue));
        let bytes = source.batch.bytes as u64;
        let place = self.batch_key(component, "bytes").unwrap_or_else(|| self.node.find("queue", None));
        if batches.saturating_mul(bytes) <= room {
            if bytes > LOGGED_BATCH_BYTES_MAX {
                let message = format!(
                    "batches of `{}` with {} are too large for the log: a record has at most {}",
                    component.name,
                    Size(bytes),
                    Size(LOGGED_BATCH_BYTES_MAX)
                );
                report.error(
                    &place,
                    message,
                    format!("write `batch.bytes` of at most \"{}\"", Size(LOGGED_BATCH_BYTES_MAX)),
                );
            }
            return;
        }
        let message = format!(
            "batches of `{}` on their way can fill the log for good: {batches} of them with {} are more than the {} of \
             the log that are kept free for them",
            component.name,
            Size(bytes),
            Size(room)
        );
        let fit = (room / batches) >> 10;
        let help = format!(
            "write `batch.bytes` of at most \"{fit}KiB\", a smaller `queue` or a larger `log.size` under [pipeline]"
        );
        report.error(&place, message, help);
    }

    /// The place of a key of `batch`, in the source or else under `[pipeline]`; none if it is not written.
    fn batch_key(&self, component: &Component<'_>, key: &str) -> Option<Place> {
        let written = |node: &Node| {
            let batch = node.table()?.node("batch")?.table()?;
            batch.node(key).map(|node| node.place.clone())
        };
        written(component.node).or_else(|| written(self.node))
    }

    /// State of a key is right only where all rows of the key come.
    fn check_shared(&self, keeper: &Keeper, report: &mut Report) {
        let component = &self.components[keeper.component];
        for (source, planned) in self.sources() {
            let comes_from = |index: &usize| std::ptr::eq(&raw const self.components[*index], source);
            let Some(delivery) = planned.delivery.as_ref().filter(|delivery| !delivery.shared.is_empty())
            else {
                continue;
            };
            if !keeper.origins.iter().any(comes_from) {
                continue;
            }
            let topics = source.own.node("topics").map(Node::texts).unwrap_or_default();
            let shared: Vec<&str> =
                delivery.shared.iter().filter_map(|index| topics.get(*index).copied()).collect();
            let whole =
                delivery.shared_by_topic && shared.iter().all(|topic| names_topic(&keeper.keyed, topic));
            let kind = component.kind.unwrap_or_default();
            let share = format!(
                "`{}` is a shared subscription: the broker spreads messages over all subscribers of the group",
                source.name
            );
            if keeper.keyed.by.is_empty() {
                let place = component.node.find("type", None);
                let message = format!("`{}` sees only a part of the rows; {share}", component.name);
                report.warning(&place, message, "what it gives is of this gateway's part alone");
            } else if !whole {
                let key = keeper.keyed.by.join(", ");
                let message =
                    format!("the `{kind}` would see only a part of the rows of each key ({key}); {share}");
                let help = if delivery.shared_by_topic {
                    "the broker keeps the messages of a topic together, so the key must tell the topic: put every \
                     `{name}` of the topics into `by`, and use no `+` or `#`"
                } else {
                    "subscribe without `$share/…`; or, if the broker sends all messages of a topic to the same \
                     subscriber, say so with `shared_by = \"topic\"` in the source"
                };
                report.error(&component.node.find("by", None), message, help);
            }
        }
    }

    fn check_disk(&self, has_log: bool, report: &mut Report) {
        let Some(disk) = self.settings.disk else { return };
        let log = self.settings.log;
        let (needed, retained) = if has_log { (log.size.0, log.retained_bytes_max()) } else { (0, 0) };
        let spools = self.plan.sinks.iter().filter_map(|sink| sink.spool);
        let spools = spools.fold(0u64, |bytes, spool| bytes.saturating_add(spool.bytes_max));
        let letters = self.settings.dead_letters_bytes();
        let all =
            [needed, retained, spools, letters].iter().fold(0u64, |all, bytes| all.saturating_add(*bytes));
        if all > disk.0 {
            let message = format!(
                "log, spools and dead letters may take more than the disk given: {} of log that a restart may need, {} \
                 that `retain` keeps, {} of spools and {} of dead letters, and there is {disk}",
                about(needed),
                about(retained),
                about(spools),
                about(letters)
            );
            let help =
                "make `size` or `retain_size` of `log`, or `spool` of the sinks smaller, or `disk` larger";
            report.error(&self.node.find("disk", None), message, help);
        }
    }

    fn check_memory(&self, has_log: bool, report: &mut Report) {
        let Some(memory) = self.settings.memory else { return };
        let sources: Vec<&PlannedSource> = self.sources().map(|(_, source)| source).collect();
        let batches = Batches::of(self.settings.queue, &sources, has_log);
        if batches.bytes > memory.0 {
            let message = format!(
                "the buffers may take more than the memory given: {} batches of messages with {} in all, and there is {memory}",
                batches.count,
                about(batches.bytes)
            );
            let help = "make `queue` or `batch.bytes` smaller, or `memory` larger; `tidegate check` prints the bound";
            report.error(&self.node.find("memory", None), message, help);
        }
    }
}

/// Whether the rows of one key all come on one topic: each level of it is fixed or part of the key.
fn names_topic(keyed: &Keyed, topic: &str) -> bool {
    // `$share/GROUP/` is no part of the topic.
    topic.split('/').skip(2).all(|level| {
        match level.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(tag) => keyed.by.iter().any(|column| column == tag),
            None => !matches!(level, "+" | "#"),
        }
    })
}

/// Batches of messages between the sources and the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batches {
    /// Most of them at once.
    pub count: u64,
    /// Most bytes that they take, but for the one message that closes each.
    pub bytes: u64,
}

impl Batches {
    fn of(queue: usize, sources: &[&PlannedSource], has_log: bool) -> Self {
        let bytes =
            |source: &PlannedSource| source.batch.bytes as u64 + MESSAGE_BYTES * source.batch.rows as u64;
        let filling: u64 = sources.iter().map(|source| bytes(source)).sum();
        let largest = sources.iter().map(|source| bytes(source)).max().unwrap_or(0);
        // The journal's group and the one that waits behind it. And the one that the engine works on.
        let with_log = if has_log { queue as u64 + 1 } else { 0 };
        let moving = batches_before_log(queue) + with_log + 1;
        Self {
            count: moving + sources.len() as u64,
            bytes: filling.saturating_add(largest.saturating_mul(moving)),
        }
    }
}

/// What a pipeline may need of memory and disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    /// Messages between sources and engine: an upper bound, see [`Batches`].
    pub batches: Batches,
    /// Most batches of rows between engine and sinks.
    pub results: u64,
    /// What these take if they have as many rows as a source's batch: an estimate.
    pub results_bytes: u64,
    /// What operators keep from row to row; the limits are exact, the bytes estimates.
    pub keeping: Vec<(String, Keyed)>,
    /// Most bytes of the log on disk, if there is one.
    pub log_bytes_max: Option<u64>,
    /// Most bytes of the log that only `retain` keeps, beside these.
    pub retained_bytes_max: u64,
    /// Most bytes of each spool on disk, by sink, and what happens when one is full.
    pub spools: Vec<(String, Spooling)>,
    /// Most bytes of the dead letters on disk.
    pub dead_letters_bytes: u64,
    /// Most bytes of state in the checkpoints on disk: as much an estimate as the state.
    pub checkpoint_bytes: u64,
    /// How often the log is synced where messages come all the time: once for each batch.
    pub syncs_per_second: f64,
    /// Bytes of checkpoints that are written when all state is full, by the same estimate.
    pub checkpoint_bytes_per_second: f64,
    /// Without a log, for each source that waits for checkpoints: messages per second at most.
    pub rates_max: Vec<(String, f64)>,
}

impl Bounds {
    pub(super) fn of(pipeline: &Pipeline) -> Self {
        let sources: Vec<&PlannedSource> = pipeline.sources.iter().collect();
        let queue = pipeline.settings.queue;
        let has_log = pipeline.has_log();
        let rows = sources.iter().map(|source| source.batch.rows as u64).max().unwrap_or(0);
        // The channel to a sink, the one it writes, and the one that waits for room.
        let per_sink = queue as u64 + 2;
        let widths = pipeline.graph.sinks.iter().map(|sink| {
            let schemas = sink.inputs.iter().filter_map(|edge| match edge {
                Edge::Node { node, port } => pipeline.graph.nodes.get(*node)?.ports.get(*port),
                Edge::Input(_) => None,
            });
            schemas.map(|port| row_bytes(&port.schema)).max().unwrap_or(0)
        });
        let results_bytes = widths.map(|width| per_sink * rows * width).sum();
        let state =
            pipeline.keeping.iter().flat_map(|(_, keyed)| &keyed.kept).map(crate::registry::Kept::bytes_max);
        let state = state.fold(0, u64::saturating_add);
        let interval = pipeline.settings.checkpoint.0.as_secs_f64();
        let rate = |source: &&PlannedSource| {
            let delivery = source.delivery.as_ref().filter(|_| source.acknowledges && !has_log)?;
            Some((source.name.clone(), f64::from(delivery.in_flight) / interval))
        };
        Self {
            batches: Batches::of(queue, &sources, has_log),
            results: per_sink * pipeline.sinks.len() as u64,
            results_bytes,
            keeping: pipeline.keeping.clone(),
            log_bytes_max: has_log.then_some(pipeline.settings.log.size.0),
            retained_bytes_max: if has_log { pipeline.settings.log.retained_bytes_max() } else { 0 },
            syncs_per_second: sources
                .iter()
                .map(|source| 1.0 / source.batch.age.as_secs_f64().max(1e-3))
                .sum(),
            checkpoint_bytes_per_second: match pipeline.settings.data_dir.is_some() {
                true => state as f64 / interval,
                false => 0.0,
            },
            spools: (pipeline.sinks.iter())
                .filter_map(|sink| Some((sink.name.clone(), sink.spool?)))
                .collect(),
            dead_letters_bytes: pipeline.settings.dead_letters_bytes(),
            checkpoint_bytes: if pipeline.settings.data_dir.is_some() {
                state.saturating_mul(CHECKPOINTS)
            } else {
                0
            },
            rates_max: sources.iter().filter_map(rate).collect(),
        }
    }

    /// How long the log takes in messages of so many bytes while the sinks take nothing, in seconds, at least: where
    /// nothing of them can be shortened.
    pub fn outage_seconds(&self, messages_per_second: f64, message_bytes: f64) -> Option<f64> {
        let room = self.log_bytes_max? / LOG_PARTS * (LOG_PARTS - 1);
        Some(room as f64 / (messages_per_second * (message_bytes + LOGGED_BESIDE_MAX)))
    }
}

/// Bytes of a row in columns, about.
fn row_bytes(schema: &Schema) -> u64 {
    let width = |data_type: &DataType| match data_type {
        DataType::Dictionary(..) => 4,
        other => other.primitive_width().map_or(TEXT_BYTES, |bytes| bytes as u64),
    };
    schema.fields().iter().map(|field| width(field.data_type())).sum()
}

/// A number of bytes in three digits.
pub fn about(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1 << 10 {
        return format!("{bytes} B");
    }
    let (mut size, mut unit) = (bytes as f64 / 1024.0, 0);
    while size >= 999.5 && unit + 1 < units.len() {
        (size, unit) = (size / 1024.0, unit + 1);
    }
    let digits = if size < 9.95 { 1 } else { 0 };
    format!("{size:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_words() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (10_300, "10 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (256 << 20, "256 MiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(about(bytes), expected);
        }
    }

    #[test]
    fn a_key_that_tells_the_topic() {
        let keyed =
            |by: &[&str]| Keyed { by: by.iter().map(|name| (*name).to_owned()).collect(), kept: Vec::new() };
        let topic = "$share/gateways/plant/{line}/{device}/telemetry";
        assert!(names_topic(&keyed(&["device", "line", "seq"]), topic));
        assert!(!names_topic(&keyed(&["device"]), topic));
        assert!(!names_topic(&keyed(&["line"]), "$share/gateways/plant/{line}/+"));
        assert!(!names_topic(&keyed(&["line"]), "$share/gateways/plant/{line}/#"));
        assert!(names_topic(&keyed(&["seq"]), "$share/gateways/plant"));
    }
}
