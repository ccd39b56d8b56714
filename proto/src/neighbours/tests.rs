//! Fleets whose nodes choose their neighbours by themselves, with sessions that open at once.

use super::*;

struct Fleet {
    nodes: BTreeMap<NodeId, (ZoneId, Neighbours)>,
    now: Time,
}

fn node(number: u32) -> NodeId {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_be_bytes());
    id[4..8].copy_from_slice(&number.to_be_bytes());
    NodeId(id)
}

impl Fleet {
    fn new() -> Self {
        Self { nodes: BTreeMap::new(), now: Time::ZERO }
    }

    /// A node comes that knows its zone, and a few others.
    fn join(&mut self, number: u32, zone: u32) {
        let (me, zone) = (node(number), ZoneId(zone.into()));
        let mut neighbours = Neighbours::new(me, zone, u64::from(number));
        let elsewhere = self.nodes.len().max(1);
        for (at, (other, (of, its))) in self.nodes.iter_mut().enumerate() {
            if *of == zone || (at + number as usize * 7) % elsewhere < 70 {
                neighbours.learned(*other, *of, Duration::ZERO, self.now);
                its.learned(me, zone, Duration::ZERO, self.now);
            }
        }
        self.nodes.insert(me, (zone, neighbours));
    }

    fn die(&mut self, number: u32) {
        self.nodes.remove(&node(number));
        for (_, neighbours) in self.nodes.values_mut() {
            neighbours.closed(node(number), self.now);
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                while let Some(step) = self.nodes.get_mut(&id).and_then(|(_, its)| its.poll(self.now)) {
                    self.carry_out(id, step);
                }
            }
            self.now += Duration::from_millis(100);
        }
    }

    fn carry_out(&mut self, id: NodeId, step: Step) {
        let (now, zone) = (self.now, self.nodes[&id].0);
        match step {
            Step::Dial(peer) => {
                let Some((of, its)) = self.nodes.get_mut(&peer) else {
                    return self.nodes.get_mut(&id).unwrap().1.failed(peer, false, now);
                };
                let (of, accepted) = (*of, its.accepts(&id, zone));
                if accepted {
                    its.opened(id, zone, now);
                    self.nodes.get_mut(&id).unwrap().1.opened(peer, of, now);
                    self.tell(id, peer);
                    self.tell(peer, id);
                } else {
                    self.nodes.get_mut(&id).unwrap().1.failed(peer, true, now);
                }
            }
            Step::Drop(peer) => {
                self.nodes.get_mut(&id).unwrap().1.closed(peer, now);
                self.nodes.get_mut(&peer).unwrap().1.closed(id, now);
            }
        }
    }

    /// What `Peers` says at the start of a session.
    fn tell(&mut self, from: NodeId, to: NodeId) {
        for named in self.nodes[&from].1.to_tell(&to) {
            let Some(zone) = self.nodes.get(&named).map(|(zone, _)| *zone) else { continue };
            self.nodes.get_mut(&to).unwrap().1.learned(named, zone, Duration::ZERO, self.now);
        }
    }

    fn sessions(&self, id: &NodeId) -> Vec<NodeId> {
        self.nodes[id].1.open.iter().flatten().map(|(_, node)| *node).collect()
    }

    fn check(&self) {
        for id in self.nodes.keys() {
            for peer in self.sessions(id) {
                assert!(self.sessions(&peer).contains(id), "{id:?} and {peer:?} disagree");
            }
        }
        let mut reached = BTreeSet::new();
        let mut next: Vec<NodeId> = self.nodes.keys().take(1).copied().collect();
        while let Some(id) = next.pop() {
            if reached.insert(id) {
                next.extend(self.sessions(&id));
            }
        }
        assert_eq!(reached.len(), self.nodes.len(), "the graph fell apart");
    }
}

#[test]
fn a_few_tens_of_nodes_all_have_sessions_with_each_other() {
    let mut fleet = Fleet::new();
    (0..30).for_each(|number| fleet.join(number, number % 3));
    // Each knows its zone and some others; the others are learned on the way.
    for id in fleet.nodes.keys().copied().collect::<Vec<_>>() {
        for other in 0..30 {
            fleet.nodes.get_mut(&id).unwrap().1.learned(node(other), ZoneId(u64::from(other) % 3), RETRY, Time::ZERO);
        }
    }
    fleet.run(Duration::from_secs(5));
    fleet.check();
    assert!(fleet.nodes.keys().all(|id| fleet.sessions(id).len() == 29));
}

#[test]
fn a_large_lan_stays_connected_and_bounded_while_nodes_come_and_die() {
    let mut fleet = Fleet::new();
    (0..200).for_each(|number| fleet.join(number, 0));
    fleet.run(Duration::from_secs(5));
    fleet.check();
    for round in 0..20 {
        (0..8).for_each(|number| fleet.die(round * 8 + number));
        (0..8).for_each(|number| fleet.join(1000 + round * 8 + number, 0));
        fleet.run(Duration::from_secs(2));
        fleet.check();
    }
    for id in fleet.nodes.keys() {
        let sessions = fleet.sessions(id).len();
        assert!((LEAST_NEAR..=MOST).contains(&sessions), "{sessions}");
    }
}

#[test]
fn most_neighbours_are_of_the_own_zone_and_some_are_not() {
    let mut fleet = Fleet::new();
    (0..400).for_each(|number| fleet.join(number, number % 10));
    fleet.run(Duration::from_secs(10));
    fleet.check();
    for id in fleet.nodes.keys() {
        let [far, near] = [0, 1].map(|kind| fleet.nodes[id].1.open[kind].len());
        assert!((LEAST_NEAR..=MOST_NEAR).contains(&near), "{near} near");
        // Some may still wait to try those again that had enough.
        assert!((LEAST_FAR - 1..=MOST - MOST_NEAR).contains(&far), "{far} far");
    }
}

#[test]
fn nodes_alone_in_their_zones_find_neighbours_all_the_same() {
    let mut fleet = Fleet::new();
    (0..150).for_each(|number| fleet.join(number, number));
    fleet.run(Duration::from_secs(10));
    fleet.check();
    assert!(fleet.nodes.keys().all(|id| (16..=32).contains(&fleet.sessions(id).len())));
}

#[test]
fn a_mesh_that_grows_beyond_its_size_lets_sessions_go_until_they_are_few() {
    let mut fleet = Fleet::new();
    (0..60).for_each(|number| fleet.join(number, 0));
    fleet.run(Duration::from_secs(3));
    assert!(fleet.nodes.keys().all(|id| fleet.sessions(id).len() == 59));
    (60..90).for_each(|number| fleet.join(number, 0));
    fleet.run(Duration::from_secs(30));
    fleet.check();
    for id in fleet.nodes.keys() {
        assert!((LEAST_NEAR..=MOST_NEAR).contains(&fleet.sessions(id).len()), "{}", fleet.sessions(id).len());
    }
}

#[test]
fn who_is_not_there_is_tried_less_and_less_and_then_forgotten() {
    let mut neighbours = Neighbours::new(node(0), ZoneId(0), 1);
    neighbours.learned(node(1), ZoneId(0), Duration::ZERO, Time::ZERO);
    let mut dialled = Vec::new();
    for ms in 0..400_000 {
        let now = Time::from_millis(ms);
        if let Some(Step::Dial(node)) = neighbours.poll(now) {
            dialled.push(ms);
            neighbours.failed(node, false, now);
        }
    }
    assert_eq!(dialled.len(), TRIES as usize);
    assert!(dialled.windows(3).all(|w| w[2] - w[1] > w[1] - w[0] || w[2] - w[1] > 59_000), "{dialled:?}");
    assert_eq!(neighbours.known(), 0);
}
