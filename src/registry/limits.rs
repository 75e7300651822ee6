//! What components say about themselves so that a pipeline can be judged as a whole: how a broker delivers, what an
//! operator keeps. Pure.

/// How a broker gives messages to a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Whether a message comes again until it is safe here: else what is on its way is lost with the process.
    pub comes_again: bool,
    /// The key of the source's table that decides this.
    pub decided_by: &'static str,
    /// Messages under way without an acknowledgement at most, as far as the source has a say.
    pub in_flight: u32,
    /// The key that says so.
    pub in_flight_key: &'static str,
    /// Which of its `topics` are shared subscriptions: others in the group get a part of the messages.
    pub shared: Vec<usize>,
    /// Whether all messages of one topic go to the same subscriber of the group.
    pub shared_by_topic: bool,
}

/// State that an operator keeps from row to row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyed {
    /// The columns that make the key; none if all rows share the state.
    pub by: Vec<String>,
    /// Everything that grows, with its limit.
    pub kept: Vec<Kept>,
}

/// One thing that an operator keeps many of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// What it is, in the plural: `open windows`.
    pub what: &'static str,
    /// Most of them at once.
    pub max: usize,
    /// The key with this limit.
    pub key: &'static str,
    /// Bytes of memory that one takes, about.
    pub bytes: usize,
}

impl Kept {
    /// About how many bytes a key takes beside what is kept for it: its values, twice, its place in the table and its
    /// times.
    pub const KEY_BYTES: usize = 160;

    /// The most bytes that all of them take together, about.
    pub fn bytes_max(&self) -> u64 {
        (self.max as u64).saturating_mul(self.bytes as u64)
    }
}
