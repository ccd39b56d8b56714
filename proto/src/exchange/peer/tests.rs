//! Pace, lateness, claims and refusals of one peer.

use proptest::prelude::*;

use super::*;

fn ms(ms: u64) -> Time {
    Time::from_millis(ms)
}

fn new_peer() -> Peer {
    Peer::new(true, 20, Time::ZERO)
}

/// It says that it holds these too; whether that belongs to its claims.
fn progress(peer: &mut Peer, positions: std::ops::Range<Position>, now: Time) -> bool {
    let news: Vec<(u32, u64)> = crate::bits::words_of(&positions.clone().collect()).collect();
    for position in positions {
        peer.holdings.insert(position);
    }
    peer.progressed(&news, 20, now)
}

/// A peer that answered 25 000 bytes each `pace` for two seconds, and owes nothing.
fn at_pace(pace: u64) -> (Peer, Time) {
    let mut peer = new_peer();
    let mut now = Time::ZERO;
    while now < ms(2000) {
        peer.ask(0, 25_000, now);
        now += ms(pace);
        peer.arrived(0, 25_000, now);
    }
    (peer, now)
}

#[test]
fn half_a_second_is_asked_ahead_within_bounds() {
    assert_eq!(new_peer().room(Time::ZERO), FIRST_WINDOW);
    let (peer, now) = at_pace(10);
    assert!((1_200_000..1_300_000).contains(&peer.room(now)), "{}", peer.room(now));
    let (peer, now) = at_pace(500);
    assert_eq!(peer.room(now), LEAST_WINDOW);
    let (peer, now) = at_pace(1);
    assert_eq!(peer.room(now), MOST_WINDOW);
}

#[test]
fn chunks_that_come_together_are_not_taken_for_a_fast_peer() {
    let mut peer = new_peer();
    // Two at once after 50 ms, again and again.
    for round in 0..40 {
        let at = ms(50 * round);
        peer.ask(0, 20_000, at);
        peer.ask(1, 20_000, at);
        peer.arrived(0, 20_000, at + ms(50));
        peer.arrived(1, 20_000, at + ms(50));
    }
    assert!((700_000.0..900_000.0).contains(&peer.pace), "{}", peer.pace);
}

#[test]
fn of_one_of_many_peers_less_is_asked_ahead() {
    let rooms = [1, 8, 16, 1000].map(|peers| {
        let (mut peer, now) = at_pace(10);
        peer.one_of(peers);
        peer.room(now)
    });
    assert!(rooms[0] == rooms[1] && rooms[1].abs_diff(4 * rooms[2]) < 4, "{rooms:?}");
    assert!(rooms[1].abs_diff(25 * rooms[3]) < 25, "{rooms:?}");
}

#[test]
fn there_is_no_room_at_a_peer_that_is_busy_discounted_or_stalled() {
    let mut peer = new_peer();
    peer.busy_until = ms(300);
    assert!(peer.room(ms(299)) == 0 && peer.room(ms(300)) > 0);
    peer.discounted = true;
    assert_eq!(peer.room(ms(300)), 0);
    peer.discounted = false;
    peer.ask(1, 1000, ms(400));
    assert!(peer.room(ms(650)) > 0 && peer.room(ms(651)) == 0);
}

#[test]
fn a_request_is_late_by_the_peers_own_measure_and_within_bounds() {
    let (fast, _) = at_pace(5);
    assert_eq!(fast.late_after(), EARLIEST_LATE);
    let (slow, _) = at_pace(500);
    assert!(slow.late_after() > ms(500) && slow.late_after() < ms(1250), "{:?}", slow.late_after());
    let (slowest, _) = at_pace(60_000);
    assert_eq!(slowest.late_after(), LATEST_LATE);
}

#[test]
fn who_owes_and_is_silent_or_only_talks_fails_to_answer() {
    let mut peer = new_peer();
    assert!(!peer.fails_to_answer(ms(60_000)));
    peer.ask(1, 1000, ms(60_000));
    peer.ask(2, 1000, ms(60_000));
    assert!(!peer.fails_to_answer(ms(61_000)) && peer.fails_to_answer(ms(61_001)));
    peer.spoke(ms(61_000));
    assert!(!peer.fails_to_answer(ms(61_900)));
    for now in (61_000..65_000).step_by(100) {
        peer.spoke(ms(now));
        peer.arrived(7, 1000, ms(now));
    }
    assert!(!peer.fails_to_answer(ms(65_000)) && peer.fails_to_answer(ms(65_001)), "other bytes are no answer");
    peer.arrived(1, 1000, ms(65_000));
    assert!(!peer.fails_to_answer(ms(65_200)));
}

#[test]
fn a_talker_is_found_out_sooner_each_time_and_distrusted_longer() {
    let mut peer = new_peer();
    let mut now = ms(1000);
    for (patience, distrust) in [(5000, 1000), (2500, 2000), (1250, 4000), (625, 8000), (500, 16_000)] {
        peer.ask(1, 1000, now);
        now += ms(patience);
        peer.spoke(now);
        assert!(!peer.fails_to_answer(now) && peer.fails_to_answer(now + ms(1)), "{patience} ms");
        peer.answered_ask(1);
        peer.strike(now);
        assert!(peer.distrusted(now + ms(distrust - 1)) && !peer.distrusted(now + ms(distrust)), "{distrust} ms");
        now += ms(distrust);
    }
    for _ in 0..100 {
        peer.strike(now);
    }
    assert!(!peer.distrusted(now + Duration::from_secs(64)), "never for longer than this");
}

#[test]
fn refusals_make_a_peer_useless_by_number_or_by_time_and_a_chunk_clears_it() {
    let mut peer = new_peer();
    assert!(!peer.refused(MOST_DENIED, true, ms(0)) && peer.refused(1, true, ms(0)));
    let mut peer = new_peer();
    assert!(!peer.refused(1, false, ms(100)) && !peer.refused(64, false, ms(3100)) && peer.refused(1, false, ms(3101)));
    peer.arrived(9, 1000, ms(3101));
    assert!(peer.refused(1, false, ms(3101)), "a chunk that was not asked for clears nothing");
    peer.ask(9, 1000, ms(3101));
    peer.arrived(9, 1000, ms(3102));
    assert!(!peer.refused(1, false, ms(3200)));
}

#[test]
fn a_claim_ends_when_all_of_its_group_is_held_also_of_a_short_last_one() {
    let mut peer = new_peer();
    peer.claim(0, ms(0));
    peer.claim(1, ms(0));
    assert!(progress(&mut peer, 0..15, ms(10)));
    assert!(peer.claims.contains_key(&0));
    assert!(progress(&mut peer, 15..20, ms(20)));
    assert!(peer.claims.is_empty());
    assert!(!progress(&mut peer, 0..20, ms(30)), "nothing is claimed any more");
}

#[test]
fn claims_are_late_after_a_second_or_eight_of_the_peers_gaps_and_progress_elsewhere_does_not_count() {
    let mut peer = new_peer();
    assert!(!peer.claims_late(ms(9000)));
    peer.claim(0, ms(9000));
    assert!(!peer.claims_late(ms(10_000)) && peer.claims_late(ms(10_001)));
    assert!(!progress(&mut peer, 16..20, ms(10_000)));
    assert!(peer.claims_late(ms(10_001)));
    for second in 10..15 {
        progress(&mut peer, second..second + 1, ms(u64::from(second) * 1000));
    }
    assert!(!peer.claims_late(ms(19_000)) && peer.claims_late(ms(19_500)));
}

#[test]
fn who_is_far_slower_than_others_is_left_alone_with_a_group_for_less_long() {
    let patience = |slow| Patience { most: ms(6000), least: ms(400), slow };
    let mut peer = new_peer();
    peer.claim(0, ms(0));
    peer.claim(1, ms(900));
    assert!(peer.is_at(0, patience(0.1), ms(5999)) && !peer.is_at(0, patience(0.1), ms(6000)), "of unknown pace");
    progress(&mut peer, 0..1, ms(1000));
    let at = |group, slow, now| peer.is_at(group, patience(slow), ms(now));
    assert!(!at(0, 0.5, 1000), "a second for a position");
    assert!(at(1, 0.5, 1000), "claimed just now");
    assert!(at(0, 2.0, 1000) && at(0, 2.0, 5999) && !at(0, 2.0, 6000), "others need half of that");
    let mut peer = new_peer();
    peer.claim(0, ms(0));
    progress(&mut peer, 0..15, ms(1600));
    assert!(peer.is_at(0, patience(0.0), ms(1700)), "slow, but nearly done");
}

#[test]
fn a_claim_keeps_its_age_however_often_it_is_repeated_and_claims_beyond_measure_are_not_noted() {
    let mut peer = new_peer();
    for now in 0..10 {
        peer.claim(0, ms(now));
    }
    assert_eq!(peer.claims.get(&0), Some(&Time::ZERO));
    (0..2 * MOST_CLAIMS as u32).for_each(|group| peer.claim(group, ms(10)));
    assert_eq!(peer.claims.len(), MOST_CLAIMS);
}

#[test]
fn only_a_downloader_that_answers_and_reaches_the_origin_and_still_lacks_something_is_elected() {
    let member = |change: fn(&mut Peer)| {
        let mut peer = new_peer();
        (peer.downloads, peer.answered) = (true, true);
        change(&mut peer);
        peer.member()
    };
    assert!(member(|_| {}));
    let reasons: [fn(&mut Peer); 6] = [
        |peer| peer.downloads = false,
        |peer| peer.answered = false,
        |peer| peer.origin = false,
        |peer| peer.complete = true,
        |peer| peer.suspect = true,
        |peer| peer.discounted = true,
    ];
    assert!(reasons.into_iter().all(|reason| !member(reason)));
}

proptest! {
    #[test]
    fn whatever_is_asked_and_comes_the_bytes_owed_are_those_outstanding_and_no_measure_overflows(
        steps in prop::collection::vec((0..30u32, 0..5u8, any::<u32>()), 0..200),
    ) {
        let mut peer = new_peer();
        let mut now = Time::ZERO;
        for (position, what, value) in steps {
            now += Duration::from_micros(u64::from(value));
            match what {
                0 => peer.ask(position, u64::from(value), now),
                1 => peer.arrived(position, u64::from(value), now),
                2 => drop(peer.answered_ask(position)),
                3 => peer.claim(position, now),
                _ => drop(progress(&mut peer, position..position + 1, now)),
            }
            prop_assert_eq!(peer.check(), Ok(()));
            prop_assert!((EARLIEST_LATE..=LATEST_LATE).contains(&peer.late_after()));
            prop_assert!(peer.room(now) <= MOST_WINDOW);
            prop_assert!(peer.wait_for(1).is_finite());
            let _ = (peer.claims_late(now), peer.fails_to_answer(now));
        }
    }
}
