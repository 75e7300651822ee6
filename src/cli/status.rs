//! `tidegate status`: how the pipelines of a running process do, from its admin port.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use super::run::runtime;
use super::{Failure, Outcome};
use crate::config::limits::about;
use crate::error::{Error, Result};
use crate::net::http;
use crate::runtime::health::{PipelineHealth, span};

/// How long the process may take to answer: it reads counters only.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Arguments of `tidegate status`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  tidegate status --admin 127.0.0.1:9600

Exit codes: 0 all is well, 1 something is wrong or nobody answers.")]
pub struct StatusArgs {
    /// The admin port of the process, as it was given to `tidegate run --admin`.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9600")]
    pub admin: SocketAddr,
    /// A file with the token that the admin port wants.
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// Print what the process says, as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Deserialize)]
struct Answer {
    pipelines: Vec<PipelineHealth>,
}

/// Asks and prints.
///
/// # Errors
/// If nobody answers; and with code 1 if something is wrong.
pub fn run(args: &StatusArgs) -> Outcome {
    let text = runtime()?.block_on(ask(args))?;
    let answer: Answer = serde_json::from_str(&text)
        .map_err(|error| Error::data(format!("{} answers, but not as an admin port: {error}", args.admin)))?;
    if args.json {
        print!("{text}");
    } else {
        print!("{}", answer.pipelines.iter().map(in_words).collect::<String>());
    }
    let well = answer.pipelines.iter().all(|health| health.problems.is_empty());
    if well { Ok(()) } else { Err(Failure::Code(1)) }
}

async fn ask(args: &StatusArgs) -> Result<String> {
    let url = format!("http://{}/health", args.admin);
    let failed = |error: reqwest::Error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Error::unavailable(format!("{url}: {cause}; is `tidegate run --admin {}` running?", args.admin))
    };
    let mut request = http::client()?.get(&url).timeout(ANSWER_MAX);
    if let Some(path) = &args.admin_token_file {
        let token = std::fs::read_to_string(path)
            .map_err(|error| Error::config(format!("{}: {error}", path.display())))?;
        request = request.bearer_auth(token.trim());
    }
    let response = request.send().await.map_err(failed)?;
    let status = response.status();
    let text = response.text().await.map_err(failed)?;
    if status.is_success() { Ok(text) } else { Err(Error::data(format!("{url}: {status}: {}", text.trim()))) }
}

/// A pipeline in a few lines, what is wrong last.
fn in_words(health: &PipelineHealth) -> String {
    let mut text = String::new();
    let name = &health.pipeline;
    let waits = health.waits_for.as_ref().map(|whom| format!("waits for {whom}"));
    if let (Some(waits), true) = (&waits, health.sources.is_empty()) {
        let _ = writeln!(text, "{name}: {waits}");
        return text;
    }
    let up = span(Duration::from_secs_f64(health.uptime_seconds));
    let state = waits.as_deref().unwrap_or(if health.ready { "runs" } else { "does not take rows" });
    let _ = writeln!(text, "{name}: {state}, up {up}, epoch {}", health.epoch);
    for source in &health.sources {
        let connected = match source.connected {
            None => "",
            Some(true) => "connected, ",
            Some(false) => "NOT connected, ",
        };
        let last = source.seconds_since_rows.map_or(String::new(), |seconds| {
            format!(", the last {} ago", span(Duration::from_secs_f64(seconds)))
        });
        let waits = source.waits_for.as_ref().map_or(String::new(), |whom| format!(", waits for {whom}"));
        let _ = writeln!(text, "  source {:<16} {connected}{} rows{last}{waits}", source.source, source.rows);
    }
    let engine = span(Duration::from_secs_f64(health.engine.seconds));
    let _ = writeln!(text, "  engine {:<16} {}, {engine}", "", health.engine.does);
    if let Some(log) = &health.log {
        let _ = writeln!(text, "  log    {:<16} {}, {}", "", about(log.bytes), log.does);
    }
    for sink in &health.sinks {
        let owed = match sink.epochs_owed {
            0 => String::new(),
            epochs => format!(", {epochs} epochs wait for it"),
        };
        let spool = sink.spool.as_ref().map_or(String::new(), |spool| format!(", {}", spool.in_words()));
        let spool = plain(&spool);
        let _ = writeln!(text, "  sink   {:<16} {} rows{owed}{spool}", sink.sink, sink.rows);
    }
    if let Some(letters) = health.dead_letters.as_ref().filter(|letters| letters.bytes > 0) {
        let (size, rows) = (about(letters.bytes), letters.rows);
        let _ = writeln!(text, "  dead letters            {size}, {rows} rows since the start");
    }
    for problem in &health.problems {
        let _ = writeln!(text, "  ! {}", plain(problem));
    }
    text
}

/// Control characters made visible: what a peer answers must not steer a terminal.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            plain.extend(character.escape_default());
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_in_words() {
        let health: PipelineHealth = serde_json::from_str(
            r#"{"pipeline":"press","ready":true,"uptime_seconds":7260.0,"epoch":811,
                "sources":[{"source":"plant","connected":false,"rows":12,"seconds_since_rows":43.0,"waits_for":"sink `cloud`"}],
                "engine":{"does":"waits for sink `cloud` to take rows","seconds":43.0},
                "log":{"bytes":19083878,"does":"idle","seconds":0.1},
                "sinks":[{"sink":"cloud","rows":7,"epochs_owed":2},
                    {"sink":"mill","rows":9,"epochs_owed":0,"spool":{"bytes":18874368,"bytes_max":536870912,
                     "entries":40,"rows":400,"oldest_seconds":40.0,"dropped_rows":0,"receiver":"away",
                     "receiver_seconds":43.0,"last_error":"connection refused"}}],
                "dead_letters":{"bytes":4096,"rows":3,"seconds_since_last":7.0,"last":"`cloud`: no"},
                "epochs_under_way":[{"epoch":812,"waits_for":["cloud"],"seconds":43.0}],
                "problems":["epoch 812 waits for sink `cloud`, 43 s"]}"#,
        )
        .unwrap();
        let expected = "\
press: runs, up 2 h 1 min, epoch 811
  source plant            NOT connected, 12 rows, the last 43 s ago, waits for sink `cloud`
  engine                  waits for sink `cloud` to take rows, 43 s
  log                     18 MiB, idle
  sink   cloud            7 rows, 2 epochs wait for it
  sink   mill             9 rows, away for 43 s (connection refused), 18 MiB spooled, the oldest 40 s old
  dead letters            4.0 KiB, 3 rows since the start
  ! epoch 812 waits for sink `cloud`, 43 s
";
        assert_eq!(in_words(&health), expected);
        let health = PipelineHealth { problems: vec!["a\u{1b}[2J\nb".into()], ..health };
        assert!(in_words(&health).ends_with("  ! a\\u{1b}[2J\\nb\n"));
        assert_eq!(
            in_words(&PipelineHealth::waiting("found".into(), "messages")),
            "found: waits for messages\n"
        );
    }
}
