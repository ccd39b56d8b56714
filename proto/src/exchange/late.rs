//! What is late, and who is asked instead.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Asked, Exchange, Source};
use crate::{NodeId, Position, Time};

/// What the origin has not answered after this is asked of a neighbour, if one has it meanwhile.
const ORIGIN_LATE: Duration = Duration::from_millis(1000);
/// Seconds that what a peer owes may take at the end, when everything is asked for, before others are asked for it, too, who
/// would come to it in half the time.
const LONG_WAIT: f64 = 0.1;
/// Between two looks at everything that is missing, while there is nothing to ask of the origin.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl Asked {
    /// Only the origin was asked, long ago.
    fn origin_late(&self, now: Time) -> bool {
        self.peers.is_empty() && self.origin.is_some_and(|asked_at| now.saturating_sub(asked_at) > ORIGIN_LATE)
    }
}

impl Exchange {
    /// Finds what is late and frees it to be asked elsewhere.
    pub(super) fn look_for_late(&mut self, now: Time) {
        let own_wait = self.origin.waiting_for(now);
        let mut silent = Vec::new();
        for (id, peer) in &mut self.peers {
            peer.look(now);
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

    /// Asks a second holder for what the first is late with, and at the end for what it would come to much later. The first
    /// answer wins.
    fn ask_late_elsewhere(&mut self, now: Time) {
        let hurry = self.missing.is_empty();
        // Each with the seconds in half of which another would have to come to it.
        let mut late: Vec<(Position, f64)> = Vec::new();
        for peer in self.peers.values() {
            let stalled = peer.stalled(now);
            let allowed = if hurry { peer.late_after() } else { peer.late_after() * 2 };
            let wait = peer.wait_for(0);
            for (position, (asked_at, _)) in &peer.outstanding {
                if self.asked.get(position).is_none_or(|asked| asked.peers.len() != 1 || asked.origin.is_some()) {
                    continue;
                }
                if stalled || now.saturating_sub(*asked_at) > allowed {
                    late.push((*position, f64::INFINITY));
                } else if hurry && wait > LONG_WAIT {
                    late.push((*position, wait));
                }
            }
        }
        let of_origin = self.asked.iter().filter(|(_, asked)| asked.origin_late(now));
        late.extend(of_origin.map(|(position, _)| (*position, f64::INFINITY)));
        let mut asks: BTreeMap<NodeId, Vec<Position>> = BTreeMap::new();
        for (position, wait) in late {
            let already = self.asked.get(&position).map(|asked| asked.peers.clone()).unwrap_or_default();
            let bytes = self.estimate(position);
            let in_time = |id: &NodeId| self.peers.get(id).is_some_and(|peer| peer.wait_for(bytes) < wait / 2.0);
            if let Some(peer) = self.best_holder(position, &already, now).filter(in_time) {
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
            self.unask(position, Source::Peer(id));
        }
        self.peers.insert(id, peer);
        self.share.changed();
    }
}
