//! The other side: what runs where the index and the store are, started by somebody's ssh. It gives what is asked for, or
//! takes what is pushed; everything that is taken is checked before it is kept, and an index gets its name only when
//! every chunk of it is there.

use std::collections::{HashSet, VecDeque};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use proto::ChunkId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::encoded;
use super::link::{LinkError, Reader, Writer};
use super::message::{IDS, LONGEST_CHUNK, Message, services};
use crate::chunk::{Encoded, Encoding, verify};
use crate::format::compression::Compressor;
use crate::format::index::{Index, MAX_FILE};
use crate::make::{IndexFile, MakeError, save, save_index};
use crate::source::SourceError;
use crate::source::local_store::LocalStore;

/// How much of a file goes in one message.
const PART: usize = 64 << 10;

/// How many requests are remembered; who asks for more at a time is not listened to until some are answered.
const QUEUED: usize = 1 << 20;

/// How many chunks are read ahead of the pipe.
const AHEAD: usize = 8;

/// How many chunks are asked of a pusher at a time.
const ASKED: usize = 512;

/// What a side is started for.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    /// An archive to give, or to take.
    pub archive: Option<PathBuf>,
    /// An index to give, or to take.
    pub index: Option<PathBuf>,
    /// The store that is given from, or that takes.
    pub store: Option<PathBuf>,
    /// Further stores to give from, or whose chunks need not be pushed.
    pub others: Vec<PathBuf>,
}

/// Why it ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The conversation failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A store or chunk is not what it should be.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// What came cannot be kept.
    #[error(transparent)]
    Keep(#[from] MakeError),
    /// A file cannot be read.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// What came is not what it should be.
    #[error("{0}")]
    Refused(String),
}

/// Gives what is offered, over these pipes, until the other side is content or gone.
///
/// # Errors
/// [`ServeError`]; the other side is told.
pub async fn pull(
    offer: &Offer,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin,
) -> Result<(), ServeError> {
    let (mut reader, mut writer) = (Reader::new(input, None), Writer::new(output));
    let given = give(offer, &mut reader, &mut writer).await;
    told(given, &mut writer).await
}

/// Takes what is pushed over these pipes.
///
/// # Errors
/// [`ServeError`]; the other side is told.
pub async fn push(
    offer: &Offer,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin,
) -> Result<(), ServeError> {
    let (mut reader, mut writer) = (Reader::new(input, None), Writer::new(output));
    let taken = take(offer, &mut reader, &mut writer).await;
    told(taken, &mut writer).await
}

async fn told(done: Result<(), ServeError>, writer: &mut Writer<impl AsyncWrite + Unpin>) -> Result<(), ServeError> {
    let Err(error) = done else { return Ok(()) };
    let errno = match &error {
        ServeError::File { error, .. } => error.raw_os_error().unwrap_or(0).unsigned_abs().into(),
        _ => 0,
    };
    // It may be gone, which is why we are here.
    let _ = writer.send(&Message::Abort { errno, reason: error.to_string() }).await;
    Err(error)
}

async fn greet(
    has: u64,
    reader: &mut Reader<impl AsyncRead + Unpin>,
    writer: &mut Writer<impl AsyncWrite + Unpin>,
) -> Result<u64, ServeError> {
    writer.send(&Message::Hello(has)).await?;
    match reader.receive().await? {
        Message::Hello(wants) if !services::unknown(wants) && services::agree(wants, has) => Ok(wants),
        Message::Hello(wants) => Err(ServeError::Refused(format!("wanted is {wants:#x}, and here is only {has:#x}"))),
        _ => Err(LinkError::Unexpected("the other side does not begin with a hello".to_owned()).into()),
    }
}

async fn give(
    offer: &Offer,
    reader: &mut Reader<impl AsyncRead + Unpin>,
    writer: &mut Writer<impl AsyncWrite + Unpin>,
) -> Result<(), ServeError> {
    let stores: Vec<LocalStore> =
        offer.store.iter().chain(&offer.others).map(LocalStore::open).collect::<Result<_, _>>()?;
    let has = services::READABLE_STORE * u64::from(!stores.is_empty())
        + services::READABLE_INDEX * u64::from(offer.index.is_some())
        + services::READABLE_ARCHIVE * u64::from(offer.archive.is_some());
    let wants = greet(has, reader, writer).await?;
    if let Some(index) = offer.index.as_deref().filter(|_| wants & services::PULL_INDEX != 0) {
        give_file(index, writer, Message::Index).await?;
        writer.send(&Message::IndexEof).await?;
    }
    if let Some(archive) = offer.archive.as_deref().filter(|_| wants & services::PULL_ARCHIVE != 0) {
        give_file(archive, writer, Message::Archive).await?;
        writer.send(&Message::ArchiveEof).await?;
    }
    let queue = Queue::default();
    let listen = async {
        let heard = loop {
            match reader.next().await {
                Ok(Some(Message::Request { high, ids })) => queue.add(ids, high).await,
                // casync just closes the pipe.
                Ok(Some(Message::Goodbye) | None) | Err(LinkError::Ended | LinkError::Io(_)) => break Ok(()),
                Ok(Some(_)) => {
                    break Err(LinkError::Unexpected("the other side sends something else than requests".to_owned()));
                }
                Err(error) => break Err(error),
            }
        };
        queue.end();
        heard
    };
    let speak = async {
        let ids = futures::stream::unfold((), |()| async { Some((queue.next().await?, ())) });
        let answers = ids.map(|id| {
            let stores = stores.clone();
            async move { (id, tokio::task::spawn_blocking(move || read(&stores, id)).await) }
        });
        let mut answers = std::pin::pin!(answers.buffered(AHEAD));
        while let Some((id, answer)) = answers.next().await {
            let found = answer.map_err(|error| SourceError::unavailable("store", error))??;
            let message = match found {
                Some(found) => Message::Chunk { compressed: found.encoding != Encoding::Plain, id, data: found.bytes },
                None => Message::Missing(id),
            };
            match writer.send(&message).await {
                Err(LinkError::Ended) => return Ok(()),
                sent => sent?,
            }
        }
        Ok::<_, ServeError>(())
    };
    // Whoever pulls may go at any time: what it asked for and does not want any more is not read.
    match futures::future::select(std::pin::pin!(listen), std::pin::pin!(speak)).await {
        futures::future::Either::Left((heard, speak)) => {
            heard?;
            speak.await
        }
        futures::future::Either::Right((spoken, _)) => spoken,
    }
}

async fn give_file(
    path: &Path,
    writer: &mut Writer<impl AsyncWrite + Unpin>,
    message: impl Fn(Bytes) -> Message,
) -> Result<(), ServeError> {
    let failed = |error| ServeError::File { path: path.to_owned(), error };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    loop {
        let mut part = vec![0; PART];
        let read = file.read(&mut part).map_err(failed)?;
        if read == 0 {
            return Ok(());
        }
        part.truncate(read);
        writer.send(&message(part.into())).await?;
    }
}

/// As it lies there; what lies there plain is compressed for the way. A damaged one is the receiver's to find out, who
/// knows its length; one that cannot be read in one store may be in the next.
fn read(stores: &[LocalStore], id: ChunkId) -> Result<Option<Encoded>, SourceError> {
    for store in stores {
        match store.get(id) {
            Ok(Some(found)) => {
                let found = match found.encoding {
                    Encoding::Plain => compressed(&found).unwrap_or(found),
                    _ => found,
                };
                if found.bytes.len() <= LONGEST_CHUNK {
                    return Ok(Some(found));
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!("{error}"),
        }
    }
    Ok(None)
}

fn compressed(plain: &Encoded) -> Option<Encoded> {
    let bytes = Compressor::new(Encoding::Zstd).ok()?.compress(&plain.bytes).ok()?;
    Some(Encoded { encoding: Encoding::Zstd, bytes: bytes.into() })
}

/// What was asked for and not answered yet, the urgent first.
#[derive(Default)]
struct Queue {
    state: Mutex<Queued>,
    work: Notify,
    room: Notify,
}

#[derive(Default)]
struct Queued {
    high: VecDeque<ChunkId>,
    low: VecDeque<ChunkId>,
    /// Every id in one of the two, once: one that has become urgent is passed over where it was before.
    open: HashSet<ChunkId>,
    over: bool,
}

impl Queue {
    async fn add(&self, ids: Vec<ChunkId>, high: bool) {
        loop {
            let room = self.room.notified();
            {
                let mut state = self.lock();
                if state.low.len() + state.high.len() < QUEUED || state.over {
                    for id in ids {
                        let new = state.open.insert(id);
                        match high {
                            true => state.high.push_back(id),
                            false if new => state.low.push_back(id),
                            false => {}
                        }
                    }
                    break;
                }
            }
            room.await;
        }
        self.work.notify_one();
    }

    /// The next id to be answered; `None` when there will be none.
    async fn next(&self) -> Option<ChunkId> {
        loop {
            let work = self.work.notified();
            {
                let mut state = self.lock();
                if state.over {
                    return None;
                }
                while let Some(id) = state.high.pop_front().or_else(|| state.low.pop_front()) {
                    if state.open.remove(&id) {
                        self.room.notify_one();
                        return Some(id);
                    }
                }
            }
            work.await;
        }
    }

    fn end(&self) {
        self.lock().over = true;
        self.work.notify_one();
        self.room.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Queued> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn take(
    offer: &Offer,
    reader: &mut Reader<impl AsyncRead + Unpin>,
    writer: &mut Writer<impl AsyncWrite + Unpin>,
) -> Result<(), ServeError> {
    let store = offer.store.as_ref().map(LocalStore::open_or_create).transpose()?;
    let others: Vec<LocalStore> = offer.others.iter().map(LocalStore::open).collect::<Result<_, _>>()?;
    let has = services::WRITABLE_STORE * u64::from(store.is_some())
        + services::WRITABLE_INDEX * u64::from(offer.index.is_some())
        + services::WRITABLE_ARCHIVE * u64::from(offer.archive.is_some());
    let wants = greet(has, reader, writer).await?;
    if let Some(archive) = offer.archive.as_deref().filter(|_| wants & services::PUSH_ARCHIVE != 0) {
        let mut file = save(archive, 0o666)?;
        loop {
            match reader.receive().await? {
                Message::Archive(part) => file.write(&part)?,
                Message::ArchiveEof => break,
                _ => return Err(LinkError::Unexpected("something else than the archive comes".to_owned()).into()),
            }
        }
        file.finish()?;
    }
    if let Some(path) = offer.index.as_deref().filter(|_| wants & services::PUSH_INDEX != 0) {
        let bytes = take_index(reader).await?;
        let index = Index::parse(&bytes).map_err(|error| ServeError::Refused(format!("the index: {error}")))?;
        let chunks = wants & services::PUSH_INDEX_CHUNKS != 0;
        // From here on what the store has is relied on.
        let _shared = store.as_ref().map(LocalStore::share).transpose()?;
        if let Some(store) = store.as_ref().filter(|_| chunks) {
            take_chunks(&index, store, &others, reader, writer).await?;
            store.sync()?;
        }
        save_index(&IndexFile { path: path.to_owned(), id: true }, 0o666, &bytes)?;
    }
    writer.send(&Message::Goodbye).await?;
    Ok(())
}

async fn take_index(reader: &mut Reader<impl AsyncRead + Unpin>) -> Result<Bytes, ServeError> {
    let mut bytes = BytesMut::new();
    loop {
        match reader.receive().await? {
            Message::Index(part) if (bytes.len() + part.len()) as u64 <= MAX_FILE => bytes.extend_from_slice(&part),
            Message::Index(_) => return Err(ServeError::Refused("the index is too long".to_owned())),
            Message::IndexEof => return Ok(bytes.freeze()),
            _ => return Err(LinkError::Unexpected("something else than the index comes".to_owned()).into()),
        }
    }
}

/// Asks for what no store has, some at a time, and keeps what is right.
async fn take_chunks(
    index: &Index,
    store: &LocalStore,
    others: &[LocalStore],
    reader: &mut Reader<impl AsyncRead + Unpin>,
    writer: &mut Writer<impl AsyncWrite + Unpin>,
) -> Result<(), ServeError> {
    let mut lengths = std::collections::HashMap::new();
    let mut lacking = VecDeque::new();
    let mut start = 0;
    for chunk in &index.chunks {
        let length = (chunk.end - std::mem::replace(&mut start, chunk.end)) as u32;
        if lengths.insert(chunk.id, length).is_some() || store.renew(chunk.id)? {
            continue;
        }
        if !others.iter().any(|other| other.has(chunk.id).unwrap_or(false)) {
            lacking.push_back(chunk.id);
        }
    }
    let mut open = HashSet::new();
    loop {
        if open.len() < ASKED / 2 && !lacking.is_empty() {
            let count = (ASKED - open.len()).min(IDS).min(lacking.len());
            let ids: Vec<ChunkId> = lacking.drain(..count).collect();
            open.extend(ids.iter().copied());
            writer.send(&Message::Request { high: false, ids }).await?;
        }
        if open.is_empty() {
            return Ok(());
        }
        let (compressed, id, data) = match reader.receive().await? {
            Message::Chunk { compressed, id, data } if open.remove(&id) => (compressed, id, data),
            Message::Missing(id) => {
                return Err(ServeError::Refused(format!("chunk {id} of the index is not pushed")));
            }
            _ => return Err(LinkError::Unexpected("something else than the chunks asked for comes".to_owned()).into()),
        };
        let encoded = encoded(compressed, data)
            .ok_or_else(|| ServeError::Refused(format!("chunk {id} is compressed by nothing known")))?;
        let length = lengths.get(&id).copied().unwrap_or(0);
        let chunk = verify(&encoded, id, index.digest(), length);
        let chunk = chunk.map_err(|error| ServeError::Refused(error.to_string()))?;
        match encoded.encoding {
            Encoding::Plain => store.insert_plain(&chunk)?,
            _ => store.insert(&chunk, &encoded.bytes)?,
        };
    }
}
