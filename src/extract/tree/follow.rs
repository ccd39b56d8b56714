//! The unpacker behind the front: a thread that reads the archive from the spool as far as it is right, and waits where
//! it is not yet.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use super::TreeError;
use crate::browse::BrowseError;
use crate::browse::reader::ReadAt;
use crate::extract::assembly::Assembly;
use crate::format::index::Index;
use crate::tree::unpack::Unpacked;

/// The thread. Dropping it makes it give up.
pub(in crate::extract) struct Follower {
    go: Option<Sender<()>>,
    stop: Arc<AtomicBool>,
    assembly: Arc<Assembly>,
    thread: Option<JoinHandle<Result<Unpacked, TreeError>>>,
}

impl Follower {
    /// A thread that begins when it is told to.
    /// `work` gets the archive, or the image.
    pub(in crate::extract) fn start(
        index: Index,
        assembly: Arc<Assembly>,
        work: impl FnOnce(Box<dyn ReadAt>) -> Result<Unpacked, TreeError> + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (go, gone) = channel::<()>();
        let spool = Spool { index, assembly: assembly.clone(), stop: stop.clone() };
        let thread = std::thread::Builder::new().name("unpacker".to_owned()).spawn(move || {
            if gone.recv().is_err() {
                return Err(TreeError::Abandoned);
            }
            work(Box::new(spool))
        })?;
        Ok(Self { go: Some(go), stop, assembly, thread: Some(thread) })
    }

    /// Lets it begin: the target is not needed as a seed any more.
    pub(in crate::extract) fn begin(&self) {
        if let Some(go) = &self.go {
            // It is only gone if it has been told to stop.
            let _ = go.send(());
        }
    }

    /// Waits until the tree is complete. Blocks.
    pub(in crate::extract) fn finish(mut self) -> Result<Unpacked, TreeError> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(unpacked)) => unpacked,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Err(TreeError::Abandoned),
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
}

impl ReadAt for Spool {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, BrowseError> {
        let chunks = &self.index.chunks;
        let row = chunks.partition_point(|chunk| chunk.end <= offset);
        let Some(chunk) = chunks.get(row) else { return Ok(0) };
        let failed = |error| BrowseError::Read { path: self.place().into(), error };
        let position = self.assembly.layout().position(&chunk.id);
        if !position.is_some_and(|position| self.assembly.wait(position, &self.stop)) {
            return Err(failed(io::Error::other(TreeError::Abandoned)));
        }
        let length = ((chunk.end - offset) as usize).min(buffer.len());
        self.assembly.file().read_exact_at(&mut buffer[..length], offset).map_err(failed)?;
        Ok(length)
    }

    fn length(&self) -> u64 {
        self.index.length()
    }

    fn place(&self) -> String {
        "what is being put together".to_owned()
    }
}
