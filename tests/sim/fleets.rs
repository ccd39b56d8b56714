//! Fleets as the scenarios beside this file describe them, with what is promised of each. Small enough for every day; the
//! large ones are run with `cargo sim`.

use std::time::Instant;

use super::file::parse;
use super::network::Network;
use super::report::Report;
use super::rng::seed;
use super::scenario::{Outcome, Setup};

/// The scenario of this name, with so many chunks.
fn scenario(name: &str, chunks: usize) -> Setup {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sim/scenarios").join(name);
    let mut setup = parse(&std::fs::read_to_string(path).unwrap()).unwrap();
    setup.chunks = chunks;
    setup.seed = seed(setup.seed);
    setup.check_every = 997;
    setup.lenient = false;
    setup
}

fn run(name: &str, setup: Setup) -> Outcome {
    let started = Instant::now();
    let outcome = Network::new(setup).run();
    println!("{name}:\n{}", Report::new(&outcome, started.elapsed()));
    assert_eq!(outcome.wrong, 0);
    assert_eq!(outcome.took.len() as u64 + outcome.seeds, outcome.expected);
    outcome
}

#[test]
fn three_segments_cost_the_origin_one_copy_and_each_uplink_one() {
    let outcome = run("3 x 5", scenario("segments-3x5.toml", 1500));
    assert!(outcome.copies() <= 1.03, "{} copies", outcome.copies());
    assert!(outcome.worst_uplink() <= 1.08, "{} F into a segment", outcome.worst_uplink());
    assert!(outcome.time < outcome.bound + 1.5, "{} s of {}", outcome.time, outcome.bound);
}

#[test]
fn ten_racks_cost_the_origin_one_copy_and_each_uplink_one() {
    let outcome = run("10 x 10", scenario("racks-10x10.toml", 600));
    assert!(outcome.copies() <= 1.03, "{} copies", outcome.copies());
    assert!(outcome.worst_uplink() <= 1.15, "{} F into a rack", outcome.worst_uplink());
}

#[test]
fn a_lan_too_large_for_all_to_know_all_costs_the_origin_one_copy_while_machines_come_and_die() {
    let outcome = run("200, churn", scenario("lan-200-churn.toml", 200));
    assert!(outcome.copies() <= 1.1, "{} copies", outcome.copies());
}
