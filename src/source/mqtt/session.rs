//! The session with a broker: connecting for ever, taking messages in, acknowledging in the order of receipt.
//!
//! One task does all of it. Acknowledgements never wait: they are put beside the connection and sent with the
//! next write. Those of an older connection are dropped, since the packet identifiers died with it and the broker
//! sends the messages again.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tracing::{debug, info, warn};

use super::connection::{ConnectSettings, Connection, Lost, control};
use super::taken::Taken;
use crate::core::ends::SourceBatch;
use crate::core::{Count, Position, Source, schema};
use crate::error::Result;
use crate::net::backoff::Backoff;
use crate::net::mqtt::Version;
use crate::net::secret;
use crate::net::tls::TlsSettings;
use crate::registry::BatchLimits;
use crate::source::gather::Gather;
use crate::source::mqtt_wire::{self as wire, Protocol};
use crate::source::raw::RawBuilder;
use crate::units::Secret;

/// How a session is held.
#[derive(Clone)]
pub struct SessionSettings {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// TLS, if wanted.
    pub tls: Option<TlsSettings>,
    /// A stable client identifier; without one the session is clean and the identifier random.
    pub client_id: Option<String>,
    /// Seconds that an MQTT 5 broker keeps the session.
    pub session_expiry: u32,
    /// Version of the protocol.
    pub version: Version,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Seconds between signs of life.
    pub keep_alive: u16,
    /// Largest packet taken, in bytes.
    pub packet_bytes_max: usize,
    /// Receive maximum for MQTT 5.
    pub in_flight: u16,
    /// Acknowledge on receipt instead of when told.
    pub acknowledge_on_receipt: bool,
    /// 0, 1 or 2.
    pub qos: u8,
    /// What to subscribe to.
    pub filters: Vec<String>,
    /// Bounds of a batch.
    pub batch: BatchLimits,
}

type Opening = Pin<Box<dyn Future<Output = std::result::Result<Connection, Lost>> + Send>>;

enum Link {
    /// Waiting to try again.
    Down {
        until: Instant,
    },
    Opening(Opening),
    Up(Box<Up>),
}

struct Up {
    connection: Connection,
    ping_at: Instant,
    /// When the answer to a ping must be there.
    pong_by: Option<Instant>,
    /// Bytes of a packet too large that are still to come.
    to_skip: usize,
}

/// The `mqtt` source.
pub struct MqttSource {
    settings: SessionSettings,
    connect: Option<Arc<ConnectSettings>>,
    protocol: Protocol,
    link: Link,
    backoff: Backoff,
    builder: RawBuilder,
    started: Instant,
    taken: Taken,
    gather: Gather,
    /// When the last message or release came.
    came_at: Instant,
    counts: Vec<(Count, u64)>,
    lost_said: bool,
    subscribed: Arc<AtomicBool>,
}

const OVERSIZE: Count = Count { what: "oversize_messages", reason: "" };
const RECONNECTS: Count = Count { what: "reconnects", reason: "" };
/// A message of QoS 2 that had been taken before, and came again because the broker had not heard so.
const REPEATED: Count = Count { what: "repeated_messages", reason: "" };
const MALFORMED: Count = Count { what: "malformed_packets", reason: "" };

/// How long the broker may take to answer a ping.
const PONG_MAX: Duration = Duration::from_secs(10);

impl MqttSource {
    /// Not connected yet.
    pub fn new(settings: SessionSettings) -> Self {
        let protocol = if settings.version == Version::V4 { Protocol::V4 } else { Protocol::V5 };
        Self {
            builder: RawBuilder::new(settings.batch),
            taken: Taken::new(
                settings.client_id.as_deref(),
                settings.qos == 2,
                settings.acknowledge_on_receipt,
            ),
            settings,
            connect: None,
            protocol,
            link: Link::Down { until: Instant::now() },
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(30)),
            started: Instant::now(),
            gather: Gather::default(),
            came_at: Instant::now(),
            counts: Vec::new(),
            lost_said: false,
            subscribed: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Whether it is connected and subscribed, now and later.
    pub fn subscribed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.subscribed)
    }

    fn connect_settings(&self) -> Result<ConnectSettings> {
        let settings = &self.settings;
        let login = match (&settings.username, &settings.password) {
            (Some(user), Some(password)) => Some((user.clone(), secret::resolve(password)?)),
            (Some(user), None) => Some((user.clone(), String::new())),
            (None, _) => None,
        };
        if let Some(tls) = &settings.tls {
            // Files that are not there will not come by waiting.
            tls.client_config()?;
        }
        let random = || format!("tidegate-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        Ok(ConnectSettings {
            host: settings.host.clone(),
            port: settings.port,
            tls: settings.tls.clone(),
            client_id: settings.client_id.clone().unwrap_or_else(random),
            clean: settings.client_id.is_none(),
            session_expiry: settings.session_expiry,
            receive_max: settings.in_flight,
            packet_bytes_max: u32::try_from(settings.packet_bytes_max).unwrap_or(u32::MAX),
            keep_alive: settings.keep_alive,
            login,
            filters: settings.filters.clone(),
            qos: settings.qos,
        })
    }

    fn count(&mut self, count: Count) {
        match self.counts.iter_mut().find(|(known, _)| *known == count) {
            Some((_, by)) => *by += 1,
            None => self.counts.push((count, 1)),
        }
    }

    fn lost(&mut self, lost: &Lost) {
        let broker = format!("{}:{}", self.settings.host, self.settings.port);
        let was_up = matches!(self.link, Link::Up(_));
        self.taken.disconnected();
        self.subscribed.store(false, Ordering::Relaxed);
        if was_up {
            self.count(RECONNECTS);
            self.lost_said = false;
        }
        if lost.version && !was_up && self.settings.version == Version::Auto {
            self.protocol = if self.protocol == Protocol::V5 { Protocol::V4 } else { Protocol::V5 };
            debug!(broker, reason = lost.reason, "trying the other version of MQTT");
            if self.protocol == Protocol::V4 {
                self.link = Link::Down { until: Instant::now() };
                return;
            }
        }
        let wait = self.backoff.wait();
        if std::mem::replace(&mut self.lost_said, true) {
            debug!(broker, reason = lost.reason, wait_ms = wait.as_millis(), "broker still away");
        } else {
            warn!(broker, reason = lost.reason, "no connection to the broker; trying for ever");
        }
        self.link = Link::Down { until: Instant::now() + wait };
    }

    /// Takes messages from the buffer until it is empty or the batch is full.
    fn take(&mut self) -> std::result::Result<(), Lost> {
        let Link::Up(up) = &mut self.link else { return Ok(()) };
        let mono = self.started.elapsed();
        let arrival = crate::clock::wall().micros();
        let mut oversize = 0u64;
        let mut malformed = 0u64;
        let mut repeated = 0u64;
        while !self.builder.is_full() && !self.taken.must_wait() {
            let connection = &mut up.connection;
            if up.to_skip > 0 {
                let skipped = up.to_skip.min(connection.received.len());
                let _ = connection.received.split_to(skipped);
                up.to_skip -= skipped;
                if up.to_skip > 0 {
                    break;
                }
            }
            let head = wire::head(&connection.received)
                .map_err(|reason| Lost { reason: reason.into(), version: false })?;
            let Some(head) = head else { break };
            let whole = connection.received.len() >= head.body.end;
            if !whole && head.body.end > self.settings.packet_bytes_max {
                // Its beginning is enough to acknowledge it; the rest is passed over as it comes.
                let body = &connection.received[head.body.start..];
                let Some((_, packet, _)) =
                    (head.kind == wire::PUBLISH).then(|| wire::publish_head(head.flags, body)).flatten()
                else {
                    if connection.received.len() > usize::from(u16::MAX) + 16 || head.kind != wire::PUBLISH {
                        return Err(Lost {
                            reason: "a packet too large that cannot be passed over".into(),
                            version: false,
                        });
                    }
                    break;
                };
                oversize += 1;
                // In its turn: answers go out in the order of receipt.
                self.taken.answer(wire::quality(head.flags), packet, &mut connection.sending);
                up.to_skip = head.body.end;
                continue;
            }
            if !whole {
                break;
            }
            if head.kind == wire::PUBREL
                && let Some((packet, _)) = wire::identifier(&connection.received[head.body.clone()])
            {
                self.taken.release(packet, &mut connection.sending);
                bytes::Buf::advance(&mut connection.received, head.body.end);
                continue;
            }
            if head.kind != wire::PUBLISH {
                let mut packet = connection.received.split_to(head.body.end);
                control(&mut packet, up.connection.protocol, &self.subscribed)?;
                continue;
            }
            let quality = wire::quality(head.flags);
            match wire::publish(head.flags, &connection.received[head.body.clone()], connection.protocol) {
                Some(publish) => {
                    if head.body.end > self.settings.packet_bytes_max {
                        oversize += 1;
                    } else if self.taken.is_new(quality, publish.packet) {
                        // MQTT demands UTF-8; a topic that is not still carries a reading.
                        let topic = String::from_utf8_lossy(publish.topic);
                        self.builder.push(&topic, publish.payload, arrival, mono);
                        self.taken.row();
                    } else {
                        repeated += 1;
                    }
                    self.taken.answer(quality, publish.packet, &mut connection.sending);
                }
                None => malformed += 1,
            }
            bytes::Buf::advance(&mut connection.received, head.body.end);
        }
        (0..repeated).for_each(|_| self.count(REPEATED));
        (0..oversize).for_each(|_| self.count(OVERSIZE));
        (0..malformed).for_each(|_| self.count(MALFORMED));
        Ok(())
    }

    /// The batch; without rows where only a session or identifiers have changed.
    fn hand_on(&mut self) -> Result<Option<SourceBatch>> {
        let batch = match self.builder.finish()? {
            Some(batch) => batch,
            None if self.taken.is_changed() => RecordBatch::new_empty(schema::raw()),
            None => return Ok(None),
        };
        Ok(Some(SourceBatch { batch, position: self.taken.hand_on()? }))
    }

    /// One step of waiting: connecting, reading, sending, pinging. Cancel-safe.
    async fn step(&mut self, batch_due: Option<Instant>) -> std::result::Result<(), Lost> {
        let batch_due = batch_due.map(tokio::time::Instant::from_std);
        match &mut self.link {
            Link::Down { until } => {
                let until = tokio::time::Instant::from_std(*until);
                let ready = batch_due.map_or(until, |due| due.min(until));
                tokio::time::sleep_until(ready).await;
                if ready == until
                    && let Some(connect) = &self.connect
                {
                    self.link = Link::Opening(Box::pin(Connection::open(Arc::clone(connect), self.protocol)));
                }
                Ok(())
            }
            Link::Opening(opening) => {
                tokio::select! {
                    opened = opening => {
                        let connection = opened?;
                        self.opened(connection);
                        Ok(())
                    }
                    () = sleep_until(batch_due) => Ok(()),
                }
            }
            Link::Up(up) => {
                if up.connection.has_to_send() {
                    up.connection.send().await?;
                    up.ping_at = Instant::now() + Duration::from_secs(u64::from(self.settings.keep_alive));
                }
                let listens = !self.taken.must_wait();
                if !listens {
                    // What the broker answers is not looked at either.
                    up.pong_by = None;
                }
                let alarm = up.pong_by.map_or(up.ping_at, |pong| pong.min(up.ping_at));
                let alarm = tokio::time::Instant::from_std(alarm);
                tokio::select! {
                    biased;
                    read = up.connection.read(), if listens => {
                        up.pong_by = None;
                        read
                    }
                    () = sleep_until(batch_due) => Ok(()),
                    () = tokio::time::sleep_until(alarm) => match up.pong_by {
                        Some(by) if by <= Instant::now() => {
                            Err(Lost { reason: "the broker does not answer".into(), version: false })
                        }
                        _ => {
                            up.connection.ping();
                            up.pong_by = Some(Instant::now() + PONG_MAX);
                            up.ping_at = Instant::now() + Duration::from_secs(u64::from(self.settings.keep_alive));
                            Ok(())
                        }
                    }
                }
            }
        }
    }

    fn opened(&mut self, connection: Connection) {
        info!(
            broker = format!("{}:{}", self.settings.host, self.settings.port),
            version = if connection.protocol == Protocol::V5 { "5" } else { "3.1.1" },
            session_present = connection.session_present,
            "connected to the broker"
        );
        self.backoff.reset();
        self.lost_said = false;
        self.taken.connected(connection.session_present);
        let ping_at = Instant::now() + Duration::from_secs(u64::from(self.settings.keep_alive));
        self.link = Link::Up(Box::new(Up { connection, ping_at, pong_by: None, to_skip: 0 }));
    }

    /// Messages under way that the broker may be waiting for before it sends more.
    fn under_way(&self) -> usize {
        self.taken.under_way().max(self.builder.len())
    }

    /// Whether a batch is to be handed on, whatever may come. At QoS 0 it waits for its age; above it the broker may be
    /// waiting for acknowledgements of just these messages.
    fn is_due(&mut self, due: Option<Instant>) -> bool {
        let Some(due) = due else { return false };
        if self.builder.is_full() {
            return true;
        }
        let aged = due <= Instant::now();
        if aged {
            self.gather.aged(self.under_way(), self.started.elapsed(), self.settings.batch.age);
        }
        aged || matches!(self.link, Link::Down { .. } | Link::Opening(_)) && self.settings.qos > 0
    }

    /// What is gathered for the next batch: messages, and releases that the broker waits for.
    fn gathered(&self) -> usize {
        self.taken.gathered().max(self.builder.len())
    }

    /// Whether there is something above QoS 0 that need not wait for its age.
    fn has_enough(&self) -> bool {
        let enough = self.taken.must_wait() || self.gather.is_enough(self.gathered());
        self.settings.qos > 0 && self.taken.is_changed() && enough
    }

    /// Reads what is there already; false if that is nothing. A lost connection shows again at the next read.
    async fn read_more(&mut self) -> bool {
        let (Link::Up(up), false) = (&mut self.link, self.taken.must_wait()) else { return false };
        tokio::select! {
            biased;
            read = up.connection.read() => read.is_ok(),
            () = std::future::ready(()) => false,
        }
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[async_trait]
impl Source for MqttSource {
    async fn open(&mut self, from: Option<&Position>) -> Result<()> {
        // Where to go on is the broker's to know: it sends again what was not acknowledged. What of that was taken
        // already is ours to know.
        if self.settings.qos == 2 {
            // What was taken behind that position comes again.
            self.builder.finish()?;
        }
        self.taken.open(from)?;
        self.connect = Some(Arc::new(self.connect_settings()?));
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<SourceBatch>> {
        loop {
            let gathered = self.gathered();
            if let Err(lost) = self.take() {
                self.lost(&lost);
            }
            if self.gathered() > gathered {
                self.came_at = Instant::now();
                self.gather.came(self.under_way(), self.started.elapsed());
            }
            let changed = self.taken.is_changed().then(|| self.came_at + self.settings.batch.age);
            let due = self.builder.due().map(|due| self.started + due).or(changed);
            if self.is_due(due) {
                if let Some(batch) = self.hand_on()? {
                    return Ok(Some(batch));
                }
                continue;
            }
            if self.has_enough() {
                if self.read_more().await {
                    continue;
                }
                if let Some(batch) = self.hand_on()? {
                    return Ok(Some(batch));
                }
            }
            if let Err(lost) = self.step(due).await {
                self.lost(&lost);
            }
        }
    }

    async fn acknowledge(&mut self, upto: &Position) -> Result<()> {
        self.taken.acknowledge(upto)?;
        if let Link::Up(up) = &mut self.link {
            self.taken.settle(&mut up.connection.sending);
        }
        Ok(())
    }

    fn take_counts(&mut self) -> Vec<(Count, u64)> {
        std::mem::take(&mut self.counts)
    }

    async fn close(&mut self) {
        if let Link::Up(up) = std::mem::replace(&mut self.link, Link::Down { until: Instant::now() }) {
            up.connection.close().await;
        }
    }
}
