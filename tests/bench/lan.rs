//! N machines that extract one image: how near to what the wires force, and what the origin sends. Root, iproute2, nginx,
//! casync; a LAN of network namespaces, the release build of the program, targets in memory.
//!
//! `cargo bench --bench lan` for the defaults, `cargo bench --bench lan -- --help` for the rest. The time is from the
//! first start to the last image under its final name, `F` the size of the image's distinct chunks as they are stored,
//! the origin's bytes all that it sent (TCP payload: index, retries and duplicates included). The bound is
//! `max(F/B, F/D, N·F/(B + N·U))`: everything crosses the origin's link once, each machine's link once, and comes from
//! somewhere. All processes share this machine: where its CPU is busy, it is what is measured.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../support"]
#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared with the tests")]
mod support {
    pub mod data;
    pub mod lan;
    pub mod need;
    pub mod process;
}
#[allow(unreachable_pub)]
mod common;
#[path = "lan/swarm.rs"]
mod swarm;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use common::published::{PublishArgs, Published, Version};
use common::{median, mib};
use support::need::Need;
use swarm::Run;

/// Machines on a LAN extract an image that the origin's web server publishes.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo bench --bench lan --", max_term_width = 110)]
struct Args {
    /// What to measure, one after the other.
    #[arg(value_enum, default_value = "together")]
    modes: Vec<Mode>,
    /// Machines.
    #[arg(long, default_value_t = 8)]
    hosts: usize,
    /// Rate of each machine's link, up and down.
    #[arg(long, default_value_t = 200)]
    lan_mbit: u32,
    /// Rate of the origin's link.
    #[arg(long, default_value_t = 100)]
    origin_mbit: u32,
    /// One-way delay of the origin's link.
    #[arg(long, default_value_t = 0)]
    origin_delay_ms: u32,
    /// Seconds between two starts, with `stagger`.
    #[arg(long, default_value_t = 2.0)]
    stagger: f64,
    /// Machines that extract, with `upgrade`; the others only serve what they have.
    #[arg(long, default_value_t = 1)]
    upgrading: usize,
    /// With `upgrade`: the machines that extract lack the old image, and have to take from their neighbours what it
    /// shares with the new one.
    #[arg(long)]
    no_seed: bool,
    /// Runs of each; what is printed last is the median.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    #[command(flatten)]
    publish: PublishArgs,
    /// One more argument for `caswarm extract`; may be repeated.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    extract_arg: Vec<String>,
    /// Do not compare the images with the source.
    #[arg(long)]
    no_verify: bool,
    /// Print one JSON object for each mode instead of lines.
    #[arg(long)]
    json: bool,
    /// Where the targets go, which have to have room there [default: /dev/shm].
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// All start at once.
    Together,
    /// They start one after the other.
    Stagger,
    /// One joins when all others have the image and serve it.
    Late,
    /// All have the old image; some extract the new one, with the old as seed.
    Upgrade,
    /// One machine without neighbours.
    Alone,
}

impl Mode {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// What has to cross which wire.
#[derive(Debug)]
struct Load {
    /// Machines.
    hosts: usize,
    /// Those that extract; the others only serve.
    extracting: usize,
    /// Bytes as stored that no machine has when it starts.
    new: u64,
    /// Bytes as stored that each machine that extracts has to receive.
    each: u64,
    /// Seconds from the first start to the last.
    starts: f64,
    /// What the origin's bytes are compared with, and its name.
    share: u64,
    share_name: &'static str,
}

impl Load {
    fn of(mode: Mode, args: &Args, published: &Published) -> Self {
        let chunks = published.chunks(&published.new);
        let (hosts, all) = (args.hosts, chunks.values().sum());
        let together = Self { hosts, extracting: hosts, new: all, each: all, starts: 0.0, share: all, share_name: "F" };
        match mode {
            Mode::Together => together,
            Mode::Stagger => Self { starts: args.stagger * hosts.saturating_sub(1) as f64, ..together },
            Mode::Alone => Self { hosts: 1, extracting: 1, ..together },
            Mode::Late => Self { extracting: 1, new: 0, ..together },
            Mode::Upgrade => {
                let old = published.chunks(published.old.as_ref().unwrap());
                let new = chunks.iter().filter(|(id, _)| !old.contains_key(id)).map(|(_, size)| size).sum();
                let (extracting, each) = (args.upgrading.clamp(1, hosts), if args.no_seed { all } else { new });
                Self { extracting, new, each, share: new, share_name: "what no machine has", ..together }
            }
        }
    }

    /// The least time that the wires allow, in seconds.
    fn bound(&self, args: &Args) -> f64 {
        let payload_rate = |mbit: u32| f64::from(mbit) * 1e6 / 8.0 * 1448.0 / 1514.0;
        let (origin, link) = (payload_rate(args.origin_mbit), payload_rate(args.lan_mbit));
        let together = self.extracting as f64 * self.each as f64 / (origin + self.hosts as f64 * link);
        let each = self.starts + self.each as f64 / link;
        (self.new as f64 / origin).max(each).max(together)
    }
}

fn main() {
    let args = Args::parse();
    for need in [Need::Namespaces, Need::Program("nginx")] {
        if !need.is_met() {
            common::lacks(&format!("this needs {need}"));
        }
    }
    if cfg!(debug_assertions) {
        eprintln!("not a release build: these are no figures (cargo bench makes one)");
    }
    let work = common::workplace(args.work.as_deref());
    let published = Published::new(&args.publish, work.path(), args.modes.contains(&Mode::Upgrade));
    if args.modes.contains(&Mode::Upgrade) && published.old.is_none() {
        common::lacks("upgrade needs --seed-image and --seed-index beside --publish");
    }
    if !args.json {
        let Version { image, .. } = &published.new;
        let chunks = published.chunks(&published.new);
        let (length, stored) = (image.metadata().unwrap().len(), chunks.values().sum());
        println!("{}: {:.1} MiB, {} chunks, F = {:.1} MiB", image.display(), mib(length), chunks.len(), mib(stored));
    }
    for &mode in &args.modes {
        let load = Load::of(mode, &args, &published);
        let runs: Vec<Run> = (1..=args.runs)
            .map(|number| {
                let run = swarm::run(mode, &load, &args, &published, work.path());
                if !args.json {
                    println!("{:>8} {number}: {}", mode.name(), line(&load, &args, &run));
                }
                run
            })
            .collect();
        let middle = Run::median(&runs);
        if args.json {
            println!("{}", json(mode, &load, &args, &runs, &middle));
        } else {
            println!("{:>8} median of {}: {}", mode.name(), args.runs, line(&load, &args, &middle));
        }
    }
}

fn line(load: &Load, args: &Args, run: &Run) -> String {
    let bound = load.bound(args);
    let mut line = format!("T {:.2} s, bound {bound:.2} s, T/bound {:.3}, ", run.seconds, run.seconds / bound);
    line += &format!("origin {:.1} MiB = {:.3} of ", mib(run.origin), run.origin as f64 / load.share as f64);
    line += load.share_name;
    line += &format!(", peak memory {:.0} MiB", mib(run.memory));
    if let Some(memory) = run.node_memory {
        line += &format!(" (nodes {:.0} MiB)", mib(memory));
    }
    if let Some((middle, worst)) = run.first_session {
        line += &format!(", first session {middle:.2} s (worst {worst:.2} s)");
    }
    line
}

fn json(mode: Mode, load: &Load, args: &Args, runs: &[Run], middle: &Run) -> serde_json::Value {
    let bound = load.bound(args);
    let one = |run: &Run| {
        serde_json::json!({
            "seconds": run.seconds, "ratio": run.seconds / bound, "origin_bytes": run.origin,
            "origin_share": run.origin as f64 / load.share as f64, "peak_memory": run.memory,
            "node_peak_memory": run.node_memory, "first_session": run.first_session.map(|(middle, _)| middle),
            "worst_first_session": run.first_session.map(|(_, worst)| worst), "finished": run.finished,
        })
    };
    serde_json::json!({
        "mode": mode.name(), "hosts": load.hosts, "extracting": load.extracting, "lan_mbit": args.lan_mbit,
        "origin_mbit": args.origin_mbit, "origin_delay_ms": args.origin_delay_ms, "new_bytes": load.new,
        "bytes_each": load.each, "bound": bound, "median": one(middle),
        "runs": runs.iter().map(one).collect::<Vec<_>>(),
        "verified": !args.no_verify, "median_ratio": median(runs.iter().map(|run| run.seconds / bound)),
    })
}
