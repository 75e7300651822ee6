//! What is said about an expression that cannot be compiled: how to get from one kind of value to another, why a form
//! of SQL has no place here, which name may have been meant. Pure.

use std::ops::Range;

use sqlparser::ast;

use super::ExprError;
use super::types::Kind;

/// The name that is most like `name`, if one is.
pub(super) fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const LIKENESS_MIN: f64 = 0.6;
    let name = name.to_lowercase();
    known
        .map(|candidate| {
            (strsim::normalized_damerau_levenshtein(&name, &candidate.to_lowercase()), candidate)
        })
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// How to get from one kind to another, for messages about `text`.
pub(super) fn conversion(from: Kind, to: Kind, text: &str) -> String {
    match (from, to) {
        (_, Kind::Other) | (Kind::Other, _) => {
            "it can be tested with IS NULL and passed through, nothing more".to_owned()
        }
        (Kind::Time | Kind::Duration, Kind::Integer | Kind::Float) => {
            format!("write epoch({text}) for its seconds")
        }
        (Kind::Integer | Kind::Float, Kind::Time) => {
            format!("write to_timestamp({text}), which takes seconds")
        }
        (Kind::Integer | Kind::Float, Kind::Duration) => format!("write {text} * INTERVAL '1 second'"),
        (Kind::Integer | Kind::Float, Kind::Boolean) => format!("write {text} <> 0"),
        (Kind::Float, Kind::Integer) => format!("write CAST({text} AS BIGINT)"),
        (Kind::Text, Kind::Time) => format!("write CAST({text} AS TIMESTAMP)"),
        (Kind::Text, Kind::Integer) => format!("write CAST({text} AS BIGINT)"),
        (Kind::Text | Kind::Boolean, Kind::Float | Kind::Integer) => format!("write CAST({text} AS DOUBLE)"),
        (Kind::Text, Kind::Boolean) => format!("write a comparison, e.g. {text} = 'on'"),
        (Kind::Boolean | Kind::Integer | Kind::Float | Kind::Time | Kind::Duration, Kind::Text) => {
            format!("write CAST({text} AS TEXT)")
        }
        (Kind::Time, Kind::Duration) => "subtract a time from it, or write INTERVAL '5 seconds'".to_owned(),
        (Kind::Duration, Kind::Time) => "add it to a time".to_owned(),
        (Kind::Binary, _) => "decode the bytes first (an operator of type \"decode\")".to_owned(),
        _ => format!("give {} here", to.words()),
    }
}

/// SQL that is understood, but has no place in an expression.
pub(super) fn refusal(expr: &ast::Expr, place: Option<Range<usize>>) -> ExprError {
    let rows = "an expression sees one row of one stream";
    let (what, help) = match expr {
        ast::Expr::Subquery(_) | ast::Expr::Exists { .. } | ast::Expr::In { .. } => ("a subquery", rows),
        ast::Expr::AnyOp { .. } | ast::Expr::AllOp { .. } => ("ANY or ALL", "use IN (…)"),
        ast::Expr::Like { .. } | ast::Expr::ILike { .. } => ("LIKE ANY", "join several LIKE with OR"),
        ast::Expr::SimilarTo { .. } | ast::Expr::RLike { .. } => ("a regular expression", "use LIKE"),
        ast::Expr::AtTimeZone { .. } => ("AT TIME ZONE", "times are UTC; add an INTERVAL"),
        ast::Expr::Cast { .. } => ("CAST with FORMAT", "use CAST(… AS …)"),
        ast::Expr::Convert { .. } => ("CONVERT", "use CAST(… AS …)"),
        ast::Expr::Ceil { .. } | ast::Expr::Floor { .. } => {
            ("ceil or floor to a place", "use round(x, digits) or date_trunc")
        }
        ast::Expr::Position { .. } => ("POSITION", "use contains(text, part)"),
        ast::Expr::Overlay { .. } => ("OVERLAY", "use substr and ||"),
        ast::Expr::Tuple(_) | ast::Expr::Struct { .. } | ast::Expr::Array(_) | ast::Expr::Map(_) => {
            ("a list or structure", "an expression gives one value")
        }
        ast::Expr::CompoundFieldAccess { .. } | ast::Expr::JsonAccess { .. } => {
            ("access into a value", "name nested fields in the source, and use the column")
        }
        ast::Expr::Collate { .. } => ("COLLATE", "text compares by its bytes"),
        ast::Expr::Wildcard(_) | ast::Expr::QualifiedWildcard(..) => ("*", "name the columns"),
        _ => ("this form of SQL", "see the list of operators and functions"),
    };
    ExprError::new(format!("{what} is not supported in an expression"), place).help(help)
}
