//! Quantized models: the file format, int8 kernels, training and verification. Pure.
//!
//! A model is a dense autoencoder over named columns: a row is scaled, quantized to int8, sent through the
//! layers, and scored by how badly the layers reconstruct it. [`train()`] makes a [`ModelFile`] from normal
//! data, [`ModelFile::write`] and [`ModelFile::read`] are the file, [`verify()`] turns foreign bytes into a
//! [`Dense`] that runs, [`inspect()`] tells a person what is inside.

mod body;
mod bytes;
pub mod dense;
pub mod format;
pub mod inspect;
pub mod kernels;
mod network;
pub mod quant;
mod quantize;
pub(crate) mod random;
#[cfg(test)]
mod samples;
pub mod streaming;
pub mod train;
pub mod verify;

pub use dense::{Dense, Scratch};
pub use format::{ModelFile, ModelId};
pub use inspect::inspect;
pub use kernels::Kernel;
pub use train::{Progress, Trained, TrainingData, TrainingOptions, train};
pub use verify::verify;
