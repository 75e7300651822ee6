//! Compiles the tests of a value against several others or a pattern: `BETWEEN`, `IN`, `LIKE`. Pure.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::datatypes::DataType;
use sqlparser::ast;

use super::compile::{Compiled, Compiler, literal_text};
use super::node::{Members, Node, Op};
use super::operators::negated;
use super::types::Kind;
use super::{ExprError, number};

impl Compiler<'_, '_> {
    pub(super) fn between(
        &mut self,
        value: &ast::Expr,
        low: &ast::Expr,
        high: &ast::Expr,
        negate: bool,
        depth: usize,
    ) -> Compiled {
        let (mut nodes, _) = self.unified(&[value, low, high], "BETWEEN", depth)?;
        let nullable = nodes.iter().any(|node| node.nullable);
        let (Some(high), Some(low), Some(value)) = (nodes.pop(), nodes.pop(), nodes.pop()) else {
            unreachable!("three went in")
        };
        // A null bound does not always make the result null, so only literal bounds let it be computed by dictionary.
        let strict = low.as_literal().is_some() && high.as_literal().is_some();
        let op = Op::Between { value: Box::new(value), low: Box::new(low), high: Box::new(high) };
        let node = match strict {
            true => Node::strict(op, DataType::Boolean, false),
            false => Node::lenient(op, DataType::Boolean, nullable),
        };
        Ok(negated(node, negate))
    }

    pub(super) fn in_list(
        &mut self,
        value: &ast::Expr,
        list: &[ast::Expr],
        negate: bool,
        depth: usize,
    ) -> Compiled {
        let exprs: Vec<&ast::Expr> = std::iter::once(value).chain(list).collect();
        let (mut candidates, kind) = self.unified(&exprs, "IN", depth)?;
        let value = candidates.remove(0);
        let node = match members(&candidates, kind) {
            Some((members, has_null)) => Node::strict(
                Op::In { value: Box::new(value), members, has_null },
                DataType::Boolean,
                has_null,
            ),
            None => {
                let nullable = value.nullable || candidates.iter().any(|node| node.nullable);
                Node::lenient(Op::InAny { value: Box::new(value), candidates }, DataType::Boolean, nullable)
            }
        };
        Ok(negated(node, negate))
    }

    pub(super) fn like(
        &mut self,
        value: &ast::Expr,
        pattern: &ast::Expr,
        escape: Option<&ast::Expr>,
        ignore_case: bool,
        negate: bool,
        depth: usize,
    ) -> Compiled {
        let value_node = self.argument(value, Kind::Text, "LIKE", depth)?;
        let mut pattern_node = self.argument(pattern, Kind::Text, "LIKE", depth)?;
        if let Some(escape) = escape {
            let escape_node = self.compile(escape, depth)?;
            let (Some(character), Some(text)) = (literal_text(&escape_node), literal_text(&pattern_node))
            else {
                return Err(ExprError::new(
                    "ESCAPE needs a pattern and a character that are literals",
                    self.place(escape),
                ));
            };
            let mut characters = character.chars();
            let (Some(character), None) = (characters.next(), characters.next()) else {
                return Err(
                    ExprError::new("ESCAPE takes one character", self.place(escape)).help("write ESCAPE '!'")
                );
            };
            pattern_node =
                Node::literal(Arc::new(StringArray::from(vec![with_backslashes(&text, character)])));
        }
        // A pattern that cannot be compiled is found now rather than at the first batch.
        if let Some(text) = literal_text(&pattern_node) {
            let pattern_array = StringArray::new_scalar(text);
            let test = if ignore_case {
                arrow::compute::ilike(&StringArray::new_null(0), &pattern_array)
            } else {
                arrow::compute::like(&StringArray::new_null(0), &pattern_array)
            };
            test.map_err(|error| {
                ExprError::new(format!("the pattern cannot be used: {error}"), self.place(pattern))
            })?;
        }
        let op = Op::Like { value: Box::new(value_node), pattern: Box::new(pattern_node), ignore_case };
        Ok(negated(Node::strict(op, DataType::Boolean, false), negate))
    }
}

/// The members of an `IN` list of literals, and whether null is among them; `None` if one is not a literal, or of
/// a kind that is compared one by one.
fn members(candidates: &[Node], kind: Kind) -> Option<(Members, bool)> {
    let literals = candidates.iter().map(Node::as_literal).collect::<Option<Vec<_>>>()?;
    let valid: Vec<&ArrayRef> = literals.iter().copied().filter(|literal| literal.is_valid(0)).collect();
    let has_null = valid.len() < literals.len();
    let members = match kind {
        Kind::Integer | Kind::Time | Kind::Duration => {
            let mut members = valid
                .iter()
                .map(|literal| number::integers(literal).ok().map(|array| array.value(0)))
                .collect::<Option<Vec<_>>>()?;
            members.sort_unstable();
            Members::Integers(members)
        }
        Kind::Float => {
            let members =
                valid.iter().map(|literal| number::floats(literal).ok().map(|array| array.value(0)));
            let mut members = members.collect::<Option<Vec<_>>>()?;
            members.retain(|member| !member.is_nan());
            members.sort_unstable_by(f64::total_cmp);
            Members::Floats(members)
        }
        Kind::Text => {
            let members = valid
                .iter()
                .map(|literal| literal.as_string_opt::<i32>().map(|array| array.value(0).to_owned()));
            let mut members = members.collect::<Option<Vec<_>>>()?;
            members.sort_unstable();
            Members::Texts(members)
        }
        _ => return None,
    };
    Some((members, has_null))
}

/// A `LIKE` pattern with the escape character of the kernels, `\`, in place of `escape`.
fn with_backslashes(pattern: &str, escape: char) -> String {
    let mut result = String::with_capacity(pattern.len() + 4);
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            _ if character == escape => {
                result.push('\\');
                // An escape at the very end stands for itself.
                result.push(characters.next().unwrap_or(escape));
            }
            '\\' => result.push_str("\\\\"),
            _ => result.push(character),
        }
    }
    result
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn escapes_become_backslashes() {
        assert_eq!(with_backslashes("50!%", '!'), "50\\%");
        assert_eq!(with_backslashes("a!!b\\", '!'), "a\\!b\\\\");
        assert_eq!(with_backslashes("a!", '!'), "a\\!");
    }
}
