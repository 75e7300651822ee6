//! The embedded broker (rumqttd): for demos, tests and fan-out on one machine. In memory: it keeps nothing over
//! a restart, and its acknowledgements promise nothing after a crash.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

use crate::error::{Error, Result};

/// How an embedded broker is set up.
#[derive(Debug, Clone, Copy)]
pub struct BrokerSettings {
    /// Where MQTT 3.1.1 clients connect.
    pub listen: SocketAddr,
    /// Where MQTT 5 clients connect, if anywhere: the two protocols need a listener each.
    pub listen_v5: Option<SocketAddr>,
    /// Largest packet it takes, in bytes.
    pub packet_bytes_max: usize,
    /// Most clients at once on each listener.
    pub connections_max: usize,
    /// Most messages under way to one client and not yet acknowledged.
    pub inflight_max: usize,
}

impl Default for BrokerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 1883)),
            listen_v5: None,
            packet_bytes_max: 1 << 20,
            connections_max: 1000,
            inflight_max: 1000,
        }
    }
}

impl TryFrom<&crate::config::Broker> for BrokerSettings {
    type Error = Error;

    fn try_from(broker: &crate::config::Broker) -> Result<Self> {
        let address = |text: &str| {
            text.parse().map_err(|_| Error::config(format!("broker: `{text}` is not an address with a port")))
        };
        Ok(Self {
            listen: address(&broker.listen)?,
            listen_v5: broker.listen_v5.as_deref().map(address).transpose()?,
            packet_bytes_max: broker.payload_max.as_usize(),
            connections_max: broker.connections_max,
            inflight_max: usize::from(broker.inflight_max),
        })
    }
}

/// How long the broker may take to listen.
const START_MAX: Duration = Duration::from_secs(10);

/// Starts a broker on threads of its own and returns when it takes connections. It runs until the process ends.
///
/// # Errors
/// If an address is taken or the broker does not come up.
pub fn start(settings: BrokerSettings) -> Result<()> {
    for listen in std::iter::once(settings.listen).chain(settings.listen_v5) {
        // The broker hides a failed bind; so look for ourselves first.
        std::net::TcpListener::bind(listen)
            .map_err(|error| Error::io(format!("the embedded broker cannot listen on {listen}"), &error))?;
    }
    let server = |name: &str, listen| ServerSettings {
        name: name.to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 10_000,
            max_payload_size: settings.packet_bytes_max,
            max_inflight_count: settings.inflight_max,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    let config = Config {
        id: 0,
        router: RouterConfig {
            max_connections: settings.connections_max,
            max_outgoing_packet_count: 1000,
            max_segment_size: 16 << 20,
            max_segment_count: 8,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("v4".to_owned(), server("v4", settings.listen))])),
        v5: settings.listen_v5.map(|listen| HashMap::from([("v5".to_owned(), server("v5", listen))])),
        ..Config::default()
    };
    std::thread::Builder::new()
        .name("broker".to_owned())
        .spawn(move || {
            let mut broker = Broker::new(config);
            if let Err(error) = broker.start() {
                tracing::error!(%error, "the embedded broker has stopped");
            }
        })
        .map_err(|error| Error::io("starting the broker's thread", &error))?;
    std::iter::once(settings.listen).chain(settings.listen_v5).try_for_each(wait_until_it_listens)
}

fn wait_until_it_listens(listen: SocketAddr) -> Result<()> {
    let started = Instant::now();
    loop {
        match TcpStream::connect_timeout(&listen, Duration::from_millis(500)) {
            Ok(_) => return Ok(()),
            Err(error) if started.elapsed() > START_MAX => {
                return Err(Error::io(format!("the embedded broker on {listen} does not come up"), &error));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
