//! What comes from the other side: a file, or chunks as they are asked for, many at a time over one connection.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use proto::ChunkId;
use tokio::sync::{mpsc, oneshot};

use super::link::LinkError;
use super::message::{IDS, Message, services};
use super::{Place, Remote, Subject, encoded};
use crate::chunk::Encoded;
use crate::source::SourceError;

/// How many requests may wait to be sent.
const WAITING: usize = 4096;

/// Gets an index file of at most `limit` bytes. It is not looked into.
///
/// # Errors
/// `Unavailable` when it does not come whole, `Refused` when it is longer.
pub async fn index(place: &Place, limit: u64) -> Result<Bytes, SourceError> {
    let subject = Subject { index: Some(place), ..Subject::default() };
    let mut remote = Remote::start("pull", &subject, services::PULL_INDEX).await?;
    let mut file = BytesMut::new();
    loop {
        match remote.reader.receive().await {
            Ok(Message::Index(part)) if (file.len() + part.len()) as u64 <= limit => file.extend_from_slice(&part),
            Ok(Message::Index(_)) => {
                return Err(SourceError::refused(&remote.name, format!("longer than {limit} bytes, so no index")));
            }
            Ok(Message::IndexEof) => break,
            Ok(_) => return Err(remote.failed(unexpected())),
            Err(error) => return Err(remote.failed(error)),
        }
    }
    // It may go as it likes, and the child with it.
    let _ = remote.writer.send(&Message::Goodbye).await;
    Ok(file.freeze())
}

fn unexpected() -> LinkError {
    LinkError::Unexpected("the other side sends something else than the file".to_owned())
}

type Answer = Result<Option<Encoded>, SourceError>;

/// A connection over which chunks are asked for. Dropping it ends the other side.
pub struct Chunks {
    requests: mpsc::Sender<ChunkId>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: HashMap<ChunkId, Vec<oneshot::Sender<Answer>>>,
    /// What was asked before: casync answers a question only once in its life.
    asked: HashSet<ChunkId>,
    over: Option<SourceError>,
}

impl Chunks {
    /// Connects to a store.
    ///
    /// # Errors
    /// When there is no way to it.
    pub async fn connect(store: &Place) -> Result<Self, SourceError> {
        let subject = Subject { store: Some(store), ..Subject::default() };
        let remote = Remote::start("pull", &subject, services::PULL_CHUNKS).await?;
        let shared = Arc::new(Shared::default());
        let (requests, asked) = mpsc::channel(WAITING);
        tokio::spawn(converse(remote, asked, shared.clone()));
        Ok(Self { requests, shared })
    }

    /// Whether a chunk can be asked for here: the connection stands, and the chunk was not asked for before.
    pub fn can_ask(&self, id: &ChunkId) -> bool {
        let state = self.shared.lock();
        state.over.is_none() && (!state.asked.contains(id) || state.waiting.contains_key(id))
    }

    /// Asks. What comes is unverified. Dropping the future lets the answer go unheard.
    ///
    /// # Errors
    /// When the connection ends before the answer.
    pub async fn ask(&self, id: ChunkId) -> Answer {
        let (send, answer) = oneshot::channel();
        let first = {
            let mut state = self.shared.lock();
            if let Some(error) = &state.over {
                return Err(error.clone());
            }
            let waiting = state.waiting.entry(id).or_default();
            waiting.push(send);
            let first = waiting.len() == 1;
            state.asked.insert(id);
            first
        };
        if first && self.requests.send(id).await.is_err() {
            // Whoever ended says why, below.
            tracing::trace!("the connection ended");
        }
        answer.await.unwrap_or_else(|_| Err(SourceError::unavailable("ssh", "the connection ended")))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, id: &ChunkId, answer: &Answer) -> bool {
        let waiting = self.lock().waiting.remove(id);
        let asked = waiting.is_some();
        waiting.into_iter().flatten().for_each(|waiting| {
            let _ = waiting.send(answer.clone());
        });
        asked
    }

    fn end(&self, error: SourceError) {
        let waiting = {
            let mut state = self.lock();
            state.over = Some(error.clone());
            std::mem::take(&mut state.waiting)
        };
        waiting.into_values().flatten().for_each(|waiting| {
            let _ = waiting.send(Err(error.clone()));
        });
    }
}

/// Speaks with the other side until it ends, or nobody asks any more. What is asked and what comes go their own ways:
/// neither may wait for the other, or both sides could wait for each other.
async fn converse(remote: Remote, mut asked: mpsc::Receiver<ChunkId>, shared: Arc<Shared>) {
    let Remote { child, mut reader, mut writer, name } = remote;
    let speak = async {
        let mut ids = Vec::new();
        while asked.recv_many(&mut ids, IDS).await > 0 {
            writer.send(&Message::Request { high: true, ids: std::mem::take(&mut ids) }).await?;
        }
        let _ = writer.send(&Message::Goodbye).await;
        Ok(())
    };
    let listen = async {
        loop {
            // Silence is an error only where something is to be said.
            let message = match reader.next().await {
                Err(LinkError::Silent(_)) if shared.lock().waiting.is_empty() => continue,
                message => message?,
            };
            let (id, answer) = match message {
                Some(Message::Chunk { compressed, id, data }) => (id, Ok(Some(known(encoded(compressed, data))?))),
                Some(Message::Missing(id)) => (id, Ok(None)),
                Some(Message::Goodbye) | None => return Err(LinkError::Ended),
                Some(_) => return Err(LinkError::Unexpected("it sends something else than chunks".to_owned())),
            };
            // casync may answer twice what was asked twice.
            if !shared.answer(&id, &answer) && !shared.lock().asked.contains(&id) {
                return Err(LinkError::Unexpected(format!("it sends chunk {id}, which nobody asked for")));
            }
        }
    };
    let ended: Result<(), LinkError> = tokio::select! {
        ended = speak => ended,
        ended = listen => ended,
    };
    let error = ended.err().unwrap_or(LinkError::Ended);
    shared.end(super::failed(&name, error));
    drop(child);
}

fn known(encoded: Option<Encoded>) -> Result<Encoded, LinkError> {
    encoded.ok_or_else(|| LinkError::Unexpected("it sends a chunk compressed by nothing known".to_owned()))
}
