//! `tidegate bench broker`: how fast messages that a Mosquitto has queued are taken at QoS 1, with the log, beside what
//! bounds that: a bare client, and the messages that may be under way by the time of a round trip and a sync.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;

use super::firehose::read_packet;
use super::{Measured, Variant, bench_directory, free_port, median};
use crate::cli::Outcome;
use crate::error::{Error, Result};

/// Arguments of `tidegate bench broker`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tidegate bench broker --messages 200000 --in-flight 20,1000

It needs `mosquitto` in the path. Messages are published before they are taken, so the publisher costs nothing then; with
--live while they are taken.")]
pub struct BrokerArgs {
    /// Messages in each run.
    #[arg(long, default_value_t = 200_000)]
    pub messages: u64,
    /// How many messages the broker has under way to one client (`max_inflight_messages`).
    #[arg(long, value_delimiter = ',', default_values_t = [20, 1000])]
    pub in_flight: Vec<u16>,
    /// Runs of each variant; the median counts.
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// Publish while messages are taken.
    #[arg(long)]
    pub live: bool,
    /// Print one JSON object per line instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// The client's name in the session that the broker keeps.
pub const CLIENT: &str = "bench";

/// How long the broker may take to come up.
const START_MAX: Duration = Duration::from_secs(10);

/// Round trips and syncs of which the median counts.
const PROBES: usize = 200;

/// A Mosquitto of this run's own; it ends with the value.
struct Broker {
    process: Child,
    port: u16,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Broker {
    fn start(directory: &Path, in_flight: u16) -> Result<Self> {
        let failed = |error: std::io::Error| Error::io("starting `mosquitto`, which this needs", &error);
        let (port, file) = (free_port()?, directory.join("mosquitto.conf"));
        let settings = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages {in_flight}\n\
             max_queued_messages 0\nset_tcp_nodelay true\n"
        );
        std::fs::write(&file, settings).map_err(failed)?;
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let broker = Self { process: command.spawn().map_err(failed)?, port };
        let begun = Instant::now();
        while let Err(error) = TcpStream::connect(("127.0.0.1", port)) {
            if begun.elapsed() > START_MAX {
                return Err(failed(error));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(broker)
    }

    /// Makes the session for which the broker queues, and gives the seconds of a round trip.
    fn subscribe(&self) -> Result<f64> {
        let failed = |error: std::io::Error| Error::io("subscribing at the broker", &error);
        let talk = || -> std::io::Result<f64> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(START_MAX))?;
            // CONNECT, 3.1.1, the session kept.
            let mut connect = vec![0x10, 12 + CLIENT.len() as u8];
            connect.extend_from_slice(b"\0\x04MQTT\x04\0\0\0\0");
            connect.push(CLIENT.len() as u8);
            connect.extend_from_slice(CLIENT.as_bytes());
            stream.write_all(&connect)?;
            read_packet(&mut stream)?;
            let filter = b"plant/+/+/telemetry";
            let mut subscribe = vec![0x82, 5 + filter.len() as u8, 0, 1, 0, filter.len() as u8];
            subscribe.extend_from_slice(filter);
            subscribe.push(1);
            stream.write_all(&subscribe)?;
            read_packet(&mut stream)?;
            let mut trips = Vec::with_capacity(PROBES);
            for _ in 0..PROBES {
                let begun = Instant::now();
                stream.write_all(&[0xc0, 0])?;
                read_packet(&mut stream)?;
                trips.push(begun.elapsed().as_secs_f64());
            }
            stream.write_all(&[0xe0, 0])?;
            Ok(median(trips.into_iter()))
        };
        talk().map_err(failed)
    }

    /// Has all messages published.
    fn publish(&self, messages: u64) -> Result<()> {
        let failed = |error: std::io::Error| Error::io("publishing", &error);
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(["bench", "firehose", "--qos", "1", "--messages", &messages.to_string()]);
        let status = command.args(["--to", &self.port.to_string()]).status().map_err(failed)?;
        if status.success() { Ok(()) } else { Err(Error::unavailable("the publisher failed")) }
    }
}

/// Seconds to make 4 KiB at a file's end durable.
fn sync_seconds(directory: &Path) -> Result<f64> {
    let path = directory.join("synced");
    let probe = || -> std::io::Result<f64> {
        let mut file = std::fs::File::create(&path)?;
        let mut times = Vec::with_capacity(PROBES);
        for _ in 0..PROBES {
            file.write_all(&[7; 4096])?;
            let begun = Instant::now();
            file.sync_data()?;
            times.push(begun.elapsed().as_secs_f64());
        }
        Ok(median(times.into_iter()))
    };
    probe().map_err(|error| Error::io(path.display(), &error))
}

/// One run of both, and what bounds them.
#[derive(Debug, Clone, serde::Serialize)]
struct Run {
    bare: Measured,
    tidegate: Measured,
    round_trip_seconds: f64,
    sync_seconds: f64,
    in_flight: u16,
}

impl Run {
    fn measure(args: &BrokerArgs, in_flight: u16) -> Result<Self> {
        let messages = args.messages;
        let directory = bench_directory();
        let mut round_trip_seconds = 0.0;
        let mut taken = |variant: Variant| -> Result<Measured> {
            let _ = std::fs::remove_dir_all(&directory);
            std::fs::create_dir_all(&directory).map_err(|error| Error::io(directory.display(), &error))?;
            let broker = Broker::start(&directory, in_flight)?;
            round_trip_seconds = broker.subscribe()?;
            if !args.live {
                broker.publish(messages)?;
            }
            let mut consumer = variant.start(broker.port, messages, 1, true, &directory)?;
            if args.live {
                broker.publish(messages)?;
            }
            variant.reports(&mut consumer)
        };
        let (bare, tidegate) = (taken(Variant::Bare)?, taken(Variant::PipelineLog)?);
        let sync_seconds = sync_seconds(&directory)?;
        let _ = std::fs::remove_dir_all(&directory);
        Ok(Self { bare, tidegate, round_trip_seconds, sync_seconds, in_flight })
    }

    /// Messages a second that can be under way, where each waits for a round trip and a sync.
    fn under_way(&self) -> f64 {
        f64::from(self.in_flight) / (self.round_trip_seconds + self.sync_seconds)
    }

    fn bound(&self) -> f64 {
        rate(&self.bare).min(self.under_way())
    }
}

fn rate(measured: &Measured) -> f64 {
    measured.messages as f64 / measured.seconds
}

/// Runs the benchmark.
///
/// # Errors
/// If there is no Mosquitto, or a child process does not do its work.
pub fn run(args: &BrokerArgs) -> Outcome {
    if !args.json {
        println!(
            "{:>9} {:>12} {:>10} {:>12} {:>12} {:>12} {:>9} {:>9}",
            "in flight", "round trip", "sync", "bare 1/s", "bound 1/s", "log 1/s", "÷ bound", "syncs/s"
        );
    }
    for in_flight in &args.in_flight {
        let runs: Vec<Run> = (0..args.runs).map(|_| Run::measure(args, *in_flight)).collect::<Result<_>>()?;
        if args.json {
            runs.iter().for_each(|run| println!("{}", serde_json::json!(run)));
            continue;
        }
        let of = |what: fn(&Run) -> f64| median(runs.iter().map(what));
        println!(
            "{in_flight:>9} {:>9.0} µs {:>7.0} µs {:>12.0} {:>12.0} {:>12.0} {:>9.2} {:>9.0}",
            of(|run| run.round_trip_seconds * 1e6),
            of(|run| run.sync_seconds * 1e6),
            of(|run| rate(&run.bare)),
            of(Run::bound),
            of(|run| rate(&run.tidegate)),
            of(|run| rate(&run.tidegate) / run.bound()),
            of(|run| run.tidegate.log.syncs as f64 / run.tidegate.seconds),
        );
    }
    Ok(())
}
