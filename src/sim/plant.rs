//! The graph that runs in the simulated world: two sources of messages, a filter over both, a model, and three ways
//! out (rows without duplicates, windows of sums, a pulse on ticks). Small operators, real contracts. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, BinaryArray, DictionaryArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};

use crate::core::schema::{self, tag_type, time_array, time_field};
use crate::core::{
    Edge, EventTime, Fingerprint, Graph, Model, ModelId, ModelOrigin, Node, Operator, Output, Port, SinkNode,
    StateReader, StateWriter,
};
use crate::registry::Built;
use crate::{Error, Result};

/// How far behind the newest row of a source its watermark stays, µs.
pub(super) const LATENESS_US: i64 = 2_000_000;
/// The watermark moves in steps of this, µs.
pub(super) const GRID_US: i64 = 500_000;
/// Time between two pulses.
pub(super) const PULSE: Duration = Duration::from_secs(3);
/// Rows whose value this divides are left out.
pub(super) const LEFT_OUT: i64 = 5;
/// The model that the model node refuses.
pub(super) const REFUSED_FACTOR: u8 = 13;
/// The names of the sources.
pub(super) const SOURCES: [&str; 2] = ["west", "east"];
/// The node that takes models.
pub(super) const MODEL_NODE: &str = "scale";

/// One of the pipeline files that a plant may be started with: the same but for what some nodes mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Variant(u8);

impl Variant {
    /// How many there are.
    pub const COUNT: usize = 32;

    /// One of them.
    pub fn of(number: usize) -> Self {
        Self((number % Self::COUNT) as u8)
    }

    /// The place of a source in the graph, or the source at a place: the file may name them in either order.
    pub fn place_of(self, source: usize) -> usize {
        if self.0 & 16 == 0 { source } else { SOURCES.len() - 1 - source }
    }

    /// The names of the sources as the file has them.
    pub fn source_names(self) -> Vec<String> {
        (0..SOURCES.len()).map(|place| SOURCES[self.place_of(place)].to_owned()).collect()
    }

    /// The name of the windows.
    pub fn sum_name(self) -> &'static str {
        if self.0 & 1 == 0 { "sum" } else { "total" }
    }

    /// Length of a window of sums, µs.
    pub fn window_us(self) -> i64 {
        if self.0 & 2 == 0 { 5_000_000 } else { 3_000_000 }
    }

    /// What the node without duplicates means: its state is not the other's.
    pub fn once_meaning(self) -> u64 {
        u64::from(self.0 & 4)
    }

    /// The name of the pulse.
    pub fn pulse_name(self) -> &'static str {
        if self.0 & 8 == 0 { "pulse" } else { "beat" }
    }
}

/// A reading on its way through the plant: the message at its start, the row at its end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reading {
    /// Event time, µs.
    pub time: i64,
    /// Which device.
    pub device: String,
    /// The device's own count.
    pub seq: i64,
    /// What was measured.
    pub value: i64,
}

/// The columns of readings.
pub(super) fn reading_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        time_field(),
        Field::new("device", tag_type(), true),
        Field::new("seq", DataType::Int64, true),
        Field::new("value", DataType::Int64, true),
    ]))
}

/// Readings as raw messages: what a source gives.
pub(super) fn messages(readings: &[Reading], arrival_us: i64) -> Result<RecordBatch> {
    let topics: DictionaryArray<Int32Type> =
        readings.iter().map(|reading| Some(reading.device.as_str())).collect();
    let payloads: Vec<Vec<u8>> = readings
        .iter()
        .map(|reading| {
            [reading.time, reading.seq, reading.value].iter().flat_map(|word| word.to_le_bytes()).collect()
        })
        .collect();
    let payloads = BinaryArray::from_iter_values(payloads);
    let columns: Vec<ArrayRef> =
        vec![Arc::new(topics), Arc::new(payloads), time_array(vec![arrival_us; readings.len()])];
    Ok(RecordBatch::try_new(schema::raw(), columns)?)
}

/// The readings in raw messages.
pub(super) fn read_messages(batch: &RecordBatch) -> Result<Vec<Reading>> {
    let topics = batch.column(0).as_dictionary::<Int32Type>();
    let names = topics.values().as_string::<i32>();
    let payloads = batch.column(1).as_binary::<i32>();
    let damaged = || Error::data("a message of the plant is not 24 bytes under a topic");
    topics
        .keys()
        .iter()
        .zip(payloads.iter())
        .map(|(key, payload)| {
            let (key, payload) = (key.ok_or_else(damaged)?, payload.ok_or_else(damaged)?);
            let mut words = payload.as_chunks::<8>().0.iter().map(|word| i64::from_le_bytes(*word));
            let mut word = || words.next().ok_or_else(damaged);
            let (time, seq, value) = (word()?, word()?, word()?);
            Ok(Reading { time, device: names.value(key as usize).to_owned(), seq, value })
        })
        .collect()
}

fn columns_of(readings: &[Reading]) -> Result<RecordBatch> {
    let devices: DictionaryArray<Int32Type> =
        readings.iter().map(|reading| Some(reading.device.as_str())).collect();
    let number = |of: fn(&Reading) -> i64| Int64Array::from_iter_values(readings.iter().map(of));
    let columns: Vec<ArrayRef> = vec![
        time_array(readings.iter().map(|reading| reading.time).collect()),
        Arc::new(devices),
        Arc::new(number(|reading| reading.seq)),
        Arc::new(number(|reading| reading.value)),
    ];
    Ok(RecordBatch::try_new(reading_schema(), columns)?)
}

fn readings_of(batch: &RecordBatch) -> Vec<Reading> {
    let times = batch.column(0).as_primitive::<TimestampMicrosecondType>().values();
    let devices = batch.column(1).as_dictionary::<Int32Type>();
    let names: &StringArray = devices.values().as_string::<i32>();
    let number = |column: usize| batch.column(column).as_primitive::<Int64Type>().values();
    let numbers = number(2).iter().zip(number(3).iter());
    let rows = times.iter().zip(devices.keys().values()).zip(numbers);
    rows.map(|((time, key), (seq, value))| Reading {
        time: *time,
        device: names.value(*key as usize).to_owned(),
        seq: *seq,
        value: *value,
    })
    .collect()
}

/// The watermark behind a row, on the grid.
pub(super) fn watermark_behind(time: i64) -> i64 {
    (time - LATENESS_US).div_euclid(GRID_US) * GRID_US
}

/// Messages to readings, with the source's watermark.
struct Unpack {
    watermark: i64,
}

impl Operator for Unpack {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let mut so_far = Vec::new();
        for reading in read_messages(&batch)? {
            let watermark = watermark_behind(reading.time);
            so_far.push(reading);
            if watermark > self.watermark {
                self.watermark = watermark;
                out.emit(0, columns_of(&std::mem::take(&mut so_far))?);
                out.watermark(EventTime(watermark));
            }
        }
        out.emit(0, columns_of(&so_far)?);
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter) {
        state.value(&self.watermark);
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        self.watermark = state.value()?;
        Ok(())
    }
}

/// Leaves some rows out; all inputs become one.
struct Keep;

impl Operator for Keep {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let kept: Vec<Reading> =
            readings_of(&batch).into_iter().filter(|reading| reading.value % LEFT_OUT != 0).collect();
        out.emit(0, columns_of(&kept)?);
        Ok(())
    }
}

/// Multiplies by the number that its model is.
struct Scale {
    factor: u8,
}

/// The model that multiplies by a number.
pub(super) fn model_of(factor: u8) -> Model {
    Model {
        id: ModelId([factor; 32]),
        bytes: Arc::from([factor]),
        origin: ModelOrigin::Request,
        prepared: Box::new(factor),
    }
}

/// The model of an id in the log.
pub(super) fn recall_model(id: &str) -> Result<Model> {
    let factor = id.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    factor.map(model_of).ok_or_else(|| Error::model(format!("{id} is no model of the plant")))
}

impl Operator for Scale {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let mut readings = readings_of(&batch);
        readings.iter_mut().for_each(|reading| reading.value *= i64::from(self.factor));
        out.emit(0, columns_of(&readings)?);
        Ok(())
    }

    fn update(&mut self, model: Arc<Model>) -> Result<()> {
        match model.prepared.downcast_ref::<u8>() {
            Some(factor) if *factor != REFUSED_FACTOR => {
                self.factor = *factor;
                Ok(())
            }
            _ => Err(Error::model("no model of the plant, or the one that is refused")),
        }
    }

    fn save(&mut self, state: &mut StateWriter) {
        state.value(&self.factor);
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        self.factor = state.value()?;
        Ok(())
    }
}

/// Each reading of a device once.
#[derive(Default)]
struct Once {
    seen: BTreeSet<(String, i64)>,
}

impl Operator for Once {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let new: Vec<Reading> = readings_of(&batch)
            .into_iter()
            .filter(|reading| self.seen.insert((reading.device.clone(), reading.seq)))
            .collect();
        out.emit(0, columns_of(&new)?);
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter) {
        state.value(&self.seen);
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        self.seen = state.value()?;
        Ok(())
    }
}

/// Count and sum per device and window, when the watermark passes the window's end.
struct Sum {
    window_us: i64,
    watermark: Option<i64>,
    open: BTreeMap<(i64, String), (i64, i64)>,
}

impl Operator for Sum {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let mut late = Vec::new();
        for reading in readings_of(&batch) {
            let end = (reading.time.div_euclid(self.window_us) + 1) * self.window_us;
            if self.watermark.is_some_and(|watermark| end <= watermark) {
                late.push(reading);
                continue;
            }
            let (count, sum) = self.open.entry((end, reading.device)).or_default();
            *count += 1;
            *sum += reading.value;
        }
        out.count("late_rows", "", late.len() as u64);
        out.emit(1, columns_of(&late)?);
        Ok(())
    }

    fn watermark(&mut self, to: EventTime, out: &mut Output) -> Result<()> {
        self.watermark = Some(to.0);
        let later = self.open.split_off(&(to.0.saturating_add(1), String::new()));
        let fired: Vec<Reading> = std::mem::replace(&mut self.open, later)
            .into_iter()
            .map(|((end, device), (seq, value))| Reading { time: end - 1, device, seq, value })
            .collect();
        out.emit(0, columns_of(&fired)?);
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter) {
        let open: Vec<_> = self.open.iter().collect();
        state.value(&(self.watermark, open));
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        let (watermark, open): (Option<i64>, Vec<_>) = state.value()?;
        (self.watermark, self.open) = (watermark, open.into_iter().collect());
        Ok(())
    }
}

/// How many rows came since the last pulse, some seconds after the first of them.
#[derive(Default)]
struct Pulse {
    rows: i64,
    due: Option<Duration>,
}

impl Operator for Pulse {
    fn process(&mut self, _port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        self.rows += batch.num_rows() as i64;
        self.due.get_or_insert(out.now().mono + PULSE);
        Ok(())
    }

    fn deadline(&self) -> Option<Duration> {
        self.due
    }

    fn tick(&mut self, out: &mut Output) -> Result<()> {
        self.due = None;
        let pulse = Reading {
            time: out.now().wall.0,
            device: "pulse".to_owned(),
            seq: std::mem::take(&mut self.rows),
            value: 0,
        };
        out.emit(0, columns_of(&[pulse])?);
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter) {
        state.value(&(self.rows, self.due));
    }

    fn load(&mut self, state: &mut StateReader<'_>) -> Result<()> {
        (self.rows, self.due) = state.value()?;
        Ok(())
    }
}

/// An operator of the real house that runs beside the plant's own, over the scaled readings.
pub type Guest<'a> = dyn Fn(&SchemaRef) -> Result<Built> + 'a;

/// The plant's graph; a guest's main port goes to a sink of its own.
pub(super) fn graph(variant: Variant, guest: Option<&Guest<'_>>) -> Result<Graph> {
    let node = |name: &str, meaning: u64, operator: Box<dyn Operator>, inputs: Vec<Edge>| Node {
        name: name.to_owned(),
        kind: "plant",
        operator,
        inputs,
        ports: vec![Port { name: "", schema: reading_schema() }],
        fingerprint: Fingerprint(meaning),
        own_watermark: false,
        models: None,
    };
    let from = |node: usize| Edge::Node { node, port: 0 };
    let mut nodes = Vec::new();
    for (source, name) in SOURCES.iter().enumerate() {
        let input = variant.place_of(source);
        let mut unpack = node(name, 0, Box::new(Unpack { watermark: i64::MIN }), vec![Edge::Input(input)]);
        unpack.own_watermark = true;
        nodes.push(unpack);
    }
    nodes.push(node("keep", 0, Box::new(Keep), vec![from(0), from(1)]));
    nodes.push(node(MODEL_NODE, 0, Box::new(Scale { factor: 1 }), vec![from(2)]));
    nodes.push(node("once", variant.once_meaning(), Box::<Once>::default(), vec![from(3)]));
    let window_us = variant.window_us();
    let sum = Sum { window_us, watermark: None, open: BTreeMap::new() };
    let mut sum = node(variant.sum_name(), window_us as u64, Box::new(sum), vec![from(3)]);
    sum.ports.push(Port { name: "late", schema: reading_schema() });
    nodes.push(sum);
    nodes.push(node(variant.pulse_name(), 0, Box::<Pulse>::default(), vec![from(3)]));
    let sink = |name: &str, inputs: Vec<Edge>| SinkNode { name: name.to_owned(), inputs };
    let mut sinks = vec![sink("ledger", vec![from(4)]), sink("postbox", vec![from(4), from(5), from(6)])];
    if let Some(guest) = guest {
        let built = guest(&reading_schema())?;
        let mut guest = node("guest", 0, built.operator, vec![from(3)]);
        (guest.ports, guest.own_watermark) = (built.ports, built.own_watermark);
        nodes.push(guest);
        sinks.push(sink("guests", vec![from(7)]));
    }
    Graph::new(variant.source_names(), nodes, sinks)
}
