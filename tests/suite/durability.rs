//! What the program promises about the disk, read from its system calls: it runs under `strace`, and in the order in
//! which the kernel was asked,
//!
//! - a message is acknowledged, and its row leaves, only after the log's file that holds it was synced (and the
//!   directory that holds a new file);
//! - a checkpoint is synced before it gets its name, and its directory after.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sensor::Sensor;
use crate::support::{Message, Plant, Running, TIDEGATE, free_port, metric};

/// One thing in a trace.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A system call begins: its name and arguments, as `strace` writes them.
    Begins(String, String),
    /// A system call of this name and with these arguments has succeeded.
    Succeeds(String, String),
}

/// The steps of a trace in order. A call that others come in between is on two lines.
fn steps(trace: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut unfinished: BTreeMap<&str, (String, String)> = BTreeMap::new();
    for line in trace.lines() {
        let Some((process, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let succeeded = |rest: &str| {
            let value = rest.rsplit_once(" = ").map(|(_, value)| value.trim_start());
            value.is_some_and(|value| value.starts_with(|first: char| first.is_ascii_digit()))
        };
        if rest.starts_with("<... ") {
            let Some((name, arguments)) = unfinished.remove(process) else { continue };
            if succeeded(rest) {
                steps.push(Step::Succeeds(name, arguments));
            }
            continue;
        }
        let Some((name, arguments)) = rest.split_once('(') else { continue };
        let (name, arguments) = (name.to_owned(), arguments.to_owned());
        steps.push(Step::Begins(name.clone(), arguments.clone()));
        if arguments.ends_with("<unfinished ...>") {
            unfinished.insert(process, (name, arguments));
        } else if succeeded(&arguments) {
            steps.push(Step::Succeeds(name, arguments));
        }
    }
    steps
}

/// The path or socket of the file descriptor that arguments begin with: `9<path>, …`.
fn file(arguments: &str) -> String {
    let Some((_, rest)) = arguments.split_once('<') else { return String::new() };
    // A socket has an arrow inside.
    let ends = |at: &usize| matches!(rest.as_bytes().get(at + 1), None | Some(b',' | b')' | b' '));
    let end = rest.match_indices('>').map(|(at, _)| at).find(ends).unwrap_or(rest.len());
    match &rest[..end] {
        hex if hex.starts_with("\\x") => path(&bytes(hex)),
        plain => plain.to_owned(),
    }
}

/// Bytes that are written `\x2f\x74…`.
fn bytes(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|byte| u8::from_str_radix(&byte[..2], 16).unwrap()).collect()
}

/// The texts in quotes, which are all in hexadecimal.
fn texts(arguments: &str) -> Vec<Vec<u8>> {
    arguments.split('"').skip(1).step_by(2).map(bytes).collect()
}

fn path(text: &[u8]) -> String {
    String::from_utf8(text.to_vec()).unwrap()
}

/// The numbers behind each `"n":` in some bytes.
fn numbers(bytes: &[u8]) -> Vec<u64> {
    let mark = b"\"n\":";
    let digits = |at: usize| {
        let rest = &bytes[at + mark.len()..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        std::str::from_utf8(&rest[..count]).unwrap().parse().unwrap()
    };
    memchr::memmem::find_iter(bytes, mark).map(digits).collect()
}

/// A number in letters: the log keeps digits of messages as numbers, letters as they are.
pub fn letters(number: u64) -> String {
    number.to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect()
}

/// The numbers in letters behind each `"id":"` in some bytes.
fn lettered_numbers(bytes: &[u8]) -> Vec<u64> {
    let mark = b"\"id\":\"";
    let number = |at: usize| {
        let letters = bytes[at + mark.len()..].iter().take_while(|byte| byte.is_ascii_lowercase());
        letters.fold(0, |number, letter| number * 10 + u64::from(letter - b'a'))
    };
    memchr::memmem::find_iter(bytes, mark).map(number).collect()
}

/// The same in what is written to the log, which is compressed where that makes it smaller.
fn logged_numbers(bytes: &[u8]) -> Vec<u64> {
    let mut found = lettered_numbers(bytes);
    for at in memchr::memmem::find_iter(bytes, &[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut block = Vec::new();
        // Whatever follows the frame is not part of it.
        let frame =
            zstd::stream::read::Decoder::new(&bytes[at..]).map(zstd::stream::read::Decoder::single_frame);
        if frame.is_ok_and(|mut frame| std::io::Read::read_to_end(&mut frame, &mut block).is_ok()) {
            found.extend(lettered_numbers(&block));
        }
    }
    found
}

/// What a trace shows, checked on the way.
#[derive(Default)]
struct Seen {
    /// Messages in each file of the log that are written and not yet synced.
    written: BTreeMap<String, BTreeSet<u64>>,
    synced: BTreeSet<u64>,
    /// Files whose directory was not synced since they were made.
    new_files: BTreeSet<String>,
    acknowledged: u64,
    rows: BTreeSet<u64>,
    /// Checkpoints that were written whole and synced, by their unfinished name.
    checkpoints_synced: BTreeSet<String>,
    /// The name that a checkpoint was given, while its directory is to be synced.
    named: Option<String>,
    checkpoints: usize,
    syncs: usize,
}

impl Seen {
    /// `socket`: what connections to the sender's side have in their names.
    fn step(&mut self, step: &Step, socket: &str, out: &str) {
        match step {
            Step::Begins(name, arguments) => match name.as_str() {
                "sendto" | "write" | "writev" if file(arguments).contains(socket) => {
                    self.leaves_for_sender(&texts(arguments).concat());
                }
                "write" if file(arguments) == out => {
                    for number in numbers(&texts(arguments).concat()) {
                        assert!(
                            self.synced.contains(&number),
                            "row {number} leaves before its message is safe"
                        );
                        self.rows.insert(number);
                    }
                }
                "write" if file(arguments).contains("/log/") => {
                    let numbers = logged_numbers(&texts(arguments).concat());
                    self.written.entry(file(arguments)).or_default().extend(numbers);
                }
                "write" if file(arguments).contains("/checkpoint/") => {
                    self.checkpoints_synced.remove(&file(arguments));
                }
                "rename" | "renameat" | "renameat2" => self.rename(&texts(arguments)),
                _ => {}
            },
            Step::Succeeds(name, arguments) => match name.as_str() {
                "openat" if arguments.contains("O_CREAT") => {
                    self.new_files.extend(texts(arguments).first().map(|text| path(text)));
                }
                "fsync" | "fdatasync" => self.sync(&file(arguments)),
                _ => {}
            },
        }
    }

    fn sync(&mut self, file: &str) {
        self.syncs += 1;
        if let Some(written) = self.written.remove(file) {
            self.synced.extend(written);
        }
        if file.contains("/checkpoint/") {
            self.checkpoints_synced.insert(file.to_owned());
        }
        self.new_files.retain(|new| Path::new(new).parent() != Some(Path::new(file)));
        let directory = self.named.as_deref().and_then(|named| Path::new(named).parent());
        if directory == Some(Path::new(file)) {
            self.named = None;
            self.checkpoints += 1;
        }
    }

    fn rename(&mut self, paths: &[Vec<u8>]) {
        let [from, to] = paths else { panic!("a rename has two paths") };
        let (from, to) = (path(from), path(to));
        if to.ends_with(".ckpt") {
            assert!(self.checkpoints_synced.remove(&from), "{to} gets its name before it is synced");
            assert_eq!(self.named.replace(to), None, "the directory is synced before the next checkpoint");
        }
    }

    /// PUBACKs and PUBRECs are four bytes each, as all other answers; message *n* has packet identifier *n* + 1.
    fn leaves_for_sender(&mut self, bytes: &[u8]) {
        for packet in bytes.chunks(4).filter(|packet| matches!(packet, [0x40 | 0x50, 2, ..])) {
            let number = u64::from(u16::from_be_bytes([packet[2], packet[3]])) - 1;
            assert!(self.synced.contains(&number), "message {number} is acknowledged before it is safe");
            let new: Vec<&String> = self.new_files.iter().filter(|new| new.contains("/log/")).collect();
            assert!(new.is_empty(), "acknowledged while the directory does not hold {new:?}");
            self.acknowledged += 1;
        }
    }
}

/// Whether `strace` is there and may trace; else it is said why not, and `TIDEGATE_REQUIRE_STRACE` makes that a
/// failure.
pub fn strace() -> bool {
    let tried = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    let reason = match tried {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    assert!(std::env::var_os("TIDEGATE_REQUIRE_STRACE").is_none(), "strace does not work: {reason}");
    eprintln!("skipped: strace is not there or may not trace: {reason}");
    false
}

const MESSAGES: u64 = 2000;

/// Runs a pipeline with this source under `strace` until all its messages are acknowledged, and checks the order of
/// what it asked of the kernel.
fn check_order(source: &str, socket: &str, acknowledged: impl Fn() -> u64) {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let pipeline = format!(
        r#"
[pipeline]
name = "traced"
checkpoint = "100ms"
batch = {{ rows = 50, age = "2ms" }}
[source.plant]
{source}
format = {{ type = "json", time = "ts", time_unit = "ms" }}
fields = {{ n = "i64" }}
[sink.out]
type = "file"
inputs = ["plant"]
path = {:?}
"#,
        at("rows.ndjson")
    );
    std::fs::write(at("traced.toml"), pipeline).unwrap();
    let mut command = Command::new("strace");
    // The traced program stays this process's child, so that it can be ended as ever.
    command.args(["-D", "-f", "--seccomp-bpf", "-yy", "-xx", "-s", "1000000", "-o", &at("trace")]);
    command.args(["-e", "trace=fsync,fdatasync,rename,renameat,renameat2,sendto,write,writev,openat"]);
    command.args([TIDEGATE, "--log-level", "warn", "run", &at("traced.toml"), "--data-dir", &at("data")]);
    let running = Running::spawn(command, Stdio::inherit());
    running.wait_for("all acknowledgements", |_| acknowledged() == MESSAGES);
    running.wait_for("a few checkpoints", |metrics| metric(metrics, "tidegate_epoch") >= 3.0);
    assert_eq!(running.terminate(), Some(0));

    // The tracer writes the last line when its program has gone.
    let begun = Instant::now();
    let trace = loop {
        let trace = std::fs::read_to_string(at("trace")).unwrap();
        if trace.lines().last().is_some_and(|line| line.contains("+++ exited with")) {
            break trace;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "the trace has no end");
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut seen = Seen::default();
    for step in steps(&trace) {
        seen.step(&step, socket, &at("rows.ndjson"));
    }
    println!(
        "{} acknowledgements, {} rows, {} checkpoints, {} syncs, all in order",
        seen.acknowledged,
        seen.rows.len(),
        seen.checkpoints,
        seen.syncs
    );
    assert_eq!(seen.acknowledged, MESSAGES);
    assert_eq!(seen.rows.len() as u64, MESSAGES);
    assert!(seen.checkpoints >= 3 && seen.named.is_none(), "{} checkpoints", seen.checkpoints);
}

#[test]
fn nothing_is_acknowledged_sent_or_named_before_it_is_synced() {
    if !strace() {
        return;
    }
    let payload = |n| format!("{{\"ts\":{},\"n\":{n},\"id\":\"{}\"}}", 1_700_000_000_000 + n, letters(n));
    let message = |n| Message::new("plant", payload(n));
    let plant = Plant::start(vec![("plant", (0..MESSAGES).map(message).collect())]);
    let source = format!(
        "type = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{}\"\nversion = \"3.1.1\"\nclient_id = \"traced\"\ntopics = \
         [\"plant\"]",
        plant.port
    );
    check_order(&source, &format!(":{}]", plant.port), || plant.acknowledged("plant") as u64);
}

#[test]
fn a_sensor_is_answered_only_when_its_message_is_synced() {
    if !strace() {
        return;
    }
    let port = free_port();
    let source = format!(
        "type = \"mqtt_listen\"\nlisten = \"127.0.0.1:{port}\"\nanonymous = true\ntopics = [\"plant/{{device}}\"]"
    );
    let acknowledged = Arc::new(AtomicU64::new(0));
    let half = MESSAGES / 2;
    for (quality, numbers) in [(1, 0..half), (2, half..MESSAGES)] {
        let sensor = Sensor { name: format!("sensor-{quality}"), quality, numbers, window: 40 };
        let acknowledged = Arc::clone(&acknowledged);
        std::thread::spawn(move || sensor.run(port, &acknowledged));
    }
    check_order(&source, &format!(":{port}->"), || acknowledged.load(Ordering::Relaxed));
}
