//! What others tell of others, and what is done when nothing comes into sight any more: who should have brought it, and
//! of whom nothing can be known directly, is no longer counted on.

use std::collections::BTreeSet;
use std::time::Duration;

use super::peer::Peer;
use super::share::Owner;
use super::{Exchange, Output};
use crate::election::group_of;
use crate::{Holdings, Message, NodeId, Position, Time, ZoneId};

/// Nothing new in sight for this long, or for so many of the gaps that there were so far, is too long; where not everybody
/// knows everybody, news takes its time.
const LEAST: Duration = Duration::from_millis(1500);
const LEAST_BOUNDED: Duration = Duration::from_secs(5);
const GAPS: u32 = 6;
const MOST: Duration = Duration::from_secs(10);
/// Of so many nodes of a zone that hear of a started group, one passes it on to other zones.
const PASSED_ON_BY: u64 = 8;
/// So many of a zone's nodes pass on that they heard of another zone.
const ZONE_TOLD_BY: u64 = 5;
/// Groups whose owners are looked at, at a time.
const LOOKED_AT: usize = 64;
/// With so many others, what they hold and want is still to be heard when the first of them has said so.
const CROWD: usize = 32;
/// It has been heard when there was no news of anybody for so long; where not everybody knows everybody, news takes its time.
const QUIET: Duration = Duration::from_millis(250);
const QUIET_BOUNDED: Duration = Duration::from_millis(700);
/// How long that is waited for in all.
const LONGEST: Duration = Duration::from_secs(4);

/// What has come into sight: chunks that somebody holds who was not known to hold them, and groups started on.
#[derive(Debug)]
pub(super) struct Sight {
    since: Time,
    last: Time,
    news: u32,
    /// The longest gap so far.
    longest: Duration,
    settled: bool,
}

impl Sight {
    pub(super) fn new(since: Time) -> Self {
        Self { since, last: since, news: 0, longest: Duration::ZERO, settled: false }
    }

    pub(super) fn news(&mut self, now: Time) {
        self.news += 1;
        self.longest = self.longest.max(now.saturating_sub(self.last));
        self.last = now;
    }

    fn too_long(&self, least: Duration, now: Time) -> bool {
        let gap = self.last.saturating_sub(self.since) / self.news.max(1);
        now.saturating_sub(self.last) > (gap * GAPS).max(self.longest * 3 / 2).clamp(least, MOST)
    }
}

impl Exchange {
    /// A peer said who else takes part.
    pub fn others(&mut self, from: NodeId, zones: &[ZoneId], joined: &[NodeId], left: &[NodeId], now: Time) {
        let Some(peer) = self.peers.get(&from) else { return };
        let near = peer.near;
        let mut changed = false;
        for zone in zones {
            changed |= self.roster.zone(*zone, now);
        }
        for node in joined.iter().filter(|node| near && **node != self.me) {
            changed |= self.roster.member(*node, false, now);
        }
        for node in left.iter().filter(|_| near) {
            if self.peers.contains_key(node) {
                continue;
            }
            if self.roster.left(*node, now) {
                self.forsake(node);
                changed = true;
            }
        }
        if changed {
            self.electorate_changed();
        }
    }

    /// Discovery says that a node of the own zone probably takes part, or is gone.
    pub fn heard_of(&mut self, node: NodeId, there: bool, now: Time) {
        if node == self.me || (!there && self.peers.contains_key(&node)) {
            return;
        }
        let changed = if there { self.roster.discovered(node, now) } else { self.roster.left(node, now) };
        if changed {
            self.electorate_changed();
        }
    }

    /// A peer said which groups were started on by whomever.
    pub fn started(&mut self, from: NodeId, groups: &[u32], now: Time) {
        if !self.peers.contains_key(&from) {
            return;
        }
        // What this node said itself comes back to it.
        let others = |group: &&u32| self.share.is_shared(**group) && !self.share.is_claimed(**group);
        for &group in groups.iter().filter(others) {
            if self.roster.start(group, now) {
                self.sight.news(now);
            }
        }
    }

    /// A node of the own zone is gone: what it was elected for and had started is free.
    pub(super) fn forsake(&mut self, node: &NodeId) {
        if self.bounded {
            for group in self.roster.all_started() {
                if self.share.owner(group) == Some(Owner::Node(*node)) {
                    self.roster.abandoned(group);
                }
            }
        }
    }

    /// Tells a new neighbour what is known of others.
    pub(super) fn introduce(&mut self, peer: NodeId, near: bool) {
        for part in self.roster.all(near, &peer).parts() {
            self.tell(vec![peer], part);
        }
    }

    fn tell(&mut self, to: Vec<NodeId>, news: super::roster::News) {
        let super::roster::News { zones, joined, left } = news;
        let (zones, joined, left) = (Vec::from_iter(zones), Vec::from_iter(joined), Vec::from_iter(left));
        self.out.push_back(Output::Tell(to, Message::Others { index: self.index, zones, joined, left }));
    }

    /// The peers of the own zone, or of others.
    pub(super) fn of_kind(&self, near: bool) -> Vec<NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.near == near).map(|(id, _)| *id).collect()
    }

    pub(super) fn gossip(&mut self, now: Time) {
        if !self.bounded {
            self.roster.keep_quiet();
            return;
        }
        let me = self.me;
        let (election, each) = (self.share.election(), PASSED_ON_BY);
        let started = self.roster.started_abroad(|group| election.score(&me, group).is_multiple_of(each), now);
        if !started.is_empty() {
            let abroad = self.of_kind(false);
            if !abroad.is_empty() {
                self.out.push_back(Output::Announce(abroad, Holdings::new(), started));
            }
        }
        let seen = self.peers.iter().filter(|(_, peer)| peer.near && peer.downloads).map(|(id, _)| *id);
        let Some(news) = self.roster.news(seen, now) else { return };
        let (near, far) = (self.of_kind(true), self.of_kind(false));
        if !far.is_empty() {
            let each = (self.roster.nodes() as u64 / ZONE_TOLD_BY).max(1);
            let mine = |zone: &&ZoneId| self.share.election().score(&me, zone.0 as u32).is_multiple_of(each);
            let zones = news.zones.iter().filter(mine).copied().collect();
            let zones = super::roster::News { zones, ..Default::default() };
            zones.parts().into_iter().for_each(|part| self.tell(far.clone(), part));
        }
        if !near.is_empty() {
            news.parts().into_iter().for_each(|part| self.tell(near.clone(), part));
        }
    }

    /// Whether it is too early to choose what to fetch: who takes part is still to be heard, of many for longer.
    pub(super) fn gathering(&mut self, now: Time) -> bool {
        if self.sight.settled || now < self.sight.since {
            return !self.sight.settled;
        }
        let quiet = if self.bounded { QUIET_BOUNDED } else { QUIET };
        let crowd = self.bounded || self.roster.crowd() >= CROWD;
        self.sight.settled = !crowd || !self.roster.settling(quiet, now) || now >= self.sight.since + LONGEST;
        !self.sight.settled
    }

    /// The other downloaders of the zone, those with a session and those that others told of, and the other zones.
    pub(super) fn electorate(&self, now: Time) -> (Vec<NodeId>, Vec<ZoneId>) {
        let elected = |peer: &Peer| peer.near && (peer.member() || self.bounded && peer.complete);
        (self.with_unmet(elected, now), self.roster.zones(now))
    }

    /// The other nodes of the zone that may bring something in from other zones.
    pub(super) fn carriers(&self, now: Time) -> Vec<NodeId> {
        self.with_unmet(|peer| peer.near && peer.carrier(), now)
    }

    /// These peers, and nodes of the zone that are no peers, in ascending order.
    fn with_unmet(&self, met: impl Fn(&Peer) -> bool, now: Time) -> Vec<NodeId> {
        let mut all = Vec::with_capacity(self.peers.len() + self.roster.nodes());
        all.extend(self.peers.iter().filter(|(_, peer)| met(peer)).map(|(id, _)| *id));
        all.extend(self.roster.members(now).filter(|node| !self.peers.contains_key(node)));
        all.sort_unstable();
        all
    }

    /// Nothing came into sight for too long: those that should have brought what nobody holds are not counted on.
    pub(super) fn look_for_absentees(&mut self, now: Time) {
        let least = if self.bounded { LEAST_BOUNDED } else { LEAST };
        if (self.roster.alone() && !self.bounded) || !self.sight.too_long(least, now) || !self.origin.idle() {
            return;
        }
        let has = |position: &Position| !self.origin.lacks(*position);
        let mut groups: Vec<u32> = self.nowhere.iter().filter(has).map(group_of).collect();
        groups.dedup();
        groups.retain(|group| !self.roster.is_started(*group, now));
        if groups.is_empty() {
            return;
        }
        groups.truncate(LOOKED_AT);
        let owners: BTreeSet<Owner> = groups.into_iter().filter_map(|group| self.share.owner(group)).collect();
        for owner in owners {
            match owner {
                Owner::Zone(zone) => self.roster.suspect_zone(zone, now),
                Owner::Node(node) => {
                    self.roster.suspect_member(&node, now);
                    if let Some(peer) = self.peers.get_mut(&node) {
                        peer.suspect = true;
                    }
                }
            }
        }
        self.sight.last = now;
        self.changed = true;
        self.electorate_changed();
    }
}
