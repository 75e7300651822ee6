//! Evaluation: one pass over the tree, a column at a time. Pure. A row cannot make it fail; an error here is a batch
//! whose text results grow beyond their limit, or a bug.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Datum, Scalar, StringArray, TimestampMicrosecondArray,
    UInt32Array, new_null_array,
};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::{self, kernels};
use arrow::datatypes::{DataType, Float64Type, TimeUnit, TimestampMicrosecondType};

use super::calls;
use super::node::{Comparison, Input, Members, Node, Op, Test, Value};
use super::number::{self, wrong_type};
use super::time;
use super::types::{Kind, TIME_ZONE};
use crate::error::Result;

/// The result as an array of `data_type` with a value per row.
pub(super) fn evaluate_root(node: &Node, data_type: &DataType, input: &Input<'_>) -> Result<ArrayRef> {
    if let (Op::OverDictionary { column, body }, DataType::Dictionary(..)) = (&node.op, data_type) {
        return over_dictionary_as_dictionary(&input.columns[*column], body, data_type);
    }
    into_rows(evaluate(node, input)?, input.rows)
}

/// The result of a node.
pub(super) fn evaluate(node: &Node, input: &Input<'_>) -> Result<Value> {
    match &node.op {
        Op::Column(index) => Ok(Value::Rows(input.columns[*index].clone())),
        Op::Literal(value) => Ok(Value::Scalar(value.clone())),
        Op::OverDictionary { column, body } => {
            over_dictionary(&input.columns[*column], body).map(Value::Rows)
        }
        Op::And(all) => conjunction(all, input, true),
        Op::Or(all) => conjunction(all, input, false),
        Op::Case { operand, branches, otherwise } => case(operand.as_deref(), branches, otherwise, input),
        Op::Coalesce(all) => coalesce(all, input),
        _ => {
            let args = node
                .children()
                .into_iter()
                .map(|child| evaluate(child, input))
                .collect::<Result<Vec<_>>>()?;
            apply(node, args)
        }
    }
}

/// Applies an operation that evaluates all of its arguments. If all are scalars, so is the result.
fn apply(node: &Node, mut args: Vec<Value>) -> Result<Value> {
    let all_scalar = args.iter().all(Value::is_scalar);
    if all_scalar {
        args = args.into_iter().map(|value| Value::Rows(value.array().clone())).collect();
    }
    let rows = args.iter().find(|value| !value.is_scalar()).map_or(1, |value| value.array().len());
    let result = match (&node.op, args.as_slice()) {
        (Op::Convert(_), [value]) => convert(value.array(), &node.data_type)?,
        (Op::Negate(_), [value]) => number::negate(value.array())?,
        (Op::Not(_), [value]) => Arc::new(compute::not(booleans(value.array())?)?),
        (Op::Is(test, _), [value]) => Arc::new(is(*test, value.array())?),
        (Op::Arithmetic(op, ..), [left, right]) => {
            or_null(number::arithmetic(*op, left, right, &node.data_type)?, &node.data_type, rows)
        }
        (Op::Compare(op, ..), [left, right]) => Arc::new(compare(*op, left, right, rows)?),
        (Op::Distinct(..), [left, right]) => distinct(left, right, rows)?,
        (Op::Between { .. }, [value, low, high]) => {
            let above = compare(Comparison::GreaterOrEqual, value, low, rows)?;
            let below = compare(Comparison::LessOrEqual, value, high, rows)?;
            Arc::new(compute::and_kleene(&above, &below)?)
        }
        (Op::In { members, has_null, .. }, [value]) => is_member(value.array(), members, *has_null)?,
        (Op::InAny { .. }, [value, candidates @ ..]) => {
            let mut found = BooleanArray::new(BooleanBuffer::new_unset(rows), None);
            for candidate in candidates {
                found = compute::or_kleene(&found, &compare(Comparison::Equal, value, candidate, rows)?)?;
            }
            Arc::new(found)
        }
        (Op::Like { ignore_case, .. }, [value, pattern]) => {
            let like = if *ignore_case { kernels::comparison::ilike } else { kernels::comparison::like };
            Arc::new(like(value, pattern)?)
        }
        (Op::NullIf(..), [value, other]) => {
            let equal = compare(Comparison::Equal, value, other, rows)?;
            let null = Scalar::new(new_null_array(&node.data_type, 1));
            kernels::zip::zip(&equal, &null, value)?
        }
        (Op::Extreme { greatest, .. }, args) => extreme(*greatest, args, rows)?,
        (Op::Call(function, _), args) => or_null(calls::call(*function, args, rows)?, &node.data_type, rows),
        _ => unreachable!("{:?} is not evaluated by its arguments", node.op),
    };
    Ok(if all_scalar { Value::Scalar(result) } else { Value::Rows(result) })
}

/// A kernel's result, where `None` is null for every row.
fn or_null(result: Option<ArrayRef>, data_type: &DataType, rows: usize) -> ArrayRef {
    result.unwrap_or_else(|| new_null_array(data_type, rows))
}

/// One value per row.
fn into_rows(value: Value, rows: usize) -> Result<ArrayRef> {
    match value {
        Value::Rows(array) => Ok(array),
        Value::Scalar(array) => Ok(compute::take(&array, &UInt32Array::from_value(0, rows), None)?),
    }
}

fn booleans(array: &dyn Array) -> Result<&BooleanArray> {
    array.as_boolean_opt().ok_or_else(|| wrong_type(array))
}

/// `body` over a dictionary's values, spread over its rows. A dictionary with more values than rows (a slice, or
/// one shared by many batches) is spread first.
fn over_dictionary(column: &ArrayRef, body: &Node) -> Result<ArrayRef> {
    let dictionary = column.as_any_dictionary_opt().ok_or_else(|| wrong_type(column))?;
    let values = dictionary.values();
    if values.len() > column.len() {
        let rows = compute::take(values, dictionary.keys(), None)?;
        let input = Input { columns: &[rows], rows: column.len() };
        return into_rows(evaluate(body, &input)?, column.len());
    }
    let input = Input { columns: std::slice::from_ref(values), rows: values.len() };
    let result = into_rows(evaluate(body, &input)?, values.len())?;
    Ok(compute::take(&result, dictionary.keys(), None)?)
}

/// The same for a result that is text and shall be a dictionary again.
fn over_dictionary_as_dictionary(column: &ArrayRef, body: &Node, data_type: &DataType) -> Result<ArrayRef> {
    let dictionary = column.as_any_dictionary_opt().ok_or_else(|| wrong_type(column))?;
    let values = dictionary.values();
    if values.len() <= column.len() {
        let input = Input { columns: std::slice::from_ref(values), rows: values.len() };
        let result = into_rows(evaluate(body, &input)?, values.len())?;
        // A null among the values would hide from whoever looks only at the keys.
        if result.null_count() == 0 {
            return Ok(dictionary.with_values(result));
        }
    }
    Ok(compute::cast(&over_dictionary(column, body)?, data_type)?)
}

/// `AND` or `OR` of all, three-valued. Nothing after a result that is settled for every row is evaluated.
fn conjunction(all: &[Node], input: &Input<'_>, and: bool) -> Result<Value> {
    let mut result: Option<BooleanArray> = None;
    for node in all {
        let value = into_rows(evaluate(node, input)?, input.rows)?;
        let value = booleans(&value)?;
        let next = match &result {
            None => value.clone(),
            Some(result) if and => compute::and_kleene(result, value)?,
            Some(result) => compute::or_kleene(result, value)?,
        };
        let settled = if and { next.false_count() } else { next.true_count() };
        let done = settled == next.len();
        result = Some(next);
        if done {
            break;
        }
    }
    let result = result.unwrap_or_else(|| BooleanArray::from(vec![and; input.rows]));
    Ok(Value::Rows(Arc::new(result)))
}

/// Each row takes the result of the first branch that is true for it. All branches are evaluated for all rows:
/// evaluation is total, and without selecting rows it is fast.
fn case(
    operand: Option<&Node>,
    branches: &[(Node, Node)],
    otherwise: &Node,
    input: &Input<'_>,
) -> Result<Value> {
    let operand = operand.map(|operand| evaluate(operand, input)).transpose()?;
    let mut result = evaluate(otherwise, input)?;
    for (when, then) in branches.iter().rev() {
        let when = evaluate(when, input)?;
        let mask = match &operand {
            Some(operand) if operand.is_scalar() && when.is_scalar() => {
                Value::Scalar(Arc::new(compare(Comparison::Equal, operand, &when, 1)?))
            }
            Some(operand) => Value::Rows(Arc::new(compare(Comparison::Equal, operand, &when, input.rows)?)),
            None => when,
        };
        let holds = booleans(mask.array())?;
        result = match &mask {
            Value::Scalar(_) if holds.is_valid(0) && holds.value(0) => evaluate(then, input)?,
            Value::Scalar(_) => result,
            Value::Rows(_) => Value::Rows(kernels::zip::zip(holds, &evaluate(then, input)?, &result)?),
        };
    }
    Ok(result)
}

/// The first value that is not null. Nothing after a value without nulls is evaluated.
fn coalesce(all: &[Node], input: &Input<'_>) -> Result<Value> {
    let mut result: Option<Value> = None;
    for node in all {
        let next = match result {
            None => evaluate(node, input)?,
            Some(Value::Scalar(_)) => evaluate(node, input)?, // it is null, or the loop had ended
            Some(Value::Rows(array)) => {
                let valid = compute::is_not_null(&array)?;
                Value::Rows(kernels::zip::zip(&valid, &array, &evaluate(node, input)?)?)
            }
        };
        let done = next.array().null_count() == 0;
        result = Some(next);
        if done {
            break;
        }
    }
    Ok(result.unwrap_or_else(|| unreachable!("COALESCE has an argument")))
}

fn is(test: Test, array: &ArrayRef) -> Result<BooleanArray> {
    if test == Test::Null {
        return Ok(compute::is_null(array)?);
    }
    let array = booleans(array)?;
    let holds = if test == Test::True { array.values().clone() } else { !array.values() };
    Ok(BooleanArray::new(and_valid(&holds, array.nulls()), None))
}

fn and_valid(bits: &BooleanBuffer, nulls: Option<&NullBuffer>) -> BooleanBuffer {
    match nulls {
        Some(nulls) => bits & nulls.inner(),
        None => bits.clone(),
    }
}

/// Comparison of two values of one type, for `rows` rows even where both are scalars.
pub(super) fn compare(op: Comparison, left: &Value, right: &Value, rows: usize) -> Result<BooleanArray> {
    if !(left.is_scalar() && right.is_scalar()) {
        return compare_columns(op, left, right, rows);
    }
    let one = compare_columns(op, left, right, 1)?;
    let holds = one.is_valid(0).then(|| one.value(0));
    Ok(match holds {
        Some(true) => BooleanArray::new(BooleanBuffer::new_set(rows), None),
        Some(false) => BooleanArray::new(BooleanBuffer::new_unset(rows), None),
        None => BooleanArray::new_null(rows),
    })
}

fn compare_columns(op: Comparison, left: &Value, right: &Value, rows: usize) -> Result<BooleanArray> {
    if left.array().data_type() == &DataType::Float64 {
        return Ok(number::compare_floats(op, left, right)?.unwrap_or_else(|| BooleanArray::new_null(rows)));
    }
    if left.array().data_type() == &DataType::Null {
        return Ok(BooleanArray::new_null(rows));
    }
    let kernel: fn(&dyn Datum, &dyn Datum) -> _ = match op {
        Comparison::Equal => kernels::cmp::eq,
        Comparison::NotEqual => kernels::cmp::neq,
        Comparison::Less => kernels::cmp::lt,
        Comparison::LessOrEqual => kernels::cmp::lt_eq,
        Comparison::Greater => kernels::cmp::gt,
        Comparison::GreaterOrEqual => kernels::cmp::gt_eq,
    };
    Ok(kernel(left, right)?)
}

/// Whether two values differ, null being equal to null. Never null.
fn distinct(left: &Value, right: &Value, rows: usize) -> Result<ArrayRef> {
    let equal = compare(Comparison::Equal, left, right, rows)?;
    let equal = and_valid(equal.values(), equal.nulls());
    let nulls = |value: &Value| -> Result<BooleanBuffer> {
        Ok(compute::is_null(&into_rows(value.clone(), rows)?)?.values().clone())
    };
    let both_null = &nulls(left)? & &nulls(right)?;
    Ok(Arc::new(BooleanArray::new(!&(&equal | &both_null), None)))
}

/// The greatest or least of the values of each row; nulls are skipped, and NaN yields to any number.
fn extreme(greatest: bool, args: &[Value], rows: usize) -> Result<ArrayRef> {
    let op = if greatest { Comparison::Greater } else { Comparison::Less };
    let mut best: Option<ArrayRef> = None;
    for value in args {
        let Some(current) = best else {
            best = Some(into_rows(value.clone(), rows)?);
            continue;
        };
        let current = Value::Rows(current);
        let better = compare(op, value, &current, rows)?;
        let mut replace = and_valid(better.values(), better.nulls());
        replace = &replace | compute::is_null(current.array())?.values();
        if let Some(floats) = current.array().as_primitive_opt::<Float64Type>() {
            let candidate = into_rows(value.clone(), rows)?;
            let nan = BooleanBuffer::collect_bool(rows, |row| floats.value(row).is_nan());
            replace = &replace | &and_valid(&nan, candidate.nulls());
        }
        best = Some(kernels::zip::zip(&BooleanArray::new(replace, None), value, &current)?);
    }
    Ok(best.unwrap_or_else(|| unreachable!("GREATEST has an argument")))
}

/// Whether each value is among the members; unknown if it is not, but one of them is null.
fn is_member(array: &ArrayRef, members: &Members, has_null: bool) -> Result<ArrayRef> {
    let rows = array.len();
    let found = match members {
        Members::Integers(members) => {
            let values = number::integers(array)?;
            BooleanBuffer::collect_bool(rows, |row| members.binary_search(&values.value(row)).is_ok())
        }
        Members::Floats(members) => {
            let values = number::floats(array)?;
            BooleanBuffer::collect_bool(rows, |row| {
                let value = values.value(row);
                let at = members.partition_point(|member| *member < value);
                members.get(at).is_some_and(|member| *member == value)
            })
        }
        Members::Texts(members) => {
            let values: &StringArray = array.as_string_opt().ok_or_else(|| wrong_type(array))?;
            BooleanBuffer::collect_bool(rows, |row| {
                members.binary_search_by(|member| member.as_str().cmp(values.value(row))).is_ok()
            })
        }
    };
    let known = has_null.then(|| NullBuffer::new(found.clone()));
    let nulls = NullBuffer::union(array.nulls(), known.as_ref());
    Ok(Arc::new(BooleanArray::new(found, nulls)))
}

/// A column in another type; null where it has no such value.
pub(super) fn convert(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let from = array.data_type();
    if from == to {
        return Ok(array.clone());
    }
    match (Kind::of(from), Kind::of(to)) {
        (Kind::Null, _) => Ok(new_null_array(to, array.len())),
        (Kind::Duration, Kind::Float) => time::durations_to_floats(array),
        (Kind::Float, Kind::Duration) => time::floats_to_durations(array),
        (Kind::Time | Kind::Text, Kind::Time) => {
            let naive =
                compute::cast(&without_zone(array)?, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
            let times =
                naive.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(|| wrong_type(&naive))?;
            Ok(Arc::new(times.clone().with_timezone(TIME_ZONE)))
        }
        (Kind::Time, Kind::Text) => {
            // Written with the offset that arrow knows how to spell without a table of time zones.
            let times = number::integers(&convert(array, &Kind::Time.data_type())?)?;
            let times: TimestampMicrosecondArray = times.reinterpret_cast();
            Ok(compute::cast(&times.with_timezone_utc(), to)?)
        }
        _ => Ok(compute::cast(array, to)?),
    }
}

/// The same instants without a time zone; only the label changes.
fn without_zone(array: &ArrayRef) -> Result<ArrayRef> {
    match array.data_type() {
        DataType::Timestamp(unit, Some(_)) => {
            let data = array.to_data().into_builder().data_type(DataType::Timestamp(*unit, None)).build()?;
            Ok(arrow::array::make_array(data))
        }
        _ => Ok(array.clone()),
    }
}
