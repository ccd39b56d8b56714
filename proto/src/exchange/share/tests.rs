//! Whose groups are whose, in which order they come, and who gives way to whom.

use proptest::prelude::*;

use super::*;
use crate::IndexId;

const INDEX: IndexId = IndexId([7; 32]);

fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

/// The share of one of the nodes 0 to `nodes` where the others are known.
fn share(me: u8, nodes: u8, groups: u32) -> Share {
    let mut share = Share::new(node(me), ZoneId(0), Election::new(&INDEX), groups, BTreeSet::new(), false);
    share.refresh((0..nodes).filter(|other| *other != me).map(node).collect(), Vec::new());
    share
}

/// Nobody else started on any group.
const BY_NOBODY: fn(u32) -> Vec<NodeId> = |_| Vec::new();

/// What is wanted of groups of which nothing is there: all their positions.
fn all_of(groups: u32) -> (impl Fn(u32) -> Vec<Position>, impl Fn() -> Vec<u32>) {
    (|group| (group * 16..(group + 1) * 16).collect(), move || (0..groups).collect())
}

/// Starts groups until there are none left; nothing that was started is wanted again.
fn started(share: &mut Share, groups: u32, taken: impl Fn(u32) -> bool) -> Vec<u32> {
    let mut started = Vec::new();
    loop {
        let wanted = |group: u32| if started.contains(&group) { vec![] } else { vec![group * 16] };
        let all = || (0..groups).filter(|group| !started.contains(group)).collect();
        match share.start_group(wanted, all, &taken, BY_NOBODY, true) {
            Some(group) => started.push(group),
            None => return started,
        }
    }
}

#[test]
fn own_groups_come_first_the_highest_score_before_the_rest_and_then_all_others() {
    let mut share = share(0, 4, 100);
    let order = started(&mut share, 100, |_| false);
    let own = order.iter().take_while(|group| share.owns(**group)).count();
    assert!((10..45).contains(&own), "{own}");
    let scores: Vec<u64> = order[..own].iter().map(|group| share.election.score(&node(0), *group)).collect();
    assert!(scores.is_sorted_by(|a, b| a > b));
    assert!(order[own..].iter().all(|group| !share.owns(*group)));
    assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 100);
}

#[test]
fn where_the_beginning_is_wanted_first_sections_come_one_after_the_other() {
    let mut share = Share::new(node(0), ZoneId(0), Election::new(&INDEX), 300, BTreeSet::new(), true);
    share.refresh((1..4).map(node).collect(), Vec::new());
    let order = started(&mut share, 300, |_| false);
    let own = order.iter().take_while(|group| share.owns(**group)).count();
    let come_first: Vec<(u32, Reverse<u64>)> =
        order[..own].iter().map(|group| (section_of(*group, true), Reverse(share.own_score(*group)))).collect();
    assert!(come_first.is_sorted() && come_first.iter().any(|(section, _)| *section == 4), "{order:?}");
    // Of others, what their owner comes to last: there the first to be taken are at the end.
    assert_eq!(section_of(order[own], true), 4, "{order:?}");
}

#[test]
fn a_node_alone_owns_everything() {
    let mut share = share(0, 1, 30);
    assert!((0..30).all(|group| share.owns(group)));
    assert_eq!(started(&mut share, 30, |_| false).len(), 30);
}

#[test]
fn what_another_is_at_is_left_to_it_until_something_changes() {
    let mut share = share(0, 2, 40);
    let first = started(&mut share, 40, |group| group % 2 == 0);
    assert!(first.iter().all(|group| group % 2 == 1), "{first:?}");
    assert_eq!(first.len(), 20);
    share.changed();
    share.refresh(vec![node(1)], Vec::new());
    assert_eq!(started(&mut share, 40, |group| group % 2 == 1).len(), 20);
}

#[test]
fn nodes_that_are_done_at_once_mostly_take_different_groups() {
    let mut different = 0;
    for index in 0..100 {
        let chosen: BTreeSet<u32> = (0..4)
            .map(|me| {
                let mut share =
                    Share::new(node(me), ZoneId(0), Election::new(&IndexId([index; 32])), 64, BTreeSet::new(), false);
                share.refresh((0..8).filter(|other| *other != me).map(node).collect(), Vec::new());
                let own: Vec<u32> = (0..64).filter(|group| (0..4).any(|n| owner(index, *group) == n)).collect();
                let wanted = |group: u32| if own.contains(&group) { vec![] } else { vec![group * 16] };
                share
                    .start_group(wanted, || (0..64).filter(|g| !own.contains(g)).collect(), |_| false, BY_NOBODY, true)
                    .unwrap()
            })
            .collect();
        different += chosen.len();
    }
    assert!(different > 320, "{different} of 400");
}

fn owner(index: u8, group: u32) -> u8 {
    let election = Election::new(&IndexId([index; 32]));
    (0..8).max_by_key(|n| election.score(&node(*n), group)).unwrap()
}

#[test]
fn of_two_that_claim_one_group_the_lower_score_stops() {
    let (mut a, mut b) = (share(0, 1, 20), share(1, 1, 20));
    let (wanted, all) = all_of(20);
    for share in [&mut a, &mut b] {
        while share.claimed.len() < 20 {
            share.start_group(&wanted, &all, |_| false, BY_NOBODY, true);
        }
    }
    for group in 0..20 {
        a.yield_to(&node(1), group);
        b.yield_to(&node(0), group);
        assert_ne!(a.claimed.contains(&group), b.claimed.contains(&group), "group {group}");
        let works = |share: &Share| share.work.iter().any(|position| group_of(*position) == group);
        assert!(works(&a) == a.claimed.contains(&group) && works(&b) == b.claimed.contains(&group));
    }
}

#[test]
fn groups_with_a_chunk_too_long_to_share_are_fetched_whoever_owns_them() {
    let alone: BTreeSet<u32> = (0..10).collect();
    let mut share = Share::new(node(0), ZoneId(0), Election::new(&INDEX), 20, alone.clone(), false);
    share.refresh((1..8).map(node).collect(), Vec::new());
    let all = started(&mut share, 20, |_| true);
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), alone);
    assert!(!share.is_shared(0) && share.is_shared(10) && !share.is_shared(20));
}

#[test]
fn without_the_origin_nothing_that_was_started_goes_on() {
    let mut share = share(0, 1, 5);
    share.start_group(all_of(5).0, all_of(5).1, |_| false, BY_NOBODY, true);
    share.drop_claims();
    assert_eq!(share.next_position(), None);
    assert!(share.claimed.is_empty());
}

proptest! {
    #[test]
    fn each_group_is_owned_at_exactly_one_of_the_nodes_and_the_last_however_short_is_too(
        nodes in 1..12u8,
        groups in 1..60u32,
    ) {
        let shares: Vec<Share> = (0..nodes).map(|me| share(me, nodes, groups)).collect();
        for group in 0..groups {
            prop_assert_eq!(shares.iter().filter(|share| share.owns(group)).count(), 1);
        }
        let own: usize = shares.into_iter().map(|mut share| started(&mut share, groups, |_| false).len()).sum();
        prop_assert_eq!(own, usize::from(nodes) * groups as usize);
    }
}

#[test]
fn a_group_of_another_is_begun_at_the_end_that_who_is_at_it_comes_to_last() {
    // Of the nodes 0 to 2, this one; 1 is elected for what is not its own.
    let begun = |at_it: Option<bool>| {
        let mut share = share(0, 2, 400);
        let lower = |group: u32| share.election.score(&node(2), group) < share.election.score(&node(1), group);
        let theirs = |group: &u32| !share.owns(*group) && at_it.is_none_or(|thief| lower(*group) == thief);
        let theirs: Vec<u32> = (0..400).filter(theirs).collect();
        let wanted = |group: u32| if theirs.contains(&group) { all_of(400).0(group) } else { vec![] };
        let claims = |_| at_it.map(|_| node(2)).into_iter().collect();
        let group = share.start_group(wanted, || theirs.clone(), |_| false, claims, true).unwrap();
        share.next_position().unwrap() - group * 16
    };
    assert_eq!(begun(None), 15, "its owner begins with the first");
    assert_eq!(begun(Some(true)), 0, "who took it from the owner began with the last");
    assert_eq!(begun(Some(false)), 15, "who would be its owner, were it not out of the election, began with the first");
}

#[test]
fn an_own_group_that_a_slow_node_was_elected_for_before_is_begun_with_the_last() {
    let begun = |slow: bool| {
        let mut share = share(0, 1, 400);
        let higher = |group: u32| share.election.score(&node(1), group) > share.own_score(group);
        let wanted: Vec<u32> = (0..400).filter(|group| higher(*group) == slow).collect();
        let of = |group: u32| if wanted.contains(&group) { all_of(400).0(group) } else { vec![] };
        let group = share.start_group(of, Vec::new, |_| false, |_| vec![node(1)], true).unwrap();
        share.next_position().unwrap() - group * 16
    };
    assert_eq!(begun(true), 15);
    assert_eq!(begun(false), 0, "who took it from this node began with the last");
}
