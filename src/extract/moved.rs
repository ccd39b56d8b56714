//! What of a spool is content of files of the tree by now. It is read from there, so that the spool need not keep it: an
//! extraction takes little more room than the tree.
//!
//! The tree is the user's: what is read from it may be something else by now, and whoever sends it on verifies it.

use std::ffi::CString;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::tree::beneath;

/// A file of the tree that is complete.
#[derive(Debug)]
pub(super) struct TreeFile {
    /// The top of the tree.
    pub(super) top: Arc<OwnedFd>,
    /// The names on the way from there.
    pub(super) path: Vec<CString>,
}

/// Where the parts are that the spool does not keep.
#[derive(Debug, Default)]
pub(super) struct Moved {
    parts: Mutex<Vec<(Range<u64>, Arc<TreeFile>)>>,
}

impl Moved {
    /// From now on this range of the archive is the content of that file. Ranges come in ascending order.
    pub(super) fn add(&self, range: Range<u64>, file: TreeFile) {
        self.lock().push((range, Arc::new(file)));
    }

    /// The range that was added last is in the spool after all.
    pub(super) fn forget_last(&self) {
        self.lock().pop();
    }

    /// Puts what is in files into `bytes`, which are the spool's from `offset` on.
    ///
    /// # Errors
    /// `NotFound` when a file is not there any more, otherwise what the file system said.
    pub(super) fn fill(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        let parts: Vec<_> = {
            let parts = self.lock();
            let first = parts.partition_point(|(range, _)| range.end <= offset);
            parts[first..].iter().take_while(|(range, _)| range.start < end).cloned().collect()
        };
        for (range, file) in parts {
            let (from, to) = (range.start.max(offset), range.end.min(end));
            let piece = &mut bytes[(from - offset) as usize..(to - offset) as usize];
            let opened = beneath::open_file(file.top.as_fd(), &file.path).ok_or(io::ErrorKind::NotFound)?;
            opened.read_exact_at(piece, from - range.start)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Range<u64>, Arc<TreeFile>)>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
