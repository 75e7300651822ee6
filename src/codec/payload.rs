//! What every payload decoder shares: why a payload is bad, the limits, and the one type that decodes any format.
//! Pure: bytes in, rows out.

use std::fmt;

use super::csv::CsvDecoder;
use super::json::JsonDecoder;
use super::rows::Rows;
use super::value::ValueDecoder;

/// Largest payload that is looked at, in bytes; a larger one is refused as [`BadReason::TooLarge`].
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// Most rows that one payload may carry.
pub const PAYLOAD_ROWS_MAX: usize = 65_536;

/// Most bytes of text that one payload may add to a batch. It bounds how far an outer text field, repeated on
/// every row of an array, can blow a payload up.
pub const PAYLOAD_TEXT_BYTES_MAX: usize = 64 << 20;

/// Deepest nesting of arrays and objects that is followed, skipped values included.
pub const DEPTH_MAX: usize = 64;

/// Why a payload cannot be used. [`BadReason::label`] is the word in metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BadReason {
    /// Not of the format's grammar: broken JSON, a stray quote, a CSV record with the wrong number of cells.
    Malformed,
    /// A value of another type than its field: an object for a number, `12.5` for an integer.
    WrongType,
    /// A number that its field cannot hold: `1e999`, an integer beyond 64 bits.
    OutOfRange,
    /// The time is absent, unreadable, or outside the supported years (1900 to 2261).
    BadTime,
    /// A text that is taken is not UTF-8.
    NotUtf8,
    /// Nothing, or nothing but white space.
    Empty,
    /// Nested deeper than [`DEPTH_MAX`].
    TooDeep,
    /// Beyond a limit: [`PAYLOAD_BYTES_MAX`], [`PAYLOAD_ROWS_MAX`] or [`PAYLOAD_TEXT_BYTES_MAX`].
    TooLarge,
    /// A part without which there are no rows is absent: the array of records, or a column in the header.
    Missing,
}

impl BadReason {
    /// Every reason, in a fixed order: the label values of the metric.
    pub const ALL: [BadReason; 9] = [
        BadReason::Malformed,
        BadReason::WrongType,
        BadReason::OutOfRange,
        BadReason::BadTime,
        BadReason::NotUtf8,
        BadReason::Empty,
        BadReason::TooDeep,
        BadReason::TooLarge,
        BadReason::Missing,
    ];

    /// The reason as one lower-case word, stable: the value of the metric label `reason`.
    pub fn label(self) -> &'static str {
        match self {
            BadReason::Malformed => "malformed",
            BadReason::WrongType => "wrong_type",
            BadReason::OutOfRange => "out_of_range",
            BadReason::BadTime => "bad_time",
            BadReason::NotUtf8 => "not_utf8",
            BadReason::Empty => "empty",
            BadReason::TooDeep => "too_deep",
            BadReason::TooLarge => "too_large",
            BadReason::Missing => "missing",
        }
    }
}

/// A payload that was refused; none of its rows remain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPayload {
    /// Why.
    pub reason: BadReason,
    /// Where it was noticed, as a byte offset from 0 into the payload.
    pub at: usize,
}

impl BadPayload {
    /// The metric label, see [`BadReason::label`].
    pub fn reason(&self) -> &'static str {
        self.reason.label()
    }
}

impl fmt::Display for BadPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.reason.label(), self.at)
    }
}

/// A decoder of one payload format. All of them obey the same contract, see [`PayloadDecoder::decode`].
#[derive(Debug)]
pub enum PayloadDecoder {
    /// JSON objects, or arrays of them.
    Json(JsonDecoder),
    /// CSV records.
    Csv(CsvDecoder),
    /// One bare value.
    Value(ValueDecoder),
}

impl PayloadDecoder {
    /// Decodes one payload and appends its rows to `rows`, which must have been made for the same
    /// [`RowFormat`](super::fields::RowFormat). `arrival_us` (µs since 1970) is the time of the rows where the
    /// format takes the arrival as time.
    ///
    /// Returns the number of rows appended, which may be 0 (an empty array). A bad payload leaves `rows` as it was.
    pub fn decode(&mut self, payload: &[u8], arrival_us: i64, rows: &mut Rows) -> Result<usize, BadPayload> {
        match self {
            PayloadDecoder::Json(decoder) => decoder.decode(payload, arrival_us, rows),
            PayloadDecoder::Csv(decoder) => decoder.decode(payload, arrival_us, rows),
            PayloadDecoder::Value(decoder) => decoder.decode(payload, arrival_us, rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct_words() {
        let mut labels: Vec<_> = BadReason::ALL.iter().map(|reason| reason.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), BadReason::ALL.len());
        assert!(
            labels
                .iter()
                .all(|label| label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'8'))
        );
        let bad = BadPayload { reason: BadReason::BadTime, at: 7 };
        assert_eq!(bad.to_string(), "bad_time at byte 7");
    }
}
