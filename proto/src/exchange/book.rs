//! The books of an exchange: which position is in which state, who was asked for it, who holds it.

use super::peer::Peer;
use super::{Asked, Exchange, Output, Source};
use crate::bits::positions;
use crate::election::group_of;
use crate::limits::WANT_POSITIONS;
use crate::{NodeId, Position, Time};

impl Exchange {
    /// What the bytes of a chunk on the wire are expected to be.
    pub(super) fn estimate(&self, position: Position) -> u64 {
        let length = self.lengths.get(position as usize).copied().unwrap_or(0);
        (f64::from(length) * self.ratio) as u64 + 64
    }

    pub(super) fn accept(&mut self, position: Position, from: Source, bytes: u64, now: Time) -> bool {
        let asked = self.asked.remove(&position);
        let unwanted = position as usize >= self.lengths.len()
            || self.held.contains(position)
            || self.checking.contains_key(&position)
            || (asked.is_none() && self.in_flight > self.config.budget);
        if unwanted {
            self.stats.duplicates += 1;
            return false;
        }
        self.progress_at = now;
        if let Some(asked) = asked {
            self.in_flight = self.in_flight.saturating_sub(asked.bytes);
            for peer in asked.peers.iter().filter(|peer| Source::Peer(**peer) != from) {
                self.cancel(*peer, position);
            }
        }
        self.not_missing(position);
        self.postponed.remove(position);
        self.checking.insert(position, (bytes, now));
        self.in_flight += bytes;
        true
    }

    /// Takes back every request for a position that came another way.
    pub(super) fn withdraw(&mut self, position: Position) {
        if let Some(asked) = self.asked.remove(&position) {
            self.in_flight = self.in_flight.saturating_sub(asked.bytes);
            for peer in asked.peers {
                self.cancel(peer, position);
            }
        }
    }

    fn cancel(&mut self, peer: NodeId, position: Position) {
        if let Some(known) = self.peers.get_mut(&peer)
            && known.answered_ask(position).is_some()
        {
            self.out_of_reach = false;
            match self.out.back_mut() {
                Some(Output::Cancel(same, positions)) if *same == peer && positions.len() < WANT_POSITIONS => {
                    positions.push(position);
                }
                _ => self.out.push_back(Output::Cancel(peer, vec![position])),
            }
        }
    }

    /// One source will not answer for this position any more.
    pub(super) fn unask(&mut self, position: Position, source: Source) {
        let Some(asked) = self.asked.get_mut(&position) else { return };
        match source {
            Source::Peer(peer) => asked.peers.retain(|asked| *asked != peer),
            Source::Origin => asked.origin = None,
        }
        if asked.peers.is_empty() && asked.origin.is_none() {
            self.in_flight = self.in_flight.saturating_sub(asked.bytes);
            self.asked.remove(&position);
            self.miss(position);
        }
    }

    /// The position is missing again.
    pub(super) fn miss(&mut self, position: Position) {
        self.missing.insert(position);
        self.place(position, self.polled_at);
    }

    /// Notes where a missing position can be had.
    fn place(&mut self, position: Position, now: Time) {
        if self.near(position) {
            self.askable.insert(position);
            self.nowhere.remove(position);
            self.out_of_reach = false;
            self.crossing.came(position, now);
        } else if self.far(position) {
            self.nowhere.remove(position);
            self.crossing.add(position, now);
        } else {
            self.nowhere.insert(position);
            self.crossing.remove(position);
            self.share.changed();
        }
    }

    /// The position is asked for, or here.
    pub(super) fn not_missing(&mut self, position: Position) {
        self.missing.remove(position);
        self.askable.remove(position);
        self.nowhere.remove(position);
        self.crossing.remove(position);
    }

    /// Who takes part in the election changed.
    pub(super) fn electorate_changed(&mut self) {
        self.share.changed();
        self.crossing.changed();
    }

    /// What came for the position was no good: a request to the origin that is in flight still counts, else it is missing.
    pub(super) fn lost(&mut self, position: Position) {
        match self.origin.asked_at(position) {
            Some(at) => {
                let bytes = self.estimate(position);
                self.asked.insert(position, Asked { peers: Vec::new(), origin: Some(at), bytes });
                self.in_flight += bytes;
            }
            None => self.miss(position),
        }
    }

    /// Positions, as words of a set, have one holder more.
    pub(super) fn count(&mut self, news: &[(u32, u64)], near: bool, now: Time) {
        if !near && self.abroad.is_empty() {
            self.abroad = vec![0; self.lengths.len()];
        }
        for &(at, word) in news {
            let holders = if near { &mut self.available } else { &mut self.abroad };
            let mut only = 0;
            for position in positions(at, word) {
                let holders = &mut holders[position as usize];
                *holders = holders.saturating_add(1);
                only |= u64::from(*holders == 1) << (position % 64);
            }
            let missing = word & self.missing.word(at as usize);
            if missing != 0 {
                self.changed = true;
                self.out_of_reach &= !near;
            }
            for position in positions(at, only & missing) {
                let first = !(if near { self.far(position) } else { self.near(position) });
                self.place(position, now);
                if first {
                    self.sight.news(now);
                    self.roster.progress(group_of(position), now);
                }
            }
        }
    }

    pub(super) fn uncount(&mut self, gone: impl Iterator<Item = Position>, near: bool) {
        for position in gone {
            let holders = if near { &mut self.available } else { &mut self.abroad };
            let holders = &mut holders[position as usize];
            *holders = holders.saturating_sub(1);
            if *holders == 0 && self.missing.contains(position) {
                if near {
                    self.askable.remove(position);
                }
                self.place(position, self.polled_at);
            }
        }
    }

    /// What a peer holds no longer counts as available.
    pub(super) fn discount(&mut self, peer: &mut Peer) {
        if !peer.discounted {
            peer.discounted = true;
            self.uncount(peer.holdings.iter(), peer.near);
        }
    }

    /// A peer said something. One that was silent counts again, if it was not silent time and again.
    pub(super) fn heard(&mut self, peer: NodeId, now: Time) {
        if self.peers.get(&peer).is_some_and(|known| known.discounted && !known.distrusted(now)) {
            self.revive(peer);
        }
    }

    /// What a peer that was silent or useless holds counts again.
    pub(super) fn revive(&mut self, peer: NodeId) {
        if let Some(known) = self.peers.get_mut(&peer)
            && known.discounted
        {
            known.discounted = false;
            known.forgive();
            self.changed = true;
            self.out_of_reach = false;
            let (holdings, near): (Vec<(u32, u64)>, bool) = (known.holdings.words().collect(), known.near);
            self.count(&holdings, near, self.polled_at);
            self.electorate_changed();
        }
    }
}

/// The rules that hold between any two calls.
impl Exchange {
    /// Whether the books are in order; what is not, for the test that asks.
    #[doc(hidden)]
    pub fn check(&self) -> Result<(), String> {
        let count = self.lengths.len() as u32;
        let states = self.held.len()
            + u64::from(self.missing.len())
            + self.postponed.len()
            + (self.checking.len() + self.asked.len()) as u64;
        if states != u64::from(count) || self.held.max().is_some_and(|last| last >= count) {
            return Err(format!("{states} states for {count} positions"));
        }
        let elsewhere = |position: &Position| {
            self.missing.contains(*position) || [&self.held, &self.postponed].iter().any(|set| set.contains(*position))
        };
        if let Some(position) = self.checking.keys().chain(self.asked.keys()).find(|position| elsewhere(position)) {
            return Err(format!("position {position} is in two states"));
        }
        if let Some(position) = self.checking.keys().find(|position| self.asked.contains_key(position)) {
            return Err(format!("position {position} is asked and being checked"));
        }
        let here = &self.held | &self.postponed;
        if !self.held.is_disjoint(&self.postponed) || self.missing.iter().any(|position| here.contains(position)) {
            return Err("two of held, missing and postponed at once".into());
        }
        let bytes = self.checking.values().map(|(bytes, _)| bytes).sum::<u64>()
            + self.asked.values().map(|asked| asked.bytes).sum::<u64>();
        if bytes != self.in_flight {
            return Err(format!("{} bytes in flight, noted are {}", bytes, self.in_flight));
        }
        self.check_peers(count)
    }

    fn check_peers(&self, count: u32) -> Result<(), String> {
        for near in [true, false] {
            let mut holders = vec![0u16; count as usize];
            for peer in self.peers.values().filter(|peer| !peer.discounted && peer.near == near) {
                peer.holdings.iter().for_each(|position| holders[position as usize] += 1);
            }
            let noted = if near { &self.available } else { &self.abroad };
            let noted = |position: u32| noted.get(position as usize).copied().unwrap_or(0);
            if let Some(position) = (0..count).find(|position| holders[*position as usize] != noted(*position)) {
                let there_are = holders[position as usize];
                return Err(format!("position {position}: {} holders noted, {there_are} there are", noted(position)));
            }
        }
        let askable = self.missing.iter().filter(|position| self.near(*position));
        if !self.askable.iter().eq(askable) {
            return Err("askable is not what is missing and available".into());
        }
        let crossing = self.missing.iter().filter(|position| !self.near(*position) && self.far(*position));
        if !self.crossing.positions().eq(crossing) {
            return Err("what is to cross is not what is missing and held in other zones only".into());
        }
        if !self.nowhere.iter().eq(self.missing.iter().filter(|position| !self.available(*position))) {
            return Err("what nobody holds is not what is missing and not available".into());
        }
        for (position, asked) in &self.asked {
            if asked.peers.is_empty() && asked.origin.is_none() {
                return Err(format!("position {position} is asked of nobody"));
            }
            if asked.peers.iter().any(|id| !self.peers.get(id).is_some_and(|p| p.outstanding.contains_key(position))) {
                return Err(format!("position {position} is asked of a peer that does not owe it"));
            }
        }
        for (id, peer) in &self.peers {
            let unknown = |p: &&Position| !self.asked.get(p).is_some_and(|asked| asked.peers.contains(id));
            if let Some(position) = peer.outstanding.keys().find(unknown) {
                return Err(format!("{id:?} owes {position}, which nobody waits for"));
            }
            peer.check()?;
        }
        Ok(())
    }
}
