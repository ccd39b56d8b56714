//! Who hears of whom, who has a session with whom and when it ends, and machines that come and go.

use std::time::Duration;

use proto::message::{Join, PeerAddress};
use proto::neighbours::Step;
use proto::{Message, Time};
use roaring::RoaringBitmap;

use super::events::Event;
use super::machine::{Cut, Session};
use super::network::{INDEX, Network};

/// A session on which nothing is heard for so long is closed.
pub const DEAF: Duration = Duration::from_secs(20);
/// Discovery notices after this that a machine is gone which did not say so.
const LOST: Duration = Duration::from_secs(90);
/// A dial to where nobody answers takes so long.
const NO_ANSWER: Duration = Duration::from_secs(2);
/// The handshake of a session, beside four latencies.
const HANDSHAKE: Duration = Duration::from_millis(3);

impl Network {
    /// Machines of a rack hear of each other, all of them; of other racks each finds some.
    pub(super) fn discover(&mut self) {
        let mut racks = vec![Vec::new(); self.setup.racks.len()];
        for (number, machine) in self.machines.iter().enumerate().filter(|(_, machine)| machine.spec.lan) {
            racks[machine.spec.rack].push(number);
        }
        for rack in &racks {
            for (at, number) in rack.iter().enumerate() {
                for other in &rack[..at] {
                    self.will_learn(*number, *other);
                }
            }
        }
        if racks.iter().filter(|rack| !rack.is_empty()).count() > 1 {
            (0..self.machines.len())
                .filter(|at| self.machines[*at].spec.lan)
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|number| self.find_others(number));
        }
    }

    fn find_others(&mut self, number: usize) {
        let rack = self.machines[number].spec.rack;
        let mut tries = 0;
        let mut found = std::collections::BTreeSet::new();
        while found.len() < self.setup.found && tries < 4 * self.setup.found.max(self.machines.len().min(64)) {
            tries += 1;
            let other = (self.rng.next() % self.machines.len() as u64) as usize;
            let machine = &self.machines[other];
            if machine.spec.lan && machine.spec.rack != rack && !machine.gone && found.insert(other) {
                self.will_learn(number, other);
            }
        }
    }

    fn will_learn(&mut self, one: usize, other: usize) {
        let wait = self.rng.between(self.setup.discovery.0, self.setup.discovery.1);
        let both = self.machines[one].spec.start.max(self.machines[other].spec.start).max(self.now);
        self.push(both + wait, Event::Learn(one as u32, other as u32));
        self.push(both + wait, Event::Learn(other as u32, one as u32));
    }

    pub(super) fn learn(&mut self, at: usize, other: usize) {
        let peer = &self.machines[other];
        let (id, zone, near) = (peer.id, peer.zone, peer.spec.rack == self.machines[at].spec.rack);
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
        let id = self.machines[gone].id;
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
                    let peer = super::machine::number_of(&id);
                    let wait = self.latency(at, peer) * 4 + HANDSHAKE;
                    self.push(now + wait, Event::Session(at as u32, peer as u32));
                }
                Step::Drop(id) => self.end_session(at, super::machine::number_of(&id), now, true),
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
        self.push(later, Event::Closed { at: peer as u32, peer: at as u32, serial, gone });
    }

    /// One machine dialled another: both ends say what they hold, if there is a session now.
    pub(super) fn open(&mut self, a: usize, b: usize) {
        let now = self.now;
        let (ids, zones) =
            ([a, b].map(|at| self.machines[at].id), [a, b].map(|at| self.machines[at].zone));
        if self.machines[a].sessions.contains_key(&b) {
            self.machines[a].neighbours.opened(ids[1], zones[1], now);
            return;
        }
        let still = |at: usize| self.machines[at].stopped_until(now).is_some() || now < self.machines[at].spec.start;
        let unreachable = self.machines[b].gone || still(b) || self.blocked_until(a, b).is_some();
        let banned = self.machines[a].banned.contains(&b) || self.machines[b].banned.contains(&a);
        if unreachable || banned || !self.machines[b].neighbours.accepts(&ids[0], zones[0]) {
            let wait = if unreachable { NO_ANSWER } else { Duration::ZERO };
            self.machines[a].neighbours.failed(ids[1], !unreachable, now + wait);
            return;
        }
        self.serial += 1;
        let serial = self.serial;
        for (at, peer) in [(a, b), (b, a)] {
            self.machines[at].sessions.insert(peer, Session { serial, ..Session::default() });
            if let Some(watch) = &mut self.machines[at].watch {
                watch.told.insert(peer, RoaringBitmap::new());
            }
        }
        self.machines[a].neighbours.opened(ids[1], zones[1], now);
        self.machines[b].neighbours.opened(ids[0], zones[0], now);
        for (at, peer) in [(a, b), (b, a)] {
            self.introduce(at, peer);
        }
        self.drain(b);
    }

    fn introduce(&mut self, at: usize, peer: usize) {
        let to = self.machines[peer].id;
        let address = |number: usize| ([10, (number >> 16) as u8, (number >> 8) as u8, number as u8], 7749).into();
        let told = self.machines[at].neighbours.to_tell(&to).into_iter().map(|node| {
            let number = super::machine::number_of(&node);
            PeerAddress { node, zone: self.machines[number].zone, address: address(number) }
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
        let (id, now) = (self.machines[peer].id, self.now);
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
        let wait = if machine.spec.silently { DEAF } else { self.setup.latency };
        let sessions = std::mem::take(&mut machine.sessions);
        for (peer, session) in sessions {
            let closed = Event::Closed { at: peer as u32, peer: at as u32, serial: session.serial, gone: true };
            self.push(self.now + wait, closed);
        }
        let rack = self.machines[at].spec.rack;
        let near = |(_, machine): &(usize, &super::machine::Machine)| machine.spec.rack == rack && !machine.gone;
        let near: Vec<usize> = self.machines.iter().enumerate().filter(near).map(|(number, _)| number).collect();
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
        let cut = |at: usize, what: &[Cut]| {
            if self.machines[at].spec.cut.is_none() { None } else { self.machines[at].cut_until(self.now, what) }
        };
        let off = [Cut::Lan, Cut::All];
        let split = match (cut(a, &[Cut::Split]), cut(b, &[Cut::Split])) {
            (Some(until), None) | (None, Some(until)) => Some(until),
            _ => None,
        };
        cut(a, &off).max(cut(b, &off)).max(split)
    }

    /// A machine ends, another starts in its rack, and this is to happen again.
    pub(super) fn churn(&mut self) {
        if self.unfinished_first == 0 {
            return;
        }
        let alive = self.setup.machines.len() as f64;
        let (rate, silent) = self.setup.churn;
        let wait = Duration::from_secs_f64(-(1.0 - self.rng.unit()).ln() / (alive * rate));
        self.push(self.now + wait, Event::Churn);
        if self.now.is_zero() {
            return;
        }
        let at = (self.rng.next() % self.machines.len() as u64) as usize;
        let machine = &mut self.machines[at];
        if machine.gone || !machine.spec.has_to_finish() {
            return;
        }
        if machine.finished.is_none() {
            self.unfinished -= 1;
            self.unfinished_first -= usize::from(!machine.spec.joined);
        }
        machine.spec.vanishes = Some(self.now);
        let mut spec = machine.spec.clone();
        machine.spec.silently = self.rng.unit() < silent;
        self.vanish(at);
        spec.start = self.now;
        spec.vanishes = None;
        spec.held = RoaringBitmap::new();
        spec.joined = true;
        let rack = spec.rack;
        let number = self.add(spec);
        let near = |(_, machine): &(usize, &super::machine::Machine)| machine.spec.rack == rack && !machine.gone;
        let near: Vec<usize> = self.machines[..number].iter().enumerate().filter(near).map(|(at, _)| at).collect();
        near.into_iter().for_each(|other| self.will_learn(number, other));
        if self.setup.racks.len() > 1 {
            self.find_others(number);
        }
    }
}
