//! What can happen in a world at each step, and how often. Pure.

/// What can happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Publish,
    Receive,
    Acknowledge,
    Coordinate,
    Keep,
    Run,
    Deliver,
    Save,
    Time,
    Power,
    Kill,
    Disconnect,
    Disk,
    Clock,
    Model,
    Stall,
    Hang,
    Fail,
    Full,
    Stop,
    Graph,
    End,
}

/// How often each act happens, in relation to the others.
pub(super) const WEIGHTS: [(Act, usize); 22] = [
    (Act::Publish, 160),
    (Act::Receive, 140),
    (Act::Acknowledge, 60),
    (Act::Coordinate, 220),
    (Act::Keep, 180),
    (Act::Run, 220),
    (Act::Deliver, 200),
    (Act::Save, 30),
    (Act::Time, 60),
    (Act::Power, 4),
    (Act::Kill, 4),
    (Act::Disconnect, 5),
    (Act::Disk, 6),
    (Act::Clock, 6),
    (Act::Model, 12),
    (Act::Stall, 5),
    (Act::Hang, 3),
    (Act::Fail, 4),
    (Act::Full, 5),
    (Act::Stop, 3),
    (Act::Graph, 4),
    (Act::End, 1),
];

impl Act {
    /// Whether a process may die of it.
    pub fn is_deadly(self) -> bool {
        matches!(self, Self::Power | Self::Kill | Self::Fail | Self::Disk | Self::Stop)
    }

    /// Whether it is something that goes wrong or is changed, and not the daily course of things.
    pub fn is_fault(self) -> bool {
        matches!(
            self,
            Self::Power
                | Self::Kill
                | Self::Disconnect
                | Self::Disk
                | Self::Clock
                | Self::Model
                | Self::Stall
                | Self::Hang
                | Self::Fail
                | Self::Full
                | Self::Stop
                | Self::Graph
                | Self::End
        )
    }
}
