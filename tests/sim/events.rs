//! What is still to happen, in order of time; what is due at one moment, in the order in which it was said.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use proto::exchange::OriginAnswer;
use proto::{Message, Position, Time};

use super::links::Hop;

#[derive(Debug, Clone)]
pub enum Event {
    Start(u32),
    /// Two machines hear of each other.
    Learn(u32, u32),
    /// Discovery says that a machine is gone.
    Lost(u32, u32),
    /// The first dialled the second.
    Session(u32, u32),
    Closed {
        at: u32,
        peer: u32,
        serial: u32,
        gone: bool,
    },
    Vanish(u32),
    /// A machine was cut off, or stopped, for longer than sessions live.
    Deaf(u32),
    Churn,
    Say {
        from: u32,
        to: u32,
        serial: u32,
        bytes: u32,
        message: Arc<Message>,
    },
    Sent(u32),
    Chunk {
        from: u32,
        to: u32,
        serial: u32,
        position: Position,
        hop: Hop,
    },
    OriginHop {
        to: u32,
        position: Position,
        first_byte: Duration,
        hop: Hop,
    },
    FromOrigin {
        to: u32,
        position: Position,
        answer: OriginAnswer,
    },
    /// From a peer, or from the origin.
    Verified {
        at: u32,
        position: Position,
        from: Option<u32>,
        right: bool,
    },
    Timer(u32),
    Talk(u32, u32),
}

struct Due {
    at: Time,
    sequence: u64,
    event: Event,
}

#[derive(Default)]
pub struct Events {
    heap: BinaryHeap<Due>,
    sequence: u64,
}

impl Events {
    pub fn push(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        self.heap.push(Due { at, sequence: self.sequence, event });
    }

    /// When the next is due; `None`: nothing happens any more.
    pub fn next_at(&self) -> Option<Time> {
        self.heap.peek().map(|due| due.at)
    }

    pub fn pop(&mut self) -> Option<(Time, Event)> {
        self.heap.pop().map(|due| (due.at, due.event))
    }
}

impl Due {
    fn key(&self) -> (Time, u64) {
        (self.at, self.sequence)
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The earliest is the greatest: the heap yields it first.
impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}
