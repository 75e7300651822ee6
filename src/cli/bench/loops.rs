//! The plain loops that the pipeline is measured against.

use std::collections::HashMap;
use std::io::Write;
use std::time::Instant;

use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use serde::Deserialize;

use super::broker::CLIENT;
use super::{LogWrites, Measured, Variant, VariantArgs, usage};
use crate::cli::run::runtime;
use crate::error::{Error, Result};

#[derive(Deserialize)]
struct Reading {
    ts: i64,
    temp: f64,
    vib: f64,
    rpm: i64,
}

/// Welford's mean and variance with extremes.
#[derive(Clone, Copy)]
struct Statistic {
    count: u64,
    mean: f64,
    m2: f64,
    min: f64,
    max: f64,
}

impl Statistic {
    const EMPTY: Self = Self { count: 0, mean: 0.0, m2: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY };

    fn add(&mut self, value: f64) {
        self.count += 1;
        let delta = value - self.mean;
        self.mean += delta / self.count as f64;
        self.m2 += delta * (value - self.mean);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    fn std(&self) -> f64 {
        if self.count > 1 { (self.m2 / (self.count - 1) as f64).sqrt() } else { f64::NAN }
    }
}

/// Windows of one second over all devices, written as NDJSON when the time has passed them.
struct Windows {
    out: std::io::BufWriter<std::fs::File>,
    second: i64,
    devices: HashMap<String, [Statistic; 3]>,
    written: u64,
}

impl Windows {
    fn add(&mut self, topic: &str, reading: &Reading) -> std::io::Result<()> {
        let second = reading.ts / 1000;
        if second != self.second {
            self.close()?;
            self.second = second;
        }
        let device = topic.split('/').nth(2).unwrap_or("");
        if !self.devices.contains_key(device) {
            self.devices.insert(device.to_owned(), [Statistic::EMPTY; 3]);
        }
        if let Some([temp, vib, rpm]) = self.devices.get_mut(device) {
            temp.add(reading.temp);
            vib.add(reading.vib);
            rpm.add(reading.rpm as f64);
        }
        Ok(())
    }

    fn close(&mut self) -> std::io::Result<()> {
        for (device, fields) in &mut self.devices {
            if fields[0].count == 0 {
                continue;
            }
            write!(self.out, "{{\"window_end\":{},\"device\":\"{device}\"", (self.second + 1) * 1000)?;
            for (name, field) in ["temp", "vib", "rpm"].iter().zip(fields.iter_mut()) {
                let Statistic { mean, min, max, .. } = *field;
                write!(
                    self.out,
                    ",\"{name}_mean\":{mean},\"{name}_min\":{min},\"{name}_max\":{max},\"{name}_std\":{}",
                    field.std()
                )?;
                *field = Statistic::EMPTY;
            }
            self.out.write_all(b"}\n")?;
            self.written += 1;
        }
        Ok(())
    }
}

/// Runs a plain loop.
///
/// # Errors
/// If the sender goes away or a payload is not what it sends.
pub fn run(args: &VariantArgs) -> Result<Measured> {
    runtime()?.block_on(consume(args))
}

async fn consume(args: &VariantArgs) -> Result<Measured> {
    let mut options = MqttOptions::new(CLIENT, "127.0.0.1", args.port);
    options.set_max_packet_size(1 << 20, 1 << 20);
    options.set_clean_session(!args.resume);
    let (client, mut events) = AsyncClient::new(options, 100);
    let qos = if args.qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
    let failed = |error: String| Error::unavailable(error);
    client.subscribe("plant/+/+/telemetry", qos).await.map_err(|error| failed(error.to_string()))?;
    let path = args.directory.join("windows.ndjson");
    let file = std::fs::File::create(&path).map_err(|error| Error::io(path.display(), &error))?;
    let mut windows = Windows {
        out: std::io::BufWriter::with_capacity(256 << 10, file),
        second: 0,
        devices: HashMap::new(),
        written: 0,
    };
    let io = |error: std::io::Error| Error::io("writing windows", &error);
    let mut messages = 0u64;
    let mut first = None;
    let mut checksum = 0u64;
    while messages < args.messages {
        let event = events.poll().await.map_err(|error| failed(error.to_string()))?;
        let Event::Incoming(Incoming::Publish(publish)) = event else { continue };
        first.get_or_insert_with(Instant::now);
        messages += 1;
        match args.variant {
            Variant::Value => {
                let value: serde_json::Value = serde_json::from_slice(&publish.payload)
                    .map_err(|error| Error::data(error.to_string()))?;
                checksum = checksum.wrapping_add(value["rpm"].as_u64().unwrap_or(0));
            }
            Variant::Loop => {
                let reading: Reading = serde_json::from_slice(&publish.payload)
                    .map_err(|error| Error::data(error.to_string()))?;
                windows.add(&publish.topic, &reading).map_err(io)?;
            }
            _ => checksum = checksum.wrapping_add(publish.payload.len() as u64),
        }
    }
    let seconds = first.map_or(0.0, |first| first.elapsed().as_secs_f64());
    windows.close().map_err(io)?;
    windows.out.flush().map_err(io)?;
    std::hint::black_box(checksum);
    let used = usage::of_this_process()?;
    Ok(used.measured(messages, seconds, windows.written, LogWrites::default()))
}
