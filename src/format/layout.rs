//! The distinct chunks of an index, numbered: what peers call positions. Compact enough for a million chunks; knows
//! nothing of where chunks are to be had.

use proto::{ChunkId, Position};

use super::digest::Digest;
use super::index::Index;

/// Where each distinct chunk of an index lies in the stream.
///
/// Positions count chunks at their first occurrence. Rows are the same chunk if both id and length agree, so that an
/// index that gives one id two lengths (it lies) makes one of them fail verification and never writes outside its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    digest: Digest,
    total: u64,
    ids: Vec<ChunkId>,
    lengths: Vec<u32>,
    /// The places of position p are `offsets[starts[p]..starts[p + 1]]`.
    starts: Vec<u32>,
    offsets: Vec<u64>,
    /// Positions in the order of their ids.
    by_id: Vec<Position>,
}

impl Layout {
    /// Numbers the chunks of an index.
    pub fn of(index: &Index) -> Layout {
        let start = |row: u32| row.checked_sub(1).map_or(0, |before| index.chunks[before as usize].end);
        // Rows number at most `index::MAX_ROWS` and lengths are at most `index::MAX_CHUNK`: both fit 32 bits.
        let rows = index.chunks.len() as u32;
        let length = |row: u32| (index.chunks[row as usize].end - start(row)) as u32;
        let key = |row: u32| (index.chunks[row as usize].id, length(row));
        let mut sorted: Vec<u32> = (0..rows).collect();
        sorted.sort_unstable_by_key(|&row| (index.chunks[row as usize].id, length(row), row));

        let mut position_of = vec![0; rows as usize];
        for group in sorted.chunk_by(|&a, &b| key(a) == key(b)) {
            group.iter().for_each(|&row| position_of[row as usize] = group[0]);
        }
        let (mut ids, mut lengths, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..rows {
            let first = position_of[row as usize];
            position_of[row as usize] = match first == row {
                true => {
                    ids.push(index.chunks[row as usize].id);
                    lengths.push(length(row));
                    starts.push(0);
                    ids.len() as Position - 1
                }
                // The first occurrence comes before, so its position is known by now.
                false => position_of[first as usize],
            };
            starts[position_of[row as usize] as usize] += 1;
        }
        let mut sum = 0;
        starts.iter_mut().for_each(|count| (sum, *count) = (sum + *count, sum));
        let mut next = starts.clone();
        starts.push(sum);
        let mut offsets = vec![0; rows as usize];
        for row in 0..rows {
            let place = &mut next[position_of[row as usize] as usize];
            offsets[*place as usize] = start(row);
            *place += 1;
        }
        sorted.retain_mut(|row| {
            let position = position_of[*row as usize];
            let first = offsets[starts[position as usize] as usize] == start(*row);
            *row = position;
            first
        });
        for vec in [&mut sorted, &mut lengths, &mut starts] {
            vec.shrink_to_fit();
        }
        ids.shrink_to_fit();
        Layout { digest: index.digest(), total: index.length(), ids, lengths, starts, offsets, by_id: sorted }
    }

    /// How many distinct chunks there are; positions are all below it.
    pub fn count(&self) -> u32 {
        self.ids.len() as u32
    }

    /// The name of the chunk at a position.
    ///
    /// # Panics
    /// As all methods that take a position, if it is not below [`Layout::count`].
    pub fn id(&self, position: Position) -> ChunkId {
        self.ids[position as usize]
    }

    /// Its uncompressed length in bytes.
    pub fn length(&self, position: Position) -> u32 {
        self.lengths[position as usize]
    }

    /// Every place in the stream where it begins, ascending; at least one.
    pub fn offsets(&self, position: Position) -> &[u64] {
        let [from, to] = [0, 1].map(|next| self.starts[position as usize + next] as usize);
        &self.offsets[from..to]
    }

    /// The position of a chunk; `None` if the index does not name it.
    pub fn position(&self, id: &ChunkId) -> Option<Position> {
        let at = self.by_id.partition_point(|&position| self.ids[position as usize] < *id);
        self.by_id.get(at).copied().filter(|&position| self.ids[position as usize] == *id)
    }

    /// The length of the stream in bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Which digest the ids are.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::index::IndexChunk;

    fn index(rows: &[(u64, u8)]) -> Index {
        let chunks = rows.iter().map(|&(end, id)| IndexChunk { end, id: ChunkId([id; 32]) }).collect();
        Index { flags: 0xb000_0000_0000_0000, sizes: [1, 64, 128], chunks }
    }

    #[test]
    fn a_repeated_chunk_has_one_position_and_all_its_offsets() {
        let layout = Layout::of(&index(&[(10, 9), (15, 1), (25, 9), (30, 1), (33, 5)]));
        assert_eq!(layout.count(), 3);
        assert_eq!([0, 1, 2].map(|p| layout.id(p).0[0]), [9, 1, 5]);
        assert_eq!([0, 1, 2].map(|p| layout.length(p)), [10, 5, 3]);
        assert_eq!([0, 1, 2].map(|p| layout.offsets(p).to_vec()), [vec![0, 15], vec![10, 25], vec![30]]);
        assert_eq!([9, 1, 5, 7].map(|id| layout.position(&ChunkId([id; 32]))), [Some(0), Some(1), Some(2), None]);
        assert_eq!(layout.total(), 33);
    }

    #[test]
    fn one_id_with_two_lengths_makes_two_positions() {
        let layout = Layout::of(&index(&[(10, 9), (15, 9)]));
        assert_eq!(layout.count(), 2);
        assert_eq!((layout.length(0), layout.length(1)), (10, 5));
        assert!(layout.position(&ChunkId([9; 32])).is_some());
    }

    #[test]
    fn an_empty_index_has_no_positions() {
        let layout = Layout::of(&index(&[]));
        assert_eq!((layout.count(), layout.total(), layout.position(&ChunkId([0; 32]))), (0, 0, None));
    }
}
