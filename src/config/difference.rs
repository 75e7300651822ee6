//! How the columns of two inputs differ, in words. Pure.

use arrow::datatypes::DataType;

use crate::core::schema::type_name;
use crate::registry::InputSchema;

/// The first difference between the columns of two inputs, in words.
pub(super) fn difference(one: &InputSchema, other: &InputSchema) -> Option<String> {
    let shown = |data_type: &DataType| match data_type {
        DataType::Dictionary(..) => "tag".to_owned(),
        other => type_name(other).to_owned(),
    };
    for field in one.schema.fields() {
        match other.schema.field_with_name(field.name()) {
            Err(_) => return Some(format!("\"{}\" has no column \"{}\"", other.name, field.name())),
            Ok(there) if there.data_type() != field.data_type() => {
                let (here, there) = (shown(field.data_type()), shown(there.data_type()));
                let same_words = if here == there { " of another size" } else { "" };
                return Some(format!(
                    "the column \"{}\" is {here} in \"{}\" and {there}{same_words} in \"{}\"",
                    field.name(),
                    one.name,
                    other.name
                ));
            }
            Ok(_) => {}
        }
    }
    let more = other.schema.fields().iter().find(|field| one.schema.field_with_name(field.name()).is_err());
    if let Some(more) = more {
        return Some(format!("\"{}\" has no column \"{}\"", one.name, more.name()));
    }
    let names = |input: &InputSchema| -> Vec<String> {
        input.schema.fields().iter().map(|field| field.name().clone()).collect()
    };
    (names(one) != names(other)).then(|| {
        format!(
            "the columns stand in another order: {} and {}",
            names(one).join(", "),
            names(other).join(", ")
        )
    })
}
