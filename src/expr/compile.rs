//! From syntax tree to compiled tree: names are resolved, types checked, SQL that has no place here refused by name.
//! Pure.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, Int64Array, NullArray, StringArray,
};
use arrow::datatypes::{DataType, Schema};
use sqlparser::ast;

use super::node::{Node, Op, Test};
use super::parse::{Source, too_deep};
use super::types::Kind;
use super::words::{closest, conversion, refusal};
use super::{DEPTH_MAX, ExprError, evaluate, functions, interval, number};

pub(super) type Compiled = Result<Node, ExprError>;

/// Compiles a syntax tree against a schema.
pub(super) fn compile(tree: &ast::Expr, source: &Source<'_>, schema: &Schema) -> Compiled {
    let node = Compiler { source, schema }.compile(tree, 0)?;
    if Kind::of(&node.data_type) == Kind::Null && !matches!(node.op, Op::Column(_)) {
        return Err(ExprError::new("the expression is always null and has no type", source.whole())
            .help("give it one: CAST(NULL AS DOUBLE)"));
    }
    Ok(node)
}

/// What compiling needs to know at every node.
pub(super) struct Compiler<'s, 't> {
    source: &'s Source<'t>,
    schema: &'s Schema,
}

impl Compiler<'_, '_> {
    pub(super) fn place(&self, expr: &ast::Expr) -> Option<Range<usize>> {
        self.source.place(expr)
    }

    pub(super) fn compile(&mut self, expr: &ast::Expr, depth: usize) -> Compiled {
        if depth > DEPTH_MAX {
            return Err(too_deep(self.source.whole()));
        }
        let depth = depth + 1;
        match expr {
            ast::Expr::Nested(inner) => self.compile(inner, depth),
            ast::Expr::Identifier(name) => self.column(&name.value, name.quote_style, expr),
            ast::Expr::CompoundIdentifier(names) => {
                let name: Vec<&str> = names.iter().map(|name| name.value.as_str()).collect();
                self.column(&name.join("."), None, expr)
            }
            ast::Expr::Value(value) => self.literal(&value.value, expr),
            ast::Expr::TypedString(typed) => self.typed_string(typed, expr),
            ast::Expr::Interval(interval) => self.interval(interval, expr),
            ast::Expr::UnaryOp { op, expr: inner } => self.unary(*op, inner, expr, depth),
            ast::Expr::BinaryOp { left, op, right } => self.binary(left, op, right, expr, depth),
            ast::Expr::IsNull(inner) => self.is(Test::Null, inner, false, depth),
            ast::Expr::IsNotNull(inner) => self.is(Test::Null, inner, true, depth),
            ast::Expr::IsTrue(inner) => self.is(Test::True, inner, false, depth),
            ast::Expr::IsNotTrue(inner) => self.is(Test::True, inner, true, depth),
            ast::Expr::IsFalse(inner) => self.is(Test::False, inner, false, depth),
            ast::Expr::IsNotFalse(inner) => self.is(Test::False, inner, true, depth),
            ast::Expr::IsUnknown(inner) => self.is(Test::Null, inner, false, depth),
            ast::Expr::IsNotUnknown(inner) => self.is(Test::Null, inner, true, depth),
            ast::Expr::IsDistinctFrom(left, right) => self.distinct(left, right, false, depth),
            ast::Expr::IsNotDistinctFrom(left, right) => self.distinct(left, right, true, depth),
            ast::Expr::Between { expr: value, negated, low, high } => {
                self.between(value, low, high, *negated, depth)
            }
            ast::Expr::In { expr: value, target: ast::InTarget::List(list), negated, .. } => {
                self.in_list(value, list, *negated, depth)
            }
            ast::Expr::Like { negated, any: false, expr: value, pattern, escape_char } => {
                self.like(value, pattern, escape_char.as_deref(), false, *negated, depth)
            }
            ast::Expr::ILike { negated, any: false, expr: value, pattern, escape_char } => {
                self.like(value, pattern, escape_char.as_deref(), true, *negated, depth)
            }
            ast::Expr::Case { operand, conditions, else_result, .. } => {
                self.case(operand.as_deref(), conditions, else_result.as_deref(), depth)
            }
            ast::Expr::Cast { expr: inner, data_type, format: None, .. } => {
                self.cast(inner, data_type, expr, depth)
            }
            _ => self.call_like(expr, depth),
        }
    }

    /// What is written like a function, some of it with a syntax of its own.
    fn call_like(&mut self, expr: &ast::Expr, depth: usize) -> Compiled {
        let place = self.place(expr);
        match expr {
            ast::Expr::Function(function) => self.function(function, expr, depth),
            ast::Expr::Extract { field, expr: time, .. } => {
                functions::date_part(self, &field.to_string(), place, time, false, depth)
            }
            ast::Expr::Ceil {
                expr: value,
                field: ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime),
            } => functions::compile_call(self, "ceil", &[value], place, depth),
            ast::Expr::Floor {
                expr: value,
                field: ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime),
            } => functions::compile_call(self, "floor", &[value], place, depth),
            ast::Expr::Substring { expr: text, substring_from, substring_for, .. } => {
                let one = ast::Expr::value(ast::Value::Number("1".to_owned(), false));
                let from = substring_from.as_deref().unwrap_or(&one);
                let args: Vec<&ast::Expr> =
                    [text.as_ref(), from].into_iter().chain(substring_for.as_deref()).collect();
                functions::compile_call(self, "substr", &args, place, depth)
            }
            ast::Expr::Trim { expr: text, trim_where, trim_what, trim_characters } => {
                let name = match trim_where {
                    Some(ast::TrimWhereField::Leading) => "ltrim",
                    Some(ast::TrimWhereField::Trailing) => "rtrim",
                    Some(ast::TrimWhereField::Both) | None => "trim",
                };
                let characters = trim_what.as_deref().into_iter().chain(trim_characters.iter().flatten());
                let args: Vec<&ast::Expr> = std::iter::once(text.as_ref()).chain(characters).collect();
                functions::compile_call(self, name, &args, place, depth)
            }
            _ => Err(refusal(expr, place)),
        }
    }

    fn function(&mut self, function: &ast::Function, expr: &ast::Expr, depth: usize) -> Compiled {
        let place = self.place(expr);
        let name = function.name.to_string();
        let refuse = |what: &str, help: &str| {
            Err(ExprError::new(format!("{what} is not part of an expression"), place.clone()).help(help))
        };
        if function.over.is_some() {
            return refuse(
                &format!("the window function {name}(…) OVER"),
                "use an operator of type \"window\"",
            );
        }
        if function.filter.is_some() || !function.within_group.is_empty() {
            return refuse(&format!("the aggregate {name}(…)"), "use an operator of type \"window\"");
        }
        let list = match &function.args {
            ast::FunctionArguments::List(list) if function.parameters == ast::FunctionArguments::None => list,
            ast::FunctionArguments::None => return functions::compile_call(self, &name, &[], place, depth),
            ast::FunctionArguments::Subquery(_) => {
                return refuse("a subquery", "join the data at the source");
            }
            _ => return refuse(&format!("{name} with two lists of arguments"), "give one list"),
        };
        if !list.clauses.is_empty() || list.duplicate_treatment.is_some() {
            return refuse(&format!("a clause inside {name}(…)"), "give the arguments only");
        }
        let mut args = Vec::with_capacity(list.args.len());
        for arg in &list.args {
            match arg {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(arg)) => args.push(arg),
                // count(*) is best told that it is an aggregate.
                ast::FunctionArg::Unnamed(_) => {
                    return functions::compile_call(self, &name, &[], place, depth);
                }
                _ => return refuse("an argument with a name", "give the arguments in order, without names"),
            }
        }
        functions::compile_call(self, &name, &args, place, depth)
    }

    // --- names and literals ---------------------------------------------------------------------------------------

    fn column(&self, name: &str, quote: Option<char>, expr: &ast::Expr) -> Compiled {
        if let Ok(index) = self.schema.index_of(name) {
            let node = Node::column(index, self.schema);
            return Ok(node);
        }
        let names = self.schema.fields().iter().map(|field| field.name().as_str());
        let error = ExprError::new(format!("column \"{name}\" does not exist"), self.place(expr));
        Err(match closest(name, names.clone()) {
            Some(close) => error.help(format!("did you mean \"{close}\"?")),
            None if quote.is_some() => {
                error.help(format!("double quotes are for names of columns; a text is written '{name}'"))
            }
            None => error.help(format!("the columns are {}", names.collect::<Vec<_>>().join(", "))),
        })
    }

    fn literal(&self, value: &ast::Value, expr: &ast::Expr) -> Compiled {
        let array: ArrayRef = match value {
            ast::Value::Number(digits, _) => return self.number(digits, expr),
            ast::Value::SingleQuotedString(text) | ast::Value::EscapedStringLiteral(text) => {
                Arc::new(StringArray::from(vec![text.as_str()]))
            }
            ast::Value::Boolean(value) => Arc::new(BooleanArray::from(vec![*value])),
            ast::Value::Null => Arc::new(NullArray::new(1)),
            ast::Value::HexStringLiteral(digits) => {
                let bytes = bytes_of_hex(digits).ok_or_else(|| {
                    ExprError::new(format!("X'{digits}' is not bytes"), self.place(expr))
                        .help("write two hexadecimal digits for each byte: X'00ff'")
                })?;
                Arc::new(BinaryArray::from_vec(vec![&bytes]))
            }
            other => {
                return Err(ExprError::new(
                    format!("the literal {other} is not supported"),
                    self.place(expr),
                )
                .help("write numbers as 1 or 1.5, text as 'text', bytes as X'00ff'"));
            }
        };
        Ok(Node::literal(array))
    }

    /// A number is whole if it is written so and fits in 64 bits.
    pub(super) fn number(&self, digits: &str, expr: &ast::Expr) -> Compiled {
        if let Ok(whole) = digits.parse::<i64>() {
            return Ok(Node::literal(Arc::new(Int64Array::from(vec![whole]))));
        }
        match digits.parse::<f64>() {
            Ok(float) => Ok(Node::literal(Arc::new(Float64Array::from(vec![float])))),
            Err(_) => Err(ExprError::new(format!("`{digits}` is no number"), self.place(expr))),
        }
    }

    fn typed_string(&self, typed: &ast::TypedString, expr: &ast::Expr) -> Compiled {
        let text = typed.value.clone().into_string().unwrap_or_default();
        match &typed.data_type {
            ast::DataType::Timestamp(..) | ast::DataType::Datetime(_) | ast::DataType::Date => {
                self.parse_literal(&text, Kind::Time, expr)
            }
            other => {
                Err(ExprError::new(format!("a literal of type {other} is not supported"), self.place(expr))
                    .help("write a time as TIMESTAMP '2024-05-01T12:00:00Z'"))
            }
        }
    }

    fn interval(&self, interval: &ast::Interval, expr: &ast::Expr) -> Compiled {
        let text = match interval.value.as_ref() {
            ast::Expr::Value(value) => match &value.value {
                ast::Value::SingleQuotedString(text) => Some(text.clone()),
                ast::Value::Number(digits, _) => Some(digits.clone()),
                _ => None,
            },
            _ => None,
        };
        let plain = interval.leading_precision.is_none()
            && interval.last_field.is_none()
            && interval.fractional_seconds_precision.is_none();
        let (Some(text), true) = (text, plain) else {
            return Err(ExprError::new("this form of INTERVAL is not supported", self.place(expr))
                .help("write e.g. INTERVAL '5 seconds'; for a variable one, n * INTERVAL '1 second'"));
        };
        let unit = interval.leading_field.as_ref().map(ToString::to_string);
        match interval::parse_micros(&text, unit.as_deref()) {
            Ok(micros) => Ok(Node::literal(number::integers_as(
                Int64Array::from(vec![micros]),
                &Kind::Duration.data_type(),
            ))),
            Err(message) => Err(ExprError::new(message, self.place(expr))),
        }
    }

    /// A text literal read as a time or a duration.
    pub(super) fn parse_literal(&self, text: &str, kind: Kind, expr: &ast::Expr) -> Compiled {
        if kind == Kind::Duration {
            return match interval::parse_micros(text, None) {
                Ok(micros) => {
                    Ok(Node::literal(number::integers_as(Int64Array::from(vec![micros]), &kind.data_type())))
                }
                Err(message) => Err(ExprError::new(message, self.place(expr))),
            };
        }
        let array: ArrayRef = Arc::new(StringArray::from(vec![text]));
        match evaluate::convert(&array, &kind.data_type()) {
            Ok(time) if time.is_valid(0) => Ok(Node::literal(time)),
            _ => Err(ExprError::new(format!("'{text}' is no time"), self.place(expr))
                .help("write it as '2024-05-01T12:00:00Z'")),
        }
    }

    // --- types ----------------------------------------------------------------------------------------------------

    /// `node` as a value of `kind`, in the type that kind is computed in. `what` asks for it.
    pub(super) fn coerce(&self, node: Node, kind: Kind, expr: &ast::Expr, what: &str) -> Compiled {
        let from = Kind::of(&node.data_type);
        let widens = from == kind || from == Kind::Null || (from == Kind::Integer && kind == Kind::Float);
        if !widens {
            if let (Kind::Time | Kind::Duration, Some(text)) = (kind, literal_text(&node)) {
                return self.parse_literal(&text, kind, expr);
            }
            return Err(ExprError::new(
                format!("{what} takes {}, but `{}` is {}", kind.words(), self.text(expr), from.words()),
                self.place(expr),
            )
            .help(conversion(from, kind, self.text(expr))));
        }
        Ok(self.convert(node, kind.data_type()))
    }

    /// Another type, without asking whether that makes sense.
    pub(super) fn convert(&self, node: Node, to: DataType) -> Node {
        let node = self.undictionary(node);
        if node.data_type == to {
            return node;
        }
        let may_fail = !matches!(
            (&node.data_type, &to),
            (from, DataType::Float64 | DataType::Utf8) if from.is_numeric() || *from == DataType::Boolean
        );
        Node::strict(Op::Convert(Box::new(node)), to, may_fail)
    }

    /// A dictionary column as its values, so that what follows is computed on them.
    fn undictionary(&self, node: Node) -> Node {
        let (Op::Column(column), DataType::Dictionary(_, values)) = (&node.op, &node.data_type) else {
            return node;
        };
        let values = values.as_ref().clone();
        let body = Node { op: Op::Column(0), data_type: values.clone(), nullable: node.nullable };
        let op = Op::OverDictionary { column: *column, body: Box::new(body) };
        Node { op, data_type: values, nullable: node.nullable }
    }

    pub(super) fn argument(&mut self, expr: &ast::Expr, kind: Kind, what: &str, depth: usize) -> Compiled {
        let node = self.compile(expr, depth)?;
        self.coerce(node, kind, expr, what)
    }

    pub(super) fn arguments(
        &mut self,
        exprs: &[&ast::Expr],
        kind: Kind,
        what: &str,
        depth: usize,
    ) -> Result<Vec<Node>, ExprError> {
        exprs.iter().map(|expr| self.argument(expr, kind, what, depth)).collect()
    }

    /// Anything that can be written as text.
    pub(super) fn written_as_text(&mut self, expr: &ast::Expr, what: &str, depth: usize) -> Compiled {
        let node = self.compile(expr, depth)?;
        match Kind::of(&node.data_type) {
            Kind::Other | Kind::Binary => self.coerce(node, Kind::Text, expr, what),
            _ => Ok(self.convert(node, DataType::Utf8)),
        }
    }

    /// Several values in the one kind they have in common.
    pub(super) fn unified(
        &mut self,
        exprs: &[&ast::Expr],
        what: &str,
        depth: usize,
    ) -> Result<(Vec<Node>, Kind), ExprError> {
        let nodes = exprs.iter().map(|expr| self.compile(expr, depth)).collect::<Result<Vec<_>, _>>()?;
        self.unify(nodes, exprs, what)
    }

    pub(super) fn unify(
        &self,
        nodes: Vec<Node>,
        exprs: &[&ast::Expr],
        what: &str,
    ) -> Result<(Vec<Node>, Kind), ExprError> {
        let mut kind = Kind::Null;
        for (node, expr) in nodes.iter().zip(exprs) {
            let next = Kind::of(&node.data_type);
            kind = match kind.common(next) {
                Some(kind) => kind,
                // A text literal can be read as a time; a text before a time was one if it is one.
                None if matches!(kind, Kind::Time | Kind::Duration) && literal_text(node).is_some() => kind,
                None if kind == Kind::Text
                    && matches!(next, Kind::Time | Kind::Duration)
                    && nodes.iter().all(|node| {
                        Kind::of(&node.data_type) != Kind::Text || literal_text(node).is_some()
                    }) =>
                {
                    next
                }
                None => return Err(self.mismatch(what, kind, next, expr)),
            };
        }
        let nodes = nodes.into_iter().zip(exprs).map(|(node, expr)| self.coerce(node, kind, expr, what));
        Ok((nodes.collect::<Result<Vec<_>, _>>()?, kind))
    }

    fn mismatch(&self, what: &str, left: Kind, right: Kind, expr: &ast::Expr) -> ExprError {
        let text = self.text(expr);
        let message = format!("{what} cannot take {} together with {}", left.words(), right.words());
        ExprError::new(message, self.place(expr)).help(conversion(right, left, text))
    }

    pub(super) fn text(&self, expr: &ast::Expr) -> &str {
        self.source.at(&self.place(expr))
    }
}

/// The text of a literal that is one and not null.
pub(super) fn literal_text(node: &Node) -> Option<String> {
    let array = node.as_literal()?.as_string_opt::<i32>()?;
    array.is_valid(0).then(|| array.value(0).to_owned())
}

fn bytes_of_hex(digits: &str) -> Option<Vec<u8>> {
    let nibbles = digits.chars().map(|digit| digit.to_digit(16)).collect::<Option<Vec<u32>>>()?;
    let pairs = nibbles.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs.map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect()
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn hex_is_whole_bytes() {
        assert_eq!(bytes_of_hex("00fF"), Some(vec![0, 255]));
        assert_eq!(bytes_of_hex("0"), None);
        assert_eq!(bytes_of_hex("zz"), None);
    }
}
