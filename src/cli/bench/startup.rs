//! How long the program takes from its start to its first row: `tidegate run` as a process of its own, a server that
//! waits for it, and a message that is there as soon as it subscribes.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::firehose::read_packet;
use crate::error::{Error, Result};

/// Milliseconds since the process was started.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Started {
    /// The broker has CONNECT.
    pub connect_ms: f64,
    /// The broker has SUBSCRIBE, and sends a message.
    pub subscribe_ms: f64,
    /// The message's row is in the file.
    pub row_ms: f64,
}

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// Starts the program once, with a log or without.
///
/// # Errors
/// If it cannot be started or does not get as far as a row.
pub fn measure(directory: &Path, log: bool) -> Result<Started> {
    let failed = |error: std::io::Error| Error::io("measuring a start", &error);
    let _ = std::fs::remove_dir_all(directory);
    std::fs::create_dir_all(directory).map_err(failed)?;
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let (file, out) = (directory.join("startup.toml"), directory.join("rows.ndjson"));
    std::fs::write(&file, pipeline(port, &out)).map_err(failed)?;
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(["--log-level", "error", "run"]).arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
    if log {
        command.arg("--data-dir").arg(directory.join("data"));
    }
    let start = Instant::now();
    let mut child = command.spawn().map_err(failed)?;
    let started = listener.set_nonblocking(true).and_then(|()| serve(&listener, start, &out));
    let _ = child.kill();
    let _ = child.wait();
    let _ = std::fs::remove_dir_all(directory);
    started.map_err(failed)
}

fn pipeline(port: u16, out: &Path) -> String {
    format!(
        r#"
[pipeline]
name = "startup"
[source.plant]
type = "mqtt"
url = "mqtt://127.0.0.1:{port}"
version = "3.1.1"
client_id = "startup"
topics = ["plant/{{device}}"]
format = {{ type = "json", time = "ts", time_unit = "ms" }}
fields = {{ temp = "f64" }}
[sink.out]
type = "file"
inputs = ["plant"]
path = {out:?}
"#
    )
}

/// Waits for what `look` gives, not for ever.
fn wait_for<T>(mut look: impl FnMut() -> std::io::Result<Option<T>>) -> std::io::Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if begun.elapsed() > PATIENCE {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn serve(listener: &TcpListener, start: Instant, out: &Path) -> std::io::Result<Started> {
    let since = || start.elapsed().as_secs_f64() * 1e3;
    let mut stream: TcpStream = wait_for(|| match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    })?;
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    read_packet(&mut stream)?;
    let connect_ms = since();
    stream.write_all(&[0x20, 2, 0, 0])?;
    let subscribe = read_packet(&mut stream)?;
    let subscribe_ms = since();
    let packet = subscribe.get(..2).unwrap_or(&[0, 1]);
    let mut answer = vec![0x90, 3];
    answer.extend_from_slice(packet);
    answer.push(1);
    let (topic, payload) = (b"plant/press-1", b"{\"ts\":1700000000000,\"temp\":20.5}");
    // QoS 1, packet 1.
    answer.extend_from_slice(&[0x32, (2 + topic.len() + 2 + payload.len()) as u8, 0, topic.len() as u8]);
    answer.extend_from_slice(topic);
    answer.extend_from_slice(&[0, 1]);
    answer.extend_from_slice(payload);
    stream.write_all(&answer)?;
    wait_for(|| Ok(std::fs::metadata(out).is_ok_and(|file| file.len() > 0).then_some(())))?;
    Ok(Started { connect_ms, subscribe_ms, row_ms: since() })
}
