//! `tidegate decode`: frames back into rows.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::tables::{TableFormat, TableWriter, check_output};
use crate::codec::frame::FrameReader;
use crate::codec::stage::Dictionary;
use crate::error::{Error, Kind, Result};

/// Arguments of `tidegate decode`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate decode out/frames.tgf                       rows as NDJSON
  tidegate decode out/*.tgf --to parquet -o rows.parquet
  curl -s https://example.com/frames | tidegate decode - --to csv

Damaged frames are reported on standard error and left out; the exit code is then 1.")]
pub struct DecodeArgs {
    /// Files of frames, read one after the other; `-`, or none, for standard input.
    pub files: Vec<PathBuf>,
    /// What the rows become.
    #[arg(long, value_enum, default_value_t = TableFormat::Ndjson)]
    pub to: TableFormat,
    /// Write here instead of to standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// A dictionary that frames were made with; may be given several times, each frame names the one it needs.
    #[arg(long, value_name = "FILE")]
    pub dictionary: Vec<PathBuf>,
}

/// Decodes frames.
///
/// # Errors
/// If something cannot be read or written; at the end, if anything was damaged.
pub fn run(args: &DecodeArgs) -> Result<()> {
    decode(args, &mut std::io::stderr())
}

/// How much was decoded, and not.
#[derive(Debug, Default)]
struct Progress {
    frames: u64,
    rows: u64,
    faults: u64,
}

fn decode(args: &DecodeArgs, report: &mut dyn Write) -> Result<()> {
    check_output(args.output.as_deref(), &args.files)?;
    let dictionaries = args.dictionary.iter().map(|path| load_dictionary(path));
    let dictionaries = dictionaries.collect::<Result<Vec<_>>>()?;
    let mut writer = TableWriter::open(args.to, args.output.as_deref())?;
    let mut progress = Progress::default();
    let standard_input = [PathBuf::from("-")];
    let files = if args.files.is_empty() { &standard_input[..] } else { &args.files };
    for path in files {
        let (name, input): (String, Box<dyn Read>) = if path.as_os_str() == "-" {
            ("standard input".to_owned(), Box::new(std::io::stdin().lock()))
        } else {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|error| Error::io(format!("opening {name}"), &error))?;
            (name, Box::new(file))
        };
        let frames = FrameReader::new(input).with_dictionaries(dictionaries.iter().cloned());
        decode_file(&name, frames, &mut writer, &mut progress, report)?;
        if writer.is_closed() {
            return Ok(());
        }
    }
    writer.finish()?;
    // Whoever cannot read the report gets the exit code.
    let _ = writeln!(report, "{} frames, {} rows", progress.frames, progress.rows);
    match progress.faults {
        0 => Ok(()),
        1 => Err(Error::data("1 fault, reported above; all else is decoded")),
        faults => Err(Error::data(format!("{faults} faults, reported above; all else is decoded"))),
    }
}

fn decode_file(
    name: &str,
    frames: FrameReader<Box<dyn Read + '_>>,
    writer: &mut TableWriter,
    progress: &mut Progress,
    report: &mut dyn Write,
) -> Result<()> {
    for (index, decoded) in frames.enumerate() {
        let outcome = decoded.and_then(|decoded| {
            for skipped in &decoded.skipped {
                let _ = writeln!(report, "{name}: frame {}: {skipped}", index + 1);
            }
            let written = writer.write(&decoded.batch);
            written.map_err(|error| match error.kind {
                Kind::Data => Error::data(format!("frame {}: {}", index + 1, error.message)),
                _ => error,
            })?;
            Ok((decoded.batch.num_rows(), decoded.skipped.len()))
        });
        match outcome {
            Ok((rows, skipped)) => {
                progress.frames += 1;
                progress.rows += rows as u64;
                progress.faults += skipped as u64;
            }
            Err(error) if error.kind == Kind::Data => {
                progress.faults += 1;
                let _ = writeln!(report, "{name}: {error}");
            }
            Err(error) => return Err(error),
        }
        if writer.is_closed() {
            break;
        }
    }
    Ok(())
}

fn load_dictionary(path: &Path) -> Result<Arc<Dictionary>> {
    let failed = |error: std::io::Error| Error::config(format!("{}: {error}", path.display()));
    let bytes = std::fs::read(path).map_err(failed)?;
    Dictionary::new(bytes)
        .map(Arc::new)
        .map_err(|error| Error::config(format!("{}: {}", path.display(), error.message)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};

    use crate::codec::frame::{FrameEncoder, FrameOptions};
    use crate::codec::stage::Stage;

    fn rows(from: i64, to: i64) -> RecordBatch {
        RecordBatch::try_from_iter([
            ("seq", Arc::new((from..to).collect::<Int64Array>()) as ArrayRef),
            ("temp", Arc::new((from..to).map(|row| row as f64 + 0.5).collect::<Float64Array>())),
        ])
        .unwrap()
    }

    fn frame(batch: &RecordBatch, stage: Stage) -> Vec<u8> {
        let mut bytes = Vec::new();
        FrameEncoder::new(FrameOptions { stage }).unwrap().encode(batch, &mut bytes).unwrap();
        bytes
    }

    /// What comes out, what is reported, and how it ended.
    fn run_on(files: &[&[u8]], to: TableFormat, dictionary: Option<&[u8]>) -> (String, String, Result<()>) {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: String, bytes: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let output = directory.path().join("out");
        let args = DecodeArgs {
            files: (0..)
                .zip(files)
                .map(|(at, bytes): (usize, _)| write(format!("{at}.tgf"), bytes))
                .collect(),
            to,
            output: Some(output.clone()),
            dictionary: dictionary.map(|bytes| write("dict".to_owned(), bytes)).into_iter().collect(),
        };
        let mut report = Vec::new();
        let outcome = decode(&args, &mut report);
        let bytes = std::fs::read(output).unwrap_or_default();
        let report = String::from_utf8(report).unwrap();
        let directory = format!("{}/", directory.path().display());
        (String::from_utf8_lossy(&bytes).into_owned(), report.replace(&directory, ""), outcome)
    }

    fn lines(ranges: &[(i64, i64)]) -> String {
        let rows = ranges.iter().flat_map(|(from, to)| *from..*to);
        rows.map(|row| format!("{{\"seq\":{row},\"temp\":{row}.5}}\n")).collect()
    }

    #[test]
    fn frames_of_several_files_become_rows() {
        let first = [frame(&rows(0, 3), Stage::default()), frame(&rows(3, 5), Stage::Huffman)].concat();
        let second = frame(&rows(5, 9), Stage::Lzw);
        let (out, report, outcome) = run_on(&[&first, &second], TableFormat::Ndjson, None);
        outcome.unwrap();
        assert_eq!((out, report.as_str()), (lines(&[(0, 9)]), "3 frames, 9 rows\n"));
        let (out, _, outcome) = run_on(&[&first], TableFormat::Csv, None);
        outcome.unwrap();
        assert_eq!(out, "seq,temp\n0,0.5\n1,1.5\n2,2.5\n3,3.5\n4,4.5\n");
        let (out, _, outcome) = run_on(&[&first], TableFormat::Parquet, None);
        outcome.unwrap();
        assert!(out.starts_with("PAR1") && out.ends_with("PAR1"));
    }

    #[test]
    fn what_is_damaged_is_reported_and_all_else_is_saved() {
        let mut bytes = Vec::new();
        for (from, to) in [(0, 3), (3, 6), (6, 9)] {
            bytes.extend(frame(&rows(from, to), Stage::default()));
        }
        let length = frame(&rows(0, 3), Stage::default()).len();
        bytes[length + length / 2] ^= 0x10;
        bytes.extend_from_slice(b"some text in between");
        bytes.extend(frame(&rows(9, 10), Stage::Stored));
        let (out, report, outcome) = run_on(&[&bytes, b"not a frame"], TableFormat::Ndjson, None);
        assert_eq!(out, lines(&[(0, 3), (6, 10)]));
        assert_eq!(outcome.unwrap_err().message, "3 faults, reported above; all else is decoded");
        let report: Vec<&str> = report.lines().collect();
        assert_eq!(report.len(), 4, "{report:?}");
        assert!(report[0].starts_with(&format!("0.tgf: frame at byte {length}: damaged")), "{report:?}");
        assert!(report[1].starts_with("0.tgf: 20 bytes at byte"), "{report:?}");
        assert!(report[2].starts_with("1.tgf: 11 bytes at byte 0 are not a frame"), "{report:?}");
        assert_eq!(report[3], "3 frames, 7 rows");
    }

    #[test]
    fn other_columns_do_not_fit_one_table_of_csv() {
        let other = RecordBatch::try_from_iter([("x", Arc::clone(rows(0, 1).column(0)))]).unwrap();
        let bytes = [frame(&rows(0, 1), Stage::Stored), frame(&other, Stage::Stored)].concat();
        let (out, _, outcome) = run_on(&[&bytes], TableFormat::Ndjson, None);
        outcome.unwrap();
        assert_eq!(out, lines(&[(0, 1)]) + "{\"x\":0}\n");
        let (out, report, outcome) = run_on(&[&bytes], TableFormat::Csv, None);
        assert!(
            outcome.is_err() && report.starts_with("0.tgf: frame 2: the rows have other columns"),
            "{report}"
        );
        assert_eq!(out, "seq,temp\n0,0.5\n");
    }

    #[test]
    fn a_dictionary_is_asked_for_and_used() {
        let words: Vec<u8> = (0..500u32).flat_map(|word| (word * 31).to_le_bytes()).collect();
        let dictionary = Arc::new(Dictionary::new(words.clone()).unwrap());
        let bytes = frame(&rows(0, 50), Stage::Zstd { level: 3, dictionary: Some(dictionary) });
        let (out, report, outcome) = run_on(&[&bytes], TableFormat::Ndjson, None);
        assert!(outcome.is_err() && out.is_empty() && report.contains("needs the dictionary"), "{report}");
        let (out, _, outcome) = run_on(&[&bytes], TableFormat::Ndjson, Some(&words));
        outcome.unwrap();
        assert_eq!(out, lines(&[(0, 50)]));
    }
}
