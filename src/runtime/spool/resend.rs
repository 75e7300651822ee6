//! Sending a sink's dead letters again, while its pipeline is stopped.

use std::time::Duration;

use tokio::time::Instant;

use super::drain::with_replayed;
use crate::config::{Priority, Spooling};
use crate::core::{Attempt, DeliveryId, Parcel, Peer};
use crate::error::Result;
use crate::net::backoff::Backoff;
use crate::store::dead_letters;
use crate::store::{DeadLetters, Letter, LetterBody, LetterKind, Store};

/// What has become of the letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resent {
    /// Rows that the receiver has taken.
    pub delivered: u64,
    /// Rows that it refuses still; their letters stay.
    pub refused: u64,
    /// Rows that were not tried, or in vain.
    pub left: u64,
    /// Why, if the receiver was away.
    pub away: Option<String>,
}

/// Gives the rows of a sink's refused and expired letters to its receiver, and crosses out those that it takes. A letter
/// of which it refuses a part stays whole. A receiver that is away is waited for as long as `patience` says.
///
/// # Errors
/// If the letters cannot be read or crossed out, or the receiver fails in a way that trying again does not help.
pub async fn resend(
    sink: &str,
    mut peer: Box<dyn Peer>,
    spooling: Option<Spooling>,
    letters: &mut DeadLetters,
    store: &mut dyn Store,
    patience: Duration,
) -> Result<Resent> {
    letters.sync()?;
    let mut numbers = Vec::new();
    dead_letters::read(store, |number, letter| {
        if is_for(&letter, sink) {
            numbers.push(number);
        }
        Ok(())
    })?;
    let mut resent = Resent::default();
    if numbers.is_empty() {
        return Ok(resent);
    }
    peer.open().await?;
    let marks = spooling.is_some_and(|spooling| spooling.priority == Priority::Live);
    // They are read again in portions: all of them at once may be more than the memory there is.
    for portion in numbers.chunks(PORTION) {
        let (first, last) = (portion.first().copied(), portion.last().copied());
        let mut found = Vec::new();
        dead_letters::read(store, |number, letter| {
            if Some(number) >= first && Some(number) <= last && is_for(&letter, sink) {
                found.push((number, letter));
            }
            Ok(())
        })?;
        for (number, letter) in found {
            let LetterBody::Rows(rows) = letter.body else { continue };
            let count = rows.num_rows() as u64;
            if resent.away.is_some() {
                resent.left += count;
                continue;
            }
            let rows = if marks { with_replayed(&rows, true)? } else { rows };
            // A name of its own: the receiver has seen the first one, and refused it.
            let id =
                DeliveryId { origin: format!("{}/dead-letter", letter.place).into(), offset: number, nth: 0 };
            let mut parcel = Parcel { replayed: true, ..Parcel::new(id, rows) };
            resent.away = deliver(peer.as_mut(), &mut parcel, patience).await?;
            let refused = parcel.refused.iter().map(|refusal| refusal.rows.len() as u64).sum::<u64>();
            if resent.away.is_some() {
                resent.left += count;
            } else if refused > 0 {
                resent.refused += count;
            } else {
                letters.remove(number)?;
                letters.sync()?;
                resent.delivered += count;
            }
        }
    }
    Ok(resent)
}

/// Letters in memory at once.
const PORTION: usize = 64;

fn is_for(letter: &Letter, sink: &str) -> bool {
    letter.node == sink
        && matches!(letter.kind, LetterKind::Refused | LetterKind::Expired)
        && matches!(letter.body, LetterBody::Rows(_))
}

/// Why the receiver was away for too long, if it was.
async fn deliver(peer: &mut dyn Peer, parcel: &mut Parcel, patience: Duration) -> Result<Option<String>> {
    let deadline = Instant::now() + patience;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        let Attempt::Away { reason, after } = peer.deliver(std::slice::from_mut(parcel)).await? else {
            return Ok(None);
        };
        let until = Instant::now() + after.unwrap_or_else(|| backoff.wait());
        if until > deadline {
            return Ok(Some(reason));
        }
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = peer.back(), if after.is_none() => {}
        }
    }
}
