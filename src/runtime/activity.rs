//! What a thread or task does right now and since when, written by it in passing and read by whoever asks for health.
//! Whatever can be stuck can say so: the reader needs no answer from a thread that gives none.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Bits of the word that say what is done; the rest is the time since the start, in milliseconds.
const WHAT_BITS: u32 = 16;

/// One number for what is done, and when that began.
#[derive(Debug)]
pub struct Activity {
    started: Instant,
    word: AtomicU64,
}

impl Default for Activity {
    fn default() -> Self {
        Self::since(Instant::now())
    }
}

impl Activity {
    /// Number 0 since a moment; none earlier can be told.
    pub fn since(started: Instant) -> Self {
        Self { started, word: AtomicU64::new(0) }
    }

    /// From now on this is done. Setting what is done already begins it anew.
    pub fn begin(&self, what: u16) {
        self.begin_at(what, Instant::now());
    }

    /// The same where the moment is known already.
    pub fn begin_at(&self, what: u16, now: Instant) {
        let millis = now.saturating_duration_since(self.started).as_millis() as u64;
        self.word.store(millis << WHAT_BITS | u64::from(what), Relaxed);
    }

    /// The same, unless it is what is done already.
    pub fn stay(&self, what: u16) {
        if self.word.load(Relaxed) as u16 != what {
            self.begin(what);
        }
    }

    /// What is done, and for how long. Accurate to a millisecond.
    pub fn get(&self) -> (u16, Duration) {
        let word = self.word.load(Relaxed);
        let began = Duration::from_millis(word >> WHAT_BITS);
        (word as u16, self.started.elapsed().saturating_sub(began))
    }
}

/// What the engine's thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineDoes {
    /// Waits for records.
    Idle,
    /// Handles a record.
    Works,
    /// Waits until a sink, by its number, takes rows.
    WaitsForSink(usize),
}

impl EngineDoes {
    /// As a number for [`Activity`].
    pub fn number(self) -> u16 {
        match self {
            Self::Idle => 0,
            Self::Works => 1,
            Self::WaitsForSink(sink) => u16::try_from(sink + 2).unwrap_or(u16::MAX),
        }
    }

    /// From the number.
    pub fn of(number: u16) -> Self {
        match number {
            0 => Self::Idle,
            1 => Self::Works,
            sink => Self::WaitsForSink(usize::from(sink) - 2),
        }
    }
}

/// What the journal's thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum JournalDoes {
    /// Waits for records or for the engine to take them.
    Idle = 0,
    /// Writes a group and syncs it.
    Writes = 1,
    /// Waits for room, which comes when an epoch is committed.
    Full = 2,
    /// Tries again what the disk has refused.
    Fails = 3,
}

impl JournalDoes {
    /// From the number.
    pub fn of(number: u16) -> Self {
        match number {
            0 => Self::Idle,
            1 => Self::Writes,
            2 => Self::Full,
            _ => Self::Fails,
        }
    }
}

/// What keeps the coordinator from taking rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Held {
    /// Nothing: rows are taken as they come.
    Free = 0,
    /// The first checkpoint, before which no row is taken.
    FirstCheckpoint = 1,
    /// The log, which has no room.
    LogFull = 2,
    /// Records before them, which wait for the log or the engine.
    RecordsBefore = 3,
    /// The stop that has begun.
    Stopping = 4,
    /// The cut at which another graph begins.
    Reload = 5,
    /// The log, which is given to the engine again.
    Replay = 6,
}

impl Held {
    /// From the number.
    pub fn of(number: u16) -> Self {
        match number {
            0 => Self::Free,
            1 => Self::FirstCheckpoint,
            2 => Self::LogFull,
            3 => Self::RecordsBefore,
            4 => Self::Stopping,
            5 => Self::Reload,
            _ => Self::Replay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_and_since_when() {
        let activity = Activity::default();
        assert_eq!(activity.get().0, 0);
        activity.begin_at(7, activity.started + Duration::from_secs(5));
        assert_eq!(activity.get(), (7, Duration::ZERO), "a moment ahead is no time ago");
        activity.begin_at(7, activity.started);
        let word = activity.word.load(Relaxed);
        activity.stay(7);
        assert_eq!(activity.word.load(Relaxed), word);
        activity.stay(8);
        assert_eq!(activity.get().0, 8);
    }

    #[test]
    fn numbers_and_back() {
        for does in
            [EngineDoes::Idle, EngineDoes::Works, EngineDoes::WaitsForSink(0), EngineDoes::WaitsForSink(9)]
        {
            assert_eq!(EngineDoes::of(does.number()), does);
        }
        for does in [JournalDoes::Idle, JournalDoes::Writes, JournalDoes::Full, JournalDoes::Fails] {
            assert_eq!(JournalDoes::of(does as u16), does);
        }
        let all = [
            Held::Free,
            Held::FirstCheckpoint,
            Held::LogFull,
            Held::RecordsBefore,
            Held::Stopping,
            Held::Reload,
            Held::Replay,
        ];
        for held in all {
            assert_eq!(Held::of(held as u16), held);
        }
    }
}
