//! `tidegate dead-letters`: what could not be delivered or used, and sending it again.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use clap::{Args, Subcommand, ValueEnum};

use super::files::load;
use super::run::runtime;
use super::{Failure, Outcome, PipelineArgs};
use crate::codec::text_ndjson::NdjsonWriter;
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::runtime::durable::DataDir;
use crate::runtime::spool::{Resent, resend};
use crate::store::dead_letters::{self, Met};
use crate::store::{DeadLetters, Disk, Letter, LetterBody, LetterKind};

/// Arguments of `tidegate dead-letters`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate dead-letters list --data-dir /var/lib/tidegate press-line
  tidegate dead-letters show --data-dir /var/lib/tidegate press-line 17
  tidegate dead-letters replay press-line.toml --data-dir /var/lib/tidegate --sink cloud")]
pub struct DeadLettersArgs {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List letters, oldest first, and count them. Can be used while the pipeline runs.
    #[command(after_help = "Example:
  tidegate dead-letters list --data-dir /var/lib/tidegate press-line --kind refused")]
    List(ListArgs),
    /// Show one letter: a payload as text where it is text, else in hexadecimal digits; rows as NDJSON. Can be used while
    /// the pipeline runs.
    #[command(after_help = "Example:
  tidegate dead-letters show --data-dir /var/lib/tidegate press-line 17")]
    Show(ShowArgs),
    /// Give refused and expired rows to their sink again, and cross out those that it takes. The pipeline must not be
    /// running.
    #[command(after_help = "Example:
  tidegate dead-letters replay press-line.toml --data-dir /var/lib/tidegate --sink cloud")]
    Replay(ReplayArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// The pipeline's name.
    pipeline: String,
    /// The data directory.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Only letters of this source, operator or sink.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Only letters of this kind.
    #[arg(long, value_enum)]
    kind: Option<Kind>,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// The pipeline's name.
    pipeline: String,
    /// The letter's number.
    number: u64,
    /// Print a payload byte for byte as it came.
    #[arg(long)]
    raw: bool,
    /// The data directory.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

#[derive(Debug, Args)]
struct ReplayArgs {
    /// The pipeline file: its sinks say where to.
    file: PathBuf,
    /// Only letters of this sink.
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
    /// How many seconds a receiver that is away is waited for.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    patience: u64,
    /// What every pipeline command takes.
    #[command(flatten)]
    pipeline: PipelineArgs,
}

/// Why something is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// The receiver refuses it.
    Refused,
    /// It waited for too long.
    Expired,
    /// A message that could not be read.
    BadPayload,
    /// A record at which the engine failed again and again.
    Poison,
    /// Too large for the spool.
    Oversize,
}

impl Kind {
    fn of(self) -> LetterKind {
        match self {
            Self::Refused => LetterKind::Refused,
            Self::Expired => LetterKind::Expired,
            Self::BadPayload => LetterKind::BadPayload,
            Self::Poison => LetterKind::Poison,
            Self::Oversize => LetterKind::Oversize,
        }
    }
}

/// Runs one of the commands.
///
/// # Errors
/// If the letters cannot be read, or not all of them could be delivered.
pub fn run(args: &DeadLettersArgs, registry: &Registry) -> Outcome {
    match &args.command {
        Command::List(args) => Ok(list(args, &mut std::io::stdout().lock())?),
        Command::Show(args) => Ok(show(args, &mut std::io::stdout().lock())?),
        Command::Replay(args) => replay(args, registry),
    }
}

fn look(data_dir: &std::path::Path, pipeline: &str) -> Result<Disk> {
    Disk::look(data_dir.join(pipeline)).map_err(|error| {
        Error::config(format!("there is no pipeline `{pipeline}` in {}: {error}", data_dir.display()))
    })
}

fn said(met: Met) -> Result<()> {
    match met.damaged {
        0 => Ok(()),
        damaged => Err(Error::state(format!("{damaged} stretches could not be read; all else is shown"))),
    }
}

fn time(wall_us: i64) -> String {
    DateTime::from_timestamp_micros(wall_us)
        .map_or_else(|| wall_us.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// A text in one line, control characters made visible: what a peer answers must not steer a terminal.
fn line(text: &str) -> String {
    text.chars().flat_map(char::escape_debug).collect()
}

fn failed(error: &std::io::Error) -> Error {
    Error::io("writing to standard output", error)
}

fn list(args: &ListArgs, out: &mut dyn Write) -> Result<()> {
    let mut disk = look(&args.data_dir, &args.pipeline)?;
    let wanted = |letter: &Letter| {
        args.node.as_ref().is_none_or(|node| *node == letter.node)
            && args.kind.is_none_or(|kind| kind.of() == letter.kind)
    };
    let mut counts: BTreeMap<(String, LetterKind), (u64, u64)> = BTreeMap::new();
    let met = dead_letters::read(&mut disk, |number, letter| {
        if !wanted(&letter) {
            return Ok(());
        }
        let rows = letter.rows();
        let count = counts.entry((letter.node.clone(), letter.kind)).or_default();
        *count = (count.0 + 1, count.1 + rows as u64);
        let status = letter.status.map(|status| format!("{status} ")).unwrap_or_default();
        let (node, place, reason) = (&letter.node, line(&letter.place), line(&letter.reason));
        let (when, kind) = (time(letter.wall_us), letter.kind.word());
        writeln!(out, "{number:>6}  {when}  {kind:<11} {node}  {rows} rows  {place}  {status}{reason}")
            .map_err(|error| failed(&error))
    })?;
    for ((node, kind), (letters, rows)) in counts {
        writeln!(out, "{node}: {letters} letters {}, {rows} rows", kind.word())
            .map_err(|error| failed(&error))?;
    }
    if met.letters == 0 {
        writeln!(out, "no dead letters").map_err(|error| failed(&error))?;
    }
    said(met)
}

fn show(args: &ShowArgs, out: &mut dyn Write) -> Result<()> {
    let mut disk = look(&args.data_dir, &args.pipeline)?;
    let mut found = None;
    dead_letters::read(&mut disk, |number, letter| {
        if number == args.number {
            found = Some(letter);
        }
        Ok(())
    })?;
    let Some(letter) = found else {
        return Err(Error::config(format!(
            "there is no letter {} in `{}`; `tidegate dead-letters list` shows those there are",
            args.number, args.pipeline
        )));
    };
    let head = |name: &str, value: &str| {
        eprintln!("{name:<7} {}", line(value));
    };
    head("kind", letter.kind.word());
    head("node", &letter.node);
    head("place", &letter.place);
    head("when", &time(letter.wall_us));
    if let Some(status) = letter.status {
        head("status", &status.to_string());
    }
    head("reason", &letter.reason);
    if let Some(offset) = letter.offset {
        head("record", &offset.to_string());
    }
    let mut text = Vec::new();
    match &letter.body {
        LetterBody::Bytes { bytes, original } => {
            if (bytes.len() as u64) < *original {
                head("cut", &format!("the first {} of {original} bytes", bytes.len()));
            }
            match args.raw {
                true => text.extend_from_slice(bytes),
                false => text.extend_from_slice(readable(bytes).as_bytes()),
            }
        }
        LetterBody::Rows(rows) => NdjsonWriter::new().write(rows, &mut text)?,
    }
    out.write_all(&text).map_err(|error| failed(&error))
}

/// A payload for a person: text as it is, everything else sixteen bytes to a line, with what of it is ASCII.
fn readable(bytes: &[u8]) -> String {
    let plain = |text: &&str| text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t'));
    if let Some(text) = std::str::from_utf8(bytes).ok().filter(plain) {
        return if text.is_empty() || text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") };
    }
    let mut shown = String::with_capacity(bytes.len() * 5);
    for (index, row) in bytes.chunks(16).enumerate() {
        let digits: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let ascii =
            row.iter().map(|&byte| if (b' '..=b'~').contains(&byte) { char::from(byte) } else { '.' });
        let ascii: String = ascii.collect();
        shown.push_str(&format!("{:08x}  {:<47}  {ascii}\n", index * 16, digits.join(" ")));
    }
    shown
}

fn replay(args: &ReplayArgs, registry: &Registry) -> Outcome {
    let pipeline = load(&args.file, &args.pipeline, registry)?;
    let name = pipeline.name().to_owned();
    let Some(root) = pipeline.settings.data_dir.clone() else {
        return Err(Error::config("there is no data directory: give it with --data-dir").into());
    };
    look(std::path::Path::new(&root), &name)?;
    let data = DataDir::open(std::path::Path::new(&root), &name)
        .map_err(|error| Error::config(format!("{error}; letters are sent again while it is stopped")))?;
    if let Some(sink) =
        args.sink.as_ref().filter(|sink| pipeline.sinks.iter().all(|known| known.name != **sink))
    {
        return Err(Error::config(format!("`{name}` has no sink `{sink}`")).into());
    }
    let mut letters = DeadLetters::open(data.store(), pipeline.settings.dead_letters_bytes())?;
    let patience = Duration::from_secs(args.patience);
    let mut left = 0;
    runtime()?.block_on(async {
        for planned in pipeline.sinks {
            let wanted = args.sink.as_ref().is_none_or(|sink| *sink == planned.name);
            if let (true, Some(peer)) = (wanted, planned.peer) {
                let outcome =
                    resend(&planned.name, peer, planned.spool, &mut letters, data.store().as_mut(), patience)
                        .await?;
                let (name, Resent { delivered: taken, refused, left: kept, away }) = (&planned.name, outcome);
                println!("{name}: {taken} rows delivered, {refused} rows in letters that are refused again");
                if let Some(reason) = away {
                    println!("{name}: {kept} rows left, for the receiver is away: {}", line(&reason));
                }
                left += kept + refused;
            }
        }
        Ok::<(), Error>(())
    })?;
    if left == 0 { Ok(()) } else { Err(Failure::Code(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn payloads_are_readable() {
        for (payload, expected) in [
            (&b""[..], ""),
            (b"{\"temp\": \"\xc2\xb0C\"", "{\"temp\": \"\u{b0}C\"\n"),
            (b"a,b\r\n1,2\n", "a,b\r\n1,2\n"),
            (b"\x1b[31m", "00000000  1b 5b 33 31 6d                                   .[31m\n"),
            (
                b"0123456789abcdef\xff",
                "00000000  30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66  0123456789abcdef\n\
                 00000010  ff                                               .\n",
            ),
        ] {
            assert_eq!(readable(payload), expected);
        }
    }

    #[test]
    fn letters_are_listed_and_shown_while_the_pipeline_has_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let args = |kind| ListArgs { pipeline: "a".to_owned(), data_dir: root.to_owned(), node: None, kind };
        let mut out = Vec::new();
        let error = list(&args(None), &mut out).unwrap_err().to_string();
        assert!(error.contains("no pipeline `a`"), "{error}");
        let disk = Disk::open(root.join("a")).unwrap();
        list(&args(None), &mut out).unwrap();
        assert_eq!(String::from_utf8_lossy(&out), "no dead letters\n");
        let mut letters = DeadLetters::open(disk.share(), 0).unwrap();
        let letter = Letter {
            kind: LetterKind::BadPayload,
            node: "plant".to_owned(),
            place: "plant/a".to_owned(),
            reason: "not\u{1b}[31m JSON".to_owned(),
            status: None,
            wall_us: 1_700_000_000_000_000,
            offset: Some(3),
            body: LetterBody::Bytes { bytes: b"{oops".to_vec(), original: 5 },
        };
        letters.put(&letter).unwrap();
        letters.put(&Letter { kind: LetterKind::Refused, status: Some(422), ..letter }).unwrap();
        letters.sync().unwrap();
        let mut out = Vec::new();
        list(&args(None), &mut out).unwrap();
        let text = String::from_utf8_lossy(&out);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(
            lines[0],
            "     0  2023-11-14T22:13:20.000Z  bad_payload plant  1 rows  plant/a  not\\u{1b}[31m JSON"
        );
        assert!(lines[1].ends_with("422 not\\u{1b}[31m JSON"), "{text}");
        assert_eq!(lines[2..], ["plant: 1 letters refused, 1 rows", "plant: 1 letters bad_payload, 1 rows"]);
        let mut out = Vec::new();
        list(&args(Some(Kind::Refused)), &mut out).unwrap();
        assert_eq!(String::from_utf8_lossy(&out).lines().count(), 2);
        let mut out = Vec::new();
        let show_args =
            |number| ShowArgs { pipeline: "a".to_owned(), number, raw: true, data_dir: root.to_owned() };
        show(&show_args(0), &mut out).unwrap();
        assert_eq!(out, b"{oops");
        assert!(show(&show_args(9), &mut out).unwrap_err().to_string().contains("no letter 9"));
    }
}
