//! A sensor that speaks MQTT 3.1.1 by itself: it keeps what is not answered for good and sends it again over any
//! number of connections, as a device with a flash would.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::durability::letters;
use crate::support::{publish_packet, read_packet};

/// A device with numbered readings.
pub struct Sensor {
    /// Its client identifier and the last level of its topic.
    pub name: String,
    /// 1 or 2.
    pub quality: u8,
    /// The numbers of its messages; message *n* has packet identifier *n* + 1 (modulo 65,535).
    pub numbers: std::ops::Range<u64>,
    /// Most messages under way.
    pub window: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Sent, not answered.
    Published,
    /// PUBREC has come, PUBREL is sent.
    Released,
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Connections beyond the first.
    pub reconnects: u64,
    /// Messages that were sent again.
    pub again: u64,
}

impl Sensor {
    /// Sends everything until all of it is answered for good. `done` counts the messages that were acknowledged
    /// (PUBACK, PUBREC).
    pub fn run(&self, port: u16, done: &AtomicU64) -> Outcome {
        let mut outcome = Outcome::default();
        let mut next = self.numbers.start;
        let mut under_way = VecDeque::new();
        let started = Instant::now();
        let mut known = false;
        loop {
            let ended = self.connection(port, done, &mut next, &mut under_way, &mut known, &mut outcome);
            if ended.is_ok() {
                return outcome;
            }
            assert!(started.elapsed() < Duration::from_secs(240), "{} is not done: {ended:?}", self.name);
            outcome.reconnects += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn packet(&self, number: u64, again: bool) -> Vec<u8> {
        let topic = format!("plant/{}", self.name);
        let (ts, id) = (1_700_000_000_000 + number, letters(number));
        let payload = format!("{{\"ts\":{ts},\"n\":{number},\"id\":\"{id}\"}}");
        let mut packet = publish_packet(topic.as_bytes(), identifier(number), payload.as_bytes());
        packet[0] = 0x30 | self.quality << 1 | u8::from(again) << 3;
        packet
    }

    fn connection(
        &self,
        port: u16,
        done: &AtomicU64,
        next: &mut u64,
        under_way: &mut VecDeque<(u64, Stage)>,
        known: &mut bool,
        outcome: &mut Outcome,
    ) -> std::io::Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let name = self.name.as_bytes();
        let mut bytes = vec![0x10, 12 + name.len() as u8, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 30];
        bytes.extend([0, name.len() as u8]);
        bytes.extend(name);
        stream.write_all(&bytes)?;
        let (head, body) = read_packet(&mut stream)?;
        assert_eq!((head, body[1]), (0x20, 0), "accepted");
        // Whoever was acknowledged something has a session for as long as it is promised.
        assert!(body[0] == 1 || !*known, "{}: the session is forgotten", self.name);
        bytes.clear();
        for (number, stage) in &*under_way {
            match stage {
                Stage::Published => bytes.extend(self.packet(*number, true)),
                Stage::Released => bytes.extend(answer(0x62, *number)),
            }
            outcome.again += 1;
        }
        loop {
            while under_way.len() < self.window && *next < self.numbers.end {
                bytes.extend(self.packet(*next, false));
                under_way.push_back((*next, Stage::Published));
                *next += 1;
            }
            stream.write_all(&bytes)?;
            bytes.clear();
            if under_way.is_empty() {
                stream.write_all(&[0xe0, 0])?;
                return Ok(());
            }
            let (head, body) = read_packet(&mut stream)?;
            let waiting = |stage| under_way.iter().position(|(_, at)| *at == stage);
            // Answers come in the order of what they answer.
            let (stage, at) = match head {
                0x70 => (Stage::Released, waiting(Stage::Released).unwrap()),
                _ => (Stage::Published, waiting(Stage::Published).unwrap()),
            };
            let number = under_way[at].0;
            assert_eq!(body, identifier(number).to_be_bytes(), "{}: {head:x} in order", self.name);
            match (head, self.quality, stage) {
                (0x40, 1, Stage::Published) | (0x70, 2, Stage::Released) => {
                    under_way.remove(at);
                }
                (0x50, 2, Stage::Published) => {
                    under_way[at].1 = Stage::Released;
                    bytes.extend(answer(0x62, number));
                }
                _ => panic!("{} is answered {head:x}", self.name),
            }
            if head != 0x70 {
                *known = true;
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn identifier(number: u64) -> u16 {
    (number % 65_535) as u16 + 1
}

fn answer(kind: u8, number: u64) -> [u8; 4] {
    let [high, low] = identifier(number).to_be_bytes();
    [kind, 2, high, low]
}
