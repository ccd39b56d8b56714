//! What the exchange is told: everything that peers say, and what became of what was asked.

use std::time::Duration;

use roaring::RoaringBitmap;

use super::peer::Peer;
use super::{Exchange, OriginAnswer, Output, Source};
use crate::{Holdings, NodeId, Position, Time, limits};

impl Exchange {
    /// A peer takes part. Its holdings are awaited before the origin is asked, for a moment.
    /// Of a peer that takes part already, only whether it downloads is updated.
    pub fn joined(&mut self, peer: NodeId, downloads: bool, now: Time) {
        if peer == self.me || self.banned.contains(&peer) {
            return;
        }
        let known = self.peers.entry(peer).or_insert_with(|| Peer::new(now));
        if known.downloads != downloads {
            known.downloads = downloads;
            self.share.changed();
        }
    }

    /// A peer no longer takes part, or its session ended. Without effect for an unknown peer.
    pub fn left(&mut self, peer: NodeId, now: Time) {
        if let Some(mut gone) = self.peers.remove(&peer) {
            self.discount(&mut gone);
            for position in gone.outstanding.keys() {
                self.unask(*position, Source::Peer(peer));
            }
            self.share.changed();
            self.progress_at = self.progress_at.max(now.saturating_sub(self.config.patience / 2));
        }
    }

    /// A peer said all that it holds.
    pub fn have(&mut self, peer: NodeId, holdings: &Holdings, now: Time) {
        let Some(mut known) = self.peers.remove(&peer) else { return };
        let member = known.member();
        self.discount(&mut known);
        known.holdings.clear();
        known.complete = false;
        known.answered = true;
        known.discounted = known.distrusted(now);
        self.peers.insert(peer, known);
        self.have_more(peer, holdings, now);
        if self.peers.get(&peer).is_some_and(|known| known.member() != member) {
            self.share.changed();
        }
    }

    /// A peer said what it holds beyond what it said before.
    pub fn have_more(&mut self, peer: NodeId, holdings: &Holdings, now: Time) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let mut news = holdings.positions() - &known.holdings;
        news.remove_range(self.lengths.len() as u32..);
        known.spoke(now);
        if known.progressed(&news, self.lengths.len() as u32, now) && known.suspect {
            known.suspect = false;
            self.share.changed();
        }
        let counted = !known.discounted;
        known.holdings |= &news;
        let complete = known.holdings.len() == self.lengths.len() as u64;
        if complete && !known.complete {
            known.complete = true;
            self.share.changed();
        }
        if counted {
            self.count(&news);
        } else {
            self.heard(peer, now);
        }
    }

    /// A peer started on these groups. Where both want the same, the higher score keeps it.
    pub fn claimed(&mut self, peer: NodeId, groups: &[u32], now: Time) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.spoke(now);
        for &group in groups {
            if self.share.is_shared(group) {
                known.claim(group, now);
                if known.member() {
                    self.share.yield_to(&peer, group);
                }
            }
        }
        self.heard(peer, now);
    }

    /// A peer said whether it reaches the origin.
    pub fn peer_origin(&mut self, peer: NodeId, reachable: bool) {
        if let Some(known) = self.peers.get_mut(&peer) {
            if known.origin == reachable {
                return;
            }
            known.origin = reachable;
            if reachable {
                self.origin.try_soon(self.polled_at);
            } else {
                known.claims.clear();
            }
            self.share.changed();
        }
    }

    /// A peer will not send these; it may be asked again for anything after `retry`, or never for these if that is zero.
    pub fn absent(&mut self, peer: NodeId, positions: &[Position], retry: Duration, now: Time) {
        let Some(mut known) = self.peers.remove(&peer) else { return };
        known.spoke(now);
        let mut denied = RoaringBitmap::new();
        for &position in positions {
            if known.answered_ask(position).is_some() {
                self.unask(position, Source::Peer(peer));
            }
            if retry.is_zero() && known.holdings.contains(position) {
                denied.insert(position);
            }
        }
        if retry.is_zero() {
            if !known.discounted {
                self.uncount(&denied);
            }
            known.holdings -= &denied;
            known.complete = known.holdings.len() == self.lengths.len() as u64;
        } else {
            known.busy_until = now + retry.min(Duration::from_secs(10));
        }
        let useless = known.refused(positions.len(), retry.is_zero(), now);
        self.peers.insert(peer, known);
        if useless {
            self.distrust(peer, now);
        } else {
            self.heard(peer, now);
        }
    }

    /// Bytes came from a peer. `true`: verify them and call [`Exchange::stored`] or [`Exchange::corrupt`]. `false`: they
    /// are not needed, drop them.
    pub fn arrived(&mut self, position: Position, peer: NodeId, bytes: u64, now: Time) -> bool {
        let Some(known) = self.peers.get_mut(&peer) else { return false };
        known.arrived(position, bytes, now);
        let accepted = self.accept(position, Source::Peer(peer), bytes, now);
        if accepted {
            self.revive(peer);
        } else {
            self.heard(peer, now);
        }
        accepted
    }

    /// The origin answered a request made by [`Output::AskOrigin`]. The result is as for [`Exchange::arrived`].
    pub fn origin_answered(&mut self, position: Position, answer: OriginAnswer, now: Time) -> bool {
        let was_reachable = self.origin.reachable();
        self.origin.answered(position, &answer, now);
        let accepted = match answer {
            OriginAnswer::Bytes { bytes, .. } => {
                let length = self.lengths.get(position as usize).copied().unwrap_or(0);
                if length > 0 {
                    self.ratio += ((bytes as f64 / f64::from(length)).min(2.0) - self.ratio) * 0.05;
                }
                self.accept(position, Source::Origin, bytes, now)
            }
            OriginAnswer::Absent | OriginAnswer::Unavailable => {
                self.unask(position, Source::Origin);
                false
            }
        };
        if was_reachable != self.origin.reachable() {
            self.out.push_back(Output::TellOrigin(self.origin.reachable()));
            self.share.changed();
            if was_reachable {
                self.share.drop_claims();
            }
        }
        accepted
    }

    /// A chunk that was being verified, or that turned up locally, is in place.
    pub fn stored(&mut self, position: Position, now: Time) {
        if let Some(bytes) = self.checking.remove(&position) {
            self.in_flight = self.in_flight.saturating_sub(bytes);
        }
        if position as usize >= self.lengths.len() || !self.held.insert(position) {
            return;
        }
        self.progress_at = now;
        self.withdraw(position);
        self.missing.remove(position);
        self.postponed.remove(position);
        self.askable.remove(position);
        if self.lengths[position as usize] <= limits::SHARED_CHUNK_BYTES {
            self.announce.insert(position);
        }
    }

    /// A chunk failed verification: its peer is banned, and it is asked elsewhere.
    pub fn corrupt(&mut self, position: Position, from: Source, now: Time) {
        self.stats.corrupt += 1;
        if let Some(bytes) = self.checking.remove(&position) {
            self.in_flight = self.in_flight.saturating_sub(bytes);
            self.lost(position);
        }
        match from {
            Source::Peer(peer) => {
                if !self.banned.insert(peer) {
                    return;
                }
                self.left(peer, now);
                self.out.push_back(Output::Ban(peer));
            }
            Source::Origin => self.origin.gave_corrupt(position),
        }
    }
}
