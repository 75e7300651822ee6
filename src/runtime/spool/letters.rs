//! The dead letters of a pipeline, shared by its tasks. Writing them is work for a thread that may wait for the disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::super::health::span;
use super::PAUSE;
use crate::clock::wall;
use crate::core::{BadMessage, BadMessages};
use crate::error::{Error, Kind, Result};
use crate::store::{DeadLetters, Letter, LetterBody, LetterKind, Store};

/// Dead letters grow as long as the last is no older than this.
const GROWING: Duration = Duration::from_secs(600);

/// A handle on a pipeline's dead letters.
#[derive(Clone)]
pub struct Letters {
    kept: Arc<Mutex<DeadLetters>>,
    /// What is known of them; beside them, so that whoever asks does not wait for the disk.
    told: Arc<Mutex<Told>>,
}

#[derive(Default)]
struct Told {
    bytes: u64,
    dropped: u64,
    rows: u64,
    last: Option<(Instant, String)>,
}

/// The dead letters as `/health` shows them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LettersHealth {
    /// Bytes on disk.
    pub bytes: u64,
    /// Rows and payloads that were kept since the start.
    pub rows: u64,
    /// How long ago the last was kept; `null` if none was since the start.
    pub seconds_since_last: Option<f64>,
    /// Who gave it and why.
    pub last: Option<String>,
}

impl LettersHealth {
    /// What a person should know: that they grow.
    pub(crate) fn problem(&self) -> Option<String> {
        let ago = Duration::from_secs_f64(self.seconds_since_last?);
        let last = self.last.as_ref().filter(|_| ago < GROWING)?;
        let rows = if self.rows == 1 { "1 row" } else { &format!("{} rows", self.rows) };
        Some(format!("dead letters grow: {rows} since the start, the last {} ago; {last}", span(ago)))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Letters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Letters").finish_non_exhaustive()
    }
}

impl Letters {
    /// Opens them in a pipeline's directory.
    ///
    /// # Errors
    /// If the store fails.
    pub fn open(store: Box<dyn Store>, bytes_max: u64) -> Result<Self> {
        let kept = DeadLetters::open(store, bytes_max)?;
        let told = Told { bytes: kept.bytes(), ..Told::default() };
        Ok(Self { kept: Arc::new(Mutex::new(kept)), told: Arc::new(Mutex::new(told)) })
    }

    /// Adds letters, durably; waits for the disk.
    ///
    /// # Errors
    /// If the store fails. Some of them may be there then: trying again keeps them twice rather than not at all.
    pub fn put(&self, letters: &[Letter]) -> Result<()> {
        let mut kept = locked(&self.kept);
        letters.iter().try_for_each(|letter| kept.put(letter))?;
        kept.sync()?;
        let mut told = locked(&self.told);
        (told.bytes, told.dropped) = (kept.bytes(), kept.dropped());
        told.rows += letters.iter().map(|letter| letter.rows() as u64).sum::<u64>();
        if let Some(last) = letters.last() {
            told.last = Some((Instant::now(), format!("`{}`: {}", last.node, last.reason)));
        }
        Ok(())
    }

    /// The same from a task.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn keep(&self, letters: Vec<Letter>) -> Result<()> {
        let this = self.clone();
        let kept = tokio::task::spawn_blocking(move || this.put(&letters)).await;
        kept.unwrap_or_else(|error| Err(Error::state(format!("writing dead letters failed: {error}"))))
    }

    /// Bytes on disk, and how many letters made room for newer ones since the start.
    #[must_use]
    pub fn bytes_and_dropped(&self) -> (u64, u64) {
        let told = locked(&self.told);
        (told.bytes, told.dropped)
    }

    /// As `/health` shows them.
    #[must_use]
    pub fn health(&self) -> LettersHealth {
        let told = locked(&self.told);
        LettersHealth {
            bytes: told.bytes,
            rows: told.rows,
            seconds_since_last: told.last.as_ref().map(|(at, _)| at.elapsed().as_secs_f64()),
            last: told.last.as_ref().map(|(_, why)| why.clone()),
        }
    }
}

#[async_trait]
impl BadMessages for Letters {
    async fn keep_bad(&self, list: Vec<BadMessage>) -> Result<()> {
        let wall_us = wall().micros();
        let letter = |message: BadMessage| Letter {
            kind: LetterKind::BadPayload,
            node: message.node,
            place: message.place,
            reason: message.reason,
            status: None,
            wall_us,
            offset: Some(message.offset),
            body: LetterBody::Bytes { original: message.payload.len() as u64, bytes: message.payload },
        };
        let letters: Vec<Letter> = list.into_iter().map(letter).collect();
        let mut told = false;
        while let Err(error) = self.keep(letters.clone()).await {
            if error.kind != Kind::Io {
                return Err(error);
            }
            if !std::mem::replace(&mut told, true) {
                warn!(%error, "dead letters cannot be written; trying for ever");
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;

    #[test]
    fn they_are_a_problem_while_they_grow() {
        let letters = Letters::open(Memory::new().share(), 1 << 20).unwrap();
        assert_eq!(letters.health(), LettersHealth::default());
        assert_eq!(letters.health().problem(), None);
        let letter = Letter {
            kind: LetterKind::Refused,
            node: "cloud".to_owned(),
            place: "a/b/1-0".to_owned(),
            reason: "not this".to_owned(),
            status: Some(400),
            wall_us: 0,
            offset: Some(1),
            body: LetterBody::Bytes { bytes: b"{".to_vec(), original: 1 },
        };
        letters.put(&[letter]).unwrap();
        let mut health = letters.health();
        assert!(health.bytes > 0);
        assert_eq!(
            health.problem().unwrap(),
            "dead letters grow: 1 row since the start, the last 0.0 s ago; `cloud`: not this"
        );
        health.seconds_since_last = Some(600.0);
        assert_eq!(health.problem(), None, "they were looked at, or not; they do not grow");
    }
}
