//! The engine: a deterministic state machine without input or output of its own. Pure.
