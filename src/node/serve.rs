//! Answers the `Want`s of one neighbour, in order, from what this node holds. Every chunk is verified before it leaves.
//! Whether to serve, and what is announced as held, is not decided here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use proto::limits::{PAYLOAD_BYTES, QUEUED_WANTS, SHARED_CHUNK_BYTES, WANT_POSITIONS};
use proto::{ChunkId, IndexId, Message, Position};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::holder::Holder;
use super::limits::Limits;
use super::outbox::SessionSender;
use super::recent::Recent;
use super::slots::Slots;
use crate::chunk::{self, Encoded, Encoding};
use crate::format::compression::Compressor;
use crate::format::digest::Digest;
use crate::format::layout::Layout;
use crate::source::rate_limit::RateLimit;

/// The level at which plain bytes are compressed for the wire: about three times as fast as casync's.
const WIRE_LEVEL: i32 = 1;

/// When a neighbour whose queue is full may ask again.
const BUSY_MS: u32 = 200;

/// Everything that this node serves from; shared by all sessions.
pub(crate) struct Serving {
    pub(crate) recent: Recent,
    holders: RwLock<Vec<Arc<dyn Holder>>>,
    layouts: RwLock<BTreeMap<IndexId, Arc<Layout>>>,
    slots: Arc<Slots>,
    upload: Option<RateLimit>,
    /// Bytes of chunks that left.
    pub(crate) sent: AtomicU64,
    /// Chunks that did not verify when they were to leave.
    pub(crate) refused: AtomicU64,
}

impl Serving {
    pub(crate) fn new(recent: usize, limits: &Limits) -> Self {
        Self {
            recent: Recent::new(recent),
            slots: Arc::new(Slots::new(limits.slots())),
            upload: limits.upload.map(RateLimit::new),
            holders: RwLock::default(),
            layouts: RwLock::default(),
            sent: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Serves from this too.
    pub(crate) fn add(&self, holder: Arc<dyn Holder>) {
        self.holders.write().unwrap_or_else(PoisonError::into_inner).push(holder);
    }

    /// Serves no longer from those for which `unwanted` holds; returns their names.
    pub(crate) fn remove(&self, unwanted: impl Fn(&dyn Holder) -> bool) -> Vec<String> {
        let mut holders = self.holders.write().unwrap_or_else(PoisonError::into_inner);
        let (gone, stay) = std::mem::take(&mut *holders).into_iter().partition(|holder| unwanted(holder.as_ref()));
        *holders = stay;
        let gone: Vec<Arc<dyn Holder>> = gone;
        gone.iter().map(|holder| holder.name()).collect()
    }

    /// What a neighbour with this serial number asks for.
    pub(crate) fn wants(&self, serial: u64) -> Arc<Wants> {
        Arc::new(Wants { queue: Mutex::default(), work: Notify::new(), serial, slots: self.slots.clone() })
    }

    /// Waits until so many bytes may leave.
    pub(crate) async fn may_leave(&self, bytes: usize) {
        if let Some(upload) = &self.upload {
            upload.pass(bytes as u64).await;
        }
    }

    /// Answers for positions of this index.
    pub(crate) fn know(&self, index: IndexId, layout: Arc<Layout>) {
        self.layouts.write().unwrap_or_else(PoisonError::into_inner).insert(index, layout);
    }

    /// Answers no longer for positions of this index.
    pub(crate) fn forget(&self, index: &IndexId) {
        self.layouts.write().unwrap_or_else(PoisonError::into_inner).remove(index);
    }

    /// The holders at this moment.
    pub(crate) fn holders(&self) -> Vec<Arc<dyn Holder>> {
        self.holders.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Positions of `layout` that some holder has.
    pub(crate) fn holdings(&self, layout: &Layout) -> proto::Holdings {
        let holders = self.holders();
        (0..layout.count())
            .filter(|position| layout.length(*position) <= SHARED_CHUNK_BYTES)
            .filter(|position| holders.iter().any(|holder| holder.has(&layout.id(*position))))
            .collect()
    }

    /// A position of a chunk in some index for which `asked` holds.
    pub(crate) fn place(&self, id: &ChunkId, asked: impl Fn(&IndexId) -> bool) -> Option<(IndexId, Position)> {
        let layouts = self.layouts.read().unwrap_or_else(PoisonError::into_inner);
        let mut layouts = layouts.iter().filter(|(index, _)| asked(index));
        layouts.find_map(|(index, layout)| Some((*index, layout.position(id)?)))
    }

    fn layout(&self, index: &IndexId) -> Option<Arc<Layout>> {
        self.layouts.read().unwrap_or_else(PoisonError::into_inner).get(index).cloned()
    }

    /// The chunk, verified and as it is to travel. `None`: not here, or only damaged. Blocks.
    fn read(&self, id: ChunkId, digest: Digest, length: u32, plain: bool) -> Option<Encoded> {
        if let Some(recent) = self.recent.get(&id) {
            return Some(recent);
        }
        for holder in self.holders().iter().filter(|holder| holder.has(&id)) {
            let found = match holder.read(&id) {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(%error, "cannot read a chunk that a neighbour asked for");
                    continue;
                }
            };
            match chunk::verify(&found, id, digest, length) {
                Ok(_) => {
                    let travels = if plain { found } else { squeeze(found) };
                    self.recent.keep(id, travels.clone());
                    return Some(travels);
                }
                Err(error) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    holder.refused(&id);
                    tracing::warn!(%error, holder = holder.name(), "not served");
                }
            }
        }
        None
    }
}

/// Compresses plain bytes if that makes them smaller.
fn squeeze(found: Encoded) -> Encoded {
    thread_local! {
        static COMPRESSOR: std::cell::RefCell<Option<Compressor>> = const { std::cell::RefCell::new(None) };
    }
    if found.encoding != Encoding::Plain {
        return found;
    }
    let smaller = COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some(compressor) => compressor,
            None => kept.insert(Compressor::zstd(WIRE_LEVEL).ok()?),
        };
        compressor.compress(&found.bytes).ok()
    });
    match smaller {
        Some(bytes) if bytes.len() < found.bytes.len() => {
            Encoded { encoding: Encoding::Zstd, bytes: Bytes::from(bytes) }
        }
        _ => found,
    }
}

/// What one neighbour asked for and has not got yet. It holds an upload slot while there is anything, but for chunks asked
/// for by id alone: these are outside the slots, for nobody can be told to ask for them later.
pub(crate) struct Wants {
    queue: Mutex<VecDeque<Want>>,
    work: Notify,
    serial: u64,
    slots: Arc<Slots>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Want {
    index: IndexId,
    position: Position,
    plain: bool,
    /// The neighbour knows the chunk's id only.
    by_id: bool,
}

impl Wants {
    /// Queues positions. Those that do not fit, and all while there is no slot, are answered `Absent` with a time to ask
    /// again.
    pub(crate) fn push(&self, index: IndexId, positions: &[Position], plain: bool, sender: &SessionSender) {
        let mut queue = self.lock();
        let slot = self.slots.take(self.serial, Instant::now());
        let room = if slot { QUEUED_WANTS.saturating_sub(queue.len()).min(positions.len()) } else { 0 };
        let (fit, rest) = positions.split_at(room);
        queue.extend(fit.iter().map(|&position| Want { index, position, plain, by_id: false }));
        drop(queue);
        self.work.notify_one();
        if !rest.is_empty() {
            let busy = Message::Absent { index, positions: rest.to_vec(), retry_ms: BUSY_MS };
            let _ = sender.send(&busy);
        }
    }

    /// Queues a chunk that was asked for by its id.
    pub(crate) fn push_by_id(&self, index: IndexId, position: Position, sender: &SessionSender) {
        let mut queue = self.lock();
        if queue.len() < QUEUED_WANTS {
            queue.push_back(Want { index, position, plain: false, by_id: true });
            drop(queue);
            self.work.notify_one();
        } else {
            sender.close("asks for too much at a time");
        }
    }

    /// Forgets positions that are not on their way yet.
    pub(crate) fn cancel(&self, index: IndexId, positions: &[Position], sender: &SessionSender) {
        self.lock().retain(|want| want.index != index || !positions.contains(&want.position));
        sender.retract(|message| {
            matches!(message, Message::Chunk { index: of, position, .. } if *of == index && positions.contains(position))
        });
    }

    async fn next(&self) -> Want {
        loop {
            let work = self.work.notified();
            {
                let mut queue = self.lock();
                if let Some(want) = queue.pop_front() {
                    return want;
                }
                // Under the lock, so that nothing is queued without a slot.
                self.slots.give_up(self.serial);
            }
            work.await;
        }
    }

    /// Where another has the slot now, what was asked for is to be asked for again, except by id, which nobody can be told
    /// to ask for later.
    fn make_way(&self, sender: &SessionSender) {
        if self.slots.has(self.serial) {
            return;
        }
        let mut postponed: BTreeMap<IndexId, Vec<Position>> = BTreeMap::new();
        let mut queue = self.lock();
        for want in queue.iter().filter(|want| !want.by_id) {
            postponed.entry(want.index).or_default().push(want.position);
        }
        queue.retain(|want| want.by_id);
        drop(queue);
        for (index, positions) in postponed {
            for part in positions.chunks(WANT_POSITIONS) {
                let busy = Message::Absent { index, positions: part.to_vec(), retry_ms: BUSY_MS };
                let _ = sender.send(&busy);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Want>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wants {
    fn drop(&mut self) {
        self.slots.give_up(self.serial);
    }
}

/// Serves one neighbour until its session ends. Dropping the future stops it.
pub(crate) async fn serve(wants: Arc<Wants>, sender: SessionSender, serving: Arc<Serving>) {
    while !sender.is_closed() {
        let want = wants.next().await;
        let Want { index, position, by_id, .. } = want;
        let layout = serving.layout(&index).filter(|layout| position < layout.count());
        let chunk = layout.as_ref().map(|layout| layout.id(position));
        let found = match layout {
            Some(layout) => find(&layout, &want, &serving).await,
            None => None,
        };
        let sent = match found {
            Some(found) => {
                let length = found.bytes.len() as u32;
                serving.may_leave(found.bytes.len()).await;
                serving.sent.fetch_add(u64::from(length), Ordering::Relaxed);
                let message = match chunk.filter(|_| by_id) {
                    Some(chunk) => Message::ChunkById { chunk, encoding: found.encoding, length },
                    None => Message::Chunk { index, position, encoding: found.encoding, length },
                };
                sender.send_chunk(message, found.bytes).await
            }
            None => sender.send(&match chunk.filter(|_| by_id) {
                Some(chunk) => Message::NoChunk { chunk },
                None => Message::Absent { index, positions: vec![position], retry_ms: 0 },
            }),
        };
        if sent.is_err() {
            return;
        }
        wants.make_way(&sender);
    }
}

async fn find(layout: &Layout, want: &Want, serving: &Arc<Serving>) -> Option<Encoded> {
    let (id, length) = (layout.id(want.position), layout.length(want.position));
    if length > SHARED_CHUNK_BYTES {
        return None;
    }
    let found = match serving.recent.get(&id) {
        Some(found) => Some(found),
        None => {
            let (serving, digest, plain) = (serving.clone(), layout.digest(), want.plain);
            tokio::task::spawn_blocking(move || serving.read(id, digest, length, plain)).await.ok().flatten()
        }
    };
    found.filter(|found| found.bytes.len() <= PAYLOAD_BYTES)
}
