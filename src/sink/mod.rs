//! Sinks: where results leave. Files, brokers, HTTP.
