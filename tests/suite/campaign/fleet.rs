//! A fleet of sensors over real sockets: each connection publishes its share of the messages at QoS 1 in MQTT 3.1.1, keeps
//! a window of them under way, and after every broken connection comes back and sends again whatever was not acknowledged.
//! When it is done, the other side has acknowledged every message.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::support::publish_packet;

/// Devices of the fleet.
pub const DEVICES: u64 = 1000;
/// Event time of the first reading; the others follow a millisecond apart.
pub const START_MS: u64 = 1_700_000_000_000;
/// Unacknowledged messages of one connection at most.
const WINDOW: usize = 500;
/// How long the other side may stay away or say nothing before the fleet gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the fleet and those who watch it share.
#[derive(Default)]
pub struct Progress {
    /// Messages acknowledged.
    pub acknowledged: AtomicU64,
    /// Packets written, repetitions too.
    pub sent: AtomicU64,
    /// Connections that broke.
    pub broken: AtomicU64,
    /// Rows seen at the far end, for a fleet whose lead is bounded.
    pub arrived: AtomicU64,
    /// Set when a watcher has found that the test has failed.
    pub give_up: AtomicBool,
}

/// One reading's topic and payload.
fn reading(number: u64, late_ms: u64) -> (String, String) {
    let (device, seq) = (number % DEVICES, number / DEVICES);
    let topic = format!("plant/line-{}/device-{device:03}/telemetry", device % 10);
    let payload = format!(r#"{{"ts":{},"seq":{seq},"value":{}}}"#, START_MS + number + late_ms, number % 97);
    (topic, payload)
}

/// How many messages there are, over how many connections, and how far ahead of the far end they may be.
#[derive(Clone, Copy)]
pub struct Plan {
    pub messages: u64,
    pub connections: u64,
    pub lead_max: u64,
    /// Whether what is between may lose messages that it has acknowledged.
    pub may_lose: bool,
}

/// Publishes all messages, waits until all are acknowledged, then does the same with one that closes every window.
pub fn publish(port: u16, plan: Plan, progress: &Arc<Progress>) -> Duration {
    let started = Instant::now();
    let sensors: Vec<_> = (0..plan.connections)
        .map(|connection| {
            let progress = Arc::clone(progress);
            std::thread::spawn(move || {
                let numbers = (connection..plan.messages).step_by(plan.connections as usize);
                Sensor::new(connection, port, plan, progress).send_all(numbers.map(|number| (number, 0)));
            })
        })
        .collect();
    sensors.into_iter().for_each(|sensor| sensor.join().unwrap());
    let took = started.elapsed();
    let last = Sensor::new(plan.connections, port, plan, Arc::clone(progress));
    last.send_all(std::iter::once((plan.messages, 86_400_000)));
    took
}

struct Sensor {
    name: String,
    port: u16,
    plan: Plan,
    progress: Arc<Progress>,
    /// Packets that are not acknowledged, oldest first, with their identifiers.
    under_way: VecDeque<(u16, Vec<u8>)>,
    next_id: u16,
    /// Bytes of acknowledgements that are not whole packets yet.
    heard: Vec<u8>,
}

impl Sensor {
    fn new(connection: u64, port: u16, plan: Plan, progress: Arc<Progress>) -> Self {
        let name = format!("sensor-{connection}");
        Self { name, port, plan, progress, under_way: VecDeque::new(), next_id: 1, heard: Vec::new() }
    }

    fn send_all(mut self, numbers: impl Iterator<Item = (u64, u64)>) {
        let mut numbers = numbers.peekable();
        let mut away_since = Instant::now();
        while numbers.peek().is_some() || !self.under_way.is_empty() {
            assert!(
                away_since.elapsed() < PATIENCE,
                "{}: nobody takes messages on port {}",
                self.name,
                self.port
            );
            let before = self.progress.acknowledged.load(Relaxed);
            if let Ok(stream) = self.connect() {
                let _ = self.talk(stream, &mut numbers);
                self.progress.broken.fetch_add(1, Relaxed);
            }
            if self.progress.acknowledged.load(Relaxed) > before {
                away_since = Instant::now();
            }
            assert!(!self.progress.give_up.load(Relaxed), "the far end has failed");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn connect(&mut self) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let name = self.name.as_bytes();
        // Protocol name and level 4, clean session, keep-alive of a minute.
        let mut connect = vec![0x10, (12 + name.len()) as u8, 0, 4];
        connect.extend_from_slice(b"MQTT\x04\x02\x00\x3c\x00");
        connect.push(name.len() as u8);
        connect.extend_from_slice(name);
        stream.write_all(&connect)?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)?;
        self.heard.clear();
        if answer[0] == 0x20 && answer[3] == 0 {
            Ok(stream)
        } else {
            Err(std::io::ErrorKind::ConnectionRefused.into())
        }
    }

    /// Sends what is under way again, then goes on, until the connection breaks or all is acknowledged.
    fn talk(
        &mut self,
        mut stream: TcpStream,
        numbers: &mut std::iter::Peekable<impl Iterator<Item = (u64, u64)>>,
    ) -> std::io::Result<()> {
        let mut again = Vec::new();
        for (_, packet) in &self.under_way {
            again.extend_from_slice(packet);
        }
        self.progress.sent.fetch_add(self.under_way.len() as u64, Relaxed);
        stream.write_all(&again)?;
        let mut quiet_since = Instant::now();
        loop {
            let mut out = Vec::new();
            while self.under_way.len() < WINDOW && self.may_lead() {
                let Some((number, late_ms)) = numbers.next() else { break };
                let (topic, payload) = reading(number, late_ms);
                let packet = publish_packet(topic.as_bytes(), self.next_id, payload.as_bytes());
                out.extend_from_slice(&packet);
                self.under_way.push_back((self.next_id, packet));
                // 0 is no identifier.
                self.next_id = self.next_id % u16::MAX + 1;
                self.progress.sent.fetch_add(1, Relaxed);
            }
            stream.write_all(&out)?;
            if self.under_way.is_empty() {
                if numbers.peek().is_none() {
                    let _ = stream.write_all(&[0xe0, 0]);
                    return stream.shutdown(Shutdown::Both);
                }
                // Too far ahead of the far end.
                std::thread::sleep(Duration::from_millis(5));
                if quiet_since.elapsed() > Duration::from_secs(30) {
                    stream.write_all(&[0xc0, 0])?;
                    quiet_since = Instant::now();
                }
                assert!(!self.progress.give_up.load(Relaxed), "the far end has failed");
                continue;
            }
            self.take_acknowledgements(&mut stream)?;
            quiet_since = Instant::now();
        }
    }

    fn may_lead(&self) -> bool {
        let ahead =
            self.progress.acknowledged.load(Relaxed).saturating_sub(self.progress.arrived.load(Relaxed));
        ahead < self.plan.lead_max
    }

    fn take_acknowledgements(&mut self, stream: &mut TcpStream) -> std::io::Result<()> {
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.heard.extend_from_slice(&buffer[..length]);
        let mut at = 0;
        while let Some(&[head, rest]) = self.heard.get(at..at + 2) {
            let Some(body) = self.heard.get(at + 2..at + 2 + usize::from(rest)) else { break };
            if head == 0x40 {
                let id = u16::from_be_bytes([body[0], body[1]]);
                // Brokers acknowledge in order nearly always.
                let place = self.under_way.iter().position(|(known, _)| *known == id);
                let place = place.expect("what is acknowledged was sent on this connection");
                self.under_way.remove(place);
                self.progress.acknowledged.fetch_add(1, Relaxed);
            }
            at += 2 + usize::from(rest);
        }
        self.heard.drain(..at);
        Ok(())
    }
}
