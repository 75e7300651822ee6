//! The simulated world that the engine is tested in, and the harness for one operator. Pure.
//!
//! ```text
//! harness   one operator, a script of rows, watermarks and ticks, and what it says
//! laws      what must not change what it says: for operators of any crate
//! world     brokers, a process that can die at any step, sinks, a disk that forgets: all from one seed
//!   ├ shell     the process, with its journal: the runtime's steps around the real sequencer, log and engine
//!   ├ around    what is not the process, with the outside: brokers that redeliver, receivers, a file that is cut
//!   ├ plant     the graph that runs in it
//!   ├ oracle    what must come out, recomputed without the engine
//!   └ verdict   everything held against the oracle at the end
//! ```
//!
//! Nothing here reads a clock or draws a random number of its own: the same seed is the same world.

mod around;
pub mod cells;
mod dice;
pub mod harness;
mod journal;
pub mod laws;
mod oracle;
mod outside;
mod plant;
mod shell;
mod verdict;
pub mod world;

pub use world::{Bug, Options, Summary, Violation, World};
