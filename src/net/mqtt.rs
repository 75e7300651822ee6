//! What the `mqtt` source and the `mqtt` sink are told alike: which broker, and which version to speak. Pure.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::registry::Problem;

/// Which version of MQTT to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
pub enum Version {
    /// 5, or 3.1.1 if the broker does not know 5.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// MQTT 3.1.1.
    #[serde(rename = "3.1.1")]
    V4,
    /// MQTT 5.
    #[serde(rename = "5")]
    V5,
}

/// Where a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether to use TLS.
    pub encrypted: bool,
}

/// Reads `mqtt://host:port` or `mqtts://host:port`.
///
/// # Errors
/// A problem at the key `url`.
pub fn parse_url(url: &str) -> Result<Address, Problem> {
    let problem = |message: String| {
        Problem::new("url", message)
            .help("write for example \"mqtt://localhost:1883\" or \"mqtts://broker:8883\"")
    };
    let (encrypted, rest) = match url.split_once("://") {
        Some(("mqtt" | "tcp", rest)) => (false, rest),
        Some(("mqtts" | "ssl", rest)) => (true, rest),
        _ => return Err(problem(format!("`{url}` is not the url of an MQTT broker"))),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        return Err(problem("user and password do not belong in the url".to_owned())
            .help("use `username` and `password = { env = \"…\" }`"));
    }
    let default = if encrypted { 8883 } else { 1883 };
    let (host, port) = match rest.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        Some((host, port)) => (
            host,
            port.parse::<u16>().map_err(|_| problem(format!("`{port}` is not a port from 1 to 65535")))?,
        ),
        None => (rest, default),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host.contains('/') {
        return Err(problem(format!("`{url}` has no host, or more than host and port")));
    }
    Ok(Address { host: host.to_owned(), port, encrypted })
}
