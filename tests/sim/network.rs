//! The network itself: events in order of time, links that take bytes at their rate, the origin behind one link.
//!
//! An uplink sends one chunk at a time, its peers taking turns; a downlink and the origin's link are queues in order of
//! arrival. Other messages take their latency and their bytes' time, and pass what queues.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::exchange::{Exchange, OriginAnswer, Output, Source};
use proto::message::{Encoding, Join};
use proto::{IndexId, Message, NodeId, Position, Time, codec};
use roaring::RoaringBitmap;

use super::checks;
use super::machine::{Kind, Machine};
use super::rng::Rng;
use super::scenario::{Outcome, Setup};

pub const INDEX: IndexId = IndexId([7; 32]);

#[derive(Debug, Clone)]
pub enum Event {
    Start(usize),
    Session(usize, usize),
    Closed(usize, usize),
    Vanish(usize),
    Deliver { from: usize, to: usize, message: Message },
    Sent(usize),
    FromOrigin { to: usize, position: Position, answer: OriginAnswer },
    Verified { at: usize, position: Position, from: Source, right: bool },
    Timer(usize),
    Talk(usize, usize),
}

pub struct Network {
    pub(super) setup: Setup,
    pub machines: Vec<Machine>,
    numbers: BTreeMap<NodeId, usize>,
    pub(super) stored: Vec<u32>,
    lengths: Arc<[u32]>,
    events: BTreeMap<(Time, u64), Event>,
    sequence: u64,
    pub(super) now: Time,
    rng: Rng,
    pub(super) origin_free: Time,
    last_delivery: BTreeMap<(usize, usize), Time>,
    first_asked: BTreeMap<(usize, Position), Time>,
    pub(super) fetched: RoaringBitmap,
    /// Who found garbage, and who sent it.
    to_blame: Option<(usize, usize)>,
    pub(super) outcome: Outcome,
}

impl Network {
    pub fn new(setup: Setup) -> Self {
        let mut rng = Rng::new(setup.seed);
        let size = |rng: &mut Rng| 6_000 + ((rng.unit() + rng.unit()) * 17_400.0) as u32;
        let stored: Vec<u32> = (0..setup.chunks).map(|_| size(&mut rng)).collect();
        let lengths: Vec<u32> =
            stored.iter().map(|bytes| (f64::from(*bytes) * (2.0 + 2.0 * rng.unit())) as u32).collect();
        let machines: Vec<Machine> =
            setup.machines.iter().cloned().enumerate().map(|(number, spec)| Machine::new(number, spec)).collect();
        let outcome = Outcome {
            time: 0.0,
            finished: Vec::new(),
            origin_bytes: 0,
            image_bytes: stored.iter().map(|bytes| u64::from(*bytes)).sum(),
            duplicates: 0,
            late: 0,
            messages: 0,
            message_bytes: 0,
            steps: 0,
            banned: 0,
            trace: 0,
            claims: Vec::new(),
            repeated: Vec::new(),
            longest_wait: Duration::ZERO,
        };
        let mut network = Self {
            numbers: machines.iter().enumerate().map(|(number, machine)| (machine.id, number)).collect(),
            machines,
            stored,
            lengths: lengths.into(),
            events: BTreeMap::new(),
            sequence: 0,
            now: Duration::ZERO,
            rng,
            origin_free: Duration::ZERO,
            last_delivery: BTreeMap::new(),
            first_asked: BTreeMap::new(),
            fetched: RoaringBitmap::new(),
            to_blame: None,
            outcome,
            setup,
        };
        network.schedule();
        network
    }

    /// Runs until everyone who has to is complete, and says how it went. Panics, with the seed, when a rule is broken.
    pub fn run(mut self) -> Outcome {
        struct Seed(u64);
        impl Drop for Seed {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("simulation failed; CASWARM_SIM_SEED={} repeats it", self.0);
                }
            }
        }
        let _seed = Seed(self.setup.seed);
        while !self.done() {
            let Some(((at, _), event)) = self.events.pop_first() else {
                panic!("nothing to do, and {}", self.missing())
            };
            assert!(at <= self.setup.limit, "{at:?} have passed, and {}", self.missing());
            self.now = at;
            self.step(event);
        }
        self.finish()
    }

    fn done(&self) -> bool {
        self.machines.iter().all(|machine| !machine.spec.has_to_finish() || machine.finished.is_some())
    }

    fn missing(&self) -> String {
        let left = |machine: &Machine| machine.exchange.as_ref().map_or(0, |exchange| exchange.held().len());
        let held: Vec<u64> = self.machines.iter().map(left).collect();
        format!("of {} chunks the machines hold {held:?}", self.stored.len())
    }

    fn finish(mut self) -> Outcome {
        let starts =
            self.machines.iter().filter(|machine| machine.spec.has_to_finish()).map(|machine| machine.spec.start);
        let first = starts.min().unwrap_or_default();
        self.outcome.finished = self.machines.iter().map(|machine| machine.finished).collect();
        let last = self.machines.iter().filter_map(|machine| machine.finished).max().unwrap_or_default();
        self.outcome.time = last.saturating_sub(first).as_secs_f64();
        for exchange in self.machines.iter().filter_map(|machine| machine.exchange.as_ref()) {
            self.outcome.duplicates += exchange.stats().duplicates;
            self.outcome.late += exchange.stats().late;
        }
        self.outcome
    }

    fn schedule(&mut self) {
        for number in 0..self.machines.len() {
            let spec = self.machines[number].spec.clone();
            self.push(spec.start, Event::Start(number));
            if let Some(at) = spec.vanishes {
                self.push(at, Event::Vanish(number));
            }
            for other in 0..number {
                let peer = self.machines[other].spec.clone();
                if spec.lan && peer.lan {
                    let wait = self.rng.between(self.setup.discovery.0, self.setup.discovery.1);
                    self.push(spec.start.max(peer.start) + wait, Event::Session(other, number));
                }
            }
        }
    }

    pub(super) fn push(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    /// What happened, kept as a digest: the order and time of everything.
    fn trace(&mut self, words: &[u64]) {
        for word in words {
            self.outcome.trace = (self.outcome.trace ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
        }
    }

    fn step(&mut self, event: Event) {
        let at = match &event {
            Event::Start(at) | Event::Sent(at) | Event::Timer(at) | Event::Talk(at, _) => *at,
            Event::Deliver { to, .. } | Event::FromOrigin { to, .. } => *to,
            Event::Verified { at, .. } | Event::Closed(at, _) => *at,
            Event::Session(a, b) => {
                let until = [*a, *b].iter().filter_map(|peer| self.machines[*peer].stopped_until(self.now)).max();
                match until {
                    Some(Time::MAX) => return,
                    Some(until) => return self.push(until, event),
                    None => *a,
                }
            }
            Event::Vanish(at) => *at,
        };
        match self.machines[at].stopped_until(self.now) {
            Some(Time::MAX) => return,
            Some(until) => return self.push(until, event),
            None => {}
        }
        if self.machines[at].gone {
            return;
        }
        self.outcome.steps += 1;
        self.trace(&[self.now.as_nanos() as u64, at as u64]);
        match event {
            Event::Start(at) => self.start(at),
            Event::Session(a, b) => self.open(a, b),
            Event::Closed(at, peer) => self.close(at, peer),
            Event::Vanish(at) => self.vanish(at),
            Event::Deliver { from, to, message } => self.deliver(from, to, message),
            Event::Sent(at) => {
                self.machines[at].sending = false;
                self.send_next(at);
            }
            Event::Talk(at, peer) => self.talk(at, peer),
            Event::FromOrigin { to, position, answer } => self.origin_answered(to, position, answer),
            Event::Verified { at, position, from, right } => self.verified(at, position, from, right),
            Event::Timer(at) => {
                if self.machines[at].timer != Some(self.now) {
                    return;
                }
                self.machines[at].timer = None;
            }
        }
        self.drain(at);
    }

    fn start(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        if machine.spec.kind == Kind::Honest {
            let (config, held) = (machine.config(), machine.spec.held.clone());
            machine.exchange = Some(Exchange::new(machine.id, &INDEX, self.lengths.clone(), held, config, self.now));
        }
    }

    /// Both ends of a new session say what they hold.
    fn open(&mut self, a: usize, b: usize) {
        for (at, peer) in [(a, b), (b, a)] {
            if self.machines[at].gone || self.machines[peer].gone || self.machines[at].banned.contains(&peer) {
                return;
            }
        }
        for (at, peer) in [(a, b), (b, a)] {
            self.machines[at].open.insert(peer);
            self.machines[at].told.insert(peer, RoaringBitmap::new());
            self.say(at, peer, Message::Join(Join { index: INDEX, downloads: true, has_index: true }));
            if let Some(holdings) = self.holdings_told(at) {
                self.say(at, peer, Message::Have { index: INDEX, holdings });
            }
            if let Some(exchange) = &self.machines[at].exchange
                && !exchange.origin_reachable()
            {
                self.say(at, peer, Message::Origin { index: INDEX, reachable: false });
            }
            self.lie(at, peer);
        }
        self.drain(b);
    }

    fn close(&mut self, at: usize, peer: usize) {
        let id = self.machines[peer].id;
        let machine = &mut self.machines[at];
        machine.open.remove(&peer);
        machine.asked.remove(&peer);
        machine.queues.remove(&peer);
        machine.told.remove(&peer);
        machine.busy.remove(&peer);
        if let Some(exchange) = &mut machine.exchange {
            exchange.left(id, self.now);
        }
    }

    fn vanish(&mut self, at: usize) {
        self.machines[at].gone = true;
        let peers: Vec<usize> = self.machines[at].open.iter().copied().collect();
        for peer in peers {
            self.push(self.now + self.setup.latency, Event::Closed(peer, at));
        }
    }

    /// A message other than a chunk: in order between two machines, past the chunks that queue.
    pub(super) fn say(&mut self, from: usize, to: usize, message: Message) {
        let bytes = codec::encode(&message).unwrap().len();
        self.outcome.messages += 1;
        self.outcome.message_bytes += bytes as u64;
        let took = Duration::from_secs_f64(bytes as f64 / self.machines[from].spec.up);
        let last = self.last_delivery.entry((from, to)).or_default();
        let at = (self.now + self.setup.latency + took).max(*last);
        *last = at;
        self.push(at, Event::Deliver { from, to, message });
    }

    fn deliver(&mut self, from: usize, to: usize, message: Message) {
        if !self.machines[to].open.contains(&from) {
            return;
        }
        let (now, id) = (self.now, self.machines[from].id);
        match &message {
            Message::Want { positions, .. } => return self.wanted(to, from, positions),
            Message::Cancel { positions, .. } => {
                if let Some(queue) = self.machines[to].queues.get_mut(&from) {
                    queue.retain(|position| !positions.contains(position));
                }
                return;
            }
            Message::Have { holdings, .. } => {
                self.machines[to].told.insert(from, holdings.positions().clone());
            }
            Message::HaveMore { holdings, .. } => {
                *self.machines[to].told.entry(from).or_default() |= holdings.positions();
            }
            _ => {}
        }
        let machine = &mut self.machines[to];
        let Some(exchange) = &mut machine.exchange else { return };
        match message {
            Message::Join(join) => exchange.joined(id, join.downloads, now),
            Message::Have { holdings, .. } => exchange.have(id, &holdings, now),
            Message::HaveMore { holdings, .. } => exchange.have_more(id, &holdings, now),
            Message::Claim { groups, .. } => exchange.claimed(id, &groups, now),
            Message::Origin { reachable, .. } => exchange.peer_origin(id, reachable),
            Message::Absent { positions, retry_ms, .. } => {
                for position in &positions {
                    machine.asked.get_mut(&from).map(|asked| asked.remove(position));
                    if retry_ms == 0 {
                        machine.told.get_mut(&from).map(|told| told.remove(*position));
                    }
                }
                machine.busy.insert(from, now + Duration::from_millis(u64::from(retry_ms)));
                exchange.absent(id, &positions, Duration::from_millis(u64::from(retry_ms)), now);
            }
            Message::Chunk { position, length, .. } => {
                machine.asked.get_mut(&from).map(|asked| asked.remove(&position));
                if exchange.arrived(position, id, u64::from(length), now) {
                    if let Some(asked) = self.first_asked.remove(&(to, position)) {
                        self.outcome.longest_wait = self.outcome.longest_wait.max(now.saturating_sub(asked));
                    }
                    let right = self.machines[from].spec.kind != Kind::Garbage;
                    let verified = Event::Verified { at: to, position, from: Source::Peer(id), right };
                    self.push(now + self.setup.verification, verified);
                }
            }
            other => panic!("nobody sends {other:?} here"),
        }
    }

    pub(super) fn send_next(&mut self, at: usize) {
        if self.machines[at].sending {
            return;
        }
        let Some((to, position)) = self.machines[at].next_to_send() else { return };
        let length = self.stored[position as usize];
        let up = Duration::from_secs_f64(f64::from(length) / self.machines[at].spec.up);
        let in_full = self.now + up + self.setup.latency;
        let arrives = self.onto_downlink(to, length, in_full);
        self.machines[at].sending = true;
        self.machines[at].sent += u64::from(length);
        self.push(self.now + up, Event::Sent(at));
        let message = Message::Chunk { index: INDEX, position, encoding: Encoding::Zstd, length };
        self.push(arrives, Event::Deliver { from: at, to, message });
    }

    fn origin_answered(&mut self, at: usize, position: Position, answer: OriginAnswer) {
        let machine = &mut self.machines[at];
        machine.origin_asked.remove(&position);
        let Some(exchange) = &mut machine.exchange else { return };
        if exchange.origin_answered(position, answer, self.now) {
            let verified = Event::Verified { at, position, from: Source::Origin, right: true };
            self.push(self.now + self.setup.verification, verified);
        }
    }

    fn verified(&mut self, at: usize, position: Position, from: Source, right: bool) {
        let Some(exchange) = &mut self.machines[at].exchange else { return };
        if right {
            exchange.stored(position, self.now);
        } else {
            exchange.corrupt(position, from, self.now);
            if let Source::Peer(id) = from {
                self.to_blame = Some((at, self.numbers[&id]));
            }
        }
    }

    /// Does everything that a machine's exchange wants done, and checks it.
    fn drain(&mut self, at: usize) {
        let mut outputs = 0;
        while let Some(output) = self.machines[at].exchange.as_mut().and_then(|exchange| exchange.poll(self.now)) {
            outputs += 1;
            assert!(outputs < 10_000, "machine {at} does not come to rest: {output:?}");
            let numbers = &self.numbers;
            checks::output(&self.machines[at], &output, &self.stored, self.now, |id| numbers[id]);
            self.act(at, output);
        }
        if let Some((by, peer)) = self.to_blame.take_if(|(by, _)| *by == at) {
            assert!(self.machines[by].banned.contains(&peer), "{peer} sent garbage to {by} and is not banned");
        }
        let fully = self.outcome.steps.is_multiple_of(self.setup.check_every);
        checks::state(&self.machines[at], self.now, fully);
        let deadline = self.machines[at].exchange.as_ref().and_then(Exchange::poll_timeout);
        if let Some((due, _)) = deadline
            && self.machines[at].timer.is_none_or(|timer| timer > due || timer <= self.now)
        {
            self.machines[at].timer = Some(due);
            self.push(due, Event::Timer(at));
        }
    }

    fn act(&mut self, at: usize, output: Output) {
        let everyone: Vec<usize> = self.machines[at].open.iter().copied().collect();
        match output {
            Output::Ask(id, positions) => {
                let peer = self.numbers[&id];
                for position in &positions {
                    self.trace(&[u64::from(*position), peer as u64]);
                    self.first_asked.entry((at, *position)).or_insert(self.now);
                    self.machines[at].asked.entry(peer).or_default().insert(*position, self.now);
                }
                self.say(at, peer, Message::Want { index: INDEX, positions, plain: false });
            }
            Output::Cancel(id, positions) => {
                let peer = self.numbers[&id];
                if !self.machines[at].open.contains(&peer) {
                    return;
                }
                for position in &positions {
                    self.machines[at].asked.get_mut(&peer).map(|asked| asked.remove(position));
                }
                self.say(at, peer, Message::Cancel { index: INDEX, positions });
            }
            Output::AskOrigin(position) => {
                self.trace(&[u64::from(position)]);
                self.machines[at].origin_asked.insert(position);
                self.ask_origin(at, position);
            }
            Output::Announce(holdings) => {
                self.machines[at].announced |= holdings.positions();
                for peer in everyone {
                    self.say(at, peer, Message::HaveMore { index: INDEX, holdings: holdings.clone() });
                }
            }
            Output::Claim(groups) => {
                self.outcome.claims.extend(groups.iter().map(|group| (self.now, at, *group)));
                for peer in everyone {
                    self.say(at, peer, Message::Claim { index: INDEX, groups: groups.clone() });
                }
            }
            Output::TellOrigin(reachable) => {
                for peer in everyone {
                    self.say(at, peer, Message::Origin { index: INDEX, reachable });
                }
            }
            Output::Ban(id) => {
                let peer = self.numbers[&id];
                self.outcome.banned += 1;
                self.machines[at].banned.insert(peer);
                self.close(at, peer);
                self.push(self.now + self.setup.latency, Event::Closed(peer, at));
            }
            Output::Complete => {
                assert!(self.machines[at].exchange.as_ref().is_some_and(Exchange::complete), "complete, and is not");
                self.machines[at].finished = Some(self.now);
            }
            Output::GiveUp(_) => {}
        }
    }
}
