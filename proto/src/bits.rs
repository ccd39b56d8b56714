//! A dense set of positions: what a peer holds, and what of it can be asked. A bit a position, and none at all for the
//! two sets that are met most, nothing and everything.

use roaring::RoaringBitmap;

use crate::Position;

#[derive(Debug, Clone, Default)]
pub(crate) struct Bits {
    size: u32,
    ones: u32,
    /// Empty while the set is empty or full.
    words: Vec<u64>,
}

impl Bits {
    pub(crate) fn new(size: u32) -> Self {
        Self { size, ones: 0, words: Vec::new() }
    }

    pub(crate) fn len(&self) -> u32 {
        self.ones
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ones == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.ones == self.size
    }

    pub(crate) fn contains(&self, position: Position) -> bool {
        if self.words.is_empty() {
            return self.ones > 0 && position < self.size;
        }
        self.words.get(position as usize / 64).is_some_and(|word| word >> (position % 64) & 1 == 1)
    }

    /// Whether it was not in the set before; without effect beyond the size.
    pub(crate) fn insert(&mut self, position: Position) -> bool {
        if position >= self.size || self.contains(position) {
            return false;
        }
        if self.words.is_empty() {
            self.words = vec![0; self.size.div_ceil(64) as usize];
        }
        self.words[position as usize / 64] |= 1 << (position % 64);
        self.ones += 1;
        if self.is_full() {
            self.words = Vec::new();
        }
        true
    }

    /// Whether it was in the set.
    pub(crate) fn remove(&mut self, position: Position) -> bool {
        if !self.contains(position) {
            return false;
        }
        if self.words.is_empty() {
            self.words = vec![u64::MAX; self.size.div_ceil(64) as usize];
            if let Some(last) = self.words.last_mut().filter(|_| !self.size.is_multiple_of(64)) {
                *last = (1 << (self.size % 64)) - 1;
            }
        }
        self.words[position as usize / 64] &= !(1 << (position % 64));
        self.ones -= 1;
        if self.ones == 0 {
            self.words = Vec::new();
        }
        true
    }

    pub(crate) fn clear(&mut self) {
        self.ones = 0;
        self.words = Vec::new();
    }

    fn word(&self, at: usize) -> u64 {
        match self.words.get(at) {
            Some(word) => *word,
            None if self.ones == 0 => 0,
            None if at as u32 == self.size / 64 => (1 << (self.size % 64)) - 1,
            None => u64::MAX,
        }
    }

    /// Up to `most` positions that are in this set and in at least one of the others, all of one size: from about `from`
    /// on, and then from the start.
    pub(crate) fn common(&self, others: &[&Self], from: Position, most: usize) -> Vec<Position> {
        let mut found = Vec::new();
        let words = if self.is_empty() { 0 } else { self.size.div_ceil(64) as usize };
        let from = (from as usize / 64).min(words);
        for at in (from..words).chain(0..from) {
            let own = self.word(at);
            if own == 0 {
                continue;
            }
            let mut word = own & others.iter().fold(0, |all, other| all | other.word(at));
            while word != 0 {
                found.push(at as u32 * 64 + word.trailing_zeros());
                word &= word - 1;
            }
            if found.len() >= most {
                break;
            }
        }
        found
    }

    pub(crate) fn is_disjoint(&self, other: &RoaringBitmap) -> bool {
        self.is_empty() || other.iter().all(|position| !self.contains(position))
    }

    /// How many of the positions from `first` up to before `end` are in the set.
    pub(crate) fn count_range(&self, first: Position, end: Position) -> u32 {
        (first..end).filter(|position| self.contains(*position)).count() as u32
    }

    /// In ascending order, from `first` on.
    pub(crate) fn iter_from(&self, first: Position) -> impl Iterator<Item = Position> + '_ {
        let words = if self.is_empty() { 0 } else { self.size.div_ceil(64) };
        (first / 64..words).flat_map(move |at| {
            let mut word = self.word(at as usize);
            if at == first / 64 {
                word &= u64::MAX << (first % 64);
            }
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros())?;
                word &= word - 1;
                Some(at * 64 + bit)
            })
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Position> + '_ {
        self.iter_from(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_set_that_it_says(
            size in 1..200u32,
            steps in prop::collection::vec((any::<bool>(), 0..220u32), 0..400),
            other in prop::collection::btree_set(0..200u32, 0..200),
            fill in any::<bool>(),
        ) {
            let (mut bits, mut set) = (Bits::new(size), BTreeSet::new());
            if fill {
                (0..size).for_each(|position| assert!(bits.insert(position) && set.insert(position)));
            }
            for (add, position) in steps {
                if add && position < size {
                    prop_assert_eq!(bits.insert(position), set.insert(position));
                } else {
                    prop_assert_eq!(bits.remove(position), set.remove(&position));
                }
                prop_assert_eq!(bits.len() as usize, set.len());
            }
            prop_assert!(bits.iter().eq(set.iter().copied()));
            prop_assert!(bits.iter_from(70).eq(set.range(70..).copied()));
            prop_assert_eq!(bits.count_range(5, 90) as usize, set.range(5..90).count());
            let mut others = Bits::new(size);
            other.iter().for_each(|position| assert_eq!(others.insert(*position), *position < size));
            let common = bits.common(&[&others, &Bits::new(size)], 70, usize::MAX);
            let both: BTreeSet<u32> = set.intersection(&other).copied().filter(|position| *position < size).collect();
            prop_assert_eq!(common.len(), both.len());
            prop_assert!(common.into_iter().collect::<BTreeSet<u32>>() == both);
        }
    }
}
