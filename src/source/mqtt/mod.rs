//! The `mqtt` source.

pub mod config;
pub mod connection;
pub mod session;

pub use config::MqttConfig;
