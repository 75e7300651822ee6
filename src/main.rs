//! The `tidegate` command.

use std::process::ExitCode;

use clap::Parser;
use tidegate::cli::{Cli, LogFormat, dispatch};
use tracing_subscriber::EnvFilter;

/// Column buffers come and go by the megabyte; this allocator keeps them instead of giving them back each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Asks the system not to back memory with huge pages. Buffers of a megabyte that come and go would each keep two
/// megabytes resident: peak memory halves without them, at the same CPU time. A system that knows no such
/// request goes on as it is.
fn refuse_huge_pages() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

fn main() -> ExitCode {
    refuse_huge_pages();
    let cli = Cli::parse();
    // The embedded broker tells of every connection, and calls an ordinary good-bye an error.
    // The demo's picture is not to be broken by what goes as it should.
    let level = match (&cli.command, cli.log.as_str()) {
        (tidegate::cli::Command::Demo(_), "info") => "warn",
        (_, level) => level,
    };
    let quiet = if cli.log.contains("rumqttd") { "" } else { ",rumqttd=off" };
    let filter = match EnvFilter::try_new(format!("{level}{quiet}")) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("error: --log {}: {error}", cli.log);
            return ExitCode::from(2);
        }
    };
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Text => subscriber.with_target(false).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    dispatch(cli)
}
