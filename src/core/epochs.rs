//! Which epochs are under way, and what each still waits for. Pure.
//!
//! An epoch is complete when the engine's snapshot and every sink's flushed position are there. Epochs commit in
//! order, and only a few may be under way at once: a sink that does not keep up stops new cuts, not the rows.

use std::collections::VecDeque;

use super::ends::Position;
use super::event::Epoch;
use super::snapshot::Snapshot;

/// An epoch that can be committed: everything up to `offset` has reached the sinks.
#[derive(Debug, Clone, PartialEq)]
pub struct Commit {
    /// The epoch.
    pub epoch: Epoch,
    /// Offset of the first log record behind the cut.
    pub offset: u64,
    /// State of the graph at the cut.
    pub snapshot: Snapshot,
    /// Where each source stood at the cut, by input; `None` if it had given nothing.
    pub sources: Vec<Option<Position>>,
    /// Where each sink stood after everything before the cut was safe.
    pub sinks: Vec<Position>,
}

#[derive(Debug)]
struct UnderWay {
    epoch: Epoch,
    offset: u64,
    sources: Vec<Option<Position>>,
    snapshot: Option<Snapshot>,
    sinks: Vec<Option<Position>>,
}

/// The epochs of one pipeline that have begun and are not committed.
#[derive(Debug)]
pub struct Epochs {
    names: Vec<String>,
    limit: usize,
    under_way: VecDeque<UnderWay>,
}

impl Epochs {
    /// No epoch under way; `sinks` are their names, `limit` is how many epochs may be under way at once.
    pub fn new(sinks: Vec<String>, limit: usize) -> Self {
        Self { names: sinks, limit, under_way: VecDeque::new() }
    }

    /// Whether another epoch may begin.
    pub fn may_begin(&self) -> bool {
        self.under_way.len() < self.limit
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// A barrier went into the log: its cut lies before the record at `offset`.
    pub fn begin(&mut self, epoch: Epoch, offset: u64, sources: Vec<Option<Position>>) {
        debug_assert!(self.under_way.back().is_none_or(|last| last.epoch < epoch), "epochs only grow");
        let sinks = vec![None; self.names.len()];
        self.under_way.push_back(UnderWay { epoch, offset, sources, snapshot: None, sinks });
    }

    /// The engine has made its cut.
    pub fn snapshot(&mut self, snapshot: Snapshot) {
        let epoch = snapshot.epoch;
        if let Some(place) = self.find(epoch) {
            place.snapshot = Some(snapshot);
        }
    }

    /// A sink has everything before the barrier of an epoch safe.
    pub fn flushed(&mut self, sink: usize, epoch: Epoch, position: Position) {
        if let Some(place) = self.find(epoch) {
            place.sinks[sink] = Some(position);
        }
    }

    /// The oldest epoch, if nothing is owed to it any more. It counts as committed from here on.
    pub fn poll(&mut self) -> Option<Commit> {
        let first = self.under_way.front()?;
        if first.snapshot.is_none() || first.sinks.iter().any(Option::is_none) {
            return None;
        }
        let first = self.under_way.pop_front()?;
        Some(Commit {
            epoch: first.epoch,
            offset: first.offset,
            snapshot: first.snapshot?,
            sources: first.sources,
            sinks: first.sinks.into_iter().flatten().collect(),
        })
    }

    /// On whom each epoch under way waits: `engine` or the names of sinks.
    pub fn owed(&self) -> impl Iterator<Item = (Epoch, Vec<&str>)> {
        self.under_way.iter().map(|place| {
            let engine = place.snapshot.is_none().then_some("engine");
            let sinks = place.sinks.iter().zip(&self.names).filter(|(flushed, _)| flushed.is_none());
            (place.epoch, engine.into_iter().chain(sinks.map(|(_, name)| name.as_str())).collect())
        })
    }

    fn find(&mut self, epoch: Epoch) -> Option<&mut UnderWay> {
        self.under_way.iter_mut().find(|place| place.epoch == epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::Now;

    fn snapshot(epoch: u64) -> Snapshot {
        Snapshot { epoch: Epoch(epoch), now: Now::ZERO, nodes: Vec::new() }
    }

    fn at(text: &str) -> Position {
        Position(text.to_owned())
    }

    #[test]
    fn an_epoch_commits_when_the_engine_and_every_sink_have_answered_and_in_order() {
        let mut epochs = Epochs::new(vec!["a".into(), "b".into()], 2);
        epochs.begin(Epoch(1), 10, vec![None]);
        epochs.begin(Epoch(2), 20, vec![Some(at("s"))]);
        assert!(!epochs.may_begin(), "two are under way, two are allowed");
        epochs.snapshot(snapshot(1));
        epochs.snapshot(snapshot(2));
        epochs.flushed(0, Epoch(2), at("a2"));
        epochs.flushed(1, Epoch(2), at("b2"));
        epochs.flushed(0, Epoch(1), at("a1"));
        assert_eq!(epochs.poll(), None, "epoch 2 is complete, but epoch 1 comes first");
        assert_eq!(epochs.owed().next(), Some((Epoch(1), vec!["b"])));
        epochs.flushed(1, Epoch(1), at("b1"));
        let first = epochs.poll().unwrap();
        assert_eq!((first.epoch, first.offset, first.sinks), (Epoch(1), 10, vec![at("a1"), at("b1")]));
        let second = epochs.poll().unwrap();
        assert_eq!((second.epoch, second.sources), (Epoch(2), vec![Some(at("s"))]));
        assert!(epochs.is_idle() && epochs.poll().is_none());
    }

    #[test]
    fn an_epoch_without_its_snapshot_waits_for_the_engine() {
        let mut epochs = Epochs::new(vec![], 1);
        epochs.begin(Epoch(5), 0, vec![]);
        assert_eq!(epochs.owed().next(), Some((Epoch(5), vec!["engine"])));
        assert_eq!(epochs.poll(), None);
        epochs.snapshot(snapshot(5));
        assert!(epochs.poll().is_some());
    }
}
