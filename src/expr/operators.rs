//! Compiles operators and the keywords that act like them: arithmetic, comparison, logic, `IS`, `CASE`, `CAST`.
//! Pure.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, NullArray};
use arrow::datatypes::DataType;
use sqlparser::ast::{self, BinaryOperator, UnaryOperator};

use super::compile::{Compiled, Compiler, literal_text};
use super::node::{Arithmetic, Comparison, Function, Node, Op, Test};
use super::types::Kind;
use super::words::conversion;
use super::{ExprError, interval};

impl Compiler<'_, '_> {
    pub(super) fn unary(
        &mut self,
        op: UnaryOperator,
        inner: &ast::Expr,
        whole: &ast::Expr,
        depth: usize,
    ) -> Compiled {
        match op {
            UnaryOperator::Not => self.not(inner, depth),
            UnaryOperator::Plus | UnaryOperator::Minus => {
                // The smallest integer can only be written with its sign.
                if let (UnaryOperator::Minus, ast::Expr::Value(value)) = (op, inner)
                    && let ast::Value::Number(digits, _) = &value.value
                {
                    return self.number(&format!("-{digits}"), whole);
                }
                let node = self.compile(inner, depth)?;
                let kind = Kind::of(&node.data_type);
                let kind = if matches!(kind, Kind::Integer | Kind::Duration) { kind } else { Kind::Float };
                let node = self.coerce(node, kind, inner, "a sign")?;
                let (data_type, may_fail) = (node.data_type.clone(), kind != Kind::Float);
                Ok(match op {
                    UnaryOperator::Minus => Node::strict(Op::Negate(Box::new(node)), data_type, may_fail),
                    _ => node,
                })
            }
            other => Err(ExprError::new(format!("the operator {other} is not supported"), self.place(whole))
                .help("NOT, + and - are")),
        }
    }

    fn not(&mut self, inner: &ast::Expr, depth: usize) -> Compiled {
        let node = self.argument(inner, Kind::Boolean, "NOT", depth)?;
        Ok(negated(node, true))
    }

    pub(super) fn binary(
        &mut self,
        left: &ast::Expr,
        op: &BinaryOperator,
        right: &ast::Expr,
        whole: &ast::Expr,
        depth: usize,
    ) -> Compiled {
        match op {
            BinaryOperator::And | BinaryOperator::Or => self.conjunction(whole, op, depth),
            BinaryOperator::StringConcat => {
                let texts = chain(whole, op)
                    .into_iter()
                    .map(|expr| self.written_as_text(expr, "||", depth))
                    .collect::<Result<Vec<_>, _>>()?;
                Ok(Node::strict(Op::Call(Function::Join, texts), DataType::Utf8, false))
            }
            BinaryOperator::Plus
            | BinaryOperator::Minus
            | BinaryOperator::Multiply
            | BinaryOperator::Divide
            | BinaryOperator::Modulo => self.arithmetic(op, left, right, depth),
            _ => match comparison(op) {
                Some(comparison) => self.compare(comparison, op, left, right, depth),
                None => {
                    let help = match op {
                        BinaryOperator::BitwiseXor | BinaryOperator::PGExp => "use pow(base, exponent)",
                        BinaryOperator::PGOverlap => "use AND",
                        BinaryOperator::Xor => "use a <> b",
                        BinaryOperator::PGRegexMatch | BinaryOperator::Regexp => "use LIKE",
                        _ => "the operators are + - * / % || = <> < <= > >= AND OR NOT IS IN BETWEEN LIKE",
                    };
                    Err(ExprError::new(format!("the operator {op} is not supported"), self.place(whole))
                        .help(help))
                }
            },
        }
    }

    /// A chain of `AND` or `OR`, in one node. What is settled by a literal is left out.
    fn conjunction(&mut self, whole: &ast::Expr, op: &BinaryOperator, depth: usize) -> Compiled {
        let and = *op == BinaryOperator::And;
        let name = if and { "AND" } else { "OR" };
        let mut nodes = Vec::new();
        let mut settled = None;
        for expr in chain(whole, op) {
            let node = self.argument(expr, Kind::Boolean, name, depth)?;
            match node.as_literal().and_then(|literal| literal.as_boolean_opt()) {
                Some(literal) if literal.is_valid(0) && literal.value(0) == and => {}
                Some(literal) if literal.is_valid(0) => settled = Some(node),
                _ => nodes.push(node),
            }
        }
        if let Some(settled) = settled {
            return Ok(settled);
        }
        let nullable = nodes.iter().any(|node| node.nullable);
        Ok(match nodes.len() {
            0 => Node::literal(Arc::new(BooleanArray::from(vec![and]))),
            1 => nodes.swap_remove(0),
            _ if and => Node::lenient(Op::And(nodes), DataType::Boolean, nullable),
            _ => Node::lenient(Op::Or(nodes), DataType::Boolean, nullable),
        })
    }

    pub(super) fn arithmetic(
        &mut self,
        op: &BinaryOperator,
        left: &ast::Expr,
        right: &ast::Expr,
        depth: usize,
    ) -> Compiled {
        use Kind::{Duration, Float, Time};
        let mut nodes = [self.compile(left, depth)?, self.compile(right, depth)?];
        // `time - '2024-05-01'` and `time + '5 seconds'` read the literal as the operator needs it.
        for (index, expr) in [(0, left), (1, right)] {
            let other = Kind::of(&nodes[1 - index].data_type);
            if let (Time | Duration, Some(text)) = (other, literal_text(&nodes[index])) {
                let as_time = other == Time
                    && *op == BinaryOperator::Minus
                    && interval::parse_micros(&text, None).is_err();
                nodes[index] = self.parse_literal(&text, if as_time { Time } else { Duration }, expr)?;
            }
        }
        let [left_node, right_node] = nodes;
        let kinds = (Kind::of(&left_node.data_type), Kind::of(&right_node.data_type));
        let Some(typing) = typing(op, kinds.0, kinds.1) else {
            return Err(self.arithmetic_mismatch(op, kinds, (left, right)));
        };
        let left_node = self.convert(left_node, typing.left.data_type());
        let right_node = self.convert(right_node, typing.right.data_type());
        let computed = if typing.left == Float { Float } else { typing.result };
        let operation = Op::Arithmetic(arithmetic_of(op), Box::new(left_node), Box::new(right_node));
        let node = Node::strict(operation, computed.data_type(), computed != Float);
        Ok(self.convert(node, typing.result.data_type()))
    }

    fn arithmetic_mismatch(
        &self,
        op: &BinaryOperator,
        kinds: (Kind, Kind),
        exprs: (&ast::Expr, &ast::Expr),
    ) -> ExprError {
        let additive = matches!(op, BinaryOperator::Plus | BinaryOperator::Minus);
        let fits =
            |kind: Kind| kind.is_number() || kind == Kind::Duration || (kind == Kind::Time && additive);
        let change_left = !fits(kinds.0);
        let (expr, from, other) =
            if change_left { (exprs.0, kinds.0, kinds.1) } else { (exprs.1, kinds.1, kinds.0) };
        let to = match other {
            Kind::Time | Kind::Duration if additive => Kind::Duration,
            _ => Kind::Float,
        };
        self.operator_mismatch(op, kinds, exprs).help(conversion(from, to, self.text(expr)))
    }

    fn operator_mismatch(
        &self,
        op: &BinaryOperator,
        kinds: (Kind, Kind),
        exprs: (&ast::Expr, &ast::Expr),
    ) -> ExprError {
        let (left, right) = (self.place(exprs.0), self.place(exprs.1));
        let place = match (left, right) {
            (Some(left), Some(right)) => Some(left.start..right.end),
            (left, right) => left.or(right),
        };
        let (a, b) = (kinds.0.words(), kinds.1.words());
        ExprError::new(format!("`{op}` does not go with {a} on the left and {b} on the right"), place)
    }

    fn compare(
        &mut self,
        comparison: Comparison,
        op: &BinaryOperator,
        left: &ast::Expr,
        right: &ast::Expr,
        depth: usize,
    ) -> Compiled {
        let nodes = vec![self.compile(left, depth)?, self.compile(right, depth)?];
        let kinds = (Kind::of(&nodes[0].data_type), Kind::of(&nodes[1].data_type));
        let is_literal = |node: &Node| node.as_literal().is_some();
        let readable = |node: &Node, as_kind: Kind| {
            matches!(as_kind, Kind::Time | Kind::Duration) && literal_text(node).is_some()
        };
        if kinds.0.common(kinds.1).is_none() && !readable(&nodes[0], kinds.1) && !readable(&nodes[1], kinds.0)
        {
            let mut error = self.operator_mismatch(op, kinds, (left, right));
            error.message = format!("cannot compare {} with {}", kinds.0.words(), kinds.1.words());
            // A text that is not a literal can be read as something else; a literal had better be written right.
            let change_left = (kinds.0 == Kind::Text && !is_literal(&nodes[0])) || is_literal(&nodes[1]);
            let (culprit, from, to) = match change_left && !is_literal(&nodes[0]) {
                true => (left, kinds.0, kinds.1),
                false => (right, kinds.1, kinds.0),
            };
            return Err(error.help(conversion(from, to, self.text(culprit))));
        }
        let (nodes, _) = self.unify(nodes, &[left, right], "a comparison")?;
        Ok(compare_node(comparison, nodes))
    }

    pub(super) fn distinct(
        &mut self,
        left: &ast::Expr,
        right: &ast::Expr,
        negate: bool,
        depth: usize,
    ) -> Compiled {
        let (mut nodes, _) = self.unified(&[left, right], "IS DISTINCT FROM", depth)?;
        let (Some(right), Some(left)) = (nodes.pop(), nodes.pop()) else { unreachable!("two went in") };
        let node = Node::lenient(Op::Distinct(Box::new(left), Box::new(right)), DataType::Boolean, false);
        Ok(negated(node, negate))
    }

    pub(super) fn is(&mut self, test: Test, inner: &ast::Expr, negate: bool, depth: usize) -> Compiled {
        let mut node = self.compile(inner, depth)?;
        if test != Test::Null {
            node = self.coerce(node, Kind::Boolean, inner, "IS TRUE")?;
        }
        Ok(negated(Node::lenient(Op::Is(test, Box::new(node)), DataType::Boolean, false), negate))
    }

    pub(super) fn case(
        &mut self,
        operand: Option<&ast::Expr>,
        conditions: &[ast::CaseWhen],
        otherwise: Option<&ast::Expr>,
        depth: usize,
    ) -> Compiled {
        let (operand, whens) = match operand {
            Some(operand) => {
                let exprs: Vec<&ast::Expr> =
                    std::iter::once(operand).chain(conditions.iter().map(|case| &case.condition)).collect();
                let (mut nodes, _) = self.unified(&exprs, "CASE", depth)?;
                (Some(Box::new(nodes.remove(0))), nodes)
            }
            None => {
                let conditions: Vec<&ast::Expr> = conditions.iter().map(|case| &case.condition).collect();
                (None, self.arguments(&conditions, Kind::Boolean, "WHEN", depth)?)
            }
        };
        let null = ast::Expr::value(ast::Value::Null);
        let results = conditions.iter().map(|case| &case.result).chain([otherwise.unwrap_or(&null)]);
        let (mut results, kind) = self.unified(&results.collect::<Vec<_>>(), "CASE", depth)?;
        let nullable = results.iter().any(|node| node.nullable);
        let Some(otherwise) = results.pop().map(Box::new) else {
            unreachable!("CASE has an ELSE, null if not written")
        };
        if kind == Kind::Null {
            return Ok(Node::literal(Arc::new(NullArray::new(1))));
        }
        let branches = whens.into_iter().zip(results).collect();
        Ok(Node::lenient(Op::Case { operand, branches, otherwise }, kind.data_type(), nullable))
    }

    pub(super) fn cast(
        &mut self,
        inner: &ast::Expr,
        data_type: &ast::DataType,
        whole: &ast::Expr,
        depth: usize,
    ) -> Compiled {
        let to = type_of(data_type, self.place(whole))?;
        let node = self.compile(inner, depth)?;
        let (from, kind) = (Kind::of(&node.data_type), Kind::of(&to));
        let help = match (from, kind) {
            (Kind::Null, _) | (_, Kind::Text) if from != Kind::Other && from != Kind::Binary => None,
            (a, b) if a == b => None,
            (
                Kind::Boolean | Kind::Integer | Kind::Float | Kind::Text,
                Kind::Boolean | Kind::Integer | Kind::Float,
            ) => None,
            (Kind::Text, Kind::Time | Kind::Binary) => None,
            (from, kind) => Some(conversion(from, kind, self.text(inner))),
        };
        match help {
            None => Ok(self.convert(node, to)),
            Some(help) => Err(ExprError::new(
                format!("{} cannot become {} by CAST", from.words(), kind.words()),
                self.place(inner),
            )
            .help(help)),
        }
    }
}

/// The operands of a chain of one operator, which the parser gives as a tree that leans to the left. Walked without
/// recursion: a chain may be as long as the text.
fn chain<'e>(whole: &'e ast::Expr, op: &BinaryOperator) -> Vec<&'e ast::Expr> {
    let mut operands = Vec::new();
    let mut current = whole;
    while let ast::Expr::BinaryOp { left, op: this, right } = current
        && this == op
    {
        operands.push(right.as_ref());
        current = left;
    }
    operands.push(current);
    operands.reverse();
    operands
}

pub(super) fn negated(node: Node, negate: bool) -> Node {
    if negate { Node::strict(Op::Not(Box::new(node)), DataType::Boolean, false) } else { node }
}

fn compare_node(comparison: Comparison, mut nodes: Vec<Node>) -> Node {
    let (Some(right), Some(left)) = (nodes.pop(), nodes.pop()) else { unreachable!("two went in") };
    Node::strict(Op::Compare(comparison, Box::new(left), Box::new(right)), DataType::Boolean, false)
}

fn comparison(op: &BinaryOperator) -> Option<Comparison> {
    Some(match op {
        BinaryOperator::Eq => Comparison::Equal,
        BinaryOperator::NotEq => Comparison::NotEqual,
        BinaryOperator::Lt => Comparison::Less,
        BinaryOperator::LtEq => Comparison::LessOrEqual,
        BinaryOperator::Gt => Comparison::Greater,
        BinaryOperator::GtEq => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

/// The kinds an arithmetic operator converts its arguments to, and what it gives. Where `left` is a float and
/// `result` a duration, the float is one of microseconds.
struct Typing {
    left: Kind,
    right: Kind,
    result: Kind,
}

/// How an operator goes with two kinds, if it does.
fn typing(op: &BinaryOperator, left: Kind, right: Kind) -> Option<Typing> {
    use BinaryOperator::{Divide, Minus, Modulo, Multiply, Plus};
    use Kind::{Duration, Float, Integer, Null, Time};
    let (left, right, result) = match (op, left, right) {
        (Plus, Time, Duration | Null) => (Time, Duration, Time),
        (Plus, Duration | Null, Time) => (Duration, Time, Time),
        (Minus, Time, Duration) => (Time, Duration, Time),
        (Minus, Time | Null, Time) | (Minus, Time, Null) => (Time, Time, Duration),
        (Plus | Minus, Duration, Duration | Null) | (Plus | Minus, Null, Duration) => {
            (Duration, Duration, Duration)
        }
        (Modulo, Duration, Duration) => (Duration, Duration, Duration),
        (Multiply | Divide, Duration, Integer) => (Duration, Integer, Duration),
        (Multiply, Integer, Duration) => (Integer, Duration, Duration),
        (Multiply | Divide, Duration, Float) | (Multiply, Float, Duration) => (Float, Float, Duration),
        (Divide, Duration, Duration) => (Float, Float, Float),
        (_, Integer, Integer | Null) | (_, Null, Integer) => (Integer, Integer, Integer),
        (_, Integer | Float | Null, Integer | Float | Null) => (Float, Float, Float),
        _ => return None,
    };
    Some(Typing { left, right, result })
}

fn arithmetic_of(op: &BinaryOperator) -> Arithmetic {
    match op {
        BinaryOperator::Plus => Arithmetic::Add,
        BinaryOperator::Minus => Arithmetic::Subtract,
        BinaryOperator::Multiply => Arithmetic::Multiply,
        BinaryOperator::Divide => Arithmetic::Divide,
        _ => Arithmetic::Remainder,
    }
}

/// The Arrow type of a SQL type. Whole numbers have 64 bits here, and floats 64 unless `REAL` is asked for.
fn type_of(data_type: &ast::DataType, place: Option<Range<usize>>) -> Result<DataType, ExprError> {
    use ast::DataType as Sql;
    let kind = match data_type {
        Sql::Boolean | Sql::Bool => Kind::Boolean,
        Sql::Int(None) | Sql::Integer(None) | Sql::BigInt(None) | Sql::Int8(None) | Sql::Int64 => {
            Kind::Integer
        }
        Sql::Double(_) | Sql::DoublePrecision | Sql::Float(_) | Sql::Float8 | Sql::Float64 => Kind::Float,
        Sql::Real | Sql::Float4 | Sql::Float32 => return Ok(DataType::Float32),
        Sql::Text | Sql::String(None) | Sql::Varchar(None) | Sql::CharacterVarying(None) => Kind::Text,
        Sql::Timestamp(..) | Sql::Datetime(_) => Kind::Time,
        Sql::Bytea | Sql::Binary(None) | Sql::Blob(None) | Sql::Varbinary(None) => Kind::Binary,
        other => {
            let help = match other {
                Sql::Date => "use date_trunc('day', time)",
                Sql::Interval { .. } => "write INTERVAL '5 seconds', or seconds * INTERVAL '1 second'",
                _ => "the types are BOOLEAN, BIGINT, DOUBLE, REAL, TEXT, TIMESTAMP and BYTEA",
            };
            return Err(ExprError::new(format!("CAST to {other} is not supported"), place).help(help));
        }
    };
    Ok(kind.data_type())
}
