//! One machine of the simulation: its links, what it serves, and the exchange that decides for it, or the lie it lives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use proto::exchange::{Exchange, Output};
use proto::{Message, Neighbours, NodeId, Position, Time, ZoneId};
use roaring::RoaringBitmap;

use super::links::Link;

/// A machine as the scenario describes it.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Bytes a second that leave it.
    pub up: f64,
    /// Bytes a second that reach it.
    pub down: f64,
    /// The rack it is in.
    pub rack: usize,
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
    /// It is cut off from this between these moments; sessions stay open as long as nobody misses an answer.
    pub cut: Option<(Time, Time, Cut)>,
    /// It ends at this moment, for good.
    pub vanishes: Option<Time>,
    /// Its end is seen by nobody: it lost its power.
    pub silently: bool,
    /// It came in the place of another, while the run was on.
    pub joined: bool,
}

/// What a machine is cut off from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Lan,
    Internet,
    All,
    /// From those that are not cut off like it: the LAN is in two parts.
    Split,
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
            rack: 0,
            start: Duration::ZERO,
            held: RoaringBitmap::new(),
            kind: Kind::Honest,
            origin: true,
            lan: true,
            stopped: None,
            cut: None,
            vanishes: None,
            silently: false,
            joined: false,
        }
    }

    /// Whether it has to be complete in the end.
    pub fn has_to_finish(&self) -> bool {
        self.kind == Kind::Honest && self.vanishes.is_none() && self.stopped.is_none_or(|(_, to)| to < Time::MAX)
    }
}

/// What the rules need to know of one machine's peers; not kept in large runs.
#[derive(Debug, Default)]
pub struct Watch {
    /// What each peer said that it holds, as far as it is known here.
    pub told: BTreeMap<usize, RoaringBitmap>,
    /// What was asked of each peer, neither answered nor cancelled.
    pub asked: BTreeMap<usize, BTreeMap<Position, Time>>,
    pub origin_asked: BTreeSet<Position>,
    /// Until when each peer said that it is too busy.
    pub busy: BTreeMap<usize, Time>,
}

/// One end of a session.
#[derive(Debug, Default)]
pub struct Session {
    /// What is to be sent to the other end.
    pub queue: VecDeque<Position>,
    /// When the last message so far gets there.
    pub last_delivery: Time,
    /// Which of the sessions with that machine it is.
    pub serial: u32,
}

/// A machine as it runs.
pub struct Machine {
    pub number: usize,
    pub spec: Spec,
    pub id: NodeId,
    pub zone: ZoneId,
    pub neighbours: Neighbours,
    pub exchange: Option<Box<Exchange>>,
    pub gone: bool,
    pub finished: Option<Time>,
    /// How much it had from the start, or came and was verified; and what of it came.
    pub right: u64,
    came: Vec<u64>,
    /// Everything in front of this position is right.
    front: u64,
    /// The time of the timer that counts, and of the neighbours' one.
    pub timer: Option<Time>,
    pub sessions: BTreeMap<usize, Session>,
    /// Those to whom something may be to be sent.
    pub waiting: BTreeSet<usize>,
    pub banned: BTreeSet<usize>,
    pub watch: Option<Box<Watch>>,
    pub served_last: usize,
    pub sending: bool,
    pub down: Link,
    pub fetched: u64,
}

impl Machine {
    pub fn new(number: usize, spec: Spec, zone: ZoneId, seed: u64, watched: bool) -> Self {
        let id = node_id(number);
        Self {
            number,
            id,
            neighbours: Neighbours::new(id, zone, seed ^ number as u64),
            exchange: None,
            gone: false,
            finished: None,
            right: spec.held.len(),
            came: Vec::new(),
            front: 0,
            timer: None,
            sessions: BTreeMap::new(),
            waiting: BTreeSet::new(),
            zone,
            banned: BTreeSet::new(),
            watch: watched.then(Box::default),
            served_last: 0,
            sending: false,
            down: Link::new(spec.down),
            fetched: 0,
            spec,
        }
    }

    /// Until when it stands still.
    pub fn stopped_until(&self, now: Time) -> Option<Time> {
        self.spec.stopped.filter(|(from, to)| now >= *from && now < *to).map(|(_, to)| to)
    }

    /// A chunk came and was verified.
    pub fn came(&mut self, position: Position) {
        let (at, bit) = (position as usize / 64, 1 << (position % 64));
        if self.came.len() <= at {
            self.came.resize(at + 1, 0);
        }
        if self.came[at] & bit == 0 && (self.spec.held.is_empty() || !self.spec.held.contains(position)) {
            self.came[at] |= bit;
            self.right += 1;
        }
        while self.is_right(self.front as Position) {
            self.front += 1;
        }
    }

    /// How many chunks are right behind the first that is not.
    pub fn ahead(&self) -> u64 {
        self.right - self.front
    }

    fn is_right(&self, position: Position) -> bool {
        let came = self.came.get(position as usize / 64).is_some_and(|bits| bits & 1 << (position % 64) != 0);
        came || self.spec.held.contains(position)
    }

    /// The next chunk to send: peers take turns, as their TCP connections would.
    pub fn next_to_send(&mut self) -> Option<(usize, Position)> {
        while let Some(peer) = self.waiting.range(self.served_last + 1..).next().or(self.waiting.first()).copied() {
            if let Some(position) = self.sessions.get_mut(&peer).and_then(|session| session.queue.pop_front()) {
                self.served_last = peer;
                return Some((peer, position));
            }
            self.waiting.remove(&peer);
        }
        None
    }
}

/// The machines of a rack, by their numbers.
#[derive(Default)]
pub struct Machines {
    numbers: Vec<usize>,
    machines: Vec<Machine>,
}

impl Machines {
    pub fn push(&mut self, machine: Machine) {
        self.numbers.push(machine.number);
        self.machines.push(machine);
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Machine> {
        self.machines.iter()
    }

    /// Those that were there from the start follow each other.
    fn at(&self, number: usize) -> usize {
        let guess = number.wrapping_sub(self.numbers[0]);
        match self.numbers.get(guess) {
            Some(found) if *found == number => guess,
            _ => self.numbers.binary_search(&number).expect("a machine of this rack"),
        }
    }
}

impl std::ops::Index<usize> for Machines {
    type Output = Machine;

    fn index(&self, number: usize) -> &Machine {
        &self.machines[self.at(number)]
    }
}

impl std::ops::IndexMut<usize> for Machines {
    fn index_mut(&mut self, number: usize) -> &mut Machine {
        let at = self.at(number);
        &mut self.machines[at]
    }
}

/// The name of the machine with this number: spread over the whole range, as keys are; [`number_of`] reads it.
pub fn node_id(number: usize) -> NodeId {
    let mut rng = super::rng::Rng::new(number as u64 + 1);
    let mut id = [0; 32];
    for part in id.chunks_mut(8) {
        part.copy_from_slice(&rng.next().to_le_bytes());
    }
    id[20..24].copy_from_slice(&(number as u32).to_le_bytes());
    NodeId(id)
}

/// The number of the machine of this name.
pub fn number_of(id: &NodeId) -> usize {
    u32::from_le_bytes([id.0[20], id.0[21], id.0[22], id.0[23]]) as usize
}

impl Watch {
    /// A peer says something.
    pub fn hear(&mut self, from: usize, message: &Message, now: Time) {
        match message {
            Message::Have { holdings, .. } => {
                self.told.insert(from, holdings.positions().clone());
            }
            Message::HaveMore { holdings, .. } => {
                *self.told.entry(from).or_default() |= holdings.positions();
            }
            Message::Absent { positions, retry_ms, .. } => {
                for position in positions {
                    self.asked.get_mut(&from).map(|asked| asked.remove(position));
                    if *retry_ms == 0 {
                        self.told.get_mut(&from).map(|told| told.remove(*position));
                    }
                }
                self.busy.insert(from, now + Duration::from_millis(u64::from(*retry_ms)));
            }
            _ => {}
        }
    }

    /// The machine does something.
    pub fn act(&mut self, output: &Output, now: Time) {
        match output {
            Output::Ask(id, positions) => {
                let asked = self.asked.entry(number_of(id)).or_default();
                asked.extend(positions.iter().map(|position| (*position, now)));
            }
            Output::Cancel(id, positions) => {
                if let Some(asked) = self.asked.get_mut(&number_of(id)) {
                    asked.retain(|position, _| !positions.contains(position));
                }
            }
            Output::AskOrigin(position) => {
                self.origin_asked.insert(*position);
            }
            _ => {}
        }
    }
}
