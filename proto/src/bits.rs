//! A dense set of positions: what a peer holds, and what of it can be asked. A bit a position, and none at all for the
//! two sets that are met most, nothing and everything.

use std::cmp::Ordering;

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

    pub(crate) fn full(size: u32) -> Self {
        Self { size, ones: size, words: Vec::new() }
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

    /// The 64 positions from `at * 64` on that are in the set, as bits.
    pub(crate) fn word(&self, at: usize) -> u64 {
        match self.words.get(at) {
            Some(word) => *word,
            None if self.ones == 0 => 0,
            None => self.mask(at),
        }
    }

    /// The positions of a word that the set may have.
    fn mask(&self, at: usize) -> u64 {
        match (at as u32).cmp(&(self.size / 64)) {
            Ordering::Less => u64::MAX,
            Ordering::Equal => (1 << (self.size % 64)) - 1,
            Ordering::Greater => 0,
        }
    }

    /// Inserts the positions of a word; those that were not in the set before. Without effect beyond the size.
    pub(crate) fn insert_word(&mut self, at: usize, bits: u64) -> u64 {
        let new = bits & self.mask(at) & !self.word(at);
        if new == 0 {
            return 0;
        }
        if self.words.is_empty() {
            self.words = vec![0; self.size.div_ceil(64) as usize];
        }
        self.words[at] |= new;
        self.ones += new.count_ones();
        if self.is_full() {
            self.words = Vec::new();
        }
        new
    }

    /// The words in which there is something, in ascending order.
    pub(crate) fn words(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let words = if self.is_empty() { 0 } else { self.size.div_ceil(64) };
        (0..words).map(|at| (at, self.word(at as usize))).filter(|(_, bits)| *bits != 0)
    }

    pub(crate) fn min(&self) -> Option<Position> {
        self.iter().next()
    }

    /// Up to `most` positions that are in this set and in at least one of the others, all of one size: from about `from`
    /// on, and then from the start.
    pub(crate) fn common(&self, others: &[&Self], from: Position, most: usize) -> Vec<Position> {
        let mut found = Vec::with_capacity(if others.is_empty() { 0 } else { most.min(self.ones as usize) });
        let words = if self.is_empty() { 0 } else { self.size.div_ceil(64) as usize };
        let from = (from as usize / 64).min(words);
        for at in (from..words).chain(0..from) {
            let own = self.word(at);
            if own == 0 {
                continue;
            }
            let mut word = 0;
            for other in others {
                word |= own & other.word(at);
                if word == own {
                    break;
                }
            }
            found.extend(positions(at as u32, word));
            if found.len() >= most {
                break;
            }
        }
        found
    }

    pub(crate) fn is_disjoint(&self, other: &Self) -> bool {
        self.is_empty() || other.words().all(|(at, word)| self.word(at as usize) & word == 0)
    }

    /// How many of the positions from `first` up to before `end` are in the set.
    pub(crate) fn count_range(&self, first: Position, end: Position) -> u32 {
        (first / 64..end.div_ceil(64)).map(|at| self.within(at, first, end).count_ones()).sum()
    }

    /// The positions from `first` up to before `end` that are in the set.
    pub(crate) fn range(&self, first: Position, end: Position) -> impl Iterator<Item = Position> + '_ {
        (first / 64..end.div_ceil(64)).flat_map(move |at| positions(at, self.within(at, first, end)))
    }

    /// Of a word, what is from `first` up to before `end`, which it touches.
    fn within(&self, at: u32, first: Position, end: Position) -> u64 {
        let mut word = self.word(at as usize);
        if at == first / 64 {
            word &= u64::MAX << (first % 64);
        }
        if at == end / 64 {
            word &= !(u64::MAX << (end % 64));
        }
        word
    }

    /// In ascending order, from `first` on.
    pub(crate) fn iter_from(&self, first: Position) -> impl Iterator<Item = Position> + '_ {
        let words = if self.is_empty() { 0 } else { self.size.div_ceil(64) };
        (first / 64..words).flat_map(move |at| {
            let mut word = self.word(at as usize);
            if at == first / 64 {
                word &= u64::MAX << (first % 64);
            }
            positions(at, word)
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Position> + '_ {
        self.iter_from(0)
    }
}

/// The positions that the bits of a word stand for, in ascending order.
pub(crate) fn positions(at: u32, mut word: u64) -> impl Iterator<Item = Position> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(at * 64 + bit)
    })
}

/// The words of a set, in ascending order, each once.
pub(crate) fn words_of(set: &RoaringBitmap) -> impl Iterator<Item = (u32, u64)> + '_ {
    let mut runs = set.iter();
    let mut run = runs.next_range();
    std::iter::from_fn(move || {
        let at = run.as_ref()?.start() / 64;
        let mut word = 0;
        while let Some(part) = run.clone().filter(|run| run.start() / 64 == at) {
            let (first, last) = part.into_inner();
            let end = last.min(at * 64 + 63);
            word |= u64::MAX >> (63 - (end - first)) << (first % 64);
            run = if end < last { Some(end + 1..=last) } else { runs.next_range() };
        }
        Some((at, word))
    })
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
            prop_assert_eq!(bits.min(), set.first().copied());
            for (first, end) in [(5, 90), (64, 128), (70, 100), (16, 32), (0, 220)] {
                prop_assert_eq!(bits.count_range(first, end) as usize, set.range(first..end).count());
                prop_assert!(bits.range(first, end).eq(set.range(first..end).copied()));
            }
            let roaring: RoaringBitmap = set.iter().copied().collect();
            prop_assert!(words_of(&roaring).eq(bits.words()));
            let mut others = Bits::new(size);
            other.iter().for_each(|position| assert_eq!(others.insert(*position), *position < size));
            prop_assert_eq!(bits.is_disjoint(&others), !others.iter().any(|position| set.contains(&position)));
            let mut all = bits.clone();
            let mut new = BTreeSet::new();
            for (at, word) in words_of(&other.iter().copied().collect()) {
                new.extend(positions(at, all.insert_word(at as usize, word)));
            }
            prop_assert!(new.iter().copied().eq(others.iter().filter(|position| !set.contains(position))));
            prop_assert!(all.iter().eq(set.iter().copied().chain(new).collect::<BTreeSet<u32>>()));
            prop_assert_eq!(all.len() as usize, all.iter().count());
            let common = bits.common(&[&others, &Bits::new(size)], 70, usize::MAX);
            let both: BTreeSet<u32> = set.intersection(&other).copied().filter(|position| *position < size).collect();
            prop_assert_eq!(common.len(), both.len());
            prop_assert!(common.into_iter().collect::<BTreeSet<u32>>() == both);
        }
    }
}
