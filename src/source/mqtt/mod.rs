//! The `mqtt` source.

pub mod config;
pub mod connection;
pub mod session;
mod taken;

pub use config::MqttConfig;
