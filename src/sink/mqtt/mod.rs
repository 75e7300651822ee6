//! The `mqtt` sink: every row as a message.
//!
//! | file | what it knows |
//! |---|---|
//! | `config` | the keys in the pipeline file, and what is refused |
//! | `template` | texts with columns in them: topics and payloads |
//! | `writer` | the running sink without a spool |
//! | `peer` | the broker, for a spool that stands before it |

pub mod config;
mod peer;
mod template;
#[cfg(test)]
mod tests;
mod writer;

pub use config::MqttConfig;
