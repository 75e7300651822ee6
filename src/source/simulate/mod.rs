//! The simulated plant: a seeded fleet of devices that looks like an industrial site, with labelled faults.
//! Pure, but for `source`: no clock, no sockets, no files; time is an argument.
//!
//! Every reading is a *closed-form* function of (configuration, device, tick): load cycles are sums of waves
//! whose thermal lag, integral and derivative are known exactly, and all randomness is looked up by counter
//! (see [`random`]). Three things follow. A position is five integers, and resuming from it costs what one
//! delivery window costs, however long the plant has run. A faulty plant and its fault-free twin of the same
//! seed differ only inside the fault's window and only in the signals the fault touches. And since the
//! arithmetic is plain IEEE addition, multiplication, division and square root, the same seed gives the same
//! bytes on every machine.
//!
//! | file | what it knows |
//! |---|---|
//! | `config` | what a user may ask for, and what is refused |
//! | `random` | randomness looked up by counter |
//! | `signals` | names, units and resolutions; waves |
//! | `devices` | the physics of each kind of device |
//! | `faults` | kinds of faults, their schedule and their labels |
//! | `arrivals` | who reports when, in which order it arrives, and what a position is |
//! | `plant` | the plant at work: the next reading |
//! | `batches` | readings as Arrow batches |
//! | `payloads` | readings as MQTT topics and payloads |
//! | `source` | the running source: the plant by the clock, or published to a broker; its keys in the pipeline file |

mod arrivals;
mod batches;
mod config;
mod devices;
mod faults;
mod payloads;
mod plant;
pub mod random;
mod signals;
mod source;
#[cfg(test)]
mod tests;

pub use arrivals::PlantPosition;
pub use config::{ClockUnit, PlantConfig, Profile};
pub use devices::{Channel, DeviceId, DeviceKind};
pub use faults::{FaultKind, FaultSpec, Faults, Label, RandomFaults};
pub use payloads::{Encoder, PayloadFormat};
pub use plant::{Plant, Reading};
pub use signals::Signal;
pub use source::{FaultKeys, RandomFaultKeys, SimulateConfig, Speed};
