//! `tidegate infer`: looks at sample payloads and writes the `format` and `fields` of a source.

use std::io::Read;
use std::path::PathBuf;

use clap::Args;

use super::Outcome;
use crate::codec::infer::{self, Found, Known};
use crate::error::{Error, Result};

/// Arguments of `tidegate infer`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  mosquitto_sub -t 'plant/#' -C 100 | tidegate infer -")]
pub struct InferArgs {
    /// JSON payloads, one per line (a topic and a space in front are passed over); `-` for standard input.
    pub file: PathBuf,
    /// Look at this many lines at most.
    #[arg(long, default_value_t = 1000)]
    pub lines: usize,
}

/// Prints what a source needs to decode the samples.
///
/// # Errors
/// If the file cannot be read or holds no JSON objects.
pub fn infer(args: &InferArgs) -> Outcome {
    let text = if args.file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| Error::io("reading standard input", &error))?;
        text
    } else {
        std::fs::read_to_string(&args.file)
            .map_err(|error| Error::io(format!("reading {}", args.file.display()), &error))?
    };
    print!("{}", suggest(text.lines().take(args.lines))?);
    Ok(())
}

/// The keys of a source for these payloads.
///
/// # Errors
/// If none of them is a JSON object.
pub fn suggest<'a>(lines: impl Iterator<Item = &'a str>) -> Result<String> {
    Ok(write(&infer::infer(&Known::default(), lines.filter_map(infer::json_payload))?))
}

fn write(found: &Found) -> String {
    use std::fmt::Write;
    let path = |keys: &[String]| match keys.iter().any(|key| key.contains('.') || key.is_empty()) {
        true => format!("{keys:?}"),
        false => format!("{:?}", keys.join(".")),
    };
    let mut text = format!("# From {} readings", found.readings);
    if found.unusable > 0 {
        let _ = write!(text, "; {} lines were no JSON objects", found.unusable);
    }
    let _ = write!(text, "\nformat = {{ type = \"json\"");
    if let Some((time, unit)) = &found.time {
        let _ = write!(text, ", time = {}, time_unit = {:?}", path(time), unit.word());
    }
    if let Some(array) = &found.array {
        let _ = write!(text, ", array = {}", path(array));
    }
    let _ = writeln!(text, " }}");
    if found.time.is_none() {
        let _ = writeln!(text, "# no value looks like a time: rows get the time of their arrival");
    }
    let _ = writeln!(text, "\n[fields]");
    for field in &found.fields {
        let (name, kind) = (&field.name, field.kind.word());
        let _ = match field.path.as_slice() {
            [key] if key == name => writeln!(text, "{name} = {kind:?}"),
            keys => writeln!(text, "{name} = {{ type = {kind:?}, path = {} }}", path(keys)),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_put_into_a_source() {
        let lines = [
            r#"plant/a {"ts":1700000000123,"temp":21,"motor":{"rpm":1450,"on":true},"a.b":"run","n":"12"}"#,
            "",
            "garbage",
            r#"plant/b {"ts":1700000000223,"temp":21.5,"motor":{"rpm":1451,"on":null},"a.b":null,"n":"13"}"#,
        ];
        let text = suggest(lines.into_iter()).unwrap();
        let expected = r#"# From 2 readings; 1 lines were no JSON objects
format = { type = "json", time = "ts", time_unit = "ms" }

[fields]
temp = "f64"
motor_rpm = { type = "f64", path = "motor.rpm" }
motor_on = { type = "bool", path = "motor.on" }
a_b = { type = "text", path = ["a.b"] }
n = "f64"
"#;
        assert_eq!(text, expected);
        assert!(text.parse::<toml::Table>().is_ok());
        let text = suggest([r#"{"readings":[{"v":1}]}"#].into_iter()).unwrap();
        assert!(text.contains("array = \"readings\" }\n# no value looks like a time"), "{text}");
        assert!(suggest(["7"].into_iter()).is_err());
    }
}
