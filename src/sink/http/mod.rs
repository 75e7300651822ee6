//! The `http` sink: rows as request bodies, each sent until it is taken or refused for good.

mod body;
pub mod config;
mod peer;
#[cfg(test)]
mod tests;

pub use config::HttpConfig;
