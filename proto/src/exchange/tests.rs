//! One exchange among peers that do anything in any order: its books after every step, and that it ends complete.

mod world;

use proptest::prelude::*;

use super::*;
use world::{INDEX, ME, World, bytes, ms, node, set};

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_in_whatever_order_the_books_are_right_and_all_that_is_reachable_is_got(
        count in 1..80u32,
        holders in prop::collection::vec(0..8u8, 80),
        liars in 0..3usize,
        postponed in prop::collection::btree_set(0..80u32, 0..30),
        steps in prop::collection::vec((0..18u8, any::<u16>(), any::<u16>()), 0..150),
    ) {
        // Each chunk is held by one of four honest peers, by two of them, or by the origin alone.
        let holds = |peer: u8, holder: u8| holder % 5 == peer || holder == peer + 4;
        let held = |peer: u8| (0..count).zip(&holders).filter(move |(_, holder)| holds(peer, **holder)).map(|(p, _)| p);
        let mut truth: Vec<_> = (0..4).map(|peer| Some(set(held(peer)))).collect();
        truth.extend(vec![None; liars]);
        let reached = truth.iter().flatten().fold(RoaringBitmap::new(), |all, held| all | held);
        let origin = set((0..count).filter(|position| !reached.contains(*position) || position % 3 == 0));
        let long = Duration::from_secs(100_000);
        let config = Config { budget: 20_000, patience: long, absent_patience: long, ..Config::default() };
        let mut world = World::new(count, truth, config);
        world.exchange.postpone(&set(postponed));
        for (what, who, value) in steps {
            world.happen(what, who, value, &origin);
            world.drain();
        }
        prop_assert!((0..4).all(|peer| !world.banned.contains(&node(peer))));
        world.come_to_rest(&origin);
        prop_assert!(world.exchange.complete());
        prop_assert_eq!(world.completed, 1);
    }
}

/// Runs until nothing is left to be asked at this moment, and returns what was asked of the peer.
fn asked_of(world: &mut World, peer: usize) -> Vec<Position> {
    world.drain();
    world.owed(peer)
}

#[test]
fn a_banned_peer_stays_banned_when_it_comes_back() {
    let mut world = World::new(20, vec![None], Config { origin: false, ..Config::default() });
    let asked = asked_of(&mut world, 0);
    assert_eq!(asked.len(), 20);
    world.answer(0, 3);
    world.verify(0);
    world.drain();
    assert!(world.banned.contains(&node(0)));
    world.arrive(0);
    assert!(asked_of(&mut world, 0).is_empty());
    assert!(!world.exchange.arrived(4, node(0), 900, world.now));
}

#[test]
fn a_busy_peer_is_asked_again_after_the_time_that_it_named_and_not_before() {
    let mut world = World::of(20, &[&[1, 2]]);
    world.now = ms(1000);
    assert_eq!(asked_of(&mut world, 0), [1, 2]);
    world.asked.clear();
    world.exchange.absent(node(0), &[1, 2], ms(300), world.now);
    world.wait(ms(299));
    assert!(world.owed(0).is_empty());
    world.wait(ms(1));
    assert_eq!(world.owed(0), [1, 2]);
}

#[test]
fn the_only_holder_is_asked_again_after_it_did_not_answer_although_it_says_nothing_new() {
    let config = Config { origin: false, patience: ms(60_000), ..Config::default() };
    let mut world = World::new(4, vec![Some(set(0..4))], config);
    assert_eq!(asked_of(&mut world, 0), [0, 1, 2, 3]);
    world.asked.clear();
    for wait in [1000, 100, 200] {
        world.wait(ms(wait));
    }
    assert!(!world.exchange.available(0), "silent");
    world.come_to_rest(&set([]));
}

#[test]
fn a_claim_ends_when_its_node_says_that_it_does_not_reach_the_origin() {
    let mut world = World::of(16, &[&[]]);
    world.exchange.claimed(node(0), &[0], true, world.now);
    world.wait(ms(200));
    assert!(world.origin_asked.is_empty());
    world.exchange.peer_origin(node(0), false);
    world.exchange.peer_origin(node(0), true);
    world.drain();
    world.wait(ms(400));
    assert!(!world.origin_asked.is_empty());
}

#[test]
fn after_the_origin_failed_what_is_fetched_is_claimed_anew() {
    let mut world = World::of(16, &[]);
    for _ in 0..3 {
        world.drain();
        for position in world.origin_asked.clone() {
            world.origin(position, OriginAnswer::Unavailable);
        }
        world.wait(ms(300));
    }
    assert!(!world.exchange.origin_reachable());
    world.claimed.clear();
    world.wait(ms(3000));
    assert!(!world.origin_asked.is_empty());
    assert_eq!(world.claimed, [0]);
}

#[test]
fn an_own_claim_that_comes_back_as_hearsay_does_not_keep_a_node_from_its_group() {
    let mut world = World::of(160, &[&[]]);
    world.exchange.set_bounded(true);
    let mut failed = None;
    for _ in 0..60 {
        world.wait(ms(50));
        world.exchange.started(node(0), &world.claimed.clone(), world.now);
        for position in world.origin_asked.clone() {
            let fails = *failed.get_or_insert(position) == position && world.exchange.held().is_empty();
            world.origin(position, if fails { OriginAnswer::Unavailable } else { bytes() });
        }
        (0..world.checking.len()).for_each(|_| world.verify(0));
    }
    assert!(failed.is_some());
    for group in &world.claimed {
        assert!((0..GROUP).all(|position| world.exchange.held().contains(group * GROUP + position)), "{group}");
    }
}

#[test]
fn every_group_is_claimed_before_it_is_fetched_the_short_last_one_too() {
    let mut world = World::of(20, &[]);
    world.come_to_rest(&set(0..20));
    world.claimed.sort_unstable();
    assert_eq!(world.claimed, [0, 1]);
}

#[test]
fn no_more_is_asked_ahead_than_the_budget() {
    let config = Config { origin: false, budget: 20_000, ..Config::default() };
    let mut world = World::new(80, vec![Some(set(0..80)), Some(set(0..80))], config);
    world.drain();
    assert_eq!(world.owed(0).len() + world.owed(1).len(), 19, "of 1064 bytes each, by the estimate");
}

#[test]
fn what_a_peer_denies_is_not_asked_of_it_again_and_what_it_holds_is() {
    let mut world = World::of(20, &[&[1, 2, 3]]);
    assert_eq!(asked_of(&mut world, 0), [1, 2, 3]);
    world.asked.clear();
    world.exchange.absent(node(0), &[1, 3], Duration::ZERO, world.now);
    world.wait(ms(200));
    assert!(!world.exchange.available(1) && world.exchange.available(2) && !world.exchange.available(3));
    assert!(world.owed(0).is_empty(), "2 is still owed, by its word");
    world.exchange.have_more(node(0), &[3].into_iter().collect(), world.now);
    assert_eq!(asked_of(&mut world, 0), [3]);
}

#[test]
fn a_late_request_goes_to_another_holder_once_and_the_first_answer_cancels_the_other() {
    let mut world = World::of(16, &[&[5], &[5], &[5]]);
    world.drain();
    let first = (0..3).find(|peer| world.owed(*peer) == [5]).unwrap();
    world.wait(ms(300));
    let asked: Vec<usize> = (0..3).filter(|peer| world.owed(*peer) == [5]).collect();
    assert_eq!(asked.len(), 2, "{asked:?}");
    world.wait(ms(100));
    assert_eq!((0..3).filter(|peer| world.owed(*peer) == [5]).count(), 2);
    let second = asked.into_iter().find(|peer| *peer != first).unwrap();
    world.answer(second, 5);
    world.drain();
    assert!(world.owed(first).is_empty(), "cancelled");
    assert_eq!(world.exchange.stats().late, 1);
}

#[test]
fn at_the_end_what_one_would_come_to_much_later_is_asked_of_another_too_and_not_before_the_end() {
    for (count, at_the_end) in [(4, true), (5, false)] {
        let config = Config { origin: false, ..Config::default() };
        let mut world = World::new(count, vec![Some(set(0..4)), Some(set([]))], config);
        assert_eq!(asked_of(&mut world, 0), [0, 1, 2, 3]);
        world.wait(ms(200));
        world.answer(0, 0);
        world.drain();
        world.exchange.have_more(node(1), &(1..4).collect(), world.now);
        world.wait(ms(50));
        assert_eq!(world.owed(0), [1, 2, 3]);
        assert_eq!(world.owed(1), if at_the_end { vec![1, 2, 3] } else { vec![] }, "of {count}");
    }
}

#[test]
fn postponed_positions_are_asked_of_nobody_until_they_are_wanted() {
    let mut world = World::of(32, &[&[1, 2]]);
    world.exchange.postpone(&set(0..32));
    world.wait(ms(3000));
    assert!(world.owed(0).is_empty() && world.origin_asked.is_empty());
    assert!(world.exchange.settled());
    world.exchange.want([1], world.now);
    assert_eq!(asked_of(&mut world, 0), [1]);
    world.exchange.stored(2, world.now);
    world.exchange.want([2], world.now);
    assert_eq!(asked_of(&mut world, 0), [1]);
}

#[test]
fn a_second_request_to_the_origin_is_not_made_while_one_is_in_flight() {
    let mut world = World::new(1, vec![None], Config { grace: Duration::ZERO, ..Config::default() });
    world.leave(0);
    world.drain();
    assert_eq!(world.origin_asked.len(), 1);
    world.wait(ms(1500));
    world.arrive(0);
    world.wait(ms(100));
    assert_eq!(world.owed(0), [0], "the origin is late, and a neighbour says that it has it");
    world.answer(0, 0);
    world.drain();
    world.verify(0);
    world.drain();
    assert!(world.banned.contains(&node(0)));
    world.wait(ms(5000));
    world.origin(0, bytes());
    world.verify(0);
    world.drain();
    assert!(world.exchange.complete());
}

#[test]
fn newcomers_that_say_nothing_are_waited_for_a_moment_and_not_for_ever() {
    let mut world = World::of(16, &[]);
    world.truth.push(Some(set([])));
    world.exchange.joined(node(0), ZoneId::default(), true, world.now);
    (0..74).for_each(|_| world.wait(ms(20)));
    assert!(world.origin_asked.is_empty());
    world.wait(ms(20));
    assert!(!world.origin_asked.is_empty(), "after a second and a half");

    let mut world = World::of(16, &[]);
    for round in 0.. {
        assert!(round < 20, "nothing asked of the origin while somebody comes and goes");
        world.exchange.joined(node(0), ZoneId::default(), true, world.now);
        (0..50).for_each(|_| world.wait(ms(20)));
        world.exchange.left(node(0), world.now);
        if !world.origin_asked.is_empty() {
            break;
        }
    }
}

#[test]
fn chunks_that_nobody_needs_do_not_put_off_giving_up() {
    let lengths: Arc<[u32]> = vec![2000; 2].into();
    let config = Config { origin: false, ..Config::default() };
    let mut exchange = Exchange::new(ME, &INDEX, lengths, set([0]), config, Time::ZERO);
    exchange.joined(node(0), ZoneId::default(), false, Time::ZERO);
    exchange.have(node(0), &Holdings::new(), Time::ZERO);
    let mut gave_up = false;
    for second in 0..40 {
        assert!(!exchange.arrived(0, node(0), 900, ms(second * 1000)));
        gave_up |= exchange.poll(ms(second * 1000)) == Some(Output::GiveUp(GiveUp::Unreachable(1)));
    }
    assert!(gave_up);
}

#[test]
fn what_the_origin_does_not_have_is_given_up_by_name_and_only_when_nobody_else_can_have_it() {
    let lengths: Arc<[u32]> = vec![2000; 3].into();
    let config = Config { grace: Duration::ZERO, ..Config::default() };
    let mut exchange = Exchange::new(ME, &INDEX, lengths, set([0, 1]), config, Time::ZERO);
    let outputs = |now: Time, exchange: &mut Exchange| std::iter::from_fn(|| exchange.poll(now)).collect::<Vec<_>>();
    assert!(outputs(ms(0), &mut exchange).contains(&Output::AskOrigin(2)));
    exchange.origin_answered(2, OriginAnswer::Absent, ms(10));
    assert!(outputs(ms(4900), &mut exchange).is_empty(), "it may turn up at a neighbour");
    assert_eq!(outputs(ms(5100), &mut exchange), [Output::GiveUp(GiveUp::Absent(vec![2]))]);
    assert!(outputs(ms(60_000), &mut exchange).is_empty(), "said once");
}

#[test]
fn the_last_few_chunks_are_announced_too() {
    let mut world = World::of(20, &[&[]]);
    world.wait(ms(200));
    for position in [3, 19] {
        world.exchange.stored(position, world.now);
    }
    world.wait(ms(200));
    assert_eq!(world.announced, set([3, 19]));
}

#[test]
fn a_chunk_too_long_to_travel_is_not_announced() {
    let lengths: Arc<[u32]> = vec![limits::SHARED_CHUNK_BYTES, limits::SHARED_CHUNK_BYTES + 1].into();
    let mut exchange = Exchange::new(ME, &INDEX, lengths, set([]), Config::default(), Time::ZERO);
    exchange.joined(node(0), ZoneId::default(), true, Time::ZERO);
    exchange.stored(0, ms(1));
    exchange.stored(1, ms(1));
    assert_eq!(exchange.poll(ms(100)), Some(Output::Announce(vec![node(0)], [0].into_iter().collect(), vec![])));
}

#[test]
fn a_peer_that_froze_is_asked_for_nothing_until_it_speaks_and_what_it_owes_comes_from_another_within_300_ms() {
    let config = Config { origin: false, budget: 20_000, ..Config::default() };
    let mut world = World::new(400, vec![Some(set(0..400)), Some(set(0..400))], config);
    let mut frozen = Vec::new();
    for round in 0..40 {
        world.wait(ms(50));
        // The second answers at once; the first does not any more after half a second.
        for peer in if round < 10 { vec![0, 1] } else { vec![1] } {
            world.owed(peer).into_iter().for_each(|position| world.answer(peer, position));
        }
        (0..world.checking.len()).for_each(|_| world.verify(0));
        world.drain();
        frozen.push(world.owed(0).len());
    }
    assert!(frozen[10] > 0, "it was asked before it froze");
    let since = frozen[10..].iter().position(|owed| *owed == 0).unwrap();
    assert!(since <= 7, "what it owed came after {} ms", since * 50);
    assert!(frozen[10 + since..].iter().all(|owed| *owed == 0), "asked again while it was silent: {frozen:?}");
}

#[test]
fn who_is_behind_with_verifying_asks_the_origin_for_no_more_while_neighbours_hold_plenty() {
    // Of 2000 bytes each, of which half are expected to travel.
    for (held, plenty) in [(8000, true), (100, false)] {
        let mut world = World::of(12_000, &[&(0..held).collect::<Vec<Position>>()]);
        world.wait(ms(200));
        assert!(!world.origin_asked.is_empty());
        let of_peer = world.owed(0)[0];
        world.answer(0, of_peer);
        world.wait(ms(100));
        for position in world.origin_asked.clone() {
            world.origin(position, bytes());
        }
        world.drain();
        assert_eq!(world.origin_asked.is_empty(), plenty, "{held} held by the neighbour");
        (0..world.checking.len()).for_each(|_| world.verify(0));
        world.drain();
        assert!(!world.origin_asked.is_empty(), "what was late is verified");
    }
}
