//! Sinks: where results leave. Files, brokers, HTTP.

pub mod encode;
pub mod file;
pub mod http;
pub mod mqtt;
pub mod stdout;
