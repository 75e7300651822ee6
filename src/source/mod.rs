//! Sources: where data enters. Brokers, files, the simulated plant.

pub mod file;
pub mod gather;
pub mod heartbeat;
pub mod mqtt;
pub mod mqtt_listen;
pub mod mqtt_wire;
pub mod raw;
pub mod sessions;
pub mod simulate;
pub mod topics;
