//! Encodings: payloads in (JSON, CSV, bare values), rows out (NDJSON, CSV) and compressed frames. Pure: bytes and columns.

// Payloads in, rows out as text.
pub mod csv;
pub mod fields;
pub mod frame;
pub mod huffman;
pub mod infer;
pub mod json;
mod json_plan;
mod json_scan;
pub mod lzw;
mod nibbles;
mod number;
pub mod payload;
pub mod records;
pub mod rows;
pub(crate) mod series;
pub mod stage;
pub mod text;
pub mod text_csv;
pub mod text_ndjson;
pub mod timestamp;
pub mod value;
pub(crate) mod wire;
