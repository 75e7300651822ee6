//! Sources: where data enters. Brokers, files, the simulated plant.

pub mod file;
pub mod gather;
pub mod heartbeat;
pub mod mqtt;
pub mod raw;
pub mod simulate;
