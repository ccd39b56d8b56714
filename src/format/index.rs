//! The chunk index (`.caibx`, `.caidx`): the ordered list of chunks of a stream. Reads and writes whole files, and
//! accepts exactly what casync accepts; whether the chunks exist is for others to find out.

use proto::{ChunkId, IndexId};

use super::digest::Digest;
use super::features;

/// The longest chunk that any index may have, in bytes.
pub const MAX_CHUNK: u64 = 128 << 20;

/// The most rows that are read from an index. At casync's default sizes this is a stream of a terabyte.
pub const MAX_ROWS: usize = proto::limits::POSITIONS as usize;

/// The longest index file that is read, in bytes.
pub const MAX_FILE: u64 = (HEADER + ROW * (MAX_ROWS + 1)) as u64;

const HEADER: usize = 64;
const ROW: usize = 40;
const INDEX_SIZE: u64 = 48;
const INDEX_TYPE: u64 = 0x9682_4d9c_7b12_9ff9;
const TABLE_SIZE: u64 = u64::MAX;
const TABLE_TYPE: u64 = 0xe75b_9e11_2f17_417d;
const TAIL_MARKER: u64 = 0x4b4f_050e_5549_ecd1;

/// An index, checked: sizes in order, ends strictly increasing, no chunk longer than `max`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// casync's feature flags word, as found.
    pub flags: u64,
    /// The smallest, average and largest chunk size it was cut with, in bytes.
    pub sizes: [u64; 3],
    /// The chunks in order.
    pub chunks: Vec<IndexChunk>,
}

/// One row of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexChunk {
    /// Where the chunk ends in the stream, exclusive.
    pub end: u64,
    /// Its name.
    pub id: ChunkId,
}

/// Why bytes are not an index. Offsets are in bytes from the start of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The file ends before its tail.
    #[error("index ends at byte {offset}, before its tail; is the copy complete?")]
    Truncated {
        /// The length of the file.
        offset: usize,
    },
    /// A word is not what it must be.
    #[error("not a valid index: at byte {offset}, {expected} expected, {found:#x} found")]
    Unexpected {
        /// Where the word is.
        offset: usize,
        /// What should be there.
        expected: &'static str,
        /// What is there.
        found: u64,
    },
    /// It needs features that nobody knows.
    #[error("index has feature bits unknown to this version: {bits:#x} (at byte 16)")]
    UnknownFeatures {
        /// The unknown bits.
        bits: u64,
    },
    /// There are bytes after the tail.
    #[error("index goes on after its tail, at byte {offset}")]
    Trailing {
        /// Where the file should have ended.
        offset: usize,
    },
    /// It is longer than [`MAX_FILE`].
    #[error("index has more than {MAX_ROWS} chunks; make it with a larger chunk size")]
    TooLarge,
}

impl Index {
    /// Reads the bytes of an index file.
    ///
    /// # Errors
    /// [`IndexError`] for whatever casync would refuse, and for more than [`MAX_ROWS`] rows.
    pub fn parse(bytes: &[u8]) -> Result<Index, IndexError> {
        let word = |offset| word(bytes, offset);
        expect(0, word(0)?, INDEX_SIZE, "the size of an index header, 0x30,")?;
        expect(8, word(8)?, INDEX_TYPE, "the mark of an index")?;
        let flags = word(16)?;
        check_flags(flags)?;
        let sizes = [word(24)?, word(32)?, word(40)?];
        check_sizes(sizes)?;
        expect(48, word(48)?, TABLE_SIZE, "an open table size, all ones,")?;
        expect(56, word(56)?, TABLE_TYPE, "the mark of a chunk table")?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(IndexError::TooLarge);
        }
        let mut chunks = Vec::with_capacity((bytes.len() - HEADER) / ROW);
        let mut offset = HEADER;
        let mut start = 0;
        loop {
            let end = word(offset)?;
            if end == 0 {
                break;
            }
            if end <= start {
                return Err(unexpected(offset, end, "an end after the previous chunk's"));
            }
            if end - start > sizes[2] {
                return Err(unexpected(offset, end, "a chunk no longer than the index's maximum"));
            }
            let id = bytes.get(offset + 8..offset + ROW).and_then(|id| id.try_into().ok());
            let id = ChunkId(id.ok_or(IndexError::Truncated { offset: bytes.len() })?);
            chunks.push(IndexChunk { end, id });
            start = end;
            offset += ROW;
        }
        expect(offset + 8, word(offset + 8)?, 0, "a zero")?;
        expect(offset + 16, word(offset + 16)?, INDEX_SIZE, "the distance of the table from the index, 0x30,")?;
        expect(offset + 24, word(offset + 24)?, table_size(chunks.len()), "the size of the table")?;
        expect(offset + 32, word(offset + 32)?, TAIL_MARKER, "the mark of the table's end")?;
        match bytes.len() > offset + ROW {
            true => Err(IndexError::Trailing { offset: offset + ROW }),
            false => Ok(Index { flags, sizes, chunks }),
        }
    }

    /// The bytes of the index file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + ROW * (self.chunks.len() + 1));
        let mut put = |word: u64| bytes.extend_from_slice(&word.to_le_bytes());
        [INDEX_SIZE, INDEX_TYPE, self.flags].into_iter().chain(self.sizes).for_each(&mut put);
        [TABLE_SIZE, TABLE_TYPE].into_iter().for_each(&mut put);
        for chunk in &self.chunks {
            bytes.extend_from_slice(&chunk.end.to_le_bytes());
            bytes.extend_from_slice(chunk.id.as_bytes());
        }
        let tail = [0, 0, INDEX_SIZE, table_size(self.chunks.len()), TAIL_MARKER];
        tail.into_iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        bytes
    }

    /// The name among peers of the index whose file has these bytes.
    pub fn index_id(bytes: &[u8]) -> IndexId {
        IndexId(Digest::Sha256.id(bytes).0)
    }

    /// Which digest the ids are.
    pub fn digest(&self) -> Digest {
        Digest::of_features(self.flags)
    }

    /// Length of the stream in bytes; 0 if there is no chunk.
    pub fn length(&self) -> u64 {
        self.chunks.last().map_or(0, |chunk| chunk.end)
    }
}

fn table_size(rows: usize) -> u64 {
    (16 + ROW * (rows + 1)) as u64
}

fn word(bytes: &[u8], offset: usize) -> Result<u64, IndexError> {
    let word = bytes.get(offset..offset + 8).and_then(|word| word.try_into().ok());
    word.map(u64::from_le_bytes).ok_or(IndexError::Truncated { offset: bytes.len() })
}

fn expect(offset: usize, found: u64, wanted: u64, expected: &'static str) -> Result<(), IndexError> {
    if found == wanted { Ok(()) } else { Err(unexpected(offset, found, expected)) }
}

fn unexpected(offset: usize, found: u64, expected: &'static str) -> IndexError {
    IndexError::Unexpected { offset, expected, found }
}

fn check_flags(flags: u64) -> Result<(), IndexError> {
    if flags == u64::MAX {
        return Err(unexpected(16, flags, "a feature flags word"));
    }
    let bits = features::unknown(flags);
    if bits != 0 {
        return Err(IndexError::UnknownFeatures { bits });
    }
    expect(16, flags, features::normalised(flags), "a feature flags word without contradictions")
}

fn check_sizes([min, avg, max]: [u64; 3]) -> Result<(), IndexError> {
    if min == 0 || min > avg {
        return Err(unexpected(24, min, "a smallest chunk size from 1 to the average"));
    }
    if avg > max {
        return Err(unexpected(32, avg, "an average chunk size up to the largest"));
    }
    if max > MAX_CHUNK {
        return Err(unexpected(40, max, "a largest chunk size up to 128 MiB"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_stream_has_an_index_of_104_bytes() {
        let index = Index { flags: 0xb000_0000_0000_0000, sizes: [16384, 65536, 262144], chunks: Vec::new() };
        let bytes = index.to_bytes();
        assert_eq!(bytes.len(), 104);
        assert_eq!(Index::parse(&bytes), Ok(index));
    }

    #[test]
    fn the_digest_follows_the_flags() {
        let mut index = Index { flags: features::BLOB, sizes: [1, 1, 1], chunks: Vec::new() };
        assert_eq!(index.digest(), Digest::Sha256);
        index.flags |= features::SHA512_256;
        assert_eq!(index.digest(), Digest::Sha512_256);
    }
}
