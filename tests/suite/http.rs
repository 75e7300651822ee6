//! The `http` sink of the running program against a server that has every fault a server can have.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{Message, Plant, Running, free_port, metric, read_request, series, text, tidegate};

/// What a server does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Takes it: 200.
    Take,
    /// Takes it, and closes the connection without a word.
    TakeSilently,
    /// Does not take it, and says this status; 429 asks to wait a second.
    Status(u16),
    /// Closes the connection before it has read the body, which resets it.
    Reset,
    /// Reads it and says nothing.
    Hold,
}

/// What the server has seen.
#[derive(Default)]
struct Seen {
    /// What it does with the next requests; when that runs out it takes them.
    script: Vec<Answer>,
    /// Take nothing any more once this many rows are taken and the script is at its end: 503.
    pause_after: Option<usize>,
    /// Refuse the next request that was not taken before.
    refuse_next: bool,
    /// Keys and bodies of what was taken or refused, in order, and whether it was refused.
    done: Vec<(String, Vec<u64>, bool)>,
    by_key: BTreeMap<String, String>,
    repeated: usize,
    asked_to_wait: Option<Instant>,
    waited: Option<Duration>,
    answered: Vec<Answer>,
}

impl Seen {
    /// What to do with a request whose body is still to come.
    fn decide(&mut self, key: &str) -> Answer {
        if let Some(asked) = self.asked_to_wait.take() {
            self.waited = Some(asked.elapsed());
        }
        let answer = match self.script.pop() {
            Some(answer) => answer,
            None if self.paused() => Answer::Status(503),
            None if self.refuse_next && !self.by_key.contains_key(key) => {
                self.refuse_next = false;
                Answer::Status(400)
            }
            None => Answer::Take,
        };
        self.answered.push(answer);
        answer
    }

    fn done(&mut self, key: String, body: String, refused: bool) {
        let rows = body.lines().map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            row["n"].as_u64().unwrap()
        });
        let rows: Vec<u64> = rows.collect();
        if let Some(known) = self.by_key.insert(key.clone(), body.clone()) {
            assert_eq!(known, body, "{key} came again with other rows");
            self.repeated += 1;
            // A refusal that a power cut kept from being noted is none if the rows are taken now.
            let before = self.done.iter_mut().find(|(known, ..)| *known == key);
            before.into_iter().for_each(|(.., before)| *before &= refused);
            return;
        }
        self.done.push((key, rows, refused));
    }

    fn paused(&self) -> bool {
        self.script.is_empty() && self.pause_after.is_some_and(|rows| self.rows().len() >= rows)
    }

    fn rows(&self) -> Vec<u64> {
        self.done.iter().flat_map(|(_, rows, _)| rows.iter().copied()).collect()
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Seen>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let Some((key, length)) = read_request(&mut reader)? else { return Ok(()) };
        let answer = seen.lock().unwrap().decide(&key);
        if answer == Answer::Reset {
            return Ok(());
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let body = String::from_utf8(body).unwrap();
        let mut seen = seen.lock().unwrap();
        match answer {
            Answer::Take => {
                seen.done(key, body, false);
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
            }
            Answer::TakeSilently => {
                seen.done(key, body, false);
                return Ok(());
            }
            Answer::Status(status) => {
                let wait = if status == 429 { "Retry-After: 1\r\n" } else { "" };
                if status == 429 {
                    seen.asked_to_wait = Some(Instant::now());
                }
                if matches!(status, 400 | 413 | 422) {
                    seen.done(key, body, true);
                }
                write!(stream, "HTTP/1.1 {status} No\r\n{wait}Content-Length: 2\r\n\r\nno")?;
            }
            Answer::Hold => {
                drop(seen);
                std::thread::sleep(Duration::from_secs(1));
                return Ok(());
            }
            Answer::Reset => {}
        }
    }
}

/// A server on this address from now on.
fn listen(address: SocketAddr, seen: &Arc<Mutex<Seen>>) {
    let listener = TcpListener::bind(address).unwrap();
    let server = Arc::clone(seen);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = Arc::clone(&server);
            // Whether a connection breaks off is not the matter here; what was taken is.
            std::thread::spawn(move || serve(stream, &seen));
        }
    });
}

/// A pipeline from the plant to the server.
fn to_cloud(directory: &Path, plant: u16, address: SocketAddr, keys: &str) -> PathBuf {
    let pipeline = directory.join("to-cloud.toml");
    let text = format!(
        r#"
[pipeline]
name = "to-cloud"
checkpoint = "100ms"
batch = {{ rows = 100, age = "5ms" }}
[source.plant]
type = "mqtt"
url = "mqtt://127.0.0.1:{plant}"
version = "3.1.1"
client_id = "gateway"
topics = ["rows"]
format = {{ type = "json", time = "ts", time_unit = "ms" }}
fields = {{ n = "i64" }}
[sink.cloud]
type = "http"
inputs = ["plant"]
url = "http://{address}/rows"
timeout = "300ms"
pause_max = "50ms"
body_size = "2KiB"
{keys}
"#
    );
    std::fs::write(&pipeline, text).unwrap();
    pipeline
}

const ROWS: u64 = 3000;

/// A plant that has messages, a pipeline that takes them, and where the server will be.
struct Site {
    address: SocketAddr,
    plant: Plant,
    _directory: tempfile::TempDir,
    pipeline: PathBuf,
    data: String,
}

impl Site {
    fn new() -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let message = |n| Message::new("rows", format!("{{\"ts\":{},\"n\":{n}}}", 1_700_000_000_000 + n));
        let plant = Plant::start(vec![("rows", (0..ROWS).map(message).collect())]);
        let directory = tempfile::tempdir().unwrap();
        let pipeline = to_cloud(directory.path(), plant.port, address, "");
        let data = directory.path().join("data").display().to_string();
        Self { address, plant, _directory: directory, pipeline, data }
    }
}

#[test]
fn whatever_the_server_does_every_row_arrives_once_and_in_order() {
    let seen = Arc::new(Mutex::new(Seen {
        script: vec![
            Answer::Status(500),
            Answer::Status(500),
            Answer::Take,
            Answer::Status(429),
            Answer::Reset,
            Answer::TakeSilently,
            Answer::Reset,
            Answer::Hold,
            Answer::Status(503),
            Answer::Hold,
            Answer::Status(404),
        ],
        pause_after: Some(ROWS as usize / 3),
        ..Seen::default()
    }));
    seen.lock().unwrap().script.reverse();
    let Site { address, plant, _directory, pipeline, data } = Site::new();
    listen(address, &seen);
    let running = Running::start(&pipeline, &["--data-dir", &data]);
    // All faults have happened, and some rows have been taken since: a good moment for a power cut.
    running.wait_for("the end of the faults", |_| seen.lock().unwrap().paused());
    running.kill();
    {
        let mut seen = seen.lock().unwrap();
        seen.pause_after = None;
        seen.refuse_next = true;
    }
    let running = Running::start(&pipeline, &["--data-dir", &data]);
    running.wait_for("all rows", |_| seen.lock().unwrap().rows().len() as u64 >= ROWS);
    running.wait_for("all acknowledgements", |_| plant.acknowledged("rows") as u64 == ROWS);
    let counted = |metrics: &str| metric(metrics, "tidegate_refused_deliveries_total");
    running.wait_for("the count of refused rows", |metrics| counted(metrics) > 0.0);
    let refused = counted(&running.metrics());
    assert_eq!(running.terminate(), Some(0));

    let seen = seen.lock().unwrap();
    println!(
        "{} requests taken or refused, {} of them again after a lost answer or the power cut; {:?}",
        seen.done.len(),
        seen.repeated,
        &seen.answered[..14]
    );
    assert_eq!(seen.rows(), (0..ROWS).collect::<Vec<_>>(), "every row once by its key, in order");
    assert!(seen.repeated >= 1, "what was taken without an answer came again under its key");
    assert!(seen.waited.unwrap() >= Duration::from_secs(1), "Retry-After is kept: {:?}", seen.waited);
    let dropped: Vec<usize> = seen.done.iter().filter(|done| done.2).map(|(_, rows, _)| rows.len()).collect();
    assert_eq!(dropped.len(), 1, "one request was refused");
    assert_eq!(refused as usize, dropped[0], "its rows are counted");
}

#[test]
fn while_the_server_is_away_epochs_commit_and_a_stop_is_quick_and_later_everything_arrives_or_is_a_dead_letter()
 {
    // A few refusals, in the middle of failures that pass.
    let mut script = vec![Answer::Status(500); 5];
    script.extend([Answer::Status(503), Answer::Take, Answer::Status(400), Answer::TakeSilently]);
    script.extend([Answer::Take, Answer::Status(413), Answer::Reset, Answer::Take, Answer::Status(422)]);
    script.reverse();
    let seen = Arc::new(Mutex::new(Seen { script, ..Seen::default() }));
    let Site { address, plant, _directory, pipeline, data } = Site::new();
    let extra = ["--data-dir", data.as_str()];

    // Nobody listens. The plant has its acknowledgements all the same, and epochs commit.
    let running = Running::start(&pipeline, &extra);
    running.wait_for("all acknowledgements", |_| plant.acknowledged("rows") as u64 == ROWS);
    running
        .wait_for("all rows in the spool", |metrics| metric(metrics, "tidegate_spool_rows") as u64 == ROWS);
    running.wait_for("an epoch, and none that waits", |metrics| {
        metric(metrics, "tidegate_epoch") >= 1.0 && metric(metrics, "tidegate_epochs_owed") == 0.0
    });
    assert_eq!(metric(&running.metrics(), "tidegate_sink_connected"), 0.0);
    assert!(metric(&running.metrics(), "tidegate_spool_oldest_age_seconds") > 0.0);
    let stopping = Instant::now();
    assert_eq!(running.terminate(), Some(0));
    assert!(stopping.elapsed() < Duration::from_secs(5), "{:?}", stopping.elapsed());

    // Power cuts, before the server is there and in the middle of what it takes.
    Running::start(&pipeline, &extra).kill();
    listen(address, &seen);
    let running = Running::start(&pipeline, &extra);
    running.wait_for("the end of the faults", |_| {
        let seen = seen.lock().unwrap();
        seen.script.is_empty() && seen.done.len() > 60
    });
    running.kill();
    let running = Running::start(&pipeline, &extra);
    running.wait_for("all rows", |_| seen.lock().unwrap().rows().len() as u64 >= ROWS);
    running.wait_for("an empty spool", |metrics| metric(metrics, "tidegate_spool_entries") == 0.0);
    assert_eq!(running.terminate(), Some(0));

    let refused: u64 = {
        let seen = seen.lock().unwrap();
        assert_eq!(seen.rows(), (0..ROWS).collect::<Vec<_>>(), "every row once by its key, in order");
        assert!(seen.repeated > 0, "what was taken without an answer came again under its key");
        println!("{} requests, {} of them again", seen.done.len(), seen.repeated);
        seen.done.iter().filter(|done| done.2).map(|(_, rows, _)| rows.len() as u64).sum()
    };
    assert!(refused > 0);
    let list = || text(&tidegate(&["dead-letters", "list", "to-cloud", "--data-dir", &data]).stdout);
    let letters = list();
    println!("{letters}");
    // After a power cut a refusal may be told twice.
    let told = letters.lines().last().unwrap().split(' ').rev().nth(1).unwrap().parse::<u64>().unwrap();
    assert!(told >= refused, "{letters}");
    for status in ["400 no", "413 no"] {
        assert!(letters.contains(status), "{letters}");
    }
    let shown = text(&tidegate(&["dead-letters", "show", "to-cloud", "0", "--data-dir", &data]).stdout);
    assert!(shown.starts_with("{\"time\":"), "{shown}");
    let file = pipeline.display().to_string();
    let sent = tidegate(&["dead-letters", "replay", &file, "--data-dir", &data]);
    println!("{}{}", text(&sent.stdout), text(&sent.stderr));
    assert!(sent.status.success());
    assert_eq!(list(), "no dead letters\n");
    assert_eq!(seen.lock().unwrap().rows().len() as u64, ROWS + told, "they arrive under names of their own");
}

#[test]
fn what_a_changed_file_makes_of_records_whose_rows_are_spooled_already_arrives_too() {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let Site { address, plant, _directory, pipeline, data } = Site::new();
    let extra = ["--data-dir", data.as_str()];
    // Another sink answers no epoch, so none with rows is committed: what is in the spool is synced, and every start goes
    // on from the log's first record.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let stuck = silent.local_addr().unwrap();
    let written =
        std::fs::read_to_string(&pipeline).unwrap().replace("inputs = [\"plant\"]", "inputs = [\"some\"]");
    let divisible_by = |number: u64| {
        let operators = format!(
            "[operator.some]\ntype = \"filter\"\ninputs = [\"plant\"]\nwhere = \"n % {number} = 0\"\n[operator.few]\n\
             type = \"filter\"\ninputs = [\"plant\"]\nwhere = \"n < 50\"\n[sink.stuck]\ntype = \"http\"\n\
             inputs = [\"few\"]\nurl = \"http://{stuck}/rows\"\ntimeout = \"300ms\"\nspool = \"off\"\n"
        );
        std::fs::write(&pipeline, written.clone() + &operators).unwrap();
    };
    let spooled = |running: &Running| {
        running.wait_for("an epoch that waits for the other sink alone", |metrics| {
            let owed = |sink| series(metrics, "tidegate_epochs_owed", &[("node", sink)]);
            owed("stuck") >= 1.0 && owed("cloud") == 0.0
        });
    };

    divisible_by(3);
    let running = Running::start(&pipeline, &extra);
    running.wait_for("all acknowledgements", |_| plant.acknowledged("rows") as u64 == ROWS);
    spooled(&running);
    running.kill();
    divisible_by(2);
    let running = Running::start(&pipeline, &extra);
    spooled(&running);
    running.kill();
    // With the same file nothing comes twice.
    listen(address, &seen);
    drop(silent);
    let few = Arc::new(Mutex::new(Seen::default()));
    listen(stuck, &few);
    let running = Running::start(&pipeline, &extra);
    running.wait_for("all rows", |metrics| {
        let came = seen.lock().unwrap().rows().last() == Some(&(ROWS - 2));
        came && metric(metrics, "tidegate_spool_entries") == 0.0
    });
    assert_eq!(running.terminate(), Some(0));
    let seen = seen.lock().unwrap();
    let rows = seen.rows();
    let (before, after) = rows.split_at(rows.len() - (ROWS / 2) as usize);
    assert_eq!(after, (0..ROWS).step_by(2).collect::<Vec<_>>(), "all that the changed file makes, once");
    assert!(!before.is_empty());
    assert_eq!(before, (0..ROWS).step_by(3).take(before.len()).collect::<Vec<_>>(), "what was synced before");
    assert_eq!(seen.repeated, 0);
    assert_eq!(few.lock().unwrap().rows(), (0..50).collect::<Vec<_>>(), "what did not change came once");
}
