//! The compiled form of an expression: a typed tree, simplified as it is built. Pure.
//!
//! Two simplifications happen in [`Node::strict`], where almost every node is made:
//!
//! - *Constant folding*: a node over literals only is evaluated at once. Evaluation is total, so this cannot turn a
//!   row's problem into a refusal.
//! - *Dictionaries*: a node whose only argument that is not a literal comes from one dictionary column is computed
//!   on the dictionary's values, of which there are few, and the result is spread over the rows by their keys. That
//!   is right exactly for nodes that give null for null.

use arrow::array::{Array, ArrayRef, Datum};
use arrow::datatypes::{DataType, Schema};

use super::evaluate;
use super::time::Part;

/// What a node is evaluated over.
pub(super) struct Input<'a> {
    pub(super) columns: &'a [ArrayRef],
    pub(super) rows: usize,
}

/// The result of a node: a value per row, or one value for every row (an array of one element).
#[derive(Debug, Clone)]
pub(super) enum Value {
    Rows(ArrayRef),
    Scalar(ArrayRef),
}

impl Value {
    pub(super) fn array(&self) -> &ArrayRef {
        match self {
            Value::Rows(array) | Value::Scalar(array) => array,
        }
    }

    pub(super) fn is_scalar(&self) -> bool {
        matches!(self, Value::Scalar(_))
    }
}

impl Datum for Value {
    fn get(&self) -> (&dyn Array, bool) {
        (self.array(), self.is_scalar())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A test that is never null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Null,
    True,
    False,
}

/// Which end of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Both,
    Start,
    End,
}

/// A function that gives null for null arguments, [`Function::Concat`] excepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Abs,
    Sign,
    Round,
    RoundTo,
    Floor,
    Ceil,
    Trunc,
    Sqrt,
    Exp,
    Ln,
    Log2,
    Log10,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Atan2,
    Power,
    IsNan,
    IsFinite,
    IsInfinite,
    Lower,
    Upper,
    Trim(Side),
    Length,
    Concat,
    Join,
    Substr,
    Replace,
    StartsWith,
    EndsWith,
    Contains,
    DateTrunc(Part),
    DatePart(Part),
    Seconds,
    ToTimestamp,
}

/// The members of an `IN` list of literals, sorted; a null among them is kept apart.
#[derive(Debug, Clone)]
pub(super) enum Members {
    /// Whole numbers, times or durations.
    Integers(Vec<i64>),
    /// Without NaN, which equals nothing.
    Floats(Vec<f64>),
    Texts(Vec<String>),
}

#[derive(Debug, Clone)]
pub(super) enum Op {
    Column(usize),
    /// An array of one element.
    Literal(ArrayRef),
    /// `body` over the values of a dictionary column (its column 0), spread over the rows.
    OverDictionary {
        column: usize,
        body: Box<Node>,
    },
    /// To the node's own type; null where there is no such value.
    Convert(Box<Node>),
    Arithmetic(Arithmetic, Box<Node>, Box<Node>),
    Negate(Box<Node>),
    Compare(Comparison, Box<Node>, Box<Node>),
    /// `IS DISTINCT FROM`: null is a value equal to itself.
    Distinct(Box<Node>, Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Is(Test, Box<Node>),
    Between {
        value: Box<Node>,
        low: Box<Node>,
        high: Box<Node>,
    },
    In {
        value: Box<Node>,
        members: Members,
        has_null: bool,
    },
    /// `IN` over members that are not all literals.
    InAny {
        value: Box<Node>,
        candidates: Vec<Node>,
    },
    Like {
        value: Box<Node>,
        pattern: Box<Node>,
        ignore_case: bool,
    },
    Case {
        operand: Option<Box<Node>>,
        branches: Vec<(Node, Node)>,
        otherwise: Box<Node>,
    },
    Coalesce(Vec<Node>),
    NullIf(Box<Node>, Box<Node>),
    Extreme {
        greatest: bool,
        args: Vec<Node>,
    },
    Call(Function, Vec<Node>),
}

/// A typed sub-expression.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) op: Op,
    pub(super) data_type: DataType,
    pub(super) nullable: bool,
}

impl Node {
    pub(super) fn literal(value: ArrayRef) -> Node {
        assert!(value.len() == 1, "a literal is one value");
        Node { data_type: value.data_type().clone(), nullable: value.is_null(0), op: Op::Literal(value) }
    }

    /// A column of a schema; a dictionary is left as it is.
    pub(super) fn column(index: usize, schema: &Schema) -> Node {
        let field = schema.field(index);
        let nullable = field.is_nullable() || field.data_type() == &DataType::Null;
        Node { op: Op::Column(index), data_type: field.data_type().clone(), nullable }
    }

    pub(super) fn as_literal(&self) -> Option<&ArrayRef> {
        match &self.op {
            Op::Literal(value) => Some(value),
            _ => None,
        }
    }

    /// A node that gives null if any argument is null.
    pub(super) fn strict(op: Op, data_type: DataType, may_fail: bool) -> Node {
        let mut node = Node { op, data_type, nullable: may_fail };
        node.nullable |= node.children().iter().any(|child| child.nullable);
        node.absorb_dictionary().folded()
    }

    /// A node that may give a value for null arguments.
    pub(super) fn lenient(op: Op, data_type: DataType, nullable: bool) -> Node {
        Node { op, data_type, nullable }.folded()
    }

    fn folded(self) -> Node {
        let children = self.children();
        if children.is_empty() || children.iter().any(|child| child.as_literal().is_none()) {
            return self;
        }
        match evaluate::evaluate(&self, &Input { columns: &[], rows: 1 }) {
            Ok(value) => Node::literal(value.array().clone()),
            Err(_) => self, // too large a text: the batch will say so
        }
    }

    /// Moves a strict node into the body over the dictionary that its one variable argument is computed on.
    fn absorb_dictionary(mut self) -> Node {
        let nullable = self.nullable;
        let data_type = self.data_type.clone();
        let mut variable = self.children_mut().into_iter().filter(|child| child.as_literal().is_none());
        let (Some(argument), None) = (variable.next(), variable.next()) else {
            drop(variable);
            return self;
        };
        let Op::OverDictionary { column, body } = &mut argument.op else {
            drop(variable);
            return self;
        };
        let column = *column;
        let body = std::mem::replace(
            body.as_mut(),
            Node { op: Op::Column(0), data_type: DataType::Null, nullable: true },
        );
        *argument = body;
        drop(variable);
        Node { op: Op::OverDictionary { column, body: Box::new(self) }, data_type, nullable }
    }

    /// The type of the whole expression. One that maps a dictionary's texts to texts gives a dictionary again.
    pub(super) fn result_type(&self, schema: &Schema) -> DataType {
        match &self.op {
            Op::OverDictionary { column, .. } if self.data_type == DataType::Utf8 => {
                match schema.field(*column).data_type() {
                    DataType::Dictionary(key, _) => {
                        DataType::Dictionary(key.clone(), Box::new(DataType::Utf8))
                    }
                    _ => DataType::Utf8,
                }
            }
            _ => self.data_type.clone(),
        }
    }

    /// Adds the indices of the columns that are read.
    pub(super) fn collect_columns(&self, columns: &mut Vec<usize>) {
        match &self.op {
            Op::Column(index) => columns.push(*index),
            Op::OverDictionary { column, .. } => columns.push(*column),
            _ => self.children().into_iter().for_each(|child| child.collect_columns(columns)),
        }
    }

    /// The arguments. Those of a body over a dictionary are not: they belong to another input.
    pub(super) fn children(&self) -> Vec<&Node> {
        match &self.op {
            Op::Column(_) | Op::Literal(_) | Op::OverDictionary { .. } => Vec::new(),
            Op::Convert(a) | Op::Negate(a) | Op::Not(a) | Op::Is(_, a) | Op::In { value: a, .. } => vec![a],
            Op::Arithmetic(_, a, b) | Op::Compare(_, a, b) | Op::Distinct(a, b) | Op::NullIf(a, b) => {
                vec![a, b]
            }
            Op::Like { value, pattern, .. } => vec![value, pattern],
            Op::Between { value, low, high } => vec![value, low, high],
            Op::And(all) | Op::Or(all) | Op::Coalesce(all) | Op::Call(_, all) => all.iter().collect(),
            Op::Extreme { args, .. } => args.iter().collect(),
            Op::InAny { value, candidates } => std::iter::once(value.as_ref()).chain(candidates).collect(),
            Op::Case { operand, branches, otherwise } => {
                let branches = branches.iter().flat_map(|(when, then)| [when, then]);
                operand.as_deref().into_iter().chain(branches).chain([otherwise.as_ref()]).collect()
            }
        }
    }

    /// The arguments of a strict node, for [`Node::absorb_dictionary`].
    fn children_mut(&mut self) -> Vec<&mut Node> {
        match &mut self.op {
            Op::Convert(a) | Op::Negate(a) | Op::Not(a) | Op::In { value: a, .. } => vec![a],
            Op::Arithmetic(_, a, b) | Op::Compare(_, a, b) => vec![a, b],
            Op::Like { value, pattern, .. } => vec![value, pattern],
            Op::Between { value, low, high } => vec![value, low, high],
            Op::Call(_, all) => all.iter_mut().collect(),
            _ => Vec::new(),
        }
    }
}
