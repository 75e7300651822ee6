//! Cutting the bytes of a file into records: lines (NDJSON), or CSV records, which may hold line breaks in quotes.
//! Pure: the caller reads the file and pushes what it has read.

use super::payload::PAYLOAD_BYTES_MAX;

/// What a record ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A line break.
    Line,
    /// A line break outside quotes, as RFC 4180 has it, with this byte between cells.
    CsvRecord {
        /// The delimiter: a quote opens only at the start of a cell.
        delimiter: u8,
    },
}

/// Cuts chunks of a file into records.
///
/// It holds one unfinished record and the last chunk pushed: push only after [`Records::next_record`] returned
/// `None`, and memory is bounded by record limit + chunk. A longer record is dropped up to its line break and
/// counted.
#[derive(Debug)]
pub struct Records {
    ending: Ending,
    bytes_max: usize,
    buffer: Vec<u8>,
    /// Where the next record starts in the buffer.
    start: usize,
    /// Up to where the buffer was searched.
    searched: usize,
    /// Within quotes at `searched`.
    quoted: bool,
    /// The quote before `searched` closed: one more right after it opens again.
    closed_at: Option<usize>,
    /// The current record is too long and is dropped up to its line break.
    dropping: bool,
    too_long: u64,
    offset: u64,
}

impl Records {
    /// Records of at most `bytes_max` bytes (and never more than a payload may have).
    pub fn new(ending: Ending, bytes_max: usize) -> Self {
        Self {
            ending,
            bytes_max: bytes_max.clamp(1, PAYLOAD_BYTES_MAX),
            buffer: Vec::new(),
            start: 0,
            searched: 0,
            quoted: false,
            closed_at: None,
            dropping: false,
            too_long: 0,
            offset: 0,
        }
    }

    /// How many bytes of the file are done with: every record before has been returned. A reader that continues
    /// here misses nothing and repeats nothing.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many records were dropped because they were too long.
    pub fn too_long(&self) -> u64 {
        self.too_long
    }

    /// Adds the next bytes of the file.
    pub fn push(&mut self, chunk: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.closed_at = self.closed_at.and_then(|at| at.checked_sub(self.start));
            self.start = 0;
        }
        self.buffer.extend_from_slice(chunk);
    }

    /// The next whole record without its line end; blank lines are skipped. `None`: push more.
    pub fn next_record(&mut self) -> Option<&[u8]> {
        loop {
            let start = self.start;
            let found = self.line_end();
            let end = found.unwrap_or(self.buffer.len());
            let line = self.buffer.get(start..end).unwrap_or_default();
            let length = trim_line_end(line).len();
            // An unfinished record may have one byte more: the `\r` that turns out to belong to the line end.
            let too_long = match found {
                Some(_) => length > self.bytes_max,
                None => line.len() > self.bytes_max + 1,
            };
            if self.dropping || too_long {
                self.drop_line()?;
            } else if found.is_none() {
                return None;
            } else {
                self.advance(end + 1);
                if length > 0 {
                    return self.buffer.get(start..start + length);
                }
            }
        }
    }

    /// Drops the record at `start`, which is too long, up to its first line break, even a quoted one: a quote
    /// that never closes must not take the rest of the file along. `None`: its line break is still to come.
    fn drop_line(&mut self) -> Option<()> {
        self.too_long += u64::from(!self.dropping);
        let line_end = memchr::memchr(b'\n', self.buffer.get(self.start..)?).map(|at| self.start + at);
        self.dropping = line_end.is_none();
        self.advance(line_end.map_or(self.buffer.len(), |end| end + 1));
        line_end.map(|_| ())
    }

    /// At the end of the file: the last record, if no line break ended it.
    pub fn last_record(&mut self) -> Option<&[u8]> {
        let (start, end) = (self.start, self.buffer.len());
        let dropped = std::mem::take(&mut self.dropping);
        self.advance(end);
        let line = trim_line_end(self.buffer.get(start..end)?);
        if dropped || line.is_empty() {
            return None;
        }
        if line.len() > self.bytes_max {
            self.too_long += 1;
            return None;
        }
        self.buffer.get(start..start + line.len())
    }

    fn advance(&mut self, to: usize) {
        self.offset += (to - self.start) as u64;
        self.start = to;
        self.searched = to;
        self.quoted = false;
        self.closed_at = None;
    }

    /// The line break that ends the record at `start`.
    fn line_end(&mut self) -> Option<usize> {
        loop {
            let rest = self.buffer.get(self.searched..)?;
            let delimiter = match self.ending {
                Ending::CsvRecord { delimiter } => delimiter,
                Ending::Line => {
                    let found = memchr::memchr(b'\n', rest);
                    self.searched = found.map_or(self.buffer.len(), |at| self.searched + at);
                    return found.map(|_| self.searched);
                }
            };
            let found = match self.quoted {
                true => memchr::memchr(b'"', rest),
                false => memchr::memchr2(b'"', b'\n', rest),
            };
            let Some(at) = found.map(|at| self.searched + at) else {
                self.searched = self.buffer.len();
                return None;
            };
            self.searched = at + 1;
            if self.quoted {
                self.quoted = false;
                self.closed_at = Some(at);
            } else if self.buffer.get(at) == Some(&b'\n') {
                self.searched = at;
                return Some(at);
            } else {
                let before = at.checked_sub(1).filter(|_| at > self.start);
                let opens = match before {
                    None => true,
                    Some(before) => {
                        self.closed_at == Some(before) || self.buffer.get(before) == Some(&delimiter)
                    }
                };
                self.quoted = opens;
            }
        }
    }
}

/// The lines of a buffer without their line ends, blank ones left out.
pub fn lines(buffer: &[u8]) -> impl Iterator<Item = &[u8]> {
    buffer.split(|&byte| byte == b'\n').map(trim_line_end).filter(|line| !line.is_empty())
}

fn trim_line_end(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CSV: Ending = Ending::CsvRecord { delimiter: b',' };

    fn cut(ending: Ending, bytes_max: usize, text: &[u8], chunk: usize) -> (Vec<String>, u64) {
        let mut records = Records::new(ending, bytes_max);
        let mut found = Vec::new();
        let keep = |record: &[u8]| String::from_utf8_lossy(record).into_owned();
        for chunk in text.chunks(chunk) {
            records.push(chunk);
            while let Some(record) = records.next_record() {
                found.push(keep(record));
            }
            assert!(records.buffer.len() - records.start <= bytes_max + 1);
        }
        found.extend(records.last_record().map(keep));
        assert_eq!(records.offset(), text.len() as u64);
        assert!(records.last_record().is_none());
        (found, records.too_long())
    }

    #[test]
    fn records_are_the_same_at_every_chunk_size() {
        let cases: [(Ending, usize, &str, &[&str], u64); 13] = [
            (Ending::Line, 100, "a\nb\n", &["a", "b"], 0),
            (Ending::Line, 100, "a\r\n\r\n\nb", &["a", "b"], 0),
            (Ending::Line, 100, "", &[], 0),
            (Ending::Line, 100, "\"a\nb\"\n", &["\"a", "b\""], 0),
            (Ending::Line, 4, "abcd\nabcde\nab\r\nabcdefghijkl\nz", &["abcd", "ab", "z"], 2),
            (Ending::Line, 4, "ab\nabcdefghijkl", &["ab"], 1),
            (CSV, 100, "a,b\n\"x\ny\",2\n", &["a,b", "\"x\ny\",2"], 0),
            (CSV, 100, "1,\"a\"\"\n\"\"b\"\n2,c\n", &["1,\"a\"\"\n\"\"b\"", "2,c"], 0),
            (CSV, 100, "1,5\" pipe\n2,c\n", &["1,5\" pipe", "2,c"], 0),
            (CSV, 100, "\"\"\n\"\",\"\"\nx\n", &["\"\"", "\"\",\"\"", "x"], 0),
            (CSV, 100, "1,\"open\n2", &["1,\"open\n2"], 0),
            (CSV, 6, "1,\"open\n2", &["2"], 1),
            (CSV, 12, "1,\"a\n2,b\n3,c\n4,d\n", &["2,b", "3,c", "4,d"], 1),
        ];
        for (ending, bytes_max, text, expected, too_long) in cases {
            for chunk in 1..=text.len().max(1) {
                let found = cut(ending, bytes_max, text.as_bytes(), chunk);
                assert_eq!(
                    found,
                    (expected.iter().map(|s| s.to_string()).collect(), too_long),
                    "{text:?} by {chunk}"
                );
            }
        }
    }

    #[test]
    fn a_quote_that_never_closes_does_not_swallow_the_file() {
        let text = format!("1,\"open\n{}", "2,b\n".repeat(1_000));
        let (found, too_long) = cut(CSV, 64, text.as_bytes(), 16);
        assert_eq!(too_long, 1);
        assert!(found.len() >= 980, "{}", found.len());
    }

    #[test]
    fn lines_of_a_buffer() {
        assert_eq!(lines(b"a\r\n\nb\n").collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(lines(b"").count(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn chunks_change_nothing(
            text in proptest::collection::vec(proptest::sample::select(&b"ab\n\r\",,"[..]), 0..60),
            chunk in 1usize..20,
        ) {
            for ending in [Ending::Line, CSV] {
                for bytes_max in [5, 1_000] {
                    prop_assert_eq!(cut(ending, bytes_max, &text, chunk), cut(ending, bytes_max, &text, 1_000));
                }
            }
        }
    }
}
