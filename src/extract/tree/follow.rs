//! The unpacker behind the front: a thread that reads the archive from the spool as far as it is right, and waits where
//! it is not yet.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::TreeError;
use crate::blocks::Pool;
use crate::browse::BrowseError;
use crate::browse::reader::{BLOCK, ReadAt};
use crate::extract::assembly::Assembly;
use crate::format::index::{Index, IndexChunk};
use crate::tree::unpack::Unpacked;

/// The thread. Dropping it makes it give up, and waits for that.
pub(in crate::extract) struct Follower {
    go: Option<Sender<()>>,
    stop: Arc<AtomicBool>,
    assembly: Arc<Assembly>,
    thread: Option<JoinHandle<()>>,
}

/// What becomes of the tree.
pub(in crate::extract) struct Ending {
    ended: oneshot::Receiver<Result<Unpacked, TreeError>>,
    whole: Option<Unpacked>,
}

impl Ending {
    /// Waits for a failure. If there is none, it waits for ever.
    pub(in crate::extract) async fn failure(&mut self) -> TreeError {
        if self.whole.is_none() {
            match (&mut self.ended).await {
                Ok(Ok(unpacked)) => self.whole = Some(unpacked),
                Ok(Err(error)) => return error,
                Err(_) => return TreeError::Abandoned,
            }
        }
        std::future::pending().await
    }

    /// Waits until the tree is complete.
    pub(in crate::extract) async fn whole(self) -> Result<Unpacked, TreeError> {
        match self.whole {
            Some(unpacked) => Ok(unpacked),
            None => self.ended.await.unwrap_or(Err(TreeError::Abandoned)),
        }
    }
}

impl Follower {
    /// A thread that begins when it is told to.
    /// `work` gets the archive, or the image, and its index.
    pub(in crate::extract) fn start(
        index: Index,
        assembly: Arc<Assembly>,
        work: impl FnOnce(Box<dyn ReadAt>, Index) -> Result<Unpacked, TreeError> + Send + 'static,
    ) -> io::Result<(Self, Ending)> {
        let (end, ended) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (go, gone) = channel::<()>();
        let spool = Spool { index, assembly: assembly.clone(), stop: stop.clone(), pool: Pool::new(BLOCK) };
        let thread = std::thread::Builder::new().name("unpacker".to_owned()).spawn(move || {
            if gone.recv().is_err() {
                return;
            }
            let index = spool.index.clone();
            // Nobody listening: it was told to give up.
            let _ = end.send(work(Box::new(spool), index));
        })?;
        Ok((Self { go: Some(go), stop, assembly, thread: Some(thread) }, Ending { ended, whole: None }))
    }

    /// The same, not waited for when it is dropped: it may be writing to somebody who does not read.
    pub(in crate::extract) fn detached(self) -> Self {
        let mut follower = self;
        follower.thread = None;
        follower
    }

    /// Lets it begin: the target is not needed as a seed any more.
    pub(in crate::extract) fn begin(&self) {
        if let Some(go) = &self.go {
            // It is only gone if it has been told to stop.
            let _ = go.send(());
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.go = None;
        self.assembly.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The spool, as far as it is right.
struct Spool {
    index: Index,
    assembly: Arc<Assembly>,
    stop: Arc<AtomicBool>,
    pool: Pool,
}

impl Spool {
    fn failed(&self, error: io::Error) -> BrowseError {
        BrowseError::Read { path: self.place().into(), error }
    }
}

impl ReadAt for Spool {
    fn read_at(&mut self, offset: u64, most: usize) -> Result<Bytes, BrowseError> {
        let chunks = &self.index.chunks;
        let row = chunks.partition_point(|chunk| chunk.end <= offset);
        let Some(chunk) = chunks.get(row) else { return Ok(Bytes::new()) };
        let layout = self.assembly.layout();
        let position = layout.position(&chunk.id);
        if !position.is_some_and(|position| self.assembly.wait(position, &self.stop)) {
            return Err(self.failed(io::Error::other(TreeError::Abandoned)));
        }
        let mut block = self.pool.block();
        let limit = offset + most.min(block.len()) as u64;
        // And whatever behind it is right already.
        let held = |chunk: &&IndexChunk| {
            chunk.end < limit && layout.position(&chunk.id).is_some_and(|position| self.assembly.holds(position))
        };
        let more = chunks[row + 1..].iter().take_while(held).count();
        let end = chunks[row + more].end.min(limit);
        let length = (end - offset) as usize;
        self.assembly.file().read_exact_at(&mut block[..length], offset).map_err(|error| self.failed(error))?;
        Ok(block.into_bytes(length))
    }

    fn length(&self) -> u64 {
        self.index.length()
    }

    fn place(&self) -> String {
        "what is being put together".to_owned()
    }
}
