//! A new file that shares blocks of known files instead of having copies. Blocks are looked at after they are shared:
//! what counts is what is in the new file, however the other one changes meanwhile.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::io::Errno;

use super::super::known::{Known, Share};
use crate::extract::reflink::{BLOCK, clone_range};

/// How much is collected before it is shared or written.
const BATCH: usize = 1 << 20;

/// The content of a new file of which parts may be shared.
pub(super) struct Sharing {
    shares: VecDeque<Share>,
    size: u64,
    /// What was not written yet, and where it belongs.
    buffer: Vec<u8>,
    start: u64,
    open: Option<(Arc<Known>, Option<File>)>,
    seen: Vec<u8>,
    shared: u64,
}

impl Sharing {
    /// For a file of `size` bytes. The shares are in order.
    pub(super) fn new(shares: Vec<Share>, size: u64) -> Self {
        let (shares, buffer) = (shares.into(), Vec::with_capacity((size as usize).min(2 * BATCH)));
        Self { shares, size, buffer, start: 0, open: None, seen: Vec::new(), shared: 0 }
    }

    /// How many bytes are shared.
    pub(super) fn shared(&self) -> u64 {
        self.shared
    }

    /// Takes the next bytes; `write` is for those that are not shared, and is told whether something else may be there
    /// already.
    pub(super) fn content(
        &mut self,
        file: &File,
        bytes: &[u8],
        mut write: impl FnMut(&[u8], u64, bool) -> io::Result<()>,
    ) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        let end = self.start + self.buffer.len() as u64;
        if end < self.size && self.buffer.len() < BATCH {
            return Ok(());
        }
        let end = if end < self.size { end - end % BLOCK } else { end };
        let buffer = std::mem::take(&mut self.buffer);
        let part = |a: u64, b: u64| &buffer[(a - self.start) as usize..(b - self.start) as usize];
        let mut at = self.start;
        let mut shared = 0;
        while let Some(share) = self.shares.front().cloned() {
            let (a, mut b) = (share.at.max(at).next_multiple_of(BLOCK), (share.at + share.length).min(end));
            if b < self.size {
                b -= b % BLOCK;
            }
            if a < b {
                write(part(at, a), at, false)?;
                match clone(&mut self.open, &mut self.seen, &share, file, a, part(a, b)) {
                    Cloned::Right => shared += b - a,
                    Cloned::Nothing => write(part(a, b), a, false)?,
                    Cloned::Wrong => write(part(a, b), a, true)?,
                }
                at = b;
            }
            if share.at + share.length > end {
                break;
            }
            self.shares.pop_front();
        }
        write(part(at, end), at, false)?;
        self.shared += shared;
        self.buffer = buffer;
        self.buffer.drain(..(end - self.start) as usize);
        self.start = end;
        Ok(())
    }
}

/// What is in the new file after an attempt to share blocks with it.
enum Cloned {
    /// What belongs there.
    Right,
    /// Nothing yet.
    Nothing,
    /// Whatever the other file had.
    Wrong,
}

/// Shares the blocks of `want` and says whether they are right.
fn clone(
    open: &mut Option<(Arc<Known>, Option<File>)>,
    seen: &mut Vec<u8>,
    share: &Share,
    file: &File,
    at: u64,
    want: &[u8],
) -> Cloned {
    if !open.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, &share.file)) {
        *open = Some((share.file.clone(), share.file.open()));
    }
    let Some((_, Some(source))) = open else { return Cloned::Nothing };
    match clone_range(source, share.from + (at - share.at), want.len() as u64, file, at) {
        Ok(()) => {}
        // Said also of what was shared in part.
        Err(Errno::INVAL) => return Cloned::Wrong,
        Err(_) => {
            *open = Some((share.file.clone(), None));
            return Cloned::Nothing;
        }
    }
    seen.resize(want.len(), 0);
    match file.read_exact_at(seen, at).is_ok() && seen == want {
        true => Cloned::Right,
        false => Cloned::Wrong,
    }
}
