//! This node's share of what nobody holds: which group it fetches from the origin next.
//!
//! First the groups that it owns, in descending order of its own score; then, done with these, groups of others that
//! nobody has started on: of those that their owner would come to last, the one for which this node ranks highest. Where
//! the beginning of the image is wanted first, sections come one after the other, each in this order.

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};

use super::best::Best;
use crate::election::{Election, group_of, section_of};
use crate::{NodeId, Position, ZoneId};

/// Groups of others that are compared before one is chosen, so that two nodes that are done at once take different ones.
const COMPARED: usize = 16;

/// Who is elected for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    Zone(ZoneId),
    Node(NodeId),
}

#[derive(Debug)]
pub(super) struct Share {
    election: Election,
    groups: u32,
    in_order: bool,
    /// The scores of this node and of its zone for each group.
    own: Vec<u64>,
    own_zone: Vec<u64>,
    /// Groups that no other node fetches for this one.
    alone: BTreeSet<u32>,
    stale: bool,
    /// The other nodes of the zone that are in the election.
    members: Best<NodeId>,
    /// The other zones.
    zones: Best<ZoneId>,
    /// All groups, the one that this node comes to first at the end.
    order: Vec<u32>,
    /// So many of `order` have not been looked at since something changed.
    ahead: usize,
    /// Groups of others, the one that its owner comes to last at the end; `None` until the own ones are used up.
    others: Option<Vec<u32>>,
    claimed: BTreeSet<u32>,
    work: VecDeque<Position>,
}

impl Share {
    /// `groups` groups, of which `alone` are fetched by each node itself.
    pub(super) fn new(
        me: NodeId,
        zone: ZoneId,
        election: Election,
        groups: u32,
        alone: BTreeSet<u32>,
        in_order: bool,
    ) -> Self {
        let own: Vec<u64> = (0..groups).map(|group| election.score(&me, group)).collect();
        let own_zone = (0..groups).map(|group| election.zone_score(zone, group)).collect();
        let mut order: Vec<u32> = (0..groups).collect();
        order.sort_by_key(|group| (Reverse(section_of(*group, in_order)), own[*group as usize]));
        Self {
            own,
            own_zone,
            election,
            groups,
            in_order,
            alone,
            stale: true,
            members: Best::new(groups),
            zones: Best::new(groups),
            order,
            ahead: 0,
            others: None,
            claimed: BTreeSet::new(),
            work: VecDeque::new(),
        }
    }

    /// How many groups there are.
    pub(super) fn groups(&self) -> u32 {
        self.groups
    }

    /// Whether the group exists and is fetched by one node for all.
    pub(super) fn is_shared(&self, group: u32) -> bool {
        group < self.groups && !self.alone.contains(&group)
    }

    /// Who takes part changed, or something that was on its way is wanted after all: everything is looked at anew
    /// before the next group is chosen.
    pub(super) fn changed(&mut self) {
        self.stale = true;
    }

    /// Whether this node started on the group.
    pub(super) fn is_claimed(&self, group: u32) -> bool {
        self.claimed.contains(&group)
    }

    /// All claims are void: this node cannot reach the origin.
    pub(super) fn drop_claims(&mut self) {
        self.claimed.clear();
        self.work.clear();
        self.stale = true;
    }

    /// Another node claims a group. If this node works on it too and has the lower score, it stops.
    pub(super) fn yield_to(&mut self, peer: &NodeId, group: u32) {
        if self.claimed.contains(&group) && self.election.score(peer, group) > self.own_score(group) {
            self.claimed.remove(&group);
            self.work.retain(|position| group_of(*position) != group);
        }
    }

    /// Starts over, because something changed. `members` are the other nodes of the zone that are in the election.
    pub(super) fn refresh(&mut self, members: Vec<NodeId>, zones: Vec<ZoneId>) {
        self.stale = false;
        self.members.set(members, |node, group| self.election.score(node, group));
        self.zones.set(zones, |zone, group| self.election.zone_score(*zone, group));
        self.ahead = self.order.len();
        self.others = None;
    }

    /// About how many nodes fetch from the origin, this one included.
    pub(super) fn sharers(&self) -> usize {
        (1 + self.members.len()) * (1 + self.zones.len())
    }

    /// Whether something changed.
    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    /// Whether something of the groups that were started is still to be asked for.
    pub(super) fn has_work(&self) -> bool {
        !self.work.is_empty()
    }

    /// The next position of the groups that were started.
    pub(super) fn next_position(&mut self) -> Option<Position> {
        self.work.pop_front()
    }

    /// Chooses the next group and starts on it. `wanted` lists what is to be fetched of a group, `all` the groups of
    /// which something is, in ascending order; `taken` says whether another node is at it, and `claimants` who started on
    /// it, which need not keep this one from it. Groups of others come into question only with `steals`. `None`: there is
    /// nothing to start now.
    pub(super) fn start_group(
        &mut self,
        wanted: impl Fn(u32) -> Vec<Position>,
        all: impl Fn() -> Vec<u32>,
        taken: impl Fn(u32) -> bool,
        claimants: impl Fn(u32) -> Vec<NodeId>,
        steals: bool,
    ) -> Option<u32> {
        while self.ahead > 0 {
            self.ahead -= 1;
            let group = self.order[self.ahead];
            let alone = self.alone.contains(&group);
            if !alone && !self.owns(group) {
                continue;
            }
            let mut positions = wanted(group);
            if !positions.is_empty() && (alone || !taken(group)) {
                // Who was elected before this node, and is out of the election for being slow, may be at it all the same: from
                // the beginning.
                if claimants(group).iter().any(|node| self.election.score(node, group) > self.own_score(group)) {
                    positions.reverse();
                }
                return Some(self.start(group, positions));
            }
        }
        if !steals {
            return None;
        }
        let mut others = self.others.take().unwrap_or_else(|| self.of_others(all()));
        let mut free: Vec<(u64, usize, Vec<Position>)> = Vec::new();
        let mut at = others.len();
        while at > 0 && free.len() < COMPARED {
            at -= 1;
            let group = others[at];
            let positions = wanted(group);
            if positions.is_empty() {
                others.remove(at);
                free.iter_mut().for_each(|(_, place, _)| *place -= 1);
            } else if !taken(group) {
                free.push((self.own_score(group), at, positions));
            }
        }
        let best = free.into_iter().max_by_key(|(score, _, _)| *score);
        let chosen = best.map(|(_, place, positions)| (others.remove(place), positions));
        self.others = Some(others);
        let (group, mut positions) = chosen?;
        // From the end that its owner comes to last, or that who took it from the owner comes to last: whoever is at it all
        // the same is met in the middle.
        let owner = match self.owner(group) {
            Some(Owner::Node(node)) => self.election.score(&node, group),
            _ => u64::MAX,
        };
        if !claimants(group).iter().any(|node| self.election.score(node, group) < owner) {
            positions.reverse();
        }
        Some(self.start(group, positions))
    }

    fn start(&mut self, group: u32, positions: impl IntoIterator<Item = Position>) -> u32 {
        self.claimed.insert(group);
        self.work.extend(positions);
        group
    }

    pub(super) fn election(&self) -> &Election {
        &self.election
    }

    /// Whether this node is the one elected for the group.
    pub(super) fn owns(&self, group: u32) -> bool {
        self.is_of_zone(group) && self.own_score(group) >= self.members.of(group)
    }

    /// Whether a node of this zone is the one elected.
    pub(super) fn is_of_zone(&self, group: u32) -> bool {
        self.own_zone.get(group as usize).is_some_and(|own| *own >= self.zones.of(group))
    }

    /// The score of this node.
    pub(super) fn own_score(&self, group: u32) -> u64 {
        self.own.get(group as usize).copied().unwrap_or(0)
    }

    /// Who should have brought a group and is not this node: another zone, or another node of this one.
    pub(super) fn owner(&self, group: u32) -> Option<Owner> {
        if !self.is_of_zone(group) {
            let zone = self.zones.holder(group, |zone, group| self.election.zone_score(*zone, group));
            return zone.map(|zone| Owner::Zone(*zone));
        }
        if self.owns(group) {
            return None;
        }
        self.members.holder(group, |node, group| self.election.score(node, group)).map(|node| Owner::Node(*node))
    }

    fn of_others(&self, mut groups: Vec<u32>) -> Vec<u32> {
        groups.dedup();
        groups.retain(|group| self.is_of_zone(*group));
        groups.sort_by_cached_key(|group| (section_of(*group, self.in_order), Reverse(self.members.of(*group))));
        groups
    }
}

#[cfg(test)]
mod tests;
