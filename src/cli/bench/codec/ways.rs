//! The ways of packing a batch that `tidegate bench codec` compares.

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::codec::frame::{FrameDecoder, FrameEncoder, FrameOptions};
use crate::codec::stage::{Prefer, Stage};
use crate::codec::text_ndjson::NdjsonWriter;
use crate::error::{Error, Result};

type Encode = Box<dyn FnMut(&RecordBatch, &mut Vec<u8>) -> Result<()>>;
/// Gives the number of rows.
type Decode = Box<dyn FnMut(&[u8]) -> Result<usize>>;

/// One way.
pub(super) struct Way {
    pub(super) name: &'static str,
    /// What a pipeline file says to go this way.
    pub(super) setting: Option<&'static str>,
    pub(super) encode: Encode,
    pub(super) decode: Decode,
}

/// All ways, in the order in which they are printed.
pub(super) fn ways() -> Result<Vec<Way>> {
    let auto = |prefer| Stage::Auto { prefer };
    let mut ways = vec![ndjson(), arrow_ipc(), parquet_zstd()];
    #[cfg(feature = "pco")]
    ways.push(pco_columns("pco 8, columns without a frame", 8));
    for (name, setting, stage) in [
        ("frame, stored (bits packed)", "codec = \"stored\"", Stage::Stored),
        ("frame, lzw", "codec = \"lzw\"", Stage::Lzw),
        ("frame, zstd 3", "codec = \"zstd\"", Stage::Zstd { level: 3, dictionary: None }),
        ("frame, huffman", "codec = \"huffman\"", Stage::Huffman),
        ("frame, adaptive", "codec = \"adaptive\"", Stage::Adaptive),
        ("frame, auto, speed", "prefer = \"speed\"", auto(Prefer::Speed)),
        ("frame, auto, balanced", "prefer = \"balanced\"", auto(Prefer::Balanced)),
        ("frame, auto, ratio", "prefer = \"ratio\"", auto(Prefer::Ratio)),
    ] {
        ways.push(frame(name, setting, stage)?);
    }
    Ok(ways)
}

fn frame(name: &'static str, setting: &'static str, stage: Stage) -> Result<Way> {
    let mut encoder = FrameEncoder::new(FrameOptions { stage })?;
    let mut decoder = FrameDecoder::default();
    Ok(Way {
        name,
        setting: Some(setting),
        encode: Box::new(move |batch, out| encoder.encode(batch, out).map(|_| ())),
        decode: Box::new(move |bytes| decoder.decode(bytes).map(|decoded| decoded.batch.num_rows())),
    })
}

fn zstd_failed(error: std::io::Error) -> Error {
    Error::data(format!("zstd: {error}"))
}

fn ndjson() -> Way {
    let mut writer = NdjsonWriter::new();
    let mut text = Vec::new();
    Way {
        name: "NDJSON + zstd 3",
        setting: None,
        encode: Box::new(move |batch, out| {
            text.clear();
            writer.write(batch, &mut text)?;
            out.extend(zstd::bulk::compress(&text, 3).map_err(zstd_failed)?);
            Ok(())
        }),
        decode: Box::new(|bytes| {
            let text = zstd::decode_all(bytes).map_err(zstd_failed)?;
            let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
            let mut rows = 0;
            for line in lines {
                std::hint::black_box(
                    serde_json::from_slice::<serde_json::Value>(line)
                        .map_err(|error| Error::data(error.to_string()))?,
                );
                rows += 1;
            }
            Ok(rows)
        }),
    }
}

fn arrow_ipc() -> Way {
    let mut stream = Vec::new();
    Way {
        name: "Arrow IPC stream + zstd 3",
        setting: None,
        encode: Box::new(move |batch, out| {
            stream.clear();
            let mut writer = StreamWriter::try_new(&mut stream, batch.schema_ref())?;
            writer.write(batch)?;
            writer.finish()?;
            drop(writer);
            out.extend(zstd::bulk::compress(&stream, 3).map_err(zstd_failed)?);
            Ok(())
        }),
        decode: Box::new(|bytes| {
            let stream = zstd::decode_all(bytes).map_err(zstd_failed)?;
            let mut rows = 0;
            for batch in StreamReader::try_new(&stream[..], None)? {
                rows += batch?.num_rows();
            }
            Ok(rows)
        }),
    }
}

fn parquet_zstd() -> Way {
    let failed = |error: parquet::errors::ParquetError| Error::data(format!("Parquet: {error}"));
    Way {
        name: "Parquet, zstd 3",
        setting: None,
        encode: Box::new(move |batch, out| {
            let level = ZstdLevel::try_new(3).map_err(failed)?;
            let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
            let mut writer = ArrowWriter::try_new(out, batch.schema(), Some(properties)).map_err(failed)?;
            writer.write(batch).map_err(failed)?;
            writer.close().map_err(failed)?;
            Ok(())
        }),
        decode: Box::new(move |bytes| {
            let bytes = bytes::Bytes::copy_from_slice(bytes);
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(failed)?;
            let reader = reader.with_batch_size(1 << 20).build().map_err(failed)?;
            let mut rows = 0;
            for batch in reader {
                rows += batch?.num_rows();
            }
            Ok(rows)
        }),
    }
}

/// Every column alone by pco: whole and floating numbers of 4 and 8 bytes. Other columns do not count.
#[cfg(feature = "pco")]
fn pco_columns(name: &'static str, level: usize) -> Way {
    use arrow::array::AsArray;
    use arrow::compute::cast;
    use arrow::datatypes::{DataType, Float64Type, Int64Type};

    let config = pco::ChunkConfig::default().with_compression_level(level);
    let failed = |error: pco::errors::PcoError| Error::data(format!("pco: {error}"));
    Way {
        name,
        setting: None,
        encode: Box::new(move |batch, out| {
            out.extend_from_slice(&(batch.num_rows() as u32).to_le_bytes());
            for column in batch.columns() {
                let bytes = match column.data_type() {
                    DataType::Float64 => pco::standalone::simple_compress(
                        column.as_primitive::<Float64Type>().values(),
                        &config,
                    ),
                    DataType::Timestamp(..) | DataType::Int64 => {
                        let column = cast(column, &DataType::Int64)?;
                        pco::standalone::simple_compress(column.as_primitive::<Int64Type>().values(), &config)
                    }
                    _ => continue,
                };
                let bytes = bytes.map_err(failed)?;
                out.push(u8::from(*column.data_type() == DataType::Float64));
                out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(&bytes);
            }
            Ok(())
        }),
        decode: Box::new(move |bytes| {
            let mut reader = crate::codec::wire::Reader::new(bytes);
            let word = |reader: &mut crate::codec::wire::Reader<'_>| -> Result<usize> {
                Ok(reader.take(4)?.first_chunk().map_or(0, |word| u32::from_le_bytes(*word) as usize))
            };
            let rows = word(&mut reader)?;
            while reader.remaining() > 0 {
                let float = reader.u8()? == 1;
                let length = word(&mut reader)?;
                let column = reader.take(length)?;
                if float {
                    std::hint::black_box(pco::standalone::simple_decompress::<f64>(column).map_err(failed)?);
                } else {
                    std::hint::black_box(pco::standalone::simple_decompress::<i64>(column).map_err(failed)?);
                }
            }
            Ok(rows)
        }),
    }
}
