//! A cursor over JSON text (RFC 8259): white space, strings, and values that are skipped. Pure.
//!
//! What is skipped is held to the grammar all the same, except that bytes of skipped strings need not be UTF-8 and
//! their `\u` escapes need not pair up: nobody looks at them.

use super::number::{self, load8};
use super::payload::{BadReason, DEPTH_MAX};

/// A position in JSON text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scanner<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

/// The inside of a string: `start..end` of the text, the cursor stands after the closing quote.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inside {
    pub(super) start: usize,
    pub(super) end: usize,
    /// A backslash is in it.
    pub(super) escaped: bool,
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The index of the first of eight bytes that ends plain string text (a quote, a backslash or a control
/// character), 8 if there is none. Bytes above the first hit may be flagged wrongly, the first is exact.
#[inline(always)]
fn special8(word: u64) -> usize {
    let quotes = word ^ (ONES * b'"' as u64);
    let slashes = word ^ (ONES * b'\\' as u64);
    let found = (quotes.wrapping_sub(ONES) & !quotes)
        | (slashes.wrapping_sub(ONES) & !slashes)
        | (word.wrapping_sub(ONES * 0x20) & !word);
    ((found & HIGHS).trailing_zeros() / 8) as usize
}

impl<'a> Scanner<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The byte at the cursor; 0, which JSON text never holds outside a mistake, at the end.
    #[inline(always)]
    pub(super) fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    #[inline(always)]
    pub(super) fn skip_space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    /// The next byte that is no white space, not consumed.
    #[inline(always)]
    pub(super) fn token(&mut self) -> u8 {
        if self.peek() <= b' ' {
            self.skip_space();
        }
        self.peek()
    }

    /// Consumes `byte`, which must be the next that is no white space.
    #[inline(always)]
    pub(super) fn expect(&mut self, byte: u8) -> Result<(), BadReason> {
        if self.token() != byte {
            return Err(BadReason::Malformed);
        }
        self.at += 1;
        Ok(())
    }

    /// Consumes `word` (`null`, `true`, `false`).
    #[inline(always)]
    pub(super) fn literal(&mut self, word: &[u8]) -> Result<(), BadReason> {
        match self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            true => {
                self.at += word.len();
                Ok(())
            }
            false => Err(BadReason::Malformed),
        }
    }

    /// Consumes a string, whose opening quote is at the cursor.
    #[inline(always)]
    pub(super) fn string(&mut self) -> Result<Inside, BadReason> {
        if self.peek() != b'"' {
            return Err(BadReason::Malformed);
        }
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            let skip = special8(load8(self.bytes, self.at));
            self.at += skip;
            if skip == 8 {
                continue;
            }
            match self.peek() {
                b'"' => {
                    let end = self.at;
                    self.at += 1;
                    return Ok(Inside { start, end, escaped });
                }
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(BadReason::Malformed),
            }
        }
    }

    /// Consumes an escape, whose backslash is at the cursor.
    #[inline(always)]
    fn escape(&mut self) -> Result<(), BadReason> {
        let length = escape_length(self.bytes.get(self.at..).unwrap_or_default());
        self.at += length.ok_or(BadReason::Malformed)?;
        Ok(())
    }

    /// Consumes a key and its colon.
    #[inline(always)]
    pub(super) fn key(&mut self) -> Result<Inside, BadReason> {
        let inside = self.string()?;
        self.expect(b':')?;
        Ok(inside)
    }

    /// Consumes any value, `depth` arrays and objects deep already.
    pub(super) fn skip_value(&mut self, depth: usize) -> Result<(), BadReason> {
        // A copy can live in registers.
        let mut scan = *self;
        let result = scan.skip(depth);
        self.at = scan.at;
        result
    }

    #[inline(always)]
    fn skip(&mut self, depth: usize) -> Result<(), BadReason> {
        const { assert!(DEPTH_MAX <= 64, "one bit per level") };
        // One bit per open level, the innermost lowest: 1 is an object.
        let mut objects: u64 = 0;
        let mut open = 0;
        loop {
            match self.token() {
                b'"' => {
                    self.string()?;
                }
                b'-' | b'0'..=b'9' => self.skip_number()?,
                bracket @ (b'{' | b'[') => {
                    let object = bracket == b'{';
                    self.at += 1;
                    open += 1;
                    if depth + open > DEPTH_MAX {
                        return Err(BadReason::TooDeep);
                    }
                    objects = objects << 1 | u64::from(object);
                    let close = if object { b'}' } else { b']' };
                    if self.token() != close {
                        if object {
                            self.key()?;
                        }
                        continue;
                    }
                    self.at += 1;
                    open -= 1;
                    objects >>= 1;
                }
                b'n' => self.literal(b"null")?,
                b't' => self.literal(b"true")?,
                b'f' => self.literal(b"false")?,
                _ => return Err(BadReason::Malformed),
            }
            loop {
                if open == 0 {
                    return Ok(());
                }
                let object = objects & 1 == 1;
                match self.token() {
                    b',' => {
                        self.at += 1;
                        if object {
                            self.skip_space();
                            self.key()?;
                        }
                        break;
                    }
                    b'}' if object => {}
                    b']' if !object => {}
                    _ => return Err(BadReason::Malformed),
                }
                self.at += 1;
                open -= 1;
                objects >>= 1;
            }
        }
    }

    #[inline(always)]
    fn skip_number(&mut self) -> Result<(), BadReason> {
        self.at = number::skip(self.bytes, self.at).ok_or(BadReason::Malformed)?;
        Ok(())
    }
}

/// The length of the escape that `text` starts with.
#[inline(never)]
fn escape_length(text: &[u8]) -> Option<usize> {
    match text {
        [_, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => Some(2),
        [_, b'u', rest @ ..] => {
            let digits = rest.first_chunk::<4>()?;
            digits.iter().all(u8::is_ascii_hexdigit).then_some(6)
        }
        _ => None,
    }
}

/// Appends the text of a string's inside with its escapes resolved. The escapes were checked by
/// [`Scanner::string`]; a surrogate without its other half is malformed. UTF-8 is not looked at.
pub(super) fn unescape(inside: &[u8], out: &mut Vec<u8>) -> Result<(), BadReason> {
    let mut rest = inside;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let (plain, escape) = rest.split_at(at);
        out.extend_from_slice(plain);
        let (byte, after) = match escape {
            [_, b'u', after @ ..] => {
                let (character, after) = unescape_unicode(after).ok_or(BadReason::Malformed)?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after;
                continue;
            }
            [_, b'b', after @ ..] => (8, after),
            [_, b'f', after @ ..] => (12, after),
            [_, b'n', after @ ..] => (b'\n', after),
            [_, b'r', after @ ..] => (b'\r', after),
            [_, b't', after @ ..] => (b'\t', after),
            [_, itself @ (b'"' | b'\\' | b'/'), after @ ..] => (*itself, after),
            _ => return Err(BadReason::Malformed),
        };
        out.push(byte);
        rest = after;
    }
    out.extend_from_slice(rest);
    Ok(())
}

/// The character of a `\u` escape, or of a surrogate pair of them, and what follows.
fn unescape_unicode(digits: &[u8]) -> Option<(char, &[u8])> {
    let (first, after) = hex4(digits)?;
    if !(0xd800..0xdc00).contains(&first) {
        return Some((char::from_u32(first)?, after));
    }
    let [b'\\', b'u', digits @ ..] = after else { return None };
    let (second, after) = hex4(digits)?;
    if !(0xdc00..0xe000).contains(&second) {
        return None;
    }
    let character = char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00))?;
    Some((character, after))
}

fn hex4(text: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, after) = text.split_first_chunk::<4>()?;
    let mut value = 0;
    for &digit in digits {
        value = value << 4 | char::from(digit).to_digit(16)?;
    }
    Some((value, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(text: &[u8]) -> Result<(), BadReason> {
        let mut scanner = Scanner::new(text);
        scanner.skip_value(0)?;
        scanner.skip_space();
        if scanner.at == text.len() { Ok(()) } else { Err(BadReason::Malformed) }
    }

    #[test]
    fn skipping_holds_to_the_grammar() {
        let good = [
            "{}",
            "[]",
            " [ ] ",
            r#"{"a":1}"#,
            r#"{ "a" : [ 1 , {"b":null} , "x" ] , "c":true,"d":false}"#,
            "null",
            "-0.5e3",
            r#""\"\\\/\b\f\n\r\t\u00e9""#,
            r#""\ud800""#,
            "[[],{},[{}]]",
            r#"{"":""}"#,
        ];
        for text in good {
            assert_eq!(skip(text.as_bytes()), Ok(()), "{text}");
        }
        let bad = [
            "",
            " ",
            "{",
            "[",
            "}",
            "]",
            "{]",
            "[}",
            "[1,]",
            "[,1]",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{a:1}"#,
            r#"{"a":1 "b":2}"#,
            "[1 2]",
            "nul",
            "nulll",
            "True",
            "NaN",
            "Infinity",
            "-",
            "01",
            "1.",
            "+1",
            r#"""#,
            r#""\x""#,
            r#""\u12g4""#,
            r#""\u12"#,
            "\"\n\"",
            "\"\0\"",
            "1 1",
            "[1]]",
            "'a'",
            "[1}",
            r#"{"a":1]"#,
        ];
        for text in bad {
            assert_eq!(skip(text.as_bytes()), Err(BadReason::Malformed), "{text}");
        }
        assert_eq!(skip(b"[\"\xff\"]"), Ok(()), "skipped text is nobody's");
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(skip(nested(DEPTH_MAX).as_bytes()), Ok(()));
        assert_eq!(skip(nested(DEPTH_MAX + 1).as_bytes()), Err(BadReason::TooDeep));
        let objects = format!("{}1{}", r#"{"a":"#.repeat(DEPTH_MAX), "}".repeat(DEPTH_MAX));
        assert_eq!(skip(objects.as_bytes()), Ok(()));
        assert_eq!(skip(&b"[".repeat(1 << 20)), Err(BadReason::TooDeep));
    }

    #[test]
    fn strings_end_at_their_quote_at_every_length() {
        for length in 0..40 {
            for (byte, text) in [(b'"', "quote"), (b'\\', "backslash"), (0x1f, "control")] {
                let mut bytes = vec![b'"'];
                // Bytes whose neighbours in value are special must not be taken for them.
                bytes.extend((0..length).map(|i| [b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xff][i % 8]));
                bytes.push(byte);
                let scanned = Scanner::new(&bytes).string();
                match byte {
                    b'"' => assert_eq!(scanned.map(|inside| inside.end), Ok(length + 1), "{text}"),
                    _ => assert_eq!(scanned.map(|_| ()), Err(BadReason::Malformed), "{text}"),
                }
            }
        }
    }

    #[test]
    fn escapes_are_resolved() {
        let cases = [
            (r"plain", Some("plain")),
            (r#"a\"b\\c\/d"#, Some("a\"b\\c/d")),
            (r"\b\f\n\r\t", Some("\u{8}\u{c}\n\r\t")),
            (r"\u00e9\u20AC", Some("é€")),
            (r"\ud83d\ude00!", Some("😀!")),
            (r"\u0000", Some("\0")),
            (r"\ud83d", None),
            (r"\ud83dx", None),
            (r"\ud83d\n", None),
            (r"\ud83d\u0041", None),
            (r"\ude00", None),
        ];
        for (inside, expected) in cases {
            let mut out = Vec::new();
            let result = unescape(inside.as_bytes(), &mut out);
            match expected {
                Some(expected) => assert_eq!(String::from_utf8(out).unwrap(), expected, "{inside}"),
                None => assert_eq!(result, Err(BadReason::Malformed), "{inside}"),
            }
        }
    }
}
