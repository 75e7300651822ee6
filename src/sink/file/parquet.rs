//! Parquet cannot be cut off at a byte, so its rows wait in a `.part` file of whole batches and become Parquet
//! when the file is finished.
//!
//! The `.part` file is a sequence of blocks: length (u64, little-endian) and an Arrow IPC stream of one batch.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::core::state::{batch_from_bytes, batch_to_bytes};
use crate::error::{Error, Result};

/// Rows per row group: large enough to compress well, small enough for a gateway's memory.
const ROW_GROUP_ROWS: usize = 64 << 10;

/// A block longer than this is not one of ours.
const BLOCK_BYTES_MAX: u64 = 1 << 30;

/// Appends a batch as a block.
///
/// # Errors
/// If a column has a type that Arrow IPC cannot carry.
pub fn append_block(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
    let bytes = batch_to_bytes(batch)?;
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(&bytes);
    Ok(())
}

/// Writes the blocks of `part` as a Parquet file and syncs it.
///
/// # Errors
/// If a file cannot be read or written, or `part` is damaged.
pub fn convert(part: &Path, target: &Path, schema: &SchemaRef) -> Result<()> {
    let io = |doing: &str, path: &Path| {
        let doing = format!("{doing} {}", path.display());
        move |error: std::io::Error| Error::io(doing, &error)
    };
    let mut input = BufReader::new(File::open(part).map_err(io("opening", part))?);
    let output = File::create(target).map_err(io("creating", target))?;
    let failed = |error: parquet::errors::ParquetError| {
        Error::new(crate::Kind::Io, format!("writing {}: {error}", target.display()))
    };
    let level = ZstdLevel::try_new(3).map_err(failed)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .build();
    let mut writer =
        ArrowWriter::try_new(output, SchemaRef::clone(schema), Some(properties)).map_err(failed)?;
    let mut block = Vec::new();
    while next_block(&mut input, &mut block).map_err(io("reading", part))? {
        let batch = batch_from_bytes(&block)?;
        writer.write(&batch).map_err(failed)?;
    }
    let output = writer.into_inner().map_err(failed)?;
    output.sync_all().map_err(io("syncing", target))
}

fn next_block(input: &mut impl Read, block: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut length = [0; 8];
    match input.read(&mut length[..1])? {
        0 => return Ok(false),
        _ => input.read_exact(&mut length[1..])?,
    }
    let length = u64::from_le_bytes(length);
    if length > BLOCK_BYTES_MAX {
        return Err(std::io::Error::other("a block is longer than any that is written"));
    }
    block.clear();
    input.take(length).read_to_end(block)?;
    if (block.len() as u64) < length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(true)
}
