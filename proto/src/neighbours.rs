//! With whom a node has sessions: with everyone while that is a few tens, else with a bounded set, most of it in the
//! node's own zone and some outside, that stays connected as a graph while nodes come and go.
//!
//! Each node prefers others in an order of its own. It dials until it has the least number of neighbours and accepts up
//! to the most, so that the graph is a random one of at least that degree, and every neighbour lost is replaced.
//!
//! Not here: addresses, the pace of dials, what is told on a session.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use siphasher::sip::SipHasher13;

use crate::limits::PEERS;
use crate::{NodeId, Time, ZoneId};

/// Who knows so many nodes at most has a session with each.
pub const MESH: usize = 64;
/// Neighbours of the own zone in a larger network: dialled up to the least, accepted up to the most.
const LEAST_NEAR: usize = 12;
const MOST_NEAR: usize = 18;
/// Neighbours outside of the own zone; more where the own zone is small. As many again are accepted as are dialled, or
/// who comes late finds everyone full.
const LEAST_FAR: usize = 4;
/// Neighbours of both kinds together.
const LEAST: usize = 16;
const MOST: usize = 26;
/// Nodes that are known at a time, of the own zone and outside.
const KNOWN_NEAR: usize = 4096;
const KNOWN_FAR: usize = 512;
/// Dials under way.
const DIALLING: usize = 16;
/// A node that was not reached, or did not want another neighbour, is tried again after this, then twice as long.
const RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// A node that was not reached so often in a row is forgotten.
const TRIES: u32 = 12;
/// A session that lasted no longer was refused.
const SHORT: Duration = Duration::from_secs(5);
/// Between two looks when nothing happens, and between two goodbyes to those that are too many.
const LOOK: Duration = Duration::from_millis(250);

/// What a session is closed with that is one too many: its node is not gone.
pub const ENOUGH: &str = "enough neighbours";

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Open a session; answer with [`Neighbours::opened`] or [`Neighbours::failed`].
    Dial(NodeId),
    /// Close the session, with [`ENOUGH`] as the reason.
    Drop(NodeId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Dialling,
    Open,
}

#[derive(Debug)]
struct Known {
    near: bool,
    order: u64,
    state: State,
    next: Time,
    tries: u32,
    opened_at: Time,
}

/// The choice of one node's neighbours.
#[derive(Debug)]
pub struct Neighbours {
    me: NodeId,
    zone: ZoneId,
    hash: SipHasher13,
    known: BTreeMap<NodeId, Known>,
    /// Nodes that are not connected, in the order in which they are preferred, of the own zone and outside.
    idle: [BTreeSet<(u64, NodeId)>; 2],
    open: [BTreeSet<(u64, NodeId)>; 2],
    dialling: [usize; 2],
    /// Nothing to do before this, unless something happens.
    next: Time,
    dropped_at: Time,
}

impl Neighbours {
    /// Knows nobody yet. `seed` makes the order of preference; it should be random.
    pub fn new(me: NodeId, zone: ZoneId, seed: u64) -> Self {
        Self {
            me,
            zone,
            hash: SipHasher13::new_with_keys(seed, 0),
            known: BTreeMap::new(),
            idle: Default::default(),
            open: Default::default(),
            dialling: [0; 2],
            next: Time::ZERO,
            dropped_at: Time::ZERO,
        }
    }

    /// There is such a node, and it can be dialled after `courtesy`. Without effect for one that is known. `false`: too
    /// many are known.
    pub fn learned(&mut self, node: NodeId, zone: ZoneId, courtesy: Duration, now: Time) -> bool {
        if node == self.me {
            return false;
        }
        if let Some(known) = self.known.get_mut(&node) {
            if known.tries == 0 && now + courtesy < known.next {
                known.next = now + courtesy;
                self.next = Time::ZERO;
            }
            return true;
        }
        let near = zone == self.zone;
        let of_this_kind = self.idle[usize::from(near)].len() + self.open[usize::from(near)].len();
        if of_this_kind >= if near { KNOWN_NEAR } else { KNOWN_FAR } {
            return false;
        }
        let order = self.hash.hash(&node.0);
        let known = Known { near, order, state: State::Idle, next: now + courtesy, tries: 0, opened_at: now };
        self.known.insert(node, known);
        self.idle[usize::from(near)].insert((order, node));
        self.next = Time::ZERO;
        true
    }

    /// A node can be dialled at another place than before, after `courtesy`: what was tried says nothing of that.
    pub fn moved(&mut self, node: &NodeId, courtesy: Duration, now: Time) {
        if let Some(known) = self.known.get_mut(node) {
            known.tries = 0;
            known.next = known.next.min(now + courtesy);
            self.next = Time::ZERO;
        }
    }

    /// A node is gone, as discovery says. Without effect while there is a session.
    pub fn lost(&mut self, node: &NodeId) {
        if self.known.get(node).is_some_and(|known| known.state == State::Idle) {
            self.forget(node);
        }
    }

    /// Whether a session that the other side opened is welcome.
    pub fn accepts(&self, node: &NodeId, zone: ZoneId) -> bool {
        if self.known.get(node).is_some_and(|known| known.state == State::Open) {
            return true;
        }
        let near = zone == self.zone;
        let (_, most) = self.wanted(near);
        // Who has too many from the time when all knew all takes one more and lets another go.
        let open = self.open[usize::from(near)].len();
        open != most
    }

    /// There is a session.
    pub fn opened(&mut self, node: NodeId, zone: ZoneId, now: Time) {
        self.learned(node, zone, Duration::ZERO, now);
        let near = zone == self.zone;
        if let Some(known) = self.known.get(&node)
            && known.near != near
        {
            self.forget(&node);
            self.learned(node, zone, Duration::ZERO, now);
        }
        if let Some(known) = self.known.get_mut(&node) {
            known.opened_at = now;
            self.move_to(node, State::Open);
        }
        self.next = Time::ZERO;
    }

    /// A dial did not lead to a session. `refused`: the node is there and has enough neighbours.
    pub fn failed(&mut self, node: NodeId, refused: bool, now: Time) {
        let Some(known) = self.known.get_mut(&node).filter(|known| known.state == State::Dialling) else { return };
        known.tries += 1;
        known.next = now + (RETRY * (1 << (known.tries - 1).min(6))).min(LAST_RETRY);
        let forget = known.tries >= TRIES && !refused;
        self.move_to(node, State::Idle);
        if forget {
            self.forget(&node);
        }
        self.next = Time::ZERO;
    }

    /// A session ended. It is dialled again in its turn; one that ended at once was not wanted.
    pub fn closed(&mut self, node: NodeId, now: Time) {
        if let Some(known) = self.known.get_mut(&node).filter(|known| known.state == State::Open) {
            known.tries = if now < known.opened_at + SHORT { known.tries + 1 } else { 1 };
            known.next = now + (RETRY * (1 << (known.tries - 1).min(6))).min(LAST_RETRY);
            self.move_to(node, State::Idle);
            self.next = Time::ZERO;
        }
    }

    /// Whether there are more nodes than this one has sessions with, on purpose.
    pub fn bounded(&self) -> bool {
        self.known.len() > MESH
    }

    /// Whom a new neighbour is told of: some of each kind, so that it finds its own from there.
    pub fn to_tell(&self, to: &NodeId) -> Vec<NodeId> {
        let each = if self.bounded() { PEERS / 8 } else { PEERS / 2 };
        let of = |kind: usize| self.open[kind].iter().filter(|(_, node)| node != to).take(each).map(|(_, node)| *node);
        of(1).chain(of(0)).collect()
    }

    /// Whether the node is known, and not forgotten since.
    pub fn knows(&self, node: &NodeId) -> bool {
        self.known.contains_key(node)
    }

    /// How many nodes are known.
    pub fn known(&self) -> usize {
        self.known.len()
    }

    /// The next thing to do; `None` until something happens or [`Neighbours::poll_timeout`] is reached.
    pub fn poll(&mut self, now: Time) -> Option<Step> {
        if now < self.next {
            return None;
        }
        let mut next = now + LOOK;
        for near in [true, false] {
            let (least, most) = self.wanted(near);
            let kind = usize::from(near);
            let (open, dialling) = (self.open[kind].len(), self.dialling[kind]);
            if open + dialling < least && self.dialling[0] + self.dialling[1] < DIALLING {
                let waits = |(_, node): &(u64, NodeId)| Some((*node, self.known.get(node)?.next));
                let waiting = self.idle[kind].iter().filter_map(waits);
                if let Some((node, _)) = waiting.clone().find(|(_, at)| *at <= now) {
                    self.move_to(node, State::Dialling);
                    return Some(Step::Dial(node));
                }
                next = waiting.fold(next, |next, (_, at)| next.min(at));
            }
            if open > most && now >= self.dropped_at + LOOK {
                self.dropped_at = now;
                if let Some((_, node)) = self.open[kind].last().copied() {
                    return Some(Step::Drop(node));
                }
            }
        }
        self.next = next;
        None
    }

    /// When to poll again at the latest.
    pub fn poll_timeout(&self) -> Time {
        self.next
    }

    /// Sessions at least and at most, of one kind.
    fn wanted(&self, near: bool) -> (usize, usize) {
        if !self.bounded() {
            return (MESH, MESH);
        }
        let known_near = self.idle[1].len() + self.open[1].len();
        if near {
            return if known_near <= MOST_NEAR { (MOST_NEAR, MOST_NEAR) } else { (LEAST_NEAR, MOST_NEAR) };
        }
        let least = LEAST_FAR.max(LEAST.saturating_sub(known_near));
        (least, MOST - MOST_NEAR.min(known_near))
    }

    fn move_to(&mut self, node: NodeId, state: State) {
        let Some(known) = self.known.get_mut(&node) else { return };
        let kind = usize::from(known.near);
        let key = (known.order, node);
        match known.state {
            State::Idle => drop(self.idle[kind].remove(&key)),
            State::Dialling => self.dialling[kind] -= 1,
            State::Open => drop(self.open[kind].remove(&key)),
        }
        known.state = state;
        match state {
            State::Idle => drop(self.idle[kind].insert(key)),
            State::Dialling => self.dialling[kind] += 1,
            State::Open => drop(self.open[kind].insert(key)),
        }
    }

    fn forget(&mut self, node: &NodeId) {
        self.move_to(*node, State::Idle);
        if let Some(known) = self.known.remove(node) {
            self.idle[usize::from(known.near)].remove(&(known.order, *node));
        }
    }
}

#[cfg(test)]
mod tests;
