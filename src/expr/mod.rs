//! SQL expressions over Arrow batches. Pure: a schema and a text in, a compiled expression out.
//!
//! `sqlparser` reads the text; everything after that is here: types are checked against the schema when the
//! expression is compiled ([`Expr::parse`]), and a compiled expression is evaluated column by column with the
//! kernels of `arrow` ([`Expr::evaluate`]).
//!
//! # The language
//!
//! **Values** are true/false, whole numbers (64 bits, signed), numbers (64-bit floats), text, times (µs since
//! 1970, UTC), durations (µs) and bytes. Columns of narrower types widen when they are used; a column that is
//! only named (`device`) keeps its own type, a dictionary included. A whole number meets a float as a float; a
//! text *literal* meets a time as a time and a duration as a duration. Nothing else converts by itself: write
//! `CAST(x AS DOUBLE)`.
//!
//! **Evaluation is total**: no row can make it fail. What cannot be computed is null: whole-number overflow,
//! whole-number division or remainder by zero, a `CAST` of something that has no such value (so `CAST` and
//! `TRY_CAST` are the same), a time out of range. Floats follow IEEE 754: `1.0 / 0` is infinite, `sqrt(-1)` is
//! NaN. `/` between whole numbers cuts towards zero, as in PostgreSQL; write `a / 2.0` for a fraction. The one
//! way to an error is a text result of more than [`TEXT_RESULT_BYTES_MAX`] bytes in one batch.
//!
//! **Comparisons** follow IEEE 754 too: NaN is not equal to, less than or greater than anything (use
//! `is_nan`), and `-0.0 = 0.0`. Text compares by its bytes. `AND`, `OR`, `NOT`, `IN` and `BETWEEN` have SQL's
//! three-valued logic.
//!
//! **Names** of columns are case-sensitive; `motor.temp` is the column called `motor.temp`, and a name in
//! double quotes is taken as it is. Names of functions are not case-sensitive; [`functions`] lists them.
//!
//! **Durations** are `INTERVAL '5 seconds'`, `INTERVAL '1 hour 30 minutes'`, `INTERVAL 250 MILLISECOND`. Months
//! and years have no fixed length and are refused.
//!
//! There are no subqueries, aggregates, window functions and no clock: an expression sees one row, and time is
//! the column `time`.
//!
//! # Limits
//!
//! A text of [`TEXT_BYTES_MAX`] bytes, [`TOKENS_MAX`] words and signs, [`DEPTH_MAX`] levels of nesting.

mod calls;
mod compile;
mod evaluate;
mod functions;
mod interval;
mod node;
mod number;
mod operators;
mod parse;
mod predicates;
mod text;
mod time;
mod types;
mod words;

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Schema};

use crate::error::Error;
use node::{Input, Node};

pub use functions::functions;
pub use parse::{TEXT_BYTES_MAX, TOKENS_MAX};
pub use text::TEXT_RESULT_BYTES_MAX;

/// The deepest nesting an expression may have. A chain of `AND`, `OR` or `||` counts as one level.
pub const DEPTH_MAX: usize = 128;

/// An expression compiled against a schema. Cheap to clone; it never changes.
#[derive(Debug, Clone)]
pub struct Expr {
    root: Arc<Node>,
    data_type: DataType,
    /// The columns read, in ascending order, with the type each was compiled for.
    columns: Arc<[(usize, DataType)]>,
}

impl Expr {
    /// Compiles `text` against `schema`.
    ///
    /// # Errors
    /// Everything that is wrong with an expression is found here: syntax, unknown columns and functions, types
    /// that do not fit, what SQL has and this engine has not. The error carries the place in `text`.
    pub fn parse(text: &str, schema: &Schema) -> Result<Expr, ExprError> {
        let (tree, source) = parse::parse(text)?;
        let root = compile::compile(&tree, &source, schema)?;
        let data_type = root.result_type(schema);
        let mut indices = Vec::new();
        root.collect_columns(&mut indices);
        indices.sort_unstable();
        indices.dedup();
        let columns = indices.into_iter().map(|index| (index, schema.field(index).data_type().clone()));
        Ok(Expr { columns: columns.collect(), root: Arc::new(root), data_type })
    }

    /// The Arrow type of the result.
    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// Whether the result may hold nulls.
    pub fn nullable(&self) -> bool {
        self.root.nullable
    }

    /// The result for each row of `batch`: an array of [`Expr::data_type`] with `batch.num_rows()` rows.
    ///
    /// # Errors
    /// The batch does not have the columns the expression was compiled for, or a text result grows beyond
    /// [`TEXT_RESULT_BYTES_MAX`].
    pub fn evaluate(&self, batch: &RecordBatch) -> crate::Result<ArrayRef> {
        for (index, expected) in self.columns.iter() {
            let found = batch.columns().get(*index).map(|column| column.data_type());
            if found != Some(expected) {
                let found = found.map_or_else(|| "nothing".to_owned(), ToString::to_string);
                return Err(Error::data(format!(
                    "an expression was compiled for {expected} in column {index}, but the batch has {found} there"
                )));
            }
        }
        let input = Input { columns: batch.columns(), rows: batch.num_rows() };
        evaluate::evaluate_root(&self.root, &self.data_type, &input)
    }

    /// The indices of the input columns it reads, ascending, each once.
    pub fn columns(&self) -> Vec<usize> {
        self.columns.iter().map(|(index, _)| *index).collect()
    }
}

/// Why a text is not an expression over a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExprError {
    /// What is wrong.
    pub message: String,
    /// The bytes of the text it is about, where that is known.
    pub span: Option<Range<usize>>,
    /// What to do about it, where that is known.
    pub help: Option<String>,
}

impl ExprError {
    fn new(message: impl Into<String>, span: Option<Range<usize>>) -> Self {
        Self { message: message.into(), span, help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for ExprError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ExprError {}

impl From<ExprError> for Error {
    fn from(error: ExprError) -> Self {
        Self::config(error.to_string())
    }
}
