//! Sources: where data enters. Brokers, files, the simulated plant.

pub mod simulate;
