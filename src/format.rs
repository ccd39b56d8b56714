//! casync on disk, pure code: no I/O here, only bytes to values and back.

pub mod archive;
pub mod buzhash;
pub mod chunk_sizes;
pub mod chunker;
pub mod compression;
pub mod digest;
pub mod features;
pub mod index;
pub mod layout;
