//! A spool in front of a receiver: the sink that takes rows at the speed of the disk, and the task behind it that hands them
//! on.
//!
//! ```text
//! sink task ──► Spooled ──► store::Spool ──► Drain ──► Peer
//!   write, flush            on disk          a task    http, mqtt
//! ```
//!
//! `flush` returns when everything is synced in the spool, so epochs commit, and the log forgets, while the receiver is
//! away; nothing that the drain waits for is ever waited for here, except room in a full spool that blocks. All work on
//! the disk is done on threads that may wait for it.

mod drain;
mod letters;
mod resend;
mod status;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{info, warn};

pub use letters::{Letters, LettersHealth};
pub use resend::{Resent, resend};
pub use status::{Link, SpoolHealth, SpoolStatus};

use super::sink_task::SinkCounters;
use crate::clock::wall;
use crate::config::{Priority, SpoolFull, Spooling};
use crate::core::{Count, DeliveryId, Epoch, EventTime, Peer, Position, Sink};
use crate::error::{Error, Kind, Result};
use crate::store::spool::{Lane, SpoolOptions, WhenFull};
use crate::store::{Letter, LetterBody, LetterKind, Spool, Store};

/// How long to wait before a disk that fails, or a spool that is full, is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// How long what is under way may take when the pipeline stops.
const CLOSING_MAX: Duration = Duration::from_secs(1);

/// What the sink and the drain have in common.
struct Shared {
    spool: Arc<tokio::sync::Mutex<Spool>>,
    /// Something was spooled.
    more: Notify,
    /// Something was settled, or the receiver has gone.
    progress: Notify,
    link: Mutex<LinkState>,
    failure: Mutex<Option<Error>>,
    counters: Arc<SinkCounters>,
}

#[derive(Default)]
struct LinkState {
    link: Link,
    since: EventTime,
    error: Option<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Does something with the spool on a thread that may wait for the disk.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Spool) -> T + Send + 'static,
    ) -> Result<T> {
        let mut spool = Arc::clone(&self.spool).lock_owned().await;
        let done = tokio::task::spawn_blocking(move || work(&mut spool)).await;
        done.map_err(|error| Error::state(format!("the spool has failed: {error}")))
    }

    /// The drain cannot go on.
    fn fail(&self, error: Error) {
        *locked(&self.failure) = Some(error);
        self.progress.notify_one();
    }

    fn check(&self) -> Result<()> {
        locked(&self.failure).clone().map_or(Ok(()), Err)
    }

    fn link(&self) -> Link {
        locked(&self.link).link
    }

    /// Says how the receiver is; what it was before and since when, if that is news.
    fn set_link(&self, link: Link, error: Option<&str>) -> Option<(Link, EventTime)> {
        let mut state = locked(&self.link);
        if let Some(error) = error {
            state.error = Some(error.to_owned());
        }
        if state.link == link {
            return None;
        }
        let since = std::mem::replace(&mut state.since, wall());
        Some((std::mem::replace(&mut state.link, link), since))
    }

    /// The disk fails; it is tried again.
    fn trouble(&self, error: &str) {
        let mut state = locked(&self.link);
        if state.error.as_deref() != Some(error) {
            warn!(error, "the spool's disk fails; trying for ever");
            state.error = Some(error.to_owned());
        }
    }

    /// Keeps dead letters, however often it must be tried; without a place for them they are gone.
    async fn keep(&self, letters: Option<&Letters>, list: Vec<Letter>) -> Result<()> {
        let Some(letters) = letters.filter(|_| !list.is_empty()) else { return Ok(()) };
        for letter in &list {
            let count = Count { what: "dead_letter_rows", reason: letter.kind.word() };
            self.counters.add(vec![(count, letter.rows() as u64)]);
        }
        while let Err(error) = letters.keep(list.clone()).await {
            if error.kind != Kind::Io {
                return Err(error);
            }
            self.trouble(&error.to_string());
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Renews what others see.
    async fn tell(&self) -> Result<()> {
        let stats = match self.with(Spool::stats).await? {
            Ok(stats) => stats,
            Err(error) => {
                self.trouble(&error.to_string());
                return Ok(());
            }
        };
        let state = locked(&self.link);
        let status = SpoolStatus { stats, link: state.link, since: state.since, error: state.error.clone() };
        *locked(&self.counters.spool) = Some(status);
        Ok(())
    }
}

/// A sink that spools.
pub struct Spooled {
    name: String,
    store: Box<dyn Store>,
    settings: Spooling,
    letters: Option<Letters>,
    counters: Arc<SinkCounters>,
    peer: Option<Box<dyn Peer>>,
    running: Option<Running>,
}

struct Running {
    shared: Arc<Shared>,
    drain: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.drain.abort();
    }
}

/// The directory of a sink's spool in that of its pipeline.
#[must_use]
pub fn directory(sink: &str) -> String {
    format!("spool/{sink}")
}

/// Says of spools that no sink has any more how many rows wait in them: they stay there until a sink of that name has a
/// spool again.
pub fn tell_forsaken(store: &dyn Store, spools: &[String], sinks: &[&str]) {
    let options = SpoolOptions { bytes_max: 0, when_full: WhenFull::Block };
    for name in spools.iter().filter(|name| !sinks.contains(&name.as_str())) {
        let stats =
            Spool::open(store, &directory(name), options, None).and_then(|(mut spool, _)| spool.stats());
        match stats {
            Ok(stats) if stats.entries > 0 => {
                warn!(
                    sink = name,
                    rows = stats.rows,
                    "rows wait in a spool that no sink has now; they stay there"
                );
            }
            Ok(_) => {}
            Err(error) => warn!(sink = name, %error, "a spool that no sink has now cannot be read"),
        }
    }
}

impl Spooled {
    /// A spool in a pipeline's store, not open yet.
    pub fn new(
        name: &str,
        store: Box<dyn Store>,
        settings: Spooling,
        peer: Box<dyn Peer>,
        letters: Option<Letters>,
        counters: Arc<SinkCounters>,
    ) -> Self {
        Self { name: name.to_owned(), store, settings, letters, counters, peer: Some(peer), running: None }
    }

    fn shared(&self) -> Result<&Arc<Shared>> {
        let running = self.running.as_ref().ok_or_else(|| Error::data("the sink is not open"))?;
        running.shared.check()?;
        Ok(&running.shared)
    }

    /// Waits until everything has gone out; gives up when the receiver is away.
    async fn emptied(shared: &Shared) -> Result<bool> {
        loop {
            let progress = shared.progress.notified();
            if shared.with(|spool| spool.is_empty()).await? {
                return Ok(true);
            }
            if shared.link() == Link::Away || shared.check().is_err() {
                return Ok(false);
            }
            tokio::select! { () = progress => {}, () = tokio::time::sleep(PAUSE) => {} }
        }
    }

    fn too_large(&self, id: &DeliveryId, rows: &[RecordBatch]) -> Vec<Letter> {
        let letter = |rows: &RecordBatch| Letter {
            kind: LetterKind::Oversize,
            node: self.name.clone(),
            place: id.to_string(),
            reason: "one row is larger than the spool takes; a larger `spool` takes larger rows".to_owned(),
            status: None,
            wall_us: wall().micros(),
            offset: Some(id.offset),
            body: LetterBody::Rows(rows.clone()),
        };
        rows.iter().map(letter).collect()
    }
}

#[async_trait]
impl Sink for Spooled {
    async fn open(&mut self, committed: Option<&Position>) -> Result<()> {
        let Some(mut peer) = self.peer.take() else { return Err(Error::data("the sink is open already")) };
        peer.open().await?;
        let (store, dir, committed) = (self.store.share(), directory(&self.name), committed.cloned());
        let options = SpoolOptions {
            bytes_max: self.settings.bytes_max,
            when_full: match self.settings.on_full {
                SpoolFull::Block => WhenFull::Block,
                SpoolFull::DropOldest => WhenFull::DropOldest,
            },
        };
        let opened = tokio::task::spawn_blocking(move || {
            Spool::open(store.as_ref(), &dir, options, committed.as_ref())
        });
        let (spool, report) =
            opened.await.map_err(|error| Error::state(format!("the spool cannot be opened: {error}")))??;
        let name = self.name.clone();
        if report.entries > 0 {
            info!(sink = name, entries = report.entries, "rows wait in the spool");
        }
        if report.lost + report.damages.records > 0 {
            warn!(
                sink = name,
                lost = report.lost,
                damaged = report.damages.records,
                "the spool has lost entries"
            );
        }
        let gathered = spool.next_sequence(Lane::Live);
        let shared = Arc::new(Shared {
            spool: Arc::new(tokio::sync::Mutex::new(spool)),
            more: Notify::new(),
            progress: Notify::new(),
            link: Mutex::new(LinkState { since: wall(), ..LinkState::default() }),
            failure: Mutex::default(),
            counters: Arc::clone(&self.counters),
        });
        shared.tell().await?;
        let drain =
            drain::Drain::new(name, Arc::clone(&shared), peer, self.settings, self.letters.clone(), gathered);
        self.running = Some(Running { drain: tokio::spawn(drain.run()), shared });
        Ok(())
    }

    async fn write(&mut self, id: DeliveryId, batch: RecordBatch) -> Result<()> {
        let mut told = false;
        loop {
            let shared = self.shared()?;
            // New rows go past what gathers only where they are wanted first.
            let gathers = self.settings.priority == Priority::Live && shared.link() == Link::Away;
            let lane = if gathers { Lane::Backlog } else { Lane::Live };
            let (name, rows, now_us) = (id.clone(), batch.clone(), wall().micros());
            match shared.with(move |spool| spool.append(lane, &name, &rows, now_us)).await? {
                Ok(appended) => {
                    shared.more.notify_one();
                    if appended.too_large.is_empty() {
                        return Ok(());
                    }
                    let rows: Vec<_> = appended.too_large.iter().map(|row| batch.slice(*row, 1)).collect();
                    return shared.keep(self.letters.as_ref(), self.too_large(&id, &rows)).await;
                }
                Err(error) if error.kind == Kind::Unavailable => {
                    if !std::mem::replace(&mut told, true) {
                        warn!(sink = self.name, %error, "the pipeline waits for the receiver");
                    }
                    // What the sink has taken in is there for the drain.
                    shared.more.notify_one();
                    let progress = shared.progress.notified();
                    tokio::select! { () = progress => {}, () = tokio::time::sleep(PAUSE) => {} }
                }
                Err(error) if error.kind == Kind::Io => {
                    shared.trouble(&error.to_string());
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn flush(&mut self, _epoch: Epoch) -> Result<Position> {
        loop {
            let shared = self.shared()?;
            let work = |spool: &mut Spool| {
                spool.sync()?;
                spool.mark()?;
                spool.position()
            };
            match shared.with(work).await? {
                Err(error) if error.kind == Kind::Io => {
                    shared.trouble(&error.to_string());
                    tokio::time::sleep(PAUSE).await;
                }
                position => return position,
            }
        }
    }

    async fn committed(&mut self, _epoch: Epoch) -> Result<()> {
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        // The sources have ended by themselves: whoever waits for that waits for the receiver to have everything too.
        Self::emptied(self.shared()?).await?;
        self.shared().map(drop)
    }

    async fn close(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let _ = tokio::time::timeout(CLOSING_MAX, Self::emptied(&running.shared)).await;
        running.drain.abort();
        let _ = (&mut running.drain).await;
        let left = running.shared.with(|spool| {
            // A mark that is not written costs a repetition, no more.
            let _ = spool.sync().and_then(|()| spool.mark());
            spool.stats()
        });
        let left = left.await;
        let _ = running.shared.tell().await;
        if let Ok(Ok(stats)) = left
            && stats.entries > 0
        {
            info!(
                sink = self.name,
                rows = stats.rows,
                "rows stay in the spool; the next start delivers them"
            );
        }
    }
}
