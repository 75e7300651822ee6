//! A model is replaced while data flow. Two models are trained on a sound simulated plant; a pipeline runs with the
//! first; the second is posted to its admin port, as an operator would with curl; then one that is broken.
//!
//! `cargo run --example push_model`

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use tidegate::cli::files::DiskFiles;
use tidegate::config::{self, Options, Pipeline};
use tidegate::embed;
use tidegate::model::{Trained, TrainingData, TrainingOptions, train};
use tidegate::runtime::admin;
use tidegate::runtime::coordinator::Request;
use tidegate::runtime::pipeline::start;
use tidegate::source::simulate::{Plant, PlantConfig};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// What the models look at.
const COLUMNS: [&str; 3] = ["temp", "vib", "current"];

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let rows = sound_rows()?;
    let first = trained(&rows, TrainingOptions { seed: 1, ..TrainingOptions::default() })?;
    // The second names the first as the one it follows.
    let follows =
        TrainingOptions { seed: 2, version: 2, parent: Some(first.id), ..TrainingOptions::default() };
    let second = trained(&rows, follows)?;
    println!("trained {} and {}, {} bytes each", first.id.short(), second.id.short(), first.bytes.len());

    let file = directory.path().join("first.tgm");
    std::fs::write(&file, &first.bytes)?;
    let models = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(replaced_while_data_flow(pipeline(&file)?, &second))?;

    // One change, between two rows; the broken model has changed nothing.
    match models.as_slice() {
        [before, after] if *before == first.id.short() && *after == second.id.short() => Ok(()),
        other => Err(format!("the column `model` went through {other:?}").into()),
    }
}

async fn replaced_while_data_flow(
    mut pipeline: Pipeline,
    second: &Trained,
) -> Result<Vec<String>, Box<dyn Error>> {
    let results = embed::take(&mut pipeline, "results")?;
    let running = start(pipeline).await?;
    // Port 0 is any free one. `tidegate run --admin 127.0.0.1:9600` does the same.
    let board = admin::Board::new(vec![running.served.clone()], Vec::new());
    let (address, admin) = admin::serve((Ipv4Addr::LOCALHOST, 0).into(), None, board).await?;
    // Results must be read all the time: a sink that is full holds the pipeline back, and with it the cut.
    let reader = tokio::spawn(watch(results));

    wait_for_rows(&running.served.metrics(), 100).await?;
    let (status, text) = post(address, second.bytes.clone()).await?;
    println!("second model: {status} {text}");
    if status != 200 {
        return Err("the second model was refused".into());
    }
    wait_for_rows(&running.served.metrics(), 100).await?;

    let mut broken = second.bytes.clone();
    broken.truncate(broken.len() / 2);
    let (status, text) = post(address, broken).await?;
    println!("half a model: {status} {text}");
    if status != 422 {
        return Err("half a model was taken".into());
    }
    wait_for_rows(&running.served.metrics(), 100).await?;

    running.requests.send(Request::Stop).await?;
    running.task.await??;
    admin.abort();
    Ok(reader.await?)
}

/// Follows the column `model`; gives the models in the order in which they ran.
async fn watch(mut results: ReceiverStream<RecordBatch>) -> Vec<String> {
    let (mut models, mut rows) = (Vec::<String>::new(), 0);
    while let Some(batch) = results.next().await {
        let Some(column) =
            batch.column_by_name("model").and_then(|column| cast(column, &DataType::Utf8).ok())
        else {
            break;
        };
        for model in column.as_string::<i32>().iter().flatten() {
            rows += 1;
            if models.last().is_none_or(|last| last != model) {
                println!("from row {rows} on: model {model}");
                models.push(model.to_owned());
            }
        }
    }
    println!("{rows} rows scored");
    models
}

async fn post(address: SocketAddr, model: Vec<u8>) -> Result<(u16, String), Box<dyn Error>> {
    let client = tidegate::net::http::client()?;
    let answer = client.post(format!("http://{address}/models/anomaly")).body(model).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?.split_whitespace().collect::<Vec<_>>().join(" ")))
}

/// Waits until so many rows more have come in.
async fn wait_for_rows(
    metrics: &tidegate::runtime::metrics::PipelineMetrics,
    more: u64,
) -> Result<(), Box<dyn Error>> {
    let wanted = metrics.totals().source_rows + more;
    for _ in 0..1000 {
        if metrics.totals().source_rows >= wanted {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err("no rows come in".into())
}

fn pipeline(model: &Path) -> Result<Pipeline, Box<dyn Error>> {
    let text = format!(
        r#"
[pipeline]
name = "push"

[source.plant]
type = "simulate"
devices = 4
rate_hz = 10.0
speed = 20.0                 # 800 readings a second

[operator.anomaly]
type = "detect"
inputs = ["plant"]
model = {{ file = {model:?} }}

[sink.results]
type = "rows"
inputs = ["anomaly"]
"#
    );
    Ok(config::load(&text, "push.toml", &embed::registry(), &Options::new(&DiskFiles))?)
}

/// Readings of a plant without faults, row-major.
fn sound_rows() -> Result<Vec<f64>, Box<dyn Error>> {
    let config = PlantConfig { devices: 4, rate_hz: 5.0, duration_s: Some(60.0), ..PlantConfig::default() };
    let mut plant = Plant::new(&config)?;
    let mut rows = Vec::new();
    while let Some(batch) = plant.next_batch(1024, i64::MAX)? {
        let columns: Vec<_> = COLUMNS
            .iter()
            .filter_map(|name| Some(batch.column_by_name(name)?.as_primitive::<Float64Type>().values()))
            .collect();
        rows.extend((0..batch.num_rows()).flat_map(|row| columns.iter().map(move |column| column[row])));
    }
    Ok(rows)
}

fn trained(rows: &[f64], options: TrainingOptions) -> Result<Trained, Box<dyn Error>> {
    let names = COLUMNS.map(str::to_owned);
    let options = TrainingOptions { name: "example".to_owned(), epochs_max: 15, ..options };
    Ok(train(TrainingData { names: &names, rows }, &options, &mut |_| {})?)
}
