//! The `file` source: recorded data, as fast as it goes or paced.
//!
//! | file | what it knows |
//! |---|---|
//! | `config` | the keys in the pipeline file, and what is refused |
//! | `text` | NDJSON and CSV files as raw messages |
//! | `parquet` | Parquet files as columns |
//! | `pace` | when which rows are due |
//! | `reader` | the running source: one file after the other, resumable at every row |

pub mod config;
mod pace;
mod parquet;
mod reader;
#[cfg(test)]
mod tests;
mod text;

pub use config::FileConfig;
