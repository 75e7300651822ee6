//! All integration tests, in one program so that it is linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod examples;
mod golden;
mod laws;
mod mqtt;
mod process;
mod purity;
mod simulation;
mod support;
