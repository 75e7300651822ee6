//! The task behind a spool: takes entries out and hands them to the receiver, for ever trying.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::letters::Letters;
use super::{Link, Shared};
use crate::clock::wall;
use crate::config::{Priority, Spooling};
use crate::core::schema::REPLAYED_COLUMN;
use crate::core::{Attempt, Count, Parcel, Peer, Refusal};
use crate::error::Result;
use crate::net::backoff::Backoff;
use crate::store::spool::{Entry, Lane};
use crate::store::{Letter, LetterBody, LetterKind, Spool};

/// Most entries under way at once.
const ENTRIES_MAX: usize = 64;

/// The same of what has gathered where new rows go first, so that these do not wait for long.
const GATHERED_ENTRIES_MAX: usize = 8;

/// Rows under way at once, but for the entry that passes it.
const ROWS_MAX: u64 = 8192;

/// Where both wait, so many turns of new rows come for one of what has gathered.
const LIVE_TURNS: u32 = 3;

/// The first pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// How long to wait before the disk is tried again.
const DISK_PAUSE: Duration = Duration::from_secs(1);

/// How often the state is told while nothing else happens.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// How often it is remembered on disk, at most, how far deliveries are; refusals are remembered at once.
const MARK_EVERY: Duration = Duration::from_secs(10);

/// A gateway without a clock starts in 1970: nobody knows how old a row from before 2020 is.
const PLAUSIBLE_US: i64 = 1_577_836_800_000_000;

/// The task's own things.
pub(super) struct Drain {
    pub name: String,
    pub shared: Arc<Shared>,
    pub peer: Box<dyn Peer>,
    pub settings: Spooling,
    pub letters: Option<Letters>,
    pub backoff: Backoff,
    turn: u32,
    /// Entries of the live lane below this have gathered, where rows go out in order.
    gathered: u64,
    /// When more of what has gathered may go.
    gathered_at: Instant,
    told_at: Instant,
    mark_at: Instant,
    refusals: u64,
    /// Rows refused that were not yet taken off those delivered.
    refused_rows: u64,
}

/// Entries of one lane that go out together.
struct Group {
    lane: Lane,
    entries: Vec<Entry>,
    /// Whether they have gathered while the receiver was away.
    gathered: bool,
}

/// What the next group is to be like.
#[derive(Clone, Copy)]
struct Wish {
    priority: Priority,
    turn: u32,
    gathered: u64,
    /// Whether rows that have gathered may go now.
    may_gathered: bool,
    rows_max: u64,
}

impl Wish {
    /// The lane to take from, and whether what comes has gathered.
    fn lane(self, spool: &Spool) -> Option<(Lane, bool)> {
        let (live, backlog) = (spool.has_next(Lane::Live), spool.has_next(Lane::Backlog));
        match self.priority {
            Priority::Order => {
                // Left from a time when new rows went first: older than all others.
                let lane = if backlog { Lane::Backlog } else { Lane::Live };
                let gathered = backlog || spool.reading(Lane::Live) < self.gathered;
                ((live || backlog) && (self.may_gathered || !gathered)).then_some((lane, gathered))
            }
            Priority::Live => match (live, backlog && self.may_gathered) {
                (true, true) if self.turn % (LIVE_TURNS + 1) == LIVE_TURNS => Some((Lane::Backlog, true)),
                (true, _) => Some((Lane::Live, false)),
                (false, true) => Some((Lane::Backlog, true)),
                (false, false) => None,
            },
        }
    }

    fn take(self, spool: &mut Spool) -> Result<Option<Group>> {
        let Some((lane, gathered)) = self.lane(spool) else { return Ok(None) };
        let entries_max = match self.priority {
            Priority::Live if gathered => GATHERED_ENTRIES_MAX,
            _ => ENTRIES_MAX,
        };
        let (mut entries, mut rows) = (Vec::new(), 0);
        while entries.len() < entries_max
            && rows < self.rows_max
            && let Some(entry) = spool.next(lane)?
        {
            rows += entry.head.rows;
            entries.push(entry);
        }
        Ok((!entries.is_empty()).then_some(Group { lane, entries, gathered }))
    }
}

impl Drain {
    pub fn new(
        name: String,
        shared: Arc<Shared>,
        peer: Box<dyn Peer>,
        settings: Spooling,
        letters: Option<Letters>,
        gathered: u64,
    ) -> Self {
        let now = Instant::now();
        let pause_max = peer.pause_max();
        let backoff = Backoff::new(PAUSE.min(pause_max), pause_max);
        Self {
            name,
            shared,
            peer,
            settings,
            letters,
            backoff,
            turn: 0,
            gathered,
            gathered_at: now,
            told_at: now,
            mark_at: now + MARK_EVERY,
            refusals: 0,
            refused_rows: 0,
        }
    }

    /// Runs until the receiver or the spool fails in a way that trying again does not help.
    pub async fn run(mut self) {
        loop {
            if let Err(error) = self.step().await {
                self.shared.fail(error.at(&self.name));
                return;
            }
        }
    }

    async fn step(&mut self) -> Result<()> {
        let rate = self.settings.rows_per_second;
        let wish = Wish {
            priority: self.settings.priority,
            turn: self.turn,
            gathered: self.gathered,
            may_gathered: rate.is_none() || Instant::now() >= self.gathered_at,
            rows_max: rate.map_or(ROWS_MAX, |rate| ROWS_MAX.min(u64::from(rate))),
        };
        match self.shared.with(move |spool| wish.take(spool)).await? {
            Ok(Some(group)) => {
                self.turn = self.turn.wrapping_add(1);
                self.deliver(group).await
            }
            Ok(None) => {
                self.tell(true).await?;
                let until =
                    if wish.may_gathered { Instant::now() + 2 * TELL_EVERY } else { self.gathered_at };
                tokio::select! {
                    () = self.shared.more.notified() => {}
                    () = tokio::time::sleep_until(until) => {}
                }
                Ok(())
            }
            Err(error) => {
                self.shared.trouble(&error.to_string());
                tokio::time::sleep(DISK_PAUSE).await;
                // What was taken before the failure comes again.
                self.shared.with(Spool::rewind).await
            }
        }
    }

    /// Delivers a group, however often it must be tried.
    async fn deliver(&mut self, group: Group) -> Result<()> {
        let Group { lane, mut entries, gathered } = group;
        let mut parcels: Vec<Parcel> = Vec::new();
        for entry in &entries {
            parcels.push(self.parcel(entry, lane)?);
        }
        loop {
            self.expire(lane, &mut entries, &mut parcels).await?;
            if parcels.is_empty() {
                return Ok(());
            }
            let attempt = self.peer.deliver(&mut parcels).await?;
            let progress = self.settle(lane, gathered, &mut entries, &mut parcels).await?;
            if progress {
                self.backoff.reset();
            }
            match attempt {
                Attempt::Settled => self.connected().await?,
                Attempt::Away { reason, after } => self.away(&reason, after).await?,
            }
        }
    }

    fn parcel(&self, entry: &Entry, lane: Lane) -> Result<Parcel> {
        let replayed = lane == Lane::Backlog;
        let rows = match self.settings.priority {
            Priority::Order => entry.rows.clone(),
            Priority::Live => with_replayed(&entry.rows, replayed)?,
        };
        Ok(Parcel { replayed, ..Parcel::new(entry.head.name(), rows) })
    }

    /// What has waited for too long goes no further.
    async fn expire(
        &mut self,
        lane: Lane,
        entries: &mut Vec<Entry>,
        parcels: &mut Vec<Parcel>,
    ) -> Result<()> {
        let Some(max_age) = self.settings.max_age else { return Ok(()) };
        let now_us = wall().micros();
        let age = |entry: &Entry| match entry.head.queued_us {
            queued if queued >= PLAUSIBLE_US => {
                Duration::from_micros(u64::try_from(now_us.saturating_sub(queued)).unwrap_or(0))
            }
            _ => Duration::ZERO,
        };
        let count = entries.iter().take_while(|entry| age(entry) > max_age).count();
        if count == 0 {
            return Ok(());
        }
        let mut letters = Vec::new();
        let (mut rows, mut below) = (0, 0);
        for (entry, parcel) in entries.drain(..count).zip(parcels.drain(..count)) {
            let reason = format!(
                "it has waited for {} s; `max_age` is {} s",
                age(&entry).as_secs(),
                max_age.as_secs()
            );
            let left = entry.rows.slice(parcel.settled, entry.rows.num_rows() - parcel.settled);
            rows += left.num_rows() as u64;
            below = entry.sequence + 1;
            letters.push(self.letter(LetterKind::Expired, &entry, left, reason, None));
        }
        self.count("expired_rows", rows);
        self.keep(letters).await?;
        self.settle_below(lane, below).await
    }

    /// Takes in what has become of the parcels; whether there was progress.
    async fn settle(
        &mut self,
        lane: Lane,
        gathered: bool,
        entries: &mut Vec<Entry>,
        parcels: &mut Vec<Parcel>,
    ) -> Result<bool> {
        let mut letters = Vec::new();
        let mut refused = 0;
        for (entry, parcel) in entries.iter().zip(parcels.iter_mut()) {
            for refusal in std::mem::take(&mut parcel.refused) {
                refused += refusal.rows.len() as u64;
                self.tell_refusal(&refusal, parcel);
                let rows = entry.rows.slice(refusal.rows.start, refusal.rows.len());
                letters.push(self.letter(LetterKind::Refused, entry, rows, refusal.reason, refusal.status));
            }
        }
        if refused > 0 {
            // What was refused is not to be asked again after a power cut.
            self.mark_at = Instant::now();
        }
        self.refused_rows += refused;
        self.count("refused_deliveries", refused);
        self.keep(letters).await?;
        let count = parcels.iter().take_while(|parcel| parcel.is_settled()).count();
        if count == 0 {
            return Ok(false);
        }
        parcels.drain(..count);
        let (mut rows, mut below) = (0, 0);
        for entry in entries.drain(..count) {
            (rows, below) = (rows + entry.head.rows, entry.sequence + 1);
        }
        if let (true, Some(rate)) = (gathered, self.settings.rows_per_second) {
            let pause = Duration::from_secs_f64(rows as f64 / f64::from(rate));
            self.gathered_at = self.gathered_at.max(Instant::now()) + pause;
        }
        let refused = self.refused_rows.min(rows);
        self.refused_rows -= refused;
        self.count("delivered_rows", rows - refused);
        if lane == Lane::Backlog {
            self.count("replayed_rows", rows);
        }
        self.settle_below(lane, below).await?;
        Ok(true)
    }

    async fn settle_below(&mut self, lane: Lane, below: u64) -> Result<()> {
        let mark = Instant::now() >= self.mark_at;
        if mark {
            self.mark_at = Instant::now() + MARK_EVERY;
        }
        let work = move |spool: &mut Spool| {
            spool.settle(lane, below)?;
            if mark { spool.mark() } else { Ok(()) }
        };
        // A segment that cannot be removed now is removed with the next, and a mark is only to spare repetitions.
        if let Err(error) = self.shared.with(work).await? {
            self.shared.trouble(&error.to_string());
        }
        self.shared.progress.notify_one();
        self.tell(false).await
    }

    fn letter(
        &self,
        kind: LetterKind,
        entry: &Entry,
        rows: RecordBatch,
        reason: String,
        status: Option<u16>,
    ) -> Letter {
        Letter {
            kind,
            node: self.name.clone(),
            place: entry.head.name().to_string(),
            reason,
            status,
            wall_us: wall().micros(),
            offset: Some(entry.head.id.offset),
            body: LetterBody::Rows(rows),
        }
    }

    /// Keeps dead letters; as long as the disk takes none, nothing else goes on.
    async fn keep(&mut self, letters: Vec<Letter>) -> Result<()> {
        self.shared.keep(self.letters.as_ref(), letters).await
    }

    fn tell_refusal(&mut self, refusal: &Refusal, parcel: &Parcel) {
        self.refusals += 1;
        // A receiver that refuses everything must not fill the disk with log lines.
        if self.refusals.is_power_of_two() {
            warn!(
                sink = self.name,
                delivery = %parcel.id,
                status = refusal.status,
                reason = refusal.reason,
                rows = refusal.rows.len(),
                refusals = self.refusals,
                kept = self.letters.is_some(),
                "the receiver refuses rows for good"
            );
        }
    }

    async fn connected(&mut self) -> Result<()> {
        self.backoff.reset();
        let Some((before, since)) = self.shared.set_link(Link::Connected, None) else { return Ok(()) };
        if before == Link::Away {
            let seconds = wall().micros().saturating_sub(since.micros()) / 1_000_000;
            let (waiting, stats) =
                self.shared.with(|spool| (spool.next_sequence(Lane::Live), spool.stats())).await?;
            self.gathered = waiting;
            let rows = stats.map_or(0, |stats| stats.rows);
            info!(sink = self.name, away_seconds = seconds, rows_waiting = rows, "the receiver is back");
        }
        self.tell(true).await
    }

    async fn away(&mut self, reason: &str, after: Option<Duration>) -> Result<()> {
        self.count("delivery_failures", 1);
        let pause = after.unwrap_or_else(|| self.backoff.wait());
        let pause_ms = pause.as_millis() as u64;
        let news = self.shared.set_link(Link::Away, Some(reason)).is_some();
        match news {
            true => warn!(sink = self.name, reason, pause_ms, "the receiver is away; rows wait in the spool"),
            false => debug!(sink = self.name, reason, pause_ms, "the receiver is still away"),
        }
        self.shared.progress.notify_one();
        self.tell(news).await?;
        let until = Instant::now() + pause;
        while Instant::now() < until {
            self.tell(false).await?;
            tokio::select! {
                () = tokio::time::sleep_until(until.min(Instant::now() + TELL_EVERY)) => {}
                () = self.peer.back(), if after.is_none() => return Ok(()),
            }
        }
        Ok(())
    }

    fn count(&self, what: &'static str, by: u64) {
        if by > 0 {
            self.shared.counters.add(vec![(Count { what, reason: "" }, by)]);
        }
    }

    /// Says how things stand, if that is due.
    async fn tell(&mut self, now: bool) -> Result<()> {
        if now || self.told_at.elapsed() >= TELL_EVERY {
            self.told_at = Instant::now();
            self.shared.tell().await?;
        }
        Ok(())
    }
}

/// The rows with the column that says whether they have waited.
pub(super) fn with_replayed(rows: &RecordBatch, replayed: bool) -> Result<RecordBatch> {
    let schema = rows.schema_ref();
    let column: ArrayRef = Arc::new(BooleanArray::from(vec![replayed; rows.num_rows()]));
    let fields = schema.fields().iter().cloned();
    let fields = fields.chain([Arc::new(Field::new(REPLAYED_COLUMN, DataType::Boolean, false))]);
    let schema = Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone());
    let columns = rows.columns().iter().cloned().chain([column]).collect();
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}
