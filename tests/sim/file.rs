//! Scenarios as files: TOML becomes a [`Setup`]. README.md documents every key.

use std::time::Duration;

use proto::Time;
use serde::Deserialize;

use super::machine::{Cut, Kind, Spec};
use super::rng::Rng;
use super::scenario::{Setup, mbit};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    #[serde(default = "one")]
    seed: u64,
    /// Simulated seconds after which the run ends, complete or not.
    #[serde(default = "limit")]
    limit_s: f64,
    image: Image,
    origin: Origin,
    #[serde(default)]
    lan: Lan,
    #[serde(default)]
    churn: Churn,
    machines: Vec<Machines>,
    /// Steps between two checks of all books; 0: none, for large runs.
    #[serde(default)]
    check_every: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    chunks: Option<usize>,
    mb: Option<f64>,
    #[serde(default = "chunk_kb")]
    chunk_kb: f64,
    /// Its beginning is wanted first.
    #[serde(default)]
    in_order: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Origin {
    mbit: f64,
    #[serde(default = "origin_delay")]
    delay_ms: f64,
    /// From when to when it is down.
    down_s: Option<[f64; 2]>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Lan {
    delay_ms: f64,
    rack_delay_ms: f64,
    discovery_s: [f64; 2],
    found: usize,
    grace_s: f64,
    verification_ms: f64,
}

impl Default for Lan {
    fn default() -> Self {
        let [delay_ms, rack_delay_ms, verification_ms] = [0.2, 0.5, 0.5];
        Self { delay_ms, rack_delay_ms, discovery_s: [0.1, 0.5], found: 24, grace_s: 0.5, verification_ms }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Churn {
    per_minute: f64,
    silent: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Machines {
    /// Machines in each of the racks.
    count: usize,
    /// So many racks of them, each with an uplink of its own; none: they are in the rack of those before.
    racks: Option<usize>,
    uplink_mbit: Option<f64>,
    mbit: Option<f64>,
    up_mbit: Option<f64>,
    down_mbit: Option<f64>,
    #[serde(default)]
    start_s: Span,
    #[serde(default)]
    kind: KindName,
    /// The share of the image that each has: the same part, or another in each.
    #[serde(default)]
    holds: f64,
    #[serde(default)]
    holds_random: bool,
    #[serde(default = "yes")]
    origin: bool,
    #[serde(default = "yes")]
    lan: bool,
    /// Stopped from then to then, and going on.
    stopped_s: Option<[f64; 2]>,
    cut: Option<CutName>,
    cut_s: Option<[f64; 2]>,
    dies_s: Option<Span>,
    #[serde(default)]
    silently: bool,
}

/// One moment, or anywhere between two.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Span {
    At(f64),
    Between([f64; 2]),
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KindName {
    #[default]
    Honest,
    Silent,
    Denying,
    Garbage,
    Claiming,
    Talking,
    Repeating,
    Busy,
    Restless,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum CutName {
    Lan,
    Internet,
    All,
    Split,
}

/// Reads a scenario.
pub fn parse(text: &str) -> Result<Setup, String> {
    let scenario: Scenario = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut rng = Rng::new(scenario.seed ^ 0x5ce0);
    let chunk_bytes = scenario.image.chunk_kb * 1000.0;
    let chunks = match (scenario.image.chunks, scenario.image.mb) {
        (Some(chunks), None) => chunks,
        (None, Some(mb)) => (mb * 1e6 / chunk_bytes).round() as usize,
        _ => return Err("image: either chunks or mb has to be given".into()),
    };
    if !(1..=1 << 22).contains(&chunks) {
        return Err(format!("image: {chunks} chunks are not possible"));
    }
    let (mut machines, mut racks) = (Vec::new(), Vec::new());
    for group in &scenario.machines {
        let first = if group.racks.is_some() || racks.is_empty() { racks.len() } else { racks.len() - 1 };
        for rack in first..first + group.racks.unwrap_or(1) {
            if rack == racks.len() {
                racks.push(group.uplink_mbit.map_or(f64::INFINITY, mbit));
            }
            for _ in 0..group.count {
                machines.push(group.machine(rack, chunks, &mut rng)?);
            }
        }
    }
    let mut setup = Setup::new(scenario.seed, chunks, machines, mbit(scenario.origin.mbit));
    setup.chunk_bytes = chunk_bytes;
    setup.in_order = scenario.image.in_order;
    setup.racks = racks;
    setup.origin_delay = ms(scenario.origin.delay_ms);
    setup.origin_down = scenario.origin.down_s.map(span);
    setup.latency = ms(scenario.lan.delay_ms);
    setup.rack_latency = ms(scenario.lan.rack_delay_ms);
    setup.discovery = span(scenario.lan.discovery_s);
    setup.found = scenario.lan.found;
    setup.grace = seconds(scenario.lan.grace_s);
    setup.verification = ms(scenario.lan.verification_ms);
    setup.churn = (scenario.churn.per_minute / 60.0, scenario.churn.silent);
    setup.limit = seconds(scenario.limit_s);
    setup.check_every = scenario.check_every;
    setup.lenient = true;
    Ok(setup)
}

impl Machines {
    fn machine(&self, rack: usize, chunks: usize, rng: &mut Rng) -> Result<Spec, String> {
        let rate = |own: Option<f64>| own.or(self.mbit).map(mbit).ok_or("machines: mbit has to be given");
        let mut spec = Spec::new(rate(self.up_mbit)?, rate(self.down_mbit)?);
        spec.rack = rack;
        spec.start = self.start_s.draw(rng);
        spec.kind = self.kind.into();
        let held = (self.holds * chunks as f64).round() as u32;
        spec.held = match self.holds_random {
            // In runs, as a machine has it that was stopped in the middle.
            true => (0..chunks as u32).step_by(16).filter(|_| rng.unit() < self.holds).flat_map(run(chunks)).collect(),
            false => (0..held).collect(),
        };
        spec.origin = self.origin;
        spec.lan = self.lan;
        spec.stopped = self.stopped_s.map(span);
        spec.cut = match (self.cut, self.cut_s) {
            (Some(cut), Some(between)) => Some((span(between).0, span(between).1, cut.into())),
            (None, None) => None,
            _ => return Err("machines: cut and cut_s belong together".into()),
        };
        spec.vanishes = self.dies_s.map(|dies| dies.draw(rng));
        spec.silently = self.silently;
        Ok(spec)
    }
}

fn run(chunks: usize) -> impl Fn(u32) -> std::ops::Range<u32> {
    move |first| first..(first + 16).min(chunks as u32)
}

impl Span {
    fn draw(self, rng: &mut Rng) -> Time {
        match self {
            Span::At(at) => seconds(at),
            Span::Between(between) => rng.between(seconds(between[0]), seconds(between[1])),
        }
    }
}

impl Default for Span {
    fn default() -> Self {
        Self::At(0.0)
    }
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Honest => Kind::Honest,
            KindName::Silent => Kind::Silent,
            KindName::Denying => Kind::Denying,
            KindName::Garbage => Kind::Garbage,
            KindName::Claiming => Kind::Claiming,
            KindName::Talking => Kind::Talking,
            KindName::Repeating => Kind::Repeating,
            KindName::Busy => Kind::Busy,
            KindName::Restless => Kind::Restless,
        }
    }
}

impl From<CutName> for Cut {
    fn from(name: CutName) -> Self {
        match name {
            CutName::Lan => Cut::Lan,
            CutName::Internet => Cut::Internet,
            CutName::All => Cut::All,
            CutName::Split => Cut::Split,
        }
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

fn ms(ms: f64) -> Duration {
    seconds(ms / 1000.0)
}

fn span([from, to]: [f64; 2]) -> (Duration, Duration) {
    (seconds(from), seconds(to))
}

fn one() -> u64 {
    1
}

fn yes() -> bool {
    true
}

fn limit() -> f64 {
    3600.0
}

fn chunk_kb() -> f64 {
    23.4
}

fn origin_delay() -> f64 {
    5.0
}
