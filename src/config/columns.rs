//! Columns that only messages can tell: what is missing, what was found, and how that is kept. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::registry::{Columns, Sampler};

use super::{Diagnostics, Place, PlannedSource, Settings};

/// The version of the file that columns are kept in.
const VERSION: u32 = 1;

/// A source that does not say its columns.
pub struct Unsampled {
    /// The source; its messages can be taken, but not decoded yet.
    pub source: PlannedSource,
    /// Finds its columns in messages.
    pub finder: Finder,
    /// Where in the file the columns are missing.
    pub(super) place: Place,
}

/// Finds the columns of one source in messages.
#[derive(Clone)]
pub struct Finder {
    pub(super) sampler: Sampler,
    /// The source's `format` as written.
    pub(super) written: toml::Table,
}

impl Finder {
    /// The columns that these messages (their payloads) have.
    ///
    /// # Errors
    /// If the messages say nothing about columns.
    pub fn columns(&self, messages: &[&[u8]]) -> Result<Columns> {
        let found = self.sampler.columns(messages)?;
        Ok(Columns { written: self.written.clone(), ..found })
    }

    /// The messages in a text file: one per line, without the topic and the space that may be in front of JSON; CSV with
    /// a header is one message.
    pub fn messages<'t>(&self, text: &'t str) -> Vec<&'t [u8]> {
        self.sampler.messages(text)
    }
}

/// A pipeline that is right as far as that can be said while the columns of some sources are unknown.
pub struct Outline {
    /// `[pipeline]`; the data directory is the one that counts.
    pub settings: Settings,
    /// `[broker]`.
    pub broker: Option<super::Broker>,
    /// The sources whose columns are unknown.
    pub unsampled: Vec<Unsampled>,
    /// What may not be as meant, and where columns are unknown.
    pub warnings: Diagnostics,
}

impl Outline {
    /// That the columns are unknown as an error, for those who cannot look at messages.
    pub fn refused(self) -> Diagnostics {
        let places: Vec<Place> = self.unsampled.into_iter().map(|unsampled| unsampled.place).collect();
        self.warnings.only_errors_at(&places)
    }
}

/// What a right file becomes.
pub enum Planned {
    /// Everything is built.
    Ready(Box<super::Pipeline>),
    /// Messages must be seen first: give what they say as [`Options::columns`](super::Options::columns).
    Unsampled(Box<Outline>),
}

impl Planned {
    /// `[pipeline]`.
    pub fn settings(&self) -> &Settings {
        match self {
            Self::Ready(pipeline) => &pipeline.settings,
            Self::Unsampled(outline) => &outline.settings,
        }
    }

    /// `[broker]`.
    pub fn broker(&self) -> Option<&super::Broker> {
        match self {
            Self::Ready(pipeline) => pipeline.broker.as_ref(),
            Self::Unsampled(outline) => outline.broker.as_ref(),
        }
    }
}

/// What is in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    sources: BTreeMap<String, Columns>,
}

/// Writes columns down, by source.
///
/// # Errors
/// If they cannot be written as JSON.
pub fn write(columns: &BTreeMap<String, Columns>) -> Result<String> {
    let kept = Kept { version: VERSION, sources: columns.clone() };
    let text = serde_json::to_string_pretty(&kept);
    text.map(|text| text + "\n")
        .map_err(|error| Error::state(format!("the columns found cannot be written: {error}")))
}

/// Reads what [`write`] wrote; `file` is what the file is called in messages.
///
/// # Errors
/// If it was written by a newer version, or is no such file.
pub fn read(text: &[u8], file: &str) -> Result<BTreeMap<String, Columns>> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let damaged = |error: serde_json::Error| {
        Error::state(format!(
            "{file}:{}:{}: the columns kept there cannot be read: {error}; remove the file to have them found anew",
            error.line(),
            error.column()
        ))
    };
    let head: Head = serde_json::from_slice(text).map_err(damaged)?;
    if head.version != VERSION {
        return Err(Error::state(format!(
            "{file}: the columns kept there have version {}, and this program knows version {VERSION}; run the newer \
             program, or remove the file to have the columns found anew",
            head.version
        )));
    }
    serde_json::from_slice::<Kept>(text).map(|kept| kept.sources).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_read_as_they_were_written() {
        let columns = Columns {
            written: toml::from_str("type = \"json\"").unwrap(),
            format: toml::from_str("time = [\"a.b\", \"ts\"]\ntime_unit = \"ms\"").unwrap(),
            fields: toml::from_str("temp = \"f64\"\nx = { type = \"i64\", path = \"a.x\" }").unwrap(),
        };
        let all = BTreeMap::from([("plant".to_owned(), columns)]);
        assert_eq!(read(write(&all).unwrap().as_bytes(), "schema.json").unwrap(), all);
    }

    #[test]
    fn what_is_damaged_or_newer_is_refused() {
        for (text, part) in [
            ("", "schema.json:1:0: the columns kept there cannot be read"),
            ("{\"version\":1}", "missing field `sources`"),
            ("{\"version\":2,\"tables\":[]}", "version 2, and this program knows version 1"),
            ("{\"version\":1,\"sources\":{\"a\":{}}}", "remove the file"),
        ] {
            let error = read(text.as_bytes(), "schema.json").unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
