//! Readings as MQTT messages: topics and payloads. Pure; writes into a buffer of the caller's.

use std::sync::Arc;

use arrow::array::{Array, StringArray};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plant::{Plant, Reading};
use super::signals::Signal;

/// How a reading is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PayloadFormat {
    /// One JSON object per reading on `plant/{line}/{device}/telemetry`:
    /// `{"ts":1704067200000,"seq":0,"temp":47.12}`. What a device does not measure is left out; a missing value
    /// is `null`.
    Json,
    /// One CSV line per reading on `plant/{line}/{device}/telemetry`: time, sequence number, then every signal
    /// of the plant; empty where there is none.
    Csv,
    /// One message per value on `plant/{line}/{device}/{signal}`: `{"ts":1704067200000,"value":2.41}`. Missing
    /// values are not sent.
    Tags,
    /// One bare value per message on `plant/{line}/{device}/{signal}`: `2.41`. Missing values are not sent.
    Values,
}

/// Writes readings of one plant as messages.
#[derive(Debug, Clone)]
pub struct Encoder {
    format: PayloadFormat,
    signals: Vec<Signal>,
    /// By device and message.
    topics: Arc<StringArray>,
    /// What stands before each signal's value in a JSON object: `,"temp":`.
    keys: Vec<String>,
    /// By device and signal: whether the device measures it.
    measured: Vec<bool>,
    unit_us: i64,
}

impl Encoder {
    /// An encoder for the plant's devices and signals.
    pub fn new(plant: &Plant, format: PayloadFormat) -> Self {
        let signals = plant.signals().to_vec();
        let per_tag = matches!(format, PayloadFormat::Tags | PayloadFormat::Values);
        let ends: Vec<&str> =
            if per_tag { signals.iter().map(|signal| signal.name()).collect() } else { vec!["telemetry"] };
        let ids = plant.devices().iter();
        let topics = ids
            .clone()
            .flat_map(|id| ends.iter().map(move |end| format!("plant/{}/{}/{end}", id.line, id.device)));
        let measured = ids.flat_map(|id| signals.iter().map(|signal| id.kind.channel(*signal).is_some()));
        Self {
            format,
            topics: Arc::new(StringArray::from_iter_values(topics)),
            keys: signals.iter().map(|signal| format!(",\"{}\":", signal.name())).collect(),
            measured: measured.collect(),
            unit_us: plant.time_unit().us(),
            signals,
        }
    }

    /// Messages of one reading, at most: one, or one per signal.
    pub fn messages(&self) -> usize {
        match self.format {
            PayloadFormat::Json | PayloadFormat::Csv => 1,
            PayloadFormat::Tags | PayloadFormat::Values => self.signals.len(),
        }
    }

    /// The names of a CSV line's columns: `ts`, `seq`, then the signals.
    pub fn csv_columns(&self) -> Vec<&'static str> {
        ["ts", "seq"].into_iter().chain(self.signals.iter().map(|signal| signal.name())).collect()
    }

    /// The topic of a message of a device, with `message` below [`Encoder::messages`]; empty for a device or
    /// message that does not exist.
    pub fn topic(&self, device: u32, message: usize) -> &str {
        let index = device as usize * self.messages() + message;
        if message < self.messages() && index < self.topics.len() { self.topics.value(index) } else { "" }
    }

    /// All topics, by device and message.
    pub(super) fn topics(&self) -> &Arc<StringArray> {
        &self.topics
    }

    /// Appends the payload of one message to `into`; false, with nothing written, if there is nothing to send.
    pub fn append(&self, reading: &Reading<'_>, message: usize, into: &mut Vec<u8>) -> bool {
        let ts = reading.time_us.div_euclid(self.unit_us);
        match self.format {
            PayloadFormat::Json => self.json(reading, ts, into),
            PayloadFormat::Csv => self.csv(reading, ts, into),
            PayloadFormat::Tags | PayloadFormat::Values => {
                let value = reading.values.get(message).copied().filter(|value| !value.is_nan());
                let (Some(value), Some(signal)) = (value, self.signals.get(message)) else { return false };
                if self.format == PayloadFormat::Values {
                    append_value(value, *signal, into);
                    return true;
                }
                into.extend_from_slice(b"{\"ts\":");
                append_integer(ts, into);
                into.extend_from_slice(b",\"value\":");
                append_value(value, *signal, into);
                into.push(b'}');
            }
        }
        true
    }

    fn json(&self, reading: &Reading<'_>, ts: i64, into: &mut Vec<u8>) {
        into.extend_from_slice(b"{\"ts\":");
        append_integer(ts, into);
        into.extend_from_slice(b",\"seq\":");
        append_integer(reading.sequence as i64, into);
        let first = reading.device as usize * self.signals.len();
        let measured = self.measured.iter().skip(first);
        let signals = self.signals.iter().zip(&self.keys);
        for ((value, (signal, key)), measured) in reading.values.iter().zip(signals).zip(measured) {
            if !measured {
                continue;
            }
            into.extend_from_slice(key.as_bytes());
            if value.is_nan() {
                into.extend_from_slice(b"null");
            } else {
                append_value(*value, *signal, into);
            }
        }
        into.push(b'}');
    }

    fn csv(&self, reading: &Reading<'_>, ts: i64, into: &mut Vec<u8>) {
        append_integer(ts, into);
        into.push(b',');
        append_integer(reading.sequence as i64, into);
        for (value, signal) in reading.values.iter().zip(&self.signals) {
            into.push(b',');
            if !value.is_nan() {
                append_value(*value, *signal, into);
            }
        }
    }
}

fn append_integer(value: i64, into: &mut Vec<u8>) {
    into.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// The value with the digits of its sensor's resolution, which parse back to the very same number.
fn append_value(value: f64, signal: Signal, into: &mut Vec<u8>) {
    let steps = signal.steps(value);
    let decimals = signal.decimals() as usize;
    if decimals == 0 {
        return append_integer(steps, into);
    }
    let scale = 10_u64.pow(signal.decimals());
    let size = steps.unsigned_abs();
    if steps < 0 {
        into.push(b'-');
    }
    into.extend_from_slice(itoa::Buffer::new().format(size / scale).as_bytes());
    into.push(b'.');
    // A leading 1 keeps the zeros after the point: 1053 for .053.
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(scale + size % scale);
    into.extend_from_slice(&digits.as_bytes()[1..]);
}

#[cfg(test)]
mod tests {
    use super::super::{DeviceKind, PlantConfig, Profile};
    use super::*;

    #[test]
    fn values_are_written_with_their_resolution() {
        let table = [
            (Signal::Temp, 21.5, "21.50"),
            (Signal::Temp, -0.05, "-0.05"),
            (Signal::Vib, 1.007, "1.007"),
            (Signal::Rpm, 1480.0, "1480"),
            (Signal::Humidity, 0.0, "0.0"),
            (Signal::Energy, 123_456.789, "123456.789"),
        ];
        for (signal, value, text) in table {
            let mut bytes = Vec::new();
            append_value(value, signal, &mut bytes);
            assert_eq!(String::from_utf8(bytes).unwrap(), text);
            assert_eq!(text.parse::<f64>().unwrap().to_bits(), value.to_bits());
        }
    }

    fn first_messages(config: &PlantConfig, format: PayloadFormat, readings: usize) -> Vec<(String, String)> {
        let mut plant = Plant::new(config).unwrap();
        let encoder = Encoder::new(&plant, format);
        let mut messages = Vec::new();
        for _ in 0..readings {
            let reading = plant.next(i64::MAX).unwrap();
            for message in 0..encoder.messages() {
                let mut bytes = Vec::new();
                if encoder.append(&reading, message, &mut bytes) {
                    let topic = encoder.topic(reading.device, message).to_owned();
                    messages.push((topic, String::from_utf8(bytes).unwrap()));
                }
            }
        }
        messages
    }

    #[test]
    fn json_holds_the_readings_values() {
        let config = PlantConfig { devices: 3, missing: 0.2, ..PlantConfig::default() };
        let mut plant = Plant::new(&config).unwrap();
        for (topic, payload) in first_messages(&config, PayloadFormat::Json, 60) {
            let reading = plant.next(i64::MAX).unwrap();
            assert_eq!(topic, format!("plant/{}/{}/telemetry", reading.id.line, reading.id.device));
            let json: serde_json::Value = serde_json::from_str(&payload).unwrap();
            assert_eq!(json["ts"].as_i64(), Some(reading.time_us / 1_000));
            assert_eq!(json["seq"].as_u64(), Some(reading.sequence));
            let names = ["temp", "vib", "rpm", "current", "pressure"];
            let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(keys, ["ts", "seq", "temp", "vib", "rpm", "current", "pressure"]);
            for (name, value) in names.iter().zip(reading.values) {
                assert_eq!(json[name].as_f64().unwrap_or(f64::NAN).to_bits(), value.to_bits(), "{name}");
            }
        }
    }

    #[test]
    fn json_leaves_out_what_a_device_does_not_measure() {
        let kinds = vec![DeviceKind::Motor, DeviceKind::Fridge];
        let config = PlantConfig { devices: 2, lines: 1, kinds, ..PlantConfig::default() };
        for (topic, payload) in first_messages(&config, PayloadFormat::Json, 10) {
            assert_eq!(topic.contains("motor-01"), payload.contains("\"rpm\""), "{topic} {payload}");
            assert_eq!(topic.contains("fridge-02"), payload.contains("\"door\""), "{topic} {payload}");
        }
    }

    #[test]
    fn csv_has_every_column_in_each_line() {
        let config = PlantConfig {
            profile: Profile::EnergyMeters,
            devices: 2,
            missing: 0.3,
            ..PlantConfig::default()
        };
        let encoder = Encoder::new(&Plant::new(&config).unwrap(), PayloadFormat::Csv);
        let columns = ["ts", "seq", "current", "voltage", "power_factor", "power", "energy"];
        assert_eq!(encoder.csv_columns(), columns);
        for (_, line) in first_messages(&config, PayloadFormat::Csv, 40) {
            assert_eq!(line.split(',').count(), columns.len(), "{line}");
            assert!(line.split(',').all(|cell| cell.is_empty() || cell.parse::<f64>().is_ok()), "{line}");
        }
    }

    #[test]
    fn tags_have_one_topic_per_signal() {
        let config =
            PlantConfig { profile: Profile::WaterLoop, devices: 1, lines: 1, ..PlantConfig::default() };
        let messages = first_messages(&config, PayloadFormat::Tags, 1);
        let topics: Vec<&str> = messages.iter().map(|(topic, _)| topic.as_str()).collect();
        let expected =
            ["pressure", "flow_in", "flow_out", "level"].map(|end| format!("plant/line-1/tank-01/{end}"));
        assert_eq!(topics, expected);
        for (_, payload) in &messages {
            let json: serde_json::Value = serde_json::from_str(payload).unwrap();
            assert!(json["ts"].is_i64() && json["value"].is_f64(), "{payload}");
        }
        let bare = first_messages(&config, PayloadFormat::Values, 1);
        assert!(bare.iter().all(|(_, payload)| payload.parse::<f64>().is_ok()));
        let gaps = PlantConfig { missing: 0.5, ..config };
        let count = first_messages(&gaps, PayloadFormat::Tags, 200).len();
        assert!((300..500).contains(&count), "{count} of 800 values, half of them missing");
    }
}
