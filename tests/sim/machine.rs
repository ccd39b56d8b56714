//! One machine of the simulation: its links, what it serves, and the exchange that decides for it, or the lie it lives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use proto::exchange::{Config, Exchange};
use proto::{NodeId, Position, Time};
use roaring::RoaringBitmap;

/// A machine as the scenario describes it.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Bytes a second that leave it.
    pub up: f64,
    /// Bytes a second that reach it.
    pub down: f64,
    /// When it starts.
    pub start: Time,
    /// What it has from the start.
    pub held: RoaringBitmap,
    /// How it behaves.
    pub kind: Kind,
    /// Whether it reaches the origin, and whether it has one at all.
    pub origin: bool,
    /// Whether it reaches its neighbours.
    pub lan: bool,
    /// It stands still between these moments, with its sessions open (`SIGSTOP`, `SIGCONT`).
    pub stopped: Option<(Time, Time)>,
    /// Its sessions end at this moment, for good.
    pub vanishes: Option<Time>,
}

/// How a machine behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Honest,
    /// Says that it holds everything, and answers nothing.
    Silent,
    /// Says that it holds everything, and has nothing of it.
    Denying,
    /// Says that it holds everything, and sends other bytes.
    Garbage,
    /// Says that it fetches everything from the origin, and fetches nothing.
    Claiming,
    /// Says that it holds everything, answers nothing, and goes on talking.
    Talking,
    /// Says that it holds everything, and answers every request with the first chunk.
    Repeating,
    /// Says that it holds everything, and is always too busy.
    Busy,
    /// Joins, does not say what it holds, leaves, and comes back.
    Restless,
}

impl Spec {
    pub fn new(up: f64, down: f64) -> Self {
        Self {
            up,
            down,
            start: Duration::ZERO,
            held: RoaringBitmap::new(),
            kind: Kind::Honest,
            origin: true,
            lan: true,
            stopped: None,
            vanishes: None,
        }
    }

    /// Whether it has to be complete in the end.
    pub fn has_to_finish(&self) -> bool {
        self.kind == Kind::Honest && self.vanishes.is_none() && self.stopped.is_none_or(|(_, to)| to < Time::MAX)
    }
}

/// A machine as it runs.
#[derive(Debug)]
pub struct Machine {
    pub spec: Spec,
    pub id: NodeId,
    pub exchange: Option<Exchange>,
    pub gone: bool,
    pub finished: Option<Time>,
    pub timer: Option<Time>,
    /// Open sessions.
    pub open: BTreeSet<usize>,
    pub banned: BTreeSet<usize>,
    /// What each peer said that it holds, as far as it is known here.
    pub told: BTreeMap<usize, RoaringBitmap>,
    /// What was asked of each peer, neither answered nor cancelled.
    pub asked: BTreeMap<usize, BTreeMap<Position, Time>>,
    pub origin_asked: BTreeSet<Position>,
    /// Until when each peer said that it is too busy.
    pub busy: BTreeMap<usize, Time>,
    pub announced: RoaringBitmap,
    /// What is to be sent to whom.
    pub queues: BTreeMap<usize, VecDeque<Position>>,
    pub served_last: usize,
    pub sending: bool,
    /// When the last byte so far on its way here is in.
    pub down_free: Time,
    pub sent: u64,
}

impl Machine {
    pub fn new(number: usize, spec: Spec) -> Self {
        Self {
            id: node_id(number),
            exchange: None,
            gone: false,
            finished: None,
            timer: None,
            open: BTreeSet::new(),
            banned: BTreeSet::new(),
            told: BTreeMap::new(),
            asked: BTreeMap::new(),
            origin_asked: BTreeSet::new(),
            busy: BTreeMap::new(),
            announced: spec.held.clone(),
            queues: BTreeMap::new(),
            served_last: 0,
            sending: false,
            down_free: Duration::ZERO,
            sent: 0,
            spec,
        }
    }

    /// Until when it stands still.
    pub fn stopped_until(&self, now: Time) -> Option<Time> {
        self.spec.stopped.filter(|(from, to)| now >= *from && now < *to).map(|(_, to)| to)
    }

    /// The next chunk to send: peers take turns, as their TCP connections would.
    pub fn next_to_send(&mut self) -> Option<(usize, Position)> {
        let after = self.queues.range(self.served_last + 1..).find(|(_, queue)| !queue.is_empty());
        let turn = after.or_else(|| self.queues.iter().find(|(_, queue)| !queue.is_empty()));
        let peer = *turn?.0;
        self.served_last = peer;
        let position = self.queues.get_mut(&peer)?.pop_front()?;
        Some((peer, position))
    }

    /// What its exchange is told.
    pub fn config(&self) -> Config {
        Config { origin: true, patience: Duration::from_secs(120), ..Config::default() }
    }
}

/// The name of the machine with this number: spread over the whole range, as keys are.
pub fn node_id(number: usize) -> NodeId {
    let mut rng = super::rng::Rng::new(number as u64 + 1);
    let mut id = [0; 32];
    for part in id.chunks_mut(8) {
        part.copy_from_slice(&rng.next().to_le_bytes());
    }
    NodeId(id)
}
