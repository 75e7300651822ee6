//! From a function to its kernel. Pure.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Datum};
use arrow::compute::kernels::comparison;
use arrow::datatypes::Int64Type;

use super::node::{Function, Value};
use super::number::{self, each_float, map_floats, test_floats, wrong_type};
use super::{text, time};
use crate::error::Result;

/// The result of a function for `rows` rows; `None` if it is null for every row.
pub(super) fn call(function: Function, args: &[Value], rows: usize) -> Result<Option<ArrayRef>> {
    match args {
        [value] => one(function, value, rows).map(Some),
        [left, right] => two(function, left, right, args, rows),
        _ => many(function, args, rows).map(Some),
    }
}

fn one(function: Function, value: &Value, rows: usize) -> Result<ArrayRef> {
    let array = value.array();
    match function {
        Function::Abs if array.as_primitive_opt::<Int64Type>().is_some() => {
            let values = number::integers(array)?;
            Ok(Arc::new(values.unary_opt::<_, Int64Type>(i64::checked_abs)))
        }
        Function::Sign if array.as_primitive_opt::<Int64Type>().is_some() => {
            Ok(Arc::new(number::integers(array)?.unary::<_, Int64Type>(i64::signum)))
        }
        Function::Abs => each_float(array, f64::abs),
        Function::Sign => each_float(array, number::sign),
        Function::Round => each_float(array, f64::round),
        Function::Floor => each_float(array, f64::floor),
        Function::Ceil => each_float(array, f64::ceil),
        Function::Trunc => each_float(array, f64::trunc),
        Function::Sqrt => each_float(array, f64::sqrt),
        Function::Exp => each_float(array, f64::exp),
        Function::Ln => each_float(array, f64::ln),
        Function::Log2 => each_float(array, f64::log2),
        Function::Log10 => each_float(array, f64::log10),
        Function::Sin => each_float(array, f64::sin),
        Function::Cos => each_float(array, f64::cos),
        Function::Tan => each_float(array, f64::tan),
        Function::Asin => each_float(array, f64::asin),
        Function::Acos => each_float(array, f64::acos),
        Function::Atan => each_float(array, f64::atan),
        Function::IsNan => test_floats(array, f64::is_nan),
        Function::IsFinite => test_floats(array, f64::is_finite),
        Function::IsInfinite => test_floats(array, f64::is_infinite),
        Function::Lower => text::lower(value, rows),
        Function::Upper => text::upper(value, rows),
        Function::Trim(side) => text::trim(side, value, rows),
        Function::Length => text::length(array),
        Function::DateTrunc(part) => time::trunc_times(part, array),
        Function::DatePart(part) => time::part_of_times(part, array),
        Function::Seconds => time::seconds(array),
        Function::ToTimestamp => time::from_seconds(array),
        Function::Concat | Function::Join => {
            text::concat(std::slice::from_ref(value), function == Function::Join, rows)
        }
        _ => Err(wrong_type(array)),
    }
}

fn two(
    function: Function,
    left: &Value,
    right: &Value,
    args: &[Value],
    rows: usize,
) -> Result<Option<ArrayRef>> {
    let floats = |f: fn(f64, f64) -> f64| -> Result<Option<ArrayRef>> {
        Ok(map_floats(left, right, f)?.map(|array| Arc::new(array) as ArrayRef))
    };
    let test = |f: fn(&dyn Datum, &dyn Datum) -> _| -> Result<Option<ArrayRef>> {
        Ok(Some(Arc::new(f(left, right)?) as ArrayRef))
    };
    match function {
        Function::RoundTo => floats(number::round_to),
        Function::Power => floats(f64::powf),
        Function::Atan2 => floats(f64::atan2),
        Function::StartsWith => test(comparison::starts_with),
        Function::EndsWith => test(comparison::ends_with),
        Function::Contains => test(comparison::contains),
        Function::Trim(side) => text::trim_characters(side, left, right, rows).map(Some),
        Function::Substr => text::substr(left, right, None, rows).map(Some),
        _ => many(function, args, rows).map(Some),
    }
}

fn many(function: Function, args: &[Value], rows: usize) -> Result<ArrayRef> {
    match (function, args) {
        (Function::Concat, _) => text::concat(args, false, rows),
        (Function::Join, _) => text::concat(args, true, rows),
        (Function::Substr, [texts, start, count]) => text::substr(texts, start, Some(count), rows),
        (Function::Replace, [texts, from, to]) => text::replace(texts, from, to, rows),
        _ => unreachable!("{function:?} does not take {} arguments", args.len()),
    }
}
