//! What is printed of a run.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::scenario::Outcome;

/// The figures; README.md explains each.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub machines: u64,
    pub finished: u64,
    pub wrong: u64,
    pub t_over_bound: f64,
    pub p99_over_bound: f64,
    pub origin_over_f: f64,
    pub uplink_over_f: f64,
    pub control_over_data: f64,
    pub messages_per_machine: f64,
    pub memory_per_machine: f64,
    pub events: u64,
    pub seconds: f64,
    pub rss_mib: f64,
    /// Simulated seconds, and what the wires force.
    pub simulated_seconds: f64,
    pub bound_seconds: f64,
    pub image_mb: f64,
    pub ahead_over_f: f64,
    pub duplicates: u64,
    pub banned: u64,
    pub trace: String,
}

impl Report {
    pub fn new(outcome: &Outcome, took: Duration) -> Self {
        let rss = peak_rss();
        let count = outcome.finished.len().max(1) as f64;
        Self {
            machines: outcome.expected,
            finished: outcome.took.len() as u64 + outcome.seeds,
            wrong: outcome.wrong,
            t_over_bound: outcome.time / outcome.bound,
            p99_over_bound: outcome.percentile(0.99) / outcome.bound,
            origin_over_f: outcome.copies(),
            uplink_over_f: outcome.worst_uplink(),
            control_over_data: outcome.control_over_data(),
            messages_per_machine: outcome.messages as f64 / count,
            memory_per_machine: rss * 1_048_576.0 / count,
            events: outcome.steps,
            seconds: took.as_secs_f64(),
            rss_mib: rss,
            simulated_seconds: outcome.time,
            bound_seconds: outcome.bound,
            image_mb: outcome.image_bytes as f64 / 1e6,
            ahead_over_f: outcome.ahead as f64 / outcome.chunks.max(1) as f64,
            duplicates: outcome.duplicates,
            banned: outcome.banned,
            trace: format!("{:016x}", outcome.trace),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "machines           {} of {} finished, {} wrong", self.finished, self.machines, self.wrong)?;
        let (time, bound) = (self.simulated_seconds, self.bound_seconds);
        writeln!(f, "time               {time:.2} s, {:.3} of the bound of {bound:.2} s", self.t_over_bound)?;
        writeln!(f, "99 % within        {:.3} of the bound", self.p99_over_bound)?;
        writeln!(f, "origin             {:.4} F, F = {:.1} MB", self.origin_over_f, self.image_mb)?;
        writeln!(f, "worst uplink       {:.4} F", self.uplink_over_f)?;
        writeln!(f, "ahead of the front {:.3} F at most", self.ahead_over_f)?;
        let control = self.control_over_data * 100.0;
        writeln!(f, "control            {control:.2} % of data, {:.0} messages a machine", self.messages_per_machine)?;
        writeln!(f, "duplicates         {}, {} banned", self.duplicates, self.banned)?;
        let events = self.events as f64 / 1e6;
        write!(f, "this run           {events:.1} million events, ")?;
        write!(f, "{:.1} s, {:.0} MiB, trace {}", self.seconds, self.rss_mib, self.trace)
    }
}

/// The most memory that this process had, in MiB.
fn peak_rss() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
