//! How one node gets an index whose id it knows: from a neighbour that has it, else from the origin by the one node
//! elected for it. An index is 0.5–2 % of an image, so it too should cross the Internet once.
//!
//! Not here: fetching, and the check that what came has the id.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::election::Election;
use crate::{IndexId, NodeId, Time};

/// How long neighbours have to show up before the origin is asked.
const GRACE: Duration = Duration::from_millis(400);
/// How long the elected node has, before the next rank takes over.
const TURN: Duration = Duration::from_millis(1500);
/// How long a node with which a session just opened has to say that it takes part.
const WORD: Duration = Duration::from_millis(300);
/// How long a neighbour has to deliver the index, beyond what it takes at [`SLOWEST`].
const DELIVERY: Duration = Duration::from_secs(5);
/// Bytes a second at which a delivery may go on for as long as it takes.
const SLOWEST: u64 = 64 << 10;
/// So often a neighbour is asked, however often it leaves, comes back and says that it has the index.
const TRIES: u32 = 3;
/// The ordinal under which the election is held: no group has it.
const INDEX_GROUP: u32 = u32::MAX;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send `GetIndex` to this neighbour.
    AskPeer(NodeId),
    /// Fetch it from the origin.
    AskOrigin,
}

/// The way of one node to one index.
#[derive(Debug)]
pub struct IndexRace {
    me: NodeId,
    election: Election,
    origin: bool,
    opens_at: Time,
    /// Neighbours in the exchange: whether they have the index.
    peers: BTreeMap<NodeId, bool>,
    /// Nodes that discovery named and that may take part, and until when their word is waited for.
    heard: BTreeMap<NodeId, Time>,
    /// How often each was asked; a neighbour that left and came back is the same.
    tries: BTreeMap<NodeId, u32>,
    /// Who is asked, and until when it may deliver.
    asked: Option<(NodeId, Time)>,
    asked_origin: bool,
}

impl IndexRace {
    /// Starts now. `origin` says whether there is an origin to ask at all.
    pub fn new(me: NodeId, index: &IndexId, origin: bool, now: Time) -> Self {
        Self {
            me,
            election: Election::new(index),
            origin,
            opens_at: now + GRACE,
            peers: BTreeMap::new(),
            heard: BTreeMap::new(),
            tries: BTreeMap::new(),
            asked: None,
            asked_origin: false,
        }
    }

    /// Discovery names a node that may take part. It counts in the election while its word is awaited: on a busy machine
    /// a session takes longer than the grace.
    pub fn heard_of(&mut self, node: NodeId, now: Time) {
        if node != self.me && !self.peers.contains_key(&node) {
            self.heard.entry(node).or_insert(now + TURN);
        }
    }

    /// A session with a node opened: it says at once whether it takes part.
    pub fn met(&mut self, node: NodeId, now: Time) {
        if let Some(until) = self.heard.get_mut(&node) {
            *until = now + WORD;
        }
    }

    /// A neighbour wants the index too, or has it.
    pub fn joined(&mut self, peer: NodeId, has_index: bool) {
        self.heard.remove(&peer);
        self.peers.insert(peer, has_index);
    }

    /// A neighbour is gone.
    pub fn left(&mut self, peer: NodeId) {
        self.peer_failed(peer);
        self.peers.remove(&peer);
    }

    /// A neighbour does not have the index after all, or sent something else: it is not asked until it says again that
    /// it has it.
    pub fn peer_failed(&mut self, peer: NodeId) {
        if let Some(has) = self.peers.get_mut(&peer) {
            *has = false;
        }
        if self.asked.is_some_and(|(asked, _)| asked == peer) {
            self.asked = None;
        }
    }

    /// Some more of the index came from a neighbour: it is given the time that this takes at the slowest.
    pub fn progressed(&mut self, peer: NodeId, bytes: u64) {
        if let Some((_, until)) = self.asked.as_mut().filter(|(asked, _)| *asked == peer) {
            *until += Duration::from_secs(1).mul_f64(bytes as f64 / SLOWEST as f64);
        }
    }

    /// What to do now, if anything; the same step is not returned twice.
    pub fn poll(&mut self, now: Time) -> Option<Step> {
        if let Some((peer, until)) = self.asked {
            if now < until {
                return None;
            }
            self.peer_failed(peer);
        }
        if let Some(peer) = self.holder() {
            *self.tries.entry(peer).or_default() += 1;
            self.asked = Some((peer, now + DELIVERY));
            return Some(Step::AskPeer(peer));
        }
        if self.asked_origin || !self.origin || now < self.opens_at {
            return None;
        }
        if now < self.opens_at + TURN * self.rank() || (now < self.opens_at + TURN && self.awaits_a_better(now)) {
            return None;
        }
        self.asked_origin = true;
        Some(Step::AskOrigin)
    }

    /// When to poll again at the latest.
    pub fn poll_timeout(&self, now: Time) -> Time {
        let next = if now < self.opens_at { self.opens_at } else { now + Duration::from_millis(100) };
        next.min(now + Duration::from_millis(100))
    }

    /// The neighbour to ask: one that was asked least, each node preferring another, so that a crowd does not ask the same.
    fn holder(&self) -> Option<NodeId> {
        let own = u32::from_le_bytes([self.me.0[0], self.me.0[1], self.me.0[2], self.me.0[3]]);
        let tries = |peer: &NodeId| self.tries.get(peer).copied().unwrap_or(0);
        let holders = self.peers.iter().filter(|(peer, has)| **has && tries(peer) < TRIES).map(|(peer, _)| *peer);
        holders.min_by_key(|peer| (tries(peer), self.election.score(peer, own)))
    }

    /// Whether a node that comes before this one in the election has still to say that it takes part.
    fn awaits_a_better(&self, now: Time) -> bool {
        let own = self.election.score(&self.me, INDEX_GROUP);
        let awaited = self.heard.iter().filter(|(_, until)| now < **until);
        awaited.map(|(node, _)| node).any(|node| self.election.score(node, INDEX_GROUP) > own)
    }

    /// How many neighbours come before this node in the election.
    fn rank(&self) -> u32 {
        let own = self.election.score(&self.me, INDEX_GROUP);
        self.peers.keys().filter(|peer| self.election.score(peer, INDEX_GROUP) > own).count() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId([1; 32]);
    const INDEX: IndexId = IndexId([9; 32]);

    fn ms(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn alone_the_origin_is_asked_after_the_grace() {
        let mut race = IndexRace::new(ME, &INDEX, true, ms(0));
        assert_eq!(race.poll(ms(399)), None);
        assert_eq!(race.poll(ms(400)), Some(Step::AskOrigin));
        assert_eq!(race.poll(ms(9000)), None);
    }

    fn asked(race: &mut IndexRace, at: u64) -> Option<NodeId> {
        match race.poll(ms(at)) {
            Some(Step::AskPeer(peer)) => Some(peer),
            _ => None,
        }
    }

    #[test]
    fn a_neighbour_that_has_the_index_is_asked_at_once_and_the_next_when_it_fails() {
        let mut race = IndexRace::new(ME, &INDEX, true, ms(0));
        race.joined(NodeId([2; 32]), true);
        race.joined(NodeId([3; 32]), true);
        let first = asked(&mut race, 1).unwrap();
        assert_eq!(race.poll(ms(2)), None, "one at a time");
        race.peer_failed(first);
        let second = asked(&mut race, 3).unwrap();
        assert_ne!(first, second);
        assert_eq!(race.poll(ms(4000)), None);
        assert_eq!(race.poll(ms(6000)), Some(Step::AskOrigin), "a silent neighbour is given up");
    }

    #[test]
    fn a_slow_neighbour_has_the_time_it_takes_while_the_index_comes() {
        let mut race = IndexRace::new(ME, &INDEX, true, ms(0));
        race.joined(NodeId([2; 32]), true);
        let peer = asked(&mut race, 0).unwrap();
        for second in 0..60 {
            race.progressed(peer, SLOWEST);
            race.progressed(NodeId([3; 32]), 1 << 30);
            assert_eq!(race.poll(ms(1000 * second)), None, "{second}");
        }
        assert_eq!(race.poll(ms(64_999)), None);
        assert_eq!(race.poll(ms(65_000)), Some(Step::AskOrigin), "it stopped");
        // One that sends next to nothing is given up almost as soon as a silent one.
        let mut race = IndexRace::new(ME, &INDEX, true, ms(0));
        race.joined(NodeId([2; 32]), true);
        asked(&mut race, 0).unwrap();
        (0..5).for_each(|_| race.progressed(peer, 1));
        assert_eq!(race.poll(ms(5_001)), Some(Step::AskOrigin));
    }

    #[test]
    fn a_neighbour_that_left_and_came_back_is_asked_again_but_not_for_ever() {
        let mut race = IndexRace::new(ME, &INDEX, true, ms(0));
        let peer = NodeId([2; 32]);
        for times in 0..10 {
            race.joined(peer, true);
            assert_eq!(asked(&mut race, 1).is_some(), times < TRIES, "{times}");
            race.left(peer);
        }
        assert_eq!(race.poll(ms(400)), Some(Step::AskOrigin));
    }

    #[test]
    fn one_that_fails_again_and_again_does_not_keep_the_turn_from_another() {
        let mut race = IndexRace::new(ME, &INDEX, true, ms(0));
        race.joined(NodeId([3; 32]), true);
        let mut asked_first = asked(&mut race, 0).unwrap();
        for peer in [2, 3, 4] {
            race.joined(NodeId([peer; 32]), true);
        }
        let mut seen = std::collections::BTreeSet::new();
        for at in 1..=3 {
            race.peer_failed(asked_first);
            race.joined(asked_first, true);
            seen.insert(asked_first);
            asked_first = asked(&mut race, at).unwrap();
        }
        assert_eq!(seen.len(), 3, "each was asked before any was asked twice");
    }

    #[test]
    fn many_nodes_do_not_all_ask_the_same_of_several_that_have_it() {
        let mut asks = BTreeMap::new();
        for me in 10..50 {
            let mut race = IndexRace::new(NodeId([me; 32]), &INDEX, true, ms(0));
            (1..=4).for_each(|peer| race.joined(NodeId([peer; 32]), true));
            *asks.entry(asked(&mut race, 1)).or_insert(0) += 1;
        }
        assert!(asks.len() == 4 && asks.values().all(|asks| *asks < 20), "{asks:?}");
    }

    /// Two nodes, of which the first comes first in the election.
    fn in_order() -> (NodeId, NodeId) {
        let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
        let score = |node: &NodeId| Election::new(&INDEX).score(node, INDEX_GROUP);
        if score(&a) > score(&b) { (a, b) } else { (b, a) }
    }

    #[test]
    fn the_word_of_a_better_node_that_discovery_named_is_awaited_for_a_turn_at_most() {
        let (first, second) = in_order();
        let mut race = IndexRace::new(second, &INDEX, true, ms(0));
        race.heard_of(first, ms(300));
        assert_eq!(race.poll(ms(1799)), None);
        assert_eq!(race.poll(ms(1800)), Some(Step::AskOrigin), "it never said anything");
        // However many are named, one after the other.
        let mut race = IndexRace::new(second, &INDEX, true, ms(0));
        race.heard_of(first, ms(1890));
        assert_eq!(race.poll(ms(1899)), None);
        assert_eq!(race.poll(ms(1900)), Some(Step::AskOrigin));
        // One that turns out not to take part.
        let mut race = IndexRace::new(second, &INDEX, true, ms(0));
        race.heard_of(first, ms(300));
        race.met(first, ms(500));
        assert_eq!(race.poll(ms(799)), None);
        assert_eq!(race.poll(ms(800)), Some(Step::AskOrigin));
        // One that does, and is late: its turn, no more.
        let mut race = IndexRace::new(second, &INDEX, true, ms(0));
        race.heard_of(first, ms(300));
        race.joined(first, false);
        assert_eq!(race.poll(ms(1899)), None);
        assert_eq!(race.poll(ms(1900)), Some(Step::AskOrigin));
        // The better one itself waits for nobody.
        let mut race = IndexRace::new(first, &INDEX, true, ms(0));
        race.heard_of(second, ms(300));
        assert_eq!(race.poll(ms(400)), Some(Step::AskOrigin));
    }

    #[test]
    fn who_has_no_origin_asks_none() {
        let mut race = IndexRace::new(ME, &INDEX, false, ms(0));
        assert_eq!(race.poll(ms(60_000)), None);
        race.joined(NodeId([2; 32]), false);
        assert_eq!(race.poll(ms(60_001)), None);
        race.joined(NodeId([2; 32]), true);
        assert!(asked(&mut race, 60_002).is_some());
    }

    #[test]
    fn of_nodes_that_all_lack_it_one_asks_the_origin_and_the_next_rank_takes_over_from_the_late() {
        let nodes: Vec<NodeId> = (1..=5).map(|n| NodeId([n; 32])).collect();
        let mut races: Vec<IndexRace> = nodes.iter().map(|me| IndexRace::new(*me, &INDEX, true, ms(0))).collect();
        for (race, me) in races.iter_mut().zip(&nodes) {
            for peer in nodes.iter().filter(|peer| *peer != me) {
                race.joined(*peer, false);
            }
        }
        let asking = |races: &mut Vec<IndexRace>, at| races.iter_mut().filter_map(|race| race.poll(ms(at))).count();
        assert_eq!(asking(&mut races, 400), 1);
        assert_eq!(asking(&mut races, 1000), 0);
        assert_eq!(asking(&mut races, 1900), 1);
    }
}
