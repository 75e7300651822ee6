//! Kernels over numbers: checked whole-number arithmetic, IEEE floats, comparison, roots and rounding. Pure: free
//! functions over slices. The arguments of a binary kernel are columns of one length, or one value for all rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, PrimitiveArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, DurationMicrosecondType, Float64Type, Int64Type, TimestampMicrosecondType,
};

use super::node::{Arithmetic, Comparison, Value};
use super::types::TIME_ZONE;
use crate::error::{Error, Result};

/// The values of one argument: a slice, or one value that stands for every row.
#[derive(Clone, Copy)]
enum Operand<'a, T> {
    Rows(&'a [T]),
    One(T),
}

/// `f` of every row. The three loops are separate so that each is free of branches.
fn map_rows<T: Copy, U>(left: Operand<'_, T>, right: Operand<'_, T>, f: impl Fn(T, T) -> U) -> Vec<U> {
    match (left, right) {
        (Operand::Rows(left), Operand::Rows(right)) => {
            left.iter().zip(right).map(|(a, b)| f(*a, *b)).collect()
        }
        (Operand::Rows(left), Operand::One(b)) => left.iter().map(|a| f(*a, b)).collect(),
        (Operand::One(a), Operand::Rows(right)) => right.iter().map(|b| f(a, *b)).collect(),
        (Operand::One(a), Operand::One(b)) => vec![f(a, b)],
    }
}

/// The bits of `test` over every row.
fn test_rows<T: Copy>(
    left: Operand<'_, T>,
    right: Operand<'_, T>,
    rows: usize,
    test: impl Fn(T, T) -> bool,
) -> BooleanBuffer {
    match (left, right) {
        (Operand::Rows(left), Operand::Rows(right)) => {
            assert!(left.len() == rows && right.len() == rows, "columns of one batch have one length");
            BooleanBuffer::collect_bool(rows, |row| test(left[row], right[row]))
        }
        (Operand::Rows(left), Operand::One(b)) => {
            assert!(left.len() == rows, "columns of one batch have one length");
            BooleanBuffer::collect_bool(rows, |row| test(left[row], b))
        }
        (Operand::One(a), Operand::Rows(right)) => {
            assert!(right.len() == rows, "columns of one batch have one length");
            BooleanBuffer::collect_bool(rows, |row| test(a, right[row]))
        }
        (Operand::One(a), Operand::One(b)) => BooleanBuffer::collect_bool(rows, |_| test(a, b)),
    }
}

/// The two arguments of a binary kernel as one primitive type, with the nulls of the result.
struct Pair<T: ArrowPrimitiveType> {
    left: (PrimitiveArray<T>, bool),
    right: (PrimitiveArray<T>, bool),
    nulls: Option<NullBuffer>,
    rows: usize,
}

impl<T: ArrowPrimitiveType> Pair<T> {
    /// `None` if one of them is null for every row, so that the result is as well.
    fn new(
        left: &Value,
        right: &Value,
        read: impl Fn(&dyn Array) -> Result<PrimitiveArray<T>>,
    ) -> Result<Option<Self>> {
        let (left, right) =
            ((read(left.array())?, left.is_scalar()), (read(right.array())?, right.is_scalar()));
        let null_for_all = |(array, scalar): &(PrimitiveArray<T>, bool)| *scalar && array.null_count() > 0;
        if null_for_all(&left) || null_for_all(&right) {
            return Ok(None);
        }
        let rows = if left.1 { right.0.len() } else { left.0.len() };
        let side =
            |(array, scalar): &(PrimitiveArray<T>, bool)| if *scalar { None } else { array.nulls().cloned() };
        let nulls = NullBuffer::union(side(&left).as_ref(), side(&right).as_ref());
        Ok(Some(Self { left, right, nulls, rows }))
    }

    fn operands(&self) -> (Operand<'_, T::Native>, Operand<'_, T::Native>) {
        fn operand<T: ArrowPrimitiveType>(side: &(PrimitiveArray<T>, bool)) -> Operand<'_, T::Native> {
            match side {
                (array, true) => Operand::One(array.value(0)),
                (array, false) => Operand::Rows(array.values()),
            }
        }
        (operand(&self.left), operand(&self.right))
    }
}

/// A bug: the compiler let a value of another type reach a kernel.
pub(super) fn wrong_type(array: &dyn Array) -> Error {
    Error::data(format!("no expression kernel takes {}", array.data_type()))
}

pub(super) fn floats(array: &dyn Array) -> Result<Float64Array> {
    array.as_primitive_opt::<Float64Type>().cloned().ok_or_else(|| wrong_type(array))
}

/// Whole numbers, times and durations as the 64-bit integers they are; no copy.
pub(super) fn integers(array: &dyn Array) -> Result<Int64Array> {
    if let Some(array) = array.as_primitive_opt::<Int64Type>() {
        return Ok(array.clone());
    }
    if let Some(array) = array.as_primitive_opt::<TimestampMicrosecondType>() {
        return Ok(array.reinterpret_cast());
    }
    let durations = array.as_primitive_opt::<DurationMicrosecondType>().ok_or_else(|| wrong_type(array))?;
    Ok(durations.reinterpret_cast())
}

/// 64-bit integers as whole numbers, times or durations; no copy.
pub(super) fn integers_as(array: Int64Array, data_type: &DataType) -> ArrayRef {
    match data_type {
        DataType::Timestamp(..) => {
            Arc::new(array.reinterpret_cast::<TimestampMicrosecondType>().with_timezone(TIME_ZONE))
        }
        DataType::Duration(_) => Arc::new(array.reinterpret_cast::<DurationMicrosecondType>()),
        _ => Arc::new(array),
    }
}

/// A float without fraction as an integer, if there is such an integer.
pub(super) fn whole(value: f64) -> Option<i64> {
    // 2^63 is a float, i64::MAX is not: the upper bound is exclusive.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    (-LIMIT..LIMIT).contains(&value).then_some(value as i64)
}

/// `left op right`, in the type `data_type`.
pub(super) fn arithmetic(
    op: Arithmetic,
    left: &Value,
    right: &Value,
    data_type: &DataType,
) -> Result<Option<ArrayRef>> {
    if *data_type == DataType::Float64 {
        return Ok(arithmetic_floats(op, left, right)?.map(|array| Arc::new(array) as ArrayRef));
    }
    let result = match op {
        Arithmetic::Add => checked(left, right, i64::overflowing_add),
        Arithmetic::Subtract => checked(left, right, i64::overflowing_sub),
        Arithmetic::Multiply => checked(left, right, i64::overflowing_mul),
        // Division by zero counts as overflow: both have no result.
        Arithmetic::Divide => {
            checked(left, right, |a, b| if b == 0 { (0, true) } else { a.overflowing_div(b) })
        }
        Arithmetic::Remainder => {
            checked(left, right, |a, b| if b == 0 { (0, true) } else { (a.wrapping_rem(b), false) })
        }
    }?;
    Ok(result.map(|array| integers_as(array, data_type)))
}

fn arithmetic_floats(op: Arithmetic, left: &Value, right: &Value) -> Result<Option<Float64Array>> {
    match op {
        Arithmetic::Add => map_floats(left, right, |a, b| a + b),
        Arithmetic::Subtract => map_floats(left, right, |a, b| a - b),
        Arithmetic::Multiply => map_floats(left, right, |a, b| a * b),
        Arithmetic::Divide => map_floats(left, right, |a, b| a / b),
        Arithmetic::Remainder => map_floats(left, right, |a, b| a % b),
    }
}

/// `f` of two columns of floats; `None` if null for every row.
pub(super) fn map_floats(
    left: &Value,
    right: &Value,
    f: impl Fn(f64, f64) -> f64,
) -> Result<Option<Float64Array>> {
    let Some(pair) = Pair::<Float64Type>::new(left, right, floats)? else { return Ok(None) };
    let (left, right) = pair.operands();
    Ok(Some(Float64Array::new(map_rows(left, right, f).into(), pair.nulls.clone())))
}

/// `f` of two columns of integers, null where `f` overflows. The first pass only gathers whether anything
/// overflowed; only then does a second one find out where.
fn checked(left: &Value, right: &Value, f: impl Fn(i64, i64) -> (i64, bool)) -> Result<Option<Int64Array>> {
    let Some(pair) = Pair::<Int64Type>::new(left, right, integers)? else { return Ok(None) };
    let (left, right) = pair.operands();
    let overflow = std::cell::Cell::new(false);
    let values = map_rows(left, right, |a, b| {
        let (value, overflows) = f(a, b);
        overflow.set(overflow.get() | overflows);
        value
    });
    let mut nulls = pair.nulls.clone();
    if overflow.get() {
        let fits = NullBuffer::new(test_rows(left, right, pair.rows, |a, b| !f(a, b).1));
        nulls = NullBuffer::union(nulls.as_ref(), Some(&fits));
    }
    Ok(Some(Int64Array::new(values.into(), nulls)))
}

/// `-x`; null for the one integer that has no opposite.
pub(super) fn negate(array: &ArrayRef) -> Result<ArrayRef> {
    if let Some(array) = array.as_primitive_opt::<Float64Type>() {
        return Ok(Arc::new(array.unary::<_, Float64Type>(|value| -value)));
    }
    let negated = integers(array)?.unary_opt::<_, Int64Type>(i64::checked_neg);
    Ok(integers_as(negated, array.data_type()))
}

/// Comparison of floats by IEEE 754: NaN compares with nothing, and the zeros are equal. (The kernels of arrow
/// order floats totally, which suits sorting.) `None` if null for every row.
pub(super) fn compare_floats(op: Comparison, left: &Value, right: &Value) -> Result<Option<BooleanArray>> {
    let Some(pair) = Pair::<Float64Type>::new(left, right, floats)? else { return Ok(None) };
    let (left, right) = pair.operands();
    let rows = pair.rows;
    let bits = match op {
        Comparison::Equal => test_rows(left, right, rows, |a, b| a == b),
        Comparison::NotEqual => test_rows(left, right, rows, |a, b| a != b),
        Comparison::Less => test_rows(left, right, rows, |a, b| a < b),
        Comparison::LessOrEqual => test_rows(left, right, rows, |a, b| a <= b),
        Comparison::Greater => test_rows(left, right, rows, |a, b| a > b),
        Comparison::GreaterOrEqual => test_rows(left, right, rows, |a, b| a >= b),
    };
    Ok(Some(BooleanArray::new(bits, pair.nulls.clone())))
}

/// `test` of every float.
pub(super) fn test_floats(array: &dyn Array, test: impl Fn(f64) -> bool) -> Result<ArrayRef> {
    let array = floats(array)?;
    let values = array.values();
    let bits = BooleanBuffer::collect_bool(values.len(), |row| test(values[row]));
    Ok(Arc::new(BooleanArray::new(bits, array.nulls().cloned())))
}

/// `f` of every float.
pub(super) fn each_float(array: &dyn Array, f: impl Fn(f64) -> f64) -> Result<ArrayRef> {
    Ok(Arc::new(floats(array)?.unary::<_, Float64Type>(f)))
}

/// −1, 0 or 1; NaN stays NaN.
pub(super) fn sign(value: f64) -> f64 {
    if value == 0.0 || value.is_nan() { value } else { value.signum() }
}

/// Rounds to `digits` decimal places, half away from zero; negative digits round to tens, hundreds and so on. A
/// value that has no such places (too large, infinite, NaN) stays as it is.
pub(super) fn round_to(value: f64, digits: f64) -> f64 {
    let digits = digits.clamp(-308.0, 308.0) as i32;
    let scale = 10f64.powi(digits.abs());
    let rounded = if digits >= 0 { (value * scale).round() / scale } else { (value / scale).round() * scale };
    if rounded.is_finite() { rounded } else { value }
}
