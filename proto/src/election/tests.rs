//! The scores, pinned; who owns what, as nodes come and go.

use proptest::prelude::*;

use super::*;

fn index() -> IndexId {
    let mut id = [0xff; 32];
    for (at, byte) in id[..16].iter_mut().enumerate() {
        *byte = at as u8;
    }
    IndexId(id)
}

fn owner(election: &Election, nodes: &[NodeId], group: u32) -> NodeId {
    *nodes.iter().max_by_key(|node| election.score(node, group)).unwrap()
}

/// Computed with another implementation of SipHash-1-3: nodes of every version have to agree.
#[test]
fn scores_are_the_ones_that_the_specification_gives() {
    let election = Election::new(&index());
    assert_eq!(election.score(&NodeId([2; 32]), 5), 0x21d9_e1dd_6826_fa91);
    assert_eq!(election.score(&NodeId([0xab; 32]), 0x0102_0304), 0x68bf_b4a1_cba6_aca8);
}

#[test]
fn the_last_position_of_a_group_and_the_first_of_the_next_are_told_apart() {
    assert_eq!([0, 15, 16, 31, 32].map(group_of), [0, 0, 1, 1, 2]);
}

#[test]
fn each_of_eight_nodes_owns_about_an_eighth() {
    let election = Election::new(&index());
    let nodes: Vec<NodeId> = (0..8).map(|n| NodeId([n; 32])).collect();
    for node in &nodes {
        let owned = (0..8000).filter(|group| owner(&election, &nodes, *group) == *node).count();
        assert!((850..1150).contains(&owned), "{owned} of 8000");
    }
}

proptest! {
    #[test]
    fn when_a_node_leaves_only_its_groups_move(ids in prop::collection::btree_set(any::<[u8; 32]>(), 2..20), gone in any::<prop::sample::Index>()) {
        let election = Election::new(&index());
        let nodes: Vec<NodeId> = ids.into_iter().map(NodeId).collect();
        let gone = nodes[gone.index(nodes.len())];
        let rest: Vec<NodeId> = nodes.iter().copied().filter(|node| *node != gone).collect();
        for group in 0..200 {
            let before = owner(&election, &nodes, group);
            prop_assert!(before == gone || before == owner(&election, &rest, group));
        }
    }
}
