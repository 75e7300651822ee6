//! Publishing over MQTT with a queue of our own: a message stays in it until the broker has acknowledged it (QoS 1) or
//! it is written to the socket (QoS 0). Every connection starts clean and gets the whole queue again, in order, so what
//! the client library forgets on a reconnect does not matter.
//!
//! One task polls the connection and never waits for anything else. The other side puts messages into the bounded
//! queue and hands them on without waiting; it waits only for room in the queue, and for the queue to be empty.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::backoff::Backoff;
use super::mqtt_client::{Client, Connect, HEAD_BYTES, Happened, Lost};
use super::tls::TlsSettings;
use crate::error::Result;
use crate::units::Secret;

/// Most bytes of topics and payloads that wait, unless a single message is larger.
const QUEUE_BYTES_MAX: usize = 16 << 20;

/// Most messages that wait besides those under way.
const QUEUE_MESSAGES_MAX: usize = 1000;

/// A connection that lasted longer was a good one.
const STEADY: Duration = Duration::from_secs(10);

/// How long a goodbye may take.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// A version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

/// How a publisher connects.
#[derive(Clone)]
pub struct PublisherSettings {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// TLS, if wanted.
    pub tls: Option<TlsSettings>,
    /// The client identifier; a random one without.
    pub client_id: Option<String>,
    /// The version to speak; `None` tries 5 and then 3.1.1.
    pub protocol: Option<Protocol>,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Time between signs of life; at least 5 s.
    pub keep_alive: Duration,
    /// Largest packet sent, in bytes. A broker that speaks MQTT 5 may take less.
    pub packet_bytes_max: usize,
    /// Most unacknowledged messages under way; at least 1.
    pub in_flight: u16,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// 0 or 1.
    pub qos: u8,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// Whether it says, as a user property of MQTT 5, that newer ones went before it.
    pub replayed: bool,
}

impl Message {
    fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + HEAD_BYTES
    }
}

struct Entry {
    message: Message,
    /// Its number among all messages that were ever put into the queue.
    number: u64,
    /// Its packet identifier on the current connection; 0 as long as it has none.
    packet: u16,
    settled: bool,
}

/// The queue, and how far the current connection has got with it. The first `written` entries were written to the
/// socket, the first `handed` were given to the client; those behind wait.
#[derive(Default)]
struct Outbox {
    queue: VecDeque<Entry>,
    bytes: usize,
    handed: usize,
    written: usize,
    client: Option<Client>,
    in_flight: usize,
    packet_bytes_max: usize,
    refused: u64,
    /// The number that the next message gets.
    next: u64,
    /// Messages that were refused, with the reasons, if somebody asks for them.
    refusals: Option<Vec<(u64, String)>>,
    /// Why there is no connection, since the last try to have one failed.
    away: Option<String>,
    closing: bool,
}

impl Outbox {
    fn has_room(&self) -> bool {
        self.queue.is_empty()
            || (self.bytes < QUEUE_BYTES_MAX && self.queue.len() < self.in_flight + QUEUE_MESSAGES_MAX)
    }

    fn push(&mut self, message: Message) {
        self.bytes += message.bytes();
        self.queue.push_back(Entry { message, number: self.next, packet: 0, settled: false });
        self.next += 1;
        self.hand_on();
    }

    /// Gives the client what it may have.
    fn hand_on(&mut self) {
        let Some(client) = self.client.clone() else { return };
        while self.handed < self.in_flight
            && let Some(entry) = self.queue.get(self.handed)
        {
            let bytes = entry.message.bytes();
            if bytes > self.packet_bytes_max || entry.message.topic.len() > usize::from(u16::MAX) {
                let reason = format!("it has {bytes} bytes, the largest packet {}", self.packet_bytes_max);
                let entry = self.queue.remove(self.handed);
                self.bytes -= bytes;
                if let Some(entry) = entry {
                    self.refuse(entry.number, &entry.message.topic, &reason);
                }
                continue;
            }
            if !client.publish(&entry.message) {
                return;
            }
            self.handed += 1;
        }
    }

    fn refuse(&mut self, number: u64, topic: &str, reason: &str) {
        self.refused += 1;
        if let Some(refusals) = &mut self.refusals {
            refusals.push((number, reason.to_owned()));
            return;
        }
        // A broker that refuses everything must not fill the disk with log lines.
        if self.refused.is_power_of_two() {
            warn!(topic, reason, refused = self.refused, "a message cannot be published and is dropped");
        }
    }

    fn connected(&mut self, client: Client, packet_bytes_max: usize) {
        self.client = Some(client);
        self.away = None;
        self.packet_bytes_max = packet_bytes_max;
        self.hand_on();
    }

    fn written(&mut self, packet: u16) {
        if let Some(entry) = self.queue.get_mut(self.written) {
            entry.packet = packet;
            entry.settled = packet == 0;
            self.written += 1;
        }
        self.remove_settled();
    }

    fn acknowledged(&mut self, packet: u16, refused: Option<String>) {
        let mut written = self.queue.iter_mut().take(self.written);
        let Some(entry) = written.find(|entry| entry.packet == packet && !entry.settled) else { return };
        entry.settled = true;
        let refused = refused.map(|reason| (entry.number, entry.message.topic.clone(), reason));
        if let Some((number, topic, reason)) = refused {
            self.refuse(number, &topic, &reason);
        }
        self.remove_settled();
    }

    fn remove_settled(&mut self) {
        while let Some(entry) = self.queue.pop_front_if(|entry| entry.settled) {
            self.bytes -= entry.message.bytes();
            self.handed -= 1;
            self.written -= 1;
        }
        self.hand_on();
    }

    /// The number of the oldest message that is not settled; the next one's where there is none.
    fn oldest(&self) -> u64 {
        self.queue.iter().find(|entry| !entry.settled).map_or(self.next, |entry| entry.number)
    }

    /// The connection is gone: the next one gets everything that is not settled.
    fn lost(&mut self) {
        self.client = None;
        (self.handed, self.written) = (0, 0);
        self.queue.retain(|entry| !entry.settled);
        self.bytes = self.queue.iter().map(|entry| entry.message.bytes()).sum();
        self.queue.iter_mut().for_each(|entry| entry.packet = 0);
    }
}

#[derive(Default)]
struct Shared {
    outbox: Mutex<Outbox>,
    /// Something was settled.
    progress: Notify,
    /// The owner is gone.
    closing: Notify,
}

impl Shared {
    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        // Nothing that holds the lock can panic half-way in a way that matters.
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How things stand with the messages of a publisher.
#[derive(Debug, Clone)]
pub struct Progress {
    /// The number of the oldest message that is not settled.
    pub oldest: u64,
    /// Messages that were refused since the last time, with the reasons.
    pub refusals: Vec<(u64, String)>,
    /// Why there is no connection, if there is none.
    pub away: Option<String>,
}

/// Publishes messages in order, for ever trying. One owner at a time waits on it.
pub struct Publisher {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Publisher {
    /// Starts connecting in a task of its own.
    ///
    /// # Errors
    /// If a secret or certificate cannot be read; a broker that is away is none.
    pub fn start(settings: &PublisherSettings) -> Result<Self> {
        let connect = Connect::new(settings)?;
        let shared = Arc::new(Shared::default());
        shared.outbox().in_flight = usize::from(settings.in_flight);
        let broker = format!("{}:{}", settings.host, settings.port);
        let (inside, protocol, bytes_max) = (shared.clone(), settings.protocol, settings.packet_bytes_max);
        let task = tokio::spawn(async move {
            let goodbye = async {
                inside.closing.notified().await;
                tokio::time::sleep(GOODBYE_MAX).await;
            };
            tokio::select! {
                () = run(&inside, &connect, protocol, bytes_max, &broker) => {}
                () = goodbye => {}
            }
        });
        Ok(Self { shared, task })
    }

    /// Returns when there is room for a message. Cancel-safe.
    pub async fn room(&self) {
        self.until(Outbox::has_room).await;
    }

    /// Puts a message into the queue. The caller has waited for room, or answers for a queue that is larger.
    pub fn push(&self, message: Message) {
        self.shared.outbox().push(message);
    }

    /// Returns when every message is acknowledged, written (QoS 0) or refused. Cancel-safe.
    pub async fn flush(&self) {
        self.until(|outbox| outbox.queue.is_empty()).await;
    }

    /// From now on messages that are refused are kept for [`progress`](Self::progress) instead of being logged.
    pub fn keep_refusals(&self) {
        self.shared.outbox().refusals = Some(Vec::new());
    }

    /// Whether there is room for a message.
    pub fn has_room(&self) -> bool {
        self.shared.outbox().has_room()
    }

    /// The number that the next message gets.
    pub fn next(&self) -> u64 {
        self.shared.outbox().next
    }

    /// Waits until a message below `number` is settled that was not below `oldest`, or until it is known that there is no
    /// connection, and says how things stand then. Cancel-safe.
    pub async fn progress(&self, oldest: u64, number: u64) -> Progress {
        self.until(|outbox| outbox.oldest() > oldest || outbox.oldest() >= number || outbox.away.is_some())
            .await;
        let mut outbox = self.shared.outbox();
        Progress {
            oldest: outbox.oldest(),
            refusals: outbox.refusals.as_mut().map(std::mem::take).unwrap_or_default(),
            away: outbox.away.clone(),
        }
    }

    /// Takes back every message that is not settled, if there is no connection; says whether there is none. They may have
    /// arrived.
    pub fn withdraw(&self) -> bool {
        let mut outbox = self.shared.outbox();
        let away = outbox.client.is_none();
        if away {
            outbox.queue.clear();
            (outbox.bytes, outbox.handed, outbox.written) = (0, 0, 0);
        }
        away
    }

    /// Returns when there is a connection. Cancel-safe.
    pub async fn connected(&self) {
        self.until(|outbox| outbox.client.is_some() && outbox.away.is_none()).await;
    }

    /// How many messages were dropped because they are too large or the broker refuses them.
    pub fn refused(&self) -> u64 {
        self.shared.outbox().refused
    }

    async fn until(&self, reached: impl Fn(&Outbox) -> bool) {
        loop {
            let progress = self.shared.progress.notified();
            if reached(&self.shared.outbox()) {
                return;
            }
            progress.await;
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let mut outbox = self.shared.outbox();
        outbox.closing = true;
        match &outbox.client {
            // The task ends when the goodbye is out.
            Some(client) => {
                client.disconnect();
                self.shared.closing.notify_one();
            }
            None => self.task.abort(),
        }
    }
}

async fn run(
    shared: &Shared,
    connect: &Connect,
    protocol: Option<Protocol>,
    packet_bytes_max: usize,
    broker: &str,
) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    let mut speaking = protocol.unwrap_or(Protocol::V5);
    let mut told = false;
    loop {
        let (client, mut events) = connect.start(speaking);
        let mut up_since: Option<Instant> = None;
        let lost = loop {
            match events.next().await {
                Ok(happened) => {
                    if let Happened::Connected { .. } = happened {
                        up_since = Some(Instant::now());
                        told = false;
                        let version = if speaking == Protocol::V5 { "5" } else { "3.1.1" };
                        info!(broker, version, "connected to the broker to publish");
                    }
                    if note(shared, &client, happened, packet_bytes_max) {
                        backoff.reset();
                    }
                }
                Err(lost) => break lost,
            }
        };
        for happened in events.rest() {
            note(shared, &client, happened, packet_bytes_max);
        }
        let Lost { reason, version } = lost;
        {
            let mut outbox = shared.outbox();
            outbox.lost();
            if outbox.closing {
                return;
            }
        }
        if version && up_since.is_none() && protocol.is_none() {
            speaking = if speaking == Protocol::V5 { Protocol::V4 } else { Protocol::V5 };
            debug!(broker, reason, "trying the other version of MQTT");
            if speaking == Protocol::V4 {
                continue;
            }
        }
        shared.outbox().away = Some(reason.clone());
        shared.progress.notify_one();
        if up_since.is_some_and(|since| since.elapsed() > STEADY) {
            backoff.reset();
        }
        let wait = backoff.wait();
        match std::mem::replace(&mut told, true) {
            true => debug!(broker, reason, wait_ms = wait.as_millis(), "broker still away"),
            false => warn!(broker, reason, "no connection to the broker; trying for ever"),
        }
        tokio::time::sleep(wait).await;
    }
}

/// Notes what happened; true if the broker shows that it takes messages. Connecting alone does not: a broker that ends
/// the connection at every message must not be run against without pauses.
fn note(shared: &Shared, client: &Client, happened: Happened, packet_bytes_max: usize) -> bool {
    let mut outbox = shared.outbox();
    let progress = match happened {
        Happened::Connected { packet_bytes_max: stated } => {
            let most = stated.map_or(packet_bytes_max, |stated| stated.min(packet_bytes_max));
            outbox.connected(client.clone(), most);
            false
        }
        Happened::Written(packet) => {
            outbox.written(packet);
            packet == 0
        }
        Happened::Acknowledged(packet, refused) => {
            outbox.acknowledged(packet, refused);
            true
        }
        Happened::Other => return false,
    };
    drop(outbox);
    shared.progress.notify_one();
    progress
}
