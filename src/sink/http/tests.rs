//! The `http` sink against a real server on the loopback interface.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::HttpConfig;
use crate::core::{DeliveryId, Epoch, Sink};
use crate::registry::{BatchLimits, Checked, Context, InputSchema, NoFiles, SinkConfig, example_schema};

/// One request as the server saw it.
#[derive(Debug, Clone)]
struct Seen {
    at: Instant,
    headers: HeaderMap,
    body: String,
}

/// What the server answers, in order; when it runs out, 200.
type Script = Arc<Mutex<(Vec<(u16, Option<String>)>, Vec<Seen>)>>;

async fn answer(State(script): State<Script>, headers: HeaderMap, body: Bytes) -> Response {
    let mut script = script.lock().unwrap();
    let body = String::from_utf8_lossy(&body).into_owned();
    script.1.push(Seen { at: Instant::now(), headers, body });
    let (status, retry_after) = if script.0.is_empty() { (200, None) } else { script.0.remove(0) };
    let status = StatusCode::from_u16(status).unwrap();
    match retry_after {
        Some(value) => (status, [("retry-after", value)], "busy").into_response(),
        None => (status, "no\nway").into_response(),
    }
}

async fn serve(answers: Vec<(u16, Option<String>)>) -> (SocketAddr, Script) {
    let script: Script = Arc::new(Mutex::new((answers, Vec::new())));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/rows", post(answer)).with_state(script.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, script)
}

fn build(body: &str, batch: &RecordBatch) -> Checked<(Box<dyn Sink>, Vec<String>)> {
    let inputs = [InputSchema { name: "in".to_owned(), schema: batch.schema() }];
    let limits = BatchLimits::default();
    let context = Context { name: "cloud", pipeline: "p", inputs: &inputs, files: &NoFiles, batch: limits };
    toml::from_str::<HttpConfig>(body).unwrap().build(&context).map(|built| (built.sink, built.notes))
}

fn rows(numbers: std::ops::Range<i64>) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
    RecordBatch::try_from_iter([("n", column)]).unwrap()
}

fn id(offset: u64) -> DeliveryId {
    DeliveryId { origin: "box/p/cloud".into(), offset, nth: 0 }
}

fn keys(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|seen| seen.headers["idempotency-key"].to_str().unwrap()).collect()
}

#[tokio::test]
async fn failures_that_may_pass_are_tried_again_and_refusals_are_dropped() {
    let date = (chrono::DateTime::from_timestamp_micros(crate::clock::wall().0).unwrap()
        + chrono::Duration::milliseconds(1_900))
    .format("%a, %d %b %Y %H:%M:%S GMT")
    .to_string();
    let answers = vec![
        (500, None),
        (503, Some("1".to_owned())),
        (429, Some(date)),
        (408, None),
        (200, None),
        (400, None),
        (302, None),
    ];
    let (address, script) = serve(answers).await;
    let batch = rows(0..2);
    let body = format!(
        "url = \"http://{address}/rows?q=1\"\npause_max = \"50ms\"\nheaders = {{ X-Site = \"north\" }}"
    );
    let (mut sink, notes) = build(&body, &batch).unwrap();
    assert!(notes.is_empty());
    sink.open(None).await.unwrap();
    let started = Instant::now();
    for offset in 7..11 {
        sink.write(id(offset), rows(offset as i64..offset as i64 + 1)).await.unwrap();
    }
    assert_eq!(sink.flush(Epoch(1)).await.unwrap().0, "box/p/cloud/10-0");
    let seen = script.lock().unwrap().1.clone();
    let seven = "box/p/cloud/7-0-0";
    let expected =
        [seven, seven, seven, seven, seven, "box/p/cloud/8-0-0", "box/p/cloud/9-0-0", "box/p/cloud/10-0-0"];
    assert_eq!(keys(&seen), expected);
    assert!(seen[..5].iter().all(|seen| seen.body == "{\"n\":7}\n"));
    assert_eq!(seen[7].body, "{\"n\":10}\n");
    assert_eq!(seen[0].headers["content-type"], "application/x-ndjson");
    assert_eq!(seen[0].headers["x-site"], "north");
    assert!(seen[2].at - seen[1].at >= Duration::from_secs(1), "Retry-After in seconds is kept");
    assert!(seen[1].at - seen[0].at < Duration::from_millis(900));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_server_that_is_away_or_breaks_off_is_waited_for() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let batch = rows(0..1);
    let body = format!("url = \"http://{address}/rows\"\npause_max = \"50ms\"\ntimeout = \"300ms\"");
    let (mut sink, _) = build(&body, &batch).unwrap();
    let server = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let mut bytes = [0; 4096];
        // The first connection is closed at once, the second in the middle of the answer, the third says nothing.
        drop(listener.accept().await.unwrap());
        let (mut second, _) = listener.accept().await.unwrap();
        assert!(second.read(&mut bytes).await.unwrap() > 0);
        second.write_all(b"HTTP/1.1 20").await.unwrap();
        drop(second);
        let (silent, _) = listener.accept().await.unwrap();
        let (mut last, _) = listener.accept().await.unwrap();
        assert!(last.read(&mut bytes).await.unwrap() > 0);
        last.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        drop(silent);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    sink.open(None).await.unwrap();
    tokio::time::timeout(Duration::from_secs(4), sink.write(id(1), batch)).await.unwrap().unwrap();
    assert!(server.await.unwrap().starts_with("POST /rows HTTP/1.1"));
}

#[tokio::test]
async fn large_batches_are_split_and_keep_their_keys() {
    let (address, script) = serve(vec![(200, None), (500, None)]).await;
    let batch = rows(0..5);
    for body in ["body_size = \"16B\"", "per = \"row\""] {
        let text = format!("url = \"http://{address}/rows\"\npause_max = \"10ms\"\n{body}");
        let (mut sink, _) = build(&text, &batch).unwrap();
        sink.open(None).await.unwrap();
        sink.write(id(3), batch.clone()).await.unwrap();
    }
    let seen = std::mem::take(&mut script.lock().unwrap().1);
    let split = ["0", "1", "1", "2", "0", "1", "2", "3", "4"].map(|part| format!("box/p/cloud/3-0-{part}"));
    assert_eq!(keys(&seen), split);
    assert_eq!(seen[0].body, "{\"n\":0}\n{\"n\":1}\n");
    assert_eq!(
        (&*seen[4].body, &seen[4].headers["content-type"]),
        ("{\"n\":0}", &"application/json".parse().unwrap())
    );
}

#[tokio::test]
async fn secrets_become_headers() {
    let (address, script) = serve(Vec::new()).await;
    let directory = tempfile::tempdir().unwrap();
    let secret = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("{{ file = {path:?} }}")
    };
    let (token, key) = (secret("token", "t0p\n"), secret("key", "k3y"));
    let batch = rows(0..1);
    let body =
        format!("url = \"http://{address}/rows\"\ntoken = {token}\nsecret_headers = {{ X-Api-Key = {key} }}");
    let (mut sink, notes) = build(&body, &batch).unwrap();
    assert!(notes[0].contains("unencrypted"));
    sink.open(None).await.unwrap();
    sink.write(id(1), batch.clone()).await.unwrap();
    let seen = script.lock().unwrap().1.clone();
    assert_eq!(seen[0].headers["authorization"], "Bearer t0p");
    assert_eq!(seen[0].headers["x-api-key"], "k3y");
    let broken = secret("broken", "two\nlines");
    let (mut sink, _) = build(&format!("url = \"http://{address}\"\ntoken = {broken}"), &batch).unwrap();
    let error = sink.open(None).await.unwrap_err();
    assert!(error.message.contains("broken") && !error.message.contains("lines"), "{error}");
}

#[tokio::test]
async fn https_trusts_the_given_authority_and_nobody_else() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, pem: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let (ca, wrong) = (write("ca.pem", made.cert.pem()), write("wrong.pem", stranger.cert.pem()));
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = rumqttc::tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut bytes = [0; 4096];
            let _ = stream.read(&mut bytes).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let batch = rows(0..1);
    let url = format!("url = \"https://localhost:{port}/\"\npause_max = \"20ms\"");
    for (ca, trusted) in [(&ca, true), (&wrong, false)] {
        let (mut sink, _) = build(&format!("{url}\nca = {ca:?}"), &batch).unwrap();
        sink.open(None).await.unwrap();
        let written =
            tokio::time::timeout(Duration::from_millis(800), sink.write(id(1), batch.clone())).await;
        assert_eq!(written.is_ok(), trusted);
    }
}

#[test]
fn examples_and_mistakes() {
    let example = RecordBatch::new_empty(example_schema());
    for body in HttpConfig::EXAMPLES {
        assert!(build(body, &example).is_ok(), "{body}");
    }
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let text = RecordBatch::try_from_iter([("x", text)]).unwrap();
    let cases: [(&str, &[(&str, &str)]); 7] = [
        ("url = \"localhost\"", &[("url", "not a url")]),
        ("url = \"mqtt://h\"", &[("url", "not spoken")]),
        ("url = \"http://u:p@h\"", &[("url", "do not belong")]),
        ("url = \"http://h\"\nca = \"x\"\ntimeout = \"0s\"", &[("ca", "needs TLS"), ("timeout", "longer")]),
        (
            "url = \"https://h\"\nclient_key = \"x\"\nformat = \"frames\"",
            &[("", "go together"), ("format", "no column `frame`")],
        ),
        (
            "url = \"http://h\"\nheaders = { \"a b\" = \"x\", Idempotency-Key = \"x\", X = \"a\\nb\" }",
            &[
                ("headers.Idempotency-Key", "already"),
                ("headers.X", "line breaks"),
                ("headers.a b", "cannot be the name"),
            ],
        ),
        (
            "url = \"https://h\"\ntoken = { env = \"T\" }\nheaders = { A = \"x\" }\n\
             secret_headers = { a = { env = \"T\" }, Authorization = { env = \"T\" } }",
            &[("secret_headers.Authorization", "makes this header"), ("secret_headers.a", "too")],
        ),
    ];
    for (body, expected) in cases {
        let problems = build(body, &text).map(|_| ()).unwrap_err();
        assert_eq!(problems.len(), expected.len(), "{body}: {problems:?}");
        for (problem, (path, part)) in problems.iter().zip(expected) {
            assert!(problem.path == *path && problem.message.contains(part), "{body}: {problem:?}");
        }
    }
}
