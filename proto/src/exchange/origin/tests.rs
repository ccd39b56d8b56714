//! How much is asked ahead, when the origin is left alone, and what counts as absent.

use proptest::prelude::*;

use super::*;

fn ms(ms: u64) -> Time {
    Time::from_millis(ms)
}

fn origin() -> Origin {
    Origin::new(true, 64, Time::ZERO)
}

fn bytes(bytes: u64, first_byte: u64) -> OriginAnswer {
    OriginAnswer::Bytes { bytes, first_byte: ms(first_byte) }
}

/// Asks for as much as there is room for, from `next` on.
fn fill(origin: &mut Origin, next: &mut Position, now: Time) -> usize {
    let mut asked = 0;
    while origin.room(1, now) {
        origin.asked(*next, 25_000, now);
        *next += 1;
        asked += 1;
    }
    asked
}

/// An origin that sends 25 000 bytes every `pace`, the first byte `delay` after the request, for two seconds.
fn at_pace(pace: u64, delay: u64) -> (Origin, Position, Position, Time) {
    let mut origin = origin();
    let (mut next, mut answered, mut now) = (0, 0, Time::ZERO);
    while now < ms(2000) {
        fill(&mut origin, &mut next, now);
        now += ms(pace);
        origin.answered(answered, &bytes(25_000, delay), now);
        answered += 1;
    }
    (origin, next, answered, now)
}

#[test]
fn until_the_grace_is_over_and_where_there_is_none_nothing_is_asked() {
    let origin = Origin::new(true, 64, ms(250));
    assert!(!origin.room(1, ms(249)) && origin.room(1, ms(250)));
    let none = Origin::new(false, 64, Time::ZERO);
    assert!(!none.room(1, ms(9999)) && !none.reachable() && none.opens_at().is_none());
}

#[test]
fn before_a_pace_is_known_two_requests_are_in_flight() {
    assert_eq!(fill(&mut origin(), &mut 0, Time::ZERO), LEAST_REQUESTS);
}

#[test]
fn twice_the_rate_times_the_delay_is_in_flight_and_no_more() {
    // 2.5 MB/s with a delay of 100 ms: 500 KB are 20 chunks.
    let (mut origin, mut next, answered, now) = at_pace(10, 100);
    fill(&mut origin, &mut next, now);
    assert!((18..=22).contains(&(next - answered)), "{}", next - answered);
    // With a delay of 5 ms: the least.
    let (mut origin, mut next, answered, now) = at_pace(10, 5);
    fill(&mut origin, &mut next, now);
    assert_eq!(next - answered, 2);
}

#[test]
fn of_many_that_share_the_way_none_asks_for_more_than_its_part_whatever_delay_it_measured() {
    let (origin, _, _, now) = at_pace(10, 500);
    let most = MOST_BYTES / 64;
    let asked = |bytes: u64| Origin { bytes, asked: BTreeMap::from([(0, (now, 0)), (1, (now, 0))]), ..origin.clone() };
    assert!(asked(most).room(1, now) && asked(most - 1).room(64, now) && !asked(most).room(64, now));
}

#[test]
fn what_is_asked_ahead_of_a_distant_origin_doubles_with_each_round_trip() {
    let mut origin = origin();
    let (mut next, mut answered) = (0, 0);
    for trip in 0..6 {
        fill(&mut origin, &mut next, ms(trip * 40));
        assert!(next - answered >= 1 << (trip + 1).min(6), "{} in flight after {trip} round trips", next - answered);
        for position in answered..next {
            origin.answered(position, &bytes(25_000, 40), ms((trip + 1) * 40));
        }
        answered = next;
    }
}

#[test]
fn the_window_ends_at_the_most_requests() {
    let (mut origin, mut next, answered, now) = at_pace(1, 200);
    fill(&mut origin, &mut next, now);
    assert_eq!(next - answered, 64);
}

#[test]
fn after_one_failure_one_request_at_a_time_is_made_after_a_breath() {
    let (mut origin, mut next, answered, now) = at_pace(10, 100);
    for position in answered..next {
        origin.answered(position, &OriginAnswer::Absent, now);
    }
    origin.asked(next, 25_000, now);
    origin.answered(next, &OriginAnswer::Unavailable, now);
    assert!(origin.reachable());
    assert_eq!(fill(&mut origin, &mut next, now + BREATH - ms(1)), 0);
    assert_eq!(fill(&mut origin, &mut next, now + BREATH), 1);
}

#[test]
fn many_requests_lost_in_one_outage_are_one_failure_and_each_further_pause_is_longer() {
    let (mut origin, next, answered, mut now) = at_pace(10, 100);
    assert!(next - answered > 10);
    for position in answered..next {
        origin.answered(position, &OriginAnswer::Unavailable, now);
    }
    assert!(!origin.reachable());
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        let opens_at = origin.opens_at().unwrap();
        assert!(opens_at <= now + ms(pause * 1000), "{pause} s: opens after {:?}", opens_at - now);
        now = opens_at;
        origin.asked(0, 25_000, now);
        assert!(!origin.room(1, now));
        origin.answered(0, &OriginAnswer::Unavailable, now);
    }
    origin.answered(0, &bytes(1, 1), now);
    assert!(origin.reachable() && origin.room(1, now + LAST_RETRY));
}

#[test]
fn word_that_the_origin_is_back_is_tried_after_a_breath_however_often_it_comes() {
    let mut origin = origin();
    for now in [0, 1000, 2000] {
        origin.asked(0, 1, ms(now));
        origin.answered(0, &OriginAnswer::Unavailable, ms(now));
    }
    assert!(!origin.room(1, ms(2500)));
    origin.try_soon(ms(2500));
    assert!(!origin.room(1, ms(2501)));
    origin.try_soon(ms(2600));
    assert!(origin.room(1, ms(2500) + BREATH));
}

#[test]
fn what_no_store_has_and_what_came_wrong_three_times_is_lacking() {
    let mut origin = origin();
    origin.asked(1, 1, Time::ZERO);
    origin.answered(1, &OriginAnswer::Absent, Time::ZERO);
    assert!(origin.lacks(1) && !origin.lacks(2) && origin.reachable());
    for times in 1..=CORRUPT {
        origin.gave_corrupt(2);
        assert_eq!(origin.lacks(2), times == CORRUPT);
    }
}

#[test]
fn a_pace_is_forgotten_after_two_seconds_of_a_slower_one() {
    let (mut origin, _, _, mut now) = at_pace(10, 100);
    let fast = origin.time_for(1_000_000);
    for position in 10_000..10_040 {
        origin.asked(position, 25_000, now);
        now += ms(100);
        origin.answered(position, &bytes(25_000, 100), now);
    }
    assert!(origin.time_for(1_000_000) > fast * 5);
    assert_eq!(Origin::new(true, 1, now).time_for(u64::MAX), Duration::from_secs(60));
}

#[test]
fn how_long_it_has_been_silent_counts_from_the_first_request_or_the_last_answer() {
    let mut origin = origin();
    assert_eq!(origin.waiting_for(ms(900)), Duration::ZERO);
    origin.asked(1, 1, ms(1000));
    origin.asked(2, 1, ms(1500));
    assert_eq!(origin.waiting_for(ms(1600)), ms(600));
    origin.answered(1, &bytes(1, 1), ms(1700));
    assert_eq!((origin.waiting_for(ms(1800)), origin.asked_at(2), origin.asked_at(1)), (ms(100), Some(ms(1500)), None));
}

proptest! {
    #[test]
    fn whatever_it_answers_what_is_in_flight_is_what_was_asked_and_not_answered(
        steps in prop::collection::vec((0..20u32, 0..4u8, 0..5000u64), 0..200),
    ) {
        let mut origin = origin();
        let mut now = Time::ZERO;
        for (position, what, value) in steps {
            now += ms(value / 10);
            match what {
                0 if origin.asked_at(position).is_none() => origin.asked(position, value, now),
                1 => origin.answered(position, &bytes(value, value % 300), now),
                2 => origin.answered(position, &OriginAnswer::Absent, now),
                _ => origin.answered(position, &OriginAnswer::Unavailable, now),
            }
            prop_assert_eq!(origin.bytes, origin.asked.values().map(|(_, bytes)| bytes).sum::<u64>());
            prop_assert!(origin.opens_at().unwrap() <= now + LAST_RETRY);
            prop_assert!(origin.time_for(u64::MAX) <= Duration::from_secs(60));
        }
    }
}
