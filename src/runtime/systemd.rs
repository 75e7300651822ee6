//! What the service manager is told (sd_notify(3)): that the program is up, that it is stopping, how it does, and as
//! long as nothing hangs, that it lives. Where no manager asks, nothing happens.

use std::time::Duration;

#[cfg(target_os = "linux")]
use sd_notify::{NotifyState, notify, watchdog_enabled};

use super::admin::Board;

/// How often the status line is brought up to date where no watchdog asks for more.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Pipelines run, or wait for their first messages.
pub fn ready() {
    #[cfg(target_os = "linux")]
    tell(&[NotifyState::Ready]);
}

/// A stop has begun.
pub fn stopping() {
    #[cfg(target_os = "linux")]
    tell(&[NotifyState::Stopping]);
}

/// Tells the state for ever: the status in words, and that the program lives, unless an engine has been at one record
/// for the whole of the watchdog's interval. Then a restart is what helps; that a peer is away or a sink takes
/// nothing is no reason for one.
pub async fn keep_telling(board: Board) {
    #[cfg(target_os = "linux")]
    {
        let watchdog = watchdog_enabled().filter(|interval| !interval.is_zero());
        // Half the interval, as sd_watchdog_enabled(3) recommends.
        let every = watchdog.map_or(STATUS_EVERY, |interval| STATUS_EVERY.min(interval / 2));
        let mut told = String::new();
        loop {
            if let Some(interval) = watchdog
                && !board.is_stuck(interval)
            {
                tell(&[NotifyState::Watchdog]);
            }
            let status = board.status_line();
            if status != told {
                tell(&[NotifyState::Status(&status)]);
                told = status;
            }
            tokio::time::sleep(every).await;
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (board, STATUS_EVERY);
        std::future::pending::<()>().await;
    }
}

#[cfg(target_os = "linux")]
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}
