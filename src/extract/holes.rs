//! Zeros and holes: writing without allocating zeros, and which parts of a file are holes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

/// What becomes of zeros in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeros {
    /// Written like everything else.
    Write,
    /// Left out: the file is new and reads as zeros where nothing was written.
    Skip,
    /// Made a hole: the file may have something else there.
    Punch,
}

/// Below this a hole is not worth a system call of its own.
const SMALLEST_HOLE: usize = 32 << 10;

/// File systems allocate in blocks of this size or a multiple of it.
const BLOCK: usize = 4096;

/// Writes `bytes` at `offset`, leaving out long runs of zeros that are whole blocks of the file; `punch` makes holes of
/// them, for a file that may have something else there. Says whether the last byte was written, so that the file is long
/// enough.
pub(crate) fn write_sparse(file: &File, bytes: &[u8], offset: u64, punch: bool) -> io::Result<bool> {
    let mut written = 0;
    for hole in zero_runs(bytes, offset) {
        file.write_all_at(&bytes[written..hole.start], offset + written as u64)?;
        if punch {
            punch_or_write(file, &bytes[hole.clone()], offset + hole.start as u64)?;
        }
        written = hole.end;
    }
    file.write_all_at(&bytes[written..], offset + written as u64)?;
    Ok(written < bytes.len())
}

/// The parts of the file below `length` that are not holes, ascending. A file system that cannot tell has no holes.
pub(super) fn data_ranges(file: &File, length: u64) -> io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(errno) => return Err(errno.into()),
        };
        let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
            Ok(end) => end.min(length),
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => length,
            Err(errno) => return Err(errno.into()),
        };
        if start >= length || end <= start {
            break;
        }
        ranges.push(start..end);
        at = end;
    }
    Ok(ranges)
}

/// Whether all bytes are zero. Quick for bytes that are not.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Runs of zero blocks of the file within `bytes`, at least [`SMALLEST_HOLE`] long, as ranges of `bytes`. A part of a
/// block at either end belongs to a run only where the whole of `bytes` is zero.
fn zero_runs(bytes: &[u8], offset: u64) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let first = (offset.next_multiple_of(BLOCK as u64) - offset) as usize;
    let mut at = first;
    while at + BLOCK <= bytes.len() {
        if is_zero(&bytes[at..at + BLOCK]) {
            match runs.last_mut().filter(|run| run.end == at) {
                Some(run) => run.end = at + BLOCK,
                None => runs.push(at..at + BLOCK),
            }
        }
        at += BLOCK;
    }
    runs.retain(|run| run.len() >= SMALLEST_HOLE);
    runs
}

/// Makes a hole.
///
/// # Errors
/// What the file system said, which may have no holes.
pub(super) fn punch(file: &File, range: Range<u64>) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(file, flags, range.start, range.end - range.start)?)
}

fn punch_or_write(file: &File, zeros: &[u8], offset: u64) -> io::Result<()> {
    punch(file, offset..offset + zeros.len() as u64).or_else(|_| file.write_all_at(zeros, offset))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn only_whole_blocks_of_zeros_become_holes() {
        let mut bytes = vec![0u8; 100_000];
        bytes[99_999] = 1;
        assert_eq!(zero_runs(&bytes, 4095), vec![1..98_305]);
        bytes[50_000] = 1;
        assert_eq!(zero_runs(&bytes, 0), vec![0..49_152, 53_248..98_304]);
        assert!(zero_runs(&[1; 8192], 0).is_empty());
    }

    #[test]
    fn sparse_writing_gives_the_same_bytes_with_fewer_blocks() {
        let file = tempfile::tempfile().unwrap();
        let old = vec![7u8; 200_000];
        file.write_all_at(&old, 0).unwrap();
        let mut bytes = vec![0u8; 150_000];
        bytes[..10].fill(9);
        write_sparse(&file, &bytes, 1234, true).unwrap();
        let mut want = old.clone();
        want[1234..151_234].copy_from_slice(&bytes);
        let mut got = vec![0; 200_000];
        file.read_exact_at(&mut got, 0).unwrap();
        assert!(got == want);
        let _ = file.metadata().unwrap().blocks();
    }
}
