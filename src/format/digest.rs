//! The two digests that name chunks.

mod lanes;

use proto::ChunkId;
use sha2::Digest as _;

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
    /// The digest that a feature flags word names.
    pub fn of_features(flags: u64) -> Self {
        match flags & super::features::SHA512_256 {
            0 => Digest::Sha256,
            _ => Digest::Sha512_256,
        }
    }

    /// The id of a chunk with these uncompressed bytes.
    pub fn id(self, bytes: &[u8]) -> ChunkId {
        ChunkId(match self {
            Digest::Sha512_256 => sha2::Sha512_256::digest(bytes).into(),
            Digest::Sha256 => sha2::Sha256::digest(bytes).into(),
        })
    }

    /// The ids of many chunks, in their order; cheaper than one by one where the CPU hashes several at once.
    pub fn ids(self, chunks: &[&[u8]]) -> Vec<ChunkId> {
        match self {
            Digest::Sha512_256 => lanes::sha512_256(chunks, |bytes| self.id(bytes)),
            Digest::Sha256 => chunks.iter().map(|bytes| self.id(bytes)).collect(),
        }
    }

    /// Starts the digest of a stream that comes in pieces.
    pub fn hasher(self) -> Hasher {
        Hasher(match self {
            Digest::Sha512_256 => State::Sha512_256(sha2::Sha512_256::new()),
            Digest::Sha256 => State::Sha256(sha2::Sha256::new()),
        })
    }
}

/// The digest of a stream in the making.
#[derive(Debug, Clone)]
pub struct Hasher(State);

#[derive(Debug, Clone)]
enum State {
    Sha512_256(sha2::Sha512_256),
    Sha256(sha2::Sha256),
}

impl Hasher {
    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha512_256(state) => state.update(bytes),
            State::Sha256(state) => state.update(bytes),
        }
    }

    /// The digest of all pieces.
    pub fn finish(self) -> ChunkId {
        ChunkId(match self.0 {
            State::Sha512_256(state) => state.finalize().into(),
            State::Sha256(state) => state.finalize().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_nothing_is_that_of_the_standard() {
        let id = "c672b8d1ef56ed28ab87c3622c5114069bdd3ad7b8f9737498d0c01ecef0967a".parse().unwrap();
        assert_eq!(Digest::Sha512_256.id(&[]), id);
        assert_eq!(Digest::Sha512_256.hasher().finish(), id);
    }
}
