//! The operators: one file is one component (config, code, tests). Pure.

pub mod decode;
pub mod window;
