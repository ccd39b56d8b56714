//! The decisions themselves: run whenever the shell asks what to do next.

use std::collections::BTreeMap;
use std::time::Duration;

use roaring::RoaringBitmap;

use super::peer::Peer;
use super::{Asked, Exchange, GiveUp, Output};
use crate::election::{GROUP, group_of};
use crate::limits::WANT_POSITIONS;
use crate::{Holdings, NodeId, Position, Time};

/// Between two announcements, at least; with many peers more, so that announcing costs the same.
const ANNOUNCE: Duration = Duration::from_millis(50);
const ANNOUNCE_PER_PEER: Duration = Duration::from_millis(3);
/// So many positions are announced at once, whatever the time.
const ANNOUNCE_POSITIONS: u64 = 64;
/// How long the claim of another's group is left to be heard before it is acted on.
const SETTLE: Duration = Duration::from_millis(80);
/// Between two looks at what is late.
pub(super) const LOOK: Duration = Duration::from_millis(50);
/// A group that another started on so long ago, and longer ago than a group takes here, is taken over by who is idle.
const SLACK: Duration = Duration::from_millis(1500);
/// Between two looks at everything that is missing, while there is nothing to ask of the origin.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A neighbour that just came is waited for this long before the origin is asked.
const NEWCOMER: Duration = Duration::from_millis(1500);
/// Newcomers are waited for this long in all: some might come and go for ever.
const NEWCOMERS: Duration = Duration::from_secs(10);
/// Between two looks at whether a newcomer has said what it holds.
const NEWCOMER_LOOK: Duration = Duration::from_millis(20);
/// What the origin has not answered after this is asked of a neighbour, if one has it meanwhile.
const ORIGIN_LATE: Duration = Duration::from_millis(1000);
/// After so long without any progress and with nothing to ask, peers that did not answer once are asked again.
const LAST_RESORT: Duration = Duration::from_secs(2);
/// Groups that a node is at, at a time, so that a claim means that something is coming.
const WORK_AHEAD: usize = 2;

impl Asked {
    /// Only the origin was asked, long ago.
    fn origin_late(&self, now: Time) -> bool {
        self.peers.is_empty() && self.origin.is_some_and(|asked_at| now.saturating_sub(asked_at) > ORIGIN_LATE)
    }
}

impl Exchange {
    pub(super) fn decide(&mut self, now: Time) {
        if now.saturating_sub(self.decided_at) >= LOOK {
            self.decided_at = now;
            self.look_for_late(now);
        }
        self.ask_peers(now);
        self.ask_origin(now);
        self.announce(now);
        self.conclude(now);
    }

    pub(super) fn announce_interval(&self) -> Duration {
        ANNOUNCE + ANNOUNCE_PER_PEER * self.peers.len() as u32
    }

    fn announce(&mut self, now: Time) {
        let due = now.saturating_sub(self.announced_at) >= self.announce_interval();
        if !self.announce.is_empty() && (due || self.announce.len() >= ANNOUNCE_POSITIONS) {
            self.announced_at = now;
            let news = std::mem::take(&mut self.announce);
            self.out.push_back(Output::Announce(Holdings::from(news)));
        }
    }

    fn ask_peers(&mut self, now: Time) {
        if self.askable.is_empty() || self.in_flight >= self.config.budget {
            return;
        }
        let mut owed: u64 = self.peers.values().map(Peer::owes).sum();
        let mut asks: BTreeMap<NodeId, Vec<Position>> = BTreeMap::new();
        let mut reach = self.within_reach(now);
        let mut refilled = false;
        while self.in_flight < self.config.budget && owed < self.config.peers_budget && !reach.is_empty() {
            let Some(position) = self.picks.next(&reach) else {
                if refilled {
                    break;
                }
                refilled = true;
                self.picks.refill(&reach, &self.available);
                continue;
            };
            match self.best_holder(position, &[], now) {
                Some(peer) => {
                    owed += self.ask(position, peer, now);
                    reach.remove(position);
                    asks.entry(peer).or_default().push(position);
                }
                // A peer has no room left: what only it holds waits, and must not hide what others hold.
                None => {
                    reach = self.within_reach(now);
                    refilled = false;
                }
            }
        }
        self.send_asks(asks);
    }

    /// What is askable of a peer that has room.
    fn within_reach(&self, now: Time) -> RoaringBitmap {
        let mut reach = RoaringBitmap::new();
        for peer in self.peers.values().filter(|peer| peer.room(now) > 0) {
            if peer.complete {
                return self.askable.clone();
            }
            reach |= &peer.holdings & &self.askable;
        }
        reach
    }

    fn send_asks(&mut self, asks: BTreeMap<NodeId, Vec<Position>>) {
        for (peer, positions) in asks {
            for part in positions.chunks(WANT_POSITIONS) {
                self.out.push_back(Output::Ask(peer, part.to_vec()));
            }
        }
    }

    /// The holder that would deliver first and has room; `None` if there is none.
    fn best_holder(&self, position: Position, except: &[NodeId], now: Time) -> Option<NodeId> {
        let bytes = self.estimate(position);
        let order = |id: &NodeId| id.0[31] ^ position as u8;
        self.peers
            .iter()
            .filter(|(id, peer)| !except.contains(id) && peer.holdings.contains(position) && peer.room(now) > 0)
            .min_by(|(a, x), (b, y)| x.wait_for(bytes).total_cmp(&y.wait_for(bytes)).then(order(a).cmp(&order(b))))
            .map(|(id, _)| *id)
    }

    /// Notes the request; the bytes expected.
    fn ask(&mut self, position: Position, peer: NodeId, now: Time) -> u64 {
        let bytes = self.estimate(position);
        if let Some(known) = self.peers.get_mut(&peer) {
            known.ask(position, bytes, now);
        }
        self.missing.remove(position);
        self.askable.remove(position);
        let asked = self.asked.entry(position).or_default();
        if asked.peers.is_empty() && asked.origin.is_none() {
            asked.bytes = bytes;
            self.in_flight += bytes;
        }
        asked.peers.push(peer);
        bytes
    }

    fn ask_origin(&mut self, now: Time) {
        if self.missing.is_empty() || !self.origin.room(now) {
            return;
        }
        let awaited = |joined: Time| now < joined + NEWCOMER;
        if self.waited < NEWCOMERS && self.peers.values().any(|peer| !peer.answered && awaited(peer.joined_at)) {
            self.waited += NEWCOMER_LOOK;
            self.origin.hold_until(now + NEWCOMER_LOOK);
            return;
        }
        self.share.refresh(|| self.peers.iter().filter(|(_, peer)| peer.member()).map(|(id, _)| *id).collect());
        let (mut claims, mut started) = (Vec::new(), 0);
        while self.origin.room(now) && self.in_flight < self.config.budget {
            let Some(position) = self.next_from_origin(now, &mut claims, &mut started) else { break };
            let bytes = self.estimate(position);
            self.origin.asked(position, bytes, now);
            self.missing.remove(position);
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
            let (missing, available, origin) = (&self.missing, &self.available, &self.origin);
            let nowhere = |position: &Position| available[*position as usize] == 0 && !origin.lacks(*position);
            let wanted = |group: u32| missing.range(group * GROUP..(group + 1) * GROUP).filter(nowhere).collect();
            let all = || missing.iter().filter(nowhere).map(group_of).collect();
            let peers = &self.peers;
            // Who has nothing else to do takes over from who is far slower, although that one still gets on.
            let own = origin.time_for(u64::from(GROUP) * self.estimate(missing.min().unwrap_or(0)));
            let slack = if origin.idle() { SLACK.max(own * 6) } else { Time::MAX };
            let taken = |group: u32| {
                let at_it =
                    |peer: &Peer| peer.claims.get(&group).is_some_and(|since| now.saturating_sub(*since) < slack);
                peers.values().any(|peer| at_it(peer) && peer.member() && !peer.claims_late(now))
            };
            let group = self.share.start_group(wanted, all, taken)?;
            *started += 1;
            if self.share.is_shared(group) {
                claims.push(group);
                if !self.share.owns(group) {
                    // Others that are idle may choose the same: let the claims cross before anything is asked.
                    self.origin.hold_until(now + SETTLE);
                    return None;
                }
            }
        }
    }

    fn for_origin(&self, position: Position) -> bool {
        self.missing.contains(position) && !self.available(position) && !self.origin.lacks(position)
    }

    /// Finds what is late and frees it to be asked elsewhere.
    fn look_for_late(&mut self, now: Time) {
        let own_wait = self.origin.waiting_for(now);
        let mut silent = Vec::new();
        for (id, peer) in &mut self.peers {
            // When the origin is slow for this node too, it is the origin that is late, not the peer.
            if !peer.suspect && peer.claims_late(now) && own_wait < Duration::from_millis(500) {
                peer.suspect = true;
                self.share.changed();
            }
            if !peer.discounted && peer.fails_to_answer(now) {
                silent.push(*id);
            }
        }
        if !self.missing.is_empty() && self.origin.idle() && now.saturating_sub(self.looked_at) >= LOOK_AGAIN {
            self.looked_at = now;
            self.share.changed();
        }
        self.ask_late_elsewhere(now);
        for id in silent {
            self.distrust(id, now);
        }
    }

    /// Asks a second holder for what the first is late with. The first answer wins.
    fn ask_late_elsewhere(&mut self, now: Time) {
        let hurry = self.missing.is_empty();
        let mut late = Vec::new();
        for peer in self.peers.values() {
            let stalled = peer.stalled(now);
            let allowed = if hurry { peer.late_after() } else { peer.late_after() * 2 };
            for (position, (asked_at, _)) in &peer.outstanding {
                if (stalled || now.saturating_sub(*asked_at) > allowed)
                    && self.asked.get(position).is_some_and(|asked| asked.peers.len() == 1 && asked.origin.is_none())
                {
                    late.push(*position);
                }
            }
        }
        late.extend(self.asked.iter().filter(|(_, asked)| asked.origin_late(now)).map(|(position, _)| *position));
        let mut asks: BTreeMap<NodeId, Vec<Position>> = BTreeMap::new();
        for position in late {
            let already = self.asked.get(&position).map(|asked| asked.peers.clone()).unwrap_or_default();
            if let Some(peer) = self.best_holder(position, &already, now) {
                self.stats.late += 1;
                self.ask(position, peer, now);
                asks.entry(peer).or_default().push(position);
            }
        }
        self.send_asks(asks);
    }

    /// A peer owes answers and does not give them, or refuses everything: it is no holder until it speaks again,
    /// and what only it was asked for is missing again.
    pub(super) fn distrust(&mut self, id: NodeId, now: Time) {
        let Some(mut peer) = self.peers.remove(&id) else { return };
        self.discount(&mut peer);
        peer.strike(now);
        let owed: Vec<Position> = peer.outstanding.keys().copied().collect();
        for position in owed {
            peer.answered_ask(position);
            self.unask(position, super::Source::Peer(id));
        }
        self.peers.insert(id, peer);
        self.share.changed();
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
        let lacking: Vec<Position> = self.missing.iter().filter(|p| self.origin.lacks(*p)).take(5).collect();
        let reason = if !lacking.is_empty() && idle >= self.config.absent_patience {
            GiveUp::Absent(lacking)
        } else if idle >= self.config.patience {
            GiveUp::Unreachable(self.missing.len())
        } else {
            return;
        };
        self.finished = true;
        self.out.push_back(Output::GiveUp(reason));
    }
}
