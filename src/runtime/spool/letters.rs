//! The dead letters of a pipeline, shared by its tasks. Writing them is work for a thread that may wait for the disk.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::store::{DeadLetters, Letter, Store};

/// A handle on a pipeline's dead letters.
#[derive(Clone)]
pub struct Letters(Arc<Mutex<DeadLetters>>);

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
        Ok(Self(Arc::new(Mutex::new(DeadLetters::open(store, bytes_max)?))))
    }

    /// Adds letters, durably; waits for the disk.
    ///
    /// # Errors
    /// If the store fails. Some of them may be there then: trying again keeps them twice rather than not at all.
    pub fn put(&self, letters: &[Letter]) -> Result<()> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        letters.iter().try_for_each(|letter| kept.put(letter))?;
        kept.sync()
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
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.bytes(), kept.dropped())
    }
}
