//! What sources and sinks that talk to peers share: secrets, TLS, waiting between tries.

pub mod backoff;
pub mod http;
pub mod secret;
pub mod tls;
