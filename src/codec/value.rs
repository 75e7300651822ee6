//! Bare payloads: the whole message is one value (`23.5`, `true`, a text), as many small devices publish. Pure.

use super::fields::{FieldKind, RowFormat, Target, TimeField};
use super::number::text_to_bits;
use super::payload::{BadPayload, BadReason, PAYLOAD_BYTES_MAX};
use super::rows::{Row, Rows};
use crate::error::{Error, Result};

/// Decodes bare values.
#[derive(Debug)]
pub struct ValueDecoder {
    target: Target,
    row: Row,
}

impl ValueDecoder {
    /// The format must have one field and take the arrival as time: there is room for no more in the payload.
    pub fn new(format: &RowFormat) -> Result<Self> {
        format.check()?;
        if format.time != TimeField::Arrival {
            return Err(Error::config(
                "a bare value has no time in it; leave the time out, and the time of arrival is taken",
            ));
        }
        let [field] = format.fields.as_slice() else {
            let count = format.fields.len();
            return Err(Error::config(format!(
                "a bare value fills one field, not {count}; name exactly one field"
            )));
        };
        Ok(Self { target: Target { slot: 1, kind: field.kind }, row: Row::new(format) })
    }

    /// See [`PayloadDecoder::decode`](super::payload::PayloadDecoder::decode). White space around anything but a
    /// text is ignored; `null` and `NaN` are null; a text is taken as it is.
    pub fn decode(&mut self, payload: &[u8], arrival_us: i64, rows: &mut Rows) -> Result<usize, BadPayload> {
        let mark = rows.begin();
        let bad = |reason| BadPayload { reason, at: 0 };
        self.row.clear(arrival_us);
        self.fill(payload).map_err(bad)?;
        match rows.push(&self.row, payload) {
            Ok(()) => Ok(1),
            Err(reason) => {
                rows.rollback(mark);
                Err(bad(reason))
            }
        }
    }

    fn fill(&mut self, payload: &[u8]) -> Result<(), BadReason> {
        let trimmed = payload.trim_ascii();
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(BadReason::TooLarge);
        }
        if trimmed.is_empty() {
            return Err(BadReason::Empty);
        }
        if self.target.kind == FieldKind::Text {
            if std::str::from_utf8(payload).is_err() {
                return Err(BadReason::NotUtf8);
            }
            self.row.set_text(self.target.slot, 0, payload.len());
        } else if trimmed != b"null"
            && let Some(bits) = text_to_bits(self.target.kind, trimmed)?
        {
            self.row.set(self.target.slot, bits);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;
    use arrow::util::display::array_value_to_string;

    use super::*;
    use crate::codec::fields::Field;
    use crate::codec::timestamp::TimeUnit;

    /// The value as text, nothing for null.
    type Decoded = Result<Option<String>, BadReason>;

    fn decode(kind: FieldKind, payload: &[u8]) -> Decoded {
        let format = RowFormat::new(vec![Field::new("value", kind)], TimeField::Arrival);
        let mut rows = Rows::new(&format);
        let decoded = ValueDecoder::new(&format).unwrap().decode(payload, 5, &mut rows);
        match decoded {
            Ok(count) => {
                assert_eq!((count, rows.len(), rows.times()), (1, 1, &[5][..]));
                let mut column = rows.finish().unwrap().remove(1);
                if matches!(kind, FieldKind::Time(_)) {
                    column = arrow::compute::cast(&column, &arrow::datatypes::DataType::Int64).unwrap();
                }
                Ok(column.is_valid(0).then(|| array_value_to_string(&column, 0).unwrap()))
            }
            Err(bad) => {
                assert!(rows.is_empty());
                Err(bad.reason)
            }
        }
    }

    #[test]
    fn every_kind_and_case() {
        use BadReason::{BadTime, Empty, NotUtf8, OutOfRange, WrongType};
        use FieldKind::{Bool, F32, F64, I64, Text, Time};
        let text = |text: &str| Ok(Some(text.to_owned()));
        let long = "x".repeat(1 << 20);
        let cases: &[(FieldKind, &[u8], Decoded)] = &[
            (F64, b"23.5", text("23.5")),
            (F64, b" 23.5\r\n", text("23.5")),
            (F64, b"+1e3", text("1000.0")),
            (F32, b"0.1", text("0.1")),
            (I64, b"-42", text("-42")),
            (I64, b"42.0", text("42")),
            (Bool, b"true", text("true")),
            (Bool, b"0", text("false")),
            (Text, b"run\n", text("run\n")),
            (Text, "é".as_bytes(), text("é")),
            (Text, long.as_bytes(), text(&long)),
            (Time(TimeUnit::Milliseconds), b"7", text("7000")),
            (Time(TimeUnit::Rfc3339), b"2100-01-01T00:00:00Z", text("4102444800000000")),
            (F64, b"null", Ok(None)),
            (F64, b"NaN", Ok(None)),
            (F64, b"inf", Err(OutOfRange)),
            (F64, b"1e999", Err(OutOfRange)),
            (I64, b"9223372036854775808", Err(OutOfRange)),
            (I64, b"12.5", Err(WrongType)),
            (F64, b"on", Err(WrongType)),
            (F64, b"\xff\xfe", Err(WrongType)),
            (F64, long.as_bytes(), Err(WrongType)),
            (Bool, b"yes", Err(WrongType)),
            (Time(TimeUnit::Seconds), b"1e300", Err(BadTime)),
            (Time(TimeUnit::Rfc3339), b"yesterday", Err(BadTime)),
            (Text, b"\xff", Err(NotUtf8)),
            (F64, b"", Err(Empty)),
            (Text, b" \n", Err(Empty)),
        ];
        for (kind, payload, expected) in cases {
            let shown = String::from_utf8_lossy(&payload[..payload.len().min(40)]);
            assert_eq!(&decode(*kind, payload), expected, "{kind:?} {shown:?}");
        }
    }

    #[test]
    fn formats_without_room_are_refused() {
        let one = vec![Field::new("value", FieldKind::F64)];
        let at = TimeField::At { path: vec!["ts".into()], unit: TimeUnit::Seconds };
        assert!(ValueDecoder::new(&RowFormat::new(one, at)).is_err());
        assert!(ValueDecoder::new(&RowFormat::new(vec![], TimeField::Arrival)).is_err());
    }
}
