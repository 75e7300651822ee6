//! The kinds of value an expression knows, in the words a user knows, and the Arrow type each is computed in.
//! Pure.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};

/// The time zone that every computed time carries.
pub(super) const TIME_ZONE: &str = "UTC";

/// What sort of value an Arrow type holds, as far as expressions tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only null: the literal, or a column without a type.
    Null,
    Boolean,
    Integer,
    Float,
    Text,
    Time,
    Duration,
    Binary,
    /// A type that can be passed through and tested for null, nothing more.
    Other,
}

impl Kind {
    pub(super) fn of(data_type: &DataType) -> Kind {
        match data_type {
            DataType::Null => Kind::Null,
            DataType::Boolean => Kind::Boolean,
            integer if integer.is_integer() => Kind::Integer,
            DataType::Float16 | DataType::Float32 | DataType::Float64 => Kind::Float,
            DataType::Decimal128(..) | DataType::Decimal256(..) => Kind::Float,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Kind::Text,
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => Kind::Time,
            DataType::Duration(_) => Kind::Duration,
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => Kind::Binary,
            DataType::Dictionary(_, values) => Kind::of(values),
            _ => Kind::Other,
        }
    }

    /// The type values of this kind are computed in.
    pub(super) fn data_type(self) -> DataType {
        match self {
            Kind::Null | Kind::Other => DataType::Null,
            Kind::Boolean => DataType::Boolean,
            Kind::Integer => DataType::Int64,
            Kind::Float => DataType::Float64,
            Kind::Text => DataType::Utf8,
            Kind::Time => DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from(TIME_ZONE))),
            Kind::Duration => DataType::Duration(TimeUnit::Microsecond),
            Kind::Binary => DataType::Binary,
        }
    }

    /// The kind in a sentence: "cannot compare *text* with *a number*".
    pub(super) fn words(self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Boolean => "true/false",
            Kind::Integer => "a whole number",
            Kind::Float => "a number",
            Kind::Text => "text",
            Kind::Time => "a time",
            Kind::Duration => "a duration",
            Kind::Binary => "bytes",
            Kind::Other => "a value of a type without operators",
        }
    }

    pub(super) fn is_number(self) -> bool {
        matches!(self, Kind::Integer | Kind::Float)
    }

    /// The kind two values have in common without losing meaning, null going with everything.
    pub(super) fn common(self, other: Kind) -> Option<Kind> {
        match (self, other) {
            (Kind::Other, _) | (_, Kind::Other) => None,
            (a, b) if a == b => Some(a),
            (Kind::Null, kind) | (kind, Kind::Null) => Some(kind),
            (a, b) if a.is_number() && b.is_number() => Some(Kind::Float),
            _ => None,
        }
    }
}
