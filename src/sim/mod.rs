//! The simulated world that the engine is tested in, and the harness for one operator. Pure.
//!
//! ```text
//! harness   one operator, a script of rows, watermarks and ticks, and what it says
//! world     brokers, a process that can die at any step, sinks, a disk that forgets: all from one seed
//!   ├ shell     the process: the runtime's order of steps around the real sequencer, log, engine and checkpoints
//!   ├ outside   what survives the process: brokers that redeliver, receivers, the file that is cut
//!   ├ plant     the graph that runs in it
//!   └ oracle    what must come out, recomputed without the engine
//! ```
//!
//! Nothing here reads a clock or draws a random number of its own: the same seed is the same world.

pub mod cells;
mod dice;
pub mod harness;
mod oracle;
mod outside;
mod plant;
mod shell;
pub mod world;

pub use world::{Bug, Options, Summary, Violation, World};
