//! What the tests with real parts share: ports, brokers, publishers, bounded waiting.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
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
