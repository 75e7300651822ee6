//! Encodings: payloads in (JSON, CSV, bare values), rows out (NDJSON, CSV) and compressed frames. Pure: bytes and columns.

pub mod frame;
pub mod huffman;
pub mod lzw;
pub mod stage;
pub mod transform;
mod wire;
