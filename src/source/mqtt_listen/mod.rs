//! The `mqtt_listen` source: the server's side of MQTT.

mod access;
pub mod config;
mod control;
mod line;
mod messages;
mod packet;
mod peer;
mod server;
#[cfg(test)]
mod server_tests;
mod settings;
mod source;

pub use config::MqttListenConfig;
