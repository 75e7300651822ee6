//! `union`: joins several inputs with the same columns into one stream. Pure.

use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::core::schema::{tag_type, type_name};
use crate::core::{Operator, Output};
use crate::error::Result;
use crate::registry::{Built, Checked, Context, InputSchema, Inputs, OperatorConfig, Problem};

/// Joins several inputs into one: their rows leave as they arrive. All inputs must have the same columns, in
/// the same order. The watermark behind it is the least of its inputs', so that windows wait for the slowest
/// input that is not idle.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnionConfig {
    /// Adds a tag column of this name, at the end: the name of the input that a row came from. Without it the
    /// columns stay as they are.
    origin: Option<String>,
}

impl OperatorConfig for UnionConfig {
    const TYPE: &'static str = "union";
    const INPUTS: Inputs = Inputs::Many;
    const EXAMPLES: &'static [&'static str] = &[
        r#"# All inputs as one.
"#,
        r#"# The column `hall` says from which input a row came.
origin = "hall"
"#,
    ];

    fn build(self, context: &Context<'_>) -> Checked<Built> {
        let Some((first, others)) = context.inputs.split_first() else {
            return Err(vec![Problem::new("inputs", "there is nothing to join")]);
        };
        let mut problems: Vec<Problem> = (1..)
            .zip(others)
            .filter_map(|(index, other)| {
                let difference = difference(first, other)?;
                let message = format!(
                    "\"{}\" has not the same columns as \"{}\": {difference}",
                    other.name, first.name
                );
                let help = "make the columns equal with a `select` before";
                Some(Problem::new(format!("inputs[{index}]"), message).help(help))
            })
            .collect();
        if let Some(origin) = &self.origin {
            if origin.is_empty() {
                problems.push(Problem::new("origin", "a column needs a name"));
            } else if first.schema.column_with_name(origin).is_some() {
                let message = format!("there is a column \"{origin}\" already");
                problems.push(Problem::new("origin", message).help("choose another name"));
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let names: Vec<&str> = context.inputs.iter().map(|input| input.name.as_str()).collect();
        let mut fields = common_fields(context.inputs);
        let mut meaning = String::from("union");
        let mut origins = None;
        if let Some(origin) = self.origin {
            meaning = format!("union with {origin:?} of {names:?}");
            fields.push(Field::new(origin, tag_type(), false));
            origins = Some(Arc::new(StringArray::from(names)) as ArrayRef);
        }
        let schema = Arc::new(Schema::new(fields));
        Ok(Built::new(Union { schema: schema.clone(), origins }, schema, meaning))
    }
}

/// The columns of all inputs; one that may be null in any of them may be null behind the union.
fn common_fields(inputs: &[InputSchema]) -> Vec<Field> {
    let fields = inputs[0].schema.fields().iter().enumerate();
    fields
        .map(|(column, field)| {
            let nullable = inputs.iter().any(|input| input.schema.field(column).is_nullable());
            field.as_ref().clone().with_nullable(nullable)
        })
        .collect()
}

/// The first difference between the columns of two inputs, in words.
fn difference(one: &InputSchema, other: &InputSchema) -> Option<String> {
    let shown = |field: &Field| match field.data_type() {
        DataType::Dictionary(..) => format!("\"{}\" (tag)", field.name()),
        other => format!("\"{}\" ({}, {other})", field.name(), type_name(other)),
    };
    let (here, there) = (one.schema.fields(), other.schema.fields());
    let position = (0..here.len().max(there.len())).find(|column| {
        let pair = (here.get(*column), there.get(*column));
        !matches!(pair, (Some(a), Some(b)) if a.name() == b.name() && a.data_type() == b.data_type())
    })?;
    let say = |input: &InputSchema, field: Option<&Arc<Field>>| match field {
        Some(field) => format!("is {} in \"{}\"", shown(field), input.name),
        None => format!("is not there in \"{}\"", input.name),
    };
    Some(format!(
        "column {} {} and {}",
        position + 1,
        say(one, here.get(position)),
        say(other, there.get(position))
    ))
}

struct Union {
    schema: SchemaRef,
    /// The names of the inputs, if rows are marked with them.
    origins: Option<ArrayRef>,
}

impl Operator for Union {
    fn process(&mut self, port: usize, batch: RecordBatch, out: &mut Output) -> Result<()> {
        let Some(origins) = &self.origins else {
            let same = Arc::ptr_eq(batch.schema_ref(), &self.schema);
            out.emit(0, if same { batch } else { batch.with_schema(self.schema.clone())? });
            return Ok(());
        };
        let rows = batch.num_rows();
        let keys = Int32Array::from(vec![port as i32; rows]);
        let origin = DictionaryArray::<Int32Type>::try_new(keys, origins.clone())?;
        let (_, mut columns, _) = batch.into_parts();
        columns.push(Arc::new(origin));
        out.emit(0, RecordBatch::try_new(self.schema.clone(), columns)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Flow, Now};
    use crate::operator::testing::{self, Row, Step, build, build_over, law};
    use crate::registry::example_schema;
    use proptest::prelude::*;

    fn schema(fields: &[(&str, DataType, bool)]) -> SchemaRef {
        let fields = fields.iter().map(|(name, kind, nullable)| Field::new(*name, kind.clone(), *nullable));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    #[test]
    fn rows_leave_as_they_arrive_with_the_name_of_their_input() {
        let inputs = [example_schema(), example_schema()];
        for (body, names) in [("", ["", ""]), ("origin = \"hall\"", [" a", " b"])] {
            let mut built = build_over::<UnionConfig>(body, &inputs).unwrap();
            let mut out = Output::new(Now::ZERO);
            let mut expected = Vec::new();
            for (time, port) in [(3, 1), (1, 0), (2, 1)] {
                let batch = testing::batch(&[Row { time, ..Row::default() }], false);
                expected.push(format!("{}{}", testing::rows(&batch)[0], names[port]));
                built.operator.process(port, batch, &mut out).unwrap();
            }
            let mut found = Vec::new();
            for (port, flow) in out.drain() {
                let Flow::Batch(batch) = flow else { panic!("only rows") };
                assert_eq!((port, batch.schema()), (0, built.ports[0].schema.clone()));
                found.extend(testing::rows(&batch));
            }
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_column_that_may_be_null_in_one_input_may_be_null_behind() {
        let inputs = [
            schema(&[("time", DataType::Int64, false), ("x", DataType::Int64, false)]),
            schema(&[("time", DataType::Int64, false), ("x", DataType::Int64, true)]),
        ];
        let mut built = build_over::<UnionConfig>("", &inputs).unwrap();
        assert!(
            !built.ports[0].schema.field(0).is_nullable() && built.ports[0].schema.field(1).is_nullable()
        );
        let column = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
        let batch = RecordBatch::try_new(inputs[0].clone(), vec![column(), column()]).unwrap();
        let mut out = Output::new(Now::ZERO);
        built.operator.process(0, batch, &mut out).unwrap();
        let Some((0, Flow::Batch(batch))) = out.drain().next() else { panic!("one batch") };
        assert_eq!(batch.schema(), built.ports[0].schema);
    }

    use arrow::array::Int64Array;

    #[test]
    fn the_first_difference_is_named() {
        let whole = [("time", DataType::Int64, false), ("x", DataType::Float64, true)];
        for (other, expected) in [
            (
                vec![("time", DataType::Int64, false), ("x", DataType::Utf8, true)],
                "column 2 is \"x\" (number, Float64) in \"a\" and is \"x\" (text, Utf8) in \"b\"",
            ),
            (
                vec![("x", DataType::Float64, true), ("time", DataType::Int64, false)],
                "column 1 is \"time\" (integer, Int64) in \"a\" and is \"x\" (number, Float64) in \"b\"",
            ),
            (
                vec![("time", DataType::Int64, false)],
                "column 2 is \"x\" (number, Float64) in \"a\" and is not there in \"b\"",
            ),
        ] {
            let problems = build_over::<UnionConfig>("", &[schema(&whole), schema(&other)]).err().unwrap();
            assert_eq!(problems.len(), 1);
            assert_eq!(problems[0].path, "inputs[1]");
            let message = &problems[0].message;
            assert!(message.ends_with(expected), "{message}");
        }
        let problems = build::<UnionConfig>("origin = \"line\"").err().unwrap();
        assert_eq!(problems[0].message, "there is a column \"line\" already");
        assert_eq!(build::<UnionConfig>("origin = \"\"").err().unwrap()[0].path, "origin");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn laws(times in prop::collection::vec(0i64..50, 1..30),
                cuts in prop::collection::vec(0usize..30, 0..6), save in 0usize..30) {
            let script: Vec<Step> =
                times.iter().map(|time| Step::Row(Row { time: *time, ..Row::default() })).collect();
            for example in UnionConfig::EXAMPLES {
                let outcome = law(&|| build::<UnionConfig>(example).unwrap(), &script, &cuts, save);
                prop_assert_eq!(outcome.ports[0].len(), times.len());
            }
        }
    }
}
