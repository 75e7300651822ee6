//! An HTTP receiver that is down a third of the time, and knows what it has taken by key.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::read_request;

/// It is up for twice this time, then down for it: one time it turns connections away, the next it says 503.
const DOWN: Duration = Duration::from_millis(700);

/// What has come.
#[derive(Default)]
pub struct Taken {
    /// Checksum of the body by key.
    by_key: BTreeMap<String, u64>,
    /// Device and sequence number of every row, once per key.
    pub rows: Vec<(u16, u32)>,
    /// Requests that repeated a key, with the same rows.
    pub repeated: u64,
    /// Requests not taken while it was down.
    pub refused: u64,
    /// What must not happen.
    pub wrong: Vec<String>,
}

impl Taken {
    pub fn requests(&self) -> usize {
        self.by_key.len()
    }

    pub fn distinct(&self) -> usize {
        self.rows.iter().collect::<BTreeSet<_>>().len()
    }

    fn take(&mut self, key: String, body: &[u8]) {
        let sum = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        match self.by_key.insert(key.clone(), sum) {
            Some(known) if known == sum => self.repeated += 1,
            Some(_) => self.wrong.push(format!("{key} came again with other rows")),
            None => {
                for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    let row: serde_json::Value = serde_json::from_slice(line).unwrap();
                    let device =
                        row["device"].as_str().unwrap().trim_start_matches("device-").parse().unwrap();
                    self.rows.push((device, row["seq"].as_u64().unwrap() as u32));
                }
            }
        }
    }
}

/// Starts it; it lives as long as the process.
pub fn start() -> (u16, Arc<Mutex<Taken>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = Arc::new(Mutex::new(Taken::default()));
    let (served, started) = (Arc::clone(&taken), Instant::now());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if state(started) == State::TurnsAway {
                served.lock().unwrap().refused += 1;
                continue;
            }
            let taken = Arc::clone(&served);
            // That a connection breaks is what happens here all the time.
            std::thread::spawn(move || serve(stream, &taken, started));
        }
    });
    (port, taken)
}

#[derive(PartialEq)]
enum State {
    Up,
    TurnsAway,
    Says503,
}

fn state(started: Instant) -> State {
    match started.elapsed().as_millis() / DOWN.as_millis() % 6 {
        2 => State::TurnsAway,
        5 => State::Says503,
        _ => State::Up,
    }
}

fn serve(mut stream: TcpStream, taken: &Mutex<Taken>, started: Instant) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let Some((key, length)) = read_request(&mut reader)? else { return Ok(()) };
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut taken = taken.lock().unwrap();
        match state(started) {
            State::Up => {
                taken.take(key, &body);
                drop(taken);
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
            }
            State::TurnsAway => {
                taken.refused += 1;
                return Ok(());
            }
            State::Says503 => {
                taken.refused += 1;
                drop(taken);
                stream.write_all(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")?;
            }
        }
    }
}
