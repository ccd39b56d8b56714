//! Deltas in any split, and what a bitmap on the wire may and may not be.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{IndexId, Message, codec};

fn body(holdings: Holdings) -> Vec<u8> {
    codec::encode(&Message::HaveMore { index: IndexId([1; 32]), holdings, started: vec![] }).unwrap()[4..].to_vec()
}

/// A message with these bytes as its holdings.
fn with(form: u8, holdings: &[u8]) -> Result<Message, codec::DecodeError> {
    let mut bytes = body(Holdings::new())[..33].to_vec();
    bytes.extend([u8::try_from(1 + holdings.len()).unwrap(), form]);
    bytes.extend(holdings);
    bytes.push(0);
    codec::decode(&bytes)
}

fn with_bitmap(bitmap: &[u8]) -> Result<Message, codec::DecodeError> {
    with(BITMAP, bitmap)
}

fn positions(message: Result<Message, codec::DecodeError>) -> Vec<Position> {
    let Ok(Message::HaveMore { holdings, .. }) = message else { panic!("{message:?}") };
    holdings.into_positions().iter().collect()
}

/// A bitmap of one run container with this key: so many positions from 0 of it.
fn run(key: u16, positions: u16) -> Vec<u8> {
    let mut bytes = vec![0x3b, 0x30, 0, 0, 1];
    bytes.extend(key.to_le_bytes());
    bytes.extend((positions - 1).to_le_bytes());
    bytes.extend([1, 0, 0, 0]);
    bytes.extend((positions - 1).to_le_bytes());
    bytes
}

#[test]
fn all_holds_every_position_below_the_count_and_none_above() {
    assert_eq!(Holdings::all(3), [0, 1, 2].into_iter().collect());
    assert_eq!(Holdings::all(0), Holdings::new());
    assert_eq!(Holdings::all(limits::POSITIONS).positions().len(), u64::from(limits::POSITIONS));
}

#[test]
fn a_bitmap_with_runs_as_other_programs_write_it_is_read() {
    assert_eq!(positions(with_bitmap(&run(1, 300))), ((1 << 16)..(1 << 16) + 300).collect::<Vec<_>>());
}

#[test]
fn runs_are_told_by_the_gap_before_them_and_what_follows_their_first_position() {
    assert_eq!(positions(with(RUNS, &[])), []);
    assert_eq!(positions(with(RUNS, &[0, 1, 2, 0])), [0, 1, 4]);
    assert_eq!(positions(with(RUNS, &[0x80, 0x01, 2])), [128, 129, 130]);
    for bad in
        [&[0][..], &[0x80], &[0, 0x80], &[0, 0, 1], &[0xff, 0xff, 0xff, 0xff, 0, 0], &[0, 0xff, 0xff, 0xff, 0x7f]]
    {
        assert!(with(RUNS, bad).is_err(), "{bad:?}");
    }
    assert!(with(2, &[0, 1]).is_err());
}

#[test]
fn scattered_positions_take_no_more_than_a_bitmap_and_runs_far_less() {
    let bytes = |set: Holdings| body(set).len() - body(Holdings::new()).len();
    let scattered: Holdings = (0..60_000).filter(|position| position % 3 == 0 || position % 7 == 0).collect();
    assert!(bytes(scattered.clone()) <= scattered.bytes() + 3);
    assert_eq!(codec::decode(&body(scattered.clone())).unwrap(), codec::decode(&body(scattered)).unwrap());
    assert_eq!(bytes(Holdings::all(60_000)), 4);
    assert!(bytes((0..1000).map(|n| n * 40 + n % 2).collect()) <= 2002);
}

#[test]
fn the_last_position_of_the_largest_index_is_taken_and_the_next_is_not() {
    let last = limits::POSITIONS - 1;
    assert!(codec::decode(&body([last].into_iter().collect())).is_ok());
    assert!(codec::decode(&body([last + 1].into_iter().collect())).is_err());
    assert!(with_bitmap(&run(((last + 1) >> 16) as u16, 1)).is_err());
}

#[test]
fn a_bitmap_that_announces_more_containers_than_an_index_has_is_refused_unread() {
    let many = (MOST_CONTAINERS + 1).to_le_bytes();
    assert!(with_bitmap(&[&12346u32.to_le_bytes()[..], &many].concat()).is_err());
    assert!(with_bitmap(&((MOST_CONTAINERS << 16) | 12347).to_le_bytes()).is_err());
}

#[test]
fn a_bitmap_out_of_order_with_bytes_behind_it_or_cut_short_is_refused() {
    let good = run(0, 9);
    assert!(with_bitmap(&good).is_ok());
    assert!(with_bitmap(&good[..good.len() - 1]).is_err());
    assert!(with_bitmap(&[&good[..], &[0]].concat()).is_err());
    let two_of_one_key = [&[0x3a, 0x30, 0, 0, 2, 0, 0, 0][..], &[0; 8], &[0; 8], &[0; 4]].concat();
    assert!(with_bitmap(&two_of_one_key).is_err());
}

proptest! {
    #[test]
    fn deltas_in_any_split_and_order_equal_the_whole(
        set in prop::collection::btree_set(0..limits::POSITIONS, 0..300),
        parts in prop::collection::vec(0..5usize, 300),
        order in Just(vec![0, 1, 2, 3, 4]).prop_shuffle(),
    ) {
        let mut sum = RoaringBitmap::new();
        for part in order {
            let delta: Holdings = set.iter().zip(&parts).filter(|(_, of)| **of == part).map(|(p, _)| *p).collect();
            let Message::HaveMore { holdings, .. } = codec::decode(&body(delta)).unwrap() else { panic!() };
            sum |= holdings.positions();
        }
        prop_assert_eq!(sum.iter().collect::<BTreeSet<_>>(), set);
    }

    #[test]
    fn any_set_comes_back_as_it_was(runs in prop::collection::vec((0..limits::POSITIONS, 1..5000u32), 0..200)) {
        let mut set = RoaringBitmap::new();
        for (first, length) in runs {
            set.insert_range(first..(first + length).min(limits::POSITIONS));
        }
        let Message::HaveMore { holdings, .. } = codec::decode(&body(set.clone().into())).unwrap() else { panic!() };
        prop_assert_eq!(holdings.into_positions(), set);
    }

    #[test]
    fn any_bytes_as_runs_are_an_error_or_positions_of_an_index(rest in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(Message::HaveMore { holdings, .. }) = with(RUNS, &rest) {
            prop_assert!(holdings.positions().iter().all(|position| position < limits::POSITIONS));
        }
    }

    #[test]
    fn any_bytes_as_a_bitmap_are_an_error_or_positions_of_an_index(
        cookie in prop::sample::select(vec![12346u32, 12347, 12347 | (3 << 16)]),
        rest in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        if let Ok(Message::HaveMore { holdings, .. }) = with_bitmap(&[&cookie.to_le_bytes()[..], &rest].concat()) {
            prop_assert!(holdings.positions().iter().all(|position| position < limits::POSITIONS));
        }
    }
}
