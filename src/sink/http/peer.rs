//! The receiver of the `http` sink: one request after the other, each tried once.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};

use super::body::{Bodies, Per};
use crate::core::{Attempt, Parcel, Peer, Refusal};
use crate::error::{Error, Result};
use crate::net::tls::TlsSettings;
use crate::net::{http, secret};
use crate::sink::encode::RowFormat;
use crate::units::Secret;

/// The header that names a request: the delivery and the number of the body within it.
/// IETF draft-ietf-httpapi-idempotency-key-header.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The header of a request whose rows have waited while newer ones went first.
pub const REPLAYED: &str = "tidegate-replayed";

/// Longest wait that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// How much of the answer to a refused request is kept, in bytes.
const ANSWER_KEPT: usize = 200;

/// How much of an answer is read so that the connection can be used again.
const ANSWER_READ: usize = 64 << 10;

/// How an HTTP sink works.
#[derive(Clone)]
pub struct HttpSettings {
    /// Where to send to.
    pub url: Url,
    /// TLS, for `https`.
    pub tls: Option<TlsSettings>,
    /// Headers of every request.
    pub headers: HeaderMap,
    /// Further headers, to be looked up when the sink opens.
    pub secret_headers: Vec<(HeaderName, Secret)>,
    /// A token for `Authorization`.
    pub token: Option<Secret>,
    /// Longest duration of one request.
    pub timeout: Duration,
    /// Longest pause between two tries.
    pub pause_max: Duration,
    /// How rows are written.
    pub format: RowFormat,
    /// What goes into one request.
    pub per: Per,
    /// Largest body, in bytes.
    pub body_bytes_max: usize,
}

/// A web server.
pub struct HttpPeer {
    settings: HttpSettings,
    client: Option<Client>,
}

/// What became of one request.
enum Answer {
    Taken,
    /// Refused for good: status and the beginning of the answer.
    Refused(StatusCode, String),
    /// To be tried again, after this long if the server says so.
    Later(String, Option<Duration>),
}

impl HttpPeer {
    /// Not open yet.
    pub fn new(settings: HttpSettings) -> Self {
        Self { settings, client: None }
    }

    fn client(&self) -> Result<Client> {
        let settings = &self.settings;
        let mut headers = settings.headers.clone();
        for (name, value) in &settings.secret_headers {
            headers.insert(name, secret_value(value, "")?);
        }
        if let Some(token) = &settings.token {
            headers.insert(AUTHORIZATION, secret_value(token, "Bearer ")?);
        }
        let builder = http::builder(settings.tls.as_ref().unwrap_or(&TlsSettings::default()))?
            .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .timeout(settings.timeout)
            .redirect(reqwest::redirect::Policy::none());
        http::finish(builder)
    }

    /// Where it sends to, without a query that may hold secrets.
    pub fn target(&self) -> String {
        let url = &self.settings.url;
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
    }

    async fn send(&self, client: &Client, key: &str, body: Vec<u8>, replayed: bool) -> Result<Answer> {
        let key = HeaderValue::from_str(key)
            .map_err(|_| Error::data(format!("the delivery's name `{key}` cannot be a header")))?;
        let mut request = client.post(self.settings.url.clone()).header(IDEMPOTENCY_KEY, &key).body(body);
        if replayed {
            request = request.header(REPLAYED, "true");
        }
        Ok(match request.send().await {
            Ok(response) => judge(response).await,
            Err(error) => Answer::Later(in_full(&error.without_url()), None),
        })
    }

    /// Sends what is left of a delivery. Its bodies are made anew and those that are settled passed over, so that each
    /// keeps its number and its rows.
    async fn deliver_one(&self, client: &Client, parcel: &mut Parcel) -> Result<Attempt> {
        let HttpSettings { format, per, body_bytes_max, .. } = self.settings;
        let mut bodies = Bodies::new(format, parcel.rows.clone(), per, body_bytes_max);
        let (mut part, mut row) = (0u64, 0);
        while let Some((body, rows)) = bodies.next_body()? {
            let end = row + rows;
            if end > parcel.settled {
                let key = format!("{}-{part}", parcel.id);
                match self.send(client, &key, body, parcel.replayed).await? {
                    Answer::Taken => {}
                    Answer::Refused(status, reason) => {
                        parcel.refused.push(Refusal {
                            rows: row..end,
                            status: Some(status.as_u16()),
                            reason,
                        });
                    }
                    Answer::Later(reason, after) => return Ok(Attempt::Away { reason, after }),
                }
                parcel.settled = end;
            }
            (part, row) = (part + 1, end);
        }
        Ok(Attempt::Settled)
    }
}

#[async_trait]
impl Peer for HttpPeer {
    fn pause_max(&self) -> Duration {
        self.settings.pause_max
    }

    async fn open(&mut self) -> Result<()> {
        self.client = Some(self.client()?);
        Ok(())
    }

    async fn deliver(&mut self, parcels: &mut [Parcel]) -> Result<Attempt> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => self.client()?,
        };
        // One request after the other leaves nothing to gain from several deliveries at once.
        match parcels.first_mut() {
            Some(parcel) => self.deliver_one(&client, parcel).await,
            None => Ok(Attempt::Settled),
        }
    }
}

fn secret_value(secret: &Secret, before: &str) -> Result<HeaderValue> {
    // The error must not show the value.
    let mut value = HeaderValue::from_str(&format!("{before}{}", secret::resolve(secret)?))
        .map_err(|_| Error::config(format!("the secret in {secret:?} cannot be a header's value")))?;
    value.set_sensitive(true);
    Ok(value)
}

/// An error with all its causes: the outermost alone says next to nothing.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

async fn judge(mut response: Response) -> Answer {
    let status = response.status();
    // A wrong token or path is the gateway's or the server's to mend, and no fault of these rows.
    let later = status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::REQUEST_TIMEOUT
                | StatusCode::TOO_EARLY
                | StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::NOT_FOUND
        );
    let asked =
        retry_after(response.headers(), crate::clock::wall().0).map(|asked| asked.min(RETRY_AFTER_MAX));
    let mut answer = Vec::new();
    // An answer that breaks off says as much as one that ends.
    while let Ok(Some(chunk)) = response.chunk().await {
        answer.extend_from_slice(&chunk);
        if answer.len() >= ANSWER_READ {
            break;
        }
    }
    if status.is_success() {
        return Answer::Taken;
    }
    answer.truncate(ANSWER_KEPT);
    let words: String =
        String::from_utf8_lossy(&answer).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match later {
        true => Answer::Later(format!("{status}: {words}"), asked),
        false => Answer::Refused(status, words),
    }
}

/// The wait that `Retry-After` asks for: seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now_us: i64) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    let wait_us = date.timestamp_micros().saturating_sub(now_us);
    Some(Duration::from_micros(u64::try_from(wait_us).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let asked = |text: &'static str, now_us| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            retry_after(&headers, now_us)
        };
        assert_eq!(asked("120", 0), Some(Duration::from_secs(120)));
        let then_us = 784_111_777_000_000;
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT", then_us - 3_000_000), Some(Duration::from_secs(3)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT", then_us + 1), Some(Duration::ZERO));
        assert_eq!(asked("soon", 0), None);
        assert_eq!(asked("-1", 0), None);
        assert_eq!(retry_after(&HeaderMap::new(), 0), None);
    }
}
