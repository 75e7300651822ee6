//! One column of a batch as plain floats, with what cannot be used marked and counted. Pure.

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};

use crate::core::Output;
use crate::error::{Error, Result};

/// Whether a window can make statistics of a column of this type.
pub(super) fn is_numeric(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Float32 | DataType::Float64) || data_type.is_integer()
}

/// The values of one column. Integers beyond 2⁵³ are rounded to the nearest float.
pub(super) struct Floats {
    /// One per row; NaN where there is none to use.
    pub usable: ScalarBuffer<f64>,
    /// As they came, only where some cannot be used.
    raw: Option<(ScalarBuffer<f64>, Option<NullBuffer>)>,
}

impl Floats {
    /// The values of an array of a type for which [`is_numeric`] holds.
    ///
    /// # Errors
    /// If it has another type: the batch is not of the schema that the operator was built over.
    pub fn of(array: &ArrayRef) -> Result<Self> {
        let raw = floats(array)?;
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        // No early exit: the whole column is looked at in wide registers.
        let odd = raw.iter().filter(|value| !value.is_finite()).count();
        if odd == 0 && nulls.is_none() {
            return Ok(Self { usable: raw, raw: None });
        }
        let is_usable =
            |row: usize, value: f64| value.is_finite() && nulls.is_none_or(|nulls| nulls.is_valid(row));
        let usable: Vec<f64> = raw
            .iter()
            .enumerate()
            .map(|(row, value)| if is_usable(row, *value) { *value } else { f64::NAN })
            .collect();
        Ok(Self { usable: usable.into(), raw: Some((raw, nulls.cloned())) })
    }

    /// Counts the values that are left out of windows, by reason. Rows that are in no window do not count.
    pub fn count_skipped(&self, slots: &[u32], none: u32, out: &mut Output) {
        let Some((raw, nulls)) = &self.raw else { return };
        let [mut null, mut nan, mut infinite] = [0, 0, 0];
        for (row, (value, slot)) in raw.iter().zip(slots).enumerate() {
            if *slot == none {
            } else if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                null += 1;
            } else if value.is_nan() {
                nan += 1;
            } else if value.is_infinite() {
                infinite += 1;
            }
        }
        out.count("skipped_values", "null", null);
        out.count("skipped_values", "nan", nan);
        out.count("skipped_values", "infinite", infinite);
    }
}

fn floats(array: &ArrayRef) -> Result<ScalarBuffer<f64>> {
    fn each<T: ArrowPrimitiveType>(array: &ArrayRef, float: fn(T::Native) -> f64) -> ScalarBuffer<f64> {
        array.as_primitive::<T>().values().iter().map(|value| float(*value)).collect::<Vec<f64>>().into()
    }
    Ok(match array.data_type() {
        DataType::Float64 => array.as_primitive::<Float64Type>().values().clone(),
        DataType::Float32 => each::<Float32Type>(array, f64::from),
        DataType::Int64 => each::<Int64Type>(array, |value| value as f64),
        DataType::Int32 => each::<Int32Type>(array, f64::from),
        DataType::Int16 => each::<Int16Type>(array, f64::from),
        DataType::Int8 => each::<Int8Type>(array, f64::from),
        DataType::UInt64 => each::<UInt64Type>(array, |value| value as f64),
        DataType::UInt32 => each::<UInt32Type>(array, f64::from),
        DataType::UInt16 => each::<UInt16Type>(array, f64::from),
        DataType::UInt8 => each::<UInt8Type>(array, f64::from),
        other => return Err(Error::data(format!("a column of type {other} is not numeric"))),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float32Array, Float64Array, Int8Array, Int64Array, StringArray, UInt64Array};

    use super::*;
    use crate::core::{Count, Now};

    #[test]
    fn what_cannot_be_used_is_marked_and_counted_by_reason() {
        let array: ArrayRef = Arc::new(Float64Array::from(vec![
            Some(1.0),
            None,
            Some(f64::NAN),
            Some(f64::INFINITY),
            Some(f64::NEG_INFINITY),
            None,
        ]));
        let floats = Floats::of(&array).unwrap();
        assert_eq!(floats.usable[0], 1.0);
        assert!(floats.usable[1..].iter().all(|value| value.is_nan()));
        let mut out = Output::new(Now::ZERO);
        floats.count_skipped(&[0, 0, 0, 0, 0, 9], 9, &mut out);
        let counts: Vec<(Count, u64)> = out.drain_counts().collect();
        let expected = [("null", 1), ("nan", 1), ("infinite", 2)];
        assert_eq!(counts, expected.map(|(reason, by)| (Count { what: "skipped_values", reason }, by)));
    }

    #[test]
    fn every_numeric_type_is_read_and_nothing_else() {
        let table: [(ArrayRef, Option<[f64; 2]>); 5] = [
            (Arc::new(Float32Array::from(vec![0.5, -2.0])), Some([0.5, -2.0])),
            (Arc::new(Int8Array::from(vec![-128, 127])), Some([-128.0, 127.0])),
            (Arc::new(Int64Array::from(vec![1 << 53, -1])), Some([9_007_199_254_740_992.0, -1.0])),
            (Arc::new(UInt64Array::from(vec![u64::MAX, 0])), Some([18_446_744_073_709_551_615.0, 0.0])),
            (Arc::new(StringArray::from(vec!["1", "2"])), None),
        ];
        for (array, expected) in table {
            assert_eq!(is_numeric(array.data_type()), expected.is_some());
            assert_eq!(
                Floats::of(&array).ok().map(|floats| floats.usable.to_vec()),
                expected.map(|e| e.to_vec())
            );
        }
    }
}
