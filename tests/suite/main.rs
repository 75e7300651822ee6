//! All integration tests, in one program so that it is linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod bad_input;
mod columns;
mod durability;
mod examples;
mod golden;
mod health;
mod http;
mod kernels;
mod laws;
mod model_update;
mod mqtt;
mod process;
mod purity;
mod simulation;
mod state;
mod support;
