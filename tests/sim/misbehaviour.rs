//! Machines and origins that do not do what they should, with every book checked after every step.

use std::time::Duration;

use roaring::RoaringBitmap;

use super::machine::{Kind, Spec};
use super::network::Network;
use super::rng::seed;
use super::scenario::{Outcome, Setup, mbit};

/// Not a multiple of 16: the last group is a short one.
const CHUNKS: usize = 325;

fn setup(count: usize) -> Setup {
    let mut setup = Setup::new(seed(3), CHUNKS, vec![Spec::new(mbit(200.0), mbit(200.0)); count], mbit(20.0));
    setup.discovery = (Duration::from_millis(1), Duration::from_millis(20));
    setup
}

fn everything() -> RoaringBitmap {
    (0..CHUNKS as u32).collect()
}

fn run(name: &str, setup: Setup) -> Outcome {
    let outcome = Network::new(setup).run();
    println!(
        "{name}: T {:.2} s, origin/F {:.3}, duplicates {}, late {}, banned {}, longest wait {:?}",
        outcome.time,
        outcome.copies(),
        outcome.duplicates,
        outcome.late,
        outcome.banned,
        outcome.longest_wait
    );
    outcome
}

/// Eight machines with nothing wrong: what the others are compared with.
fn untroubled() -> Outcome {
    run("untroubled", setup(8))
}

#[test]
fn when_all_know_each_other_each_group_is_claimed_by_its_owner_until_somebody_is_done() {
    let mut setup = setup(4);
    setup.chunks = 1600;
    setup.check_every = 50;
    let outcome = run("all in order", setup);
    assert!(outcome.copies() < 1.0001, "{} copies", outcome.copies());
    let settled = Duration::from_millis(300);
    let election = proto::election::Election::new(&super::network::INDEX);
    let owner =
        |group: u32| (0..4).max_by_key(|number| election.score(&super::machine::node_id(*number), group)).unwrap();
    let own =
        |number: usize| outcome.claims.iter().filter(move |(_, by, group)| *by == number && owner(*group) == number);
    let somebody_is_done = (0..4).filter_map(|number| own(number).map(|(at, ..)| *at).max()).min().unwrap();
    let early: Vec<_> = outcome.claims.iter().filter(|(at, _, _)| *at > settled && *at <= somebody_is_done).collect();
    assert!(early.len() > 20, "{} claims", early.len());
    for (at, by, group) in early {
        let owner = owner(*group);
        assert_eq!(owner, *by, "group {group} was claimed at {at:?} by another than its owner");
    }
}

#[test]
fn a_chunk_asked_of_a_silent_peer_is_had_from_another_within_300_ms() {
    let mut setup = setup(3);
    setup.machines[0].held = everything();
    setup.machines[1].kind = Kind::Silent;
    setup.machines[2].origin = false;
    let outcome = run("one silent", setup);
    assert!(outcome.longest_wait < Duration::from_millis(310), "{:?}", outcome.longest_wait);
    assert!(outcome.time < 1.5, "{} s", outcome.time);
}

#[test]
fn silent_peers_that_claim_to_hold_everything_do_not_keep_the_others_from_finishing() {
    let mut setup = setup(8);
    for machine in &mut setup.machines[5..] {
        machine.kind = Kind::Silent;
    }
    let outcome = run("three silent", setup);
    assert!(outcome.copies() < 1.1, "{} copies", outcome.copies());
    assert!(outcome.time < untroubled().time + 4.0, "{} s", outcome.time);
}

#[test]
fn a_peer_that_denies_what_it_said_to_hold_is_not_asked_for_ever() {
    let mut setup = setup(6);
    setup.machines[5].kind = Kind::Denying;
    let outcome = run("denying", setup);
    assert!(outcome.copies() < 1.1, "{} copies", outcome.copies());
    assert!(outcome.time < untroubled().time + 1.0, "{} s", outcome.time);
}

#[test]
fn a_peer_that_sends_garbage_is_banned_once_by_each_and_the_image_is_still_right() {
    let mut setup = setup(6);
    setup.machines[5].kind = Kind::Garbage;
    let outcome = run("garbage", setup);
    assert_eq!(outcome.banned, 5);
    assert!(outcome.copies() < 1.05, "{} copies", outcome.copies());
    assert!(outcome.time < untroubled().time + 1.0, "{} s", outcome.time);
}

#[test]
fn claims_without_progress_run_out() {
    let mut setup = setup(4);
    setup.machines[3].kind = Kind::Claiming;
    let outcome = run("claiming", setup);
    assert!(outcome.copies() < 1.05, "{} copies", outcome.copies());
    assert!(outcome.time < untroubled().time + 2.5, "{} s", outcome.time);
}

#[test]
fn peers_that_vanish_take_nothing_with_them() {
    let mut setup = setup(8);
    for (number, machine) in setup.machines[..4].iter_mut().enumerate() {
        machine.vanishes = Some(Duration::from_millis(500 + 400 * number as u64));
    }
    let outcome = run("vanishing", setup);
    assert!(outcome.copies() < 1.15, "{} copies", outcome.copies());
    assert!(outcome.time < untroubled().time + 1.5, "{} s", outcome.time);
}

#[test]
fn a_machine_that_is_stopped_for_good_delays_the_others_by_its_lateness() {
    let mut setup = setup(8);
    setup.machines[2].stopped = Some((Duration::from_millis(1200), Duration::MAX));
    let outcome = run("stopped", setup);
    assert!(outcome.copies() < 1.1, "{} copies", outcome.copies());
    assert!(outcome.time < untroubled().time + 2.0, "{} s", outcome.time);
}

#[test]
fn a_machine_that_stood_still_finishes_after_all() {
    let mut setup = setup(6);
    setup.machines[2].stopped = Some((Duration::from_millis(800), Duration::from_millis(4000)));
    let outcome = run("stopped for a while", setup);
    assert!(outcome.copies() < 1.1, "{} copies", outcome.copies());
    assert!(outcome.finished[2].unwrap() < Duration::from_secs(6), "{:?}", outcome.finished[2]);
}

#[test]
fn a_machine_without_internet_finishes_from_its_neighbours() {
    let mut setup = setup(6);
    setup.machines[0].origin = false;
    setup.machines[1].origin = false;
    let outcome = run("two without origin", setup);
    assert!(outcome.copies() < 1.03, "{} copies", outcome.copies());
    assert!(outcome.time < untroubled().time + 1.5, "{} s", outcome.time);
}

#[test]
fn a_machine_without_neighbours_finishes_from_the_origin() {
    let mut setup = setup(4);
    setup.machines[3].lan = false;
    let outcome = run("one alone", setup);
    assert!(outcome.copies() > 1.9 && outcome.copies() < 2.05, "{} copies", outcome.copies());
}

#[test]
fn an_origin_that_fails_halfway_and_comes_back_is_used_again_soon() {
    let mut setup = setup(6);
    setup.origin_down = Some((Duration::from_millis(1000), Duration::from_millis(6000)));
    let outcome = run("origin down for 5 s", setup);
    assert!(outcome.copies() < 1.1, "{} copies", outcome.copies());
    assert!(outcome.time < untroubled().time + 5.0 + 4.0, "{} s", outcome.time);
}

#[test]
fn one_slow_machine_does_not_slow_the_others() {
    let mut setup = setup(8);
    setup.chunks = 1600;
    setup.check_every = 50;
    setup.origin_rate = mbit(100.0);
    setup.machines[4] = Spec::new(mbit(10.0), mbit(10.0));
    let outcome = run("one of eight at 10 Mbit", setup);
    let others: Vec<f64> =
        outcome.finished.iter().enumerate().filter(|(n, _)| *n != 4).map(|(_, at)| at.unwrap().as_secs_f64()).collect();
    let last = others.iter().copied().fold(0.0, f64::max);
    let bound = outcome.image_bytes as f64 / mbit(100.0);
    println!("one of eight at 10 Mbit: the others took {last:.2} s, bound {bound:.2} s");
    assert!(outcome.copies() < 1.02, "{} copies", outcome.copies());
    assert!(last < bound + 1.8, "{last} s, {bound} s are needed");
}

#[test]
fn what_neighbours_hold_of_an_older_image_does_not_cross_the_internet() {
    let mut setup = setup(5);
    for machine in &mut setup.machines[3..] {
        machine.held = (0..CHUNKS as u32).filter(|position| position % 64 < 48).collect();
    }
    let outcome = run("older image", setup);
    assert!(outcome.copies() < 0.3, "{} copies", outcome.copies());
}

#[test]
fn whatever_goes_wrong_at_once_every_honest_machine_finishes() {
    for number in 0..12 {
        let mut setup = setup(9);
        setup.chunks = 165;
        setup.seed = seed(100 + number);
        let mut rng = super::rng::Rng::new(setup.seed);
        setup.discovery = (Duration::from_millis(1), Duration::from_millis(1500));
        for machine in &mut setup.machines[2..] {
            machine.start = Duration::from_millis(rng.next() % 3000);
            match rng.next() % 14 {
                0 => machine.kind = Kind::Silent,
                1 => machine.kind = Kind::Denying,
                2 => machine.kind = Kind::Garbage,
                3 => machine.kind = Kind::Claiming,
                4 => machine.vanishes = Some(machine.start + Duration::from_millis(rng.next() % 3000)),
                5 => machine.stopped = Some((machine.start, machine.start + Duration::from_millis(rng.next() % 3000))),
                6 => machine.origin = false,
                7 => *machine = Spec::new(mbit(5.0), mbit(10.0)),
                8 => machine.kind = Kind::Talking,
                9 => machine.kind = Kind::Repeating,
                10 => machine.kind = Kind::Busy,
                11 => machine.kind = Kind::Restless,
                _ => {}
            }
        }
        let outcome = run("all at once", setup);
        assert!(outcome.time < 40.0, "{} s, seed {}", outcome.time, 100 + number);
        assert!(outcome.copies() < 1.6, "{} copies, seed {}", outcome.copies(), 100 + number);
    }
}

/// All but the machine that is of this `kind` finish in the time of the untroubled and `beyond` seconds.
fn one_of(kind: Kind, beyond: f64) {
    let mut setup = setup(6);
    setup.machines[5].kind = kind;
    let outcome = run(&format!("one {kind:?}"), setup);
    assert!(outcome.copies() < 1.1, "{} copies", outcome.copies());
    assert!(outcome.time < untroubled().time + beyond, "{} s", outcome.time);
}

#[test]
fn a_peer_that_talks_and_never_answers_does_not_keep_what_it_was_asked_for() {
    one_of(Kind::Talking, 15.0);
}

#[test]
fn a_peer_that_sends_other_chunks_than_it_was_asked_for_does_not_keep_these() {
    one_of(Kind::Repeating, 15.0);
}

#[test]
fn a_peer_that_is_always_busy_does_not_keep_what_it_says_it_holds() {
    one_of(Kind::Busy, 15.0);
}

#[test]
fn peers_that_come_and_go_do_not_keep_the_others_from_the_origin_for_ever() {
    one_of(Kind::Restless, 11.0);
}
