//! The sink of the process that spools, and the task behind it that hands the spool's entries to the receiver. The steps
//! are those of the runtime's. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;

use super::around::{Step, Surroundings, breach};
use super::bug::Bug;
use super::cells;
use super::outside::Name;
use crate::Kind;
use crate::core::{DeliveryId, Position};
use crate::store::Spool;
use crate::store::spool::{Entry, Lane, SpoolOptions, WhenFull};

/// Its directory.
const DIR: &str = "spool/postbox";
/// Small enough that a receiver that is away for long fills it.
const OPTIONS: SpoolOptions = SpoolOptions { bytes_max: (64 << 10) + (14 << 10), when_full: WhenFull::Block };
/// Bytes of a segment.
const SEGMENT_BYTES_MAX: u64 = 3 << 10;
/// Most bytes of its files: besides the spool, copies of blocks that were in doubt, and files that were given up.
pub(super) const FILES_BYTES_MAX: u64 = OPTIONS.bytes_max + 6 * SEGMENT_BYTES_MAX;
/// More rows than any delivery has.
const ROWS_MAX: u32 = 10_000;
/// Entries under way at once.
const GROUP_MAX: usize = 3;

/// The spool in one process.
pub(super) struct Spooled {
    spool: Spool,
    /// Under way to the receiver, which may have some of them already.
    group: Vec<Entry>,
    lane: Lane,
    /// Names that this process has spooled: none is taken in again.
    taken: BTreeSet<(u64, u32)>,
}

impl Spooled {
    /// Opens the spool where the checkpoint says that it was.
    pub fn open(around: &Surroundings, committed: Option<&Position>) -> Step<Self> {
        let store = around.store();
        let (spool, report) = Spool::open_sized(store.as_ref(), DIR, OPTIONS, SEGMENT_BYTES_MAX, committed)?;
        if report.lost + report.damages.records > 0 {
            return breach(format!("the spool has lost entries: {report:?}"));
        }
        Ok(Self { spool, group: Vec::new(), lane: Lane::Live, taken: BTreeSet::new() })
    }

    /// Takes rows in; false if it must be tried again, because there is no room or the disk fails.
    pub fn write(&mut self, around: &mut Surroundings, name: Name, rows: &RecordBatch) -> Step<bool> {
        let gathers = around.live_first && around.is_receiver_away();
        let lane = if gathers { Lane::Backlog } else { Lane::Live };
        let id = DeliveryId { origin: origin(around), offset: name.1, nth: name.2 };
        match self.spool.append(lane, &id, rows, around.wall_us) {
            Ok(appended) if !appended.too_large.is_empty() => {
                breach(format!("{id} is too large for an entry: {appended:?}"))
            }
            Ok(appended) => {
                if appended.rows > 0 && !self.taken.insert((name.1, name.2)) {
                    return breach(format!("{id} is spooled again"));
                }
                around.spooled += u64::from(appended.rows > 0);
                around.known += u64::from(appended.known > 0);
                Ok(true)
            }
            Err(error) if error.kind == Kind::Unavailable => {
                around.spool_full += 1;
                Ok(false)
            }
            Err(error) if error.kind == Kind::Io => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Everything taken in is durable; `None` if the disk fails, and it must be tried again.
    pub fn flush(&mut self, around: &Surroundings) -> Step<Option<Position>> {
        let mut sync = || {
            if around.bug != Some(Bug::SpoolNotSynced) {
                self.spool.sync()?;
            }
            self.spool.mark()?;
            self.spool.position()
        };
        match sync() {
            Ok(position) => Ok(Some(position)),
            Err(error) if error.kind == Kind::Io => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.spool.is_empty()
    }

    /// One step of the task behind: the next entries are taken out, or one of them goes to the receiver.
    pub fn drain(&mut self, around: &mut Surroundings, sink: usize) -> Step {
        if self.group.is_empty() {
            return self.take(around);
        }
        if around.is_receiver_away() || around.dice.happens(around.slow[sink]) {
            return Ok(());
        }
        let entry = self.group.remove(0);
        let (name, rows) = (self.name_of(&entry)?, cells::rows(&entry.rows)?);
        around.sinks[sink].receive(self.lane == Lane::Backlog, name, rows)?;
        // The answer may get lost on its way: it is sent again.
        if around.dice.happens(100) {
            self.group.insert(0, entry);
            return Ok(());
        }
        let settled = self.spool.settle(self.lane, entry.sequence + 1);
        match settled {
            Err(error) if error.kind != Kind::Io => Err(error.into()),
            // A segment that cannot be removed now goes with the next.
            _ => Ok(()),
        }
    }

    fn take(&mut self, around: &mut Surroundings) -> Step {
        let backlog = self.spool.has_next(Lane::Backlog);
        // New rows go first, and now and then some of those that have gathered.
        self.lane = match self.spool.has_next(Lane::Live) && (!backlog || around.dice.happens(750)) {
            true => Lane::Live,
            false => Lane::Backlog,
        };
        while self.group.len() < GROUP_MAX {
            match self.spool.next(self.lane) {
                Ok(Some(entry)) => self.group.push(entry),
                Ok(None) => break,
                Err(error) if error.kind == Kind::Io => {
                    // What was taken before the failure comes again.
                    self.group.clear();
                    self.spool.rewind();
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if around.bug == Some(Bug::SettledBeforeDelivered)
            && let Some(last) = self.group.last()
        {
            self.spool.settle(self.lane, last.sequence + 1)?;
        }
        Ok(())
    }

    /// The name under which the receiver keeps an entry: that of the delivery, and for a part of a large one the row at
    /// which it begins.
    fn name_of(&self, entry: &Entry) -> Step<Name> {
        let id = &entry.head.id;
        let incarnation = id.origin.rsplit('#').next().and_then(|number| number.parse().ok());
        match (incarnation, u32::try_from(entry.head.first_row)) {
            (Some(incarnation), Ok(row)) if row < ROWS_MAX => {
                Ok((incarnation, id.offset, id.nth * ROWS_MAX + row))
            }
            _ => breach(format!("nobody has spooled {id}")),
        }
    }
}

/// What the deliveries' names begin with: the same after every restart.
fn origin(around: &Surroundings) -> Arc<str> {
    let incarnation = if around.bug == Some(Bug::SpooledAgain) { around.incarnation } else { 0 };
    Arc::from(format!("box/plant/postbox#{incarnation}"))
}

impl Surroundings {
    /// Whether the receiver behind the spool does not answer.
    pub(super) fn is_receiver_away(&self) -> bool {
        self.is_stuck(super::shell::SPOOLED)
    }
}
