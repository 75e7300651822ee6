//! `tidegate infer`: looks at sample payloads and writes the `format` and `fields` of a source.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::Outcome;
use crate::codec::timestamp::parse_rfc3339;
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

/// What was seen at one path.
#[derive(Debug, Default, Clone)]
struct Seen {
    integers: u64,
    numbers: u64,
    booleans: u64,
    texts: u64,
    times: u64,
    numeric_texts: u64,
    least: f64,
    most: f64,
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
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let mut objects = 0u64;
    let mut wrong = 0u64;
    let mut array = None;
    for line in lines.filter(|line| !line.trim().is_empty()) {
        let payload = line.find(['{', '[']).map_or(line, |start| &line[start..]);
        match serde_json::from_str::<Value>(payload) {
            Ok(Value::Array(readings)) => {
                array = Some(String::new());
                for reading in &readings {
                    objects += u64::from(reading.is_object());
                    collect(reading, "", &mut seen, &mut None);
                }
            }
            Ok(value @ Value::Object(_)) => {
                objects += 1;
                collect(&value, "", &mut seen, &mut array);
            }
            _ => wrong += 1,
        }
    }
    if objects == 0 {
        return Err(Error::data("no line holds a JSON object or an array of them"));
    }
    Ok(write(&seen, objects, wrong, array.as_deref()))
}

fn collect(value: &Value, path: &str, seen: &mut BTreeMap<String, Seen>, array: &mut Option<String>) {
    let Value::Object(object) = value else { return };
    for (key, value) in object {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            Value::Null => {}
            Value::Object(_) => collect(value, &path, seen, array),
            Value::Array(items) if items.iter().any(Value::is_object) => {
                // The fields of the readings inside are found relative to them.
                for item in items {
                    collect(item, "", seen, &mut None);
                }
                *array = Some(path);
            }
            Value::Array(_) => {}
            Value::Bool(_) => seen.entry(path).or_default().booleans += 1,
            Value::Number(number) => {
                let value = number.as_f64().unwrap_or(f64::NAN);
                let seen = seen.entry(path).or_default();
                if seen.integers + seen.numbers == 0 {
                    (seen.least, seen.most) = (value, value);
                }
                (seen.least, seen.most) = (seen.least.min(value), seen.most.max(value));
                if number.is_i64() { seen.integers += 1 } else { seen.numbers += 1 }
            }
            Value::String(text) => {
                let seen = seen.entry(path).or_default();
                if parse_rfc3339(text.as_bytes()).is_some() {
                    seen.times += 1;
                } else if text.trim().parse::<f64>().is_ok() {
                    seen.numeric_texts += 1;
                } else {
                    seen.texts += 1;
                }
            }
        }
    }
}

/// The unit of a number that could be a time of this century: by its size.
fn time_unit(seen: &Seen) -> Option<&'static str> {
    if seen.booleans + seen.texts + seen.numeric_texts > 0 {
        return None;
    }
    if seen.times > 0 {
        return (seen.integers + seen.numbers == 0).then_some("rfc3339");
    }
    let (from, to) = (9.46e8, 4.1e9);
    [("s", 1.0), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)]
        .into_iter()
        .find(|(_, scale)| seen.least >= from * scale && seen.most <= to * scale)
        .map(|(unit, _)| unit)
}

fn write(seen: &BTreeMap<String, Seen>, objects: u64, wrong: u64, array: Option<&str>) -> String {
    use std::fmt::Write;
    // The likeliest name of a time among those that could be one.
    let likely = ["ts", "time", "timestamp", "t", "date", "datetime", "@timestamp"];
    let rank = |path: &str| {
        let name = path.rsplit('.').next().unwrap_or(path).to_ascii_lowercase();
        likely.iter().position(|known| *known == name).unwrap_or(likely.len())
    };
    let time =
        seen.iter().filter_map(|(path, seen)| time_unit(seen).map(|unit| (rank(path), path, unit))).min();
    let mut text = format!("# From {objects} readings");
    let _ = writeln!(
        text,
        "{}",
        if wrong > 0 { format!("; {wrong} lines were no JSON objects") } else { String::new() }
    );
    let _ = write!(text, "format = {{ type = \"json\"");
    if let Some((_, path, unit)) = time {
        let _ = write!(text, ", time = {path:?}, time_unit = {unit:?}");
    }
    match array {
        Some("") | None => {}
        Some(path) => _ = write!(text, ", array = {path:?}"),
    }
    let _ = writeln!(text, " }}");
    if time.is_none() {
        let _ = writeln!(text, "# no value looks like a time: rows get the time of their arrival");
    }
    let _ = writeln!(text, "\n[fields]");
    for (path, seen) in seen.iter().filter(|(path, _)| time.is_none_or(|(_, time, _)| time != *path)) {
        let kind = if seen.texts + seen.times > 0 {
            "text"
        } else if seen.booleans > 0 {
            if seen.integers + seen.numbers + seen.numeric_texts > 0 { "text" } else { "bool" }
        } else if seen.numbers + seen.numeric_texts > 0 {
            "f64"
        } else {
            "i64"
        };
        let name: String =
            path.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
        let _ = match name == *path {
            true => writeln!(text, "{name} = {kind:?}"),
            false => writeln!(text, "{name} = {{ type = {kind:?}, path = {path:?} }}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_types_and_paths_are_seen() {
        let lines = [
            r#"plant/a {"ts":1700000000123,"temp":21,"motor":{"rpm":1450,"on":true},"state":"run","n":"12"}"#,
            r#"plant/b {"ts":1700000000223,"temp":21.5,"motor":{"rpm":1451,"on":null},"state":null,"n":"13"}"#,
            "garbage",
        ];
        let text = suggest(lines.into_iter()).unwrap();
        let expected = r#"# From 2 readings; 1 lines were no JSON objects
format = { type = "json", time = "ts", time_unit = "ms" }

[fields]
motor_on = { type = "bool", path = "motor.on" }
motor_rpm = { type = "i64", path = "motor.rpm" }
n = "f64"
state = "text"
temp = "f64"
"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn readings_in_an_array_and_written_times() {
        let line = r#"{"gateway":7,"readings":[{"time":"2024-01-01T00:00:00Z","v":1.5},{"time":"2024-01-01T00:00:01Z","v":2}]}"#;
        let text = suggest([line].into_iter()).unwrap();
        assert!(
            text.contains(
                r#"format = { type = "json", time = "time", time_unit = "rfc3339", array = "readings" }"#
            ),
            "{text}"
        );
        assert!(text.contains("gateway = \"i64\"\nv = \"f64\"\n"), "{text}");
        assert!(suggest(["7"].into_iter()).is_err());
    }
}
