//! Who takes part beyond the neighbours, as others tell: zones with downloaders, nodes of the own zone, groups that
//! somebody has started on. Hearsay, each kind of it bounded: what is wrong in it costs time or a duplicate.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::limits::{CLAIM_GROUPS, OTHERS};
use crate::{NodeId, Time, ZoneId};

/// Zones and nodes of the own zone that are noted.
const ZONES: usize = 2048;
const MEMBERS: usize = 2048;
/// Zones of which a new neighbour of another zone is told. Each is told of others, and what one of a zone hears they all
/// hear; all of them told to everyone would be said hundreds of times over each uplink.
const ZONES_ABROAD: usize = 32;
/// A node that was said to be gone does not come back by hearsay before this.
const TOMBSTONE: Duration = Duration::from_secs(60);
/// A node of which nothing was heard for so long is dropped; its neighbours say anew that it is there every so often.
const AGE: Duration = Duration::from_secs(300);
const REFRESH: Duration = Duration::from_secs(100);
/// Between two tellings.
const TELL: Duration = Duration::from_millis(200);
/// Between two tellings of started groups to other zones.
const TELL_ABROAD: Duration = Duration::from_secs(1);
/// A group that somebody started on is left to it for so long, without anything of it coming into sight.
const STARTED: Duration = Duration::from_secs(15);
/// Who failed to bring what it should is not counted on for so long: it may have been the origin that failed.
const SUSPECT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Roster {
    mine: ZoneId,
    /// Zones other than the own, and until when each is not counted on.
    zones: BTreeMap<ZoneId, Time>,
    /// Nodes of the own zone.
    members: BTreeMap<NodeId, Member>,
    gone: BTreeMap<NodeId, Time>,
    started: BTreeMap<u32, Time>,
    news: News,
    /// Groups that were heard to be started, and not passed on yet: within the own zone, to others.
    started_news: [BTreeSet<u32>; 2],
    started_told_at: Time,
    told_at: Time,
    refreshed_at: Time,
    changed_at: Option<Time>,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    heard_at: Time,
    /// Until then it is not counted on.
    suspect_until: Time,
    /// Discovery tells everybody in the zone of it.
    public: bool,
}

/// What is to be told to neighbours.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct News {
    pub(super) zones: BTreeSet<ZoneId>,
    pub(super) joined: BTreeSet<NodeId>,
    pub(super) left: BTreeSet<NodeId>,
}

impl News {
    pub(super) fn is_empty(&self) -> bool {
        self.zones.is_empty() && self.joined.is_empty() && self.left.is_empty()
    }

    /// In parts that fit a message.
    pub(super) fn parts(mut self) -> Vec<News> {
        let mut parts = Vec::new();
        while !self.is_empty() {
            let left = take(&mut self.left, OTHERS);
            let joined = take(&mut self.joined, OTHERS - left.len());
            parts.push(News { zones: take(&mut self.zones, OTHERS), joined, left });
        }
        parts
    }
}

fn take<T: Ord>(from: &mut BTreeSet<T>, most: usize) -> BTreeSet<T> {
    std::iter::from_fn(|| from.pop_first()).take(most).collect()
}

impl Roster {
    pub(super) fn new(mine: ZoneId, now: Time) -> Self {
        Self {
            mine,
            zones: BTreeMap::new(),
            members: BTreeMap::new(),
            gone: BTreeMap::new(),
            started: BTreeMap::new(),
            news: News::default(),
            started_news: Default::default(),
            started_told_at: now,
            told_at: now,
            refreshed_at: now,
            changed_at: None,
        }
    }

    /// A zone has downloaders. Whether that is news.
    pub(super) fn zone(&mut self, zone: ZoneId, now: Time) -> bool {
        if zone == self.mine || self.zones.len() >= ZONES || self.zones.contains_key(&zone) {
            return false;
        }
        self.zones.insert(zone, Time::ZERO);
        self.news.zones.insert(zone);
        self.changed_at = Some(now);
        true
    }

    /// A node of the own zone downloads: there is a session with it, or a neighbour says so. Whether that is news.
    pub(super) fn member(&mut self, node: NodeId, seen: bool, now: Time) -> bool {
        if seen {
            self.gone.remove(&node);
        } else if self.gone.get(&node).is_some_and(|at| now < *at + TOMBSTONE) {
            return false;
        }
        if let Some(member) = self.members.get_mut(&node) {
            if now >= member.heard_at + REFRESH / 2 {
                member.heard_at = now;
                if !member.public {
                    self.news.joined.insert(node);
                }
            }
            return false;
        }
        if self.members.len() >= MEMBERS {
            return false;
        }
        self.members.insert(node, Member { heard_at: now, suspect_until: Time::ZERO, public: false });
        self.news.left.remove(&node);
        self.news.joined.insert(node);
        self.changed_at = Some(now);
        true
    }

    /// Discovery says that a node of the own zone downloads, to this node as to the others of the zone. Whether that is news.
    pub(super) fn discovered(&mut self, node: NodeId, now: Time) -> bool {
        let news = self.member(node, false, now);
        if let Some(member) = self.members.get_mut(&node) {
            member.public = true;
        }
        self.news.joined.remove(&node);
        news
    }

    /// A node of the own zone is gone. Whether that is news.
    pub(super) fn left(&mut self, node: NodeId, now: Time) -> bool {
        if self.members.remove(&node).is_none() {
            return false;
        }
        if self.gone.len() >= MEMBERS {
            self.gone.pop_first();
        }
        self.gone.insert(node, now);
        self.news.joined.remove(&node);
        self.news.left.insert(node);
        true
    }

    /// Nodes of the own zone that are counted on.
    pub(super) fn members(&self, now: Time) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().filter(move |(_, member)| now >= member.suspect_until).map(|(node, _)| *node)
    }

    /// Zones other than the own that are counted on, in ascending order.
    pub(super) fn zones(&self, now: Time) -> Vec<ZoneId> {
        self.zones.iter().filter(|(_, until)| now >= **until).map(|(zone, _)| *zone).collect()
    }

    /// How many other nodes of the own zone are known.
    pub(super) fn nodes(&self) -> usize {
        self.members.len()
    }

    /// How many other zones and nodes are known.
    pub(super) fn crowd(&self) -> usize {
        self.zones.len() + self.members.len()
    }

    /// Whether there are no other zones.
    pub(super) fn alone(&self) -> bool {
        self.zones.is_empty()
    }

    pub(super) fn suspect_zone(&mut self, zone: ZoneId, now: Time) {
        if let Some(until) = self.zones.get_mut(&zone) {
            *until = now + SUSPECT;
        }
    }

    pub(super) fn suspect_member(&mut self, node: &NodeId, now: Time) {
        if let Some(member) = self.members.get_mut(node) {
            member.suspect_until = now + SUSPECT;
        }
    }

    /// Somebody started on a group. Whether that is news: saying it again does not make it younger.
    pub(super) fn start(&mut self, group: u32, now: Time) -> bool {
        if self.started.contains_key(&group) {
            return false;
        }
        self.started.insert(group, now);
        self.started_news.iter_mut().for_each(|news| {
            news.insert(group);
        });
        true
    }

    /// Whether somebody started on a group not long ago.
    pub(super) fn is_started(&self, group: u32, now: Time) -> bool {
        self.started.get(&group).is_some_and(|at| now < *at + STARTED)
    }

    /// Something of the group came into sight.
    pub(super) fn progress(&mut self, group: u32, now: Time) {
        if let Some(at) = self.started.get_mut(&group) {
            *at = now;
        }
    }

    /// The groups that somebody started on.
    pub(super) fn all_started(&self) -> Vec<u32> {
        self.started.keys().copied().collect()
    }

    /// Who started on the group is gone.
    pub(super) fn abandoned(&mut self, group: u32) {
        self.started.remove(&group);
    }

    /// Whether there was news of who takes part within this time: more is to be expected.
    pub(super) fn settling(&self, quiet: Duration, now: Time) -> bool {
        self.changed_at.is_some_and(|at| now < at + quiet)
    }

    /// What is to be told now, and groups that were heard to be started.
    pub(super) fn news(&mut self, seen: impl Iterator<Item = NodeId>, now: Time) -> Option<News> {
        if now < self.told_at + TELL {
            return None;
        }
        if now >= self.refreshed_at + REFRESH {
            self.refreshed_at = now;
            for node in seen {
                self.member(node, true, now);
            }
            let old = |member: &Member| now >= member.heard_at + AGE;
            self.members.retain(|_, member| !old(member));
            self.gone.retain(|_, at| now < *at + TOMBSTONE);
        }
        self.told_at = now;
        (!self.news.is_empty()).then(|| std::mem::take(&mut self.news))
    }

    /// Started groups that were not passed on within the zone yet, as many as fit.
    pub(super) fn started_news(&mut self) -> Vec<u32> {
        take(&mut self.started_news[0], CLAIM_GROUPS).into_iter().collect()
    }

    /// The same for other zones, now and then; of those that this node of the zone is to pass on.
    pub(super) fn started_abroad(&mut self, mine: impl Fn(u32) -> bool, now: Time) -> Vec<u32> {
        if now < self.started_told_at + TELL_ABROAD {
            return Vec::new();
        }
        self.started_told_at = now;
        self.started_news[1].retain(|group| mine(*group));
        take(&mut self.started_news[1], CLAIM_GROUPS).into_iter().collect()
    }

    /// Everything, for a new neighbour of the own zone; for one of another some of the zones, which ones depending on who
    /// it is.
    pub(super) fn all(&self, near: bool, peer: &NodeId) -> News {
        let zones = match near {
            true => self.zones.keys().copied().collect(),
            false => {
                let mut start = [0; 8];
                start.copy_from_slice(&peer.0[..8]);
                let start = ZoneId(u64::from_le_bytes(start));
                let around = self.zones.range(start..).chain(self.zones.range(..start));
                around.take(ZONES_ABROAD).map(|(zone, _)| *zone).collect()
            }
        };
        let joined = self.members.iter().filter(|(_, member)| near && !member.public).map(|(node, _)| *node).collect();
        News { zones, joined, left: BTreeSet::new() }
    }

    /// Nothing heard so far needs to be told: every node has a session with every other.
    pub(super) fn keep_quiet(&mut self) {
        self.news = News::default();
        self.started_news = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn told(roster: &mut Roster, now: u64) -> News {
        roster.news(std::iter::empty(), Time::from_secs(now)).unwrap_or_default()
    }

    #[test]
    fn news_is_told_once_and_what_is_known_is_no_news() {
        let mut roster = Roster::new(ZoneId(1), Time::ZERO);
        assert!(roster.zone(ZoneId(2), Time::ZERO) && !roster.zone(ZoneId(2), Time::ZERO));
        assert!(!roster.zone(ZoneId(1), Time::ZERO), "the own zone is known");
        assert!(roster.member(node(1), true, Time::ZERO) && !roster.member(node(1), false, Time::ZERO));
        let news = told(&mut roster, 1);
        let expected = News { zones: [ZoneId(2)].into(), joined: [node(1)].into(), left: BTreeSet::new() };
        assert_eq!(news, expected);
        assert!(told(&mut roster, 2).is_empty());
    }

    #[test]
    fn neighbours_in_other_zones_are_told_of_some_zones_each_and_together_of_all() {
        let mut roster = Roster::new(ZoneId(0), Time::ZERO);
        (0..=255).for_each(|number| assert!(roster.zone(ZoneId(number << 56 | 1), Time::ZERO)));
        let known = roster.zones(Time::ZERO).len();
        assert_eq!(roster.all(true, &node(9)).zones.len(), known);
        let told: Vec<News> = (0..=255).map(|number| roster.all(false, &node(number))).collect();
        assert!(told.iter().all(|news| news.zones.len() == ZONES_ABROAD && news.joined.is_empty()));
        let all: BTreeSet<ZoneId> = told.iter().flat_map(|news| &news.zones).copied().collect();
        assert_eq!(all.len(), known);
    }

    #[test]
    fn who_is_gone_does_not_come_back_by_hearsay_but_by_a_session() {
        let mut roster = Roster::new(ZoneId(1), Time::ZERO);
        roster.member(node(1), false, Time::ZERO);
        assert!(roster.left(node(1), Time::ZERO) && !roster.left(node(1), Time::ZERO));
        assert!(!roster.member(node(1), false, Time::from_secs(59)));
        assert_eq!(roster.members(Time::ZERO).count(), 0);
        assert!(roster.member(node(1), true, Time::from_secs(1)));
        assert!(!roster.left(node(2), Time::ZERO), "nobody knows it");
    }

    #[test]
    fn who_is_not_heard_of_any_more_is_dropped_and_who_has_a_neighbour_is_not() {
        let mut roster = Roster::new(ZoneId(1), Time::ZERO);
        roster.member(node(1), false, Time::ZERO);
        roster.member(node(2), true, Time::ZERO);
        for at in 0..40 {
            roster.news([node(2)].into_iter(), Time::from_secs(at * 10));
        }
        assert_eq!(roster.members(Time::from_secs(400)).collect::<Vec<_>>(), [node(2)]);
    }

    #[test]
    fn who_left_and_came_back_within_one_telling_is_not_told_to_be_gone() {
        let mut roster = Roster::new(ZoneId(1), Time::ZERO);
        roster.member(node(1), true, Time::ZERO);
        told(&mut roster, 1);
        roster.left(node(1), Time::from_secs(1));
        roster.member(node(1), true, Time::from_secs(1));
        let news = told(&mut roster, 2);
        assert_eq!((news.joined, news.left), ([node(1)].into(), BTreeSet::new()));
    }

    #[test]
    fn who_failed_is_counted_on_again_after_a_while() {
        let mut roster = Roster::new(ZoneId(1), Time::ZERO);
        roster.zone(ZoneId(2), Time::ZERO);
        roster.member(node(1), true, Time::ZERO);
        roster.suspect_zone(ZoneId(2), Time::ZERO);
        roster.suspect_member(&node(1), Time::ZERO);
        let counted = |at: Time| (roster.members(at).count(), roster.zones(at).len());
        assert_eq!(counted(SUSPECT - Duration::from_secs(1)), (0, 0));
        assert_eq!(counted(SUSPECT), (1, 1));
    }

    #[test]
    fn a_group_is_left_to_who_started_on_it_while_something_comes_however_often_it_is_said() {
        let mut roster = Roster::new(ZoneId(1), Time::ZERO);
        assert!(roster.start(7, Time::ZERO));
        assert!(!roster.start(7, STARTED / 2));
        assert!(roster.is_started(7, STARTED / 2) && !roster.is_started(7, STARTED));
        roster.progress(7, STARTED);
        assert!(roster.is_started(7, STARTED));
    }

    #[test]
    fn what_is_noted_and_told_is_bounded() {
        let mut roster = Roster::new(ZoneId(0), Time::ZERO);
        for number in 1..10_000u64 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            roster.zone(ZoneId(number), Time::ZERO);
            roster.member(NodeId(id), false, Time::ZERO);
        }
        assert_eq!((roster.zones.len(), roster.members.len()), (ZONES, MEMBERS));
        for part in told(&mut roster, 1).parts() {
            assert!(part.zones.len() <= OTHERS && part.joined.len() + part.left.len() <= OTHERS);
        }
    }
}
