//! Which positions of an index somebody holds: a roaring bitmap, exact and small, because holdings come in runs.

use std::fmt;

use roaring::RoaringBitmap;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Position, limits};

/// A set of positions. On the wire it is the bitmap's portable serialization, bounded by the message it is in, and no
/// position is above [`limits::POSITIONS`].
#[derive(Clone, PartialEq, Default)]
pub struct Holdings(RoaringBitmap);

impl Eq for Holdings {}

impl Holdings {
    /// Holds nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Holds every position below `count`.
    pub fn all(count: u32) -> Self {
        let mut set = RoaringBitmap::new();
        set.insert_range(0..count);
        Self(set)
    }

    /// The set itself.
    pub fn positions(&self) -> &RoaringBitmap {
        &self.0
    }

    /// Bytes of it on the wire, and about as many in memory.
    pub fn bytes(&self) -> usize {
        self.0.serialized_size()
    }

    /// Drops positions that an index of `count` does not have.
    pub fn keep_below(&mut self, count: u32) {
        self.0.remove_range(count..);
    }

    /// Gives up the set itself.
    pub fn into_positions(self) -> RoaringBitmap {
        self.0
    }
}

impl From<RoaringBitmap> for Holdings {
    fn from(set: RoaringBitmap) -> Self {
        Self(set)
    }
}

impl FromIterator<Position> for Holdings {
    fn from_iter<I: IntoIterator<Item = Position>>(positions: I) -> Self {
        Self(positions.into_iter().collect())
    }
}

/// Containers of 2^16 positions that a bitmap of the largest index has.
const MOST_CONTAINERS: u32 = limits::POSITIONS.div_ceil(1 << 16);

/// The number of containers that a portable roaring bitmap announces, so that a short hostile message does not unfold
/// into gigabytes. `None` where the header is neither of the two that the format knows.
/// Source: the RoaringFormatSpec of the roaring bitmap project, "cookie header".
fn containers(bytes: &[u8]) -> Option<u32> {
    const COOKIE_NO_RUNS: u32 = 12346;
    const COOKIE_RUNS: u32 = 12347;
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    match word(0)? {
        COOKIE_NO_RUNS => word(4),
        cookie if cookie & 0xffff == COOKIE_RUNS => Some((cookie >> 16) + 1),
        _ => None,
    }
}

impl fmt::Debug for Holdings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Holdings({} positions)", self.0.len())
    }
}

impl Serialize for Holdings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(self.0.serialized_size());
        self.0.serialize_into(&mut bytes).map_err(serde::ser::Error::custom)?;
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de> Deserialize<'de> for Holdings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> de::Visitor<'de> for Bytes {
            type Value = Holdings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a serialized bitmap")
            }

            fn visit_bytes<E: de::Error>(self, mut bytes: &[u8]) -> Result<Holdings, E> {
                if containers(bytes).is_none_or(|n| n > MOST_CONTAINERS) {
                    return Err(E::custom("a bitmap that spans more than any index"));
                }
                let set = RoaringBitmap::deserialize_from(&mut bytes).map_err(E::custom)?;
                if !bytes.is_empty() {
                    return Err(E::custom("bytes behind the bitmap"));
                }
                if set.max().is_some_and(|last| last >= limits::POSITIONS) {
                    return Err(E::custom("a position over the limit"));
                }
                Ok(Holdings(set))
            }

            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Holdings, E> {
                self.visit_bytes(&bytes)
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests;
