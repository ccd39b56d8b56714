//! Digests of many files, computed by several threads and several at once, and handed out in the order of the files.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

use proto::ChunkId;

use super::BrowseError;
use crate::format::digest::Digest;
use crate::tree::content::Content;

/// Files that are open at a time: those of the batches that are digested, of as many that wait, and of the one that grows.
/// The more files are one batch, the fewer are too long to be digested together with the others.
const OPEN: usize = 512;
/// Bytes of the batches that are in memory at a time, of all threads, about.
const MEMORY: u64 = 48 << 20;
/// Files of at most this length may be handed over in memory, and so many bytes of them are one batch.
pub(super) const IN_MEMORY: u64 = 1 << 20;
const BATCH_IN_MEMORY: u64 = 4 << 20;
/// Of longer files, so much is read at a time.
const PART: usize = 1 << 20;

/// More threads would have too few files in a batch.
const MOST_THREADS: usize = 8;

/// The content of a file, wherever it is.
pub(super) enum Source {
    /// In memory.
    Bytes(Vec<u8>),
    /// To be read.
    File(Content),
}

/// Digests to come, each with what belongs to it.
pub(super) struct Sums<T> {
    to_workers: SyncSender<Job>,
    threads: usize,
    /// So many files are one batch.
    files: usize,
    /// Files of at most this length are digested several at once.
    small: u64,
    digest: Digest,
    batch: Vec<(T, Option<Source>)>,
    /// Bytes of the batch that are to be read, and that are here.
    bytes: u64,
    here: u64,
    waiting: VecDeque<Waiting<T>>,
}

/// A batch that is being digested.
struct Waiting<T> {
    /// Its files and what else was between them, and whether each has a digest.
    whats: Vec<(T, bool)>,
    answered: Receiver<Answer>,
}

struct Job {
    digest: Digest,
    sources: Vec<Source>,
    answer: SyncSender<Answer>,
}

type Answer = Result<Vec<ChunkId>, BrowseError>;

impl<T> Sums<T> {
    /// Starts the threads, which end when this is dropped.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub(super) fn start<'s>(scope: &'s Scope<'s, '_>, threads: usize) -> Result<Self, BrowseError> {
        let threads = threads.clamp(1, MOST_THREADS);
        let (to_workers, jobs) = sync_channel(threads);
        let jobs = Arc::new(Mutex::new(jobs));
        // A batch ends with the file that makes it too long, which may be half as long itself.
        let small = MEMORY / threads as u64 / 3;
        for _ in 0..threads {
            let jobs = jobs.clone();
            std::thread::Builder::new().spawn_scoped(scope, move || work(&jobs, small)).map_err(BrowseError::Thread)?;
        }
        let files = OPEN / (2 * threads + 1);
        let (digest, batch, waiting) = (Digest::default(), Vec::new(), VecDeque::new());
        Ok(Self { to_workers, threads, files, small, digest, batch, bytes: 0, here: 0, waiting })
    }

    /// The next file, or something that has no digest. What has got its digest meanwhile goes to `done`, in order.
    pub(super) fn add(
        &mut self,
        what: T,
        source: Option<Source>,
        digest: Digest,
        done: &mut impl FnMut(T, Option<ChunkId>) -> Result<(), BrowseError>,
    ) -> Result<(), BrowseError> {
        self.digest = digest;
        match &source {
            Some(Source::Bytes(bytes)) => self.here += bytes.len() as u64,
            Some(Source::File(content)) => self.bytes += content.size(),
            None => {}
        }
        self.batch.push((what, source));
        if self.batch.len() >= self.files || self.bytes >= 2 * self.small || self.here >= BATCH_IN_MEMORY {
            self.send();
            self.take(2 * self.threads, done)?;
        }
        Ok(())
    }

    /// Waits for all that is left.
    pub(super) fn finish(
        mut self,
        done: &mut impl FnMut(T, Option<ChunkId>) -> Result<(), BrowseError>,
    ) -> Result<(), BrowseError> {
        self.send();
        self.take(0, done)
    }

    fn send(&mut self) {
        let (answer, answered) = sync_channel(1);
        let (mut whats, mut sources) = (Vec::with_capacity(self.batch.len()), Vec::new());
        for (what, source) in self.batch.drain(..) {
            whats.push((what, source.is_some()));
            sources.extend(source);
        }
        (self.bytes, self.here) = (0, 0);
        // If the workers are gone, nobody will answer, and that is said there.
        let _ = self.to_workers.send(Job { digest: self.digest, sources, answer });
        self.waiting.push_back(Waiting { whats, answered });
    }

    fn take(
        &mut self,
        most: usize,
        done: &mut impl FnMut(T, Option<ChunkId>) -> Result<(), BrowseError>,
    ) -> Result<(), BrowseError> {
        while self.waiting.len() > most {
            let Some(Waiting { whats, answered }) = self.waiting.pop_front() else { break };
            let gone = || Err(BrowseError::Thread(std::io::Error::other("a thread ended early")));
            let mut ids = answered.recv().unwrap_or_else(|_| gone())?.into_iter();
            for (what, summed) in whats {
                done(what, if summed { ids.next() } else { None })?;
            }
        }
        Ok(())
    }
}

fn work(jobs: &Mutex<Receiver<Job>>, small: u64) {
    let mut memory = Vec::new();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { digest, sources, answer }) = job else { return };
        // Nobody listening: the walk has failed.
        let _ = answer.send(sums(digest, sources, small, &mut memory));
    }
}

/// The digests of one batch: of the small ones together, of each of the others as it is read.
fn sums(digest: Digest, mut sources: Vec<Source>, most: u64, memory: &mut Vec<u8>) -> Answer {
    let small = |source: &Source| !matches!(source, Source::File(content) if content.size() > most);
    let needed: u64 = sources.iter().filter(|source| small(source)).map(length).sum();
    let needed = PART.max(needed as usize);
    if memory.len() < needed {
        memory.resize(needed, 0);
    }
    let mut ids = vec![None; sources.len()];
    for (source, id) in sources.iter_mut().zip(&mut ids) {
        if let Source::File(content) = source
            && content.size() > most
        {
            let mut hasher = digest.hasher();
            loop {
                match content.read(&mut memory[..PART])? {
                    0 => break,
                    read => hasher.update(&memory[..read]),
                }
            }
            content.check_unchanged()?;
            *id = Some(hasher.finish());
        }
    }
    let mut rest = &mut memory[..];
    let mut bytes: Vec<&[u8]> = Vec::new();
    for source in sources.iter_mut().filter(|source| small(source)) {
        match source {
            Source::Bytes(there) => bytes.push(there),
            Source::File(content) => {
                let (place, after) = rest.split_at_mut(content.size() as usize);
                content.read(place)?;
                content.check_unchanged()?;
                bytes.push(place);
                rest = after;
            }
        }
    }
    let mut together = digest.ids(&bytes).into_iter();
    Ok(ids.into_iter().filter_map(|id| id.or_else(|| together.next())).collect())
}

fn length(source: &Source) -> u64 {
    match source {
        Source::Bytes(_) => 0,
        Source::File(content) => content.size(),
    }
}
