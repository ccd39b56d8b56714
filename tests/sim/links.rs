//! The links: a machine's own up and down, its rack's to the others, the origin's. Each takes bytes in order of arrival,
//! at its rate, and passes them on as they come: a free link of the same rate adds nothing.

use std::time::Duration;

use proto::exchange::OriginAnswer;
use proto::{Position, Time};

use super::events::Event;
use super::part::Part;

/// A link of some rate.
#[derive(Debug, Clone)]
pub struct Link {
    /// Bytes a second.
    rate: f64,
    /// When the last byte so far is through.
    free: Time,
    /// Bytes that went through.
    pub bytes: u64,
}

/// A rack: its uplink, each way.
#[derive(Debug, Clone)]
pub struct Rack {
    pub to: Link,
    pub from: Link,
}

/// Where a chunk is on its way; what is after it is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    OutOfRack,
    IntoRack,
    ToMachine,
    There,
}

impl Link {
    pub fn new(rate: f64) -> Self {
        Self { rate, free: Duration::ZERO, bytes: 0 }
    }

    pub fn takes(&self, bytes: u32) -> Duration {
        if self.rate.is_finite() { Duration::from_secs_f64(f64::from(bytes) / self.rate) } else { Duration::ZERO }
    }

    /// When the last byte so far is through.
    pub fn free_at(&self) -> Time {
        self.free
    }

    /// Bytes take it until then.
    pub fn take_until(&mut self, free: Time, bytes: u32) {
        self.free = free;
        self.bytes += u64::from(bytes);
    }

    /// When bytes of which the last comes in now are through.
    pub fn pass(&mut self, bytes: u32, now: Time) -> Time {
        self.bytes += u64::from(bytes);
        self.free = now.max(self.free + self.takes(bytes));
        self.free
    }
}

impl Part {
    /// The first hop between two machines after the sender's own link.
    pub(super) fn first_hop(&self, from: usize, to: usize) -> Hop {
        if self.who[from].rack == self.who[to].rack { Hop::ToMachine } else { Hop::OutOfRack }
    }

    /// How long a message takes between two machines, apart from its bytes.
    pub(super) fn latency(&self, from: usize, to: usize) -> Duration {
        self.setup.latency(self.who[from].rack == self.who[to].rack)
    }

    /// Passes a chunk that is in the receiver's rack through the links from this hop on. `None`: it is there now; else the
    /// hop at which it is at that time.
    pub(super) fn pass(&mut self, to: usize, bytes: u32, mut hop: Hop) -> Option<(Time, Hop)> {
        loop {
            let (through, next) = match hop {
                Hop::OutOfRack | Hop::IntoRack => (self.rack.to.pass(bytes, self.now), Hop::ToMachine),
                Hop::ToMachine => (self.machines[to].down.pass(bytes, self.now), Hop::There),
                Hop::There => return None,
            };
            if through > self.now {
                return Some((through, next));
            }
            hop = next;
        }
    }

    pub(super) fn origin_hop(&mut self, to: usize, position: Position, first_byte: Duration, hop: Hop) {
        let length = self.stored[position as usize];
        let event = match self.pass(to, length, hop) {
            Some((at, hop)) => return self.push(at, Event::OriginHop { to: to as u32, position, first_byte, hop }),
            None => OriginAnswer::Bytes { bytes: u64::from(length), first_byte },
        };
        self.machines[to].fetched += u64::from(length);
        self.outcome.data_bytes += u64::from(length);
        self.origin_answered(to, position, event);
    }
}
