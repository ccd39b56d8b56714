//! Which positions of an index somebody holds: exact and small, because holdings come in runs.

use std::fmt;

use roaring::RoaringBitmap;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Position, limits};

/// A set of positions. On the wire it is its runs or, where these are scattered, the bitmap's portable serialization,
/// whichever is shorter; bounded by the message it is in, and no position is above [`limits::POSITIONS`].
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

    /// About as many bytes as it takes in memory.
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

/// First byte of the two forms on the wire.
const RUNS: u8 = 0;
const BITMAP: u8 = 1;

/// Appends a number, 7 bits a byte, the lowest first, the top bit set in all but the last.
fn put(mut number: u32, to: &mut Vec<u8>) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// Takes a number from the front; `None` where there is none, or one that positions do not need.
fn take(from: &mut &[u8]) -> Option<u32> {
    let mut number = 0;
    for shift in [0, 7, 14, 21] {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// The runs of a set: for each, how many positions are left out before it and how many it has beyond the first. `None`
/// if they take more than so many bytes.
fn to_runs(set: &RoaringBitmap, most: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(RUNS);
    let mut positions = set.iter();
    let mut end = 0;
    while let Some(run) = positions.next_range() {
        put(run.start() - end, &mut bytes);
        put(run.end() - run.start(), &mut bytes);
        end = run.end().saturating_add(1);
        if bytes.len() > most {
            return None;
        }
    }
    Some(bytes)
}

fn from_runs(mut bytes: &[u8]) -> Result<RoaringBitmap, &'static str> {
    let mut set = RoaringBitmap::new();
    let mut end = 0;
    while !bytes.is_empty() {
        let (Some(gap), Some(more)) = (take(&mut bytes), take(&mut bytes)) else { return Err("a run cut short") };
        let first = end + gap;
        end = first + more + 1;
        if end > limits::POSITIONS {
            return Err("a position over the limit");
        }
        set.insert_range(first..end);
    }
    Ok(set)
}

fn from_bitmap(mut bytes: &[u8]) -> Result<RoaringBitmap, String> {
    if containers(bytes).is_none_or(|n| n > MOST_CONTAINERS) {
        return Err("a bitmap that spans more than any index".into());
    }
    let set = RoaringBitmap::deserialize_from(&mut bytes).map_err(|error| error.to_string())?;
    if !bytes.is_empty() {
        return Err("bytes behind the bitmap".into());
    }
    match set.max() {
        Some(last) if last >= limits::POSITIONS => Err("a position over the limit".into()),
        _ => Ok(set),
    }
}

impl Serialize for Holdings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let size = self.0.serialized_size();
        let bytes = match to_runs(&self.0, size) {
            Some(runs) => runs,
            None => {
                let mut bytes = Vec::with_capacity(1 + size);
                bytes.push(BITMAP);
                self.0.serialize_into(&mut bytes).map_err(serde::ser::Error::custom)?;
                bytes
            }
        };
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de> Deserialize<'de> for Holdings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> de::Visitor<'de> for Bytes {
            type Value = Holdings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("holdings")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Holdings, E> {
                match bytes.split_first() {
                    Some((&RUNS, runs)) => from_runs(runs).map_err(E::custom).map(Holdings),
                    Some((&BITMAP, bitmap)) => from_bitmap(bitmap).map_err(E::custom).map(Holdings),
                    _ => Err(E::custom("holdings of no known form")),
                }
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
