//! What a source's first messages say about its columns, as keys of its table. Pure.

use toml::{Table, Value};

use super::{Format, Path};
use crate::codec::infer::{Found, Known, Layout, infer, json_payload};
use crate::registry::{Columns, Sampler, SplitMessages};

/// How columns are found in messages of a format; none if its messages do not name their values. `taken` are names
/// of columns that are there anyway.
pub(super) fn sampler(format: &Format, taken: &[String]) -> Option<Sampler> {
    let (layout, time) = match format {
        Format::Json { time, array, lenient, .. } => {
            let array = array.as_ref().map(Path::keys);
            (Layout::Json { array, lenient: *lenient }, time.as_ref().map(Path::keys))
        }
        Format::Csv { delimiter, header, columns, time, .. } => {
            if *header != columns.is_empty() {
                return None;
            }
            let &[delimiter] = delimiter.as_bytes() else { return None };
            (Layout::Csv { delimiter, columns: columns.clone() }, time.clone().map(|name| vec![name]))
        }
        Format::Value { .. } | Format::None {} => return None,
    };
    let split: SplitMessages = match &layout {
        Layout::Json { .. } => |text| text.lines().filter_map(json_payload).collect(),
        // A file with a header line is what one message with a header would be.
        Layout::Csv { columns, .. } if columns.is_empty() => |text| vec![text.as_bytes()],
        Layout::Csv { .. } => |text| text.lines().map(str::as_bytes).collect(),
    };
    let known = Known { layout, time, taken: taken.to_vec() };
    Some(Sampler::new(split, move |messages| {
        infer(&known, messages.iter().copied()).map(|found| keys(&found, &known.layout))
    }))
}

/// What was found, as keys.
fn keys(found: &Found, layout: &Layout) -> Columns {
    let path = |keys: &[String]| match (keys, layout) {
        ([name], Layout::Csv { .. }) => Value::from(name.clone()),
        _ if keys.iter().any(|key| key.contains('.') || key.is_empty()) => {
            Value::Array(keys.iter().cloned().map(Value::from).collect())
        }
        _ => Value::from(keys.join(".")),
    };
    let mut format = Table::new();
    if let Some((time, unit)) = &found.time {
        format.insert("time".to_owned(), path(time));
        format.insert("time_unit".to_owned(), Value::from(unit.word()));
    }
    if let Some(array) = &found.array {
        format.insert("array".to_owned(), path(array));
    }
    let field = |field: &crate::codec::fields::Field| {
        let kind = Value::from(field.kind.word());
        let value = match field.path.as_slice() {
            [key] if *key == field.name => kind,
            keys => {
                Value::Table(Table::from_iter([("type".to_owned(), kind), ("path".to_owned(), path(keys))]))
            }
        };
        (field.name.clone(), value)
    };
    Columns { written: Table::new(), format, fields: found.fields.iter().map(field).collect() }
}
