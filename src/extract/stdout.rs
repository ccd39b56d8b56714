//! An image to standard output, from its beginning to its end: behind the front up to which it is whole, or straight from
//! local stores where they have all of it. What is put together on the way lies in a file without a name.

use std::io::{self, Write};

use super::target::{Target, TargetError};
use super::tree::TreeError;
use crate::browse::reader::ReadAt;
use crate::temporary;
use crate::tree::unpack::Unpacked;

/// How much is read at once, in bytes.
const BLOCK: usize = 256 << 10;

/// What the command line calls it.
pub const NAME: &str = "-";

/// Writes all of it. Blocks.
pub(super) fn write(mut image: Box<dyn ReadAt>) -> Result<Unpacked, TreeError> {
    // Not the line-buffered one: this is not text.
    let out = std::os::fd::AsFd::as_fd(&io::stdout()).try_clone_to_owned().map_err(TreeError::Output)?;
    let mut out = std::fs::File::from(out);
    let mut offset = 0;
    loop {
        let block = image.read_at(offset, BLOCK)?;
        if block.is_empty() {
            return Ok(Unpacked::default());
        }
        out.write_all(&block).map_err(TreeError::Output)?;
        offset += block.len() as u64;
    }
}

/// A file for what is put together. Nobody finds it again.
pub(super) fn spool(length: u64) -> Result<Target, TargetError> {
    let place = temporary::directory();
    let made = temporary::nameless().and_then(|file| file.set_len(length).map(|()| file));
    match made {
        Ok(file) => Ok(Target::nameless(place, file, length)),
        Err(source) => Err(TargetError::Io { path: place, doing: "making a temporary file", source }),
    }
}
