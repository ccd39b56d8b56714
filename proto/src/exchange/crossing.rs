//! What other zones hold and this one does not: which of it this node brings in, and when it takes over from another.
//!
//! The node of the zone that is elected for a group asks other zones for it; the others wait until it is here. Each of
//! them takes over a position that is late, rank by rank. How long that is, is measured: by how long positions took
//! that others brought in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::best::Best;
use crate::election::{Election, group_of};
use crate::{NodeId, Position, Time};

/// The time until a position counts as late, at least and at most, and what is assumed while nothing is measured. Where not
/// everybody knows everybody, a node hears of a chunk seconds before the one that is elected for it.
const LEAST: Duration = Duration::from_millis(700);
const LEAST_BOUNDED: Duration = Duration::from_secs(4);
const MOST: Duration = Duration::from_secs(5);
const MOST_BOUNDED: Duration = Duration::from_secs(12);
const UNKNOWN: f64 = 1.0;
/// Ranks after which it no longer matters who was before.
const RANKS: u32 = 8;

#[derive(Debug)]
pub(super) struct Crossing {
    me: NodeId,
    election: Election,
    members: Best<NodeId>,
    /// Missing, held in other zones only, and since when.
    seen: BTreeMap<Position, Time>,
    /// Of these, what this node asks for.
    ready: BTreeSet<Position>,
    /// Not looked at yet.
    fresh: Vec<Position>,
    claimed: BTreeSet<u32>,
    bounded: bool,
    mean: f64,
    deviation: f64,
    stale: bool,
}

impl Crossing {
    pub(super) fn new(me: NodeId, election: Election, groups: u32) -> Self {
        Self {
            me,
            election,
            members: Best::new(groups),
            seen: BTreeMap::new(),
            ready: BTreeSet::new(),
            fresh: Vec::new(),
            claimed: BTreeSet::new(),
            bounded: false,
            mean: UNKNOWN,
            deviation: 0.0,
            stale: false,
        }
    }

    pub(super) fn positions(&self) -> impl Iterator<Item = Position> + '_ {
        self.seen.keys().copied()
    }

    pub(super) fn ready(&self) -> &BTreeSet<Position> {
        &self.ready
    }

    /// The first of what is ready, from there on.
    pub(super) fn ready_from(&self, from: Position) -> Option<Position> {
        self.ready.range(from..).next().copied()
    }

    /// Only other zones hold it, from now on.
    pub(super) fn add(&mut self, position: Position, now: Time) {
        if self.seen.insert(position, now).is_none() {
            self.fresh.push(position);
        }
    }

    /// It is no longer missing, or no other zone holds it any more.
    pub(super) fn remove(&mut self, position: Position) -> bool {
        self.ready.remove(&position);
        self.seen.remove(&position).is_some()
    }

    /// Somebody else brought it in.
    pub(super) fn came(&mut self, position: Position, now: Time) {
        if let Some(since) = self.seen.remove(&position)
            && !self.ready.remove(&position)
        {
            let took = now.saturating_sub(since).as_secs_f64();
            self.deviation += ((took - self.mean).abs() - self.deviation) * 0.05;
            self.mean += (took - self.mean) * 0.05;
        }
    }

    /// Whether there are nodes with which this one has no session.
    pub(super) fn set_bounded(&mut self, bounded: bool) {
        self.bounded = bounded;
    }

    /// Who takes part changed.
    pub(super) fn changed(&mut self) {
        self.stale = true;
    }

    /// This node brings in something of a group. Whether others are to be told: not again, and not of what it only takes
    /// over, for the rest of such a group is still the other's.
    pub(super) fn claim(&mut self, group: u32) -> bool {
        self.is_first(group) && self.claimed.insert(group)
    }

    /// Whether this node is the one of the zone that is elected for a group.
    pub(super) fn is_first(&self, group: u32) -> bool {
        self.election.score(&self.me, group) >= self.members.of(group)
    }

    /// Another node of the zone says that it brings the group in.
    pub(super) fn yield_to(&mut self, peer: &NodeId, group: u32) {
        if self.election.score(peer, group) > self.election.score(&self.me, group) {
            self.claimed.remove(&group);
            self.ready.retain(|position| group_of(*position) != group);
        }
    }

    /// Whether something changed.
    pub(super) fn is_stale(&self) -> bool {
        self.stale && !self.seen.is_empty()
    }

    /// Starts over, because something changed. `members` are the other downloaders of the zone.
    pub(super) fn refresh(&mut self, members: Vec<NodeId>) {
        self.stale = false;
        self.members.set(members, |node, group| self.election.score(node, group));
        self.fresh = self.seen.keys().copied().collect();
    }

    /// Finds what this node has to ask for, in all that waits or in what is new. `taken` says whether another node of the
    /// zone is at a group.
    pub(super) fn look(&mut self, taken: impl Fn(u32) -> bool, all: bool, now: Time) {
        if self.seen.is_empty() {
            self.fresh.clear();
            return;
        }
        let fresh = std::mem::take(&mut self.fresh);
        let mine = |group: u32| self.claimed.contains(&group) || (self.is_first(group) && !taken(group));
        let own: Vec<Position> =
            fresh.into_iter().filter(|p| self.seen.contains_key(p) && mine(group_of(*p))).collect();
        self.ready.extend(own);
        if !all {
            return;
        }
        let late = self.late_after();
        let mut overdue = Vec::new();
        for (position, since) in &self.seen {
            let waited = now.saturating_sub(*since);
            if waited < late || self.ready.contains(position) {
                continue;
            }
            let group = group_of(*position);
            let own = self.election.score(&self.me, group);
            let rank = self.members.above(own, group, |node, group| self.election.score(node, group)).clamp(1, RANKS);
            let patience = late.mul_f64(0.5 + 0.5 * f64::from(rank)) * if taken(group) { 2 } else { 1 };
            if waited > patience {
                overdue.push(*position);
            }
        }
        self.ready.extend(overdue);
    }

    fn late_after(&self) -> Duration {
        let (least, most) = if self.bounded { (LEAST_BOUNDED, MOST_BOUNDED) } else { (LEAST, MOST) };
        Duration::from_secs_f64(1.5 * self.mean + 4.0 * self.deviation).clamp(least, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IndexId;

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn nodes(me: u8) -> Vec<NodeId> {
        (0..5).filter(|number| *number != me).map(node).collect()
    }

    fn crossing(me: u8) -> Crossing {
        let mut crossing = Crossing::new(node(me), Election::new(&IndexId([7; 32])), 40);
        crossing.refresh(nodes(me));
        (0..640).for_each(|position| crossing.add(position, Time::ZERO));
        crossing
    }

    #[test]
    fn of_each_zone_one_node_asks_for_a_group() {
        let mut asked = Vec::new();
        for me in 0..5 {
            let mut crossing = crossing(me);
            crossing.look(|_| false, true, Time::ZERO);
            asked.extend(crossing.ready().iter().copied());
        }
        asked.sort_unstable();
        assert_eq!(asked, (0..640).collect::<Vec<_>>());
    }

    #[test]
    fn what_the_elected_node_is_late_with_is_taken_over_rank_by_rank() {
        let at = |ms: u64| {
            let asked = (1..5).map(|me| {
                let mut crossing = crossing(me);
                crossing.look(|_| false, true, Time::ZERO);
                let own = crossing.ready().len();
                crossing.look(|_| false, true, Time::from_millis(ms));
                crossing.ready().len() - own
            });
            asked.sum::<usize>()
        };
        let of_the_dead = crossing(0);
        let dead = (0..40).filter(|group| {
            let score = |number: u8| of_the_dead.election.score(&node(number), *group);
            (1..5).all(|number| score(number) < score(0))
        });
        let dead = dead.count() * 16;
        assert_eq!(at(1400), 0, "not late yet");
        let by_rank_2 = at(1600);
        assert!(by_rank_2 > 400 && by_rank_2 < 640, "of {by_rank_2} positions one other node takes over");
        assert!(dead > 0);
        assert_eq!(at(60_000), 4 * 640 - (640 - dead), "in the end everyone asks");
    }

    #[test]
    fn what_another_says_that_it_brings_is_left_to_it_unless_it_is_late() {
        let mut crossing = crossing(0);
        crossing.look(|_| true, true, Time::ZERO);
        assert!(crossing.ready().is_empty());
        crossing.look(|_| true, true, Time::from_secs(60));
        assert_eq!(crossing.ready().len(), 640);
    }

    #[test]
    fn lateness_follows_what_the_way_takes() {
        let mut crossing = crossing(0);
        for position in 0..640 {
            crossing.came(position, Time::from_secs(3));
        }
        assert!(crossing.late_after() > Duration::from_secs(3));
    }
}
