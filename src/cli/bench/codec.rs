//! `tidegate bench codec`: how small and how fast the ways of packing rows are, on the user's own data.
//!
//! Every directory with data is a set. Its tables are cut in batches, and every batch is coded alone by every way, with one
//! encoder for the whole table as in a pipeline. Ratios are to compact NDJSON of the same rows; speeds are of the rows in
//! Arrow's layout, over repeated passes, so that what is chosen for 64 batches costs what it costs in a long stream.

mod load;
mod ways;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use clap::Args;

use self::ways::{Way, ways};
use super::Outcome;
use crate::codec::text_ndjson::NdjsonWriter;
use crate::error::{Error, Result};

/// Arguments of `tidegate bench codec`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate bench codec --data recordings/
  tidegate bench codec --data line3.csv --rows 50")]
pub struct CodecArgs {
    /// Files (CSV with `,` or `;`, white-space-separated numbers, NDJSON, Parquet) or directories of them. Every directory is a
    /// set. Without it, a simulated plant.
    #[arg(long, value_name = "PATH")]
    pub data: Vec<PathBuf>,
    /// Rows in each batch.
    #[arg(long, value_delimiter = ',', default_values_t = [50, 1_000, 10_000])]
    pub rows: Vec<usize>,
    /// At most so many rows of each set.
    #[arg(long, default_value_t = 50_000)]
    pub rows_max: usize,
    /// Print the ratios of each set too.
    #[arg(long)]
    pub sets: bool,
}

/// Passes go on for at least so many batches, so that a choice is made as rarely as in a long stream.
const BATCHES_MIN: usize = 128;
/// No way is measured for longer than this on one set.
const TIME_MAX: Duration = Duration::from_secs(2);

/// What one way did with one set.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    bytes: usize,
    raw_bytes: f64,
    encode_seconds: f64,
    decode_seconds: f64,
}

/// One set of tables.
pub(super) struct Set {
    pub(super) name: String,
    pub(super) tables: Vec<RecordBatch>,
}

/// Runs the benchmark.
///
/// # Errors
/// Data cannot be read, or a way does not give back what it took.
pub fn run(args: &CodecArgs) -> Outcome {
    let sets = if args.data.is_empty() { load::simulated() } else { load::sets(&args.data, args.rows_max)? };
    if sets.is_empty() {
        return Err(Error::config("no tables in what --data names").into());
    }
    let mut advice = Vec::new();
    for &rows in &args.rows {
        let rows = rows.max(1);
        println!("\nBatches of {rows} rows, {} sets, geometric means:", sets.len());
        println!("{:<34} {:>9} {:>12} {:>12}", "way", "× NDJSON", "encode MB/s", "decode MB/s");
        let names: Vec<&'static str> = ways()?.iter().map(|way| way.name).collect();
        let mut best: Option<(f64, &str)> = None;
        for (at, name) in names.iter().enumerate() {
            let mut ratios = Vec::new();
            let mut all = Measured::default();
            for set in &sets {
                let (ndjson, measured) = measure(set, rows, at)?;
                ratios.push(ndjson as f64 / measured.bytes as f64);
                all.raw_bytes += measured.raw_bytes;
                all.encode_seconds += measured.encode_seconds;
                all.decode_seconds += measured.decode_seconds;
            }
            let mean = (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
            let speed = |seconds: f64| all.raw_bytes / 1e6 / seconds;
            let (encode, decode) = (speed(all.encode_seconds), speed(all.decode_seconds));
            println!("{name:<34} {mean:>9.2} {encode:>12.0} {decode:>12.0}");
            if args.sets {
                for (set, ratio) in sets.iter().zip(&ratios) {
                    println!("    {:<30} {ratio:>9.2}", set.name);
                }
            }
            if ways()?.get(at).is_some_and(|way| way.setting.is_some())
                && best.is_none_or(|(ratio, _)| mean > ratio)
            {
                best = Some((mean, name));
            }
        }
        if let Some((ratio, name)) = best {
            advice.push((rows, ratio, name));
        }
    }
    recommend(&advice)?;
    Ok(())
}

fn recommend(advice: &[(usize, f64, &str)]) -> Result<()> {
    println!("\nThe smallest for each batch size; `prefer = \"balanced\"` costs less CPU time:");
    for (rows, ratio, name) in advice {
        let ways = ways()?;
        let Some(setting) = ways.iter().find(|way| way.name == *name).and_then(|way| way.setting) else {
            continue;
        };
        println!("\n# × {ratio:.1}\n[operator.pack]\ntype = \"compress\"\nrows = {rows}\n{setting}");
    }
    Ok(())
}

/// The bytes of the set as NDJSON, and what the way with this number does with it.
fn measure(set: &Set, rows: usize, way: usize) -> Result<(usize, Measured)> {
    let mut measured = Measured::default();
    let mut ndjson = 0;
    for table in &set.tables {
        let batches: Vec<RecordBatch> = (0..table.num_rows())
            .step_by(rows)
            .map(|from| table.slice(from, rows.min(table.num_rows() - from)))
            .collect();
        let mut text = Vec::new();
        NdjsonWriter::new().write(table, &mut text)?;
        ndjson += text.len();
        let Some(mut way) = ways()?.into_iter().nth(way) else { continue };
        passes(&mut way, &batches, &mut measured)?;
    }
    Ok((ndjson, measured))
}

/// Codes all batches once for their size, then again for the time.
fn passes(way: &mut Way, batches: &[RecordBatch], measured: &mut Measured) -> Result<()> {
    let raw_bytes: usize = batches.iter().map(raw_bytes_of).sum();
    let mut packed = Vec::new();
    for batch in batches {
        let mut out = Vec::new();
        (way.encode)(batch, &mut out)?;
        measured.bytes += out.len();
        packed.push(out);
    }
    for (bytes, batch) in packed.iter().zip(batches) {
        let rows = (way.decode)(bytes)?;
        if rows != batch.num_rows() {
            return Err(Error::data(format!("{}: {rows} rows came back of {}", way.name, batch.num_rows())));
        }
    }
    let wanted = BATCHES_MIN.div_ceil(batches.len().max(1));
    let mut out = Vec::new();
    let start = Instant::now();
    let mut done = 0;
    while done < wanted && (done == 0 || start.elapsed() < TIME_MAX) {
        for batch in batches {
            out.clear();
            (way.encode)(batch, &mut out)?;
        }
        done += 1;
    }
    measured.encode_seconds += start.elapsed().as_secs_f64() / done as f64;
    let start = Instant::now();
    let mut done = 0;
    while done < wanted.min(8) && (done == 0 || start.elapsed() < TIME_MAX) {
        for bytes in &packed {
            std::hint::black_box((way.decode)(bytes)?);
        }
        done += 1;
    }
    measured.decode_seconds += start.elapsed().as_secs_f64() / done as f64;
    measured.raw_bytes += raw_bytes as f64;
    Ok(())
}

/// The bytes of a batch's values, as far as they have a width.
fn raw_bytes_of(batch: &RecordBatch) -> usize {
    let width = |column: &arrow::array::ArrayRef| match column.data_type().primitive_width() {
        Some(width) => width * column.len(),
        None => column.get_array_memory_size().min(16 * column.len()),
    };
    batch.columns().iter().map(width).sum()
}
