//! The table of functions: their names, what they take and give. Pure. A new function is one line here and one arm
//! in `calls.rs`.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::NullArray;
use arrow::datatypes::DataType;
use sqlparser::ast;

use super::ExprError;
use super::compile::Compiler;
use super::node::{Function, Node, Op, Side};
use super::time::{PARTS, Part, TRUNC_UNITS};
use super::types::Kind;
use super::words::closest;

/// How arguments are typed, and what comes out.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// Numbers become floats; a float comes out.
    Floats(Function),
    /// A number; the same kind of number comes out.
    SameNumber(Function),
    /// Like [`Rule::SameNumber`], and whole numbers already are the result.
    Rounding(Function),
    /// `round(x)` or `round(x, digits)`.
    Round,
    /// A test of a float.
    FloatTest(Function),
    Modulo,
    /// Texts; a text comes out.
    Texts(Function),
    /// A test of texts.
    TextTest(Function),
    /// Anything, written as text.
    Concat,
    Substr,
    Length,
    DateTrunc,
    DatePart,
    Epoch,
    ToTimestamp,
    Coalesce,
    NullIf,
    Extreme {
        greatest: bool,
    },
}

struct Signature {
    names: &'static [&'static str],
    usage: &'static str,
    arguments: Range<usize>,
    rule: Rule,
}

const fn row(
    names: &'static [&'static str],
    usage: &'static str,
    arguments: Range<usize>,
    rule: Rule,
) -> Signature {
    Signature { names, usage, arguments, rule }
}

/// As many arguments as the limit on words and signs allows.
const MANY: usize = usize::MAX;

const FUNCTIONS: &[Signature] = &[
    row(&["abs"], "abs(number)", 1..2, Rule::SameNumber(Function::Abs)),
    row(&["sign"], "sign(number): -1, 0 or 1", 1..2, Rule::SameNumber(Function::Sign)),
    row(&["round"], "round(number [, digits]), half away from zero", 1..3, Rule::Round),
    row(&["floor"], "floor(number)", 1..2, Rule::Rounding(Function::Floor)),
    row(&["ceil", "ceiling"], "ceil(number)", 1..2, Rule::Rounding(Function::Ceil)),
    row(&["trunc", "truncate"], "trunc(number), towards zero", 1..2, Rule::Rounding(Function::Trunc)),
    row(&["sqrt"], "sqrt(number)", 1..2, Rule::Floats(Function::Sqrt)),
    row(&["exp"], "exp(number)", 1..2, Rule::Floats(Function::Exp)),
    row(&["ln"], "ln(number), base e", 1..2, Rule::Floats(Function::Ln)),
    row(&["log2"], "log2(number)", 1..2, Rule::Floats(Function::Log2)),
    row(&["log10"], "log10(number)", 1..2, Rule::Floats(Function::Log10)),
    row(&["pow", "power"], "pow(base, exponent)", 2..3, Rule::Floats(Function::Power)),
    row(&["mod"], "mod(a, b), the same as a % b", 2..3, Rule::Modulo),
    row(&["sin"], "sin(radians)", 1..2, Rule::Floats(Function::Sin)),
    row(&["cos"], "cos(radians)", 1..2, Rule::Floats(Function::Cos)),
    row(&["tan"], "tan(radians)", 1..2, Rule::Floats(Function::Tan)),
    row(&["asin"], "asin(number)", 1..2, Rule::Floats(Function::Asin)),
    row(&["acos"], "acos(number)", 1..2, Rule::Floats(Function::Acos)),
    row(&["atan"], "atan(number)", 1..2, Rule::Floats(Function::Atan)),
    row(&["atan2"], "atan2(y, x)", 2..3, Rule::Floats(Function::Atan2)),
    row(&["is_nan", "isnan"], "is_nan(number)", 1..2, Rule::FloatTest(Function::IsNan)),
    row(&["is_finite", "isfinite"], "is_finite(number)", 1..2, Rule::FloatTest(Function::IsFinite)),
    row(&["is_infinite", "isinf"], "is_infinite(number)", 1..2, Rule::FloatTest(Function::IsInfinite)),
    row(&["greatest"], "greatest(value, …), nulls skipped", 1..MANY, Rule::Extreme { greatest: true }),
    row(&["least"], "least(value, …), nulls skipped", 1..MANY, Rule::Extreme { greatest: false }),
    row(&["coalesce", "ifnull", "nvl"], "coalesce(value, …): the first not null", 1..MANY, Rule::Coalesce),
    row(&["nullif"], "nullif(value, other): null if they are equal", 2..3, Rule::NullIf),
    row(&["lower"], "lower(text)", 1..2, Rule::Texts(Function::Lower)),
    row(&["upper"], "upper(text)", 1..2, Rule::Texts(Function::Upper)),
    row(&["trim", "btrim"], "trim(text [, characters])", 1..3, Rule::Texts(Function::Trim(Side::Both))),
    row(&["ltrim"], "ltrim(text [, characters])", 1..3, Rule::Texts(Function::Trim(Side::Start))),
    row(&["rtrim"], "rtrim(text [, characters])", 1..3, Rule::Texts(Function::Trim(Side::End))),
    row(
        &["length", "char_length", "character_length"],
        "length(text) in characters, or length(bytes)",
        1..2,
        Rule::Length,
    ),
    row(
        &["concat"],
        "concat(value, …) as text, nulls skipped; a || b is null if one is",
        1..MANY,
        Rule::Concat,
    ),
    row(&["substr", "substring"], "substr(text, start [, count]), 1 is the first", 2..4, Rule::Substr),
    row(&["replace"], "replace(text, from, to)", 3..4, Rule::Texts(Function::Replace)),
    row(&["starts_with"], "starts_with(text, start)", 2..3, Rule::TextTest(Function::StartsWith)),
    row(&["ends_with"], "ends_with(text, end)", 2..3, Rule::TextTest(Function::EndsWith)),
    row(&["contains"], "contains(text, part)", 2..3, Rule::TextTest(Function::Contains)),
    row(&["date_trunc"], "date_trunc('hour', time)", 2..3, Rule::DateTrunc),
    row(
        &["date_part", "datepart"],
        "date_part('hour', time), the same as extract(hour from time)",
        2..3,
        Rule::DatePart,
    ),
    row(&["epoch"], "epoch(time): seconds since 1970; epoch(duration): seconds", 1..2, Rule::Epoch),
    row(&["to_timestamp"], "to_timestamp(seconds since 1970)", 1..2, Rule::ToTimestamp),
];

/// Every function: its names, and a line on how it is used.
pub fn functions() -> impl Iterator<Item = (&'static [&'static str], &'static str)> {
    FUNCTIONS.iter().map(|signature| (signature.names, signature.usage))
}

/// Names that SQL has for things an expression over one row cannot do, and what does them here.
const REFUSED: &[(&[&str], &str, &str)] = &[
    (
        &[
            "avg",
            "count",
            "sum",
            "min",
            "max",
            "mean",
            "median",
            "stddev",
            "stddev_pop",
            "stddev_samp",
            "variance",
            "var_pop",
            "var_samp",
            "first",
            "last",
            "first_value",
            "last_value",
            "array_agg",
            "string_agg",
            "corr",
            "percentile_cont",
            "percentile_disc",
            "approx_quantile",
        ],
        "is an aggregate over many rows; an expression sees one row",
        "use an operator of type \"window\" (for the greatest of several columns: greatest, least)",
    ),
    (
        &[
            "lag",
            "lead",
            "row_number",
            "rank",
            "dense_rank",
            "ntile",
            "nth_value",
            "percent_rank",
            "cume_dist",
        ],
        "is a window function over many rows; an expression sees one row",
        "use an operator of type \"window\"",
    ),
    (
        &[
            "now",
            "current_timestamp",
            "current_time",
            "current_date",
            "localtime",
            "localtimestamp",
            "clock_timestamp",
        ],
        "would read a clock, and a replay would then give other results",
        "use the column \"time\"",
    ),
    (
        &["random", "rand", "uuid"],
        "is random, and a replay would then give other results",
        "compute it at the source",
    ),
    (&["log"], "means different logarithms in different databases", "use ln, log2 or log10"),
];

/// Compiles a call by name. `place` is the whole call's, for messages.
pub(super) fn compile_call(
    compiler: &mut Compiler<'_, '_>,
    name: &str,
    args: &[&ast::Expr],
    place: Option<Range<usize>>,
    depth: usize,
) -> Result<Node, ExprError> {
    let lower = name.to_lowercase();
    let Some(signature) = FUNCTIONS.iter().find(|signature| signature.names.contains(&lower.as_str())) else {
        return Err(unknown(&lower, place));
    };
    if !signature.arguments.contains(&args.len()) {
        let given =
            if args.len() == 1 { "1 argument".to_owned() } else { format!("{} arguments", args.len()) };
        return Err(ExprError::new(format!("{lower} does not take {given}"), place)
            .help(format!("it is used as {}", signature.usage)));
    }
    match signature.rule {
        Rule::DateTrunc | Rule::DatePart => {
            let trunc = matches!(signature.rule, Rule::DateTrunc);
            let unit = literal_text(args[0]).ok_or_else(|| {
                ExprError::new(format!("{lower} takes its unit as text, first"), compiler.place(args[0]))
                    .help(format!("it is used as {}", signature.usage))
            })?;
            let unit_place = compiler.place(args[0]);
            date_part(compiler, unit, unit_place, args[1], trunc, depth)
        }
        rule => typed(compiler, rule, &lower, args, depth),
    }
}

/// Why a name is no function.
fn unknown(name: &str, place: Option<Range<usize>>) -> ExprError {
    if let Some((_, why, instead)) = REFUSED.iter().find(|(names, ..)| names.contains(&name)) {
        return ExprError::new(format!("{name} {why}"), place).help(*instead);
    }
    let error = ExprError::new(format!("there is no function {name}"), place);
    let names: Vec<&str> = FUNCTIONS.iter().flat_map(|signature| signature.names).copied().collect();
    match closest(name, names.iter().copied()) {
        Some(close) => error.help(format!("did you mean {close}?")),
        None => error.help(format!("the functions are {}", names.join(", "))),
    }
}

fn literal_text(expr: &ast::Expr) -> Option<&str> {
    match expr {
        ast::Expr::Value(ast::ValueWithSpan { value: ast::Value::SingleQuotedString(text), .. }) => {
            Some(text)
        }
        _ => None,
    }
}

/// `date_trunc` and `extract`.
pub(super) fn date_part(
    compiler: &mut Compiler<'_, '_>,
    unit: &str,
    unit_place: Option<Range<usize>>,
    time: &ast::Expr,
    trunc: bool,
    depth: usize,
) -> Result<Node, ExprError> {
    let known = if trunc { TRUNC_UNITS } else { PARTS };
    let part = Part::parse(unit).filter(|part| !trunc || part.can_trunc()).ok_or_else(|| {
        ExprError::new(format!("`{unit}` is no part of a time"), unit_place)
            .help(format!("use one of {}", known.join(", ")))
    })?;
    let name = if trunc { "date_trunc" } else { "extract" };
    let node = compiler.argument(time, Kind::Time, name, depth)?;
    Ok(match (trunc, part) {
        (true, part) => {
            Node::strict(Op::Call(Function::DateTrunc(part), vec![node]), Kind::Time.data_type(), true)
        }
        (false, Part::Epoch) => {
            Node::strict(Op::Call(Function::Seconds, vec![node]), DataType::Float64, false)
        }
        (false, part) => Node::strict(Op::Call(Function::DatePart(part), vec![node]), DataType::Int64, false),
    })
}

/// Compiles a call whose arguments are all expressions.
fn typed(
    compiler: &mut Compiler<'_, '_>,
    rule: Rule,
    name: &str,
    args: &[&ast::Expr],
    depth: usize,
) -> Result<Node, ExprError> {
    let call = |function, args, kind: Kind| Node::strict(Op::Call(function, args), kind.data_type(), false);
    match rule {
        Rule::Floats(function) => {
            Ok(call(function, compiler.arguments(args, Kind::Float, name, depth)?, Kind::Float))
        }
        Rule::FloatTest(function) => {
            Ok(call(function, compiler.arguments(args, Kind::Float, name, depth)?, Kind::Boolean))
        }
        Rule::Texts(function) => {
            Ok(call(function, compiler.arguments(args, Kind::Text, name, depth)?, Kind::Text))
        }
        Rule::TextTest(function) => {
            Ok(call(function, compiler.arguments(args, Kind::Text, name, depth)?, Kind::Boolean))
        }
        Rule::SameNumber(_) | Rule::Rounding(_) | Rule::Round => number(compiler, rule, name, args, depth),
        Rule::Modulo => compiler.arithmetic(&ast::BinaryOperator::Modulo, args[0], args[1], depth),
        Rule::Concat => {
            let texts = args
                .iter()
                .map(|arg| compiler.written_as_text(arg, name, depth))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(Node::lenient(Op::Call(Function::Concat, texts), DataType::Utf8, false))
        }
        Rule::Substr => {
            let mut nodes = vec![compiler.argument(args[0], Kind::Text, name, depth)?];
            for arg in &args[1..] {
                nodes.push(compiler.argument(arg, Kind::Integer, name, depth)?);
            }
            Ok(call(Function::Substr, nodes, Kind::Text))
        }
        Rule::Length => {
            let node = compiler.compile(args[0], depth)?;
            let kind = if Kind::of(&node.data_type) == Kind::Binary { Kind::Binary } else { Kind::Text };
            let node = compiler.coerce(node, kind, args[0], name)?;
            Ok(call(Function::Length, vec![node], Kind::Integer))
        }
        Rule::Epoch => {
            let node = compiler.compile(args[0], depth)?;
            let kind = if Kind::of(&node.data_type) == Kind::Duration { Kind::Duration } else { Kind::Time };
            let node = compiler.coerce(node, kind, args[0], name)?;
            Ok(call(Function::Seconds, vec![node], Kind::Float))
        }
        Rule::ToTimestamp => {
            let node = compiler.compile(args[0], depth)?;
            let kind = if Kind::of(&node.data_type) == Kind::Integer { Kind::Integer } else { Kind::Float };
            let node = compiler.coerce(node, kind, args[0], name)?;
            Ok(Node::strict(Op::Call(Function::ToTimestamp, vec![node]), Kind::Time.data_type(), true))
        }
        Rule::Coalesce | Rule::Extreme { .. } | Rule::NullIf => choice(compiler, rule, name, args, depth),
        Rule::DateTrunc | Rule::DatePart => unreachable!("{name} takes a unit"),
    }
}

/// Functions that give one of their arguments.
fn choice(
    compiler: &mut Compiler<'_, '_>,
    rule: Rule,
    name: &str,
    args: &[&ast::Expr],
    depth: usize,
) -> Result<Node, ExprError> {
    let (mut nodes, kind) = compiler.unified(args, name, depth)?;
    if kind == Kind::Null {
        return Ok(Node::literal(Arc::new(NullArray::new(1))));
    }
    let all_nullable = nodes.iter().all(|node| node.nullable);
    let (op, nullable) = match rule {
        Rule::Coalesce => (Op::Coalesce(nodes), all_nullable),
        Rule::Extreme { greatest } => (Op::Extreme { greatest, args: nodes }, all_nullable),
        _ => {
            let (Some(other), Some(value)) = (nodes.pop(), nodes.pop()) else {
                unreachable!("nullif has two arguments")
            };
            (Op::NullIf(Box::new(value), Box::new(other)), true)
        }
    };
    Ok(Node::lenient(op, kind.data_type(), nullable))
}

/// Functions that keep the kind of their number.
fn number(
    compiler: &mut Compiler<'_, '_>,
    rule: Rule,
    name: &str,
    args: &[&ast::Expr],
    depth: usize,
) -> Result<Node, ExprError> {
    if let (Rule::Round, [_, _]) = (rule, args) {
        let args = compiler.arguments(args, Kind::Float, name, depth)?;
        return Ok(Node::strict(Op::Call(Function::RoundTo, args), DataType::Float64, false));
    }
    let node = compiler.compile(args[0], depth)?;
    let whole = Kind::of(&node.data_type) == Kind::Integer;
    let node = compiler.coerce(node, if whole { Kind::Integer } else { Kind::Float }, args[0], name)?;
    let function = match rule {
        Rule::Rounding(_) | Rule::Round if whole => return Ok(node),
        Rule::Rounding(function) | Rule::SameNumber(function) => function,
        _ => Function::Round,
    };
    let (data_type, may_fail) = (node.data_type.clone(), whole && function == Function::Abs);
    Ok(Node::strict(Op::Call(function, vec![node]), data_type, may_fail))
}
