//! The tokio shell around the engine: tasks for sources and sinks, one thread per engine, the coordinator.

pub mod activity;
pub mod admin;
pub mod broker;
pub mod control;
pub mod coordinator;
pub mod durable;
mod ends;
pub mod engine_thread;
pub mod health;
pub mod journal;
mod lines;
pub mod metrics;
pub mod models;
pub mod pipeline;
pub mod reload;
pub mod sampling;
pub mod served;
pub mod sink_task;
pub mod source_task;
pub mod spool;
mod supervisor;
pub mod suspects;
pub mod systemd;
mod valve;
pub mod wire;
