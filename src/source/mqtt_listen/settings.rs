//! How the server works, and its limits. Pure.

use std::time::Duration;

use crate::registry::BatchLimits;
use crate::source::topics::TopicFilters;

/// How a server works.
#[derive(Clone)]
pub struct ServerSettings {
    /// Which topics are taken.
    pub filters: TopicFilters,
    /// Longest topic taken, in bytes.
    pub topic_bytes_max: usize,
    /// Largest packet.
    pub packet_bytes_max: usize,
    /// Most messages of a client above QoS 0 that wait for an answer.
    pub in_flight: u16,
    /// Messages per second and client.
    pub rate: Option<u32>,
    /// Most clients at once.
    pub clients_max: usize,
    /// Longest time that a session outlives its connection.
    pub session_expiry: Duration,
    /// Bounds of a batch.
    pub batch: BatchLimits,
}

impl ServerSettings {
    /// Sessions of clients that are away are kept up to this many in all, with those that are there.
    pub fn sessions_max(&self) -> usize {
        self.clients_max.saturating_mul(4)
    }

    /// Identifiers of QoS 2 that all kept sessions hold together: a bound on what the position carries.
    pub fn identifiers_max(&self) -> usize {
        self.clients_max.saturating_mul(usize::from(self.in_flight))
    }
}
