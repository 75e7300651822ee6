//! Enough of an MQTT 3.1.1 server to accept CONNECT and SUBSCRIBE, or of a client to be accepted, and then send PUBLISH
//! packets as fast as the socket takes them. Packets are encoded once, a second of event time at a time; only the time's digits change.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use clap::Args;

use crate::error::{Error, Result};

/// Arguments of the sender.
#[derive(Debug, Args)]
pub struct FirehoseArgs {
    /// Messages to send.
    #[arg(long)]
    pub messages: u64,
    /// Quality of service.
    #[arg(long)]
    pub qos: u8,
    /// Connect to a server on this port of this machine, instead of being one.
    #[arg(long)]
    pub to: Option<u16>,
    /// Messages a second; without it as fast as the socket takes them.
    #[arg(long)]
    pub rate: Option<u32>,
}

/// Event time of the first message, in milliseconds since 1970.
const START_MS: u64 = 1_700_000_000_000;

/// Messages in one block: one a millisecond makes a second of event time.
const BLOCK: u64 = 1000;

/// Devices that take turns.
const DEVICES: u64 = 100;

/// Parts of a block, each sent at its time, where there is a rate.
const SLICES: u64 = 100;

/// Unacknowledged messages under way at QoS 1.
const IN_FLIGHT_MAX: u64 = 60_000;

/// One second of packets, and where in it the changing digits lie.
struct Block {
    bytes: Vec<u8>,
    times: Vec<usize>,
    packets: Vec<usize>,
}

impl Block {
    fn new(qos: u8) -> Self {
        let mut block = Self { bytes: Vec::new(), times: Vec::new(), packets: Vec::new() };
        for index in 0..BLOCK {
            let topic =
                format!("plant/line-{}/device-{:03}/telemetry", index % DEVICES / 25, index % DEVICES);
            let temp = 20.0 + (index % 37) as f64 * 0.13;
            let vib = 0.01 + (index % 91) as f64 * 0.0007;
            let rpm = 1450 + index % 61;
            let head = r#"{"ts":"#;
            let payload = format!("{head}{START_MS},\"temp\":{temp:.2},\"vib\":{vib:.4},\"rpm\":{rpm}}}");
            let length = 2 + topic.len() + if qos > 0 { 2 } else { 0 } + payload.len();
            block.bytes.push(0x30 | qos << 1);
            let mut rest = length;
            loop {
                let digit = (rest % 128) as u8;
                rest /= 128;
                block.bytes.push(if rest > 0 { digit | 0x80 } else { digit });
                if rest == 0 {
                    break;
                }
            }
            block.bytes.extend_from_slice(&(topic.len() as u16).to_be_bytes());
            block.bytes.extend_from_slice(topic.as_bytes());
            if qos > 0 {
                block.packets.push(block.bytes.len());
                block.bytes.extend_from_slice(&[0, 0]);
            }
            block.times.push(block.bytes.len() + head.len());
            block.bytes.extend_from_slice(payload.as_bytes());
        }
        block
    }

    /// Makes it the messages from `first` on.
    fn set(&mut self, first: u64) {
        for (index, at) in self.times.iter().enumerate() {
            let mut time = START_MS + first + index as u64;
            for digit in self.bytes[*at..at + 13].iter_mut().rev() {
                *digit = b'0' + (time % 10) as u8;
                time /= 10;
            }
        }
        for (index, at) in self.packets.iter().enumerate() {
            let packet = ((first + index as u64) % 65_535 + 1) as u16;
            self.bytes[*at..at + 2].copy_from_slice(&packet.to_be_bytes());
        }
    }
}

/// Listens, says its port on standard output, serves until a client that speaks 3.1.1 has had everything.
///
/// # Errors
/// If it cannot listen, or the client goes away early.
pub fn run(args: &FirehoseArgs) -> Result<()> {
    let failed = |error: std::io::Error| Error::io("sending", &error);
    if let Some(port) = args.to {
        return publish(port, args).map_err(failed);
    }
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    println!("{}", listener.local_addr().map_err(failed)?.port());
    loop {
        let (stream, _) = listener.accept().map_err(failed)?;
        if serve(stream, args).map_err(failed)? {
            return Ok(());
        }
    }
}

fn serve(mut stream: TcpStream, args: &FirehoseArgs) -> std::io::Result<bool> {
    stream.set_nodelay(true)?;
    let connect = read_packet(&mut stream)?;
    // Fixed header (2 bytes here), protocol name (6 bytes), level. Another version is turned away.
    if connect.get(6) != Some(&4) {
        return Ok(false);
    }
    stream.write_all(&[0x20, 2, 0, 0])?;
    let subscribe = read_packet(&mut stream)?;
    let (high, low) = (subscribe.first().copied().unwrap_or(0), subscribe.get(1).copied().unwrap_or(0));
    stream.write_all(&[0x90, 3, high, low, args.qos])?;
    pour(stream, args)?;
    Ok(true)
}

/// How long a server may take to come up.
const SERVER_WAIT_MAX: Duration = Duration::from_secs(30);

/// As a client: connects, as soon as there is a server.
fn publish(port: u16, args: &FirehoseArgs) -> std::io::Result<()> {
    let begun = Instant::now();
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(error) if begun.elapsed() > SERVER_WAIT_MAX => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    stream.set_nodelay(true)?;
    stream.write_all(b"\x10\x10\0\x04MQTT\x04\x02\0\0\0\x04hose")?;
    read_packet(&mut stream)?;
    pour(stream, args)
}

/// Sends everything, and waits until all is acknowledged or the other side closes, as it does when it has everything.
fn pour(mut stream: TcpStream, args: &FirehoseArgs) -> std::io::Result<()> {
    let acknowledged = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let reader = read_acknowledgements(stream.try_clone()?, std::sync::Arc::clone(&acknowledged));
    let acknowledged = || acknowledged.load(std::sync::atomic::Ordering::Relaxed);
    let mut block = Block::new(args.qos);
    let begun = Instant::now();
    let mut sent = 0;
    while sent < args.messages {
        while args.qos > 0 && sent + BLOCK > acknowledged() + IN_FLIGHT_MAX && !reader.is_finished() {
            std::thread::sleep(Duration::from_micros(200));
        }
        block.set(sent);
        let count = BLOCK.min(args.messages - sent);
        let slices = args.rate.map_or(1, |_| SLICES.min(count));
        for slice in 0..slices {
            if let Some(rate) = args.rate {
                let due = Duration::from_secs_f64((sent + count * slice / slices) as f64 / f64::from(rate));
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
            }
            let from = packet_start(&block, (count * slice / slices) as usize);
            let to = packet_start(&block, (count * (slice + 1) / slices) as usize);
            stream.write_all(&block.bytes[from..to])?;
        }
        sent += count;
    }
    while args.qos > 0 && acknowledged() < sent && !reader.is_finished() {
        std::thread::sleep(Duration::from_millis(1));
    }
    if args.qos == 0 {
        let _ = reader.join();
    }
    Ok(())
}

/// Where the packet with an index starts: behind the payload of the one before.
fn packet_start(block: &Block, index: usize) -> usize {
    let brace =
        |from: usize| block.bytes[from..].iter().position(|byte| *byte == b'}').map_or(0, |at| from + at + 1);
    if index == 0 { 0 } else { brace(block.times[index - 1]) }
}

/// The body of the next packet.
pub(super) fn read_packet(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let (mut length, mut shift) = (0usize, 0);
    loop {
        stream.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 || shift > 21 {
            break;
        }
    }
    let mut body = vec![0; length.min(1 << 20)];
    stream.read_exact(&mut body)?;
    Ok(body)
}

/// Counts PUBACKs (four bytes each; pings are answered by nobody, the runs are short) until the client closes.
fn read_acknowledgements(
    mut stream: TcpStream,
    acknowledged: std::sync::Arc<std::sync::atomic::AtomicU64>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 64 << 10];
        let mut bytes = 0u64;
        while let Ok(read) = stream.read(&mut buffer) {
            if read == 0 {
                break;
            }
            bytes += read as u64;
            acknowledged.store(bytes / 4, std::sync::atomic::Ordering::Relaxed);
        }
    })
}
