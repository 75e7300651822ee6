//! What a running process says of itself: to the service manager, by `tidegate status`, by heartbeats; also, and above
//! all, when something is stuck.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::durability::strace;
use crate::support::{TIDEGATE, free_port, lines, text, tidegate, wait_for_port};

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Its code, after a stop, and how long that took.
    fn stop(&mut self) -> (Option<i32>, Duration) {
        let asked = Instant::now();
        Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        (self.0.wait().unwrap().code(), asked.elapsed())
    }
}

fn start(pipeline: &Path, admin: u16, socket: Option<&Path>) -> Process {
    // Nobody reads what it writes: a sink to standard output is stuck once the pipe is full.
    start_into(pipeline, admin, socket, Stdio::piped())
}

fn start_into(pipeline: &Path, admin: u16, socket: Option<&Path>, out: Stdio) -> Process {
    let mut command = Command::new(TIDEGATE);
    command.arg("run").arg(pipeline).args(["--admin", &format!("127.0.0.1:{admin}")]);
    if let Some(socket) = socket {
        command.env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", "400000");
    }
    let child = command.stdout(out).stderr(Stdio::null()).spawn().unwrap();
    wait_for_port(admin);
    Process(child)
}

/// The status, once it says this.
fn status_with(admin: u16, part: &str) -> String {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let (_, said) = status(admin);
        if said.contains(part) {
            return said;
        }
        assert!(Instant::now() < until, "no `{part}` in: {said}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The status code of an answer of the admin port.
fn answer_code(admin: u16, path: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, admin)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn status(admin: u16) -> (Option<i32>, String) {
    let output = tidegate(&["status", "--admin", &format!("127.0.0.1:{admin}")]);
    (output.status.code(), text(&output.stdout))
}

/// Everything that the service manager hears within a time.
fn heard(socket: &UnixDatagram, time: Duration) -> Vec<String> {
    let until = Instant::now() + time;
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left)).unwrap();
        if let Ok(length) = socket.recv(&mut buffer) {
            all.extend(text(&buffer[..length]).lines().map(str::to_owned));
        }
    }
    all
}

#[test]
fn the_service_manager_is_told_and_a_heartbeat_leaves_by_a_sink() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("alive.ndjson");
    let pipeline = directory.path().join("alive.toml");
    let file = format!(
        "[pipeline]\nname = \"alive\"\ncheckpoint = \"200ms\"\n[source.beat]\ntype = \"heartbeat\"\nevery = \"100ms\"\n\
         [sink.out]\ntype = \"file\"\ninputs = [\"beat\"]\npath = {out:?}\n"
    );
    std::fs::write(&pipeline, file).unwrap();
    let socket = directory.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    let admin = free_port();
    let mut process = start(&pipeline, admin, Some(&socket));
    let said = heard(&manager, Duration::from_millis(1500));
    assert_eq!(said.iter().filter(|line| *line == "READY=1").count(), 1, "{said:?}");
    let alive = said.iter().filter(|line| *line == "WATCHDOG=1").count();
    assert!((4..=9).contains(&alive), "twice in 400 ms: {said:?}");
    assert!(said.iter().any(|line| line.starts_with("STATUS=1 pipelines run")), "{said:?}");
    let (code, said) = status(admin);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("alive: runs, up ") && said.contains("source beat"), "{said}");
    Command::new("kill").arg(process.0.id().to_string()).status().unwrap();
    assert!(process.0.wait().unwrap().success());
    assert!(heard(&manager, Duration::from_millis(100)).contains(&"STOPPING=1".to_owned()));
    let rows = lines(&out);
    assert!(rows.len() >= 10, "{}", rows.len());
    for (beat, row) in rows.iter().enumerate() {
        assert_eq!(row["beat"], beat);
        assert_eq!((&row["pipeline"], &row["healthy"]), (&"alive".into(), &true.into()));
    }
}

#[test]
fn a_stuck_sink_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let pipeline = directory.path().join("stuck.toml");
    let file = "[pipeline]\nname = \"stuck\"\ncheckpoint = \"1s\"\nstop_timeout = \"2s\"\n[source.plant]\ntype = \"simulate\"\ndevices = 100\n\
                rate_hz = 100.0\n[sink.out]\ntype = \"stdout\"\ninputs = [\"plant\"]\n";
    std::fs::write(&pipeline, file).unwrap();
    let admin = free_port();
    let mut process = start(&pipeline, admin, None);
    let until = Instant::now() + Duration::from_secs(60);
    let said = loop {
        let (code, said) = status(admin);
        if said.contains("! the engine waits for sink `out` to take rows, ") {
            assert_eq!(code, Some(1));
            break said;
        }
        assert!(Instant::now() < until, "{said}");
        std::thread::sleep(Duration::from_millis(500));
    };
    assert!(said.contains("waits for sink `out`\n"), "the source says so too: {said}");
    // Nor does it hold up the stop: what is not out by then is given up, since nothing is kept.
    let asked = Instant::now();
    Command::new("kill").arg(process.0.id().to_string()).status().unwrap();
    assert_eq!(process.0.wait().unwrap().code(), Some(1));
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    let nobody = tidegate(&["status", "--admin", &format!("127.0.0.1:{}", free_port())]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody.stderr).contains("is `tidegate run --admin"), "{}", text(&nobody.stderr));
}

/// A disk that takes its time: `strace` delays the opening of one file.
#[test]
fn a_start_that_waits_can_be_asked_and_stopped() {
    if !strace() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let pipeline = directory.path().join("waits.toml");
    let file = format!(
        "[pipeline]\nname = \"waits\"\nstop_timeout = \"1s\"\ndata_dir = {data:?}\n[source.plant]\ntype = \"simulate\"\n\
         devices = 1\n[sink.out]\ntype = \"stdout\"\ninputs = [\"plant\"]\n"
    );
    std::fs::write(&pipeline, file).unwrap();
    let socket = directory.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    let admin = free_port();
    let start = |delay_seconds: u32| {
        let mut command = Command::new("strace");
        // The tracer stands aside, so that the process keeps the number that it is started with.
        command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-P"]).arg(data.join("waits/lock"));
        command.args(["-e", &format!("inject=openat:delay_enter={delay_seconds}000000"), TIDEGATE, "run"]);
        command.arg(&pipeline).args(["--admin", &format!("127.0.0.1:{admin}")]);
        command.env("NOTIFY_SOCKET", &socket).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process(command.spawn().unwrap());
        wait_for_port(admin);
        process
    };
    let mut process = start(8);
    assert_eq!(status(admin), (Some(0), "waits: waits for its state\n".to_owned()));
    assert_eq!(answer_code(admin, "/ready"), "503");
    let said = heard(&manager, Duration::from_millis(500));
    assert!(!said.contains(&"READY=1".to_owned()), "{said:?}");
    assert!(said.contains(&"STATUS=0 pipelines run, `waits` waits for its state".to_owned()), "{said:?}");
    let asked = Instant::now();
    Command::new("kill").arg(process.0.id().to_string()).status().unwrap();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, admin)).is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
    // The tracer lets go of what is left of the process only when its delay ends.
    let took = asked.elapsed();
    assert_eq!(process.0.wait().unwrap().code(), Some(75));
    assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&took), "{took:?}");

    // When the disk answers after all, the pipeline runs.
    let mut process = start(3);
    status_with(admin, "waits: waits for its state");
    status_with(admin, "waits: runs, ");
    assert_eq!(answer_code(admin, "/ready"), "200");
    assert!(heard(&manager, Duration::from_millis(500)).contains(&"READY=1".to_owned()));
    assert_eq!(process.stop().0, Some(0));
}

#[test]
fn a_log_that_is_given_again_to_a_sink_that_takes_nothing_is_waited_for_and_can_be_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let pipeline = directory.path().join("again.toml");
    let file = format!(
        "[pipeline]\nname = \"again\"\nlog = \"on\"\nstop_timeout = \"1s\"\ndata_dir = {data:?}\n[source.plant]\n\
         type = \"simulate\"\ndevices = 100\nrate_hz = 100.0\n[sink.out]\ntype = \"stdout\"\ninputs = [\"plant\"]\n"
    );
    std::fs::write(&pipeline, file).unwrap();
    let admin = free_port();
    let process = start(&pipeline, admin, None);
    status_with(admin, "engine                  waits for sink `out`");
    drop(process);
    // Room for less than before.
    let (_reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'\n'; 60 << 10]).unwrap();
    let mut process = start_into(&pipeline, admin, None, writer.into());
    status_with(admin, "again: waits for the log, up ");
    let said = status_with(admin, "engine                  waits for sink `out`");
    assert!(said.contains("again: waits for the log, up "), "{said}");
    assert_eq!(answer_code(admin, "/ready"), "503");
    let (code, took) = process.stop();
    assert_eq!(code, Some(75));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_receiver_that_is_away_is_told_with_what_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let pipeline = directory.path().join("away.toml");
    let url = format!("http://127.0.0.1:{}/rows", free_port());
    let file = format!(
        "[pipeline]\nname = \"away\"\ncheckpoint = \"200ms\"\ndata_dir = {data:?}\n[source.plant]\ntype = \"simulate\"\n\
         devices = 10\nrate_hz = 10.0\n[sink.cloud]\ntype = \"http\"\ninputs = [\"plant\"]\nurl = {url:?}\n"
    );
    std::fs::write(&pipeline, file).unwrap();
    let admin = free_port();
    let mut process = start(&pipeline, admin, None);
    let said = status_with(admin, " spooled, the oldest ");
    let sink = said.lines().find(|line| line.starts_with("  sink   cloud ")).unwrap();
    assert!(sink.contains(" rows, away for ") && sink.to_lowercase().contains("refused"), "{sink}");
    assert_eq!(status(admin).0, Some(0), "a few seconds are no problem yet: {said}");
    let health = tidegate(&["status", "--json", "--admin", &format!("127.0.0.1:{admin}")]);
    let health: serde_json::Value = serde_json::from_slice(&health.stdout).unwrap();
    let spool = &health["pipelines"][0]["sinks"][0]["spool"];
    assert_eq!((&spool["receiver"], spool["entries"].as_u64() > Some(0)), (&"away".into(), true), "{spool}");
    assert_eq!(process.stop().0, Some(0), "what is spooled is safe");
}

#[test]
fn a_checkpoint_that_cannot_be_written_is_told_and_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (out, pipeline, log) = (path("out.ndjson"), path("kept.toml"), path("stderr"));
    let file = format!(
        "[pipeline]\nname = \"kept\"\ncheckpoint = \"200ms\"\ndata_dir = {:?}\n[source.beat]\ntype = \"heartbeat\"\n\
         every = \"100ms\"\n[sink.out]\ntype = \"file\"\ninputs = [\"beat\"]\npath = {out:?}\n",
        directory.path()
    );
    std::fs::write(&pipeline, file).unwrap();
    let admin = free_port();
    let mut command = Command::new(TIDEGATE);
    command.arg("run").arg(&pipeline).args(["--admin", &format!("127.0.0.1:{admin}")]);
    let stderr = std::fs::File::create(&log).unwrap();
    let mut process = Process(command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap());
    wait_for_port(admin);
    let until = Instant::now() + Duration::from_secs(60);
    let mut wait = |what: &str, done: &dyn Fn() -> bool| {
        while !done() {
            assert!(Instant::now() < until, "{what}: {}", status(admin).1);
            assert_eq!(
                process.0.try_wait().unwrap(),
                None,
                "{what}: {}",
                std::fs::read_to_string(&log).unwrap()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let (kept, away) = (path("kept/checkpoint"), path("away"));
    wait("a first checkpoint", &|| kept.read_dir().is_ok_and(|mut files| files.next().is_some()));
    // No disk could refuse more: a file stands where the directory was.
    std::fs::rename(&kept, &away).unwrap();
    std::fs::write(&kept, "").unwrap();
    wait("a problem", &|| status(admin).1.contains("! the checkpoint cannot be written: "));
    let rows = lines(&out).len();
    // Several tries later rows still come, and as many epochs as may be are under way.
    wait("rows", &|| lines(&out).len() > rows + 30);
    let warnings =
        || std::fs::read_to_string(&log).unwrap().matches("the checkpoint cannot be written").count();
    assert_eq!(warnings(), 1);
    assert_eq!(status(admin).0, Some(1));
    std::fs::remove_file(&kept).unwrap();
    std::fs::rename(&away, &kept).unwrap();
    wait("health", &|| status(admin).0 == Some(0));
    Command::new("kill").arg(process.0.id().to_string()).status().unwrap();
    assert!(process.0.wait().unwrap().success());
    for (beat, row) in lines(&out).iter().enumerate() {
        assert_eq!(row["beat"], beat);
    }
}
