//! Which positions come first, and that each comes.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::IndexId;

fn set(positions: impl IntoIterator<Item = Position>) -> Bits {
    let mut bits = Bits::new(1 << 17);
    positions.into_iter().for_each(|position| assert!(bits.insert(position)));
    bits
}

fn picks(me: u8) -> Picks {
    Picks::new(Election::new(&IndexId([7; 32])), NodeId([me; 32]), false)
}

/// Takes everything, refilling as long as that brings something.
fn drain(picks: &mut Picks, mut askable: Bits, available: &[u16]) -> Vec<Position> {
    let mut order = Vec::new();
    loop {
        while let Some(position) = picks.next(&askable) {
            askable.remove(position);
            order.push(position);
        }
        picks.refill(askable.common(&[&askable], picks.start(), LOOKED_AT), available);
        if picks.queue.is_empty() {
            return order;
        }
    }
}

#[test]
fn the_rarest_come_first_and_groups_stay_together() {
    let available: Vec<u16> = (0..128).map(|position| if position / 16 == 5 { 1 } else { 3 }).collect();
    let order = drain(&mut picks(1), set(0..128), &available);
    assert!(order[..16].iter().all(|position| position / 16 == 5), "{order:?}");
    assert!(order.chunks(16).all(|part| part.iter().all(|position| position / 16 == part[0] / 16)), "{order:?}");
}

#[test]
fn where_the_beginning_is_wanted_first_equally_rare_ones_come_section_by_section() {
    let count = 64 * 16 * 3;
    let available: Vec<u16> = (0..count).map(|position| if position >= count - 16 { 1 } else { 3 }).collect();
    let mut picks = Picks::new(Election::new(&IndexId([7; 32])), NodeId([1; 32]), true);
    let order = drain(&mut picks, set(0..count), &available);
    assert_eq!(order.len(), count as usize);
    assert!(order[..16].iter().all(|position| *position >= count - 16), "{order:?}");
    assert!(order[16..].is_sorted_by_key(|position| section_of(group_of(*position), true)), "{order:?}");
}

#[test]
fn nodes_begin_with_different_positions_of_a_group_so_that_they_can_pass_them_on() {
    let first: BTreeSet<Position> = (0..64).map(|me| drain(&mut picks(me), set(0..16), &[1; 16])[0]).collect();
    assert!(first.len() > 12, "{first:?}");
}

#[test]
fn what_many_hold_is_equally_common() {
    let available: Vec<u16> = (0..64).map(|position| if position < 16 { COMMON } else { COMMON + 7 }).collect();
    let order = drain(&mut picks(1), set(0..64), &available);
    let other = drain(&mut picks(1), set(0..64), &[COMMON; 64]);
    assert_eq!(order, other);
}

#[test]
fn two_nodes_begin_at_different_ends() {
    let available = vec![1; 64 * 16];
    let all = || set(0..64 * 16);
    let (one, other) = (drain(&mut picks(1), all(), &available), drain(&mut picks(2), all(), &available));
    assert!(one[..256].iter().filter(|position| other[..256].contains(position)).count() < 160);
}

#[test]
fn what_is_no_longer_askable_is_passed_over() {
    let mut picks = picks(1);
    picks.refill((0..10).collect(), &[1; 10]);
    assert_eq!(picks.next(&set([7])), Some(7));
    picks.refill((0..10).collect(), &[1; 10]);
    assert_eq!(picks.next(&set(10..20)), None);
}

#[test]
fn an_index_of_nothing_has_no_next() {
    let mut picks = picks(1);
    picks.refill(vec![], &[]);
    assert_eq!(picks.next(&set([])), None);
}

#[test]
fn a_refill_of_a_large_image_looks_at_a_part_of_it_and_the_next_at_another() {
    let count = 100_000;
    let available = vec![1; count as usize];
    let askable = set(0..count);
    let mut picks = picks(1);
    let mut seen = BTreeSet::new();
    for _ in 0..10 {
        picks.refill(askable.common(&[&askable], picks.start(), LOOKED_AT), &available);
        assert_eq!(picks.queue.len(), KEPT);
        seen.extend(picks.queue.drain(..));
    }
    // Where one look ends and the next begins they share a group at most.
    assert!(seen.len() >= 10 * (KEPT - 16), "{} different ones", seen.len());
}

proptest! {
    #[test]
    fn each_askable_position_comes_once(askable in prop::collection::btree_set(0..9000u32, 0..6000), me in any::<u8>()) {
        let order = drain(&mut picks(me), set(askable.iter().copied()), &[2; 9000]);
        prop_assert_eq!(order.len(), askable.len());
        prop_assert_eq!(order.into_iter().collect::<BTreeSet<_>>(), askable);
    }
}
