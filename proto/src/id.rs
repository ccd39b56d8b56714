//! The three names that peers exchange, each 32 bytes: a chunk, an index, a node.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What was wrong with the text form of an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not 64 lower-case hexadecimal digits: {0:?}")]
pub struct ParseIdError(String);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The bytes of this id.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        /// That of the bytes. The first few of them nearly always tell.
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                let first = |id: &Self| id.0.first_chunk().map(|first| u64::from_be_bytes(*first));
                first(self).cmp(&first(other)).then_with(|| self.0.cmp(&other.0))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex::encode(&self.0[..6]))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            /// Parses 64 lower-case hexadecimal digits, the form casync prints and accepts.
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let refused = || ParseIdError(text.chars().take(80).collect());
                if text.bytes().any(|b| b.is_ascii_uppercase()) {
                    return Err(refused());
                }
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| refused())?;
                Ok(Self(bytes))
            }
        }
    };
}

id! {
    /// The name of a chunk: the digest of its uncompressed bytes.
    ChunkId
}

id! {
    /// The name of an index among peers: SHA-256 over the bytes of the index file.
    IndexId
}

id! {
    /// The name of a node: its ed25519 public key, which is also what its libp2p `PeerId` encodes.
    NodeId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_ordered_as_their_bytes() {
        let ids = [[0, 0], [0, 1], [1, 0], [1, 255], [255, 1]].map(|[first, last]| {
            let mut id = [first; 32];
            id[31] = last;
            NodeId(id)
        });
        assert!(ids.is_sorted() && ids.iter().all(|id| ids.iter().all(|other| id.cmp(other) == id.0.cmp(&other.0))));
    }

    #[test]
    fn an_id_reads_back_from_what_it_prints() {
        let id = ChunkId([0xab; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn upper_case_short_and_long_ids_are_refused() {
        for text in ["AB".repeat(32), "ab".repeat(31), "ab".repeat(33), "zz".repeat(32)] {
            assert!(text.parse::<ChunkId>().is_err(), "{text}");
        }
    }
}
