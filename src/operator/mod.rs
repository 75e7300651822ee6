//! The operators: one file is one component (config, code, tests). Pure.

pub mod compress;
pub mod decode;
pub mod dedup;
pub mod detect;
pub mod filter;
pub mod pivot;
pub mod select;
pub mod union;
pub mod window;

#[cfg(test)]
mod testing;
