//! The proof by faults: a fleet publishes numbered readings while the program is killed again and again, the receiver is
//! down a third of the time, the disk fills, and the broker is restarted; in the end everything that was acknowledged is
//! in every sink.
//!
//! Short here; a long one is `TIDEGATE_MESSAGES=1000000 TIDEGATE_KILLS=50 cargo test --test suite campaign:: -- --nocapture
//! --test-threads=1`. Each prints its counts.

mod fleet;
mod receiver;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use fleet::{DEVICES, Plan, Progress, START_MS};

use crate::support::{Mosquitto, TIDEGATE, free_port, lines, text, tidegate, wait_for_port};

fn number_of(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

fn plan(lead_max: u64) -> Plan {
    let messages = number_of("TIDEGATE_MESSAGES", 30_000);
    Plan { messages, connections: 4, lead_max, may_lose: false }
}

/// How often the program is killed.
fn kills() -> u64 {
    number_of("TIDEGATE_KILLS", 4)
}

/// The time that everything behind the last acknowledgement may take.
fn patience(messages: u64) -> Duration {
    Duration::from_secs(60) + Duration::from_millis(messages)
}

const PIPELINE: &str = r#"
[pipeline]
name = "campaign"
checkpoint = "500ms"

[source.plant]
SOURCE
topics = ["plant/{line}/{device}/telemetry"]
format = { type = "json", time = "ts", time_unit = "ms" }
fields = { seq = "i64", value = "f64" }
event_time = { lateness = "1h", ahead = "3650d" }

[operator.once]
type = "dedup"
inputs = ["plant"]
by = ["device", "seq"]
horizon = "3h"

[operator.windows]
type = "window"
inputs = ["once"]
size = "5s"
by = ["line"]
columns = { value = ["sum", "count"] }

[sink.rows]
type = "file"
inputs = ["once"]
path = "OUT/rows.ndjson"

[sink.windows-file]
type = "file"
inputs = ["windows"]
path = "OUT/windows.ndjson"

[sink.cloud]
type = "http"
inputs = ["once"]
url = "http://127.0.0.1:HTTP/rows"
timeout = "2s"
pause_max = "200ms"
"#;

/// The program, started again after every kill, and what its far end shows.
struct Gateway {
    pipeline: PathBuf,
    data: PathBuf,
    rows: PathBuf,
    /// Bytes of the rows' file that were counted, and the lines in them.
    counted: (u64, u64),
    child: Option<Child>,
    admin: u16,
    kills: u64,
}

impl Gateway {
    fn new(directory: &Path, data: PathBuf, source: &str, http: u16) -> Self {
        let pipeline = directory.join("campaign.toml");
        let text = PIPELINE
            .replace("SOURCE", source)
            .replace("OUT", &directory.display().to_string())
            .replace("HTTP", &http.to_string());
        std::fs::write(&pipeline, text).unwrap();
        let rows = directory.join("rows.ndjson");
        let mut gateway =
            Self { pipeline, data, rows, counted: (0, 0), child: None, admin: free_port(), kills: 0 };
        gateway.start();
        gateway
    }

    fn start(&mut self) {
        let mut command = Command::new(TIDEGATE);
        command.args(["--log-level", "warn", "run"]).arg(&self.pipeline).arg("--data-dir").arg(&self.data);
        command.args(["--admin", &format!("127.0.0.1:{}", self.admin)]);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        assert_eq!(child.try_wait().unwrap(), None, "it has ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        self.kills += 1;
        self.start();
    }

    fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        assert_eq!(child.try_wait().unwrap(), None, "it has ended by itself");
        Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// Where its log lines go.
    fn log(&self) -> PathBuf {
        self.pipeline.with_extension("log")
    }

    /// What it says of itself, and has said.
    fn status(&mut self) -> String {
        let status = tidegate(&["status", "--admin", &format!("127.0.0.1:{}", self.admin)]);
        let ended = self.child.as_mut().map(|child| child.try_wait().unwrap());
        let said = std::fs::read_to_string(self.log()).unwrap_or_default();
        let tail: Vec<&str> = said.lines().rev().take(20).collect();
        format!("{}{}{ended:?}\n{}", text(&status.stdout), text(&status.stderr), tail.join("\n"))
    }

    /// Rows in the file now; those that a restart cuts off are counted anew.
    fn arrived(&mut self) -> u64 {
        use std::io::{Read, Seek, SeekFrom};
        let Ok(mut file) = std::fs::File::open(&self.rows) else { return 0 };
        if file.metadata().unwrap().len() < self.counted.0 {
            self.counted = (0, 0);
        }
        file.seek(SeekFrom::Start(self.counted.0)).unwrap();
        let mut text = Vec::new();
        file.read_to_end(&mut text).unwrap();
        let lines = memchr::memchr_iter(b'\n', &text).count() as u64;
        self.counted = (self.counted.0 + text.len() as u64, self.counted.1 + lines);
        self.counted.1
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What else happens while the fleet publishes: told how far it is, in thousandths of all messages.
type Mischief<'a> = dyn FnMut(u64) + 'a;

/// Publishes everything, kills the program at random moments meanwhile, and verifies what arrived.
fn run(
    name: &str,
    mut gateway: Gateway,
    taken: &std::sync::Mutex<receiver::Taken>,
    port: u16,
    plan: Plan,
    mischief: &mut Mischief<'_>,
) {
    let progress = Arc::new(Progress::default());
    let publishing = std::thread::spawn({
        let progress = Arc::clone(&progress);
        move || fleet::publish(port, plan, &progress)
    });
    let kills = kills();
    let mut dice = 0x5eed_u64 ^ plan.messages;
    let mut kill_at = moment(&mut dice, plan.messages, kills, 0);
    while !publishing.is_finished() {
        let acknowledged = progress.acknowledged.load(Relaxed);
        progress.arrived.store(gateway.arrived(), Relaxed);
        mischief(acknowledged * 1000 / (plan.messages + 1));
        if gateway.kills < kills && acknowledged >= kill_at {
            gateway.kill();
            kill_at = moment(&mut dice, plan.messages, kills, gateway.kills);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = publishing.join().unwrap();
    let since = Instant::now();
    // What began while there was something to do ends also when there is nothing left.
    wait_for_the_rest(&mut gateway, taken, plan, since, &mut || mischief(1000));
    let drained = since.elapsed();
    gateway.stop();
    report(name, &gateway, &taken.lock().unwrap(), &progress, plan, took, drained);
    verify(&gateway, &taken.lock().unwrap(), plan);
}

/// Waits until all rows are at both ends; or, where the broker may lose some, until nothing more comes and both have the same.
fn wait_for_the_rest(
    gateway: &mut Gateway,
    taken: &std::sync::Mutex<receiver::Taken>,
    plan: Plan,
    since: Instant,
    mischief: &mut dyn FnMut(),
) {
    let wanted = plan.messages + 1;
    let (mut before, mut quiet_since) = ((0, 0), Instant::now());
    loop {
        mischief();
        let now = (gateway.arrived(), taken.lock().unwrap().rows.len() as u64);
        if now != before {
            (before, quiet_since) = (now, Instant::now());
        }
        let rest = plan.may_lose && now.0 == now.1 && quiet_since.elapsed() > Duration::from_secs(6);
        if rest || now == (wanted, wanted) {
            return;
        }
        let is_late = since.elapsed() > patience(plan.messages);
        assert!(
            !is_late,
            "of {wanted} rows {now:?} are in the file and at the receiver; {}",
            gateway.status()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// At how many acknowledged messages the next kill comes: anywhere in its part of the run.
fn moment(dice: &mut u64, messages: u64, kills: u64, done: u64) -> u64 {
    *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let part = messages / (kills + 1);
    part * done + part / 2 + (*dice >> 33) % part.max(1)
}

fn report(
    name: &str,
    gateway: &Gateway,
    taken: &receiver::Taken,
    progress: &Progress,
    plan: Plan,
    took: Duration,
    drained: Duration,
) {
    println!(
        "{name}: {} messages acknowledged of {} sent, {:.0}/s, {} broken connections, {} kills; the last rows {:.1} s \
         later; receiver: {} requests, {} repeated under a known key, {} not taken while down",
        progress.acknowledged.load(Relaxed),
        progress.sent.load(Relaxed),
        plan.messages as f64 / took.as_secs_f64(),
        progress.broken.load(Relaxed),
        gateway.kills,
        drained.as_secs_f64(),
        taken.requests(),
        taken.repeated,
        taken.refused,
    );
}

fn verify(gateway: &Gateway, taken: &receiver::Taken, plan: Plan) {
    let directory = gateway.rows.parent().unwrap();
    let rows = lines(&gateway.rows);
    let id = |row: &serde_json::Value| {
        let device: u64 = row["device"].as_str().unwrap().trim_start_matches("device-").parse().unwrap();
        row["seq"].as_u64().unwrap() * DEVICES + device
    };
    let distinct: BTreeSet<u64> = rows.iter().map(id).collect();
    println!(
        "file: {} rows, {} distinct; receiver: {} rows, {} distinct",
        rows.len(),
        distinct.len(),
        taken.rows.len(),
        taken.distinct()
    );
    assert_eq!(rows.len(), distinct.len(), "none twice in the file");
    assert_eq!(taken.wrong, Vec::<String>::new());
    assert_eq!(taken.distinct(), distinct.len(), "every row at the receiver");
    assert_eq!(taken.rows.len(), taken.distinct(), "and whatever came twice came under a known key");
    if plan.may_lose {
        assert!(distinct.iter().all(|number| *number <= plan.messages), "nothing is invented");
        println!(
            "lost by the broker: {} of {}",
            plan.messages + 1 - distinct.len() as u64,
            plan.messages + 1
        );
    } else {
        assert!(distinct.iter().copied().eq(0..=plan.messages), "every acknowledged message, and no other");
    }
    let mut windows = BTreeMap::new();
    for row in lines(&directory.join("windows.ndjson")) {
        let end = row["window_end"].as_str().unwrap();
        let end = tidegate::codec::timestamp::parse_rfc3339(end.as_bytes()).unwrap() as u64 / 5_000_000;
        let line: u64 = row["line"].as_str().unwrap().trim_start_matches("line-").parse().unwrap();
        let counted = (row["value_count"].as_u64().unwrap(), row["value_sum"].as_f64().unwrap() as u64);
        assert!(windows.insert((end - 1, line), counted).is_none(), "a window came twice");
    }
    // The one that closes all windows stays in one that is open.
    let mut expected = BTreeMap::new();
    for number in distinct.range(..plan.messages) {
        let entry = expected.entry(((START_MS + number) / 5000, number % DEVICES % 10)).or_insert((0, 0));
        *entry = (entry.0 + 1, entry.1 + number % 97);
    }
    if distinct.contains(&plan.messages) {
        assert_eq!(windows, expected, "the windows of an undisturbed run");
    }
}

fn mqtt_source(port: u16) -> String {
    format!("type = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{port}\"\nclient_id = \"campaign-gateway\"")
}

#[test]
fn through_mosquitto_which_is_restarted() {
    let directory = tempfile::tempdir().unwrap();
    let settings = format!(
        "max_queued_messages 0\nmax_inflight_messages 1000\npersistence true\npersistence_location {}/",
        directory.path().display()
    );
    let Some(broker) = Mosquitto::start(directory.path(), &settings) else { return };
    let port = broker.port;
    let (http, taken) = receiver::start();
    let gateway = Gateway::new(directory.path(), directory.path().join("data"), &mqtt_source(port), http);
    // Messages before the first subscription would reach nobody.
    std::thread::sleep(Duration::from_millis(500));
    let (mut broker, mut restarts) = (Some(broker), 0);
    run("Mosquitto", gateway, &taken, port, plan(u64::MAX), &mut |done| {
        if restarts < 2 && done >= [300, 600][restarts] {
            restarts += 1;
            broker.take().unwrap().terminate();
            broker = Mosquitto::start_on(port, directory.path(), &settings);
        }
    });
    println!("Mosquitto with {}; {restarts} restarts by SIGTERM", settings.replace('\n', ", "));
    assert_eq!(restarts, 2);
}

/// A broker in a process of its own that does nothing else.
fn rumqttd(directory: &Path) -> (u16, Gateway) {
    let port = free_port();
    let pipeline = directory.join("broker.toml");
    let text = format!(
        "[pipeline]\nname = \"broker\"\n[broker]\nlisten = \"127.0.0.1:{port}\"\n[source.beat]\ntype = \"heartbeat\"\n\
         [sink.out]\ntype = \"stdout\"\ninputs = [\"beat\"]\n"
    );
    std::fs::write(&pipeline, text).unwrap();
    let nowhere = directory.join("broker-data");
    let mut gateway = Gateway {
        pipeline,
        data: nowhere.clone(),
        rows: nowhere,
        counted: (0, 0),
        child: None,
        admin: free_port(),
        kills: 0,
    };
    gateway.start();
    wait_for_port(port);
    (port, gateway)
}

#[test]
fn through_the_embedded_broker() {
    let directory = tempfile::tempdir().unwrap();
    let (port, _broker) = rumqttd(directory.path());
    let (http, taken) = receiver::start();
    let gateway = Gateway::new(directory.path(), directory.path().join("data"), &mqtt_source(port), http);
    std::thread::sleep(Duration::from_millis(500));
    // A subscriber that lags by more than its log jumps to the newest message, so the fleet is not to run away.
    run("rumqttd", gateway, &taken, port, plan(10_000), &mut |_| {});
}

/// A small file system of this test's own; taken down with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Makes one; `None`, said on standard error, where mounting is not allowed (the check in `.ci/run` demands it where it
    /// runs as root).
    fn mount(at: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "tidegate"]).arg(&at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(at)),
            outcome => {
                assert!(std::env::var_os("TIDEGATE_REQUIRE_MOUNT").is_none(), "no small disk: {outcome:?}");
                eprintln!("skipped: a file system cannot be mounted here");
                None
            }
        }
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes all the room there is, to the last byte.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        for size in [1 << 20, 1 << 12, 1] {
            let zeros = vec![0; size];
            while file.write_all(&zeros).is_ok() {}
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whoever still has files open there is about to end.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn the_disk_fills_and_has_room_again() {
    let directory = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(directory.path().join("disk")) else { return };
    let settings = "max_queued_messages 0\nmax_inflight_messages 1000";
    let Some(broker) = Mosquitto::start(directory.path(), settings) else { return };
    let (http, taken) = receiver::start();
    let data = disk.0.join("data");
    let gateway = Gateway::new(directory.path(), data, &mqtt_source(broker.port), http);
    std::thread::sleep(Duration::from_millis(500));
    let (mut full_since, mut was_full) = (None::<Instant>, Duration::ZERO);
    run("full disk", gateway, &taken, broker.port, plan(u64::MAX), &mut |done| match full_since {
        None if was_full.is_zero() && done >= 300 => {
            disk.fill();
            full_since = Some(Instant::now());
        }
        Some(since) if since.elapsed() > Duration::from_secs(3) => {
            was_full = since.elapsed();
            full_since = None;
            disk.make_room();
        }
        _ => {}
    });
    println!("the disk was full for {:.1} s", was_full.as_secs_f64());
    assert!(!was_full.is_zero());
}

#[test]
fn straight_from_the_sensors() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let (http, taken) = receiver::start();
    let source = format!("type = \"mqtt_listen\"\nlisten = \"127.0.0.1:{port}\"\nanonymous = true");
    let gateway = Gateway::new(directory.path(), directory.path().join("data"), &source, http);
    run("mqtt_listen", gateway, &taken, port, plan(u64::MAX), &mut |_| {});
}

/// A broker that is killed forgets what it has acknowledged and not yet written down; that is its own loss, and told.
#[test]
fn through_mosquitto_which_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let settings = format!(
        "max_queued_messages 0\nmax_inflight_messages 1000\npersistence true\nautosave_interval 1\npersistence_location {}/",
        directory.path().display()
    );
    let Some(broker) = Mosquitto::start(directory.path(), &settings) else { return };
    let port = broker.port;
    let (http, taken) = receiver::start();
    let gateway = Gateway::new(directory.path(), directory.path().join("data"), &mqtt_source(port), http);
    std::thread::sleep(Duration::from_millis(500));
    let mut broker = Some(broker);
    let mut killed = false;
    let plan = Plan { may_lose: true, ..plan(u64::MAX) };
    run("Mosquitto, killed", gateway, &taken, port, plan, &mut |done| {
        if !killed && done >= 500 {
            killed = true;
            // Dropping it kills it.
            drop(broker.take());
            broker = Mosquitto::start_on(port, directory.path(), &settings);
        }
    });
    assert!(killed);
}
