//! The two digests that name chunks.

use proto::ChunkId;

/// The digest of an index, by its feature flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Digest {
    /// SHA-512/256 (FIPS 180-4, its own initial values): casync's default.
    #[default]
    Sha512_256,
    /// SHA-256.
    Sha256,
}

impl Digest {
    /// The id of a chunk with these uncompressed bytes.
    pub fn id(self, bytes: &[u8]) -> ChunkId {
        use sha2::Digest as _;
        ChunkId(match self {
            Digest::Sha512_256 => sha2::Sha512_256::digest(bytes).into(),
            Digest::Sha256 => sha2::Sha256::digest(bytes).into(),
        })
    }

    /// The ids of many chunks, in their order; cheaper than one by one where the CPU hashes several at once.
    pub fn ids(self, chunks: &[&[u8]]) -> Vec<ChunkId> {
        chunks.iter().map(|bytes| self.id(bytes)).collect()
    }
}
