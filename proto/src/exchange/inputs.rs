//! What the exchange is told: everything that peers say, and what became of what was asked.

use std::time::Duration;

use roaring::RoaringBitmap;

use super::peer::Peer;
use super::{Exchange, OriginAnswer, Output, Source};
use crate::bits::words_of;
use crate::{Holdings, NodeId, Position, Time, ZoneId, limits};

impl Exchange {
    /// A peer of this zone takes part. Its holdings are awaited before the origin is asked, for a moment.
    /// Of a peer that takes part already, only whether it downloads is updated.
    pub fn joined(&mut self, peer: NodeId, zone: ZoneId, downloads: bool, now: Time) {
        if peer == self.me || self.banned.contains(&peer) {
            return;
        }
        let near = zone == self.config.zone;
        let count = self.lengths.len() as u32;
        let new = !self.peers.contains_key(&peer);
        let known = self.peers.get_or_insert_with(peer, || Peer::new(near, count, now));
        if known.downloads != downloads {
            known.downloads = downloads;
            self.electorate_changed();
        }
        if downloads && near {
            self.roster.member(peer, true, now);
        } else if downloads && self.roster.zone(zone, now) {
            self.electorate_changed();
        }
        if new && self.bounded {
            self.introduce(peer, near);
        }
        self.changed = true;
        self.count_peers();
    }

    /// A peer no longer takes part, or its session broke. Without effect for an unknown peer.
    pub fn left(&mut self, peer: NodeId, now: Time) {
        if self.peers.contains_key(&peer) {
            self.forsake(&peer);
            self.roster.left(peer, now);
            self.parted(peer, now);
        }
    }

    /// The session with a peer was closed on purpose: it is still there, but no neighbour.
    pub fn parted(&mut self, peer: NodeId, now: Time) {
        if let Some(mut gone) = self.peers.remove(&peer) {
            self.discount(&mut gone);
            for position in gone.outstanding.keys() {
                self.unask(*position, Source::Peer(peer));
            }
            gone.claims.keys().for_each(|group| self.roster.abandoned(*group));
            self.electorate_changed();
            self.changed = true;
            self.count_peers();
            self.progress_at = self.progress_at.max(now.saturating_sub(self.config.patience / 2));
        }
    }

    /// A peer said all that it holds.
    pub fn have(&mut self, peer: NodeId, holdings: &Holdings, now: Time) {
        let Some(mut known) = self.peers.remove(&peer) else { return };
        let member = (known.member(), known.carrier());
        self.changed = true;
        self.discount(&mut known);
        known.holdings.clear();
        known.complete = false;
        let limited = known.interest.take().is_some();
        known.answered = true;
        known.discounted = known.distrusted(now);
        let near = known.near;
        self.peers.insert(peer, known);
        self.have_more(peer, holdings, now);
        if !near && self.peers.get(&peer).is_some_and(|known| !known.complete) {
            if limited {
                self.say_abroad(peer, Holdings::from(self.held.clone()));
            }
            self.say_interest(vec![peer]);
        }
        if self.peers.get(&peer).is_some_and(|known| (known.member(), known.carrier()) != member) {
            self.electorate_changed();
        }
    }

    /// A peer said what it holds beyond what it said before.
    pub fn have_more(&mut self, peer: NodeId, holdings: &Holdings, now: Time) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let mut news = std::mem::take(&mut self.news);
        for (at, word) in words_of(holdings.positions()) {
            let new = known.holdings.insert_word(at as usize, word);
            if new != 0 {
                news.push((at, new));
            }
        }
        known.spoke(now);
        let mut changed = known.progressed(&news, self.lengths.len() as u32, now) && known.suspect;
        known.suspect &= !changed;
        let counted = !known.discounted;
        if known.holdings.is_full() && !known.complete {
            known.complete = true;
            // Who holds everything has nothing left to be elected for, but what it was elected for is here then too.
            changed |= !self.bounded;
        }
        let near = known.near;
        if changed {
            self.changed = true;
            self.electorate_changed();
        }
        if counted {
            self.count(&news, near, now);
        } else {
            self.heard(peer, now);
        }
        news.clear();
        self.news = news;
    }

    /// A peer started on these groups, from the origin or from another zone. Where both want the same in the same way, the
    /// higher score keeps it.
    pub fn claimed(&mut self, peer: NodeId, groups: &[u32], origin: bool, now: Time) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.spoke(now);
        self.changed = true;
        for &group in groups {
            if self.share.is_shared(group) {
                // Of what another zone is not asked to tell, its progress is not heard of.
                if known.near || self.interest.includes(group) {
                    known.claim(group, now);
                }
                if origin && known.member() {
                    self.share.yield_to(&peer, group);
                } else if !origin && known.near && known.carrier() {
                    self.crossing.yield_to(&peer, group);
                }
                if origin && self.roster.start(group, now) {
                    self.sight.news(now);
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
            self.changed = true;
            if reachable {
                self.origin.try_soon(self.polled_at);
            } else {
                known.claims.clear();
            }
            self.electorate_changed();
        }
    }

    /// A peer will not send these; it may be asked again for anything after `retry`, or never for these if that is zero.
    pub fn absent(&mut self, peer: NodeId, positions: &[Position], retry: Duration, now: Time) {
        let Some(mut known) = self.peers.remove(&peer) else { return };
        known.spoke(now);
        self.changed = true;
        self.out_of_reach = false;
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
                self.uncount(denied.iter(), known.near);
            }
            for position in &denied {
                known.holdings.remove(position);
            }
            known.complete = known.holdings.is_full();
        } else {
            known.busy_until = now + retry.min(Duration::from_secs(10));
            self.busy_until = Some(self.busy_until.map_or(known.busy_until, |at| at.min(known.busy_until)));
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
        self.changed = true;
        self.out_of_reach = false;
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
        self.changed = true;
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
            self.electorate_changed();
            if was_reachable {
                self.share.drop_claims();
            }
        }
        accepted
    }

    /// A chunk that was being verified, or that turned up locally, is in place.
    pub fn stored(&mut self, position: Position, now: Time) {
        if let Some((bytes, _)) = self.checking.remove(&position) {
            self.in_flight = self.in_flight.saturating_sub(bytes);
        }
        if position as usize >= self.lengths.len() || !self.held.insert(position) {
            return;
        }
        self.changed = true;
        self.progress_at = now;
        self.withdraw(position);
        self.not_missing(position);
        self.postponed.remove(position);
        if self.lengths[position as usize] <= limits::SHARED_CHUNK_BYTES {
            self.note_for_others(position);
        }
    }

    /// A chunk failed verification: its peer is banned, and it is asked elsewhere.
    pub fn corrupt(&mut self, position: Position, from: Source, now: Time) {
        self.changed = true;
        self.stats.corrupt += 1;
        if let Some((bytes, _)) = self.checking.remove(&position) {
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
