//! The decisions themselves: run whenever the shell asks what to do next.

use std::collections::BTreeMap;
use std::time::Duration;

use super::peer::{Patience, Peer};
use super::picks;
use super::{Exchange, GiveUp, Output};
use crate::bits::Bits;
use crate::election::{GROUP, group_of};
use crate::limits::{CLAIM_GROUPS, WANT_POSITIONS};
use crate::{Message, NodeId, Position, Time};

/// How long the claim of another's group is left to be heard before it is acted on: half the time that a group takes, for
/// words take longer on slow links, too, but no less and no more than this.
const SETTLE: [Duration; 2] = [Duration::from_millis(80), Duration::from_millis(300)];
/// Between two looks at what is late.
pub(super) const LOOK: Duration = Duration::from_millis(50);
/// Who is idle takes a group over from another that started on it so long ago, and several times as long ago as a group
/// takes here; sooner from one that is so many times slower than others are.
const SLACK: Duration = Duration::from_millis(1500);
const SHORT_SLACK: Duration = Duration::from_millis(400);
const FAR_SLOWER: f64 = 3.0;
/// A neighbour that just came is waited for this long before the origin is asked.
const NEWCOMER: Duration = Duration::from_millis(1500);
/// Newcomers are waited for this long in all: some might come and go for ever.
const NEWCOMERS: Duration = Duration::from_secs(10);
/// After so long without any progress and with nothing to ask, peers that did not answer once are asked again.
const LAST_RESORT: Duration = Duration::from_secs(2);
/// Bytes asked of the origin beyond the budget.
const ORIGIN_BUDGET: u64 = 1 << 20;
/// Positions held in other zones that are looked at, at a time.
const LOOKED_AT: usize = 512;
/// A machine on which something waits this long to be verified and written is behind with that.
const BEHIND: Duration = Duration::from_millis(100);
/// Bytes that neighbours hold, which are enough for a machine that is behind: a part of what they keep as it came.
const PLENTY: u64 = 4 << 20;
/// Groups that a node is at, at a time, so that a claim means that something is coming.
const WORK_AHEAD: usize = 2;

impl Exchange {
    pub(super) fn decide(&mut self, now: Time) {
        if now.saturating_sub(self.decided_at) >= LOOK {
            self.decided_at = now;
            self.count_peers();
            self.out_of_reach = false;
            self.nothing_to_start = false;
            self.look_for_late(now);
            self.look_for_absentees(now);
            self.gossip(now);
            self.look_abroad(true, now);
            self.look_for_interest(now);
        }
        if self.busy_until.is_some_and(|at| now >= at) {
            self.busy_until = self.peers.values().map(|peer| peer.busy_until).filter(|at| *at > now).min();
            self.out_of_reach = false;
        }
        self.ask_peers(now);
        self.ask_abroad(now);
        self.ask_origin(now);
        self.announce(now);
        self.conclude(now);
    }

    fn ask_peers(&mut self, now: Time) {
        if self.askable.is_empty() || self.in_flight >= self.config.budget || self.out_of_reach {
            return;
        }
        let limited = self.config.peers_budget < u64::MAX;
        let mut owed: u64 = if limited { self.peers.values().map(Peer::owes).sum() } else { 0 };
        let mut asks: BTreeMap<NodeId, Vec<Position>> = BTreeMap::new();
        let mut refilled = false;
        while self.in_flight < self.config.budget && owed < self.config.peers_budget {
            let Some(position) = self.picks.next(&self.askable) else {
                if refilled {
                    break;
                }
                refilled = true;
                let reach = self.within_reach(now);
                self.out_of_reach = reach.is_empty();
                self.picks.refill(reach, &self.available);
                continue;
            };
            // A peer that has no room left does not hide what others hold: the next refill passes it over.
            if let Some(peer) = self.best_holder(position, &[], now) {
                refilled = false;
                owed += self.ask(position, peer, now);
                asks.entry(peer).or_default().push(position);
            }
        }
        self.send_asks(asks);
    }

    /// What is askable of a peer that has room, or a window of it.
    fn within_reach(&self, now: Time) -> Vec<Position> {
        let with_room = self.peers.values().filter(|peer| peer.near && !peer.holdings.is_empty() && peer.room(now) > 0);
        let mut holdings: Vec<&Bits> = Vec::with_capacity(self.peers.len());
        holdings.extend(with_room.map(|peer| &peer.holdings));
        if holdings.is_empty() {
            return Vec::new();
        }
        self.askable.common(&holdings, self.picks.start(), picks::LOOKED_AT)
    }

    /// Finds what is to be asked of other zones by this node; all of what waits, or what is new.
    fn look_abroad(&mut self, all: bool, now: Time) {
        if self.abroad.is_empty() {
            return;
        }
        if self.crossing.is_stale() {
            let members = self.carriers(now);
            self.crossing.refresh(members);
        }
        let peers = &self.peers;
        let at_it = |peer: &Peer, group: u32| peer.near && peer.claims.contains_key(&group) && !peer.claims_late(now);
        let taken = |group: u32| peers.values().any(|peer| at_it(peer, group));
        self.crossing.look(taken, all, now);
    }

    /// Asks other zones for what this node is to bring into its own.
    fn ask_abroad(&mut self, now: Time) {
        if self.abroad.is_empty() || self.gathering(now) {
            return;
        }
        self.look_abroad(false, now);
        if self.crossing.ready().is_empty() || self.in_flight >= self.config.budget {
            return;
        }
        let room = |exchange: &Self| exchange.peers.values().any(|peer| !peer.near && peer.room(now) > 0);
        if !room(self) {
            return;
        }
        let start = self.picks.start();
        let (mut next, mut wrapped, mut looked_at) = (self.crossing.ready_from(start), false, 0);
        let mut asks: BTreeMap<NodeId, Vec<Position>> = BTreeMap::new();
        let mut claims = Vec::new();
        while looked_at < LOOKED_AT && self.in_flight < self.config.budget {
            let Some(position) = next.filter(|position| !wrapped || *position < start) else {
                if wrapped {
                    break;
                }
                (next, wrapped) = (self.crossing.ready_from(0), true);
                continue;
            };
            looked_at += 1;
            next = self.crossing.ready_from(position + 1);
            let Some(peer) = self.best_holder(position, &[], now) else { continue };
            let group = group_of(position);
            if claims.len() < CLAIM_GROUPS && self.crossing.claim(group) {
                claims.push(group);
            }
            self.ask(position, peer, now);
            asks.entry(peer).or_default().push(position);
            if !room(self) {
                break;
            }
        }
        if !claims.is_empty() {
            let near = self.peers.iter().filter(|(_, peer)| peer.near && !peer.complete).map(|(id, _)| *id);
            let near: Vec<NodeId> = near.collect();
            if !near.is_empty() {
                let claim = Message::Claim { index: self.index, groups: claims, origin: false };
                self.out.push_back(Output::Tell(near, claim));
            }
        }
        self.send_asks(asks);
    }

    pub(super) fn send_asks(&mut self, asks: BTreeMap<NodeId, Vec<Position>>) {
        for (peer, positions) in asks {
            for part in positions.chunks(WANT_POSITIONS) {
                self.out.push_back(Output::Ask(peer, part.to_vec()));
            }
        }
    }

    /// The holder that would deliver first and has room, in the own zone if there is any there; `None` if there is none.
    pub(super) fn best_holder(&self, position: Position, except: &[NodeId], now: Time) -> Option<NodeId> {
        let bytes = self.estimate(position);
        let near = self.near(position);
        self.peers
            .iter()
            .filter(|(_, peer)| peer.near == near && peer.holdings.contains(position) && peer.room(now) > 0)
            .filter(|(id, _)| !except.contains(id))
            .map(|(id, peer)| (peer.wait_for(bytes), id.0[31] ^ position as u8, id))
            .min_by(|(a, x, _), (b, y, _)| a.total_cmp(b).then(x.cmp(y)))
            .map(|(_, _, id)| *id)
    }

    /// Notes the request; the bytes expected.
    pub(super) fn ask(&mut self, position: Position, peer: NodeId, now: Time) -> u64 {
        let bytes = self.estimate(position);
        if let Some(known) = self.peers.get_mut(&peer) {
            known.ask(position, bytes, now);
        }
        self.not_missing(position);
        let asked = self.asked.entry(position).or_default();
        if asked.peers.is_empty() && asked.origin.is_none() {
            asked.bytes = bytes;
            self.in_flight += bytes;
        }
        asked.peers.push(peer);
        bytes
    }

    fn ask_origin(&mut self, now: Time) {
        let idle = self.nothing_to_start && !self.share.is_stale() && !self.share.has_work();
        if self.nowhere.is_empty() || idle || !self.origin.room(self.share.sharers(), now) || self.gathering(now) {
            return;
        }
        if self.awaits_newcomers(now) || self.is_behind(now) {
            return;
        }
        if self.share.is_stale() {
            let (members, zones) = self.electorate(now);
            self.share.refresh(members, zones);
        }
        let (mut claims, mut started) = (Vec::new(), 0);
        // What neighbours are asked for must not keep the origin's link empty.
        while self.origin.room(self.share.sharers(), now) && self.in_flight < self.config.budget + ORIGIN_BUDGET {
            let Some(position) = self.next_from_origin(now, &mut claims, &mut started) else { break };
            let bytes = self.estimate(position);
            self.origin.asked(position, bytes, now);
            self.not_missing(position);
            let asked = self.asked.entry(position).or_default();
            asked.origin = Some(now);
            asked.bytes = bytes;
            self.in_flight += bytes;
            self.out.push_back(Output::AskOrigin(position));
        }
        if !claims.is_empty() {
            self.out.push_front(Output::Claim(claims));
        }
    }

    /// Whether this machine verifies and writes too slowly for what comes, and neighbours hold enough for it to go on with.
    /// To ask the origin for still more would bring it no end sooner: it would come to ask its neighbours for chunks that
    /// they no longer have at hand as they came, but read, hash and compress once more, which makes machines that share
    /// their processors later still.
    fn is_behind(&self, now: Time) -> bool {
        let late = |(_, since): &(u64, Time)| now.saturating_sub(*since) >= BEHIND;
        let mut held = 0;
        let enough = |position| {
            held += self.estimate(position);
            held >= PLENTY
        };
        self.checking.values().any(late) && self.askable.iter().any(enough)
    }

    /// Whether somebody just came who has not said yet what it holds.
    fn awaits_newcomers(&mut self, now: Time) -> bool {
        if let Some(since) = self.waiting_since.take() {
            self.waited += now.saturating_sub(since).min(NEWCOMER);
        }
        let awaited = |peer: &Peer| !peer.answered && now < peer.joined_at + NEWCOMER;
        if self.waited < NEWCOMERS && self.peers.values().any(awaited) {
            self.waiting_since = Some(now);
        }
        self.waiting_since.is_some()
    }

    fn next_from_origin(&mut self, now: Time, claims: &mut Vec<u32>, started: &mut usize) -> Option<Position> {
        loop {
            while let Some(position) = self.share.next_position() {
                if self.for_origin(position) {
                    return Some(position);
                }
            }
            if *started >= WORK_AHEAD {
                return None;
            }
            let (missing, nowhere, origin) = (&self.missing, &self.nowhere, &self.origin);
            let has = |position: &Position| !origin.lacks(*position);
            let wanted = |group: u32| nowhere.range(group * GROUP, (group + 1) * GROUP).filter(has).collect();
            let all = || nowhere.iter().filter(has).map(group_of).collect();
            let peers = &self.peers;
            // Who has nothing else to do takes over from who is far slower, although that one still gets on.
            let own = origin.time_for(u64::from(GROUP) * self.estimate(missing.min().unwrap_or(0)));
            let patience = match origin.idle() {
                true => Patience { most: SLACK.max(own * 6), least: SHORT_SLACK, slow: FAR_SLOWER * self.usual_pace() },
                false => Patience { most: Time::MAX, least: Time::MAX, slow: f64::MAX },
            };
            let (roster, bounded) = (&self.roster, self.bounded);
            let taken = |group: u32| {
                let at_it = |peer: &Peer| peer.is_at(group, patience, now) && peer.member() && !peer.claims_late(now);
                let claimed = peers.values().any(at_it);
                claimed || (bounded && roster.is_started(group, now))
            };
            let claimants = |group: u32| {
                let claim = peers.iter().filter(|(_, peer)| peer.claims.contains_key(&group));
                claim.map(|(id, _)| *id).collect()
            };
            // Who does not hear of everyone cannot know what nobody has started on.
            let Some(group) = self.share.start_group(wanted, all, taken, claimants, !bounded) else {
                self.nothing_to_start = true;
                return None;
            };
            *started += 1;
            if self.share.is_shared(group) {
                claims.push(group);
                if !self.share.owns(group) {
                    // Others that are idle may choose the same: let the claims cross before anything is asked.
                    self.origin.hold_until(now + (own / 2).clamp(SETTLE[0], SETTLE[1]));
                    return None;
                }
            }
        }
    }

    /// Seconds that half of the peers need for a position of what they claim, or less; very many, where it is not known.
    fn usual_pace(&self) -> f64 {
        let mut paces: Vec<f64> = self.peers.values().filter(|peer| peer.near).filter_map(Peer::claim_pace).collect();
        paces.sort_unstable_by(f64::total_cmp);
        // Of two nobody can say which of them is usual.
        if paces.len() < 3 { f64::MAX } else { paces[paces.len() / 2] }
    }

    fn for_origin(&self, position: Position) -> bool {
        self.nowhere.contains(position) && !self.origin.lacks(position)
    }

    /// Nobody else has what is missing: peers that did not answer once are asked again, each when its time is over.
    fn recall(&mut self, now: Time) -> bool {
        let may = |peer: &Peer| peer.discounted && !peer.distrusted(now) && !peer.holdings.is_disjoint(&self.missing);
        let back: Vec<NodeId> = self.peers.iter().filter(|(_, peer)| may(peer)).map(|(id, _)| *id).collect();
        back.iter().for_each(|id| self.revive(*id));
        !back.is_empty()
    }

    fn conclude(&mut self, now: Time) {
        if self.finished {
            return;
        }
        if self.complete() {
            self.finished = true;
            self.tell_of_all();
            self.out.push_back(Output::Complete);
            return;
        }
        if !self.asked.is_empty() || !self.checking.is_empty() || !self.askable.is_empty() || self.missing.is_empty() {
            return;
        }
        let idle = now.saturating_sub(self.progress_at);
        if idle >= LAST_RESORT && self.recall(now) {
            return;
        }
        if idle < self.config.absent_patience.min(self.config.patience) {
            return;
        }
        let lacking: Vec<Position> = self.missing.iter().filter(|p| self.origin.lacks(*p)).take(5).collect();
        let reason = if !lacking.is_empty() && idle >= self.config.absent_patience {
            GiveUp::Absent(lacking)
        } else if idle >= self.config.patience {
            GiveUp::Unreachable(u64::from(self.missing.len()))
        } else {
            return;
        };
        self.finished = true;
        self.out.push_back(Output::GiveUp(reason));
    }
}
