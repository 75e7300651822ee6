//! The socket of one client, and the task that moves its bytes: in as far as there is room, out as they come.
//!
//! What the task and the source share is two buffers behind a lock that neither holds while it waits. A client that
//! is not listened to (the pipeline is full, it is owed too much) fills its buffer and then its TCP window.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout};

use super::packet::Reason;
use super::server::PeerId;

/// Bytes that are read ahead of what was taken; a larger packet may ask for more.
pub const READ_BYTES: usize = 64 << 10;

/// Answers that wait for a client which does not read them; beyond this it is not read from either.
const OUT_BYTES_MAX: usize = 64 << 10;

/// How long a client may leave its answers unread before it is given up.
const STALL_MAX: Duration = Duration::from_secs(30);

/// How long a connection that is being closed may take to take its last bytes.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// A socket, encrypted or not.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What happens at the sockets. Of each connection one of each kind is under way at most, and it keeps its place until
/// they are heard, so that the number of connections bounds what waits.
pub enum Event {
    /// A client is connected, with a certificate if one was demanded.
    Connected(Arc<Line>, bool),
    /// It has sent something.
    Received(PeerId),
    /// It is gone.
    Gone(PeerId, Reason),
}

/// Buffers that are shared with the source.
#[derive(Default)]
pub struct Shared {
    /// Bytes from the client that were not taken yet.
    pub received: BytesMut,
    /// How many of them there must be for the next packet, if more than are usually read.
    pub wanted: usize,
    /// Whether the source knows that there is something, and has not looked yet.
    pub known: bool,
    /// Bytes for the client.
    pub out: Vec<u8>,
    /// Whether to close when they are sent.
    pub close: bool,
    /// Whether it was let in: until then it has only so much time.
    pub greeted: bool,
    /// Longest silence.
    pub idle_max: Option<Duration>,
    /// Why the connection has ended, while what came before that is still to be taken.
    pub gone: Option<Reason>,
}

/// One connection.
pub struct Line {
    /// Its number.
    pub id: PeerId,
    shared: Mutex<Shared>,
    /// That the source has changed something.
    pub changed: Notify,
    /// Its place among the connections that there may be; free again when nobody knows it any more.
    _place: OwnedSemaphorePermit,
}

impl Line {
    /// Nothing received, nothing to send.
    pub fn new(id: PeerId, place: OwnedSemaphorePermit) -> Arc<Self> {
        Arc::new(Self { id, shared: Mutex::default(), changed: Notify::new(), _place: place })
    }

    /// The buffers.
    pub fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where bytes are read into first: one for all lines, so that a quiet connection holds no buffer.
pub type Scratch = Arc<Mutex<Box<[u8]>>>;

/// A new one.
pub fn scratch() -> Scratch {
    Arc::new(Mutex::new(vec![0; READ_BYTES].into_boxed_slice()))
}

/// How far one call of `move_bytes` came.
struct Progress {
    /// Bytes wait that the client does not take.
    stalled: bool,
    /// More from the client would be taken.
    listening: bool,
}

/// Moves bytes until the connection ends, and says why.
pub async fn run(
    mut stream: Box<dyn Stream>,
    line: Arc<Line>,
    events: UnboundedSender<Event>,
    scratch: Scratch,
    greeted_by: Instant,
) {
    let reason = drive(&mut stream, &line, &events, &scratch, greeted_by).await;
    if let Some(reason) = reason {
        let _ = events.send(Event::Gone(line.id, reason));
        if reason != Reason::SILENT {
            return;
        }
        // The source has a last word for it.
        let told = async {
            while !line.shared().close {
                line.changed.notified().await;
            }
        };
        let _ = timeout(CLOSE_MAX, told).await;
    }
    let _ = timeout(CLOSE_MAX, close(&mut stream, &line)).await;
}

/// Moves bytes; `None` when the source wants the connection closed, else why it has ended.
async fn drive(
    stream: &mut Box<dyn Stream>,
    line: &Line,
    events: &UnboundedSender<Event>,
    scratch: &Scratch,
    greeted_by: Instant,
) -> Option<Reason> {
    // When the client was last heard, or was not listened to.
    let mut heard = Instant::now();
    let mut taken = Instant::now();
    loop {
        let mut progress = Progress { stalled: false, listening: false };
        let deadline = {
            let shared = line.shared();
            if shared.close {
                return None;
            }
            let idle = match (shared.greeted, shared.idle_max) {
                (false, _) => Some(greeted_by),
                (true, idle) => idle.map(|idle| heard + idle),
            };
            let stall = (!shared.out.is_empty()).then_some(taken + STALL_MAX);
            // What the client has sent and nobody has looked at is no silence.
            let idle = idle.filter(|_| !shared.known && shared.out.len() < OUT_BYTES_MAX);
            idle.into_iter().chain(stall).min()
        };
        let moved = tokio::select! {
            biased;
            moved = poll_fn(|context| {
                move_bytes(context, stream, line, events, scratch, &mut progress)
            }) => Some(moved),
            () = line.changed.notified() => None,
            () = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            } => return Some(Reason::SILENT),
        };
        let now = Instant::now();
        match moved {
            Some(Ok(true)) => heard = now,
            Some(Ok(false)) => taken = now,
            Some(Err(_)) => return Some(Reason::LOST),
            None => {}
        }
        if !progress.listening {
            heard = now;
        }
        if !progress.stalled {
            taken = now;
        }
    }
}

/// Writes and reads what can be without waiting; ready with true when something was read, with false when something
/// was written.
fn move_bytes(
    context: &mut Context<'_>,
    stream: &mut Box<dyn Stream>,
    line: &Line,
    events: &UnboundedSender<Event>,
    scratch: &Scratch,
    progress: &mut Progress,
) -> Poll<io::Result<bool>> {
    let mut shared = line.shared();
    let shared = &mut *shared;
    let mut wrote = false;
    if !shared.out.is_empty() {
        match write(context, stream, &mut shared.out) {
            Poll::Ready(outcome) => {
                outcome?;
                wrote = true;
            }
            Poll::Pending => progress.stalled = true,
        }
    }
    progress.listening = shared.received.len() < READ_BYTES.max(shared.wanted)
        && shared.out.len() < OUT_BYTES_MAX
        && !shared.close;
    if progress.listening {
        let mut scratch = scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = ReadBuf::new(&mut scratch);
        if Pin::new(stream).poll_read(context, &mut buffer)?.is_ready() {
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if shared.received.is_empty() {
                // What it held before went out in pieces of any size: no empty buffer is kept.
                shared.received = BytesMut::from(buffer.filled());
            } else {
                shared.received.extend_from_slice(buffer.filled());
            }
            if !std::mem::replace(&mut shared.known, true) {
                let _ = events.send(Event::Received(line.id));
            }
            return Poll::Ready(Ok(true));
        }
    }
    if wrote { Poll::Ready(Ok(false)) } else { Poll::Pending }
}

/// Writes as much as is taken, at least something.
fn write(context: &mut Context<'_>, stream: &mut Box<dyn Stream>, out: &mut Vec<u8>) -> Poll<io::Result<()>> {
    let written = ready!(Pin::new(&mut *stream).poll_write(context, out))?;
    if written == 0 {
        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
    }
    out.drain(..written);
    // What does not get through now goes on with the next write: a record of TLS is whole only then.
    Pin::new(stream).poll_flush(context).map(|_| Ok(()))
}

/// Sends the last bytes, and takes in what the client still says, for a moment: to close over unread bytes would
/// take the last word away from it.
async fn close(stream: &mut Box<dyn Stream>, line: &Line) -> io::Result<()> {
    use tokio::io::AsyncWriteExt;
    let out = std::mem::take(&mut line.shared().out);
    stream.write_all(&out).await?;
    stream.flush().await?;
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
