//! The `mqtt` source.

pub mod config;
pub mod connection;
pub mod session;
pub mod wire;

pub use config::MqttConfig;
