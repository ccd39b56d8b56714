//! The three names that peers exchange, each 32 bytes: a chunk, an index, a node.

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
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The bytes of this id.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
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
