//! casync on disk, pure code: no I/O here, only bytes to values and back.

pub mod digest;
pub mod index;
