//! This node's share of what nobody holds: which group it fetches from the origin next.
//!
//! First the groups that it owns, in descending order of its own score; then, done with these, groups of others that
//! nobody has started on, those first that their owner would come to last.

use std::collections::{BTreeSet, VecDeque};

use crate::election::{Election, GROUP, group_of};
use crate::{NodeId, Position};

#[derive(Debug)]
pub(super) struct Share {
    me: NodeId,
    election: Election,
    groups: u32,
    /// Groups that no other node fetches for this one.
    alone: BTreeSet<u32>,
    stale: bool,
    /// Own groups, the next one last.
    mine: Vec<u32>,
    /// Groups of others, the next one last.
    others: Vec<u32>,
    claimed: BTreeSet<u32>,
    work: VecDeque<Position>,
}

impl Share {
    pub(super) fn new(me: NodeId, election: Election, positions: u32, alone: BTreeSet<u32>) -> Self {
        Self {
            me,
            election,
            groups: positions.div_ceil(GROUP),
            alone,
            stale: true,
            mine: Vec::new(),
            others: Vec::new(),
            claimed: BTreeSet::new(),
            work: VecDeque::new(),
        }
    }

    pub(super) fn has_group(&self, group: u32) -> bool {
        group < self.groups
    }

    /// Who takes part changed, or something that was on its way is wanted after all: owners and order are worked out
    /// anew before the next group is chosen.
    pub(super) fn changed(&mut self) {
        self.stale = true;
    }

    /// All claims are void: this node cannot reach the origin.
    pub(super) fn drop_claims(&mut self) {
        self.claimed.clear();
        self.work.clear();
        self.stale = true;
    }

    /// Another node claims a group. If this node works on it too and has the lower score, it stops.
    pub(super) fn yield_to(&mut self, peer: &NodeId, group: u32) {
        if self.claimed.contains(&group) && self.election.score(peer, group) > self.election.score(&self.me, group) {
            self.claimed.remove(&group);
            self.work.retain(|position| group_of(*position) != group);
        }
    }

    /// Works out the owners if something changed. `members` are the other nodes of the election.
    pub(super) fn refresh<'a>(&mut self, members: impl Iterator<Item = &'a NodeId> + Clone) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let (mut mine, mut others) = (Vec::new(), Vec::new());
        for group in 0..self.groups {
            let own = self.election.score(&self.me, group);
            let best = members.clone().map(|node| self.election.score(node, group)).max().unwrap_or(0);
            if own >= best || self.alone.contains(&group) {
                mine.push((own, group))
            } else {
                others.push((best, group))
            }
        }
        mine.sort_unstable();
        others.sort_unstable_by(|a, b| b.cmp(a));
        self.mine = mine.into_iter().map(|(_, group)| group).collect();
        self.others = others.into_iter().map(|(_, group)| group).collect();
    }

    /// The next position of the groups that were started.
    pub(super) fn next_position(&mut self) -> Option<Position> {
        self.work.pop_front()
    }

    /// Chooses the next group and starts on it. `wanted` lists what is to be fetched of a group; `taken` says whether
    /// another node is at it. `None`: there is nothing to start now.
    pub(super) fn start_group(
        &mut self,
        wanted: impl Fn(u32) -> Vec<Position>,
        taken: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        for queue in [&mut self.mine, &mut self.others] {
            let mut passed = Vec::new();
            let mut found = None;
            while let Some(group) = queue.pop() {
                let positions = wanted(group);
                if positions.is_empty() {
                    continue;
                }
                if taken(group) && !self.alone.contains(&group) {
                    passed.push(group);
                } else {
                    found = Some((group, positions));
                    break;
                }
            }
            queue.extend(passed.into_iter().rev());
            if let Some((group, positions)) = found {
                self.claimed.insert(group);
                self.work.extend(positions);
                return Some(group);
            }
        }
        None
    }
}
