//! Durable storage behind one small trait: the log and checkpoints.
