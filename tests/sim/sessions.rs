//! What a machine makes of hearing of others: whom it dials, what it says first, and what ends a session.

use std::time::Duration;

use proto::message::{Join, PeerAddress};
use proto::neighbours::Step;
use proto::{Message, Time};

use super::events::Event;
use super::machine::number_of;
use super::network::INDEX;
use super::part::{Part, Post};

/// A session on which nothing is heard for so long is closed.
pub const DEAF: Duration = Duration::from_secs(20);
/// Discovery notices after this that a machine is gone which did not say so.
const LOST: Duration = Duration::from_secs(90);
/// The handshake of a session, beside four latencies.
const HANDSHAKE: Duration = Duration::from_millis(3);

impl Part {
    pub(super) fn learn(&mut self, at: usize, other: usize) {
        let peer = &self.who[other];
        let (id, zone, near) = (peer.id, peer.zone, peer.rack == self.who[at].rack);
        // As in the program: the node with the lower name dials at once, the other a moment later.
        let courtesy = if self.machines[at].id < id { Duration::ZERO } else { Duration::from_millis(200) };
        let now = self.now;
        let machine = &mut self.machines[at];
        machine.neighbours.learned(id, zone, courtesy, now);
        if let Some(exchange) = machine.exchange.as_mut().filter(|_| near) {
            exchange.heard_of(id, true, now);
        }
    }

    pub(super) fn lose(&mut self, at: usize, gone: usize) {
        let id = self.who[gone].id;
        let now = self.now;
        let machine = &mut self.machines[at];
        machine.neighbours.lost(&id);
        if let Some(exchange) = &mut machine.exchange {
            exchange.heard_of(id, false, now);
        }
    }

    pub(super) fn told_peers(&mut self, at: usize, peers: &[PeerAddress]) {
        let now = self.now;
        for peer in peers {
            self.machines[at].neighbours.learned(peer.node, peer.zone, Duration::from_millis(50), now);
        }
    }

    /// Does what the choice of neighbours wants done.
    pub(super) fn tend(&mut self, at: usize) {
        let now = self.now;
        if now < self.machines[at].neighbours.poll_timeout() || now < self.machines[at].spec.start {
            return;
        }
        while let Some(step) = self.machines[at].neighbours.poll(now) {
            match step {
                Step::Dial(id) => {
                    let peer = number_of(&id);
                    let wait = self.latency(at, peer) * 4 + HANDSHAKE;
                    self.posts.push(Post::Dial(now + wait, Event::Session(at as u32, peer as u32)));
                }
                Step::Drop(id) => self.end_session(at, number_of(&id), now, true),
            }
        }
        let machine = &mut self.machines[at];
        let bounded = machine.neighbours.bounded();
        if let Some(exchange) = &mut machine.exchange {
            exchange.set_bounded(bounded);
        }
    }

    /// Both ends of a session learn at about this time that it is over; it is closed on purpose, or broke.
    pub(super) fn end_session(&mut self, at: usize, peer: usize, when: Time, on_purpose: bool) {
        let Some(serial) = self.machines[at].sessions.get(&peer).map(|session| session.serial) else { return };
        let gone = !on_purpose;
        let later = when + self.latency(at, peer);
        self.push(when, Event::Closed { at: at as u32, peer: peer as u32, serial, gone });
        self.push_to(later, at, peer, Event::Closed { at: peer as u32, peer: at as u32, serial, gone });
    }

    pub(super) fn introduce(&mut self, at: usize, peer: usize) {
        let to = self.who[peer].id;
        let address = |number: usize| ([10, (number >> 16) as u8, (number >> 8) as u8, number as u8], 7749).into();
        let told = self.machines[at].neighbours.to_tell(&to).into_iter().map(|node| {
            let number = number_of(&node);
            PeerAddress { node, zone: self.who[number].zone, address: address(number) }
        });
        let peers: Vec<PeerAddress> = told.collect();
        if !peers.is_empty() {
            self.say(at, peer, Message::Peers { peers });
        }
        self.say(at, peer, Message::Join(Join { index: INDEX, downloads: true, has_index: true }));
        if let Some(holdings) = self.holdings_told(at) {
            self.say(at, peer, Message::Have { index: INDEX, holdings });
        }
        if self.machines[at].exchange.as_ref().is_some_and(|exchange| !exchange.origin_reachable()) {
            self.say(at, peer, Message::Origin { index: INDEX, reachable: false });
        }
        self.lie(at, peer);
    }

    pub(super) fn close(&mut self, at: usize, peer: usize, serial: u32, gone: bool) {
        let (id, now) = (self.who[peer].id, self.now);
        let machine = &mut self.machines[at];
        if machine.sessions.get(&peer).is_none_or(|session| session.serial != serial) {
            return;
        }
        machine.sessions.remove(&peer);
        machine.neighbours.closed(id, now);
        if let Some(watch) = &mut machine.watch {
            watch.asked.remove(&peer);
            watch.told.remove(&peer);
            watch.busy.remove(&peer);
        }
        if let Some(exchange) = &mut machine.exchange {
            if gone { exchange.left(id, now) } else { exchange.parted(id, now) }
        }
    }

    pub(super) fn vanish(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        machine.gone = true;
        machine.exchange = None;
        machine.watch = None;
        let silently = machine.spec.silently;
        let sessions = std::mem::take(&mut machine.sessions);
        for (peer, session) in sessions {
            let closed = Event::Closed { at: peer as u32, peer: at as u32, serial: session.serial, gone: true };
            let wait = if silently { DEAF } else { self.latency(at, peer) };
            self.push_to(self.now + wait, at, peer, closed);
        }
        let near = self.machines.iter().filter(|machine| !machine.gone).map(|machine| machine.number);
        let near: Vec<usize> = near.collect();
        for peer in near {
            self.push(self.now + LOST, Event::Lost(peer as u32, at as u32));
        }
    }

    /// Sessions with a machine that nobody heard of for long are over.
    pub(super) fn deafen(&mut self, at: usize) {
        let peers: Vec<usize> = self.machines[at].sessions.keys().copied().collect();
        let stopped = self.machines[at].stopped_until(self.now).is_some();
        for peer in peers {
            if stopped || self.blocked_until(at, peer).is_some() {
                self.end_session(at, peer, self.now, false);
            }
        }
    }

    /// Until when nothing gets from one machine to the other.
    pub(super) fn blocked_until(&self, a: usize, b: usize) -> Option<Time> {
        self.who[a].blocked_until(&self.who[b], self.now)
    }
}
