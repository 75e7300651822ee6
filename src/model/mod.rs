//! Quantized models: the file format, int8 kernels, training and verification. Pure.
//!
//! A model is a dense autoencoder over named columns: a row is scaled, quantized to int8, sent through the
//! layers, and scored by how badly the layers reconstruct it. [`ModelFile::write`] and [`ModelFile::read`]
//! are the file, a [`Dense`] runs.

mod body;
mod bytes;
pub mod dense;
pub mod format;
pub mod kernels;
pub mod quant;
mod random;
#[cfg(test)]
mod samples;

pub use dense::{Dense, Scratch};
pub use format::{ModelFile, ModelId};
pub use kernels::Kernel;
