//! The simulated world that the engine is tested in, and the harness for one operator. Pure.
//!
//! ```text
//! harness   one operator, a script of rows, watermarks and ticks, and what it says
//! graphs    random graphs of many operators, run through and made anew at their cuts
//! laws      what must not change what it says: for operators of any crate
//! world     brokers, a process that can die at any step, sinks, a disk that forgets: all from one seed
//!   ├ act       what can happen at each step, and how often
//!   ├ shell     the process, with its journal: the runtime's steps around the real sequencer, log and engine
//!   ├ around    what is not the process, with the outside: brokers that redeliver, receivers, a file that is cut
//!   ├ faults    what goes wrong out there: disks that fail, run full and rot, clocks that jump, sinks that hang
//!   ├ bug       mistakes that are made on purpose, to see that they are seen
//!   ├ plant     the graphs that run in it
//!   ├ oracle    what must come out, recomputed without the engine
//!   └ verdict   everything held against the oracle at the end
//! ```
//!
//! Nothing here reads a clock or draws a random number of its own: the same seed is the same world.

mod act;
mod around;
mod bug;
pub mod cells;
mod dice;
mod faults;
pub mod graphs;
pub mod harness;
mod journal;
pub mod laws;
mod oracle;
mod outside;
mod plant;
mod shell;
mod verdict;
pub mod world;

pub use bug::Bug;
pub use world::{Options, Summary, Violation, World};
