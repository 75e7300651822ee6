//! Quantized models: the file format, int8 kernels, training and verification. Pure.
