//! The tokio shell around the engine: tasks for sources and sinks, one thread per engine, the coordinator.

pub mod activity;
pub mod admin;
pub mod broker;
pub mod coordinator;
pub mod durable;
pub mod engine_thread;
pub mod health;
pub mod journal;
pub mod metrics;
pub mod models;
pub mod pipeline;
pub mod sampling;
pub mod sink_task;
pub mod source_task;
pub mod systemd;
pub mod spool;
pub mod wire;
