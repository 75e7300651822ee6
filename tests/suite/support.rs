//! What the tests with real parts share: the program as a process, ports, brokers, bounded waiting.

use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate::registry::{BatchLimits, BuiltSource, Context, NoFiles, SourceConfig};

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Waits until something listens on a port of this machine.
pub fn wait_for_port(port: u16) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let started = Instant::now();
    while TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err() {
        assert!(started.elapsed() < Duration::from_secs(10), "nothing listens on port {port}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A future that must be ready within ten seconds.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(10), future).await {
        Ok(value) => value,
        Err(_) => panic!("waited 10 s for {what}"),
    }
}

/// A Mosquitto broker of this test's own. It is stopped with the value.
pub struct Mosquitto {
    child: Child,
    /// Where it listens.
    pub port: u16,
}

impl Mosquitto {
    /// Starts one with these lines of configuration behind its listener; `None`, said on standard error, where
    /// Mosquitto is not installed (the check in `.ci/run` demands it).
    pub fn start(directory: &Path, lines: &str) -> Option<Self> {
        Self::start_on(free_port(), directory, lines)
    }

    /// The same on a given port.
    pub fn start_on(port: u16, directory: &Path, lines: &str) -> Option<Self> {
        let config = directory.join("mosquitto.conf");
        let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n{lines}\n");
        std::fs::write(&config, text).unwrap();
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => {
                let broker = Self { child, port };
                wait_for_port(port);
                Some(broker)
            }
            Err(error) => {
                assert!(std::env::var_os("TIDEGATE_REQUIRE_MOSQUITTO").is_none(), "no mosquitto: {error}");
                eprintln!("skipped: mosquitto is not installed ({error})");
                None
            }
        }
    }

    /// Asks it to end, as an operator would, and waits.
    pub fn terminate(mut self) {
        let id = self.child.id().to_string();
        Command::new("kill").arg(id).status().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds a source from its table in TOML.
pub fn build_source<C: SourceConfig>(table: &str) -> BuiltSource {
    let config: C = toml::from_str(table).unwrap();
    let context = Context {
        name: "test",
        pipeline: "test",
        inputs: &[],
        files: &NoFiles,
        batch: BatchLimits::default(),
    };
    config.build(&context).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// The program under test.
pub const TIDEGATE: &str = env!("CARGO_BIN_EXE_tidegate");

/// Runs it to its end.
pub fn tidegate(args: &[&str]) -> Output {
    Command::new(TIDEGATE).args(args).output().unwrap()
}

/// What it has said.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A running `tidegate run`, killed with the value.
pub struct Running {
    child: Child,
    admin: u16,
}

impl Running {
    /// Starts a pipeline with an admin port and waits until a source is connected.
    pub fn start(pipeline: &Path, extra: &[&str]) -> Self {
        Self::start_logging(pipeline, extra, Stdio::inherit())
    }

    /// The same, with its log lines somewhere.
    pub fn start_logging(pipeline: &Path, extra: &[&str], stderr: Stdio) -> Self {
        let mut command = Command::new(TIDEGATE);
        command.args(["--log-level", "warn", "run"]).arg(pipeline).args(extra);
        Self::spawn(command, stderr)
    }

    /// The same by any command that ends in `tidegate run …`.
    pub fn spawn(mut command: Command, stderr: Stdio) -> Self {
        let admin = free_port();
        let child = command
            .args(["--admin", &format!("127.0.0.1:{admin}")])
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let running = Self { child, admin };
        running.wait_for("a connection", |metrics| metric(metrics, "tidegate_source_connected") >= 1.0);
        running
    }

    /// One request to the admin port: status and body of the answer.
    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.admin)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    /// The metrics now.
    pub fn metrics(&self) -> String {
        self.request("GET", "/metrics", b"").unwrap_or_default().1
    }

    /// Waits until the metrics say so.
    pub fn wait_for(&self, what: &str, done: impl Fn(&str) -> bool) {
        let started = Instant::now();
        while !self.request("GET", "/metrics", b"").is_some_and(|(_, metrics)| done(&metrics)) {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "waited a minute for {what}: {}",
                self.metrics()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
    }

    /// Ends it as a power cut would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it as an operator would; gives the exit code.
    pub fn terminate(mut self) -> Option<i32> {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sum of all series of a metric.
pub fn metric(metrics: &str, name: &str) -> f64 {
    series(metrics, name, &[])
}

/// The sum of the series of a metric that have these labels.
pub fn series(metrics: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')))
        .filter(|line| labels.iter().all(|label| line.contains(label.as_str())))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// The rows of an NDJSON file; none if it is not there.
pub fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

/// One message of a [`Plant`].
#[derive(Debug, Clone)]
pub struct Message {
    /// The topic, which need not be UTF-8.
    pub topic: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
    /// Whether the connection breaks off in the middle of this message, the first time.
    pub cut: bool,
}

impl Message {
    /// An ordinary message.
    pub fn new(topic: &str, payload: impl Into<Vec<u8>>) -> Self {
        Self { topic: topic.as_bytes().to_vec(), payload: payload.into(), cut: false }
    }

    /// As a PUBLISH packet of MQTT 3.1.1 at QoS 1.
    pub fn packet(&self, id: u16) -> Vec<u8> {
        publish_packet(&self.topic, id, &self.payload)
    }
}

/// A PUBLISH packet of MQTT 3.1.1 at QoS 1.
pub fn publish_packet(topic: &[u8], id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(topic);
    body.extend_from_slice(&id.to_be_bytes());
    body.extend_from_slice(payload);
    let mut packet = vec![0x32];
    let mut rest = body.len();
    loop {
        let digit = (rest % 128) as u8;
        rest /= 128;
        packet.push(if rest > 0 { digit | 0x80 } else { digit });
        if rest == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

/// A server that speaks as much MQTT 3.1.1 as sensors need, and sends what no broker would: to whoever subscribes
/// to a filter, the messages of that filter at QoS 1, from the first one on that was never acknowledged. It
/// lives as long as the process.
pub struct Plant {
    /// Where it listens.
    pub port: u16,
    feeds: BTreeMap<String, Arc<Mutex<Feed>>>,
    connections: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Feed {
    messages: Vec<Message>,
    acknowledged: usize,
}

/// Most messages of a [`Plant`] that are not acknowledged.
const UNDER_WAY_MAX: usize = 500;

impl Plant {
    /// Listens, and sends these messages to subscribers of these filters.
    pub fn start(feeds: Vec<(&str, Vec<Message>)>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let feed = |messages| Arc::new(Mutex::new(Feed { messages, acknowledged: 0 }));
        let feeds: BTreeMap<String, Arc<Mutex<Feed>>> =
            feeds.into_iter().map(|(filter, messages)| (filter.to_owned(), feed(messages))).collect();
        let served = feeds.clone();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counted.fetch_add(1, Relaxed);
                let feeds = served.clone();
                // A connection that breaks off is the other side's doing; what it misses, its test will say.
                std::thread::spawn(move || serve(stream, &feeds));
            }
        });
        Self { port, feeds, connections }
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// Sends all messages of a filter again to whoever connects next.
    pub fn forget(&self, filter: &str) {
        self.feeds[filter].lock().unwrap().acknowledged = 0;
    }

    /// How many messages of a filter are acknowledged.
    pub fn acknowledged(&self, filter: &str) -> usize {
        self.feeds[filter].lock().unwrap().acknowledged
    }
}

fn serve(mut stream: TcpStream, feeds: &BTreeMap<String, Arc<Mutex<Feed>>>) -> std::io::Result<()> {
    let (_, connect) = read_packet(&mut stream)?;
    // Behind the protocol's name its level; another than 3.1.1 is turned away.
    if connect.get(6) != Some(&4) {
        return Ok(());
    }
    stream.write_all(&[0x20, 2, 0, 0])?;
    let (_, subscribe) = read_packet(&mut stream)?;
    let length = usize::from(subscribe[3]);
    let filter = String::from_utf8_lossy(&subscribe[4..4 + length]).into_owned();
    stream.write_all(&[0x90, 3, subscribe[0], subscribe[1], 1])?;
    let feed = Arc::clone(&feeds[&filter]);
    let acknowledging = (stream.try_clone()?, Arc::clone(&feed));
    let reader = std::thread::spawn(move || take_acknowledgements(acknowledging.0, &acknowledging.1));
    let mut next = feed.lock().unwrap().acknowledged;
    loop {
        let (message, under_way) = {
            let feed = feed.lock().unwrap();
            match feed.messages.get(next) {
                None => break,
                Some(message) => (message.clone(), next - feed.acknowledged),
            }
        };
        if reader.is_finished() {
            return Ok(());
        }
        if under_way >= UNDER_WAY_MAX || (message.cut && under_way > 0) {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        let packet = message.packet((next + 1) as u16);
        if message.cut {
            feed.lock().unwrap().messages[next].cut = false;
            stream.write_all(&packet[..packet.len() / 2])?;
            return stream.shutdown(Shutdown::Both);
        }
        stream.write_all(&packet)?;
        next += 1;
    }
    let _ = reader.join();
    Ok(())
}

/// Counts acknowledgements, which must come in the order of the messages, until the client closes.
fn take_acknowledgements(mut stream: TcpStream, feed: &Mutex<Feed>) {
    while let Ok((head, body)) = read_packet(&mut stream) {
        if head == 0x40 {
            let mut feed = feed.lock().unwrap();
            feed.acknowledged += 1;
            assert_eq!(body, (feed.acknowledged as u16).to_be_bytes(), "acknowledged in order");
        }
    }
}

/// The first byte and the body of the next packet.
pub fn read_packet(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut head = [0];
    stream.read_exact(&mut head)?;
    let (mut length, mut shift) = (0usize, 0);
    loop {
        let mut digit = [0];
        stream.read_exact(&mut digit)?;
        length |= usize::from(digit[0] & 0x7f) << shift;
        shift += 7;
        if digit[0] & 0x80 == 0 || shift > 21 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((head[0], body))
}

/// The head of the next HTTP request: its `Idempotency-Key` and the length of its body; `None` when the client has closed.
pub fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<(String, usize)>> {
    let (mut key, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("idempotency-key") => {
                key = value.trim().to_owned()
            }
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().unwrap();
            }
            None if line.trim().is_empty() => return Ok(Some((key, length))),
            _ => {}
        }
    }
}
