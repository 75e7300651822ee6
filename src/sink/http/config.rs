//! The pipeline file's side of the `http` sink.

use std::collections::BTreeMap;

use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;

use super::body::Per;
use super::peer::{HttpPeer, HttpSettings, IDEMPOTENCY_KEY, REPLAYED};
use crate::codec::text;
use crate::core::Peer;
use crate::net::tls::TlsSettings;
use crate::registry::{BuiltSink, Checked, Context, Problem, SinkConfig};
use crate::sink::encode::{RowFormat, has_frames};
use crate::sink::retrying::Retrying;
use crate::units::{Period, Secret, Size};

/// Sends rows to a web server with POST, one request after the other, so that they arrive in order.
///
/// A server that is away, or answers 401, 403, 404, 408, 425, 429 or 5xx, is tried again for ever, with growing pauses or after
/// the time that its `Retry-After` asks for; meanwhile rows wait in the spool, and without one the pipeline waits. Any
/// other answer than 2xx refuses the request for good: it is logged and counted, and its rows become dead letters, or are
/// dropped where none are kept. Redirects are not followed. Every request has an `Idempotency-Key`
/// that is the same whenever it is sent again, also after a restart with a log, so that a server can tell a repetition;
/// what a changed file makes of the same messages has other keys.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Where to send to: `http://…` or `https://…`.
    pub url: String,
    /// `ndjson`, `csv` (each request with a header line), or `frames` for what `compress` makes. Without it `frames`
    /// if every input has a column `frame`, else `ndjson`.
    #[serde(default)]
    pub format: Option<RowFormat>,
    /// What goes into one request: a `batch` of rows, as they come, or one `row`.
    #[serde(default)]
    pub per: Per,
    /// Headers of every request, e.g. `{ X-Site = "north" }`. `Content-Type` replaces that of the format.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Headers whose values are secret, e.g. `{ X-Api-Key = { env = "API_KEY" } }`.
    #[serde(default)]
    pub secret_headers: BTreeMap<String, Secret>,
    /// A token for the header `Authorization: Bearer …`, by reference: `{ env = "INGEST_TOKEN" }` or
    /// `{ file = "/run/secrets/ingest" }`.
    #[serde(default)]
    pub token: Option<Secret>,
    /// How long one request may take, with connecting and the answer.
    #[serde(default = "default_timeout")]
    pub timeout: Period,
    /// Longest pause between two tries. What a server asks for by `Retry-After` counts up to an hour.
    #[serde(default = "default_pause_max")]
    pub pause_max: Period,
    /// Largest body of a request: a batch that is larger is split by rows. A single row goes whole, however large.
    #[serde(default = "default_body_size")]
    pub body_size: Size,
    /// PEM file with the certificates of the authorities to trust, for `https://`. Without it the system's are.
    #[serde(default)]
    pub ca: Option<String>,
    /// PEM file with our certificate, for a server that asks for one.
    #[serde(default)]
    pub client_certificate: Option<String>,
    /// PEM file with the private key of `client_certificate`.
    #[serde(default)]
    pub client_key: Option<String>,
}

fn default_timeout() -> Period {
    Period::seconds(30)
}

fn default_pause_max() -> Period {
    Period::seconds(60)
}

fn default_body_size() -> Size {
    Size(1 << 20)
}

impl SinkConfig for HttpConfig {
    const TYPE: &'static str = "http";
    const EXAMPLES: &'static [&'static str] = &[
        r#"url = "https://ingest.example.com/v1/rows"
token = { env = "INGEST_TOKEN" }
headers = { X-Site = "north" }"#,
        r#"url = "http://historian.plant:8080/rows"
format = "csv"
body_size = "256KiB""#,
    ];

    fn build(self, context: &Context<'_>) -> Checked<BuiltSink> {
        let mut problems = Vec::new();
        let url = check_url(&self.url).map_err(|problem| problems.push(problem)).ok();
        let encrypted = url.as_ref().is_some_and(|url| url.scheme() == "https");
        let tls_keys = [
            ("ca", &self.ca),
            ("client_certificate", &self.client_certificate),
            ("client_key", &self.client_key),
        ];
        for (key, value) in tls_keys {
            if value.is_some() && url.is_some() && !encrypted {
                problems.push(
                    Problem::new(key, "this needs TLS, but the url is `http://`")
                        .help("write `https://` in the url"),
                );
            }
        }
        if self.client_certificate.is_some() != self.client_key.is_some() {
            problems
                .push(Problem::new("", "`client_certificate` and `client_key` go together: one is missing"));
        }
        for (key, period) in [("timeout", self.timeout), ("pause_max", self.pause_max)] {
            if period.0.is_zero() {
                problems.push(Problem::new(key, "must be longer than nothing"));
            }
        }
        let frames = context.inputs.iter().all(|input| has_frames(&input.schema));
        let format = self.format.unwrap_or(if frames { RowFormat::Frames } else { RowFormat::Ndjson });
        check_columns(format, context, &mut problems);
        let headers = self.headers(format, &mut problems);
        let secret_headers = self.secret_headers(&mut problems);
        let Some(url) = url.filter(|_| problems.is_empty()) else { return Err(problems) };
        let notes = match encrypted || (self.token.is_none() && self.secret_headers.is_empty()) {
            true => Vec::new(),
            false => vec!["a secret goes over `http://` unencrypted".to_owned()],
        };
        let settings = HttpSettings {
            url,
            tls: encrypted.then_some(TlsSettings {
                ca: self.ca,
                certificate: self.client_certificate,
                key: self.client_key,
            }),
            headers,
            secret_headers,
            token: self.token,
            timeout: self.timeout.0,
            pause_max: self.pause_max.0,
            format,
            per: self.per,
            body_bytes_max: self.body_size.as_usize(),
        };
        let alone = HttpPeer::new(settings.clone());
        let sink = Box::new(Retrying::new(alone.target(), alone));
        let peer: Box<dyn Peer> = Box::new(HttpPeer::new(settings));
        Ok(BuiltSink { sink, peer: Some(peer), letters: None, notes })
    }
}

impl HttpConfig {
    fn headers(&self, format: RowFormat, problems: &mut Vec<Problem>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static(match format {
                RowFormat::Ndjson if self.per == Per::Row => "application/json",
                RowFormat::Ndjson => "application/x-ndjson",
                RowFormat::Csv => "text/csv; charset=utf-8; header=present",
                RowFormat::Frames => "application/octet-stream",
            }),
        );
        for (name, value) in &self.headers {
            let at = format!("headers.{name}");
            match (header_name(&at, name), HeaderValue::from_str(value)) {
                (Ok(name), Ok(value)) => drop(headers.insert(name, value)),
                (Err(problem), _) => problems.push(problem),
                (_, Err(_)) => {
                    problems.push(Problem::new(
                        at,
                        "a header's value has no line breaks and no control characters",
                    ));
                }
            }
        }
        headers
    }

    fn secret_headers(&self, problems: &mut Vec<Problem>) -> Vec<(HeaderName, Secret)> {
        let mut headers = Vec::new();
        for (name, secret) in &self.secret_headers {
            let at = format!("secret_headers.{name}");
            match header_name(&at, name) {
                Ok(_) if self.headers.keys().any(|other| other.eq_ignore_ascii_case(name)) => {
                    problems.push(Problem::new(at, "this header is among `headers` too"));
                }
                Ok(name) if self.token.is_some() && name == reqwest::header::AUTHORIZATION => {
                    problems.push(Problem::new(at, "`token` makes this header already"));
                }
                Ok(name) => headers.push((name, secret.clone())),
                Err(problem) => problems.push(problem),
            }
        }
        headers
    }
}

fn header_name(at: &str, name: &str) -> Result<HeaderName, Problem> {
    let known = HeaderName::from_bytes(name.as_bytes());
    match known.map_err(|_| Problem::new(at, format!("`{name}` cannot be the name of a header")))? {
        name if name == IDEMPOTENCY_KEY || name == REPLAYED => {
            Err(Problem::new(at, "this header is set by the sink already"))
        }
        name if matches!(name.as_str(), "content-length" | "transfer-encoding" | "connection" | "host") => {
            Err(Problem::new(at, "this header is made by the connection").help("leave it out"))
        }
        name => Ok(name),
    }
}

fn check_url(text: &str) -> Result<Url, Problem> {
    let help = "write for example \"https://ingest.example.com/v1/rows\"";
    let url = Url::parse(text)
        .map_err(|error| Problem::new("url", format!("this is not a url: {error}")).help(help))?;
    if !matches!(url.scheme(), "http" | "https") {
        let scheme = url.scheme();
        return Err(Problem::new("url", format!("`{scheme}://` is not spoken by this sink")).help(help));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Problem::new("url", "user and password do not belong in the url")
            .help("use `token`, or `secret_headers = { Authorization = { env = \"…\" } }`"));
    }
    Ok(url)
}

fn check_columns(format: RowFormat, context: &Context<'_>, problems: &mut Vec<Problem>) {
    for input in context.inputs {
        match format {
            RowFormat::Frames if !has_frames(&input.schema) => problems.push(
                Problem::new("format", format!("`{}` has no column `frame`", input.name))
                    .help("put an operator of type `compress` in front, or choose another format"),
            ),
            RowFormat::Frames => {}
            RowFormat::Ndjson | RowFormat::Csv => {
                if let Err(error) = text::check_schema(&input.schema) {
                    problems.push(Problem::new("format", error.message));
                }
            }
        }
    }
}
