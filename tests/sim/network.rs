//! The whole fleet: its racks, the origin, and what happens between machines of different racks at one moment.
//!
//! Nothing gets from one rack to another in less than a known time. So racks run on their own, on as many threads as
//! there are, for that long, and then hand each other what they sent, in an order that does not depend on threads: a run
//! is the same on one processor and on many.

use std::sync::Arc;
use std::time::Duration;

use proto::exchange::OriginAnswer;
use proto::{IndexId, Position, Time, ZoneId};
use roaring::RoaringBitmap;

use super::events::{Event, Events};
use super::links::Link;
use super::machine::{Cut, Machine, Spec};
use super::part::{Part, Post};
use super::rng::Rng;
use super::scenario::{Outcome, Setup, bound_of};
use super::threads::{Parts, with_workers};
use super::who::Who;

pub const INDEX: IndexId = IndexId([7; 32]);

/// Sessions open at multiples of this, so that racks are not kept from running on their own by each of them.
const TOGETHER: u64 = 500_000;

fn together(at: Time) -> Time {
    Duration::from_nanos((at.as_nanos() as u64).next_multiple_of(TOGETHER))
}

/// Machines for which another thread is worth waking.
const MACHINES_A_THREAD: usize = 200;

pub struct Network {
    pub(super) setup: Arc<Setup>,
    pub(super) parts: Parts,
    pub(super) who: Arc<Vec<Who>>,
    stored: Arc<[u32]>,
    events: Events,
    pub(super) now: Time,
    pub(super) rng: Rng,
    origin: Link,
    pub(super) serial: u32,
    fetched: RoaringBitmap,
    repeated: Vec<(Time, usize, Position)>,
    /// Machines that have to finish and did not yet; of these, those that were there from the start.
    pub(super) unfinished: usize,
    pub(super) unfinished_first: usize,
    image_bytes: u64,
}

impl Network {
    pub fn new(setup: Setup) -> Self {
        let mut rng = Rng::new(setup.seed);
        let scale = setup.chunk_bytes / 23_400.0;
        let size = |rng: &mut Rng| ((6_000.0 + (rng.unit() + rng.unit()) * 17_400.0) * scale) as u32;
        let stored: Arc<[u32]> = (0..setup.chunks).map(|_| size(&mut rng)).collect();
        let lengths: Arc<[u32]> =
            stored.iter().map(|bytes| (f64::from(*bytes) * (2.0 + 2.0 * rng.unit())) as u32).collect();
        let setup = Arc::new(setup);
        let parts = setup.racks.iter().map(|rate| Part::new(&setup, *rate, &stored, &lengths)).collect();
        let mut network = Self {
            parts: Parts::new(parts),
            who: Arc::default(),
            image_bytes: stored.iter().map(|bytes| u64::from(*bytes)).sum(),
            stored,
            events: Events::default(),
            now: Duration::ZERO,
            rng,
            origin: Link::new(setup.origin_rate),
            serial: 0,
            fetched: RoaringBitmap::new(),
            repeated: Vec::new(),
            unfinished: 0,
            unfinished_first: 0,
            setup,
        };
        let machines = network.setup.clone();
        network.add(machines.machines.iter().cloned());
        network.discover();
        if network.setup.churn.0 > 0.0 {
            network.events.push(Duration::ZERO, Event::Churn);
        }
        network
    }

    /// Other machines, and when what happens to them; the number of the first.
    pub(super) fn add(&mut self, specs: impl Iterator<Item = Spec>) -> usize {
        self.parts.all().for_each(|mut part| part.who = Arc::default());
        let first = self.who.len();
        let who = Arc::make_mut(&mut self.who);
        for spec in specs {
            let number = who.len();
            if spec.has_to_finish() {
                self.unfinished += 1;
                self.unfinished_first += usize::from(!spec.joined);
            }
            let zone = ZoneId::of(&format!("rack-{}", spec.rack));
            who.push(Who::new(number, &spec, zone));
            let watched = self.setup.check_every > 0;
            self.parts.of(spec.rack).add(Machine::new(number, spec, zone, self.setup.seed, watched));
        }
        self.parts.all().for_each(|mut part| part.who = self.who.clone());
        (0..self.setup.racks.len()).for_each(|rack| self.parts.look(rack));
        first
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
        let threads = match self.setup.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(self.who.len() / MACHINES_A_THREAD),
            given => given,
        };
        let parts = self.parts.clone();
        with_workers(&parts, threads.min(self.setup.racks.len()), |run| self.go(run));
        self.finish()
    }

    fn go(&mut self, run: &dyn Fn(Time)) {
        // What one rack does at a moment, another hears of this much later at the earliest.
        let ahead = match self.setup.racks.len() {
            1 => self.setup.origin_delay * 2,
            _ => self.setup.rack_latency.min(self.setup.origin_delay * 2),
        };
        let ahead = ahead.max(Duration::from_nanos(1));
        while self.unfinished > 0 {
            let own = self.events.next_at().unwrap_or(Time::MAX);
            let next = self.parts.next_at().min(own);
            let over = next == Time::MAX || next > self.setup.limit;
            if over && self.setup.lenient {
                break;
            }
            assert!(!over, "after {:?}, {}", self.now, self.missing());
            self.now = next;
            if next == own {
                let event = self.events.pop().map(|(_, event)| event);
                let racks = event.map_or_else(Vec::new, |event| self.happens(event));
                self.collect(racks);
            } else {
                let until = (next + ahead).min(own);
                run(until);
                self.collect(self.parts.ran(until));
            }
        }
    }

    /// Something that is about several racks, or all; those in which something was done.
    fn happens(&mut self, event: Event) -> Vec<usize> {
        match event {
            Event::Churn => self.churn(),
            Event::Session(a, b) => self.session(a as usize, b as usize),
            other => panic!("{other:?} is no event between racks"),
        }
    }

    /// Hands over what these racks sent.
    fn collect(&mut self, racks: Vec<usize>) {
        let mut asked = Vec::new();
        for rack in racks {
            let mut part = self.parts.of(rack);
            let mut posts = std::mem::take(&mut part.posts);
            self.unfinished -= std::mem::take(&mut part.finished);
            self.unfinished_first -= std::mem::take(&mut part.finished_first);
            drop(part);
            for post in posts.drain(..) {
                match post {
                    Post::To(at, to, event) => {
                        if let Event::Say { bytes, .. } = &event {
                            self.parts.of(self.who[to as usize].rack).rack.to.bytes += u64::from(*bytes);
                        }
                        self.push(at, to as usize, event);
                    }
                    Post::Dial(at, event) => self.events.push(together(at), event),
                    Post::Origin(at, by, position) => asked.push((at, by as usize, position)),
                }
            }
            self.parts.of(rack).posts = posts;
            self.parts.look(rack);
        }
        asked.sort_by_key(|(at, _, _)| *at);
        asked.into_iter().for_each(|(at, by, position)| self.ask_origin(at, by, position));
    }

    /// Something is to happen to a machine.
    pub(super) fn push(&mut self, at: Time, to: usize, event: Event) {
        let rack = self.who[to].rack;
        self.parts.of(rack).push(at, event);
        self.parts.due(rack, at);
    }

    pub(super) fn happen(&mut self, at: Time, event: Event) {
        self.events.push(at, event);
    }

    fn ask_origin(&mut self, now: Time, by: usize, position: Position) {
        let delay = self.setup.origin_delay;
        let who = &self.who[by];
        let down = |time: Time| self.setup.origin_down.is_some_and(|(from, to)| time >= from && time < to);
        let cut = |time: Time| who.cut_until(time, &[Cut::Internet, Cut::All]).is_some();
        let length = self.stored[position as usize];
        let begins = self.origin.free_at().max(now + delay);
        let sent = begins + self.origin.takes(length);
        let to = by as u32;
        if !who.origin || cut(now) || down(now + delay) || down(sent) || cut(sent) {
            let event = Event::FromOrigin { to, position, answer: OriginAnswer::Unavailable };
            return self.push(now + delay * 2 + Duration::from_millis(1), by, event);
        }
        if !self.fetched.insert(position) {
            self.repeated.push((now, by, position));
        }
        self.origin.take_until(sent, length);
        let first_byte = (begins + delay).saturating_sub(now);
        self.push(sent + delay, by, Event::OriginHop { to, position, first_byte, hop: super::links::Hop::IntoRack });
    }

    fn missing(&self) -> String {
        let left = |number: usize| {
            let part = self.parts.of(self.who[number].rack);
            part.machines[number].exchange.as_ref().map_or(0, |exchange| exchange.held().len())
        };
        let held: Vec<u64> = (0..self.who.len()).map(left).take(40).collect();
        format!("of {} chunks the machines hold {held:?}", self.stored.len())
    }

    fn finish(self) -> Outcome {
        let bound = bound_of(&self.setup, self.image_bytes);
        let mut outcome =
            Outcome { image_bytes: self.image_bytes, chunks: self.setup.chunks as u64, bound, ..Outcome::default() };
        outcome.origin_bytes = self.origin.bytes;
        outcome.repeated = self.repeated;
        outcome.finished = vec![None; self.who.len()];
        let (mut first, mut last) = (Time::MAX, Time::ZERO);
        let mut took = Vec::new();
        for part in self.parts.all() {
            outcome.add(&part.outcome);
            outcome.uplinks.push(part.rack.to.bytes);
            for machine in part.machines.iter() {
                outcome.finished[machine.number] = machine.finished;
                if let Some(exchange) = &machine.exchange {
                    outcome.duplicates += exchange.stats().duplicates;
                    outcome.late += exchange.stats().late;
                }
                let spec = &machine.spec;
                if !spec.has_to_finish() {
                    continue;
                }
                outcome.expected += 1;
                first = first.min(spec.start);
                last = last.max(machine.finished.filter(|_| !spec.joined).unwrap_or_default());
                if spec.held.len() >= self.stored.len() as u64 {
                    outcome.seeds += 1;
                } else if let Some(finished) = machine.finished {
                    took.push((machine.number, finished.saturating_sub(spec.start).as_secs_f64()));
                }
            }
        }
        took.sort_by_key(|(number, _)| *number);
        outcome.took = took.into_iter().map(|(_, took)| took).collect();
        outcome.claims.sort_by_key(|(at, _, _)| *at);
        outcome.time = last.saturating_sub(first).as_secs_f64();
        outcome
    }
}
