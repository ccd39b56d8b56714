//! The two digests that name chunks.

mod lanes;

use aws_lc_rs::digest as aws_lc;
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
        match self {
            Digest::Sha512_256 => sha512_256(&aws_lc::digest(&aws_lc::SHA512_256, bytes)),
            Digest::Sha256 => ChunkId(sha2::Sha256::digest(bytes).into()),
        }
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
            Digest::Sha512_256 => State::Sha512_256(Box::new(aws_lc::Context::new(&aws_lc::SHA512_256))),
            Digest::Sha256 => State::Sha256(sha2::Sha256::new()),
        })
    }
}

/// The digest of a stream in the making.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    /// By AWS-LC, a third faster than `sha2` where a stream is hashed alone.
    Sha512_256(Box<aws_lc::Context>),
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
        match self.0 {
            State::Sha512_256(state) => sha512_256(&state.finish()),
            State::Sha256(state) => ChunkId(state.finalize().into()),
        }
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            State::Sha512_256(_) => "Hasher(Sha512_256)",
            State::Sha256(_) => "Hasher(Sha256)",
        })
    }
}

/// The digest as an id; both have 32 bytes.
fn sha512_256(digest: &aws_lc::Digest) -> ChunkId {
    let mut id = [0; 32];
    id.copy_from_slice(digest.as_ref());
    ChunkId(id)
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
