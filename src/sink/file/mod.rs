//! The `file` sink.

pub mod config;
pub mod parquet;
pub mod writer;

pub use config::FileConfig;
