//! A scenario, what came of it, and what the wires would have forced.

use std::time::Duration;

use proto::{Position, Time};

use super::machine::Spec;

/// A scenario.
#[derive(Debug, Clone)]
pub struct Setup {
    pub seed: u64,
    pub chunks: usize,
    /// Bytes of a chunk as stored, on average.
    pub chunk_bytes: f64,
    pub machines: Vec<Spec>,
    /// Bytes a second of each rack's uplink, each way. A machine's rack is its zone.
    pub racks: Vec<f64>,
    /// The beginning of the image is wanted first.
    pub in_order: bool,
    /// Bytes a second of the origin's link.
    pub origin_rate: f64,
    pub origin_delay: Duration,
    /// The origin answers nothing between these moments.
    pub origin_down: Option<(Time, Time)>,
    pub latency: Duration,
    pub rack_latency: Duration,
    /// From the start of both until two machines know of each other.
    pub discovery: (Duration, Duration),
    /// How many machines of other racks each finds by itself, in a fleet of more than that.
    pub found: usize,
    pub verification: Duration,
    /// How long the origin is left alone at first.
    pub grace: Duration,
    /// The share of machines that end each second, and of those whose end is seen by nobody; for each another starts.
    pub churn: (f64, f64),
    /// The rules are checked, and the books after every so many steps; 0: never.
    pub check_every: u64,
    /// Simulated time after which the run is over.
    pub limit: Duration,
    /// A run that is over without everyone complete is reported, not a panic.
    pub lenient: bool,
    /// Threads that run the racks; 0: as many as there are processors, if there is enough for them to do.
    pub threads: usize,
}

impl Setup {
    /// Stored bytes of the chunks come around 23 KB, uncompressed around 64 KiB, as in the image of the benchmark.
    pub fn new(seed: u64, chunks: usize, machines: Vec<Spec>, origin_rate: f64) -> Self {
        Self {
            seed,
            chunks,
            chunk_bytes: 23_400.0,
            machines,
            in_order: false,
            racks: vec![f64::INFINITY],
            origin_rate,
            origin_delay: Duration::from_micros(200),
            origin_down: None,
            latency: Duration::from_micros(200),
            rack_latency: Duration::from_micros(500),
            discovery: (Duration::from_millis(100), Duration::from_secs(1)),
            found: 24,
            verification: Duration::from_micros(500),
            grace: Duration::from_millis(250),
            churn: (0.0, 0.0),
            check_every: 1,
            limit: Duration::from_secs(600),
            lenient: false,
            threads: 0,
        }
    }
}

impl Setup {
    /// How long a message takes within a rack, or from one to another, apart from its bytes.
    pub fn latency(&self, same: bool) -> Duration {
        if same { self.latency } else { self.rack_latency }
    }
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// From the first start to the last finish.
    pub time: f64,
    /// When each machine was complete; `None` where it never was.
    pub finished: Vec<Option<Time>>,
    /// How long each machine that had to finish took from its own start, in seconds.
    pub took: Vec<f64>,
    /// Machines that said they are complete and are not.
    pub wrong: u64,
    /// The most chunks that a machine had behind the first that it lacked.
    pub ahead: u64,
    /// Machines that had to finish, and those of them that had everything from the start.
    pub expected: u64,
    pub seeds: u64,
    pub origin_bytes: u64,
    pub image_bytes: u64,
    pub chunks: u64,
    /// Bytes that came into each rack, chunks and all else.
    pub uplinks: Vec<u64>,
    /// Bytes of chunks that reached machines.
    pub data_bytes: u64,
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
    /// What the wires force, in seconds.
    pub bound: f64,
}

impl Outcome {
    /// Adds what happened in a rack.
    pub fn add(&mut self, rack: &Outcome) {
        self.wrong += rack.wrong;
        self.ahead = self.ahead.max(rack.ahead);
        self.data_bytes += rack.data_bytes;
        self.messages += rack.messages;
        self.message_bytes += rack.message_bytes;
        self.steps += rack.steps;
        self.banned += rack.banned;
        self.trace = self.trace.rotate_left(5) ^ rack.trace;
        self.claims.extend(&rack.claims);
        self.longest_wait = self.longest_wait.max(rack.longest_wait);
    }

    /// Bytes of the origin over bytes of the image.
    pub fn copies(&self) -> f64 {
        self.origin_bytes as f64 / self.image_bytes as f64
    }

    /// Bytes into the rack that took most, over bytes of the image.
    pub fn worst_uplink(&self) -> f64 {
        self.uplinks.iter().copied().max().unwrap_or(0) as f64 / self.image_bytes as f64
    }

    pub fn control_over_data(&self) -> f64 {
        self.message_bytes as f64 / self.data_bytes.max(1) as f64
    }

    /// The time that so large a share of the machines did not exceed.
    pub fn percentile(&self, share: f64) -> f64 {
        let mut took = self.took.clone();
        took.sort_by(f64::total_cmp);
        let at = (took.len() as f64 * share).ceil() as usize;
        took.get(at.saturating_sub(1)).copied().unwrap_or(0.0)
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

/// The same for the machines of a scenario that start empty: each takes all through its own link, each rack through its
/// uplink, all of it comes from the origin's link and the machines', and who starts last still needs its own link's time.
pub fn bound_of(setup: &Setup, bytes: u64) -> f64 {
    let honest = |spec: &&Spec| spec.has_to_finish() && !spec.joined;
    let f = bytes as f64;
    let need = |spec: &Spec| f * (1.0 - spec.held.len() as f64 / setup.chunks as f64);
    let taking: Vec<&Spec> = setup.machines.iter().filter(honest).filter(|spec| need(spec) > 0.0).collect();
    let held = setup.machines.iter().any(|spec| spec.held.len() == setup.chunks as u64);
    let start = |spec: &&&Spec| spec.start;
    let first = taking.iter().min_by_key(start).map_or(0.0, |spec| spec.start.as_secs_f64());
    let own = taking.iter().map(|spec| spec.start.as_secs_f64() - first + need(spec) / spec.down).fold(0.0, f64::max);
    let origin = if held { 0.0 } else { f / setup.origin_rate };
    let racked = |rack: usize| setup.machines.iter().filter(move |spec| spec.rack == rack);
    let seeded = |rack: usize| racked(rack).any(|spec| spec.held.len() == setup.chunks as u64);
    let needy = |rack: usize| !seeded(rack) && racked(rack).any(|spec| need(spec) > 0.0);
    let uplink = setup.racks.iter().enumerate().filter(|(rack, _)| needy(*rack)).map(|(_, rate)| f / rate);
    let up: f64 = setup.machines.iter().map(|spec| spec.up).sum();
    let all: f64 = taking.iter().map(|spec| need(spec)).sum::<f64>() / (setup.origin_rate + up);
    uplink.fold(own.max(origin).max(all), f64::max)
}
