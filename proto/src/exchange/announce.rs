//! When what this node holds is said to whom: soon what nobody near holds yet, and the rest in lots so large that saying
//! it costs little beside the chunks themselves.

use std::time::Duration;

use super::peer::Peer;
use super::{Exchange, Output};
use crate::{Holdings, Message, NodeId, Position, Time};

/// Between two announcements, at least; with many peers more, so that announcing costs the same.
const LEAST: Duration = Duration::from_millis(50);
const LEAST_PER_PEER: Duration = Duration::from_micros(500);
/// What is not urgent is announced after this, however little it is: to the own zone, to others.
const MOST: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(2500)];
/// So many positions are announced at once, whatever the time.
const POSITIONS: usize = 64;
/// Bytes of one announcement to one peer, with what carries it.
const COST: u64 = 150;
/// Announcements to the own zone should cost no more than this share of the chunks they are about; where not everybody
/// knows everybody, less.
const NEAR_SHARE: f64 = 0.0075;
const BOUNDED_SHARE: f64 = 0.004;
/// Announcements to others cross two racks' uplinks, as do those of all nodes of the own zone: together this share.
const FAR_SHARE: f64 = 0.012;
const MOST_FAR_SHARE: f64 = 0.0035;

/// What is to be announced to peers of one kind.
#[derive(Debug)]
pub(super) struct Audience {
    /// Each once.
    pending: Vec<Position>,
    bytes: u64,
    /// None of them holds one of these yet, as far as is known.
    urgent: bool,
    told_at: Time,
}

impl Audience {
    pub(super) fn new(now: Time) -> Self {
        Self { pending: Vec::new(), bytes: 0, urgent: false, told_at: now }
    }

    /// When it is time for what is pending, with so many peers to be told.
    fn due(&self, peers: usize, share: f64, most: Duration) -> Time {
        let least = LEAST + LEAST_PER_PEER * peers as u32;
        let enough = self.bytes as f64 * share >= (peers as u64 * COST) as f64;
        let wait = if self.urgent || enough { least } else { most.max(least) };
        if self.pending.len() >= POSITIONS && enough { Time::ZERO } else { self.told_at + wait }
    }
}

impl Exchange {
    /// A chunk is in place that others may want.
    pub(super) fn note_for_others(&mut self, position: Position) {
        let bytes = self.estimate(position);
        let urgent = !self.near(position);
        for (audience, near) in self.audiences.iter_mut().zip([true, false]) {
            audience.pending.push(position);
            audience.bytes += bytes;
            audience.urgent |= urgent && near;
        }
    }

    fn listeners(&self, near: bool) -> impl Iterator<Item = NodeId> + '_ {
        self.peers.iter().filter(move |(_, peer)| peer.near == near && !peer.complete).map(|(id, _)| *id)
    }

    /// When the next announcement is due.
    pub(super) fn announce_due(&self) -> Option<Time> {
        [0, 1].into_iter().filter_map(|at| self.due(at)).min()
    }

    fn due(&self, at: usize) -> Option<Time> {
        if self.audiences[at].pending.is_empty() {
            return None;
        }
        let share = match (at, self.bounded) {
            (0, false) => NEAR_SHARE,
            (0, true) => BOUNDED_SHARE,
            _ => (FAR_SHARE / (1 + self.roster.nodes()) as f64).min(MOST_FAR_SHARE),
        };
        Some(self.audiences[at].due(self.listening[at], share, MOST[at]))
    }

    /// Counts the peers, and those of them that are to be told what is new here.
    pub(super) fn count_peers(&mut self) {
        let peers = self.peers.len();
        self.peers.iter_mut().for_each(|(_, peer)| peer.one_of(peers));
        self.listening = [true, false].map(|near| self.listeners(near).count());
    }

    pub(super) fn announce(&mut self, now: Time) {
        for at in [0, 1] {
            let due = self.due(at).is_some_and(|due| now >= due);
            // The last few do not wait for more.
            let last = self.complete() && !self.audiences[at].pending.is_empty();
            if !due && !last {
                continue;
            }
            let mut to = Vec::with_capacity(self.peers.len());
            to.extend(self.listeners(at == 0));
            let audience = &mut self.audiences[at];
            audience.told_at = now;
            audience.urgent = false;
            audience.bytes = 0;
            let mut news = std::mem::take(&mut audience.pending);
            if !to.is_empty() {
                news.sort_unstable();
                if at == 1 {
                    self.announce_abroad(to, &news);
                    continue;
                }
                let started = if self.bounded { self.roster.started_news() } else { Vec::new() };
                self.out.push_back(Output::Announce(to, news.into_iter().collect(), started));
            }
        }
    }

    /// Says all that this node holds, which is everything, to those that need no news of it: they learn that this node needs
    /// nothing either; and to those that wanted to hear of some only.
    pub(super) fn tell_of_all(&mut self) {
        let unaware = |peer: &Peer| peer.complete || peer.interest.is_some();
        let to: Vec<NodeId> = self.peers.iter().filter(|(_, peer)| unaware(peer)).map(|(id, _)| *id).collect();
        if !to.is_empty() {
            let holdings = Holdings::from(self.held.clone());
            self.out.push_back(Output::Tell(to, Message::Have { index: self.index, holdings }));
        }
    }
}
