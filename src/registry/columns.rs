//! Columns that only messages can tell, and what finds them. Pure.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Finds columns in sample messages (their payloads). Pure.
#[derive(Clone)]
pub struct Sampler {
    find: Arc<FindColumns>,
    split: SplitMessages,
}

type FindColumns = dyn Fn(&[&[u8]]) -> Result<Columns> + Send + Sync;

/// The messages in a text file of samples.
pub type SplitMessages = for<'t> fn(&'t str) -> Vec<&'t [u8]>;

impl Sampler {
    /// One that finds columns so, and messages in a text file so.
    pub fn new(
        split: SplitMessages,
        find: impl Fn(&[&[u8]]) -> Result<Columns> + Send + Sync + 'static,
    ) -> Self {
        Self { find: Arc::new(find), split }
    }

    /// The messages in a text file of samples.
    pub fn messages<'t>(&self, text: &'t str) -> Vec<&'t [u8]> {
        (self.split)(text)
    }

    /// The columns that these messages have.
    ///
    /// # Errors
    /// If the messages say nothing about columns.
    pub fn columns(&self, messages: &[&[u8]]) -> Result<Columns> {
        (self.find)(messages)
    }
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sampler")
    }
}

impl PartialEq for Sampler {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.find, &other.find)
    }
}

impl Eq for Sampler {}

/// What sample messages said about a source: keys of its table that it does not have itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// The `format` of the source as it was written then: for another one the sample says nothing.
    pub written: toml::Table,
    /// More keys of `format`: where the time is.
    pub format: toml::Table,
    /// Its `fields`.
    pub fields: toml::Table,
}
