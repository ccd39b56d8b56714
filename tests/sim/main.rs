//! `cargo sim SCENARIO.toml [--seed N] [--json]`: runs a scenario and prints what came of it. README.md documents the
//! scenarios and the figures.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "the run itself is timed; its decisions get simulated time")]

extern crate caswarm_proto as proto;

mod checks;
mod events;
mod file;
mod liars;
mod links;
mod machine;
mod meetings;
mod network;
mod part;
mod report;
#[allow(dead_code, reason = "the tests use more of it")]
mod rng;
#[allow(dead_code, reason = "the tests use more of it")]
mod scenario;
mod sessions;
mod threads;
mod who;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use network::Network;
use report::Report;

/// Runs a scenario of a fleet that fetches one image, and prints what came of it.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo sim")]
struct Args {
    /// The scenario; tests/sim/README.md says what may be in it.
    scenario: PathBuf,
    /// Another seed than the scenario's.
    #[arg(long)]
    seed: Option<u64>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Threads to run on; the run is the same with any number. 0: as many as are of use.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

/// Starts this program again with memory in large pages: nearly every event is about a machine that is in no cache, and
/// with small pages where it is would not be in one either. With another C library nothing comes of it.
fn with_large_pages() {
    use std::os::unix::process::CommandExt;
    const TUNABLES: &str = "GLIBC_TUNABLES";
    if let (None, Ok(program)) = (std::env::var_os(TUNABLES), std::env::current_exe()) {
        let mut again = std::process::Command::new(program);
        let failed = again.args(std::env::args_os().skip(1)).env(TUNABLES, "glibc.malloc.hugetlb=1").exec();
        eprintln!("without large pages: {failed}");
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    with_large_pages();
    let setup =
        std::fs::read_to_string(&args.scenario).map_err(|error| error.to_string()).and_then(|text| file::parse(&text));
    let mut setup = match setup {
        Ok(setup) => setup,
        Err(error) => {
            eprintln!("{}: {error}", args.scenario.display());
            return ExitCode::from(2);
        }
    };
    setup.seed = args.seed.unwrap_or(setup.seed);
    setup.threads = args.threads;
    let started = Instant::now();
    let outcome = Network::new(setup).run();
    let report = Report::new(&outcome, started.elapsed());
    match args.json {
        true => println!("{}", serde_json::to_string(&report).unwrap()),
        false => println!("{report}"),
    }
    match report.finished == report.machines && report.wrong == 0 {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
