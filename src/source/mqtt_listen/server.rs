//! The protocol of a server that takes messages in and routes none: bytes in, rows and bytes out. It waits for
//! nothing and reads no clock; `source.rs` is the world around it.
//!
//! Everything that must be safe before it is answered has a number: a row, a released identifier, a session that
//! begins or ends. Answers stand in a queue per client with the number they need, so that they go out in the order of
//! what they answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use hashbrown::HashMap;
use tracing::debug;

use super::access::Access;
use super::packet::{self, Reason};
use super::peer::{Owed, Peer, Testament};
use super::settings::ServerSettings;
use crate::core::ends::SourceBatch;
use crate::core::{Count, Position, schema};
use crate::error::Result;
use crate::source::mqtt_wire::{self as wire, Protocol};
use crate::source::raw::RawBuilder;
use crate::source::sessions::Sessions;

/// The largest packet before a client is let in.
const CONNECT_BYTES_MAX: usize = 64 << 10;

/// A connection's number.
pub type PeerId = u64;

/// This moment.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Since the source was made.
    pub mono: Duration,
    /// Wall clock, in microseconds since 1970.
    pub wall_micros: i64,
}

/// What became of a client's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    /// All taken that can be; the next packet needs so many in all (0 if that is not known yet).
    Dry(usize),
    /// The batch is full: go on with this client when it was handed on.
    Full,
    /// This client waits: [`Server::take_again`] names it when it goes on.
    Aside,
    /// The connection is over.
    Closed,
}

/// The message of a client that was lost, while its delay lasts.
struct Pending {
    client: Arc<str>,
    due: Duration,
    testament: Testament,
}

/// Clients, their sessions, and the batch in the making.
pub struct Server {
    pub(super) settings: ServerSettings,
    pub(super) access: Access,
    pub(super) builder: RawBuilder,
    pub(super) sessions: Sessions,
    peers: HashMap<PeerId, Box<Peer>>,
    /// Clients that are there.
    pub(super) online: HashMap<Arc<str>, PeerId>,
    /// Sessions of clients that are not, and when they end.
    away: BTreeMap<Arc<str>, Duration>,
    /// No session of `away` ends before this.
    away_until: Option<Duration>,
    wills: Vec<Pending>,
    /// Clients that may send again at a time.
    pub(super) slowed: Vec<(Duration, PeerId)>,
    again: Vec<PeerId>,
    owing: Vec<PeerId>,
    touched: Vec<PeerId>,
    /// What is safe, and what was handed on.
    pub(super) safe: u64,
    handed: u64,
    /// Whether a client waits for what was not handed on yet.
    urgent: bool,
    /// Since when something without a row waits to be handed on.
    changed_at: Option<Duration>,
    counts: Vec<(Count, u64)>,
}

impl Server {
    /// Goes on from a position.
    ///
    /// # Errors
    /// If the position is not one of these.
    pub fn new(
        settings: ServerSettings,
        access: Access,
        from: Option<&Position>,
        now: Duration,
    ) -> Result<Self> {
        let sessions = from.map(Sessions::read).transpose()?.unwrap_or_default();
        let ends = now + settings.session_expiry;
        Ok(Self {
            builder: RawBuilder::new(settings.batch),
            away: sessions.clients().map(|client| (Arc::clone(client), ends)).collect(),
            away_until: (!sessions.is_empty()).then_some(ends),
            safe: sessions.number(),
            handed: sessions.number(),
            settings,
            access,
            sessions,
            peers: HashMap::new(),
            online: HashMap::new(),
            wills: Vec::new(),
            slowed: Vec::new(),
            again: Vec::new(),
            owing: Vec::new(),
            touched: Vec::new(),
            urgent: false,
            changed_at: None,
            counts: Vec::new(),
        })
    }

    /// A connection has come.
    pub fn connected(&mut self, id: PeerId, certified: bool) {
        self.count("connections", "");
        self.peers.insert(id, Box::new(Peer::new(certified)));
    }

    /// A connection is over, and nobody can be told.
    pub fn lost(&mut self, id: PeerId, reason: Reason, now: Moment) {
        if let Some(mut peer) = self.peers.remove(&id).filter(|peer| !peer.closing) {
            self.end(id, &mut peer, reason, now);
        }
    }

    /// A client has said nothing for too long: it is told, as far as it listens.
    pub fn silent(&mut self, id: PeerId, now: Moment) {
        if let Some(mut peer) = self.peers.remove(&id) {
            if !peer.closing {
                self.dismiss(id, &mut peer, Reason::SILENT, now);
            }
            self.peers.insert(id, peer);
        }
    }

    /// Takes packets from the front of what a client has sent.
    pub fn feed(&mut self, id: PeerId, received: &mut BytesMut, now: Moment) -> Fed {
        let Some(mut peer) = self.peers.remove(&id).filter(|peer| !peer.closing) else { return Fed::Closed };
        let outcome = self.work(id, &mut peer, received, now);
        if self.sessions.number() > self.handed {
            self.changed_at.get_or_insert(now.mono);
        }
        let fed = match outcome {
            Ok(fed) => fed,
            Err(reason) => {
                self.dismiss(id, &mut peer, reason, now);
                Fed::Closed
            }
        };
        self.touch(id, &mut peer);
        self.peers.insert(id, peer);
        fed
    }

    fn work(
        &mut self,
        id: PeerId,
        peer: &mut Peer,
        received: &mut BytesMut,
        now: Moment,
    ) -> std::result::Result<Fed, Reason> {
        while !self.builder.is_full() {
            if peer.to_skip > 0 {
                let skipped = peer.to_skip.min(received.len());
                received.advance(skipped);
                peer.to_skip -= skipped;
                if peer.to_skip > 0 {
                    return Ok(Fed::Dry(0));
                }
            }
            let Some(head) = wire::head(received).map_err(|_| Reason::MALFORMED)? else {
                return Ok(Fed::Dry(0));
            };
            let message = peer.greeted && head.kind == wire::PUBLISH;
            let size = head.body.end;
            let most = if peer.greeted { self.settings.packet_bytes_max } else { CONNECT_BYTES_MAX };
            if size > most {
                // Its beginning is enough to answer it.
                if !message || peer.protocol == Protocol::V5 {
                    return Err(Reason::TOO_LARGE);
                }
                match wire::publish_head(head.flags, &received[head.body.start..]) {
                    Some(_) if self.must_wait(id, peer, &head, now) => return Ok(Fed::Aside),
                    Some((_, packet, _)) => self.pass_over(id, peer, &head, packet),
                    None if received.len() > usize::from(u16::MAX) + 16 => return Err(Reason::MALFORMED),
                    None => return Ok(Fed::Dry(head.body.start + usize::from(u16::MAX) + 4)),
                }
                continue;
            }
            if received.len() < size {
                return Ok(Fed::Dry(size));
            }
            if self.must_wait(id, peer, &head, now) {
                return Ok(Fed::Aside);
            }
            if message {
                self.publish(id, peer, head.flags, &received[head.body], now)?;
                received.advance(size);
            } else {
                let packet = received.split_to(size);
                self.control(id, peer, head.kind, head.flags, &packet[head.body], now)?;
            }
        }
        Ok(Fed::Full)
    }

    /// Puts an answer into the queue; it needs everything that was taken so far. If that is safe, it goes out.
    pub(super) fn owe(&mut self, id: PeerId, peer: &mut Peer, kind: u8, packet: u16, code: u8) {
        let owed = Owed { needs: self.sessions.number(), kind, packet, code };
        if owed.needs <= self.safe && peer.owed.is_empty() {
            peer.answer(owed);
            return;
        }
        peer.owed.push_back(owed);
        self.wait_for(id, peer, owed.needs);
    }

    /// A client waits until a number is safe.
    pub(super) fn wait_for(&mut self, id: PeerId, peer: &mut Peer, number: u64) {
        self.urgent |= number > self.handed;
        if !std::mem::replace(&mut peer.owing, true) {
            self.owing.push(id);
        }
    }

    /// Ends a connection from this side.
    pub(super) fn dismiss(&mut self, id: PeerId, peer: &mut Peer, reason: Reason, now: Moment) {
        if peer.greeted {
            packet::dismiss(peer.protocol, reason, &mut peer.out);
        }
        peer.closing = true;
        self.end(id, peer, reason, now);
        self.touch(id, peer);
    }

    /// Another connection of the same client has come.
    pub(super) fn take_over(&mut self, old: PeerId, now: Moment) {
        if let Some(mut peer) = self.peers.remove(&old) {
            self.dismiss(old, &mut peer, Reason::TAKEN_OVER, now);
            self.peers.insert(old, peer);
        }
    }

    fn end(&mut self, id: PeerId, peer: &mut Peer, reason: Reason, now: Moment) {
        if reason != Reason::LEFT {
            self.count("disconnects", reason.word);
        }
        debug!(client = &*peer.client, connection = id, reason = reason.word, "connection over");
        peer.owed.clear();
        if !std::mem::replace(&mut peer.greeted, false) {
            return;
        }
        if self.online.get(&peer.client) == Some(&id) {
            self.online.remove(&peer.client);
        }
        if let Some(testament) = peer.testament.take() {
            let delay = testament.delay.min(peer.session_expiry);
            let pending = Pending { client: Arc::clone(&peer.client), due: now.mono + delay, testament };
            self.wills.push(pending);
        }
        if self.sessions.has(&peer.client) {
            if peer.session_expiry.is_zero() {
                self.sessions.end(&peer.client);
            } else {
                let ends = now.mono + peer.session_expiry;
                self.away.insert(Arc::clone(&peer.client), ends);
                self.away_until = self.away_until.map_or(Some(ends), |first| Some(first.min(ends)));
            }
        }
        self.publish_wills(now, None);
    }

    /// Takes the wills that are due, or all of one client.
    fn publish_wills(&mut self, now: Moment, of: Option<&str>) {
        let due = |pending: &mut Pending| pending.due <= now.mono || of == Some(&*pending.client);
        let wills: Vec<Pending> = self.wills.extract_if(.., due).collect();
        for Pending { testament, .. } in wills {
            if self.takes(&testament.topic) {
                self.builder.push(&testament.topic, &testament.payload, now.wall_micros, now.mono);
                self.sessions.advance();
                self.count("will_messages", "");
            } else {
                self.count("refused_messages", "will_topic");
            }
        }
    }

    /// A client is back: what was to be published because it was lost is not, if it goes on with its session.
    pub(super) fn back(&mut self, client: &str, resumes: bool, now: Moment) {
        if resumes {
            self.wills.retain(|pending| &*pending.client != client);
        } else {
            self.publish_wills(now, Some(client));
        }
    }

    /// Everything up to a number is safe: what needed that is answered.
    pub fn acknowledge(&mut self, safe: u64) {
        self.safe = self.safe.max(safe);
        let owing = std::mem::take(&mut self.owing);
        for id in owing {
            let Some(mut peer) = self.peers.remove(&id) else { continue };
            let settled = peer.settle(self.safe);
            let begins = peer.begins > self.safe;
            if (settled || !begins) && std::mem::take(&mut peer.aside) {
                self.again.push(id);
            }
            peer.owing = begins || !peer.owed.is_empty();
            if peer.owing {
                self.owing.push(id);
            }
            self.touch(id, &mut peer);
            self.peers.insert(id, peer);
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Moment) {
        self.again.extend(self.slowed.extract_if(.., |(at, _)| *at <= now.mono).map(|(_, id)| id));
        self.publish_wills(now, None);
        if self.away_until.is_some_and(|first| first <= now.mono) {
            let over = self.away.iter().filter(|(_, ends)| **ends <= now.mono);
            let over: Vec<Arc<str>> = over.map(|(client, _)| Arc::clone(client)).collect();
            for client in over {
                self.forget(&client);
            }
            self.away_until = self.away.values().min().copied();
        }
        if self.sessions.number() > self.handed {
            self.changed_at.get_or_insert(now.mono);
        }
    }

    /// The client whose session ends first of those that are away.
    pub(super) fn first_to_go(&self) -> Option<Arc<str>> {
        self.away.iter().min_by_key(|(_, ends)| **ends).map(|(client, _)| Arc::clone(client))
    }

    /// A client with a session has come back.
    pub(super) fn no_longer_away(&mut self, client: &str) {
        self.away.remove(client);
    }

    /// Ends the session of a client that is away.
    pub(super) fn forget(&mut self, client: &Arc<str>) {
        self.away.remove(client);
        self.sessions.end(client);
    }

    /// When the next thing happens by itself: a batch is old enough, a client may send again, a will is due, a session
    /// ends.
    pub fn due(&self) -> Option<Duration> {
        let slowed = self.slowed.iter().map(|(at, _)| *at).min();
        let wills = self.wills.iter().map(|pending| pending.due).min();
        [self.batch_due(), slowed, wills, self.away_until].into_iter().flatten().min()
    }

    fn batch_due(&self) -> Option<Duration> {
        let changed = self.changed_at.map(|at| at + self.settings.batch.age);
        self.builder.due().into_iter().chain(changed).min()
    }

    /// Whether a batch is to be handed on now; `dry` if nothing more is there to put into it. Where clients wait for
    /// answers it goes on at once, unless one is on its way to the log already: then it may grow until that is safe.
    pub fn is_ready(&self, now: Duration, dry: bool) -> bool {
        self.builder.is_full()
            || self.batch_due().is_some_and(|due| due <= now)
            || (dry && self.urgent && self.safe >= self.handed)
    }

    /// The batch; without rows where only sessions or identifiers have changed. `None` if nothing has.
    ///
    /// # Errors
    /// Never in fact: what is in it makes a batch.
    pub fn finish(&mut self) -> Result<Option<SourceBatch>> {
        let number = self.sessions.number();
        if number == self.handed {
            return Ok(None);
        }
        let empty = || arrow::array::RecordBatch::new_empty(schema::raw());
        let batch = self.builder.finish()?.unwrap_or_else(empty);
        self.handed = number;
        self.urgent = false;
        self.changed_at = None;
        Ok(Some(SourceBatch { batch, position: self.sessions.position()? }))
    }

    /// Says good-bye to everyone.
    pub fn stop(&mut self) {
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            let Some(mut peer) = self.peers.remove(&id) else { continue };
            if peer.greeted {
                packet::dismiss(peer.protocol, Reason::STOPPING, &mut peer.out);
            }
            peer.closing = true;
            self.touch(id, &mut peer);
            self.peers.insert(id, peer);
        }
    }

    pub(super) fn touch(&mut self, id: PeerId, peer: &mut Peer) {
        let something = !peer.out.is_empty() || peer.closing;
        if something && !std::mem::replace(&mut peer.touched, true) {
            self.touched.push(id);
        }
    }

    /// Clients that [`Fed::Aside`] put aside and that go on now.
    pub fn take_again(&mut self) -> Vec<PeerId> {
        std::mem::take(&mut self.again)
    }

    /// Clients that have something to be sent or are to be closed.
    pub fn take_touched(&mut self) -> Vec<PeerId> {
        std::mem::take(&mut self.touched)
    }

    /// What a client is to be sent, to be emptied, and whether it is closed then; how long it may be silent. A client
    /// that is closed is forgotten with this.
    pub fn output(&mut self, id: PeerId, sent: &mut Vec<u8>) -> Option<Told> {
        let peer = self.peers.get_mut(&id)?;
        peer.touched = false;
        sent.extend_from_slice(&peer.out);
        peer.out.clear();
        let told = Told { close: peer.closing, greeted: peer.greeted, idle_max: peer.idle_max };
        if told.close {
            self.peers.remove(&id);
        }
        Some(told)
    }

    pub(super) fn count(&mut self, what: &'static str, reason: &'static str) {
        let count = Count { what, reason };
        match self.counts.iter_mut().find(|(known, _)| *known == count) {
            Some((_, by)) => *by += 1,
            None => self.counts.push((count, 1)),
        }
    }

    /// What was counted since the last call.
    pub fn take_counts(&mut self) -> Vec<(Count, u64)> {
        std::mem::take(&mut self.counts)
    }
}

/// What a connection is told beside bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// To be closed when everything is sent.
    pub close: bool,
    /// The client was let in.
    pub greeted: bool,
    /// The longest silence.
    pub idle_max: Option<Duration>,
}
