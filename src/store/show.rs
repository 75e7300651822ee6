//! Saved state as a person reads it: what the fields of a section say about its bytes. Pure.

use serde::Serialize;

use super::wire::{Wire, unzigzag};
use crate::core::Keys;

/// A value out of a saved state.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// An `Option` without one.
    None,
    /// A whole number without a sign.
    Unsigned(u64),
    /// A whole number.
    Signed(i64),
    /// A moment, µs since 1970.
    Time(i64),
    /// A number.
    Float(f64),
    /// Several.
    Floats(Vec<f64>),
    /// True or false.
    Boolean(bool),
    /// The name of a key.
    Name(String),
}

/// How the elements of a section are written: see [`StateWriter::chunks`](crate::core::StateWriter::chunks).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields<'a> {
    /// The section that says whose an element is; none if the element itself does, or nobody.
    pub of: Option<&'a str>,
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Fields<'a> {
    /// Reads a description; nothing if there is none, or it is not of this version.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut words = text.split(' ').filter(|word| !word.is_empty()).peekable();
        let of = words.next_if(|word| word.starts_with('#')).map(|word| &word[1..]);
        let fields = words.map(|word| word.split_once(':')).collect::<Option<Vec<_>>>()?;
        (!fields.is_empty()).then_some(Self { of, fields })
    }

    /// The position of the field that says whose an element is.
    pub fn key(&self) -> Option<usize> {
        self.fields.iter().position(|(_, kind)| *kind == "key")
    }

    /// The names of the fields.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.fields.iter().map(|(name, _)| *name)
    }

    /// The elements of a section; nothing if its bytes are not that many of them.
    pub fn read(&self, elements: u64, bytes: &[u8]) -> Option<Vec<Vec<Value>>> {
        let mut wire = Wire(bytes);
        // Each takes at least a byte, whatever the number says.
        let count = usize::try_from(elements).ok().filter(|count| *count <= bytes.len())?;
        let element = |wire: &mut Wire<'_>| self.fields.iter().map(|(_, kind)| value(kind, wire)).collect();
        let read = (0..count).map(|_| element(&mut wire)).collect::<Option<Vec<Vec<Value>>>>()?;
        wire.0.is_empty().then_some(read)
    }
}

fn value(kind: &str, wire: &mut Wire<'_>) -> Option<Value> {
    if let Some(kind) = kind.strip_prefix('?') {
        return match wire.u8()? {
            0 => Some(Value::None),
            1 => value(kind, wire),
            _ => None,
        };
    }
    let float = |wire: &mut Wire<'_>| wire.u64().map(f64::from_bits);
    Some(match kind {
        "u" | "key" => Value::Unsigned(wire.varint()?),
        "i" => Value::Signed(unzigzag(wire.varint()?)),
        "time" => Value::Time(unzigzag(wire.varint()?)),
        "f" => Value::Float(float(wire)?),
        "fs" => {
            let count = usize::try_from(wire.varint()?).ok().filter(|count| *count <= wire.0.len() / 8)?;
            Value::Floats((0..count).map(|_| float(wire)).collect::<Option<_>>()?)
        }
        "bool" => Value::Boolean(wire.u8()? == 1),
        "name" => match wire.u8()? {
            0 => Value::None,
            _ => Value::Name(Keys::show(wire.bytes()?)?),
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Chunks, StateWriter};

    #[test]
    fn what_fields_say_is_what_is_written() {
        type Element = (u32, i64, u64, f64, Option<i64>, Vec<f64>, bool);
        let elements: [Element; 2] = [
            (7, -5, 300, 1.5, Option::None, vec![], true),
            (0, i64::MIN, u64::MAX, -0.0, Some(-1), vec![2.5], false),
        ];
        let mut chunks: Chunks<Element> = elements.into_iter().collect();
        let mut writer = StateWriter::new();
        let text = "#keys k:key t:time u:u f:f o:?i fs:fs b:bool";
        writer.chunks("elements", text, &mut chunks);
        let state = writer.freeze().unwrap();
        let section = state.sections().iter().find(|section| section.name == "elements").unwrap();
        let bytes: Vec<u8> =
            section.parts.iter().flat_map(|part| part.bytes().unwrap().into_owned()).collect();
        let fields = Fields::parse(&section.fields).unwrap();
        assert_eq!((fields.of, fields.key()), (Some("keys"), Some(0)));
        let read = fields.read(section.elements, &bytes).unwrap();
        use Value::{Boolean, Float, Floats, None, Signed, Time, Unsigned};
        let first = [Unsigned(7), Time(-5), Unsigned(300), Float(1.5), None, Floats(vec![]), Boolean(true)];
        assert_eq!(read[0], first);
        assert_eq!(
            read[1][1..6],
            [Time(i64::MIN), Unsigned(u64::MAX), Float(-0.0), Signed(-1), Floats(vec![2.5])]
        );
        // Too few, too many, other bytes.
        assert_eq!(fields.read(1, &bytes), Option::None);
        assert_eq!(fields.read(3, &bytes), Option::None);
        for cut in 0..bytes.len() {
            assert_eq!(fields.read(2, &bytes[..cut]), Option::None, "cut at {cut}");
        }
        for text in ["", "#keys", "name", "a:nothing"] {
            assert!(Fields::parse(text).and_then(|fields| fields.read(1, &[1])).is_none(), "{text}");
        }
    }
}
