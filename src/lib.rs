//! Tidegate: streaming dataflow for time-series analytics on industrial gateways.
//!
//! Start with [`core`] (the engine), then [`registry`] (what a component is); ARCHITECTURE.md has the map. To use it in
//! a program of your own: [`embed`]; to write an operator: [`registry::OperatorConfig`] and [`sim::laws`].
//! `examples/` shows both.

pub mod builtin;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod config;
pub mod core;
pub mod embed;
pub mod error;
pub mod eval;
pub mod expr;
pub mod model;
pub mod net;
pub mod operator;
pub mod registry;
pub mod runtime;
pub mod sim;
pub mod sink;
pub mod source;
pub mod store;

pub mod units;

pub use error::{Error, Kind, Result};
