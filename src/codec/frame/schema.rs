//! The schema section of a frame: names, types, nullability and metadata in a compact encoding. Pure.
//!
//! The layout is described in [`super`]; type codes are part of the frame format and never change.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Metadata, Schema, TimeUnit};

use super::super::wire::{Reader, put_bytes, put_varint};
use crate::error::{Error, Result};

/// The most columns a frame can have.
pub const COLUMNS_MAX: usize = 4096;

const NULLABLE: u8 = 1;

/// A column as the schema section announces it.
pub(super) struct Entry {
    pub(super) name: String,
    /// `Err`: why this version cannot read the column.
    pub(super) field: Result<FieldRef, String>,
}

/// Types without parameters, at the index of their code.
const SIMPLE: [DataType; 17] = [
    DataType::Null,
    DataType::Boolean,
    DataType::Int8,
    DataType::Int16,
    DataType::Int32,
    DataType::Int64,
    DataType::UInt8,
    DataType::UInt16,
    DataType::UInt32,
    DataType::UInt64,
    DataType::Float16,
    DataType::Float32,
    DataType::Float64,
    DataType::Utf8,
    DataType::LargeUtf8,
    DataType::Binary,
    DataType::LargeBinary,
];

const FIXED_SIZE_BINARY: u8 = 17;
const TIMESTAMP: u8 = 18;
const DATE32: u8 = 19;
const DATE64: u8 = 20;
const DURATION: u8 = 21;
const DICTIONARY: u8 = 22;
const FIXED_SIZE_LIST: u8 = 23;

const UNITS: [TimeUnit; 4] =
    [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond];

/// Appends the schema section.
pub(super) fn put_schema(schema: &Schema, out: &mut Vec<u8>) -> Result<()> {
    if schema.fields().len() > COLUMNS_MAX {
        return Err(Error::data(format!(
            "{} columns do not fit a frame of {COLUMNS_MAX}",
            schema.fields().len()
        )));
    }
    put_varint(schema.fields().len() as u64, out);
    let mut bytes = Vec::new();
    for field in schema.fields() {
        bytes.clear();
        put_field(field, &mut bytes)?;
        put_bytes(&bytes, out);
    }
    put_metadata(schema.metadata(), out);
    Ok(())
}

fn put_field(field: &Field, out: &mut Vec<u8>) -> Result<()> {
    put_bytes(field.name().as_bytes(), out);
    out.push(if field.is_nullable() { NULLABLE } else { 0 });
    put_type(field, out)?;
    put_metadata(field.metadata(), out);
    Ok(())
}

fn put_type(field: &Field, out: &mut Vec<u8>) -> Result<()> {
    let data_type = field.data_type();
    if let Some(code) = SIMPLE.iter().position(|simple| simple == data_type) {
        out.push(code as u8);
        return Ok(());
    }
    match data_type {
        DataType::FixedSizeBinary(size) => {
            out.push(FIXED_SIZE_BINARY);
            put_varint(u64::from(size.unsigned_abs()), out);
        }
        DataType::Timestamp(unit, zone) => {
            out.extend([TIMESTAMP, unit_code(*unit), u8::from(zone.is_some())]);
            if let Some(zone) = zone {
                put_bytes(zone.as_bytes(), out);
            }
        }
        DataType::Date32 => out.push(DATE32),
        DataType::Date64 => out.push(DATE64),
        DataType::Duration(unit) => out.extend([DURATION, unit_code(*unit)]),
        DataType::Dictionary(key, value) if **key == DataType::Int32 && **value == DataType::Utf8 => {
            out.push(DICTIONARY);
        }
        DataType::FixedSizeList(item, size) => {
            out.push(FIXED_SIZE_LIST);
            put_varint(u64::from(size.unsigned_abs()), out);
            let mut bytes = Vec::new();
            put_field(item, &mut bytes)?;
            put_bytes(&bytes, out);
        }
        other => {
            return Err(Error::data(format!(
                "column \"{}\" has the type {other}, which frames do not carry; cast it before (for example to Utf8)",
                field.name()
            )));
        }
    }
    Ok(())
}

fn unit_code(unit: TimeUnit) -> u8 {
    UNITS.iter().position(|&other| other == unit).unwrap_or_default() as u8
}

/// Pairs in the order of their keys (as Arrow keeps them), so that equal schemas give equal bytes.
fn put_metadata(metadata: &Metadata, out: &mut Vec<u8>) {
    put_varint(metadata.len() as u64, out);
    for (key, value) in metadata {
        put_bytes(key.as_bytes(), out);
        put_bytes(value.as_bytes(), out);
    }
}

/// Reads the schema section. A type that this version does not know makes an entry that says so.
pub(super) fn take_schema(bytes: &[u8]) -> Result<(Vec<Entry>, Metadata)> {
    let mut reader = Reader::new(bytes);
    let count = reader.length(COLUMNS_MAX, "the number of columns")?;
    // Each column takes a few bytes, so that no count is believed that the bytes cannot hold.
    let mut entries = Vec::with_capacity(count.min(reader.remaining()));
    for _ in 0..count {
        let mut field = Reader::new(reader.bytes()?);
        entries.push(take_field(&mut field, true)?);
    }
    Ok((entries, take_metadata(&mut reader)?))
}

fn take_field(reader: &mut Reader<'_>, may_nest: bool) -> Result<Entry> {
    let name = reader.text()?.to_owned();
    let flags = reader.u8()?;
    if flags & !NULLABLE != 0 {
        return Ok(Entry {
            name,
            field: Err(format!("its flags {flags:#04x} are not known to this version")),
        });
    }
    let data_type = match take_type(reader, may_nest)? {
        Ok(data_type) => data_type,
        Err(reason) => return Ok(Entry { name, field: Err(reason) }),
    };
    let metadata = take_metadata(reader)?;
    let field = Field::new(&name, data_type, flags & NULLABLE != 0).with_metadata(metadata);
    Ok(Entry { name, field: Ok(Arc::new(field)) })
}

/// The inner error is a type that this version does not know.
fn take_type(reader: &mut Reader<'_>, may_nest: bool) -> Result<Result<DataType, String>> {
    let code = reader.u8()?;
    if let Some(simple) = SIMPLE.get(usize::from(code)) {
        return Ok(Ok(simple.clone()));
    }
    Ok(Ok(match code {
        FIXED_SIZE_BINARY => DataType::FixedSizeBinary(take_size(reader)?),
        TIMESTAMP => {
            let unit = take_unit(reader)?;
            let zone = match reader.u8()? {
                0 => None,
                1 => Some(Arc::from(reader.text()?)),
                other => return Err(Error::data(format!("{other} says neither zone nor no zone"))),
            };
            DataType::Timestamp(unit, zone)
        }
        DATE32 => DataType::Date32,
        DATE64 => DataType::Date64,
        DURATION => DataType::Duration(take_unit(reader)?),
        DICTIONARY => DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        FIXED_SIZE_LIST if may_nest => {
            let size = take_size(reader)?;
            let mut item = Reader::new(reader.bytes()?);
            match take_field(&mut item, false)?.field {
                Ok(item) => DataType::FixedSizeList(item, size),
                Err(reason) => return Ok(Err(reason)),
            }
        }
        other => return Ok(Err(format!("its type code {other} is not known to this version"))),
    }))
}

fn take_size(reader: &mut Reader<'_>) -> Result<i32> {
    let size = reader.length(i32::MAX as usize, "a fixed size")?;
    Ok(size as i32)
}

fn take_unit(reader: &mut Reader<'_>) -> Result<TimeUnit> {
    let code = reader.u8()?;
    UNITS.get(usize::from(code)).copied().ok_or_else(|| Error::data(format!("{code} is no unit of time")))
}

fn take_metadata(reader: &mut Reader<'_>) -> Result<Metadata> {
    // A pair takes at least two bytes.
    let count = reader.length(reader.remaining() / 2, "the number of metadata pairs")?;
    let mut pairs = Metadata::default();
    for _ in 0..count {
        let key = reader.text()?.to_owned();
        pairs.insert(key, reader.text()?.to_owned());
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_comes_back_with_its_metadata() {
        let unit = |unit: &str| {
            Metadata::from([("unit".to_owned(), unit.to_owned()), ("a".to_owned(), "b".to_owned())])
        };
        let schema = Schema::new(vec![
            Field::new("time", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
            Field::new("local", DataType::Timestamp(TimeUnit::Second, None), true).with_metadata(unit("s")),
            Field::new("spectrum", DataType::new_fixed_size_list(DataType::Float32, 16, true), true),
            Field::new(
                "tag",
                DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
                true,
            ),
            Field::new("id", DataType::FixedSizeBinary(16), false),
            Field::new("", DataType::Duration(TimeUnit::Nanosecond), false),
        ])
        .with_metadata(unit("mm/s"));
        let mut bytes = Vec::new();
        put_schema(&schema, &mut bytes).unwrap();
        let (entries, metadata) = take_schema(&bytes).unwrap();
        let fields: Vec<_> = entries.into_iter().map(|entry| entry.field.unwrap()).collect();
        assert_eq!(Schema::new(fields).with_metadata(metadata), schema);
        for cut in 0..bytes.len() {
            assert!(take_schema(&bytes[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn an_unknown_type_is_named_and_not_an_error() {
        let bytes = [1, 8, 3, b'p', b'H', b'!', 0, 99, 1, 2, 0];
        let (entries, _) = take_schema(&bytes).unwrap();
        assert_eq!(entries[0].name, "pH!");
        assert!(entries[0].field.as_ref().unwrap_err().contains("type code 99"));
    }

    #[test]
    fn what_frames_do_not_carry_is_named_with_a_way_out() {
        let schema = Schema::new(vec![Field::new("m", DataType::Decimal128(10, 2), false)]);
        let error = put_schema(&schema, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("column \"m\" has the type Decimal128(10, 2)"), "{error}");
        let many: Vec<_> =
            (0..=COLUMNS_MAX).map(|at| Field::new(format!("c{at}"), DataType::Null, true)).collect();
        assert!(put_schema(&Schema::new(many), &mut Vec::new()).is_err());
    }
}
