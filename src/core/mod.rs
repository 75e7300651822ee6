//! The engine: a deterministic state machine without input or output of its own. Pure.
//!
//! Records go in, effects come out, time is an argument. Nothing in this folder waits, reads a clock,
//! opens a file or draws a random number, so the same records from the same snapshot give the same effects.

pub mod chunks;
pub mod ends;
pub mod engine;
pub mod epochs;
pub mod event;
pub mod graph;
pub mod keys;
pub mod model;
pub mod operator;
pub mod schema;
pub mod sequencer;
pub mod snapshot;
pub mod state;

pub use chunks::Chunks;
pub use ends::{Attempt, BadMessage, BadMessages, DeliveryId, Parcel, Peer, Position, Refusal, Sink, Source};
pub use engine::{Effect, Engine};
pub use epochs::{Commit, Epochs};
pub use event::{Barrier, Change, Epoch, Event, EventTime, Now, Record};
pub use graph::{Edge, Fingerprint, Graph, Node, Port, SinkNode};
pub use keys::{KeyLimits, Keys, OnFull};
pub use model::{Model, ModelGate, ModelId, ModelOrigin, ModelSlot};
pub use operator::{Count, Flow, Operator, Output};
pub use sequencer::{Sequencer, SequencerSettings, Stamped, Start};
pub use snapshot::{NodeState, Restored, Snapshot};
pub use state::{Piece, State, StateReader, StateWriter};
