//! Who is asked for what, and when to ask another: the decisions of one node about one index.
//!
//! The shell calls a method for everything that happens, then drains [`Exchange::poll`] and comes back at
//! [`Exchange::poll_timeout`] at the latest. The exchange sees positions, never bytes.
//!
//! Each position is in exactly one state:
//! - *held*: verified, written, served to others;
//! - *checking*: bytes arrived and are being verified;
//! - *asked*: one peer or several, or the origin, or both, were asked and have not answered;
//! - *postponed*: it may still turn up on this machine;
//! - *missing*: none of these. It is *askable* while a peer that is not silent holds it.
//!
//! What nobody holds comes from the origin, fetched by the node that is elected for its group ([`crate::election`]).
//! A node that starts on a group says so (`Claim`), so that another, done with its own share, takes a different one; a
//! node that makes no progress with its claims is suspect, and no longer a member of the election: rank 2 takes over.
//!
//! Not here: what is served to others and how fast; sessions; verification.

mod decide;
mod origin;
mod peer;
mod picks;
mod share;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use roaring::RoaringBitmap;

use crate::election::{Election, group_of};
use crate::{Holdings, IndexId, NodeId, Position, Time, limits};
use origin::Origin;
use peer::Peer;
use picks::Picks;
use share::Share;

pub use origin::OriginAnswer;

/// Where bytes came from, or are to come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A neighbour.
    Peer(NodeId),
    /// The origin's stores.
    Origin,
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send `Want`.
    Ask(NodeId, Vec<Position>),
    /// Send `Cancel`.
    Cancel(NodeId, Vec<Position>),
    /// Fetch this chunk from the origin's stores; answer with [`Exchange::origin_answered`].
    AskOrigin(Position),
    /// Send `HaveMore` to everyone in the exchange.
    Announce(Holdings),
    /// Send `Claim` to everyone in the exchange.
    Claim(Vec<u32>),
    /// Send `Origin` to everyone in the exchange.
    TellOrigin(bool),
    /// End the session and do not accept that peer again.
    Ban(NodeId),
    /// Everything is held. Said once.
    Complete,
    /// Nothing can be got any more. Said once.
    GiveUp(GiveUp),
}

/// Why an exchange cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GiveUp {
    /// No store of the origin has these chunks, and no neighbour; the first few positions.
    Absent(Vec<Position>),
    /// The origin does not answer and no neighbour has what is missing; the number of positions.
    Unreachable(u64),
}

/// What the exchange is told once.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whether there is an origin at all.
    pub origin: bool,
    /// Bytes asked for or being verified at a time.
    pub budget: u64,
    /// How long the origin is left alone at first, so that neighbours can say what they hold.
    pub grace: Duration,
    /// How long nothing may come before the exchange gives up.
    pub patience: Duration,
    /// Origin requests in flight at most.
    pub origin_requests: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            origin: true,
            budget: 16 << 20,
            grace: Duration::from_millis(250),
            patience: Duration::from_secs(30),
            origin_requests: 64,
        }
    }
}

/// Counts for reports and simulations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Chunks that arrived although they were held already or being verified.
    pub duplicates: u64,
    /// Chunks that failed verification.
    pub corrupt: u64,
    /// Requests repeated elsewhere because the first was late.
    pub late: u64,
}

/// The decisions of one node about one index.
#[derive(Debug)]
pub struct Exchange {
    me: NodeId,
    config: Config,
    lengths: Arc<[u32]>,
    held: RoaringBitmap,
    missing: RoaringBitmap,
    askable: RoaringBitmap,
    postponed: RoaringBitmap,
    checking: BTreeMap<Position, u64>,
    asked: BTreeMap<Position, Asked>,
    peers: BTreeMap<NodeId, Peer>,
    available: Vec<u16>,
    picks: Picks,
    share: Share,
    origin: Origin,
    announce: RoaringBitmap,
    announced_at: Time,
    in_flight: u64,
    ratio: f64,
    progress_at: Time,
    decided_at: Time,
    finished: bool,
    out: VecDeque<Output>,
    stats: Stats,
}

/// Who was asked for a position.
#[derive(Debug, Default, Clone)]
struct Asked {
    peers: Vec<NodeId>,
    origin: Option<Time>,
    bytes: u64,
}

impl Exchange {
    /// Starts with the positions of `held` in place. `lengths` are the uncompressed bytes of each position's chunk.
    pub fn new(
        me: NodeId,
        index: &IndexId,
        lengths: Arc<[u32]>,
        held: RoaringBitmap,
        config: Config,
        now: Time,
    ) -> Self {
        let count = lengths.len() as u32;
        let mut missing = RoaringBitmap::new();
        missing.insert_range(0..count);
        missing -= &held;
        Self {
            me,
            origin: Origin::new(config.origin, config.origin_requests, now + config.grace),
            share: Share::new(me, Election::new(index), count, unshared(&lengths)),
            picks: Picks::new(Election::new(index), me),
            available: vec![0; count as usize],
            lengths,
            held,
            missing,
            askable: RoaringBitmap::new(),
            postponed: RoaringBitmap::new(),
            checking: BTreeMap::new(),
            asked: BTreeMap::new(),
            peers: BTreeMap::new(),
            announce: RoaringBitmap::new(),
            announced_at: now,
            in_flight: 0,
            ratio: 0.5,
            progress_at: now,
            decided_at: now,
            finished: false,
            out: VecDeque::new(),
            stats: Stats::default(),
            config,
        }
    }

    /// These may still turn up on this machine: they are not asked for until [`Exchange::want`] says so.
    pub fn postpone(&mut self, positions: &RoaringBitmap) {
        let positions = positions & &self.missing;
        self.missing -= &positions;
        self.askable -= &positions;
        self.postponed |= positions;
    }

    /// These did not turn up on this machine. Without effect for positions that are not postponed.
    pub fn want(&mut self, positions: impl IntoIterator<Item = Position>, now: Time) {
        for position in positions {
            if self.postponed.remove(position) {
                self.miss(position);
            }
        }
        self.progress_at = now;
    }

    /// Whether nothing is missing, asked or being checked. What is postponed does not count.
    pub fn settled(&self) -> bool {
        self.missing.is_empty() && self.asked.is_empty() && self.checking.is_empty()
    }

    /// A peer takes part. Its holdings are awaited before the origin is asked, for a moment.
    /// Of a peer that takes part already, only whether it downloads is updated.
    pub fn joined(&mut self, peer: NodeId, downloads: bool, now: Time) {
        if peer == self.me {
            return;
        }
        self.peers.entry(peer).or_insert_with(|| Peer::new(now)).downloads = downloads;
        self.share.changed();
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
        self.discount(&mut known);
        known.holdings.clear();
        known.answered = true;
        self.peers.insert(peer, known);
        self.have_more(peer, holdings, now);
        self.share.changed();
    }

    /// A peer said what it holds beyond what it said before.
    pub fn have_more(&mut self, peer: NodeId, holdings: &Holdings, now: Time) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let mut news = holdings.positions() - &known.holdings;
        news.remove_range(self.lengths.len() as u32..);
        known.spoke(now);
        if known.progressed(&news, now) && known.suspect {
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
            self.revive(peer);
        }
    }

    /// A peer started on these groups. Where both want the same, the higher score keeps it.
    pub fn claimed(&mut self, peer: NodeId, groups: &[u32], now: Time) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.spoke(now);
        for &group in groups {
            if !self.share.has_group(group) {
                continue;
            }
            known.claim(group, now);
            if known.suspect {
                known.suspect = false;
                self.share.changed();
            }
            self.share.yield_to(&peer, group);
        }
        if known.discounted {
            self.revive(peer);
        }
    }

    /// A peer said whether it reaches the origin.
    pub fn peer_origin(&mut self, peer: NodeId, reachable: bool) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.origin = reachable;
            if !reachable {
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
        self.peers.insert(peer, known);
    }

    /// Bytes came from a peer. `true`: verify them and call [`Exchange::stored`] or [`Exchange::corrupt`]. `false`: they
    /// are not needed, drop them.
    pub fn arrived(&mut self, position: Position, peer: NodeId, bytes: u64, now: Time) -> bool {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.arrived(position, bytes, now);
            if known.discounted {
                self.revive(peer);
            }
        }
        self.accept(position, Source::Peer(peer), bytes, now)
    }

    /// The origin answered a request made by [`Output::AskOrigin`]. The result is as for [`Exchange::arrived`].
    pub fn origin_answered(&mut self, position: Position, answer: OriginAnswer, now: Time) -> bool {
        let was_reachable = self.origin.reachable();
        let estimate = self.estimate(position);
        self.origin.answered(position, &answer, estimate, now);
        let accepted = match answer {
            OriginAnswer::Bytes { bytes, .. } => {
                let length = self.lengths.get(position as usize).copied().unwrap_or(0);
                if length > 0 {
                    self.ratio += (bytes as f64 / f64::from(length) - self.ratio) * 0.05;
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
            self.miss(position);
        }
        match from {
            Source::Peer(peer) => {
                self.left(peer, now);
                self.out.push_back(Output::Ban(peer));
            }
            Source::Origin => self.origin.gave_corrupt(position),
        }
    }

    /// The next thing to do; `None` until something happens or [`Exchange::poll_timeout`] is reached.
    pub fn poll(&mut self, now: Time) -> Option<Output> {
        if self.out.is_empty() {
            self.decide(now);
        }
        self.out.pop_front()
    }

    /// When to call [`Exchange::poll`] again at the latest, and which part wants it. `None` once complete.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        if !self.announce.is_empty() {
            return Some((self.announced_at + self.announce_interval(), "announce"));
        }
        if self.finished {
            return None;
        }
        let tick = self.decided_at + Duration::from_millis(50);
        match self.origin.opens_at() {
            Some(at) if at > self.decided_at && at < tick => Some((at, "origin")),
            _ => Some((tick, "lateness")),
        }
    }

    /// What this node holds.
    pub fn held(&self) -> &RoaringBitmap {
        &self.held
    }

    /// Whether every position is held.
    pub fn complete(&self) -> bool {
        self.held.len() == self.lengths.len() as u64
    }

    /// Whether this node believes that it can reach the origin.
    pub fn origin_reachable(&self) -> bool {
        self.origin.reachable()
    }

    /// Counts since the start.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Whether a peer that is not silent holds the position.
    pub fn available(&self, position: Position) -> bool {
        self.available.get(position as usize).is_some_and(|holders| *holders > 0)
    }

    /// Whether a peer takes part that still lacks chunks.
    pub fn needed(&self) -> bool {
        self.peers.values().any(|peer| peer.downloads && !peer.complete)
    }

    /// What the bytes of a chunk on the wire are expected to be.
    fn estimate(&self, position: Position) -> u64 {
        let length = self.lengths.get(position as usize).copied().unwrap_or(0);
        (f64::from(length) * self.ratio) as u64 + 64
    }

    fn accept(&mut self, position: Position, from: Source, bytes: u64, now: Time) -> bool {
        self.progress_at = now;
        let asked = self.asked.remove(&position);
        let unwanted = position as usize >= self.lengths.len()
            || self.held.contains(position)
            || self.checking.contains_key(&position)
            || (asked.is_none() && self.in_flight > self.config.budget);
        if unwanted {
            self.stats.duplicates += 1;
            return false;
        }
        if let Some(asked) = asked {
            self.in_flight = self.in_flight.saturating_sub(asked.bytes);
            for peer in asked.peers.iter().filter(|peer| Source::Peer(**peer) != from) {
                self.cancel(*peer, position);
            }
        }
        self.missing.remove(position);
        self.postponed.remove(position);
        self.askable.remove(position);
        self.checking.insert(position, bytes);
        self.in_flight += bytes;
        true
    }

    /// Takes back every request for a position that came another way.
    fn withdraw(&mut self, position: Position) {
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
            self.out.push_back(Output::Cancel(peer, vec![position]));
        }
    }

    /// One source will not answer for this position any more.
    fn unask(&mut self, position: Position, source: Source) {
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
    fn miss(&mut self, position: Position) {
        self.missing.insert(position);
        if self.available(position) {
            self.askable.insert(position);
        } else {
            self.share.changed();
        }
    }

    fn count(&mut self, news: &RoaringBitmap) {
        for position in news {
            let holders = &mut self.available[position as usize];
            *holders = holders.saturating_add(1);
            if *holders == 1 && self.missing.contains(position) {
                self.askable.insert(position);
            }
        }
    }

    fn uncount(&mut self, gone: &RoaringBitmap) {
        for position in gone {
            let holders = &mut self.available[position as usize];
            *holders = holders.saturating_sub(1);
            if *holders == 0 {
                self.askable.remove(position);
                self.share.changed();
            }
        }
    }

    /// What a peer holds no longer counts as available.
    fn discount(&mut self, peer: &mut Peer) {
        if !peer.discounted {
            peer.discounted = true;
            let holdings = std::mem::take(&mut peer.holdings);
            self.uncount(&holdings);
            peer.holdings = holdings;
        }
    }

    /// A peer that was silent speaks again.
    fn revive(&mut self, peer: NodeId) {
        if let Some(known) = self.peers.get_mut(&peer)
            && known.discounted
        {
            known.discounted = false;
            let holdings = known.holdings.clone();
            self.count(&holdings);
            self.share.changed();
        }
    }
}

/// The groups with a chunk that is too long to travel between peers: each node fetches these itself.
fn unshared(lengths: &[u32]) -> BTreeSet<u32> {
    let long = |(_, length): &(usize, &u32)| **length > limits::SHARED_CHUNK_BYTES;
    lengths.iter().enumerate().filter(long).map(|(position, _)| group_of(position as Position)).collect()
}
