//! What sources and sinks that talk to peers share: secrets, TLS, waiting between tries, publishing over MQTT.

pub mod backoff;
pub mod http;
pub mod mqtt;
mod mqtt_client;
pub mod publisher;
pub mod secret;
pub mod tls;
