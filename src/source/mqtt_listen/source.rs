//! The world around the server: a port, its connections, and what they have for the pipeline.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hashbrown::HashMap;
use rumqttc::tokio_rustls::TlsAcceptor;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{info, warn};

use super::access::Access;
use super::line::{self, Event, Line, Scratch, Stream};
use super::packet::Reason;
use super::server::{Fed, Moment, PeerId, Server};
use super::settings::ServerSettings;
use crate::core::ends::SourceBatch;
use crate::core::{Count, Position, Source};
use crate::error::{Error, Result};
use crate::net::secret;
use crate::net::tls::ServerTlsSettings;
use crate::source::sessions::Sessions;
use crate::units::Secret;

/// Connections that the kernel holds until they are taken.
const BACKLOG: u32 = 1024;

/// How long connections get for their last words when the pipeline stops.
const STOP_MAX: Duration = Duration::from_secs(2);

/// How a source listens.
#[derive(Clone)]
pub struct ListenSettings {
    /// Where.
    pub listen: SocketAddr,
    /// TLS, if wanted.
    pub tls: Option<ServerTlsSettings>,
    /// Who may come in, with their passwords.
    pub users: Vec<(String, Secret)>,
    /// Whether one may come in without a name.
    pub anonymous: bool,
    /// How long a client may take from the first byte to CONNECT.
    pub connect_timeout: Duration,
    /// The protocol.
    pub server: ServerSettings,
}

/// The `mqtt_listen` source.
pub struct ListenSource {
    settings: ListenSettings,
    open: Option<Open>,
    started: Instant,
    listening: Arc<AtomicBool>,
    turned_away: Arc<TurnedAway>,
}

/// Connections that did not get as far as the server.
#[derive(Default)]
struct TurnedAway {
    /// There was no place.
    busy: AtomicU64,
    /// TLS did not come about.
    tls: AtomicU64,
}

/// What there is while it listens.
struct Open {
    server: Server,
    lines: HashMap<PeerId, Arc<Line>>,
    /// Clients with bytes to take, in turn.
    ready: VecDeque<PeerId>,
    events: mpsc::UnboundedReceiver<Event>,
    port: Port,
}

/// The task that takes connections, and holds the tasks of all of them. It ends with this value.
struct Port {
    task: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ListenSource {
    /// Not listening yet.
    pub fn new(settings: ListenSettings) -> Self {
        Self {
            settings,
            open: None,
            started: Instant::now(),
            listening: Arc::default(),
            turned_away: Arc::default(),
        }
    }

    /// Whether it listens, now and later.
    pub fn listening(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.listening)
    }

    fn moment(&self) -> Moment {
        Moment { mono: self.started.elapsed(), wall_micros: crate::clock::wall().micros() }
    }

    fn listener(&self) -> Result<TcpListener> {
        let address = self.settings.listen;
        let listen = || {
            let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
            // A restart need not wait until the kernel has forgotten the connections of before.
            socket.set_reuseaddr(true)?;
            // Taken over by every connection: a client that is gone without a word is noticed some time.
            socket.set_keepalive(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        listen().map_err(|error| Error::io(format!("listening on {address}"), &error))
    }
}

impl Open {
    /// Lets clients have their turns until the batch is full or nothing is left; true if nothing is.
    fn take(&mut self, now: Moment) -> bool {
        self.server.tick(now);
        self.ready.extend(self.server.take_again());
        while let Some(id) = self.ready.front().copied() {
            if self.take_from(id, now) == Fed::Full {
                break;
            }
            self.ready.pop_front();
        }
        self.tell();
        self.ready.is_empty()
    }

    fn take_from(&mut self, id: PeerId, now: Moment) -> Fed {
        let Some(line) = self.lines.get(&id) else { return Fed::Closed };
        let mut shared = line.shared();
        let fed = self.server.feed(id, &mut shared.received, now);
        // A client that is put aside, or whose bytes do not fit into the batch, is known to have something.
        if let Fed::Dry(wanted) = fed {
            shared.known = false;
            shared.wanted = wanted;
            line.changed.notify_one();
            if let Some(reason) = shared.gone {
                drop(shared);
                self.over(id, reason, now);
            }
        }
        fed
    }

    /// A connection has ended or is to end, and everything it said was taken.
    fn over(&mut self, id: PeerId, reason: Reason, now: Moment) {
        if reason == Reason::SILENT {
            self.server.silent(id, now);
            self.tell();
        } else {
            self.lines.remove(&id);
            self.server.lost(id, reason, now);
        }
    }

    /// Gives bytes to those who are to be sent some.
    fn tell(&mut self) {
        for id in self.server.take_touched() {
            let Some(line) = self.lines.get(&id) else {
                self.server.output(id, &mut Vec::new());
                continue;
            };
            let mut shared = line.shared();
            let Some(told) = self.server.output(id, &mut shared.out) else { continue };
            shared.close = told.close;
            shared.greeted = told.greeted;
            shared.idle_max = told.idle_max;
            line.changed.notify_one();
            if told.close {
                drop(shared);
                self.lines.remove(&id);
            }
        }
    }

    fn event(&mut self, event: Event, now: Moment) {
        match event {
            Event::Connected(line, certified) => {
                self.server.connected(line.id, certified);
                self.lines.insert(line.id, line);
            }
            Event::Received(id) => self.ready.push_back(id),
            Event::Gone(id, reason) => {
                // What it said before it went counts, most of all that it goes.
                let Some(line) = self.lines.get(&id) else { return };
                let mut shared = line.shared();
                if shared.known {
                    shared.gone = Some(reason);
                    return;
                }
                drop(shared);
                self.over(id, reason, now);
            }
        }
    }
}

#[async_trait]
impl Source for ListenSource {
    async fn open(&mut self, from: Option<&Position>) -> Result<()> {
        self.open = None;
        let mut users = Vec::with_capacity(self.settings.users.len());
        for (name, password) in &self.settings.users {
            users.push((name.clone(), secret::resolve(password)?));
        }
        let access = Access::new(users, self.settings.anonymous);
        let tls = self.settings.tls.as_ref().map(|tls| tls.server_config()).transpose()?;
        let server = Server::new(self.settings.server.clone(), access, from, self.started.elapsed())?;
        let listener = self.listener()?;
        info!(address = %self.settings.listen, tls = tls.is_some(), "listening for MQTT clients");
        let (sender, events) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let arrivals = Arrivals {
            listener,
            tls: tls.map(TlsAcceptor::from),
            certified: self.settings.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()),
            places: Arc::new(Semaphore::new(self.settings.server.clients_max)),
            connect_timeout: self.settings.connect_timeout,
            events: sender,
            turned_away: Arc::clone(&self.turned_away),
        };
        let port = Port { task: tokio::spawn(arrivals.run(stopped)), stop: Some(stop) };
        self.open = Some(Open { server, lines: HashMap::new(), ready: VecDeque::new(), events, port });
        self.listening.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<SourceBatch>> {
        loop {
            let now = self.moment();
            let Some(open) = &mut self.open else { return Err(Error::state("the source is not open")) };
            let dry = open.take(now);
            if open.server.is_ready(now.mono, false)
                && let Some(batch) = open.server.finish()?
            {
                return Ok(Some(batch));
            }
            if !dry {
                continue;
            }
            // The sockets' tasks get a turn: others may have something for the same batch.
            tokio::task::yield_now().await;
            while let Ok(event) = open.events.try_recv() {
                open.event(event, now);
            }
            if !open.ready.is_empty() {
                continue;
            }
            if open.server.is_ready(now.mono, true)
                && let Some(batch) = open.server.finish()?
            {
                return Ok(Some(batch));
            }
            let due = open.server.due().map(|due| tokio::time::Instant::from_std(self.started + due));
            tokio::select! {
                biased;
                event = open.events.recv() => match event {
                    Some(event) => open.event(event, now),
                    None => return Err(Error::data("nothing listens any more")),
                },
                () = async {
                    match due {
                        Some(due) => tokio::time::sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    }

    async fn acknowledge(&mut self, upto: &Position) -> Result<()> {
        if let Some(open) = &mut self.open {
            open.server.acknowledge(Sessions::number_in(upto)?);
            open.tell();
        }
        Ok(())
    }

    fn take_counts(&mut self) -> Vec<(Count, u64)> {
        let mut counts = self.open.as_mut().map_or_else(Vec::new, |open| open.server.take_counts());
        let turned_away = [(Reason::BUSY, &self.turned_away.busy), (Reason::TLS, &self.turned_away.tls)];
        for (reason, count) in turned_away {
            let by = count.swap(0, Ordering::Relaxed);
            if by > 0 {
                counts.push((Count { what: "refused_connections", reason: reason.word }, by));
            }
        }
        counts
    }

    async fn close(&mut self) {
        self.listening.store(false, Ordering::Relaxed);
        let Some(mut open) = self.open.take() else { return };
        open.server.stop();
        open.tell();
        if let Some(stop) = open.port.stop.take() {
            let _ = stop.send(());
        }
        let _ = tokio::time::timeout(STOP_MAX, &mut open.port.task).await;
    }
}

/// Takes connections from the port.
struct Arrivals {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    certified: bool,
    places: Arc<Semaphore>,
    connect_timeout: Duration,
    events: mpsc::UnboundedSender<Event>,
    turned_away: Arc<TurnedAway>,
}

impl Arrivals {
    /// Until it is told to stop; then it waits for the connections to end.
    async fn run(self, mut stopped: oneshot::Receiver<()>) {
        let Self { listener, tls, certified, places, connect_timeout, events, turned_away } = self;
        let scratch = line::scratch();
        let mut connections = JoinSet::new();
        let mut id: PeerId = 0;
        let mut said = false;
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((tcp, _)) => {
                        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                            turned_away.busy.fetch_add(1, Ordering::Relaxed);
                            continue;
                        };
                        id += 1;
                        let connection = Connection {
                            tcp,
                            tls: tls.clone(),
                            certified,
                            line: Line::new(id, place),
                            turned_away: Arc::clone(&turned_away),
                            events: events.clone(),
                            scratch: Arc::clone(&scratch),
                            greeted_by: tokio::time::Instant::now() + connect_timeout,
                        };
                        connections.spawn(connection.run());
                    }
                    Err(error) => {
                        // Most often there are no more file descriptors, and waiting helps.
                        if !std::mem::replace(&mut said, true) {
                            warn!(%error, "a connection could not be taken; trying again");
                        }
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }
}

/// A connection that has just come.
struct Connection {
    tcp: TcpStream,
    tls: Option<TlsAcceptor>,
    certified: bool,
    line: Arc<Line>,
    events: mpsc::UnboundedSender<Event>,
    scratch: Scratch,
    greeted_by: tokio::time::Instant,
    turned_away: Arc<TurnedAway>,
}

impl Connection {
    async fn run(self) {
        // Answers are small and waited for. A socket that refuses this works all the same.
        let _ = self.tcp.set_nodelay(true);
        let stream: Box<dyn Stream> = match self.tls {
            None => Box::new(self.tcp),
            Some(tls) => match tokio::time::timeout_at(self.greeted_by, tls.accept(self.tcp)).await {
                Ok(Ok(stream)) => Box::new(stream),
                Ok(Err(_)) | Err(_) => {
                    self.turned_away.tls.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            },
        };
        let _ = self.events.send(Event::Connected(Arc::clone(&self.line), self.certified));
        line::run(stream, self.line, self.events, self.scratch, self.greeted_by).await;
    }
}
