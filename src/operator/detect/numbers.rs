//! What both detectors, and scoring on the command line, share: columns of a batch as floats, and the columns that a detector adds. Pure.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, DictionaryArray, Float64Array, Int32Array, RecordBatch,
    StringArray,
};
use arrow::buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Int32Type, Schema, SchemaRef};

use crate::core::schema::tag_type;
use crate::error::Result;

/// The columns that `detect` adds.
pub(crate) const ADDED: [&str; 3] = ["score", "anomaly", "model"];

/// Whether a column can be scored.
pub(super) fn is_numeric(data_type: &DataType) -> bool {
    data_type.is_integer() || data_type.is_floating()
}

/// The input's columns and the added ones.
pub(crate) fn output_schema(input: &Schema) -> SchemaRef {
    let [score, anomaly, model] = ADDED;
    let mut fields: Vec<_> = input.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(score, DataType::Float64, true)));
    fields.push(Arc::new(Field::new(anomaly, DataType::Boolean, false)));
    fields.push(Arc::new(Field::new(model, tag_type(), true)));
    Arc::new(Schema::new_with_metadata(fields, input.metadata().clone()))
}

/// Some columns of the last batch as floats; NaN where a value is null, NaN or infinite. The buffers are kept
/// from batch to batch and are as long as the longest one.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    places: Vec<usize>,
    columns: Vec<Vec<f64>>,
}

impl Numbers {
    /// Over the columns at these places of the input, in this order.
    pub(crate) fn new(places: Vec<usize>) -> Self {
        Self { columns: vec![Vec::new(); places.len()], places }
    }

    /// Where the columns stand in the input.
    pub(super) fn places(&self) -> &[usize] {
        &self.places
    }

    /// Takes the values of a batch.
    pub(crate) fn read(&mut self, batch: &RecordBatch) -> Result<()> {
        for (place, values) in self.places.iter().zip(&mut self.columns) {
            let array = batch.column(*place);
            match array.data_type() {
                DataType::Float64 => fill(array.as_primitive(), values),
                _ => fill(cast(array, &DataType::Float64)?.as_primitive(), values),
            }
        }
        Ok(())
    }

    /// The values, one slice per column.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &[f64]> {
        self.columns.iter().map(Vec::as_slice)
    }

    /// Whether no column has a value in this row.
    pub(super) fn is_missing(&self, row: usize) -> bool {
        self.columns.iter().all(|values| values[row].is_nan())
    }
}

/// Copies the values of a column; NaN for those that are no finite number.
fn fill(array: &arrow::array::PrimitiveArray<Float64Type>, values: &mut Vec<f64>) {
    values.clear();
    values.extend(array.values().iter().map(|value| if value.is_finite() { *value } else { f64::NAN }));
    if let Some(nulls) = array.nulls().filter(|nulls| nulls.null_count() > 0) {
        for (value, valid) in values.iter_mut().zip(nulls.iter()) {
            if !valid {
                *value = f64::NAN;
            }
        }
    }
}

/// What stands in the column `model`: one name for all rows of a batch, or null.
#[derive(Debug, Clone)]
pub(crate) struct ModelName {
    values: ArrayRef,
}

impl ModelName {
    pub(crate) fn new(name: Option<&str>) -> Self {
        Self { values: Arc::new(StringArray::from_iter_values(name)) }
    }

    /// The column over some rows. Its dictionary is the same array for all batches, so that those who read it
    /// can tell that nothing changed.
    fn column(&self, rows: usize) -> Result<DictionaryArray<Int32Type>> {
        let keys = ScalarBuffer::from(vec![0i32; rows]);
        let nulls = self.values.is_empty().then(|| NullBuffer::new_null(rows));
        Ok(DictionaryArray::try_new(Int32Array::try_new(keys, nulls)?, Arc::clone(&self.values))?)
    }
}

/// The batch with the added columns. A score that is NaN becomes null and is no anomaly; any other is one if
/// it is above the threshold.
pub(crate) fn with_scores(
    batch: &RecordBatch,
    schema: &SchemaRef,
    scores: Vec<f64>,
    threshold: f64,
    name: &ModelName,
) -> Result<RecordBatch> {
    let anomalies: Vec<bool> = scores.iter().map(|score| *score > threshold).collect();
    with_anomalies(batch, schema, scores, &anomalies, name)
}

/// The batch with the added columns. A score that is NaN becomes null.
pub(super) fn with_anomalies(
    batch: &RecordBatch,
    schema: &SchemaRef,
    scores: Vec<f64>,
    anomalies: &[bool],
    name: &ModelName,
) -> Result<RecordBatch> {
    let rows = scores.len();
    let anomalies = BooleanBuffer::collect_bool(rows, |row| anomalies[row]);
    let valid = NullBuffer::new(BooleanBuffer::collect_bool(rows, |row| !scores[row].is_nan()));
    let nulls = (valid.null_count() > 0).then_some(valid);
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(Float64Array::try_new(scores.into(), nulls)?));
    columns.push(Arc::new(BooleanArray::new(anomalies, None)));
    columns.push(Arc::new(name.column(rows)?));
    Ok(RecordBatch::try_new(SchemaRef::clone(schema), columns)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float32Array, Int64Array};

    #[test]
    fn what_is_no_finite_number_is_nan() {
        let batch = RecordBatch::try_from_iter([
            (
                "a",
                Arc::new(Float64Array::from(vec![Some(1.5), None, Some(f64::NAN), Some(f64::INFINITY)]))
                    as ArrayRef,
            ),
            ("b", Arc::new(Int64Array::from(vec![None, Some(-3), None, None]))),
            ("c", Arc::new(Float32Array::from(vec![0.5, 0.25, 0.0, f32::NEG_INFINITY]))),
        ])
        .unwrap();
        let mut numbers = Numbers::new(vec![1, 2, 0]);
        for cut in [4, 3, 4] {
            numbers.read(&batch.slice(4 - cut, cut)).unwrap();
            assert_eq!(numbers.columns().map(<[f64]>::len).collect::<Vec<_>>(), [cut; 3]);
        }
        let text: Vec<String> = numbers.columns().map(|values| format!("{values:?}")).collect();
        assert_eq!(text, ["[NaN, -3.0, NaN, NaN]", "[0.5, 0.25, 0.0, NaN]", "[1.5, NaN, NaN, NaN]"]);
        assert_eq!([0, 1, 2, 3].map(|row| numbers.is_missing(row)), [false, false, false, true]);
    }

    #[test]
    fn a_score_without_a_value_is_null_and_no_anomaly() {
        let batch =
            RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef)])
                .unwrap();
        let schema = output_schema(batch.schema_ref());
        let scores = vec![f64::NAN, 2.0, 2.5];
        let out = with_scores(&batch, &schema, scores, 2.0, &ModelName::new(Some("abc"))).unwrap();
        let score = out.column(1).as_primitive::<Float64Type>();
        assert_eq!(score.iter().collect::<Vec<_>>(), [None, Some(2.0), Some(2.5)]);
        let anomaly = out.column(2).as_boolean();
        assert_eq!(anomaly.iter().collect::<Vec<_>>(), [Some(false), Some(false), Some(true)]);
        let model = out.column(3).as_dictionary::<Int32Type>().downcast_dict::<StringArray>().unwrap();
        assert!(model.into_iter().all(|name| name == Some("abc")));
        let out = with_scores(&batch, &schema, vec![1.0; 3], 2.0, &ModelName::new(None)).unwrap();
        assert_eq!(out.column(3).null_count(), 3);
    }
}
