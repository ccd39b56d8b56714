//! A rack of machines: events in order of time, and what each machine's exchange makes of them.
//!
//! A machine's own link sends one chunk at a time, its peers taking turns; behind it, a chunk passes the racks' links and
//! the receiver's in order of arrival ([`super::links`]). Other messages take their latency and their bytes' time, and
//! pass what queues.

use std::sync::Arc;
use std::time::Duration;

use proto::exchange::{Exchange, OriginAnswer, Output, Source};
use proto::{Message, NodeId, Position, Time, codec};

use super::checks;
use super::events::{Event, Events};
use super::links::{Hop, Link, Rack};
use super::machine::{Kind, Machine, Machines, number_of};
use super::network::INDEX;
use super::scenario::{Outcome, Setup};
use super::who::Who;

/// What carries a message, beside its own bytes: a TLS record, and a part of a TCP/IP header.
const OVERHEAD: usize = 60;

/// What gets out of a rack, or is not for a rack alone.
pub enum Post {
    /// Something is to happen to a machine elsewhere.
    To(Time, u32, Event),
    /// A machine dials another.
    Dial(Time, Event),
    /// A machine asked the origin.
    Origin(Time, u32, Position),
}

/// A rack: its machines, and what is to happen to them.
pub struct Part {
    pub(super) setup: Arc<Setup>,
    pub machines: Machines,
    pub(super) who: Arc<Vec<Who>>,
    pub rack: Rack,
    pub(super) stored: Arc<[u32]>,
    lengths: Arc<[u32]>,
    events: Events,
    pub now: Time,
    pub posts: Vec<Post>,
    first_asked: std::collections::BTreeMap<(usize, Position), Time>,
    /// Machines that had to finish and did, since this was last looked at; of these, those there from the start.
    pub finished: usize,
    pub finished_first: usize,
    /// Who found garbage, and who sent it.
    to_blame: Option<(usize, usize)>,
    pub outcome: Outcome,
}

impl Part {
    pub fn new(setup: &Arc<Setup>, uplink: f64, stored: &Arc<[u32]>, lengths: &Arc<[u32]>) -> Self {
        Self {
            setup: setup.clone(),
            machines: Machines::default(),
            who: Arc::default(),
            rack: Rack { to: Link::new(uplink), from: Link::new(uplink) },
            stored: stored.clone(),
            lengths: lengths.clone(),
            events: Events::default(),
            now: Duration::ZERO,
            posts: Vec::new(),
            first_asked: Default::default(),
            finished: 0,
            finished_first: 0,
            to_blame: None,
            outcome: Outcome::default(),
        }
    }

    /// Another machine, and when what happens to it.
    pub fn add(&mut self, machine: Machine) {
        let (spec, at) = (&machine.spec, machine.number as u32);
        self.events.push(spec.start, Event::Start(at));
        if let Some(vanishes) = spec.vanishes {
            self.events.push(vanishes, Event::Vanish(at));
        }
        let deaf = [spec.stopped, spec.cut.map(|(from, to, _)| (from, to))];
        for (from, to) in deaf.into_iter().flatten() {
            if to.saturating_sub(from) > super::sessions::DEAF {
                self.events.push(from + super::sessions::DEAF, Event::Deaf(at));
            }
        }
        self.machines.push(machine);
    }

    pub fn next_at(&self) -> Option<Time> {
        self.events.next_at()
    }

    /// Everything that happens before this.
    pub fn run(&mut self, until: Time) {
        while self.events.next_at().is_some_and(|at| at < until) {
            let Some((at, event)) = self.events.pop() else { return };
            self.now = at;
            self.step(event);
        }
    }

    pub fn push(&mut self, at: Time, event: Event) {
        self.events.push(at, event);
    }

    /// Something is to happen to a machine, here or elsewhere.
    pub(super) fn push_to(&mut self, at: Time, from: usize, to: usize, event: Event) {
        if self.who[from].rack == self.who[to].rack {
            self.events.push(at, event);
        } else {
            self.posts.push(Post::To(at, to as u32, event));
        }
    }

    /// What happened, kept as a digest: the order and time of everything.
    fn trace(&mut self, words: &[u64]) {
        for word in words {
            self.outcome.trace = (self.outcome.trace ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
        }
    }

    /// Something happens to a machine.
    pub(super) fn begin(&mut self, at: usize, now: Time) {
        self.now = now;
        self.outcome.steps += 1;
        self.trace(&[now.as_nanos() as u64, at as u64]);
    }

    fn step(&mut self, event: Event) {
        let at = match &event {
            Event::Start(at) | Event::Sent(at) | Event::Timer(at) | Event::Talk(at, _) => *at,
            Event::Chunk { from, hop: Hop::OutOfRack, .. } => *from,
            Event::Say { to, .. } | Event::Chunk { to, .. } => *to,
            Event::FromOrigin { to, .. } | Event::OriginHop { to, .. } => *to,
            Event::Verified { at, .. } | Event::Closed { at, .. } => *at,
            Event::Learn(at, _) | Event::Lost(at, _) | Event::Deaf(at) | Event::Vanish(at) => *at,
            Event::Session(..) | Event::Churn => panic!("{event:?} is not for one rack"),
        } as usize;
        let deaf =
            matches!(event, Event::Deaf(_) | Event::Sent(_) | Event::Chunk { hop: Hop::OutOfRack | Hop::IntoRack, .. });
        match self.machines[at].stopped_until(self.now).filter(|_| !deaf) {
            Some(Time::MAX) => return,
            Some(until) => return self.push(until, event),
            None => {}
        }
        if self.machines[at].gone {
            return;
        }
        self.begin(at, self.now);
        match event {
            Event::Start(_) => self.start(at),
            Event::Learn(_, other) => self.learn(at, other as usize),
            Event::Lost(_, gone) => self.lose(at, gone as usize),
            Event::Closed { peer, serial, gone, .. } => self.close(at, peer as usize, serial, gone),
            Event::Vanish(_) => self.vanish(at),
            Event::Deaf(_) => self.deafen(at),
            Event::Say { from, serial, bytes, message, .. } => {
                let links_only = matches!(*message, Message::Want { .. } | Message::Cancel { .. });
                self.hear(from as usize, at, serial, bytes, message);
                if links_only {
                    return;
                }
            }
            Event::Sent(_) => {
                self.machines[at].sending = false;
                return self.send_next(at);
            }
            Event::Chunk { from, to, serial, position, hop } => {
                if !self.chunk(from as usize, to as usize, serial, position, hop) {
                    return;
                }
            }
            Event::Talk(_, peer) => self.talk(at, peer as usize),
            Event::OriginHop { position, first_byte, hop, .. } => self.origin_hop(at, position, first_byte, hop),
            Event::FromOrigin { position, answer, .. } => self.origin_answered(at, position, answer),
            Event::Verified { position, from, right, .. } => self.verified(at, position, from, right),
            Event::Timer(_) => {
                if self.machines[at].timer != Some(self.now) {
                    return;
                }
                self.machines[at].timer = None;
            }
            Event::Session(..) | Event::Churn => {}
        }
        self.drain(at);
    }

    fn start(&mut self, at: usize) {
        let machine = &self.machines[at];
        if machine.spec.kind == Kind::Honest {
            let config = proto::exchange::Config {
                zone: machine.zone,
                grace: self.setup.grace,
                patience: Duration::from_secs(120),
                in_order: self.setup.in_order,
                ..Default::default()
            };
            let (id, held) = (machine.id, machine.spec.held.clone());
            let exchange = Exchange::new(id, &INDEX, self.lengths.clone(), held, config, self.now);
            self.machines[at].exchange = Some(Box::new(exchange));
        }
    }

    /// A message other than a chunk: in order between two machines, past the chunks that queue.
    pub(super) fn say(&mut self, from: usize, to: usize, message: Message) {
        let bytes = codec::encode(&message).unwrap().len() + OVERHEAD;
        self.send(from, to, Arc::new(message), bytes);
    }

    fn say_all(&mut self, from: usize, to: impl Iterator<Item = usize>, message: Message) {
        let bytes = codec::encode(&message).unwrap().len() + OVERHEAD;
        let message = Arc::new(message);
        to.for_each(|to| self.send(from, to, message.clone(), bytes));
    }

    fn send(&mut self, from: usize, to: usize, message: Arc<Message>, bytes: usize) {
        let latency = self.latency(from, to);
        let now = self.now;
        let machine = &mut self.machines[from];
        let took = machine.spec.up;
        let Some(session) = machine.sessions.get_mut(&to) else { return };
        let at = (now + latency + Duration::from_secs_f64(bytes as f64 / took)).max(session.last_delivery);
        session.last_delivery = at;
        let serial = session.serial;
        self.outcome.messages += 1;
        self.outcome.message_bytes += bytes as u64;
        let bytes = bytes as u32;
        self.push_to(at, from, to, Event::Say { from: from as u32, to: to as u32, serial, bytes, message });
    }

    fn hear(&mut self, from: usize, to: usize, serial: u32, bytes: u32, message: Arc<Message>) {
        if self.machines[to].sessions.get(&from).is_none_or(|session| session.serial != serial) {
            return;
        }
        if let Some(until) = self.blocked_until(from, to) {
            return self.push(until, Event::Say { from: from as u32, to: to as u32, serial, bytes, message });
        }
        let (now, id, zone) = (self.now, self.who[from].id, self.who[from].zone);
        match &*message {
            Message::Want { positions, .. } => return self.wanted(to, from, positions),
            Message::Cancel { positions, .. } => {
                if let Some(session) = self.machines[to].sessions.get_mut(&from) {
                    session.queue.retain(|position| !positions.contains(position));
                }
                return;
            }
            Message::Peers { peers } => return self.told_peers(to, peers),
            _ => {}
        }
        let machine = &mut self.machines[to];
        if let Some(watch) = &mut machine.watch {
            watch.hear(from, &message, now);
        }
        let Some(exchange) = &mut machine.exchange else { return };
        match &*message {
            Message::Join(join) => exchange.joined(id, zone, join.downloads, now),
            Message::Have { holdings, .. } => exchange.have(id, holdings, now),
            Message::HaveMore { holdings, started, .. } => {
                exchange.have_more(id, holdings, now);
                exchange.started(id, started, now);
            }
            Message::Claim { groups, origin, .. } => exchange.claimed(id, groups, *origin, now),
            Message::Interest { groups, .. } => exchange.interested(id, groups, now),
            Message::Origin { reachable, .. } => exchange.peer_origin(id, *reachable),
            Message::Others { zones, joined, left, .. } => exchange.others(id, zones, joined, left, now),
            Message::Absent { positions, retry_ms, .. } => {
                exchange.absent(id, positions, Duration::from_millis(u64::from(*retry_ms)), now);
            }
            other => panic!("nobody sends {other:?} here"),
        }
    }

    pub(super) fn send_next(&mut self, at: usize) {
        if self.machines[at].sending {
            return;
        }
        let Some((to, position)) = self.machines[at].next_to_send() else { return };
        let took = Duration::from_secs_f64(f64::from(self.stored[position as usize]) / self.machines[at].spec.up);
        let serial = self.machines[at].sessions[&to].serial;
        self.machines[at].sending = true;
        self.push(self.now + took, Event::Sent(at as u32));
        let hop = self.first_hop(at, to);
        let within = if hop == Hop::OutOfRack { Duration::ZERO } else { self.setup.latency };
        self.push(self.now + took + within, Event::Chunk { from: at as u32, to: to as u32, serial, position, hop });
    }

    /// A chunk is at some place of its way. Whether that is its end.
    fn chunk(&mut self, from: usize, to: usize, serial: u32, position: Position, hop: Hop) -> bool {
        let (from32, to32) = (from as u32, to as u32);
        if let Some(until) = self.blocked_until(from, to) {
            self.push(until, Event::Chunk { from: from32, to: to32, serial, position, hop });
            return false;
        }
        let length = self.stored[position as usize];
        if hop == Hop::OutOfRack {
            let out = self.rack.from.pass(length, self.now) + self.setup.rack_latency;
            let event = Event::Chunk { from: from32, to: to32, serial, position, hop: Hop::IntoRack };
            self.posts.push(Post::To(out, to32, event));
            return false;
        }
        if let Some((at, hop)) = self.pass(to, length, hop) {
            self.push(at, Event::Chunk { from: from32, to: to32, serial, position, hop });
            return false;
        }
        self.outcome.data_bytes += u64::from(length);
        let (now, id) = (self.now, self.who[from].id);
        let machine = &mut self.machines[to];
        if machine.sessions.get(&from).is_none_or(|session| session.serial != serial) {
            return true;
        }
        if let Some(watch) = &mut machine.watch {
            watch.asked.get_mut(&from).map(|asked| asked.remove(&position));
        }
        let Some(exchange) = &mut machine.exchange else { return true };
        if exchange.arrived(position, id, u64::from(length), now) {
            if let Some(asked) = self.first_asked.remove(&(to, position)) {
                self.outcome.longest_wait = self.outcome.longest_wait.max(now.saturating_sub(asked));
            }
            let right = self.who[from].kind != Kind::Garbage;
            self.push(now + self.setup.verification, Event::Verified { at: to32, position, from: Some(from32), right });
        }
        true
    }

    pub(super) fn origin_answered(&mut self, at: usize, position: Position, answer: OriginAnswer) {
        let machine = &mut self.machines[at];
        if let Some(watch) = &mut machine.watch {
            watch.origin_asked.remove(&position);
        }
        let Some(exchange) = &mut machine.exchange else { return };
        if exchange.origin_answered(position, answer, self.now) {
            let verified = Event::Verified { at: at as u32, position, from: None, right: true };
            self.push(self.now + self.setup.verification, verified);
        }
    }

    fn verified(&mut self, at: usize, position: Position, from: Option<u32>, right: bool) {
        let source = from.map_or(Source::Origin, |from| Source::Peer(self.who[from as usize].id));
        let machine = &mut self.machines[at];
        if right && machine.exchange.is_some() {
            machine.came(position);
            self.outcome.ahead = self.outcome.ahead.max(machine.ahead());
        }
        let Some(exchange) = &mut machine.exchange else { return };
        if right {
            exchange.stored(position, self.now);
        } else {
            exchange.corrupt(position, source, self.now);
            self.to_blame = from.map(|from| (at, from as usize));
        }
    }

    /// Does everything that a machine's exchange wants done, and checks it.
    pub(super) fn drain(&mut self, at: usize) {
        self.tend(at);
        let mut outputs = 0;
        while let Some(output) = self.machines[at].exchange.as_mut().and_then(|exchange| exchange.poll(self.now)) {
            outputs += 1;
            assert!(outputs < 10_000, "machine {at} does not come to rest: {output:?}");
            checks::output(&self.machines[at], &output, &self.stored, self.now);
            self.act(at, output);
        }
        if let Some((by, peer)) = self.to_blame.take_if(|(by, _)| *by == at) {
            assert!(self.machines[by].banned.contains(&peer), "{peer} sent garbage to {by} and is not banned");
        }
        let fully = self.setup.check_every > 0 && self.outcome.steps.is_multiple_of(self.setup.check_every);
        checks::state(&self.machines[at], self.now, fully);
        let deadline = self.machines[at].exchange.as_ref().and_then(|exchange| exchange.poll_timeout());
        if let Some((due, _)) = deadline
            && self.machines[at].timer.is_none_or(|timer| timer > due || timer <= self.now)
        {
            self.machines[at].timer = Some(due);
            self.push(due, Event::Timer(at as u32));
        }
    }

    fn act(&mut self, at: usize, output: Output) {
        let now = self.now;
        let everyone = |part: &Self| part.machines[at].sessions.keys().copied().collect::<Vec<_>>().into_iter();
        let numbers = |ids: Vec<NodeId>| ids.into_iter().map(|id| number_of(&id));
        if let Some(watch) = &mut self.machines[at].watch {
            watch.act(&output, now);
        }
        match output {
            Output::Ask(id, positions) => {
                let peer = number_of(&id);
                for position in &positions {
                    self.trace(&[u64::from(*position), peer as u64]);
                    if self.setup.check_every > 0 {
                        self.first_asked.entry((at, *position)).or_insert(now);
                    }
                }
                self.say(at, peer, Message::Want { index: INDEX, positions, plain: false });
            }
            Output::Cancel(id, positions) => {
                self.say(at, number_of(&id), Message::Cancel { index: INDEX, positions });
            }
            Output::AskOrigin(position) => {
                self.trace(&[u64::from(position)]);
                self.posts.push(Post::Origin(now, at as u32, position));
            }
            Output::Announce(to, holdings, started) => {
                self.say_all(at, numbers(to), Message::HaveMore { index: INDEX, holdings, started });
            }
            Output::Claim(groups) => {
                self.outcome.claims.extend(groups.iter().map(|group| (now, at, *group)));
                self.say_all(at, everyone(self), Message::Claim { index: INDEX, groups, origin: true });
            }
            Output::TellOrigin(reachable) => {
                self.say_all(at, everyone(self), Message::Origin { index: INDEX, reachable });
            }
            Output::Tell(to, message) => self.say_all(at, numbers(to), message),
            Output::Ban(id) => {
                let peer = number_of(&id);
                self.outcome.banned += 1;
                self.machines[at].banned.insert(peer);
                let serial = self.machines[at].sessions.get(&peer).map_or(0, |session| session.serial);
                self.close(at, peer, serial, true);
                let closed = Event::Closed { at: peer as u32, peer: at as u32, serial, gone: true };
                self.push_to(now + self.latency(at, peer), at, peer, closed);
            }
            Output::Complete => {
                let machine = &mut self.machines[at];
                let right = machine.right == self.stored.len() as u64;
                self.outcome.wrong += u64::from(!right);
                if machine.finished.is_none() && machine.spec.has_to_finish() {
                    self.finished += 1;
                    self.finished_first += usize::from(!machine.spec.joined);
                }
                machine.finished = Some(now);
            }
            Output::GiveUp(_) => {}
        }
    }
}
