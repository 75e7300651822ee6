//! All integration tests, in one program so that it is linked once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod allocator;
mod bad_input;
mod campaign;
mod columns;
mod dead_letters;
mod durability;
mod examples;
mod fuzz;
mod golden;
mod health;
mod http;
mod kernels;
mod laws;
mod model_update;
mod mqtt;
mod mqtt_listen;
mod process;
mod purity;
mod quality_2;
mod reload;
mod replay;
mod sensor;
mod simulation;
mod state;
mod support;
