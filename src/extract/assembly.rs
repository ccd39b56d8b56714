//! The target while it is being built, and what of it is right already. Takes only verified chunks, and gives them back
//! to whoever serves them. It does not know where chunks come from, nor what becomes of the file afterwards. Of the spool
//! of a tree it gives back what has become files, and reads it from these.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use proto::{Holdings, Position};
use roaring::RoaringBitmap;

use super::holes::{self, Zeros};
use super::moved::{Moved, TreeFile};
use crate::chunk::Chunk;
use crate::format::layout::Layout;

/// Smaller files stay in the spool: to note where each of them is would take more memory than it is worth.
const MOVED_LEAST: u64 = 64 << 10;

/// A target under construction. Shared by all who write to it and read from it; it stays readable after the file got
/// its final name.
pub struct Assembly {
    file: Arc<File>,
    layout: Arc<Layout>,
    zeros: Zeros,
    held: Mutex<RoaringBitmap>,
    /// Told when `held` grows, for whoever waits for a position.
    grown: Condvar,
    /// Bytes of the target that are right, at every offset of the positions held.
    bytes_held: AtomicU64,
    /// What the file does not keep.
    moved: Moved,
}

impl Assembly {
    /// A target in which nothing is known to be right yet.
    pub fn new(file: Arc<File>, layout: Arc<Layout>, zeros: Zeros) -> Self {
        let (held, grown, bytes_held) = (Mutex::default(), Condvar::new(), AtomicU64::new(0));
        Self { file, layout, zeros, held, grown, bytes_held, moved: Moved::default() }
    }

    /// What the target is to become.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Writes the chunk everywhere that `position` occurs and counts it as held. Returns whether that is new; a chunk
    /// held already is not written again.
    ///
    /// # Errors
    /// What the file system said; the position is not held then.
    pub fn put(&self, position: Position, chunk: &Chunk) -> io::Result<bool> {
        if self.holds(position) {
            return Ok(false);
        }
        for &offset in self.layout.offsets(position) {
            self.write(chunk.bytes(), offset)?;
        }
        Ok(self.mark(position))
    }

    /// The plain bytes of a position, read back. They are what the disk says: whoever sends them on verifies them.
    ///
    /// # Errors
    /// `NotFound` when the position is not held, otherwise what the file system said.
    pub fn read(&self, position: Position) -> io::Result<Vec<u8>> {
        if !self.holds(position) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut bytes = vec![0; self.layout.length(position) as usize];
        let offset = self.layout.offsets(position).first().copied().unwrap_or(0);
        self.file.read_exact_at(&mut bytes, offset)?;
        // In this order: what is given back was noted as moved before.
        self.moved.fill(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// This range is the content of a complete file of the tree, from where it is read from now on; the spool gives back
    /// its room. Ranges come in ascending order.
    pub(super) fn moved(&self, range: Range<u64>, to: TreeFile) {
        if range.end - range.start < MOVED_LEAST {
            return;
        }
        self.moved.add(range.clone(), to);
        if holes::punch(&self.file, range).is_err() {
            self.moved.forget_last();
        }
    }

    /// Whether the position is right everywhere that it occurs.
    pub fn holds(&self, position: Position) -> bool {
        self.set().contains(position)
    }

    /// Everything held at this moment.
    pub fn held(&self) -> Holdings {
        self.set().clone().into()
    }

    /// How many positions are held: cheap, to see whether [`Assembly::held`] has changed. It never decreases.
    pub fn count(&self) -> u64 {
        self.set().len()
    }

    /// Bytes of the target that are right, between 0 and the length of the image.
    pub fn bytes_held(&self) -> u64 {
        self.bytes_held.load(Ordering::Relaxed)
    }

    /// Positions not held, ascending.
    pub fn missing(&self) -> RoaringBitmap {
        let mut all = RoaringBitmap::new();
        all.insert_range(0..self.layout.count());
        all - &*self.set()
    }

    /// Notes that the position is right everywhere. Only for those that have hashed what is in the file.
    pub(super) fn mark(&self, position: Position) -> bool {
        let new = self.set().insert(position);
        if new {
            self.grown.notify_all();
            let places = self.layout.offsets(position).len() as u64;
            self.bytes_held.fetch_add(places * u64::from(self.layout.length(position)), Ordering::Relaxed);
        }
        new
    }

    /// Waits until the position is held, or `stop` is set and [`Assembly::wake`] was called; says which.
    pub(super) fn wait(&self, position: Position, stop: &AtomicBool) -> bool {
        let mut held = self.set();
        while !held.contains(position) {
            if stop.load(Ordering::Relaxed) {
                return false;
            }
            held = self.grown.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Makes those that wait look whether they shall stop.
    pub(super) fn wake(&self) {
        // The lock is held by them from looking to waiting, so that none is missed.
        drop(self.set());
        self.grown.notify_all();
    }

    /// The file itself, for those that share blocks instead of writing, or look at what is there.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self.zeros {
            Zeros::Write => self.file.write_all_at(bytes, offset),
            Zeros::Skip | Zeros::Punch => {
                // The file has its length already.
                holes::write_sparse(&self.file, bytes, offset, self.zeros == Zeros::Punch).map(|_| ())
            }
        }
    }

    fn set(&self) -> MutexGuard<'_, RoaringBitmap> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::chunk::name_many;
    use crate::format::digest::Digest;
    use crate::format::index::{Index, IndexChunk};

    #[test]
    fn what_became_a_file_is_read_from_there_and_takes_no_room_in_the_spool() {
        const LENGTH: usize = 512 << 10;
        let bytes: Vec<u8> = (0..2 * LENGTH as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let plain = bytes.chunks(LENGTH).map(|part| part.to_vec().into()).collect();
        let chunks = name_many(plain, Digest::Sha512_256);
        let rows = (1_u64..).zip(&chunks).map(|(n, chunk)| IndexChunk { end: n * LENGTH as u64, id: chunk.id() });
        let flags = crate::format::features::SHA512_256;
        let index = Index { flags, sizes: [1, LENGTH as u64, 1 << 20], chunks: rows.collect() };
        let spool = Arc::new(tempfile::tempfile().unwrap());
        let assembly = Assembly::new(spool.clone(), Arc::new(Layout::of(&index)), Zeros::Write);
        for (position, chunk) in (0..).zip(&chunks) {
            assembly.put(position, chunk).unwrap();
        }
        let before = spool.metadata().unwrap().blocks();

        // A file that ends in the second chunk, with something of the archive in front of it and behind it.
        let (start, end) = (5_000, LENGTH + 9_000);
        let tree = tempfile::tempdir().unwrap();
        let path = tree.path().join("usr/file");
        std::fs::create_dir(tree.path().join("usr")).unwrap();
        std::fs::write(&path, &bytes[start..end]).unwrap();
        let top = Arc::new(std::fs::File::open(tree.path()).unwrap().into());
        let names = ["usr", "file"].map(|name| CString::new(name).unwrap()).to_vec();
        assembly.moved(start as u64..end as u64, TreeFile { top, path: names });
        assert!(spool.metadata().unwrap().blocks() < before / 2 + 100);
        for (position, part) in (0..).zip(bytes.chunks(LENGTH)) {
            assert!(assembly.read(position).unwrap() == part);
        }

        // The tree is the user's. What he puts there may be wrong, but it is never something of elsewhere.
        std::fs::remove_file(&path).unwrap();
        assert_eq!(assembly.read(0).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(assembly.read(1).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
