//! The scenarios of the benchmark, in simulation: how near to what the wires force, and what crosses the origin's link.

use std::time::Duration;

use roaring::RoaringBitmap;

use super::machine::Spec;
use super::network::Network;
use super::rng::seed;
use super::scenario::{Outcome, Setup, bound, mbit};

/// Chunks of the image: of the benchmark's, or of one small enough for the everyday tests.
fn chunks(everyday: usize) -> usize {
    if full() { 15_700 } else { everyday }
}

fn full() -> bool {
    std::env::var_os("CASWARM_SIM_FULL").is_some()
}

fn machines(count: usize, lan: f64) -> Vec<Spec> {
    vec![Spec::new(mbit(lan), mbit(lan)); count]
}

/// All books are checked after every step in the runs with misbehaving peers; here, where runs are long, now and then.
/// Discovery takes as much of the whole as it does with the benchmark's image.
fn setup(everyday: usize, machines: Vec<Spec>, origin: f64) -> Setup {
    let mut setup = Setup::new(seed(1), chunks(everyday), machines, mbit(origin));
    setup.check_every = 997;
    let scale = setup.chunks as f64 / 15_700.0;
    setup.discovery = (setup.discovery.0.mul_f64(scale), setup.discovery.1.mul_f64(scale));
    setup
}

fn report(name: &str, outcome: &Outcome, bound: f64) {
    let second = |from: u64, to: u64| {
        outcome.repeated.iter().filter(|(at, _, _)| at.as_secs() >= from && at.as_secs() < to).count()
    };
    println!(
        "{name}: {} machines, {} MB: T {:.2} s, T/bound {:.3}, origin/F {:.4}, duplicates {}, late {}, messages {} ({} KB), longest wait {:?}, second copies in second 0, 1, later: {} {} {}",
        outcome.finished.len(),
        outcome.image_bytes / 1_000_000,
        outcome.time,
        outcome.time / bound,
        outcome.origin_bytes as f64 / outcome.image_bytes as f64,
        outcome.duplicates,
        outcome.late,
        outcome.messages,
        outcome.message_bytes / 1000,
        outcome.longest_wait,
        second(0, 1),
        second(1, 2),
        second(2, 9999),
    );
}

/// Runs and reports; the two figures: time beyond the bound in seconds, and the origin's bytes over the image's.
fn run(name: &str, setup: Setup, lan: f64, origin: f64) -> (f64, f64) {
    let count = setup.machines.len();
    let outcome = Network::new(setup).run();
    let bound = bound(outcome.image_bytes, count, mbit(lan), mbit(origin));
    report(name, &outcome, bound);
    (outcome.time - bound, outcome.origin_bytes as f64 / outcome.image_bytes as f64)
}

#[test]
fn eight_machines_at_once_take_what_the_origins_link_takes() {
    for (origin, everyday) in [(100.0, 1600), (50.0, 1600)] {
        let (beyond, copies) = run("eight at once", setup(everyday, machines(8, 200.0), origin), 200.0, origin);
        assert!(beyond < 0.9, "{beyond} s beyond the bound");
        assert!(copies <= if full() { 1.005 } else { 1.02 }, "{copies} copies from the origin");
    }
}

#[test]
fn sixteen_machines_at_once_take_what_the_origins_link_takes() {
    let (beyond, copies) = run("sixteen at once", setup(1000, machines(16, 200.0), 50.0), 200.0, 50.0);
    assert!(beyond < 1.0, "{beyond} s beyond the bound");
    assert!(copies <= if full() { 1.005 } else { 1.02 }, "{copies} copies from the origin");
}

#[test]
fn machines_started_one_after_another_cost_the_origin_one_copy() {
    let mut machines = machines(8, 200.0);
    for (number, machine) in machines.iter_mut().enumerate() {
        machine.start = Duration::from_secs(2).mul_f64(chunks(1600) as f64 / 15_700.0) * number as u32;
    }
    let (_, copies) = run("eight, 2 s apart", setup(1600, machines, 100.0), 200.0, 100.0);
    assert!(copies <= if full() { 1.005 } else { 1.02 }, "{copies} copies from the origin");
}

#[test]
fn where_the_lan_is_the_narrow_place_it_is_kept_full() {
    let (beyond, copies) = run("lan as slow as origin", setup(1000, machines(8, 50.0), 50.0), 50.0, 50.0);
    assert!(beyond < 1.5, "{beyond} s beyond the bound");
    assert!(copies <= if full() { 1.005 } else { 1.02 }, "{copies} copies from the origin");
}

#[test]
fn thirty_machines_cost_the_origin_one_copy() {
    let (beyond, copies) = run("thirty at once", setup(600, machines(30, 100.0), 25.0), 100.0, 25.0);
    assert!(beyond < 2.0, "{beyond} s beyond the bound");
    assert!(copies <= if full() { 1.01 } else { 1.1 }, "{copies} copies from the origin");
}

#[test]
fn sixty_four_machines_with_an_origin_no_faster_than_one_of_them_cost_it_one_copy() {
    let (beyond, copies) = run("64 at once", setup(400, machines(64, 100.0), 100.0), 100.0, 100.0);
    assert!(beyond < 3.0, "{beyond} s beyond the bound");
    assert!(copies <= if full() { 1.05 } else { 1.3 }, "{copies} copies from the origin");
}

#[test]
fn a_late_joiner_takes_all_from_its_neighbours() {
    let mut machines = machines(8, 200.0);
    let count = chunks(3000);
    for machine in &mut machines[..7] {
        machine.held = (0..count as u32).collect::<RoaringBitmap>();
    }
    machines[7].start = Duration::from_secs(5);
    let mut outcome = Network::new(setup(3000, machines, 100.0)).run();
    outcome.time = (outcome.finished[7].unwrap() - Duration::from_secs(5)).as_secs_f64();
    let bound = outcome.image_bytes as f64 / mbit(200.0);
    report("late joiner", &outcome, bound);
    assert!(outcome.time < bound + 0.8, "{} s, {bound} s are needed", outcome.time);
    assert!(outcome.origin_bytes < 2_000_000, "{} bytes from the origin", outcome.origin_bytes);
}

#[test]
fn one_machine_fills_a_link_with_20_ms_of_delay_each_way() {
    let mut setup = setup(6000, machines(1, 1000.0), 100.0);
    setup.origin_delay = Duration::from_millis(20);
    let outcome = Network::new(setup).run();
    let bound = outcome.image_bytes as f64 / mbit(100.0);
    report("alone, 20 ms", &outcome, bound);
    assert!(outcome.time < bound / 0.95 + 0.5, "{} s, {bound} s are needed", outcome.time);
    assert_eq!(outcome.origin_bytes, outcome.image_bytes);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || Network::new(setup(300, machines(5, 100.0), 50.0)).run();
    let (first, second) = (run(), run());
    assert_eq!(first, second);
    let mut other = setup(300, machines(5, 100.0), 50.0);
    other.seed += 1;
    assert_ne!(Network::new(other).run().trace, first.trace);
}

#[test]
fn a_run_is_the_same_on_any_number_of_threads() {
    let run = |threads: usize| {
        let mut setup = setup(120, machines(40, 100.0), 100.0);
        setup.racks = vec![100e6; 10];
        setup.machines.iter_mut().zip(0..).for_each(|(machine, number)| machine.rack = number / 4);
        setup.check_every = 0;
        setup.churn = (0.01, 0.5);
        setup.threads = threads;
        Network::new(setup).run()
    };
    let alone = run(1);
    assert!(alone.steps > 10_000);
    assert_eq!(run(2), alone);
    assert_eq!(run(3), alone);
}
