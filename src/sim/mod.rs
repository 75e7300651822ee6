//! The simulated world that the engine is tested in: seed, scheduler, faults. Pure.
