//! What a node wants to hear of from other zones. In a zone of many each chunk is brought in by one node; it and a few who
//! would take over have to know who holds it elsewhere, and the others need not be told: across the zone's uplink, news
//! for everybody would cost as many times more as the zone has nodes.

use std::time::Duration;

use roaring::RoaringBitmap;

use super::Exchange;
use crate::election::group_of;
use crate::{Holdings, Message, NodeId, Position, Time};

/// So many nodes of a zone hear of a group, on average.
const HEARERS: f64 = 4.0;
/// Between two looks whether something else is of interest.
const LOOK: Duration = Duration::from_secs(2);
/// When nothing came for so long everything is: those who hear of what is missing may have nobody to ask.
const STUCK: Duration = Duration::from_secs(8);

/// What neighbours in other zones were asked to say.
#[derive(Debug, Default)]
pub(super) struct Interest {
    /// Groups; `None`: all.
    told: Option<RoaringBitmap>,
    looked_at: Time,
}

impl Interest {
    /// Whether neighbours in other zones say that they hold something of a group.
    pub(super) fn includes(&self, group: u32) -> bool {
        self.told.as_ref().is_none_or(|groups| groups.contains(group))
    }
}

impl Exchange {
    /// A peer of another zone wants to hear of these groups only, from now on.
    pub fn interested(&mut self, peer: NodeId, groups: &Holdings, now: Time) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.spoke(now);
        if known.near {
            return;
        }
        let mut groups = groups.clone();
        groups.keep_below(self.share.groups());
        let groups = groups.into_positions();
        // Before its first word it was told of everything.
        let new = known.interest.as_ref().map(|before| &groups - before);
        known.interest = Some(groups);
        if let Some(new) = new.filter(|new| !new.is_empty()) {
            let held: Holdings = self.held.iter().filter(|position| new.contains(group_of(*position))).collect();
            self.say_abroad(peer, held);
        }
    }

    /// Says to neighbours in other zones what is of interest, where it is more than they know.
    pub(super) fn look_for_interest(&mut self, now: Time) {
        let limited = self.bounded || self.interest.told.is_some();
        if !limited || self.complete() || self.gathering(now) || now < self.interest.looked_at + LOOK {
            return;
        }
        self.interest.looked_at = now;
        let groups = self.of_interest(now);
        let known = self.interest.told.as_ref();
        if known.map_or(groups.len() == u64::from(self.share.groups()), |known| groups.is_subset(known)) {
            return;
        }
        self.interest.told = Some(groups);
        self.say_interest(self.of_kind(false));
    }

    /// Says to these neighbours in other zones what is of interest, unless everything is.
    pub(super) fn say_interest(&mut self, to: Vec<NodeId>) {
        if let Some(groups) = self.interest.told.clone().filter(|_| !to.is_empty()) {
            let message = Message::Interest { index: self.index, groups: Holdings::from(groups) };
            self.out.push_back(super::Output::Tell(to, message));
        }
    }

    /// The groups that this node is to bring in, and those for which few others of the zone come before it.
    fn of_interest(&mut self, now: Time) -> RoaringBitmap {
        let carriers = self.carriers(now);
        let part = HEARERS / (1 + carriers.len()) as f64;
        let all = 0..self.share.groups();
        if !self.bounded || part >= 0.5 || now.saturating_sub(self.progress_at) >= STUCK {
            return all.collect();
        }
        self.crossing.refresh(carriers);
        let least = (u64::MAX as f64 * (1.0 - part)) as u64;
        all.filter(|group| self.share.own_score(*group) >= least || self.crossing.is_first(*group)).collect()
    }

    /// Tells one neighbour in another zone that this node holds these.
    pub(super) fn say_abroad(&mut self, peer: NodeId, holdings: Holdings) {
        if !holdings.positions().is_empty() {
            self.out.push_back(super::Output::Announce(vec![peer], holdings, Vec::new()));
        }
    }

    /// Announces what is new here to neighbours in other zones: to each what it wants to hear of.
    pub(super) fn announce_abroad(&mut self, to: Vec<NodeId>, news: &[Position]) {
        let mut of_all = Vec::new();
        for id in to {
            match self.peers.get(&id).and_then(|peer| peer.interest.as_ref()) {
                None => of_all.push(id),
                Some(groups) => {
                    let some: Holdings =
                        news.iter().copied().filter(|position| groups.contains(group_of(*position))).collect();
                    self.say_abroad(id, some);
                }
            }
        }
        if !of_all.is_empty() {
            self.out.push_back(super::Output::Announce(of_all, news.iter().copied().collect(), Vec::new()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Output};
    use super::*;
    use crate::election::GROUP;
    use crate::{IndexId, ZoneId};

    const GROUPS: u32 = 64;
    const FAR: NodeId = NodeId([0xff; 32]);

    /// One of a zone of so many nodes, with a neighbour in another zone.
    fn node(me: u8, of: u8) -> Exchange {
        let lengths = vec![2000; (GROUPS * GROUP) as usize].into();
        let config = Config { zone: ZoneId(1), grace: Duration::ZERO, origin: false, ..Config::default() };
        let held = RoaringBitmap::new();
        let mut exchange = Exchange::new(NodeId([me; 32]), &IndexId([7; 32]), lengths, held, config, Time::ZERO);
        exchange.set_bounded(true);
        (0..of).for_each(|other| exchange.heard_of(NodeId([other; 32]), true, Time::ZERO));
        exchange.joined(FAR, ZoneId(2), true, Time::ZERO);
        exchange.have(FAR, &Holdings::new(), Time::ZERO);
        exchange
    }

    fn outputs(exchange: &mut Exchange, now: Duration) -> Vec<Output> {
        std::iter::from_fn(|| exchange.poll(now)).collect()
    }

    /// The groups that it said to be of interest; `None`: it said nothing of it.
    fn said(outputs: &[Output]) -> Option<RoaringBitmap> {
        let groups = |output: &Output| match output {
            Output::Tell(to, Message::Interest { groups, .. }) if *to == [FAR] => Some(groups.positions().clone()),
            _ => None,
        };
        outputs.iter().find_map(groups)
    }

    fn told(outputs: &[Output]) -> Vec<Position> {
        let news = |output: &Output| match output {
            Output::Announce(to, news, _) if to.contains(&FAR) => news.positions().iter().collect(),
            _ => Vec::new(),
        };
        outputs.iter().flat_map(news).collect()
    }

    #[test]
    fn in_a_zone_of_many_a_group_is_of_interest_to_its_elected_node_and_to_few_others() {
        let mut hearers = [0; GROUPS as usize];
        for me in 0..40 {
            let mut exchange = node(me, 40);
            let groups = said(&outputs(&mut exchange, Duration::from_secs(4))).unwrap();
            groups.iter().for_each(|group| hearers[group as usize] += 1);
            assert!((0..GROUPS).all(|group| groups.contains(group) || !exchange.crossing.is_first(group)));
        }
        let all: u32 = hearers.iter().sum();
        assert!(hearers.iter().all(|hearers| *hearers >= 1), "{hearers:?}");
        assert!((3 * GROUPS..6 * GROUPS).contains(&all), "{all} for {GROUPS} groups");
    }

    #[test]
    fn in_a_zone_of_few_nobody_limits_what_it_hears_of() {
        assert_eq!(said(&outputs(&mut node(0, 8), Duration::from_secs(4))), None);
    }

    #[test]
    fn who_gets_nothing_any_more_wants_to_hear_of_everything() {
        let mut exchange = node(0, 40);
        assert!(said(&outputs(&mut exchange, Duration::from_secs(4))).is_some_and(|groups| groups.len() < 20));
        assert_eq!(said(&outputs(&mut exchange, Duration::from_secs(7))), None, "said once");
        let groups = said(&outputs(&mut exchange, Duration::from_secs(9))).unwrap();
        assert_eq!(groups.len(), u64::from(GROUPS));
    }

    #[test]
    fn where_all_have_sessions_again_everything_is_of_interest_again() {
        let mut exchange = node(0, 40);
        outputs(&mut exchange, Duration::from_secs(4));
        exchange.set_bounded(false);
        let groups = said(&outputs(&mut exchange, Duration::from_secs(7))).unwrap();
        assert_eq!(groups.len(), u64::from(GROUPS));
    }

    #[test]
    fn who_says_all_that_it_holds_begins_anew_and_wants_to_hear_of_everything() {
        let mut exchange = node(0, 40);
        outputs(&mut exchange, Duration::from_secs(1));
        exchange.interested(FAR, &Holdings::new(), Duration::from_secs(1));
        exchange.stored(1, Duration::from_secs(1));
        assert_eq!(told(&outputs(&mut exchange, Duration::from_secs(6))), []);
        exchange.have(FAR, &Holdings::new(), Duration::from_secs(6));
        assert_eq!(told(&outputs(&mut exchange, Duration::from_secs(6))), [1], "what it was not told");
        exchange.stored(2, Duration::from_secs(6));
        assert_eq!(told(&outputs(&mut exchange, Duration::from_secs(11))), [2]);
    }

    #[test]
    fn a_neighbour_that_comes_or_begins_anew_is_told_what_is_of_interest() {
        let mut exchange = node(0, 40);
        let groups = said(&outputs(&mut exchange, Duration::from_secs(4)));
        exchange.have(FAR, &Holdings::new(), Duration::from_secs(5));
        assert_eq!(said(&outputs(&mut exchange, Duration::from_secs(5))), groups);
    }

    #[test]
    fn another_zone_is_told_of_what_it_wants_to_hear_of_and_in_the_end_of_all() {
        let mut exchange = node(0, 40);
        outputs(&mut exchange, Duration::from_secs(1));
        exchange.interested(FAR, &[0, GROUPS + 7].into_iter().collect(), Duration::from_secs(1));
        [1, GROUP].into_iter().for_each(|position| exchange.stored(position, Duration::from_secs(1)));
        assert_eq!(told(&outputs(&mut exchange, Duration::from_secs(6))), [1]);
        exchange.interested(FAR, &[0, 1].into_iter().collect(), Duration::from_secs(6));
        assert_eq!(told(&outputs(&mut exchange, Duration::from_secs(6))), [GROUP]);
        exchange.interested(FAR, &Holdings::new(), Duration::from_secs(6));
        (0..GROUPS * GROUP).for_each(|position| exchange.stored(position, Duration::from_secs(7)));
        let have = |output: &Output| {
            matches!(output, Output::Tell(to, Message::Have { holdings, .. })
            if *to == [FAR] && holdings.positions().len() == u64::from(GROUPS * GROUP))
        };
        assert!(outputs(&mut exchange, Duration::from_secs(9)).iter().any(have));
    }

    #[test]
    fn what_the_own_zone_says_of_its_interest_changes_nothing() {
        let mut exchange = node(0, 40);
        exchange.joined(NodeId([1; 32]), ZoneId(1), true, Time::ZERO);
        exchange.interested(NodeId([1; 32]), &Holdings::new(), Time::ZERO);
        assert!(exchange.peers.values().all(|peer| peer.interest.is_none()));
    }
}
