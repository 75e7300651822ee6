//! JSON payloads straight into columns: one pass over the bytes, no tree. Pure.
//!
//! A message is an object (one row), an array of objects (a row each), or, with [`JsonFormat::records`], an object
//! with an array of records somewhere in it. A field of a record that is absent there is taken from the message
//! around it, so that `{"device":"a","readings":[{"t":1},{"t":2}]}` gives two rows of device `a`.
//!
//! The grammar is that of RFC 8259, strictly; `NaN` and `Infinity` are malformed. Keys of a message mostly come in
//! the order of the message before: the expected key is compared in place, eight bytes at a time, and only a
//! surprise is looked up. Of a repeated key the last value wins, and repeated objects are merged.
//! Absent and null fields are null. A value of another type makes the whole message bad, as does anything else
//! that is wrong with it; see [`RowFormat::lenient`] for what is taken nevertheless.

use super::fields::{FieldKind, RowFormat, Target};
use super::json_plan::{Action, Entry, Plan};
use super::json_scan::{Inside, Scanner, unescape};
use super::number::{self, text_to_bits};
use super::payload::{BadPayload, BadReason, DEPTH_MAX, PAYLOAD_BYTES_MAX, PAYLOAD_ROWS_MAX};
use super::rows::{Mark, Row, Rows};
use super::timestamp;
use crate::error::Result;

/// How messages are laid out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JsonFormat {
    /// The path to the array of records within a message, e.g. `["data", "readings"]`. Empty: the message itself
    /// is the record, or an array of them.
    pub records: Vec<String>,
}

/// Decodes JSON messages. It remembers nothing but the order of keys, which changes speed and no result.
#[derive(Debug)]
pub struct JsonDecoder {
    plan: Plan,
    /// Which entry came after which, see [`Plan::guesses`].
    follow: Vec<u16>,
    row: Row,
    outer: Row,
    lenient: bool,
}

impl JsonDecoder {
    /// Fails on a format that [`RowFormat::check`] refuses, and on paths that run through other fields' values.
    pub fn new(format: &RowFormat, json: &JsonFormat) -> Result<Self> {
        format.check()?;
        let plan = Plan::new(format, &json.records)?;
        let follow = plan.guesses();
        Ok(Self { plan, follow, row: Row::new(format), outer: Row::new(format), lenient: format.lenient })
    }

    /// See [`PayloadDecoder::decode`](super::payload::PayloadDecoder::decode).
    pub fn decode(&mut self, payload: &[u8], arrival_us: i64, rows: &mut Rows) -> Result<usize, BadPayload> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(BadPayload { reason: BadReason::TooLarge, at: PAYLOAD_BYTES_MAX });
        }
        let mark = rows.begin();
        let mut walk = Walk {
            plan: &self.plan,
            follow: &mut self.follow,
            row: &mut self.row,
            outer: &mut self.outer,
            rows,
            scan: Scanner::new(payload),
            mark,
            arrival_us,
            lenient: self.lenient,
            records_at: None,
            time_awaited: false,
        };
        match walk.payload() {
            Ok(()) => Ok(rows.len() - mark.rows),
            Err(reason) => {
                let at = walk.scan.at;
                rows.rollback(mark);
                Err(BadPayload { reason, at })
            }
        }
    }
}

/// One walk over one payload.
struct Walk<'a> {
    plan: &'a Plan,
    follow: &'a mut [u16],
    row: &'a mut Row,
    /// What the message around the records says.
    outer: &'a mut Row,
    rows: &'a mut Rows,
    scan: Scanner<'a>,
    mark: Mark,
    arrival_us: i64,
    lenient: bool,
    /// Where the array of records of this message starts, once it was met.
    records_at: Option<usize>,
    /// Records were met without a time, which may stand behind them.
    time_awaited: bool,
}

impl<'a> Walk<'a> {
    fn payload(&mut self) -> Result<(), BadReason> {
        match self.scan.token() {
            b'{' => self.message(1)?,
            b'[' => {
                self.scan.at += 1;
                self.elements(|walk| walk.message(2))?;
            }
            0 if self.scan.at == self.scan.bytes.len() => return Err(BadReason::Empty),
            _ => return Err(self.other_type(0)),
        }
        self.scan.skip_space();
        if self.scan.at == self.scan.bytes.len() { Ok(()) } else { Err(BadReason::Malformed) }
    }

    /// The elements of an array, which must be objects, after its bracket.
    fn elements(&mut self, each: impl Fn(&mut Self) -> Result<(), BadReason>) -> Result<(), BadReason> {
        if self.scan.token() == b']' {
            self.scan.at += 1;
            return Ok(());
        }
        loop {
            if self.scan.token() != b'{' {
                return Err(self.other_type(2));
            }
            each(self)?;
            match self.scan.token() {
                b',' => self.scan.at += 1,
                b']' => {
                    self.scan.at += 1;
                    return Ok(());
                }
                _ => return Err(BadReason::Malformed),
            }
        }
    }

    /// A message, whose brace is at the cursor.
    fn message(&mut self, depth: usize) -> Result<(), BadReason> {
        let start = self.scan.at;
        let first_row = self.rows.len();
        self.row.clear(self.arrival_us);
        self.records_at = None;
        self.time_awaited = false;
        self.object(self.plan.message, depth)?;
        if self.plan.record.is_none() {
            return self.push(start);
        }
        let Some(records_at) = self.records_at else {
            self.scan.at = start;
            return Err(BadReason::Missing);
        };
        if self.time_awaited || !self.row.same_as(self.outer) {
            // Something that belongs to every record stood behind them: now that all is known, once more.
            let end = std::mem::replace(&mut self.scan.at, records_at);
            self.rows.truncate(first_row);
            self.records(depth, true)?;
            self.scan.at = end;
        }
        Ok(())
    }

    /// The array of records of the message in `self.row`, which comes back unchanged. `all_known`: the
    /// whole message was seen before.
    fn records(&mut self, depth: usize, all_known: bool) -> Result<(), BadReason> {
        let Some(record) = self.plan.record else { return Err(BadReason::Missing) };
        match self.scan.token() {
            b'[' => self.scan.at += 1,
            b'n' => {
                self.scan.literal(b"null")?;
                return Err(BadReason::Missing);
            }
            _ => return Err(self.other_type(depth)),
        }
        if depth + 2 > DEPTH_MAX {
            return Err(BadReason::TooDeep);
        }
        self.outer.copy_from(self.row);
        self.elements(|walk| {
            let start = walk.scan.at;
            walk.row.copy_from(walk.outer);
            walk.object(record, depth + 2)?;
            if !all_known && !walk.row.has_time() {
                walk.time_awaited = true;
                return Ok(());
            }
            walk.push(start)
        })?;
        self.row.copy_from(self.outer);
        Ok(())
    }

    /// The row is complete; a mistake in it is reported at `start`.
    #[inline]
    fn push(&mut self, start: usize) -> Result<(), BadReason> {
        let result = match self.rows.len() - self.mark.rows {
            PAYLOAD_ROWS_MAX.. => Err(BadReason::TooLarge),
            _ => self.rows.push(self.row, self.scan.bytes),
        };
        if result.is_err() {
            self.scan.at = start;
        }
        result
    }

    /// An object of this node, whose brace is at the cursor; with it the nesting is `depth`.
    fn object(&mut self, node: u16, depth: usize) -> Result<(), BadReason> {
        self.scan.at += 1;
        if depth > DEPTH_MAX {
            return Err(BadReason::TooDeep);
        }
        if self.scan.token() == b'}' {
            self.scan.at += 1;
            return Ok(());
        }
        let mut previous = self.plan.before_first(node);
        // A copy of the cursor stays out of memory along the hot path: an expected key with a number.
        let mut scan = self.scan;
        loop {
            let guess = self.follow.get(previous).copied().unwrap_or(u16::MAX);
            let guessed = self.plan.entries.get(usize::from(guess)).and_then(|entry| {
                scan.at += entry.matches(scan.bytes, scan.at)?;
                Some(entry)
            });
            if let Some(entry) = guessed {
                previous = usize::from(guess);
                if !self.number_member(entry, &mut scan)? {
                    self.scan.at = scan.at;
                    self.member(entry, depth)?;
                    scan.at = self.scan.at;
                }
            } else {
                self.scan.at = scan.at;
                match self.unexpected_key(node, &mut previous)? {
                    Some(entry) => self.member(entry, depth)?,
                    None => self.scan.skip_value(depth)?,
                }
                scan.at = self.scan.at;
            }
            let separator = scan.token();
            if separator != b',' {
                self.scan.at = scan.at;
                if separator == b'}' {
                    self.scan.at += 1;
                    return Ok(());
                }
                return Err(BadReason::Malformed);
            }
            scan.at += 1;
            scan.token();
        }
    }

    /// The value at the cursor `scan`, if it is a number for one numeric field. Whether it was; a mistake is put
    /// into the walk's own cursor.
    #[inline(always)]
    fn number_member(&mut self, entry: &Entry, scan: &mut Scanner<'_>) -> Result<bool, BadReason> {
        let Action::One(target) = entry.action else { return Ok(false) };
        if matches!(target.kind, FieldKind::Text | FieldKind::Bool) {
            return Ok(false);
        }
        scan.token();
        let start = scan.at;
        let Some((number, end)) = number::scan(scan.bytes, start) else { return Ok(false) };
        let token = scan.bytes.get(start..end).unwrap_or_default();
        match number.to_bits(target.kind, token) {
            Ok(bits) => self.row.set(target.slot, bits),
            Err(reason) => {
                self.scan.at = start;
                return Err(reason);
            }
        }
        scan.at = end;
        Ok(true)
    }

    /// A key with its colon: its entry, if it is one of this node. `previous` is where the wrong guess stands.
    #[inline(never)]
    fn unexpected_key(&mut self, node: u16, previous: &mut usize) -> Result<Option<&'a Entry>, BadReason> {
        let inside = self.scan.key()?;
        let key = self.scan.bytes.get(inside.start..inside.end).unwrap_or_default();
        let found = if inside.escaped {
            let room = self.row.text.len();
            // A key with half a surrogate pair is no key that anyone asked for.
            let found = match unescape(key, &mut self.row.text) {
                Ok(()) => self.plan.find(node, self.row.text.get(room..).unwrap_or_default()),
                Err(_) => None,
            };
            self.row.text.truncate(room);
            found
        } else {
            self.plan.find(node, key)
        };
        let Some(index) = found else { return Ok(None) };
        if let Some(guess) = self.follow.get_mut(*previous) {
            *guess = index;
        }
        *previous = usize::from(index);
        Ok(self.plan.entries.get(usize::from(index)))
    }

    /// The value of a wanted key.
    #[inline(never)]
    fn member(&mut self, entry: &Entry, depth: usize) -> Result<(), BadReason> {
        let byte = self.scan.token();
        match entry.action {
            Action::One(target) => self.value(target, depth),
            Action::Many { start, end } => {
                let at = self.scan.at;
                for &target in self.plan.targets.get(usize::from(start)..usize::from(end)).unwrap_or_default()
                {
                    self.scan.at = at;
                    self.value(target, depth)?;
                }
                Ok(())
            }
            Action::Enter(node) => match byte {
                b'{' => self.object(node, depth + 1),
                b'n' => self.scan.literal(b"null"),
                _ => Err(self.other_type(depth)),
            },
            Action::Records if self.records_at.is_some() => Err(BadReason::Malformed),
            Action::Records => {
                self.records_at = Some(self.scan.at);
                self.records(depth, false)
            }
        }
    }

    /// The value of a target, at the cursor. A mistake is reported at its start.
    fn value(&mut self, target: Target, depth: usize) -> Result<(), BadReason> {
        let start = self.scan.at;
        match self.scan.peek() {
            b'-' | b'0'..=b'9' => {
                let (number, end) = number::scan_apart(self.scan.bytes, start).ok_or(BadReason::Malformed)?;
                let token = self.scan.bytes.get(start..end).unwrap_or_default();
                match target.kind {
                    FieldKind::Text if self.lenient => self.row.set_text(target.slot, start, end),
                    FieldKind::Bool if !self.lenient => return Err(BadReason::WrongType),
                    kind => self.row.set(target.slot, number.to_bits_apart(kind, token)?),
                }
                self.scan.at = end;
                Ok(())
            }
            b'"' => {
                let inside = self.scan.string()?;
                let result = self.text(target, inside);
                if result.is_err() {
                    self.scan.at = start;
                }
                result
            }
            b'n' => {
                self.scan.literal(b"null")?;
                self.row.set_null(target.slot);
                Ok(())
            }
            b't' if target.kind == FieldKind::Bool => {
                self.scan.literal(b"true")?;
                self.row.set(target.slot, 1);
                Ok(())
            }
            b'f' if target.kind == FieldKind::Bool => {
                self.scan.literal(b"false")?;
                self.row.set(target.slot, 0);
                Ok(())
            }
            _ => Err(self.other_type(depth)),
        }
    }

    fn text(&mut self, target: Target, inside: Inside) -> Result<(), BadReason> {
        let raw = self.scan.bytes.get(inside.start..inside.end).unwrap_or_default();
        let scratch = self.row.text.len();
        if inside.escaped {
            unescape(raw, &mut self.row.text)?;
        }
        let text = if inside.escaped { self.row.text.get(scratch..).unwrap_or_default() } else { raw };
        if target.kind == FieldKind::Text {
            if std::str::from_utf8(text).is_err() {
                return Err(BadReason::NotUtf8);
            }
            match inside.escaped {
                true => self.row.set_scratch(target.slot, scratch),
                false => self.row.set_text(target.slot, inside.start, inside.end),
            }
            return Ok(());
        }
        let bits = match target.kind {
            // A time as text is of the right type; any other value in quotes needs leniency.
            FieldKind::Time(unit) if !self.lenient => {
                Some(timestamp::from_text(text, unit).ok_or(BadReason::BadTime)? as u64)
            }
            _ if !self.lenient => return Err(BadReason::WrongType),
            kind => text_to_bits(kind, text)?,
        };
        match bits {
            Some(bits) => self.row.set(target.slot, bits),
            None => self.row.set_null(target.slot),
        }
        self.row.text.truncate(scratch);
        Ok(())
    }

    /// A value that is not of the wanted type: wrong if it is JSON at all. The cursor stays at its start.
    #[cold]
    fn other_type(&mut self, depth: usize) -> BadReason {
        let start = self.scan.at;
        match self.scan.skip_value(depth) {
            Ok(()) => {
                self.scan.at = start;
                BadReason::WrongType
            }
            Err(reason) => reason,
        }
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
