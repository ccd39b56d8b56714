//! Who hears of whom, who gets a session with whom, and machines that come and go.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::Time;
use roaring::RoaringBitmap;

use super::events::Event;
use super::machine::Session;
use super::network::Network;

/// A dial to where nobody answers takes so long.
const NO_ANSWER: Duration = Duration::from_secs(2);

impl Network {
    /// Machines of a rack hear of each other, all of them; of other racks each finds some.
    pub(super) fn discover(&mut self) {
        let mut racks = vec![Vec::new(); self.setup.racks.len()];
        for (number, who) in self.who.iter().enumerate().filter(|(_, who)| who.lan) {
            racks[who.rack].push(number);
        }
        for rack in &racks {
            for (at, number) in rack.iter().enumerate() {
                for other in &rack[..at] {
                    self.will_learn(*number, *other);
                }
            }
        }
        if racks.iter().filter(|rack| !rack.is_empty()).count() > 1 {
            (0..self.who.len()).filter(|at| self.who[*at].lan).collect::<Vec<_>>().into_iter().for_each(|number| {
                self.find_others(number);
            });
        }
    }

    fn find_others(&mut self, number: usize) {
        let rack = self.who[number].rack;
        let mut tries = 0;
        let mut found = BTreeSet::new();
        while found.len() < self.setup.found && tries < 4 * self.setup.found.max(self.who.len().min(64)) {
            tries += 1;
            let other = (self.rng.next() % self.who.len() as u64) as usize;
            let who = &self.who[other];
            if who.lan && who.rack != rack && !self.gone(other) && found.insert(other) {
                self.will_learn(number, other);
            }
        }
    }

    fn gone(&self, number: usize) -> bool {
        self.parts.of(self.who[number].rack).machines[number].gone
    }

    fn will_learn(&mut self, one: usize, other: usize) {
        let wait = self.rng.between(self.setup.discovery.0, self.setup.discovery.1);
        let at = self.who[one].start.max(self.who[other].start).max(self.now) + wait;
        self.push(at, one, Event::Learn(one as u32, other as u32));
        self.push(at, other, Event::Learn(other as u32, one as u32));
    }

    /// A machine dialled another; the racks of both.
    pub(super) fn session(&mut self, a: usize, b: usize) -> Vec<usize> {
        let now = self.now;
        let rack = self.who[a].rack;
        match self.who[a].stopped_until(now) {
            Some(Time::MAX) => return Vec::new(),
            Some(until) => {
                self.happen(until, Event::Session(a as u32, b as u32));
                return Vec::new();
            }
            None => {}
        }
        if self.gone(a) {
            return Vec::new();
        }
        self.parts.of(rack).begin(a, now);
        self.open(a, b);
        self.parts.of(rack).drain(a);
        [rack, self.who[b].rack].into_iter().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Both ends say what they hold, if there is a session now.
    fn open(&mut self, a: usize, b: usize) {
        let now = self.now;
        let (one, other) = (self.who[a].clone(), self.who[b].clone());
        let mut part = self.parts.of(one.rack);
        if part.machines[a].sessions.contains_key(&b) {
            part.machines[a].neighbours.opened(other.id, other.zone, now);
            return;
        }
        let mut banned = part.machines[a].banned.contains(&b);
        drop(part);
        let mut part = self.parts.of(other.rack);
        part.now = now;
        let machine = &part.machines[b];
        banned |= machine.banned.contains(&a);
        let still = |who: &super::who::Who| who.stopped_until(now).is_some() || now < who.start;
        let unreachable = machine.gone || still(&other) || one.blocked_until(&other, now).is_some();
        let accepts = machine.neighbours.accepts(&one.id, one.zone);
        drop(part);
        if unreachable || banned || !accepts {
            let wait = if unreachable { NO_ANSWER } else { Duration::ZERO };
            self.parts.of(one.rack).machines[a].neighbours.failed(other.id, !unreachable, now + wait);
            return;
        }
        self.serial += 1;
        let serial = self.serial;
        for (at, who, peer, other) in [(a, &one, b, &other), (b, &other, a, &one)] {
            let mut part = self.parts.of(who.rack);
            let machine = &mut part.machines[at];
            machine.sessions.insert(peer, Session { serial, ..Session::default() });
            if let Some(watch) = &mut machine.watch {
                watch.told.insert(peer, RoaringBitmap::new());
            }
            machine.neighbours.opened(other.id, other.zone, now);
        }
        self.parts.of(one.rack).introduce(a, b);
        let mut part = self.parts.of(other.rack);
        part.introduce(b, a);
        part.drain(b);
    }

    /// A machine ends, another starts in its rack, and this is to happen again. All racks, where it did.
    pub(super) fn churn(&mut self) -> Vec<usize> {
        if self.unfinished_first == 0 {
            return Vec::new();
        }
        let alive = self.setup.machines.len() as f64;
        let (rate, silent) = self.setup.churn;
        let wait = Duration::from_secs_f64(-(1.0 - self.rng.unit()).ln() / (alive * rate));
        self.happen(self.now + wait, Event::Churn);
        if self.now.is_zero() {
            return Vec::new();
        }
        let at = (self.rng.next() % self.who.len() as u64) as usize;
        let rack = self.who[at].rack;
        let mut part = self.parts.of(rack);
        part.now = self.now;
        let machine = &mut part.machines[at];
        if machine.gone || !machine.spec.has_to_finish() {
            return Vec::new();
        }
        if machine.finished.is_none() {
            self.unfinished -= 1;
            self.unfinished_first -= usize::from(!machine.spec.joined);
        }
        machine.spec.vanishes = Some(self.now);
        let mut spec = machine.spec.clone();
        machine.spec.silently = self.rng.unit() < silent;
        part.vanish(at);
        spec.start = self.now;
        spec.vanishes = None;
        spec.held = RoaringBitmap::new();
        spec.joined = true;
        let near: Vec<usize> = part.machines.iter().filter(|near| !near.gone).map(|near| near.number).collect();
        drop(part);
        let number = self.add([spec].into_iter());
        near.into_iter().for_each(|other| self.will_learn(number, other));
        if self.setup.racks.len() > 1 {
            self.find_others(number);
        }
        vec![rack]
    }
}
