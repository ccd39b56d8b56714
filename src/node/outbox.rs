//! What waits to be sent on one session, and the task that sends it.
//!
//! Control messages go before chunks. Both queues are bounded in bytes, so that a neighbour that does not read costs a
//! known amount of memory, and one that does not read for [`STALL`] loses the session.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use proto::Message;
use proto::codec::{self, DecodeError};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Bytes of control messages that may wait: a few of the largest.
const CONTROL_BYTES: usize = 4 << 20;

/// Bytes of chunks that may wait, unless the session's owner says otherwise. One chunk is always taken.
const CHUNK_BYTES: usize = 4 << 20;

/// What one queued message costs beyond its bytes, so that many small ones are bounded too.
const OVERHEAD: usize = 128;

/// Bytes handed to TLS at once, but for the rest of the last chunk; control messages that come later wait for these, and for
/// what the socket has.
pub(crate) const BATCH_BYTES: usize = 32 << 10;

/// Frames handed to TLS at once.
const BATCH_FRAMES: usize = 256;

/// How long a write may make no progress before the session is given up.
pub const STALL: Duration = Duration::from_secs(20);

/// How long the last messages may take once the session is closed on purpose.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The sending side of a session; clones send on the same one. The session ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct SessionSender {
    handle: Arc<Handle>,
}

/// Why a message was not queued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The queue is full: the neighbour reads slower than we send.
    #[error("the neighbour does not read fast enough")]
    Full,
    /// The session is over.
    #[error("the session is closed")]
    Closed,
    /// The message is over a limit, or its payload is not as long as it says.
    #[error(transparent)]
    Invalid(#[from] DecodeError),
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

/// What the senders, the writing task and the reader of one session have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    queues: Mutex<Queues>,
    /// There is something to write, or nothing more will come.
    work: Notify,
    /// There is room again, or the session is over.
    room: Notify,
    /// The writing task ended.
    ended: Notify,
}

#[derive(Debug)]
struct Queues {
    control: VecDeque<Vec<u8>>,
    control_bytes: usize,
    chunks: VecDeque<(Message, Bytes)>,
    chunk_bytes: usize,
    chunk_limit: usize,
    sent_bytes: u64,
    /// Nothing more is taken; what waits is still sent.
    closing: bool,
    /// The writing task ended; with the reason, if it was not on purpose.
    ended: Option<Option<String>>,
}

impl SessionSender {
    /// Queues a message that has no payload, before all chunks.
    pub fn send(&self, message: &Message) -> Result<(), SendError> {
        if message.payload() != 0 {
            return Err(DecodeError::FieldTooLarge("payload of a control message").into());
        }
        let frame = codec::encode(message)?;
        let mut queues = self.handle.shared.lock();
        queues.open()?;
        if queues.control_bytes + frame.len() + OVERHEAD > CONTROL_BYTES {
            return Err(SendError::Full);
        }
        queues.control_bytes += frame.len() + OVERHEAD;
        queues.control.push_back(frame);
        drop(queues);
        self.handle.shared.work.notify_one();
        Ok(())
    }

    /// Queues a message with its payload, behind the chunks that wait already.
    pub fn try_send_chunk(&self, message: Message, payload: Bytes) -> Result<(), SendError> {
        if message.payload() != payload.len() || payload.len() > proto::limits::PAYLOAD_BYTES {
            return Err(DecodeError::FieldTooLarge("payload").into());
        }
        let mut queues = self.handle.shared.lock();
        queues.open()?;
        if queues.chunk_bytes > 0 && queues.chunk_bytes + payload.len() > queues.chunk_limit {
            return Err(SendError::Full);
        }
        queues.chunk_bytes += payload.len() + OVERHEAD;
        queues.chunks.push_back((message, payload));
        drop(queues);
        self.handle.shared.work.notify_one();
        Ok(())
    }

    /// Queues a message with its payload as soon as there is room. Dropping the future queues nothing.
    pub async fn send_chunk(&self, message: Message, payload: Bytes) -> Result<(), SendError> {
        loop {
            let room = self.handle.shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            match self.try_send_chunk(message.clone(), payload.clone()) {
                Err(SendError::Full) => room.await,
                other => return other,
            }
        }
    }

    /// Takes back the queued chunks for whose message `unwanted` holds; returns how many.
    pub fn retract(&self, mut unwanted: impl FnMut(&Message) -> bool) -> usize {
        let mut queues = self.handle.shared.lock();
        let before = queues.chunks.len();
        queues.chunks.retain(|(message, _)| !unwanted(message));
        queues.chunk_bytes = queues.chunks.iter().map(|(_, payload)| payload.len() + OVERHEAD).sum();
        let taken = before - queues.chunks.len();
        drop(queues);
        if taken > 0 {
            self.handle.shared.room.notify_waiters();
        }
        taken
    }

    /// Bytes of chunks that wait to be sent. What the system's socket buffer holds is not counted.
    pub fn queued_bytes(&self) -> usize {
        self.handle.shared.lock().chunk_bytes
    }

    /// Bytes written on this session so far, headers included, TLS excluded.
    pub fn sent_bytes(&self) -> u64 {
        self.handle.shared.lock().sent_bytes
    }

    /// Sets how many bytes of chunks may wait. One chunk is always taken.
    pub fn limit_chunks(&self, bytes: usize) {
        self.handle.shared.lock().chunk_limit = bytes;
    }

    /// Ends the session on purpose: the chunks that wait are dropped, what else waits and a `Bye` are sent.
    pub fn close(&self, reason: &str) {
        let mut end = reason.len().min(proto::limits::TEXT_BYTES);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let bye = codec::encode(&Message::Bye { reason: reason[..end].to_owned() });
        let mut queues = self.handle.shared.lock();
        if queues.closing {
            return;
        }
        queues.chunks.clear();
        queues.chunk_bytes = 0;
        queues.control.extend(bye.ok());
        drop(queues);
        self.handle.shared.close();
    }

    /// Whether the session no longer takes messages.
    pub fn is_closed(&self) -> bool {
        self.handle.shared.lock().open().is_err()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Queues {
    fn open(&self) -> Result<(), SendError> {
        if self.closing || self.ended.is_some() { Err(SendError::Closed) } else { Ok(()) }
    }

    /// Moves what is to be written next into `batch`, two slices a frame: everything small, then some chunks.
    fn take(&mut self, batch: &mut Vec<Bytes>) -> Result<(), DecodeError> {
        let mut bytes = 0;
        while bytes < BATCH_BYTES && batch.len() < BATCH_FRAMES {
            let Some(frame) = self.control.pop_front() else { break };
            bytes += frame.len();
            self.control_bytes = self.control_bytes.saturating_sub(frame.len() + OVERHEAD);
            batch.push(frame.into());
        }
        while bytes < BATCH_BYTES && batch.len() < BATCH_FRAMES {
            let Some((message, payload)) = self.chunks.pop_front() else { break };
            bytes += payload.len();
            self.chunk_bytes -= payload.len() + OVERHEAD;
            batch.push(codec::encode(&message)?.into());
            batch.push(payload);
        }
        self.sent_bytes += batch.iter().map(|b| b.len() as u64).sum::<u64>();
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes no more messages; what waits is still sent.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.work.notify_one();
        self.room.notify_waiters();
    }

    /// Waits for the end of the writing task, and says why it ended if that was not on purpose.
    pub(crate) async fn ended(&self) -> Option<String> {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if let Some(reason) = &self.lock().ended {
                return reason.clone();
            }
            ended.await;
        }
    }
}

/// Starts the writing task of a session. `stall` is how long it may make no progress.
pub(crate) fn start(stream: impl AsyncWrite + Send + Unpin + 'static, stall: Duration) -> (SessionSender, Arc<Shared>) {
    let queues = Queues {
        control: VecDeque::new(),
        control_bytes: 0,
        chunks: VecDeque::new(),
        chunk_bytes: 0,
        chunk_limit: CHUNK_BYTES,
        sent_bytes: 0,
        closing: false,
        ended: None,
    };
    let shared =
        Arc::new(Shared { queues: Mutex::new(queues), work: Notify::new(), room: Notify::new(), ended: Notify::new() });
    tokio::spawn(run(stream, shared.clone(), stall));
    (SessionSender { handle: Arc::new(Handle { shared: shared.clone() }) }, shared)
}

async fn run(mut stream: impl AsyncWrite + Unpin, shared: Arc<Shared>, stall: Duration) {
    let result = write_all(&mut stream, &shared, stall).await;
    if result.is_ok() {
        timeout(LAST_WORDS.min(stall), stream.shutdown()).await.ok();
    }
    let mut queues = shared.lock();
    queues.ended = Some(result.err().map(|e| e.to_string()));
    queues.control = VecDeque::new();
    queues.chunks = VecDeque::new();
    queues.chunk_bytes = 0;
    drop(queues);
    shared.room.notify_waiters();
    shared.ended.notify_waiters();
}

/// Writes what is queued until the session is closed and nothing is left.
async fn write_all(stream: &mut (impl AsyncWrite + Unpin), shared: &Shared, stall: Duration) -> io::Result<()> {
    let mut batch = Vec::new();
    loop {
        let closing = {
            let mut queues = shared.lock();
            queues.take(&mut batch).map_err(io::Error::other)?;
            queues.closing
        };
        if batch.is_empty() {
            progress(stall, stream.flush()).await?;
            if closing {
                return Ok(());
            }
            shared.work.notified().await;
            continue;
        }
        shared.room.notify_waiters();
        let stall = if closing { LAST_WORDS.min(stall) } else { stall };
        let mut slices: Vec<IoSlice<'_>> = batch.iter().map(|bytes| IoSlice::new(bytes)).collect();
        let mut left = &mut slices[..];
        while !left.is_empty() {
            let written = progress(stall, stream.write_vectored(left)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut left, written);
        }
        batch.clear();
    }
}

async fn progress<T>(stall: Duration, write: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(stall, write).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing was read for {} s", stall.as_secs()))),
    }
}
