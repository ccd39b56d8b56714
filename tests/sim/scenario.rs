//! A scenario, what came of it, and what the wires would have forced.

use std::time::Duration;

use proto::{Position, Time};

use super::machine::Spec;

/// A scenario.
#[derive(Debug, Clone)]
pub struct Setup {
    pub seed: u64,
    pub chunks: usize,
    pub machines: Vec<Spec>,
    /// Bytes a second of the origin's link.
    pub origin_rate: f64,
    pub origin_delay: Duration,
    /// The origin answers nothing between these moments.
    pub origin_down: Option<(Time, Time)>,
    pub latency: Duration,
    /// From the start of both until two machines have a session.
    pub discovery: (Duration, Duration),
    pub verification: Duration,
    /// The books are checked after every so many steps.
    pub check_every: u64,
    /// Simulated time after which the run has failed.
    pub limit: Duration,
}

impl Setup {
    /// Stored bytes of the chunks come around 23 KB, uncompressed around 64 KiB, as in the image of the benchmark.
    pub fn new(seed: u64, chunks: usize, machines: Vec<Spec>, origin_rate: f64) -> Self {
        Self {
            seed,
            chunks,
            machines,
            origin_rate,
            origin_delay: Duration::from_micros(200),
            origin_down: None,
            latency: Duration::from_micros(200),
            discovery: (Duration::from_millis(100), Duration::from_secs(1)),
            verification: Duration::from_micros(500),
            check_every: 1,
            limit: Duration::from_secs(600),
        }
    }
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// From the first start to the last finish.
    pub time: f64,
    /// When each machine was complete; `None` where it never was.
    pub finished: Vec<Option<Time>>,
    pub origin_bytes: u64,
    pub image_bytes: u64,
    pub duplicates: u64,
    pub late: u64,
    pub messages: u64,
    pub message_bytes: u64,
    pub steps: u64,
    pub banned: u64,
    /// A digest of everything that happened, in order.
    pub trace: u64,
    /// Claims: when, by whom, of which group.
    pub claims: Vec<(Time, usize, u32)>,
    /// Second copies from the origin: when, to whom, of which position.
    pub repeated: Vec<(Time, usize, Position)>,
    /// The longest that an asked chunk which somebody else held took, from the first request, by machine.
    pub longest_wait: Duration,
}

impl Outcome {
    /// Bytes of the origin over bytes of the image.
    pub fn copies(&self) -> f64 {
        self.origin_bytes as f64 / self.image_bytes as f64
    }
}

/// Bits a second in millions, as bytes a second.
pub fn mbit(rate: f64) -> f64 {
    rate * 1e6 / 8.0
}

/// What the wires force: the bound of the design, for equal machines.
pub fn bound(bytes: u64, machines: usize, lan: f64, origin: f64) -> f64 {
    let (bytes, count) = (bytes as f64, machines as f64);
    (bytes / origin).max(bytes / lan).max(count * bytes / (origin + count * lan))
}
