//! Bytes from outside ([`Encoded`]) and what they become once checked ([`Chunk`]). [`verify`] is the only door.

use std::cell::RefCell;
use std::fmt;

use bytes::Bytes;
use proto::ChunkId;
pub use proto::message::Encoding;

use crate::format::compression::{DecodeError, Decompressor};
use crate::format::digest::Digest;

/// Bytes that claim to be a chunk, as a store, a seed or a peer gave them. Nothing about them is known yet.
#[derive(Clone)]
pub struct Encoded {
    /// How `bytes` are encoded.
    pub encoding: Encoding,
    /// The bytes as found.
    pub bytes: Bytes,
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoded({:?}, {} bytes)", self.encoding, self.bytes.len())
    }
}

/// The verified, uncompressed bytes of a chunk: they have the digest that `id` says. Only [`verify`] (and the chunker,
/// which computes the id) makes one.
#[derive(Clone)]
pub struct Chunk {
    id: ChunkId,
    bytes: Bytes,
}

impl Chunk {
    /// The name of the chunk.
    pub fn id(&self) -> ChunkId {
        self.id
    }

    /// The uncompressed bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// Why bytes are not the chunk that they were said to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// They decompress to something else, or are of another length.
    #[error("chunk {want}: the bytes found are another chunk's or damaged")]
    WrongDigest {
        /// The chunk wanted.
        want: ChunkId,
    },
    /// They do not decompress, or to a length that the index does not allow.
    #[error("chunk {want}: {reason}")]
    Undecodable {
        /// The chunk wanted.
        want: ChunkId,
        /// What the decoder said.
        reason: String,
    },
}

/// Decompresses and checks. Never allocates past `length`, which is the uncompressed length that the index gives.
///
/// # Errors
/// [`Corrupt`] when the bytes are not exactly the chunk `id`.
pub fn verify(encoded: &Encoded, id: ChunkId, digest: Digest, length: u32) -> Result<Chunk, Corrupt> {
    let bytes = decode(encoded, id, length)?;
    if digest.id(&bytes) == id { Ok(Chunk { id, bytes }) } else { Err(Corrupt::WrongDigest { want: id }) }
}

/// What [`verify`] is to be told of one chunk among several.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The bytes found.
    pub encoded: Encoded,
    /// The chunk that they claim to be.
    pub id: ChunkId,
    /// Its uncompressed length in bytes, from the index.
    pub length: u32,
}

/// [`verify`] for several chunks at once, which costs a fraction where the CPU hashes several in parallel: eight or
/// more make it worth while. Answers in the order of the claims.
pub fn verify_many(claims: &[Claim], digest: Digest) -> Vec<Result<Chunk, Corrupt>> {
    let decoded: Vec<_> = claims.iter().map(|claim| decode(&claim.encoded, claim.id, claim.length)).collect();
    let whole: Vec<&[u8]> = decoded.iter().flatten().map(|bytes| &bytes[..]).collect();
    let mut ids = digest.ids(&whole).into_iter();
    let check = |(claim, bytes): (&Claim, Result<Bytes, Corrupt>)| match bytes {
        Ok(bytes) if ids.next() == Some(claim.id) => Ok(Chunk { id: claim.id, bytes }),
        Ok(_) => Err(Corrupt::WrongDigest { want: claim.id }),
        Err(corrupt) => Err(corrupt),
    };
    claims.iter().zip(decoded).map(check).collect()
}

/// Names plain bytes that were found here, not claimed by anybody: chunks by computation.
pub fn name_many(plain: Vec<Bytes>, digest: Digest) -> Vec<Chunk> {
    let ids = digest.ids(&plain.iter().map(|bytes| &bytes[..]).collect::<Vec<_>>());
    ids.into_iter().zip(plain).map(|(id, bytes)| Chunk { id, bytes }).collect()
}

/// The plain bytes of a chunk whose length no index tells, at most `limit`: for those who then compute what chunk it is.
///
/// # Errors
/// When the bytes are not one whole stream, or longer.
pub fn plain(encoded: &Encoded, limit: u64) -> Result<Bytes, DecodeError> {
    // Room is made for the whole limit at once, and nearly every chunk is shorter than casync's usual largest.
    let mut room = limit.min(256 << 10);
    loop {
        let decompressed = DECOMPRESSOR.with_borrow_mut(|decompressor| {
            decompressor.decompress(encoded.encoding, &encoded.bytes, usize::try_from(room).unwrap_or(usize::MAX))
        });
        match decompressed {
            Err(DecodeError::TooLong { .. }) if room < limit => room = limit.min(room * 8),
            other => return other.map(Bytes::from),
        }
    }
}

thread_local! {
    static DECOMPRESSOR: RefCell<Decompressor> = RefCell::new(Decompressor::new());
}

/// The plain bytes, of the right length, of a chunk whose digest is yet to be compared.
fn decode(encoded: &Encoded, id: ChunkId, length: u32) -> Result<Bytes, Corrupt> {
    let bytes = match encoded.encoding {
        Encoding::Plain => encoded.bytes.clone(),
        encoding => DECOMPRESSOR
            .with_borrow_mut(|decompressor| decompressor.decompress(encoding, &encoded.bytes, length as usize))
            .map(Bytes::from)
            .map_err(|error| Corrupt::Undecodable { want: id, reason: error.to_string() })?,
    };
    if bytes.len() == length as usize { Ok(bytes) } else { Err(Corrupt::WrongDigest { want: id }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::compression::Compressor;

    fn claim(encoding: Encoding, plain: &[u8]) -> Claim {
        let bytes = Compressor::new(encoding).unwrap().compress(plain).unwrap().into();
        let id = Digest::Sha512_256.id(plain);
        Claim { encoded: Encoded { encoding, bytes }, id, length: plain.len() as u32 }
    }

    #[test]
    fn each_claim_of_a_batch_gets_its_own_answer() {
        let encodings = [Encoding::Plain, Encoding::Zstd, Encoding::Xz, Encoding::Gzip];
        let mut claims: Vec<Claim> = (1..=20).map(|i| claim(encodings[i % 4], &vec![i as u8; i * 1000])).collect();
        claims[3].id = ChunkId([0; 32]);
        claims[4].length += 1;
        claims[5].length -= 1;
        claims[6].encoded.bytes = Bytes::new();
        let answers = verify_many(&claims, Digest::Sha512_256);
        for (i, (claim, answer)) in claims.iter().zip(answers).enumerate() {
            let alone = verify(&claim.encoded, claim.id, Digest::Sha512_256, claim.length);
            assert_eq!(answer.is_err(), (3..=6).contains(&i), "{i}");
            assert_eq!(answer.map(|chunk| chunk.bytes), alone.map(|chunk| chunk.bytes), "{i}");
        }
    }
}
