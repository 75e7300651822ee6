//! A send from a thread that waits for room, and can be called off.
//!
//! A sink that never answers must not keep the engine's thread, and what stands before it, for ever.

use tokio::sync::{mpsc, watch};

use crate::error::{Error, Result};

/// Calls the sends of the threads that it was given to off.
#[derive(Debug)]
pub struct Caller(watch::Sender<bool>);

/// What a thread sends through.
#[derive(Debug)]
pub struct Valve {
    off: watch::Receiver<bool>,
    /// Waits; it has neither sockets nor timers.
    waiting: tokio::runtime::Runtime,
}

impl Caller {
    /// Nothing called off yet.
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// One for a thread.
    ///
    /// # Errors
    /// If the system gives no resources.
    pub fn valve(&self) -> Result<Valve> {
        let waiting = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|error| Error::io("preparing a thread to wait", &error))?;
        Ok(Valve { off: self.0.subscribe(), waiting })
    }

    /// Whoever waits for room waits no longer, and whoever would wait does not begin.
    pub fn call_off(&self) {
        self.0.send_replace(true);
    }
}

impl Valve {
    /// Sends, as soon as there is room; false when nobody listens any more or it was called off.
    pub fn send<T>(&mut self, to: &mpsc::Sender<T>, item: T) -> bool {
        match to.try_send(item) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(item)) => {
                let off = &mut self.off;
                self.waiting.block_on(async {
                    tokio::select! {
                        biased;
                        sent = to.send(item) => sent.is_ok(),
                        _ = off.wait_for(|off| *off) => false,
                    }
                })
            }
        }
    }

    /// Whether it was called off.
    pub fn is_off(&self) -> bool {
        *self.off.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_waits_for_room_until_it_is_called_off() {
        let caller = Caller::new();
        let (to, mut from) = mpsc::channel(1);
        let mut valve = caller.valve().unwrap();
        assert!(valve.send(&to, 1));
        let sender = std::thread::spawn(move || {
            let second = valve.send(&to, 2);
            let third = valve.send(&to, 3);
            (second, third, valve.is_off())
        });
        assert_eq!(from.blocking_recv(), Some(1));
        while from.is_empty() {
            std::thread::yield_now();
        }
        caller.call_off();
        assert_eq!(sender.join().unwrap(), (true, false, true));
        assert_eq!((from.blocking_recv(), from.blocking_recv()), (Some(2), None));
    }

    #[test]
    fn nobody_listens() {
        let (to, from) = mpsc::channel(1);
        drop(from);
        assert!(!Caller::new().valve().unwrap().send(&to, 1));
    }
}
