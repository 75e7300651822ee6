//! How good a detector is: the scores of published benchmarks, trivial baselines, and pictures. Pure.
//!
//! What is scored and how comes in as slices; `cli/eval` reads the files and runs the operators.

pub mod baseline;
pub mod nab;
pub mod plot;
pub mod ranking;
pub mod rates;
