//! The lookup table at the end of a directory: one item for each name, by a keyed hash, laid out as a complete binary
//! search tree in heap order.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use super::record::{GOODBYE, GOODBYE_TAIL, HEADER};

/// One item, and the tail, in bytes.
pub(super) const ITEM: u64 = 24;

const KEY: [u64; 2] = [0x8574_442b_0f1d_84b3, 0x2736_ed30_d1c2_2ec1];

/// An entry of a directory, for its table. Items are ordered as the table needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item {
    pub(super) hash: u64,
    /// Where its FILENAME begins.
    pub(super) start: u64,
    /// Where its node ends.
    pub(super) end: u64,
}

/// The hash of a name.
pub(super) fn hash(name: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(KEY[0], KEY[1]);
    hasher.write(name);
    hasher.finish()
}

/// The size of the record for a directory of so many entries.
pub(super) fn size(entries: usize) -> u64 {
    HEADER + ITEM * (entries as u64 + 1)
}

/// Writes the record that begins at `start`, of the directory whose ENTRY is at `entry`.
pub(super) fn write(start: u64, entry: u64, mut items: Vec<Item>, out: &mut Vec<u8>) {
    items.sort_unstable();
    let size = size(items.len());
    let mut put = |word: u64| out.extend_from_slice(&word.to_le_bytes());
    put(size);
    put(GOODBYE);
    let mut table = vec![None; items.len()];
    place(&items, 0, &mut table);
    // Every place is taken: a complete tree of n nodes in heap order is the places 0 to n - 1.
    for item in table.into_iter().flatten() {
        put(start - item.start);
        put(item.end - item.start);
        put(item.hash);
    }
    put(start - entry);
    put(size);
    put(GOODBYE_TAIL);
}

/// Puts sorted items below the place `at` of a tree in heap order.
fn place(sorted: &[Item], at: usize, table: &mut [Option<Item>]) {
    if sorted.is_empty() {
        return;
    }
    let root = root(sorted.len());
    table[at] = Some(sorted[root]);
    place(&sorted[..root], 2 * at + 1, table);
    place(&sorted[root + 1..], 2 * at + 2, table);
}

/// Which of n sorted elements is the root of a complete tree whose last level is filled from the left.
fn root(n: usize) -> usize {
    // The inner levels are full and have p - 1 nodes; half of them, and up to p / 2 of the last level, lie left.
    let p = 1 << n.ilog2();
    let last = n - (p - 1);
    (p - 1) / 2 + last.min(p / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(n: u64) -> Vec<u64> {
        let items: Vec<_> = (0..n).map(|hash| Item { hash, start: 0, end: 0 }).collect();
        let mut table = vec![None; items.len()];
        place(&items, 0, &mut table);
        table.into_iter().map(|item| item.unwrap().hash).collect()
    }

    #[test]
    fn tables_are_laid_out_as_casync_lays_them_out() {
        assert_eq!(order(4), [2, 1, 3, 0]);
        assert_eq!(order(6), [3, 1, 5, 0, 2, 4]);
        assert_eq!(order(10), [6, 3, 8, 1, 5, 7, 9, 0, 2, 4]);
        for n in 0..200 {
            assert_eq!(order(n).len() as u64, n);
        }
    }
}
