//! Under which keys the providers of an index are recorded. One key would do for a few: whoever asks is told twenty
//! providers of a key, the first that came, however many there are. So an index has many keys, in levels: one at level 0,
//! four at level 1, sixteen at level 2. At each level a node belongs to one of them, by its own id.
//!
//! A node announces itself where its shard is neither full nor almost empty, as well as it knows; who searches starts at
//! the level that suits the size of the network, and goes up where there is little and down where there is too much. An
//! index that everybody has is found at the deep levels, and nobody meets there whom everybody meets; an index that few
//! have is found at level 0. This file decides that, and asks nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use libp2p::PeerId;
use libp2p::kad::RecordKey;
use proto::{IndexId, NodeId};
use sha2::{Digest, Sha256};

/// Providers of one key that others are told of: libp2p's replication factor.
pub(super) const FULL: usize = 20;

/// With fewer providers in its shard a node announces itself one level up as well.
const SPARSE: usize = 4;

/// A search that found so many providers is over.
const ENOUGH: usize = 8;

/// Providers that a shard is to have where all nodes provide the index.
const PER_SHARD: f64 = 16.0;

/// The deepest level: 4^8 shards.
const DEEPEST: u8 = 8;

/// Up to so many nodes a new provider is announced at level 0 too, at once: few enough for its keepers.
const SMALL: f64 = 256.0;

/// The level that suits a network of so many nodes.
fn level_for(nodes: f64) -> u8 {
    let levels = (nodes / PER_SHARD).max(1.0).log(4.0).ceil();
    (levels as u8).min(DEEPEST)
}

/// How many nodes there are, going by how close the closest known ones are: by the binary logarithms of their distances,
/// in ascending order. All are known while they are few.
pub(super) fn estimate_nodes(distances: &[u32]) -> f64 {
    let known = distances.len().min(FULL);
    match distances.get(FULL - 1) {
        Some(distance) => known as f64 * (255.5 - f64::from(*distance)).exp2(),
        None => known as f64 + 1.0,
    }
}

/// The key of a shard.
pub(super) fn key(index: &IndexId, level: u8, shard: u32) -> RecordKey {
    if level == 0 {
        return RecordKey::new(index.as_bytes());
    }
    let about = Sha256::new().chain_update(b"caswarm shard\0").chain_update(index.as_bytes());
    let key: [u8; 32] = about.chain_update([level]).chain_update(shard.to_le_bytes()).finalize().into();
    RecordKey::new(&key)
}

/// The shard of a node at a level.
pub(super) fn shard_of(index: &IndexId, node: &NodeId, level: u8) -> u32 {
    let about = Sha256::new().chain_update(b"caswarm shard of\0").chain_update(index.as_bytes());
    let hash: [u8; 32] = about.chain_update(node.as_bytes()).finalize().into();
    shard_at(u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]), level)
}

/// The first bits of `draw`: the shard above one is where its own first bits say.
fn shard_at(draw: u32, level: u8) -> u32 {
    draw.checked_shr(32 - 2 * u32::from(level)).unwrap_or(0)
}

/// The levels at which a node announces that it provides one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    top: u8,
    deep: u8,
}

impl Place {
    /// Where to begin in a network of so many nodes.
    pub(super) fn new(nodes: f64) -> Self {
        let deep = level_for(nodes);
        Self { top: if nodes <= SMALL { 0 } else { deep }, deep }
    }

    /// The levels.
    pub(super) fn levels(&self) -> RangeInclusive<u8> {
        self.top..=self.deep
    }

    /// Thinks again, knowing how many others are in this node's shards at its levels. True: it has to move.
    pub(super) fn judge(&mut self, others: &BTreeMap<u8, usize>) -> bool {
        let before = *self;
        let at = |level: u8| others.get(&level).copied();
        if at(self.deep).is_some_and(|others| others >= FULL) && self.deep < DEEPEST {
            // Nobody is told of this node there.
            self.deep += 1;
        }
        while self.top < self.deep && at(self.top).is_some_and(|others| others >= FULL) {
            self.top += 1;
        }
        // What is found one level deeper is enough for those who search here.
        while self.top < self.deep && at(self.top + 1).is_some_and(|others| (ENOUGH..FULL).contains(&others)) {
            self.top += 1;
        }
        if self.top > 0 && at(self.top).is_some_and(|others| others < SPARSE) {
            self.top -= 1;
        }
        *self != before
    }
}

/// The way of one search through the levels.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) index: IndexId,
    draw: u32,
    start: u8,
    level: u8,
    tried: BTreeSet<u8>,
    /// Found in the shard that is being asked, and in all so far.
    here: BTreeSet<PeerId>,
    found: BTreeSet<PeerId>,
    /// The last level whose shard was full.
    full: Option<u8>,
    /// There is little else: this shard's providers are told, although everybody finds it.
    again: bool,
}

impl Search {
    /// Starts a search in a network of so many nodes. `draw` chooses the shards: each search takes others.
    pub(super) fn new(index: IndexId, nodes: f64, draw: u32) -> Self {
        let level = level_for(nodes);
        let (here, found) = Default::default();
        let tried = BTreeSet::from([level]);
        Self { index, draw, start: level, level, tried, here, found, full: None, again: false }
    }

    /// The key to ask for now.
    pub(super) fn key(&self) -> RecordKey {
        key(&self.index, self.level, shard_at(self.draw, self.level))
    }

    /// Providers came; those to be told of at once. Of a full shard only a few are: everybody would be sent to the same.
    pub(super) fn take(&mut self, providers: impl IntoIterator<Item = PeerId>) -> Vec<PeerId> {
        let mut new: Vec<_> = providers.into_iter().filter(|peer| self.here.insert(*peer)).collect();
        new.retain(|peer| !self.found.contains(peer));
        if self.again {
            new.truncate(ENOUGH.saturating_sub(self.found.len()));
        } else if self.here.len() >= FULL {
            new.truncate(SPARSE);
        }
        self.found.extend(new.iter().copied());
        new
    }

    /// The shard was asked to the end: whether to go on in another, which [`Search::key`] tells then.
    pub(super) fn go_on(&mut self) -> bool {
        if self.again {
            return false;
        }
        let full = self.here.len() >= FULL;
        if full {
            self.full = Some(self.level);
        }
        let deeper = Some(self.level + 1).filter(|level| full && *level <= DEEPEST && !self.tried.contains(level));
        // Where a shard was full there is no lack, whatever the others have.
        let enough = self.found.len() >= ENOUGH || self.full.is_some();
        let up = self.tried.first().and_then(|level| level.checked_sub(1));
        let below = Some(self.start + 1).filter(|level| *level <= DEEPEST && !self.tried.contains(level));
        let next = match deeper {
            Some(level) => Some(level),
            None if enough => None,
            None => up.or(below),
        };
        // Asked anew and not remembered: libp2p knows where providers are only while it asks.
        let again = self.full.filter(|_| self.found.len() < ENOUGH);
        self.again = next.is_none() && again.is_some();
        let Some(level) = next.or(again) else { return false };
        self.level = level;
        self.tried.insert(level);
        self.here.clear();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: IndexId = IndexId([7; 32]);

    fn peers(count: usize) -> Vec<PeerId> {
        (0..count).map(|_| PeerId::random()).collect()
    }

    fn node(number: u32) -> NodeId {
        NodeId(Sha256::digest(number.to_le_bytes()).into())
    }

    /// Judges again and again, for all nodes in turn, knowing who is where.
    fn settle(count: u32, believed: f64) -> Vec<Place> {
        let mut places = vec![Place::new(believed); count as usize];
        for _ in 0..12 {
            let mut shards: BTreeMap<(u8, u32), Vec<u32>> = BTreeMap::new();
            for (number, place) in (0..).zip(&places) {
                for level in place.levels() {
                    shards.entry((level, shard_of(&INDEX, &node(number), level))).or_default().push(number);
                }
            }
            for (number, place) in (0..).zip(&mut places) {
                // The first twenty are told of, to everybody but themselves.
                let told = |level| shards[&(level, shard_of(&INDEX, &node(number), level))].iter().take(FULL);
                let others = |level| told(level).filter(|other| **other != number).count();
                let others = place.levels().map(|level| (level, others(level))).collect();
                place.judge(&others);
            }
        }
        places
    }

    /// Whom a search finds of nodes in these places; of each key the first twenty.
    fn search(places: &[Place], nodes: f64, draw: u32) -> (BTreeSet<PeerId>, usize) {
        let ids = ids(places.len());
        let mut search = Search::new(INDEX, nodes, draw);
        let (mut told, mut steps) = (BTreeSet::new(), 0);
        loop {
            let key = search.key();
            let level = search.level;
            let there = (0..).zip(places).filter(|(number, place)| {
                place.levels().contains(&level)
                    && super::key(&INDEX, level, shard_of(&INDEX, &node(*number), level)) == key
            });
            let there: Vec<_> = there.map(|(number, _)| ids[number as usize]).take(FULL).collect();
            told.extend(search.take(there));
            steps += 1;
            if !search.go_on() {
                return (told, steps);
            }
        }
    }

    fn ids(count: usize) -> Vec<PeerId> {
        let id = |number: u32| {
            let hash: [u8; 32] = Sha256::digest(number.to_le_bytes()).into();
            PeerId::from_multihash(libp2p::multihash::Multihash::wrap(0, &hash).unwrap()).unwrap()
        };
        (0..count as u32).map(id).collect()
    }

    #[test]
    fn the_level_grows_with_the_network() {
        assert_eq!([1.0, 16.0, 17.0, 64.0, 65.0, 10_000.0, 1e12].map(level_for), [0, 0, 1, 1, 2, 5, DEEPEST]);
    }

    #[test]
    fn the_size_of_a_network_follows_from_the_closest_nodes() {
        assert_eq!(estimate_nodes(&[]), 1.0);
        assert_eq!(estimate_nodes(&[250; 7]), 8.0);
        // Twenty of ten thousand evenly spread ids are within 2^256 × 20 / 10000 of any place.
        let distances: Vec<u32> = (1..=20).map(|k| (256.0 + (f64::from(k) / 10_000.0).log2()).floor() as u32).collect();
        let estimate = estimate_nodes(&distances);
        assert!((5_000.0..20_000.0).contains(&estimate), "{estimate}");
    }

    #[test]
    fn a_shard_lies_in_the_one_above_it() {
        for number in 0..100 {
            for level in 1..=DEEPEST {
                let (deep, above) =
                    (shard_of(&INDEX, &node(number), level), shard_of(&INDEX, &node(number), level - 1));
                assert_eq!(deep >> 2, above);
                assert!(deep < 4u32.pow(level.into()));
            }
        }
    }

    #[test]
    fn of_an_index_that_everybody_has_each_search_finds_others_in_a_few_steps() {
        // Also where the nodes are believed to be few, because most of them keep no records.
        for (count, believed) in [(60, 60.0), (1000, 1000.0), (1000, 20.0)] {
            let places = settle(count, believed);
            let mut times: BTreeMap<PeerId, usize> = BTreeMap::new();
            const SEARCHES: u32 = 400;
            for number in 0..SEARCHES {
                let (told, steps) = search(&places, believed, number.wrapping_mul(2_654_435_761));
                assert!(told.len() >= ENOUGH && steps <= 7, "{count}: {} in {steps}", told.len());
                told.into_iter().for_each(|peer| *times.entry(peer).or_default() += 1);
            }
            let (met, most) = (times.len() as f64 / f64::from(count), times.values().max().copied().unwrap_or(0));
            assert!(met > 0.6, "{count}: only {met} of all are ever found");
            assert!(most <= SEARCHES as usize * 2 / 5, "{count}: one is found in {most} of {SEARCHES} searches");
        }
    }

    #[test]
    fn of_an_index_that_few_have_each_search_finds_all() {
        for believed in [3.0, 100.0, 10_000.0] {
            let places = settle(3, believed);
            for draw in [0, 1 << 31, u32::MAX] {
                let (told, steps) = search(&places, believed, draw);
                assert!(told.len() == 3 && steps <= 8, "{believed}: {} in {steps}: {places:?}", told.len());
            }
        }
    }

    #[test]
    fn of_a_full_shard_few_are_told() {
        let (mut search, peers_there) = (Search::new(INDEX, 5.0, 0), peers(FULL));
        let first = search.take(peers_there.clone());
        assert_eq!(first.len(), SPARSE);
        assert!(search.go_on() && search.level == 1);
        // Unless there are no others.
        assert!(search.go_on() && search.level == 0);
        let rest = search.take(peers_there);
        assert!(rest.len() == ENOUGH - SPARSE && first.iter().all(|peer| !rest.contains(peer)));
        assert!(!search.go_on());
        let mut search = Search::new(INDEX, 5.0, 0);
        assert_eq!(search.take(peers(10)).len(), 10);
        assert!(!search.go_on());
    }

    #[test]
    fn in_a_large_network_level_0_is_left_alone_while_the_shards_suffice() {
        let places = settle(5000, 5000.0);
        let deep = places.iter().filter(|place| place.top >= 4).count();
        assert!(deep * 10 >= places.len() * 9, "{deep}");
    }
}
