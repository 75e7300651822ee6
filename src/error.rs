//! The one error type of the crate. Pure: it only carries words.
//!
//! An error says what happened, where, and, as far as it is known, what to do about it. `Kind` is what
//! code decides by (retry, refuse, skip); the text is what a person reads.

use std::fmt;

/// What sort of failure this is: the part of an error that code decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The configuration is wrong; it was found before anything ran.
    Config,
    /// A row, payload or batch cannot be used as it is.
    Data,
    /// A model cannot be used: damaged, of another shape, failing its own self-test.
    Model,
    /// Saved state cannot be used: damaged, of another version or another meaning.
    State,
    /// The operating system refused a read, write, sync or rename.
    Io,
    /// A peer is away or answers with a failure that may pass; trying again is right.
    Unavailable,
    /// A peer refuses for good; trying again would change nothing.
    Refused,
}

/// A failure, with the node it belongs to where one is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What sort of failure.
    pub kind: Kind,
    /// The name of the source, operator or sink, as written in the pipeline file.
    pub node: Option<String>,
    /// What happened, with place, cause and, where known, the fix.
    pub message: String,
}

/// A result whose failure is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the given kind, not yet tied to a node.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, node: None, message: message.into() }
    }

    /// The configuration is wrong.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Kind::Config, message)
    }

    /// A row, payload or batch cannot be used.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(Kind::Data, message)
    }

    /// A model cannot be used.
    pub fn model(message: impl Into<String>) -> Self {
        Self::new(Kind::Model, message)
    }

    /// Saved state cannot be used.
    pub fn state(message: impl Into<String>) -> Self {
        Self::new(Kind::State, message)
    }

    /// The operating system refused; `doing` says what was tried, e.g. `"opening out/a.csv"`.
    pub fn io(doing: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(Kind::Io, format!("{doing}: {error}"))
    }

    /// A peer is away; trying again is right.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    /// A peer refuses for good.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }

    /// The same error, tied to a node unless it already is.
    #[must_use]
    pub fn at(mut self, node: &str) -> Self {
        self.node.get_or_insert_with(|| node.to_owned());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{node}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::data(error.to_string())
    }
}
