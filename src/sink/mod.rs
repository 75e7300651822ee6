//! Sinks: where results leave. Files, brokers, HTTP, dead letters.

pub mod dead_letters;
pub mod encode;
pub mod file;
pub mod http;
pub mod mqtt;
mod retrying;
pub mod stdout;
