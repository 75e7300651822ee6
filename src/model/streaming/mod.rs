//! Detectors that learn as they go: one pass, bounded state, a row at a time. Pure.
//!
//! Each gives a number that is larger the stranger a row is; [`tail`] makes powers of ten of it, which [`ensemble`] adds up
//! for a kind of data. Nothing in a number depends on later rows.

pub mod categories;
pub mod clusters;
pub mod ensemble;
pub mod inverse;
pub mod linear;
pub mod neighbours;
pub mod normal;
pub mod profile;
pub mod scale;
pub mod tail;
