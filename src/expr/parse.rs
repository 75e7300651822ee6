//! From text to syntax tree: the tokenizer and parser of `sqlparser`, with limits that keep every later
//! recursion shallow, and places translated from line and column to bytes. Pure.

use std::ops::Range;

use sqlparser::ast::{self, Spanned};
use sqlparser::dialect::Dialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};

use super::{DEPTH_MAX, ExprError};

/// The longest text of an expression, in bytes.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;

/// The most words, literals and signs in an expression. It also bounds the depth of the parser's own tree, which
/// is dropped by recursion.
pub const TOKENS_MAX: usize = 4_000;

/// The parser takes up to three steps of recursion for one level of parentheses.
const PARSER_STEPS_PER_LEVEL: usize = 3;

/// Plain SQL: the parser's defaults, without any vendor's extensions that would turn names of columns (`line`,
/// `user`, `path`) into something else.
#[derive(Debug)]
struct PlainSql;

impl Dialect for PlainSql {
    fn is_delimited_identifier_start(&self, character: char) -> bool {
        character == '"' || character == '`'
    }

    fn is_identifier_start(&self, character: char) -> bool {
        character.is_alphabetic() || character == '_'
    }

    fn is_identifier_part(&self, character: char) -> bool {
        character.is_alphanumeric() || character == '_'
    }

    // Understood so that it can be refused by name.
    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }
}

/// The text of an expression with what is needed to give places in it.
pub(super) struct Source<'a> {
    text: &'a str,
    /// Then columns are bytes, and places need no counting.
    is_ascii: bool,
    /// The byte at which each line starts.
    line_starts: Vec<usize>,
    /// The place of every parenthesis that is one (not in text or comment), and whether it opens.
    parentheses: Vec<(usize, bool)>,
}

impl<'a> Source<'a> {
    fn new(text: &'a str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, is_ascii: text.is_ascii(), line_starts, parentheses: Vec::new() }
    }

    /// The byte of a location; lines and columns count from 1, columns in characters.
    fn offset(&self, location: Location) -> Option<usize> {
        let line = usize::try_from(location.line).ok()?.checked_sub(1)?;
        let column = usize::try_from(location.column).ok()?.checked_sub(1)?;
        let start = *self.line_starts.get(line)?;
        let rest = self.text.get(start..)?;
        if self.is_ascii {
            return Some(start + column.min(rest.len()));
        }
        Some(start + rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at))
    }

    fn range(&self, span: Span) -> Option<Range<usize>> {
        let (start, end) = (self.offset(span.start)?, self.offset(span.end)?);
        (start <= end).then_some(start..end)
    }

    /// The place of a sub-expression. The parser's spans end before closing parentheses; they are put back.
    pub(super) fn place(&self, expr: &ast::Expr) -> Option<Range<usize>> {
        let mut range = self.range(expr.span())?;
        if let ast::Expr::Function(function) = expr
            && let Some(name) = self.range(function.name.span())
            && let Some(end) = self.end_of_parentheses(name.end)
        {
            range.end = range.end.max(end);
        }
        let first = self.parentheses.partition_point(|(at, _)| *at < range.start);
        let mut open = 0usize;
        for &(at, opens) in self.parentheses.iter().skip(first) {
            if at < range.end {
                open = if opens { open + 1 } else { open.saturating_sub(1) };
            } else if open > 0 && !opens && self.is_blank(range.end, at) {
                open -= 1;
                range.end = at + 1;
            } else {
                break;
            }
        }
        Some(range)
    }

    fn is_blank(&self, start: usize, end: usize) -> bool {
        self.text.get(start..end).is_some_and(|gap| gap.trim().is_empty())
    }

    /// The end of the pair of parentheses that opens at `start`, blanks aside.
    fn end_of_parentheses(&self, start: usize) -> Option<usize> {
        let first = self.parentheses.partition_point(|(at, _)| *at < start);
        let mut depth = 0usize;
        for (index, &(at, opens)) in self.parentheses.iter().skip(first).enumerate() {
            if index == 0 && !(opens && self.is_blank(start, at)) {
                return None;
            }
            depth = if opens { depth + 1 } else { depth.saturating_sub(1) };
            if depth == 0 {
                return Some(at + 1);
            }
        }
        None
    }

    /// The whole text.
    pub(super) fn whole(&self) -> Option<Range<usize>> {
        Some(0..self.text.len())
    }

    /// The text at a place.
    pub(super) fn at(&self, place: &Option<Range<usize>>) -> &'a str {
        place.clone().and_then(|range| self.text.get(range)).unwrap_or_default()
    }
}

/// Reads a text as one SQL expression.
pub(super) fn parse(text: &str) -> Result<(ast::Expr, Source<'_>), ExprError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(ExprError::new(
            format!("the expression has {} bytes, more than {TEXT_BYTES_MAX}", text.len()),
            None,
        )
        .help("split it over several operators"));
    }
    let mut source = Source::new(text);
    let tokens = Tokenizer::new(&PlainSql, text).tokenize_with_location().map_err(|error| {
        let start = source.offset(error.location);
        ExprError::new(error.message, start.map(|start| start..text.len()))
    })?;
    check_limits(&tokens, &mut source)?;
    refuse_statement(&tokens, &source)?;
    let mut parser = Parser::new(&PlainSql)
        .with_recursion_limit(DEPTH_MAX * PARSER_STEPS_PER_LEVEL)
        .with_tokens_with_locations(tokens);
    let tree = parser.parse_expr().map_err(|error| syntax_error(error, &source))?;
    let next = parser.peek_token();
    if next.token != Token::EOF {
        let place = source.range(next.span);
        return Err(ExprError::new(format!("unexpected `{}` after the expression", next.token), place)
            .help("an operator is missing before it, or it does not belong here"));
    }
    Ok((tree, source))
}

/// Counts words and levels, and notes the parentheses. The levels are those that the parser recurses over: it has a
/// limit of its own, but where it guesses between two readings it takes reaching that limit for a wrong guess.
fn check_limits(tokens: &[TokenWithSpan], source: &mut Source<'_>) -> Result<(), ExprError> {
    let mut count = 0usize;
    let mut depth = 0usize;
    let mut prefixes = 0usize;
    for token in tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))) {
        count += 1;
        if count > TOKENS_MAX {
            return Err(ExprError::new(
                format!("the expression has more than {TOKENS_MAX} words and signs"),
                source.range(token.span),
            )
            .help("split it over several operators"));
        }
        let keyword = match &token.token {
            Token::Word(word) if word.quote_style.is_none() => word.keyword,
            _ => Keyword::NoKeyword,
        };
        let is_prefix = keyword == Keyword::NOT || matches!(token.token, Token::Minus | Token::Plus);
        prefixes = if is_prefix { prefixes + 1 } else { 0 };
        match token.token {
            Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
            Token::RParen | Token::RBracket | Token::RBrace => depth = depth.saturating_sub(1),
            _ if keyword == Keyword::CASE => depth += 1,
            _ if keyword == Keyword::END => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth.max(prefixes) > DEPTH_MAX {
            return Err(too_deep(source.range(token.span)));
        }
        if matches!(token.token, Token::LParen | Token::RParen)
            && let Some(at) = source.offset(token.span.start)
        {
            source.parentheses.push((at, token.token == Token::LParen));
        }
    }
    if count == 0 {
        return Err(ExprError::new("the expression is empty", source.whole()));
    }
    Ok(())
}

/// The refusal of an expression that is nested too deeply.
pub(super) fn too_deep(place: Option<Range<usize>>) -> ExprError {
    ExprError::new(format!("the expression is nested more than {DEPTH_MAX} levels deep"), place)
        .help("split it over several operators")
}

fn refuse_statement(tokens: &[TokenWithSpan], source: &Source<'_>) -> Result<(), ExprError> {
    let first = tokens.iter().find(|token| !matches!(token.token, Token::Whitespace(_)));
    match first {
        Some(TokenWithSpan { token: Token::Word(word), span })
            if word.quote_style.is_none() && matches!(word.keyword, Keyword::SELECT | Keyword::WITH) =>
        {
            Err(ExprError::new("this is a query, not an expression", source.range(*span))
                .help("write only what is computed from one row, e.g. `temp > 80`"))
        }
        _ => Ok(()),
    }
}

/// Takes the place out of the parser's message, where it is written as `at Line: 1, Column: 5`.
fn syntax_error(error: ParserError, source: &Source<'_>) -> ExprError {
    let message = match error {
        ParserError::RecursionLimitExceeded => return too_deep(source.whole()),
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message,
    };
    let (message, location) = match message.rsplit_once(" at Line: ") {
        Some((message, place)) => (message, parse_location(place)),
        None => (message.as_str(), None),
    };
    let whole = source.text.len();
    let place = match location.and_then(|location| source.offset(location)) {
        Some(start) => Some(start..end_of_word(source.text, start)),
        None => Some(whole..whole),
    };
    let words = message.strip_prefix("Expected: ").and_then(|rest| rest.rsplit_once(", found: "));
    match words {
        Some((expected, "EOF")) => {
            ExprError::new(format!("the expression ends where {expected} must follow"), place)
        }
        Some((expected, found)) => ExprError::new(format!("`{found}` where {expected} must stand"), place),
        None => ExprError::new(message, place),
    }
}

fn parse_location(text: &str) -> Option<Location> {
    let (line, column) = text.split_once(", Column: ")?;
    Some(Location { line: line.trim().parse().ok()?, column: column.trim().parse().ok()? })
}

/// The end of the word, or of the one sign, that starts at `start`.
fn end_of_word(text: &str, start: usize) -> usize {
    let rest = text.get(start..).unwrap_or_default();
    let word = rest.find(|character: char| !(character.is_alphanumeric() || character == '_'));
    let sign = rest.chars().next().map_or(0, char::len_utf8);
    start + word.unwrap_or(rest.len()).max(sign)
}
