//! The two ends of a pipeline: the only async traits. Everything between them is synchronous.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::event::Epoch;
use super::operator::Count;
use crate::error::Result;

/// A place in a source's or sink's own terms, e.g. a file and a byte offset. Only its owner reads it; it is text
/// so that a person can too.
///
/// A source with a long position may write only what has changed: a text that begins with `+` goes on where the one
/// before it ends ([`Position::after`]). Now and then it writes a whole one, so that the text stays bounded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position(pub String);

impl Position {
    /// A position that holds a value as JSON.
    ///
    /// # Errors
    /// If the value cannot be written as JSON.
    pub fn of<T: Serialize>(value: &T) -> Result<Self> {
        serde_json::to_string(value)
            .map(Self)
            .map_err(|error| crate::Error::state(format!("a position cannot be written: {error}")))
    }

    /// The whole place, where this may be a step from the one before.
    #[must_use]
    pub fn after(self, before: Option<Self>) -> Self {
        match before {
            Some(mut before) if self.0.starts_with('+') => {
                before.0.push_str(&self.0);
                before
            }
            _ => self,
        }
    }

    /// The value inside.
    ///
    /// # Errors
    /// If the text is not such a value: the position was written by another type or version.
    pub fn get<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_str(&self.0).map_err(|error| {
            crate::Error::state(format!("the saved position `{}` cannot be read: {error}", self.0))
        })
    }
}

/// What names one delivery to a sink. The same after every replay of the log, so that a receiver (or a spool)
/// can tell a repetition from news.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeliveryId {
    /// `installation/pipeline/sink/lineage`, the last of these a digest of what leads to the sink: another graph makes
    /// other rows of the same record, and these are news. Without a log an incarnation stands for the installation,
    /// since nothing can be replayed then.
    pub origin: Arc<str>,
    /// Offset of the log record that caused the delivery.
    pub offset: u64,
    /// Which emission of that record to this sink, from 0.
    pub nth: u32,
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}", self.origin, self.offset, self.nth)
    }
}

/// Rows from a source, and where the source stands behind them.
#[derive(Debug, Clone)]
pub struct SourceBatch {
    /// The rows, in the schema that the source declared.
    pub batch: RecordBatch,
    /// The place to go on from.
    pub position: Position,
}

/// Where data enters.
#[async_trait]
pub trait Source: Send {
    /// Connects or opens, from the start or from a position that is safe: nothing before it is acknowledged again.
    ///
    /// # Errors
    /// What cannot be helped by trying again; a peer that is merely away is waited for in `next`.
    async fn open(&mut self, from: Option<&Position>) -> Result<()>;

    /// The next rows; `None` at the end. Cancel-safe: what a dropped call had taken in, the next one gives.
    ///
    /// # Errors
    /// What cannot be helped by trying again.
    async fn next(&mut self) -> Result<Option<SourceBatch>>;

    /// Everything up to a position is safe: synced in the log, or committed. Never waits for the peer.
    ///
    /// # Errors
    /// What cannot be helped by trying again.
    async fn acknowledge(&mut self, upto: &Position) -> Result<()>;

    /// What the source has counted since the last call, e.g. messages too large.
    fn take_counts(&mut self) -> Vec<(Count, u64)> {
        Vec::new()
    }

    /// The pipeline has stopped: what was acknowledged last still goes out.
    async fn close(&mut self) {}
}

/// A delivery on its way to a peer, and what has become of it so far.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// Its name, the same whenever it is sent.
    pub id: DeliveryId,
    /// Its rows.
    pub rows: RecordBatch,
    /// Whether it has waited while the peer was away and newer rows went before it.
    pub replayed: bool,
    /// So many rows from the front are done with: taken or refused.
    pub settled: usize,
    /// What the peer refuses for good.
    pub refused: Vec<Refusal>,
}

impl Parcel {
    /// Not sent yet.
    pub fn new(id: DeliveryId, rows: RecordBatch) -> Self {
        Self { id, rows, replayed: false, settled: 0, refused: Vec::new() }
    }

    /// Whether all its rows are done with.
    pub fn is_settled(&self) -> bool {
        self.settled >= self.rows.num_rows()
    }
}

/// Rows that a peer refuses for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which rows of the delivery.
    pub rows: Range<usize>,
    /// The peer's number for it, where it has one (HTTP).
    pub status: Option<u16>,
    /// The peer's words for it.
    pub reason: String,
}

/// How a try to deliver has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The first delivery at least is taken or refused, and nothing has failed.
    Settled,
    /// The peer is away, or answers with a failure that may pass. What is settled says so itself; the rest is to be tried
    /// again.
    Away {
        /// Why.
        reason: String,
        /// When, if the peer says so.
        after: Option<Duration>,
    },
}

/// A receiver that may be away: it tries once and says how that ended. Who stands before it tries again, and keeps what
/// waits.
#[async_trait]
pub trait Peer: Send {
    /// Reads secrets and certificates. A peer that is away is none of its business.
    ///
    /// # Errors
    /// What cannot be helped by trying again.
    async fn open(&mut self) -> Result<()>;

    /// Tries to hand deliveries over, in order: as many as it likes to have under way at once. After a call that was dropped half-way they may have arrived or not.
    ///
    /// # Errors
    /// What cannot be helped by trying again.
    async fn deliver(&mut self, parcels: &mut [Parcel]) -> Result<Attempt>;

    /// Longest pause between two tries.
    fn pause_max(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// Returns when a peer that was away seems to be back; never, for one whose coming cannot be noticed.
    async fn back(&mut self) {
        std::future::pending().await
    }
}

/// A message that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadMessage {
    /// Who could not read it.
    pub node: String,
    /// Its topic, or what else says where it came from.
    pub place: String,
    /// Why.
    pub reason: String,
    /// Offset of the record in the input log that it came in.
    pub offset: u64,
    /// The message.
    pub payload: Vec<u8>,
}

/// Where messages that could not be read are kept.
#[async_trait]
pub trait BadMessages: Send + Sync {
    /// Keeps them durably, however long that takes.
    ///
    /// # Errors
    /// What cannot be helped by trying again.
    async fn keep_bad(&self, list: Vec<BadMessage>) -> Result<()>;
}

/// Where results leave.
#[async_trait]
pub trait Sink: Send {
    /// Connects or opens, at the committed position: what was written behind it is cut off or written again
    /// under the same ids.
    ///
    /// # Errors
    /// What cannot be helped by trying again.
    async fn open(&mut self, committed: Option<&Position>) -> Result<()>;

    /// Takes rows. They are safe only after the next `flush`.
    ///
    /// # Errors
    /// What cannot be helped by trying again.
    async fn write(&mut self, id: DeliveryId, batch: RecordBatch) -> Result<()>;

    /// Lets others see what was written, without making it safe: what is buffered goes out. Called when rows have
    /// waited for a moment.
    ///
    /// # Errors
    /// What cannot be helped by trying again.
    async fn show(&mut self) -> Result<()> {
        Ok(())
    }

    /// Returns when everything written is safe, and says where that is.
    ///
    /// # Errors
    /// What cannot be helped by trying again.
    async fn flush(&mut self, epoch: Epoch) -> Result<Position>;

    /// The epoch is committed everywhere: finished things may show now (a file gets its final name).
    ///
    /// # Errors
    /// What cannot be helped by trying again.
    async fn committed(&mut self, epoch: Epoch) -> Result<()>;

    /// Nothing more will be written; one last `flush` and `committed` follow and finish what is open.
    ///
    /// # Errors
    /// What cannot be helped by trying again.
    async fn end(&mut self) -> Result<()> {
        Ok(())
    }

    /// The last epoch is committed and the task ends: what still goes on behind it ends too, soon.
    async fn close(&mut self) {}

    /// What the sink has counted since the last call, e.g. rows that a peer refused.
    fn take_counts(&mut self) -> Vec<(Count, u64)> {
        Vec::new()
    }
}
