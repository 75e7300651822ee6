//! CSV payloads straight into columns: one record or several lines of them per message. Pure.
//!
//! Quotes follow RFC 4180: a cell that starts with a quote ends at the next single one, `""` stands for a quote,
//! and line breaks may be inside. Everywhere else a quote is malformed. Lines end with LF or CRLF; blank lines are
//! skipped. An empty cell is null, an empty quoted cell of a text field the empty text. White space around
//! numbers is ignored, `NaN` is null.

use super::fields::{FieldKind, RowFormat, Target, suggestion};
use super::number::{self, text_to_bits};
use super::payload::{BadPayload, BadReason, PAYLOAD_BYTES_MAX, PAYLOAD_ROWS_MAX};
use super::rows::{Mark, Row, Rows};
use crate::core::schema::TIME;
use crate::error::{Error, Result};

/// Most cells in one record.
pub const CELLS_MAX: usize = 65_536;

/// How CSV is laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvFormat {
    /// The byte between cells: `,`, `;`, tab.
    pub delimiter: u8,
    /// Every message starts with a line that names its columns. For a whole file use [`CsvDecoder::set_header`].
    pub header: bool,
    /// The names of the columns in order, where no header gives them. Without names and header, fields are
    /// found by number: path `["0"]` is the first column.
    pub columns: Vec<String>,
}

impl Default for CsvFormat {
    fn default() -> Self {
        Self { delimiter: b',', header: false, columns: Vec::new() }
    }
}

/// What a decoder wants of a column.
#[derive(Debug, Clone)]
struct Wanted {
    name: String,
    /// The one key of its path: a column's name or number.
    key: String,
    target: Target,
}

/// Decodes CSV messages or single records.
#[derive(Debug)]
pub struct CsvDecoder {
    delimiter: u8,
    header: bool,
    wanted: Vec<Wanted>,
    /// Per column the targets that take it, as `start..end` of `targets`; columns past the end are not wanted.
    columns: Vec<(u16, u16)>,
    targets: Vec<Target>,
    /// How many cells a record has; `None` where only numbers are known: then no fewer than `columns`.
    width: Option<usize>,
    /// The header that `columns` stands for.
    header_seen: Vec<u8>,
    row: Row,
}

impl CsvDecoder {
    /// Fails on a format that [`RowFormat::check`] refuses, on a field whose column does not exist, on paths of
    /// several keys, and on a delimiter that CSV cannot have.
    pub fn new(format: &RowFormat, csv: &CsvFormat) -> Result<Self> {
        format.check()?;
        if !matches!(csv.delimiter, b',' | b';' | b'|' | b'\t' | b' ' | b':' | b'#') {
            let delimiter = char::from(csv.delimiter);
            return Err(Error::config(format!(
                "{delimiter:?} cannot be a delimiter; use one of , ; | : # tab or space"
            )));
        }
        let mut wanted = Vec::with_capacity(format.fields.len() + 1);
        for (path, target) in format.targets() {
            let name =
                match usize::from(target.slot).checked_sub(1).and_then(|index| format.fields.get(index)) {
                    Some(field) => field.name.clone(),
                    None => TIME.to_owned(),
                };
            let [key] = path else {
                let path = path.join(".");
                return Err(Error::config(format!(
                    "field \"{name}\" has the path \"{path}\", but a CSV column has no inner parts; give its name"
                )));
            };
            wanted.push(Wanted { name, key: key.clone(), target });
        }
        let mut decoder = Self {
            delimiter: csv.delimiter,
            header: csv.header,
            wanted,
            columns: Vec::new(),
            targets: Vec::new(),
            width: None,
            header_seen: Vec::new(),
            row: Row::new(format),
        };
        match (csv.header, csv.columns.is_empty()) {
            (true, false) => {
                Err(Error::config("with header = true the header names the columns; leave columns out"))
            }
            (true, true) => Ok(decoder),
            (false, true) => decoder.find_numbers().map(|()| decoder),
            (false, false) => decoder.find_names(&csv.columns).map(|()| decoder),
        }
    }

    /// Takes the names of the columns from the first record of a file, see [`column_names`]. Fails, naming the
    /// column, if one is not there.
    pub fn set_header(&mut self, record: &[u8]) -> Result<()> {
        self.find_names(&column_names(record, self.delimiter)?)
    }

    /// See [`PayloadDecoder::decode`](super::payload::PayloadDecoder::decode).
    pub fn decode(&mut self, payload: &[u8], arrival_us: i64, rows: &mut Rows) -> Result<usize, BadPayload> {
        let mark = rows.begin();
        let payload = payload.strip_suffix(b"\r").unwrap_or(payload);
        let mut at = 0;
        match self.records(payload, &mut at, arrival_us, rows, mark) {
            Ok(()) => Ok(rows.len() - mark.rows),
            Err(reason) => {
                rows.rollback(mark);
                Err(BadPayload { reason, at })
            }
        }
    }

    fn records(
        &mut self,
        payload: &[u8],
        at: &mut usize,
        arrival_us: i64,
        rows: &mut Rows,
        mark: Mark,
    ) -> Result<(), BadReason> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(BadReason::TooLarge);
        }
        *at = skip_blank_lines(payload, 0);
        if payload.trim_ascii().is_empty() {
            return Err(BadReason::Empty);
        }
        if self.header {
            *at = self.message_header(payload, *at)?;
        }
        loop {
            *at = skip_blank_lines(payload, *at);
            if *at >= payload.len() {
                return Ok(());
            }
            if rows.len() - mark.rows >= PAYLOAD_ROWS_MAX {
                return Err(BadReason::TooLarge);
            }
            let start = *at;
            self.row.clear(arrival_us);
            self.record(payload, at)?;
            rows.push(&self.row, payload).inspect_err(|_| *at = start)?;
        }
    }

    /// Fills the row from one record and moves `at` behind its line end; on a mistake `at` is the cell's start.
    fn record(&mut self, bytes: &[u8], at: &mut usize) -> Result<(), BadReason> {
        let Self { delimiter, columns, targets, row, width, .. } = self;
        let delimiter = *delimiter;
        let mut index = 0;
        loop {
            let (start, end) = columns.get(index).copied().unwrap_or((0, 0));
            let wanted = targets.get(usize::from(start)..usize::from(end)).unwrap_or_default();
            let number = match wanted {
                // A plain number for one field is converted where it stands.
                [target] if !matches!(target.kind, FieldKind::Text | FieldKind::Bool) => {
                    number_cell(bytes, *at, delimiter).map(|(number, after)| (target, number, after))
                }
                _ => None,
            };
            let after = if let Some((target, number, after)) = number {
                let token = bytes.get(*at..after).unwrap_or_default();
                row.set(target.slot, number.to_bits(target.kind, token)?);
                after
            } else {
                let cell = next_cell(bytes, *at, delimiter)?;
                wanted.iter().try_for_each(|target| fill(row, *target, &cell, bytes))?;
                cell.after
            };
            index += 1;
            match bytes.get(after) {
                Some(&byte) if byte == delimiter => *at = after + 1,
                end => {
                    let complete = width.map_or(index >= columns.len(), |width| index == width);
                    if !complete || index > CELLS_MAX {
                        return Err(BadReason::Malformed);
                    }
                    // `\r` is followed by `\n`, as the cell's end has made sure.
                    *at = after + if end == Some(&b'\r') { 2 } else { 1 };
                    return Ok(());
                }
            }
        }
    }

    /// The header of a message: finds the columns unless it is the header of the message before.
    fn message_header(&mut self, payload: &[u8], start: usize) -> Result<usize, BadReason> {
        let mut end = start;
        loop {
            let after = next_cell(payload, end, self.delimiter)?.after;
            if payload.get(after) != Some(&self.delimiter) {
                end = after;
                break;
            }
            end = after + 1;
        }
        let line = payload.get(start..end).unwrap_or_default();
        if self.header_seen.is_empty() || line != self.header_seen {
            let names = header_names(line, self.delimiter)?;
            self.header_seen.clear();
            self.find_names(&names).map_err(|_| BadReason::Missing)?;
            self.header_seen.extend_from_slice(line);
        }
        Ok(end)
    }

    fn find_names(&mut self, names: &[String]) -> Result<()> {
        if names.len() > CELLS_MAX {
            return Err(Error::config(format!("more than {CELLS_MAX} columns")));
        }
        let places = self.wanted.iter().map(|wanted| {
            let mut found =
                names.iter().enumerate().filter(|(_, name)| **name == wanted.key).map(|(index, _)| index);
            match (found.next(), found.next()) {
                (Some(index), None) => Ok((index, wanted.target)),
                (Some(_), Some(_)) => {
                    Err(Error::config(format!("column \"{}\" occurs twice; rename one of them", wanted.key)))
                }
                (None, _) => {
                    let hint = suggestion(&wanted.key, names.iter().map(String::as_str), "there are");
                    Err(Error::config(format!("column \"{}\" does not exist{hint}", wanted.key)))
                }
            }
        });
        let places = places.collect::<Result<Vec<_>>>()?;
        self.place(places);
        self.width = Some(names.len());
        Ok(())
    }

    fn find_numbers(&mut self) -> Result<()> {
        let places = self.wanted.iter().map(|wanted| match wanted.key.parse::<usize>() {
            Ok(index) if index < CELLS_MAX => Ok((index, wanted.target)),
            _ => Err(Error::config(format!(
                "field \"{}\" is to be in the column \"{}\", but nothing names the columns; set header = true, list \
                 columns, or give a number from 0 to {}",
                wanted.name,
                wanted.key,
                CELLS_MAX - 1
            ))),
        });
        let places = places.collect::<Result<Vec<_>>>()?;
        self.place(places);
        self.width = None;
        Ok(())
    }

    fn place(&mut self, mut places: Vec<(usize, Target)>) {
        places.sort_by_key(|(index, _)| *index);
        self.columns.clear();
        self.targets.clear();
        for (index, target) in places {
            let count = self.targets.len() as u16;
            if self.columns.len() <= index {
                self.columns.resize(index, (0, 0));
                self.columns.push((count, count));
            }
            self.targets.push(target);
            if let Some((_, end)) = self.columns.last_mut() {
                *end = count + 1;
            }
        }
    }
}

/// The column names in the first record of a file (a byte order mark before it is ignored), for
/// [`CsvFormat::columns`].
pub fn column_names(record: &[u8], delimiter: u8) -> Result<Vec<String>> {
    let record = record.strip_prefix(b"\xef\xbb\xbf").unwrap_or(record);
    header_names(record, delimiter).map_err(|reason| {
        Error::data(format!("the CSV header is {}; it must be one line of column names", reason.label()))
    })
}

/// The cells of the one record in `line`.
pub fn header_names(line: &[u8], delimiter: u8) -> Result<Vec<String>, BadReason> {
    let (mut names, mut at) = (Vec::new(), 0);
    loop {
        let cell = next_cell(line, at, delimiter)?;
        let mut text = Vec::new();
        cell.write(line, &mut text);
        let name = std::str::from_utf8(text.trim_ascii()).map_err(|_| BadReason::NotUtf8)?;
        names.push(name.to_owned());
        if names.len() > CELLS_MAX {
            return Err(BadReason::TooLarge);
        }
        match line.get(cell.after) {
            Some(&byte) if byte == delimiter => at = cell.after + 1,
            _ if skip_blank_lines(line, cell.after) == line.len() => return Ok(names),
            _ => return Err(BadReason::Malformed),
        }
    }
}

/// Calls `each` with the cells and the bytes of every record; blank lines are passed over.
pub(super) fn records(
    bytes: &[u8],
    delimiter: u8,
    mut each: impl FnMut(&[Vec<u8>], &[u8]) -> Result<(), BadReason>,
) -> Result<(), BadReason> {
    let mut at = skip_blank_lines(bytes, 0);
    let mut cells = Vec::new();
    while at < bytes.len() {
        let start = at;
        cells.clear();
        loop {
            let cell = next_cell(bytes, at, delimiter)?;
            let mut text = Vec::new();
            cell.write(bytes, &mut text);
            cells.push(text);
            if cells.len() > CELLS_MAX {
                return Err(BadReason::TooLarge);
            }
            at = cell.after + 1;
            if bytes.get(cell.after) != Some(&delimiter) {
                each(&cells, bytes.get(start..cell.after).unwrap_or_default())?;
                break;
            }
        }
        at = skip_blank_lines(bytes, at);
    }
    Ok(())
}

/// One cell: the inside of its quotes, or all of it.
struct Cell {
    start: usize,
    end: usize,
    quoted: bool,
    /// A doubled quote is in it.
    doubled: bool,
    /// Where the delimiter, the line end or the end of the bytes is.
    after: usize,
}

impl Cell {
    /// Appends the text of the cell.
    fn write(&self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes.get(self.start..self.end).unwrap_or_default();
        while self.doubled
            && let Some(at) = memchr::memchr(b'"', rest)
        {
            // Up to and with the first quote of the pair.
            let (part, after) = rest.split_at(at + 1);
            out.extend_from_slice(part);
            rest = after.get(1..).unwrap_or_default();
        }
        out.extend_from_slice(rest);
    }
}

/// The cell that starts at `at`.
fn next_cell(bytes: &[u8], at: usize, delimiter: u8) -> Result<Cell, BadReason> {
    let rest = bytes.get(at..).unwrap_or_default();
    if rest.first() != Some(&b'"') {
        let end = at + memchr::memchr3(delimiter, b'\n', b'"', rest).unwrap_or(rest.len());
        // The last `\r` before a line end belongs to it.
        let end = match bytes.get(end) {
            Some(b'"') => return Err(BadReason::Malformed),
            Some(b'\n') if end > at && bytes.get(end - 1) == Some(&b'\r') => end - 1,
            _ => end,
        };
        return Ok(Cell { start: at, end, quoted: false, doubled: false, after: end });
    }
    let start = at + 1;
    let (mut end, mut doubled) = (start, false);
    loop {
        let rest = bytes.get(end..).unwrap_or_default();
        end += memchr::memchr(b'"', rest).ok_or(BadReason::Malformed)?;
        if bytes.get(end + 1) != Some(&b'"') {
            break;
        }
        doubled = true;
        end += 2;
    }
    let after = end + 1;
    match (bytes.get(after), bytes.get(after + 1)) {
        (None | Some(b'\n'), _) | (Some(b'\r'), Some(b'\n')) => {}
        (Some(&byte), _) if byte == delimiter => {}
        _ => return Err(BadReason::Malformed),
    }
    Ok(Cell { start, end, quoted: true, doubled, after })
}

/// A cell that is exactly a number of the JSON grammar, and where it ends.
#[inline]
fn number_cell(bytes: &[u8], at: usize, delimiter: u8) -> Option<(number::Number, usize)> {
    let (number, after) = number::scan(bytes, at)?;
    match bytes.get(after) {
        None | Some(b'\n') => Some((number, after)),
        Some(&byte) if byte == delimiter => Some((number, after)),
        Some(b'\r') if bytes.get(after + 1) == Some(&b'\n') => Some((number, after)),
        _ => None,
    }
}

fn fill(row: &mut Row, target: Target, cell: &Cell, bytes: &[u8]) -> Result<(), BadReason> {
    let text = bytes.get(cell.start..cell.end).unwrap_or_default();
    if target.kind != FieldKind::Text {
        if !text.trim_ascii().is_empty()
            && let Some(bits) = text_to_bits(target.kind, text)?
        {
            row.set(target.slot, bits);
        }
        return Ok(());
    }
    if std::str::from_utf8(text).is_err() {
        return Err(BadReason::NotUtf8);
    }
    if cell.doubled {
        let start = row.text.len();
        cell.write(bytes, &mut row.text);
        row.set_scratch(target.slot, start);
    } else if cell.quoted || !text.is_empty() {
        row.set_text(target.slot, cell.start, cell.end);
    }
    Ok(())
}

fn skip_blank_lines(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b'\n' | b'\r')) {
        at += 1;
    }
    at
}

#[cfg(test)]
#[path = "csv_tests.rs"]
mod tests;
