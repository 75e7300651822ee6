//! The bytes of a spooled delivery. Pure.
//!
//! ```text
//! 1 │ origin text │ offset varint │ nth varint │ first row varint │ rows varint │ rows before varint
//!   │ queued zigzag varint, µs │ CRC-32 │ Arrow IPC stream
//! text = length varint │ UTF-8
//! ```

use std::sync::Arc;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use super::super::record::{decode_ipc, encode_ipc};
use super::super::wire::{Wire, put_bytes, put_varint, unzigzag, zigzag};
use crate::core::DeliveryId;
use crate::{Error, Result};

const FORM: u8 = 1;

/// What is known of an entry without its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryHead {
    /// The delivery that it is a part of.
    pub id: DeliveryId,
    /// The delivery's row that is its first: 0 unless the delivery was too large for one entry.
    pub first_row: u64,
    /// How many rows it has.
    pub rows: u64,
    /// Rows of its lane before it, since the spool was made.
    pub rows_before: u64,
    /// When it was spooled, wall clock in µs since 1970.
    pub queued_us: i64,
}

impl EntryHead {
    /// Its place in the order of deliveries.
    pub(super) fn reached(&self) -> Reached {
        Reached {
            origin: self.id.origin.to_string(),
            offset: self.id.offset,
            nth: self.id.nth,
            rows: self.first_row + self.rows,
        }
    }

    /// The name under which the receiver gets it: the delivery's own; for a later part of a large delivery a name below
    /// that. The same whenever it is sent.
    #[must_use]
    pub fn name(&self) -> DeliveryId {
        match self.first_row {
            0 => self.id.clone(),
            row => DeliveryId { origin: Arc::from(self.id.to_string()), offset: row, nth: 0 },
        }
    }
}

/// A delivery in a spool, or a part of a large one.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its number in its lane.
    pub sequence: u64,
    /// What it is.
    pub head: EntryHead,
    /// Its rows.
    pub rows: RecordBatch,
}

/// How far the deliveries of one origin were spooled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reached {
    pub origin: String,
    pub offset: u64,
    pub nth: u32,
    /// Rows of that delivery.
    pub rows: u64,
}

impl Reached {
    /// How many rows of a delivery are known; `u64::MAX` for all of one that came before.
    pub fn rows_of(&self, id: &DeliveryId) -> u64 {
        match (id.offset, id.nth).cmp(&(self.offset, self.nth)) {
            _ if *id.origin != *self.origin => 0,
            std::cmp::Ordering::Less => u64::MAX,
            std::cmp::Ordering::Equal => self.rows,
            std::cmp::Ordering::Greater => 0,
        }
    }
}

/// Appends the bytes of an entry.
pub(super) fn encode(head: &EntryHead, rows: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
    out.push(FORM);
    put_bytes(out, head.id.origin.as_bytes());
    put_varint(out, head.id.offset);
    put_varint(out, u64::from(head.id.nth));
    put_varint(out, head.first_row);
    put_varint(out, head.rows);
    put_varint(out, head.rows_before);
    put_varint(out, zigzag(head.queued_us));
    encode_ipc(rows, out)
}

fn damaged() -> Error {
    Error::state("an entry of a spool is damaged: a part of it is missing or out of bounds")
}

/// Reads what stands before the rows; these are left in `wire`.
pub(super) fn decode_head(wire: &mut Wire) -> Result<EntryHead> {
    match wire.u8() {
        Some(FORM) => {}
        Some(other) => {
            return Err(Error::state(format!(
                "an entry of a spool is of form {other}, which this program does not know: run the version that wrote it"
            )));
        }
        None => return Err(damaged()),
    }
    let origin = wire.text().ok_or_else(damaged)?;
    let offset = wire.varint().ok_or_else(damaged)?;
    let nth = wire.varint().and_then(|nth| u32::try_from(nth).ok()).ok_or_else(damaged)?;
    let mut number = || wire.varint().ok_or_else(damaged);
    let (first_row, rows, rows_before) = (number()?, number()?, number()?);
    let queued_us = unzigzag(number()?);
    if first_row.checked_add(rows).and(rows_before.checked_add(rows)).is_none() {
        return Err(damaged());
    }
    let id = DeliveryId { origin: Arc::from(origin), offset, nth };
    Ok(EntryHead { id, first_row, rows, rows_before, queued_us })
}

/// Reads an entry.
pub(super) fn decode(bytes: &[u8]) -> Result<(EntryHead, RecordBatch)> {
    let mut wire = Wire(bytes);
    let head = decode_head(&mut wire)?;
    let rows = decode_ipc(&mut wire)?;
    if rows.num_rows() as u64 != head.rows {
        return Err(damaged());
    }
    Ok((head, rows))
}
