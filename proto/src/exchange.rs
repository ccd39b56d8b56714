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
//! What nobody holds comes from the origin, fetched by the node that is elected for its group ([`crate::election`]). What
//! only other zones hold is asked of them by the node that the own zone elected for it; the others wait for that one.
//! A node that starts on a group says so (`Claim`), so that another, done with its own share, takes a different one; a
//! node that makes no progress with its claims is suspect, and no longer a member of the election: rank 2 takes over.
//!
//! Not here: what is served to others and how fast; sessions; verification.

mod announce;
mod best;
mod book;
mod crossing;
mod decide;
mod hearsay;
mod inputs;
mod interest;
mod late;
mod origin;
mod peer;
mod picks;
mod roster;
mod share;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use roaring::RoaringBitmap;

use crate::bits::Bits;
use crate::election::{Election, GROUP, group_of};
use crate::sorted::Sorted;
use crate::{Holdings, IndexId, Message, NodeId, Position, Time, ZoneId, limits};
use announce::Audience;
use crossing::Crossing;
use hearsay::Sight;
use interest::Interest;
use origin::Origin;
use peer::Peer;
use picks::Picks;
use roster::Roster;
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
    /// Send `HaveMore` to these, with groups that were heard to be started.
    Announce(Vec<NodeId>, Holdings, Vec<u32>),
    /// Send `Claim`, of what comes from the origin, to everyone in the exchange.
    Claim(Vec<u32>),
    /// Send `Origin` to everyone in the exchange.
    TellOrigin(bool),
    /// Send this to these.
    Tell(Vec<NodeId>, Message),
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
    /// The zone of this node.
    pub zone: ZoneId,
    /// Whether there is an origin at all.
    pub origin: bool,
    /// Bytes asked for or being verified at a time.
    pub budget: u64,
    /// Of these, bytes that peers owe, whatever the number of peers.
    pub peers_budget: u64,
    /// How long the origin is left alone at first, so that neighbours can say what they hold.
    pub grace: Duration,
    /// How long nothing may come before the exchange gives up.
    pub patience: Duration,
    /// How long a chunk that the origin does not have may turn up at a neighbour.
    pub absent_patience: Duration,
    /// Origin requests in flight at most.
    pub origin_requests: usize,
    /// Whether the beginning is wanted first, because somebody reads the image as it grows. It costs some of the variety
    /// that neighbours trade.
    pub in_order: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            zone: ZoneId::default(),
            origin: true,
            budget: 8 << 20,
            peers_budget: u64::MAX,
            grace: Duration::from_millis(250),
            patience: Duration::from_secs(30),
            absent_patience: Duration::from_secs(5),
            origin_requests: 64,
            in_order: false,
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
    index: IndexId,
    config: Config,
    lengths: Arc<[u32]>,
    held: RoaringBitmap,
    missing: Bits,
    askable: Bits,
    /// Of what is missing, what no peer holds.
    nowhere: Bits,
    crossing: Crossing,
    postponed: RoaringBitmap,
    /// Bytes of what is being verified, and since when.
    checking: Sorted<Position, (u64, Time)>,
    asked: BTreeMap<Position, Asked>,
    peers: Sorted<NodeId, Peer>,
    /// How many peers of the own zone hold each position, and how many of others; empty while there are none of these.
    available: Vec<u16>,
    abroad: Vec<u16>,
    picks: Picks,
    share: Share,
    origin: Origin,
    /// What is to be announced to the own zone, and to others.
    audiences: [Audience; 2],
    listening: [usize; 2],
    /// What neighbours in other zones were asked to say.
    interest: Interest,
    roster: Roster,
    sight: Sight,
    /// There are nodes with which this one has no session.
    bounded: bool,
    /// Nobody who has room holds anything askable, nothing more is to be started on, as of the last look: until something
    /// changes these need not be worked out again.
    out_of_reach: bool,
    nothing_to_start: bool,
    /// Something happened since nothing was left to do.
    changed: bool,
    /// When the next peer is no longer busy.
    busy_until: Option<Time>,
    in_flight: u64,
    ratio: f64,
    progress_at: Time,
    decided_at: Time,
    looked_at: Time,
    polled_at: Time,
    /// How long the origin was left alone for newcomers, in all.
    waited: Duration,
    /// Since when one of them is waited for.
    waiting_since: Option<Time>,
    banned: BTreeSet<NodeId>,
    /// Empty between calls: kept for its memory.
    news: Vec<(u32, u64)>,
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
        let mut missing = Bits::full(count);
        for position in &held {
            missing.remove(position);
        }
        Self {
            me,
            index: *index,
            origin: Origin::new(config.origin, config.origin_requests, now + config.grace),
            share: Share::new(
                me,
                config.zone,
                Election::new(index),
                count.div_ceil(GROUP),
                unshared(&lengths),
                config.in_order,
            ),
            crossing: Crossing::new(me, Election::new(index), count.div_ceil(GROUP)),
            interest: Interest::default(),
            roster: Roster::new(config.zone, now),
            sight: Sight::new(now + config.grace),
            bounded: false,
            out_of_reach: false,
            nothing_to_start: false,
            busy_until: None,
            picks: Picks::new(Election::new(index), me, config.in_order),
            available: vec![0; count as usize],
            abroad: Vec::new(),
            lengths,
            held,
            nowhere: missing.clone(),
            missing,
            askable: Bits::new(count),
            postponed: RoaringBitmap::new(),
            checking: Sorted::new(),
            asked: BTreeMap::new(),
            peers: Sorted::new(),
            audiences: [Audience::new(now), Audience::new(now)],
            listening: [0; 2],
            changed: true,
            in_flight: 0,
            ratio: 0.5,
            progress_at: now,
            decided_at: now,
            looked_at: now,
            polled_at: now,
            waited: Duration::ZERO,
            waiting_since: None,
            banned: BTreeSet::new(),
            news: Vec::new(),
            finished: false,
            out: VecDeque::new(),
            stats: Stats::default(),
            config,
        }
    }

    /// These may still turn up on this machine: they are not asked for until [`Exchange::want`] says so.
    pub fn postpone(&mut self, positions: &RoaringBitmap) {
        let positions: RoaringBitmap = positions.iter().filter(|position| self.missing.contains(*position)).collect();
        self.changed = true;
        positions.iter().for_each(|position| self.not_missing(position));
        self.postponed |= positions;
    }

    /// These did not turn up on this machine. Without effect for positions that are not postponed.
    pub fn want(&mut self, positions: impl IntoIterator<Item = Position>, now: Time) {
        self.changed = true;
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

    /// The next thing to do; `None` until something happens or [`Exchange::poll_timeout`] is reached.
    pub fn poll(&mut self, now: Time) -> Option<Output> {
        if self.out.is_empty() && (self.changed || self.poll_timeout().is_some_and(|(due, _)| now >= due)) {
            self.polled_at = now;
            self.decide(now);
            self.changed = !self.out.is_empty();
        }
        self.polled_at = now;
        self.out.pop_front()
    }

    /// When to call [`Exchange::poll`] again at the latest, and which part wants it. `None` once complete.
    pub fn poll_timeout(&self) -> Option<(Time, &'static str)> {
        let announce = self.announce_due().map(|at| (at, "announce"));
        let look = (!self.finished).then(|| (self.decided_at + decide::LOOK, "lateness"));
        let opens = self.origin.opens_at().filter(|at| !self.finished && *at > self.polled_at).map(|at| (at, "origin"));
        let busy = self.busy_until.filter(|_| !self.finished).map(|at| (at, "busy"));
        [announce, look, opens, busy].into_iter().flatten().min()
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
        self.near(position) || self.far(position)
    }

    fn near(&self, position: Position) -> bool {
        self.available.get(position as usize).is_some_and(|holders| *holders > 0)
    }

    fn far(&self, position: Position) -> bool {
        self.abroad.get(position as usize).is_some_and(|holders| *holders > 0)
    }

    /// Whether there are nodes with which this one has no session, on purpose: then neighbours are told what is known of
    /// others, and what these do is left to them for longer.
    pub fn set_bounded(&mut self, bounded: bool) {
        if self.bounded != bounded {
            self.bounded = bounded;
            self.crossing.set_bounded(bounded);
            let peers: Vec<(NodeId, bool)> = self.peers.iter().map(|(id, peer)| (*id, peer.near)).collect();
            peers.into_iter().filter(|_| bounded).for_each(|(id, near)| self.introduce(id, near));
        }
    }

    /// Whether a peer takes part that still lacks chunks.
    pub fn needed(&self) -> bool {
        self.peers.values().any(|peer| peer.downloads && !peer.complete)
    }
}

/// The groups with a chunk that is too long to travel between peers: each node fetches these itself.
fn unshared(lengths: &[u32]) -> BTreeSet<u32> {
    let long = |(_, length): &(usize, &u32)| **length > limits::SHARED_CHUNK_BYTES;
    lengths.iter().enumerate().filter(long).map(|(position, _)| group_of(position as Position)).collect()
}

#[cfg(test)]
mod tests;
