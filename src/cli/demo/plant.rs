//! The demo's plant: stamping presses of which some fail, and its publisher.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rumqttc::{AsyncClient, MqttOptions, QoS};

use super::DemoArgs;
use crate::error::{Error, Result};
use crate::net::mqtt::parse_url;
use crate::source::simulate::{
    Encoder, FaultKind, FaultSpec, Label, PayloadFormat, Plant, PlantConfig, Profile, Signal,
};

/// How much faster than the wall clock the plant's time runs.
pub const SPEED: u64 = 10;

/// Presses in the plant.
pub const PRESSES: u32 = 10;

/// Readings of each press per second of its own time.
const RATE_HZ: f64 = 20.0;

/// Messages under way to the broker at most.
const IN_FLIGHT: u16 = 200;

/// The plant of one demo.
pub struct DemoPlant {
    config: PlantConfig,
    labels: Vec<Label>,
    names: Vec<String>,
}

impl DemoPlant {
    /// A plant whose time ends about now.
    ///
    /// # Errors
    /// If the plant cannot be made, which would be a fault of the demo.
    pub fn new(args: &DemoArgs) -> Result<Self> {
        let duration_s = (args.seconds * SPEED) as f64;
        let now = crate::clock::wall().micros();
        // On a whole minute, so that windows begin with the plant.
        let start_us = (now - (duration_s * 1e6) as i64).div_euclid(60_000_000) * 60_000_000;
        let mut config = PlantConfig {
            seed: args.seed,
            profile: Profile::PressLine,
            devices: PRESSES,
            lines: 2,
            rate_hz: RATE_HZ,
            start_us,
            duration_s: Some(duration_s),
            ..PlantConfig::default()
        };
        let names: Vec<String> =
            Plant::new(&config)?.devices().iter().map(|device| device.device.clone()).collect();
        if !args.no_faults {
            config.faults.list = faults(args.seed, &names, duration_s);
        }
        let labels = Plant::new(&config)?.labels(i64::MAX);
        Ok(Self { config, labels, names })
    }

    /// The same plant without faults, for an earlier stretch of time.
    ///
    /// # Errors
    /// As [`DemoPlant::new`].
    pub fn sound(&self, seconds: u64) -> Result<Plant> {
        let micros = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        let mut config = self.config.clone();
        config.faults.list.clear();
        config.start_us -= micros;
        config.duration_s = Some(seconds as f64);
        Plant::new(&config)
    }

    /// The faults that are injected.
    pub fn labels(&self) -> &[Label] {
        &self.labels
    }

    /// The faults as JSON, for the user to compare with.
    pub fn labels_json(&self) -> String {
        serde_json::to_string_pretty(&self.labels).unwrap_or_default() + "\n"
    }

    /// The presses' names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Event time of the start, microseconds since 1970.
    pub fn start_us(&self) -> i64 {
        self.config.start_us
    }

    /// Starts publishing over MQTT, on a thread's worth of tasks of its own.
    ///
    /// # Errors
    /// If the url is wrong.
    pub fn publish(&self, url: &str, seconds: u64) -> Result<Publisher> {
        let address =
            parse_url(url).map_err(|problem| Error::config(format!("--broker: {}", problem.message)))?;
        let mut options = MqttOptions::new("tidegate-demo-plant", address.host, address.port);
        options.set_inflight(IN_FLIGHT);
        options.set_keep_alive(Duration::from_secs(10));
        let plant = Plant::new(&self.config)?;
        let sent = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let start_us = self.config.start_us;
        let (count, stopping) = (Arc::clone(&sent), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("plant".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                if let Ok(runtime) = runtime {
                    runtime.block_on(send(plant, options, start_us, seconds, &count, &stopping));
                }
            })
            .map_err(|error| Error::io("starting the plant's thread", &error))?;
        Ok(Publisher { sent, stop, thread: std::sync::Mutex::new(Some(thread)) })
    }
}

/// Which presses fail, how and when: spread over the run, each on a press of its own.
fn faults(seed: u64, names: &[String], duration_s: f64) -> Vec<FaultSpec> {
    let kinds = [
        (FaultKind::BearingWear, None, 0.7),
        (FaultKind::Spike, Some(Signal::Current), 0.7),
        (FaultKind::Drift, Some(Signal::Temp), 0.7),
        (FaultKind::Stuck, Some(Signal::Pressure), 1.0),
    ];
    // Another seed fails other presses in another order; a stride of 3 visits all ten.
    let first = seed % names.len() as u64;
    kinds
        .iter()
        .cycle()
        .skip((seed / 10 % 4) as usize)
        .take(kinds.len())
        .enumerate()
        .map(|(index, (kind, signal, severity))| {
            let press = (first as usize + 3 * index) % names.len();
            FaultSpec {
                kind: *kind,
                device: names[press].clone(),
                signal: *signal,
                start_s: duration_s * (0.15 + 0.2 * index as f64),
                duration_s: duration_s * 0.2,
                severity: *severity,
            }
        })
        .collect()
}

/// The plant on its way into the broker.
pub struct Publisher {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: std::sync::Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Publisher {
    /// Messages published so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops and waits until what was sent has reached the broker.
    pub async fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.lock().ok().and_then(|mut thread| thread.take());
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

async fn send(
    mut plant: Plant,
    options: MqttOptions,
    start_us: i64,
    seconds: u64,
    sent: &AtomicU64,
    stop: &AtomicBool,
) {
    let encoder = Encoder::new(&plant, PayloadFormat::Json);
    let (client, mut events) = AsyncClient::new(options, 1000);
    // Ends when the client says good-bye; a broker that is away is tried again.
    let polling = tokio::spawn(async move {
        loop {
            match events.poll().await {
                Ok(rumqttc::Event::Outgoing(rumqttc::Outgoing::Disconnect)) => break,
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
    });
    let started = Instant::now();
    let mut payload = Vec::new();
    while !stop.load(Ordering::Relaxed) && started.elapsed() < Duration::from_secs(seconds) {
        let elapsed = i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX);
        let until_us = start_us + elapsed.saturating_mul(SPEED as i64);
        while let Some(reading) = plant.next(until_us) {
            payload.clear();
            if encoder.append(&reading, 0, &mut payload) {
                let topic = encoder.topic(reading.device, 0);
                // A broker that is away must not stop the plant's end.
                let publish = client.publish(topic, QoS::AtLeastOnce, false, payload.clone());
                match tokio::time::timeout(Duration::from_millis(500), publish).await {
                    Ok(Ok(())) => _ = sent.fetch_add(1, Ordering::Relaxed),
                    _ if stop.load(Ordering::Relaxed) => break,
                    _ => {}
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The broker drops what it has not routed yet when a publisher goes at once.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _ = client.try_disconnect();
    let _ = tokio::time::timeout(Duration::from_secs(2), polling).await;
}
