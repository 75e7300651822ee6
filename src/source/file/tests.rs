//! The `file` source over real files.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, LargeStringArray, RecordBatch, StringArray,
    TimestampNanosecondArray,
};
use arrow::datatypes::{DataType, Int32Type, SchemaRef, TimestampMicrosecondType};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use super::FileConfig;
use crate::core::{Position, Source};
use crate::registry::{BatchLimits, Checked, Context, Files, NoFiles, SourceConfig, SourceOutput};

struct Disk;

impl Files for Disk {
    fn read(&self, path: &str) -> crate::Result<Vec<u8>> {
        std::fs::read(path).map_err(|error| crate::Error::io(path, &error))
    }
}

fn build(body: &str, rows: usize) -> Checked<(Box<dyn Source>, SourceOutput, Vec<String>)> {
    let batch = BatchLimits { rows, ..BatchLimits::default() };
    let context = Context { name: "in", pipeline: "p", inputs: &[], files: &Disk, batch };
    let config: FileConfig = toml::from_str(body).unwrap();
    config.build(&context).map(|built| (built.source, built.output, built.notes))
}

/// One row: topic, payload, arrival in µs, and the position behind it.
type Message = (String, String, i64, Position);

fn messages(batch: &RecordBatch, position: &Position) -> Vec<Message> {
    let topics = batch.column(0).as_dictionary::<Int32Type>();
    let names = topics.values().as_string::<i32>();
    let payloads = batch.column(1).as_binary::<i32>();
    let arrivals = batch.column(2).as_primitive::<TimestampMicrosecondType>();
    (0..batch.num_rows())
        .map(|row| {
            let topic = names.value(topics.keys().value(row) as usize).to_owned();
            let payload = String::from_utf8_lossy(payloads.value(row)).into_owned();
            (topic, payload, arrivals.value(row), position.clone())
        })
        .collect()
}

async fn all(source: &mut dyn Source, from: Option<&Position>) -> Vec<Message> {
    source.open(from).await.unwrap();
    let mut found = Vec::new();
    while let Some(rows) = source.next().await.unwrap() {
        found.extend(messages(&rows.batch, &rows.position));
    }
    found
}

fn path(directory: &tempfile::TempDir, name: &str, text: impl AsRef<[u8]>) -> String {
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}

#[tokio::test]
async fn resuming_at_every_row_gives_what_an_undisturbed_run_gives() {
    let directory = tempfile::tempdir().unwrap();
    let first = path(&directory, "a.csv", "\u{feff}ts,v\r\n1,\"x\ny\"\n\n2,b\r\n3,c");
    let second = path(&directory, "b.csv", "");
    let third = path(&directory, "c.csv", "ts,w\n4,d\n5,e\n");
    let body = format!("paths = [{first:?}, {second:?}, {third:?}]");
    let run = |rows| build(&body, rows).unwrap().0;
    let undisturbed = all(run(1).as_mut(), None).await;
    let expected: Vec<(&str, &str, i64)> = vec![
        ("a.csv", "ts,v\n1,\"x\ny\"", 0),
        ("a.csv", "ts,v\n2,b", 1_000),
        ("a.csv", "ts,v\n3,c", 2_000),
        ("c.csv", "ts,w\n4,d", 3_000),
        ("c.csv", "ts,w\n5,e", 4_000),
    ];
    let seen: Vec<_> =
        undisturbed.iter().map(|(topic, payload, at, _)| (&**topic, &**payload, *at)).collect();
    assert_eq!(seen, expected);
    for rows in [1, 2, 100] {
        for (index, (.., position)) in undisturbed.iter().enumerate() {
            let rest = all(run(rows).as_mut(), Some(position)).await;
            let bare = |messages: &[Message]| -> Vec<(String, String, i64)> {
                messages.iter().map(|(t, p, a, _)| (t.clone(), p.clone(), *a)).collect()
            };
            assert_eq!(bare(&rest), bare(&undisturbed[index + 1..]), "behind row {index} by {rows}");
        }
    }
    std::fs::write(&third, "ts,w\n4").unwrap();
    let error = run(1).open(Some(&undisturbed[4].3)).await.unwrap_err();
    assert!(error.message.contains("it was changed"), "{error}");
}

#[tokio::test]
async fn lines_longer_than_a_record_may_be_are_counted_and_the_rest_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut text = b"\xef\xbb\xbf{\"a\":1}\n".to_vec();
    text.extend(vec![b'x'; super::text::RECORD_BYTES_MAX + 1]);
    text.extend(b"\n{\"a\":2}");
    let file = path(&directory, "a.ndjson", text);
    let mut source = build(&format!("path = {file:?}"), 100).unwrap().0;
    let found = all(source.as_mut(), None).await;
    assert_eq!(found.iter().map(|row| row.1.as_str()).collect::<Vec<_>>(), ["{\"a\":1}", "{\"a\":2}"]);
    let counts = source.take_counts();
    assert_eq!(
        counts.iter().map(|(count, by)| (count.what, *by)).collect::<Vec<_>>(),
        [("too_long_records", 1)]
    );
}

#[tokio::test]
async fn a_dropped_call_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let text: String = (0..2_000).map(|number| format!("{number}\n")).collect();
    let file = path(&directory, "a.ndjson", text);
    let mut source = build(&format!("path = {file:?}"), 7).unwrap().0;
    source.open(None).await.unwrap();
    let (mut found, mut dropped) = (Vec::new(), 0);
    loop {
        tokio::select! {
            biased;
            () = tokio::task::yield_now() => dropped += 1,
            rows = source.next() => match rows.unwrap() {
                Some(rows) => found.extend(messages(&rows.batch, &rows.position)),
                None => break,
            }
        }
        assert!(dropped < 1_000_000);
    }
    assert!(dropped > 0);
    assert!(found.iter().map(|row| row.1.parse::<usize>().unwrap()).eq(0..2_000));
}

#[tokio::test]
async fn event_time_and_rate_set_the_pace() {
    let directory = tempfile::tempdir().unwrap();
    let text = "{\"t\":{\"ms\":1000000000000}}\n{\"t\":{}}\n{\"t\":{\"ms\":1000000000600}}\n";
    let file = path(&directory, "a.ndjson", text);
    for body in ["time = \"t.ms\"\npace = 2.0", "rate = 6.0"] {
        let mut source = build(&format!("path = {file:?}\n{body}"), 100).unwrap().0;
        let started = Instant::now();
        source.open(None).await.unwrap();
        let first = source.next().await.unwrap().unwrap();
        assert!(started.elapsed() < Duration::from_millis(200), "the first row comes at once");
        let mut rows = first.batch.num_rows();
        while let Some(more) = source.next().await.unwrap() {
            rows += more.batch.num_rows();
        }
        assert_eq!(rows, 3);
        assert!(started.elapsed() >= Duration::from_millis(300), "{body}: {:?}", started.elapsed());
    }
}

fn write_parquet(at: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(3)).build();
    let file = std::fs::File::create(at).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn machine_columns() -> Vec<(&'static str, ArrayRef)> {
    let nanos = [Some(1_000), Some(2_999), None, Some(4_000), Some(5_000), None, Some(7_000)];
    vec![
        ("count", Arc::new(Int32Array::from(vec![1, 2, 3, 4, 5, 6, 7])) as ArrayRef),
        ("at", Arc::new(TimestampNanosecondArray::from(nanos.to_vec()))),
        ("machine", Arc::new(LargeStringArray::from(vec!["a", "b", "a", "b", "a", "b", "c"]))),
        ("note", Arc::new(StringArray::from(vec![Some("x"); 7]))),
    ]
}

#[tokio::test]
async fn parquet_brings_its_columns_and_resumes_at_every_row() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.parquet");
    write_parquet(&file, machine_columns());
    let body = format!("path = {file:?}\ntime = \"at\"\ntags = [\"machine\"]");
    let (_, output, notes) = build(&body, 2).unwrap();
    let SourceOutput::Columns(schema) = output else { panic!("columns expected") };
    let shape = |schema: &SchemaRef| -> Vec<(String, DataType)> {
        schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
    };
    let expected = [
        ("time", crate::core::schema::time_type()),
        ("count", DataType::Int64),
        ("machine", crate::core::schema::tag_type()),
        ("note", DataType::Utf8),
    ];
    assert_eq!(shape(&schema), expected.map(|(name, kind)| (name.to_owned(), kind)));
    assert!(notes.is_empty() && !schema.field(0).is_nullable());
    let mut undisturbed = Vec::new();
    for rows in [1, 2, 100] {
        let from: Vec<Option<Position>> = match rows {
            1 => vec![None],
            _ => undisturbed
                .iter()
                .map(|(.., position): &(i64, i64, String, Position)| Some(position.clone()))
                .collect(),
        };
        for (index, from) in from.into_iter().enumerate() {
            let mut source = build(&body, rows).unwrap().0;
            source.open(from.as_ref()).await.unwrap();
            let mut found = Vec::new();
            while let Some(rows) = source.next().await.unwrap() {
                assert_eq!(rows.batch.schema(), schema);
                let times = rows.batch.column(0).as_primitive::<TimestampMicrosecondType>();
                let counts = rows.batch.column(1).as_primitive::<arrow::datatypes::Int64Type>();
                let tags = rows.batch.column(2).as_dictionary::<Int32Type>();
                let names = tags.values().as_string::<i32>();
                for row in 0..rows.batch.num_rows() {
                    let tag = names.value(tags.keys().value(row) as usize).to_owned();
                    found.push((times.value(row), counts.value(row), tag, rows.position.clone()));
                }
            }
            if rows == 1 {
                let counts = source.take_counts();
                assert_eq!(counts.iter().map(|(_, by)| by).sum::<u64>(), 2, "two rows have no time");
                undisturbed = found;
                let seen: Vec<_> = undisturbed.iter().map(|(time, count, ..)| (*time, *count)).collect();
                assert_eq!(seen, [(1, 1), (2, 2), (4, 4), (5, 5), (7, 7)]);
                continue;
            }
            let bare = |rows: &[(i64, i64, String, Position)]| -> Vec<(i64, i64, String)> {
                rows.iter().map(|(time, count, tag, _)| (*time, *count, tag.clone())).collect()
            };
            assert_eq!(bare(&found), bare(&undisturbed[index + 1..]), "behind row {index} by {rows}");
        }
    }
}

#[tokio::test]
async fn a_further_parquet_file_must_have_the_same_columns() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("a.parquet"), directory.path().join("b.parquet"));
    write_parquet(&first, machine_columns());
    write_parquet(&second, machine_columns().into_iter().take(2).collect());
    let body = format!("paths = [{first:?}, {second:?}]\ntime = \"at\"");
    let mut source = build(&body, 100).unwrap().0;
    source.open(None).await.unwrap();
    let error = loop {
        match source.next().await {
            Ok(rows) => assert!(rows.is_some(), "the second file was not looked at"),
            Err(error) => break error,
        }
    };
    assert!(error.message.contains("b.parquet has other columns than the first file"), "{error}");
}

#[test]
fn times_of_every_form_become_microseconds() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.parquet");
    let forms: [(ArrayRef, &str); 5] = [
        (Arc::new(Int64Array::from(vec![1_700_000_000_123])), "ms"),
        (Arc::new(Int64Array::from(vec![1_700_000_000_123])), "auto"),
        (Arc::new(Int64Array::from(vec![1_700_000_000_123_999_999])), "ns"),
        (Arc::new(Float64Array::from(vec![1_700_000_000.123_5])), "s"),
        (Arc::new(StringArray::from(vec!["2023-11-14T23:13:20.123+01:00"])), "auto"),
    ];
    for (column, unit) in forms {
        let kind = column.data_type().clone();
        write_parquet(&file, vec![("t", column)]);
        let body = format!("path = {file:?}\ntime = \"t\"\ntime_unit = {unit:?}");
        let mut source = build(&body, 10).unwrap().0;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let rows = runtime.block_on(async {
            source.open(None).await.unwrap();
            source.next().await.unwrap().unwrap()
        });
        let time = rows.batch.column(0).as_primitive::<TimestampMicrosecondType>().value(0);
        assert_eq!(time / 1_000, 1_700_000_000_123, "{kind} in {unit}");
    }
}

#[test]
fn examples_and_mistakes() {
    for example in FileConfig::EXAMPLES {
        let mut table: toml::Table = toml::from_str(example).unwrap();
        ["format", "fields", "event_time"].iter().for_each(|key| drop(table.remove(*key)));
        let config: FileConfig = table.try_into().unwrap();
        let batch = BatchLimits::default();
        let context = Context { name: "in", pipeline: "p", inputs: &[], files: &NoFiles, batch };
        assert!(config.build(&context).is_ok(), "{example}");
    }
    let directory = tempfile::tempdir().unwrap();
    let parquet = directory.path().join("a.parquet");
    write_parquet(&parquet, machine_columns());
    let parquet = parquet.to_string_lossy();
    let cases: [(String, &[(&str, &str)]); 9] = [
        (String::new(), &[("", "no file is named")]),
        ("path = \"a\"\npaths = [\"b\"]".into(), &[("paths", "together")]),
        ("path = \"a.xml\"".into(), &[("path", "says no kind")]),
        ("paths = [\"a.csv\", \"b.ndjson\"]".into(), &[("paths[1]", "another kind")]),
        (
            "path = \"a.ndjson\"\nrate = 0.0\ntags = [\"x\"]\ntime_unit = \"m\"".into(),
            &[("rate", "out of range"), ("time_unit", "does not exist")],
        ),
        (
            "path = \"a.ndjson\"\nheader = true\npace = 1.0".into(),
            &[("header", "CSV files only"), ("pace", "must be known")],
        ),
        ("path = \"a.parquet\"".into(), &[("path", "a.parquet")]),
        (format!("path = {parquet:?}"), &[("time", "column \"time\" does not exist")]),
        (
            format!("path = {parquet:?}\ntime = \"at\"\ntags = [\"count\", \"machin\"]"),
            &[("tags[0]", "a tag is text"), ("tags[1]", "does not exist")],
        ),
    ];
    for (body, expected) in cases {
        let problems = build(&body, 10).map(|_| ()).unwrap_err();
        assert_eq!(problems.len(), expected.len(), "{body}: {problems:?}");
        for (problem, (path, part)) in problems.iter().zip(expected) {
            assert!(problem.path == *path && problem.message.contains(part), "{body}: {problem:?}");
        }
    }
}
