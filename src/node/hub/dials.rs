//! Who may be dialled and at which addresses, and the dials under way. Which nodes are to be neighbours is
//! [`proto::neighbours`]' to say, what becomes of a session that opened is [`super::sessions`]'.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proto::message::PeerAddress;
use proto::neighbours::{ENOUGH, Step};
use proto::{NodeId, ZoneId};

use super::sessions::COURTESY;
use super::{Event, Hub};
use crate::node::address::{self, at_port};
use crate::node::dht::DhtEvent;
use crate::node::discovery::{DiscoveryEvent, Found, Tag};
use crate::node::session;

/// Addresses of one node that others told.
const TOLD: usize = 4;

/// Nodes that may be dialled: those of the choice of neighbours of which an address is known.
#[derive(Default)]
pub(super) struct Dials {
    pub(super) known: BTreeMap<NodeId, Candidate>,
}

#[derive(Default)]
pub(super) struct Candidate {
    /// As it says itself, in the order to try them.
    addresses: Vec<SocketAddr>,
    /// As others say; tried after those.
    told: Vec<SocketAddr>,
    attempt: usize,
    dialling: bool,
}

impl Candidate {
    fn addresses_to_try(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().chain(self.told.iter().filter(|addr| !self.addresses.contains(addr))).copied()
    }
}

impl Hub {
    pub(super) fn dial_known(&mut self) {
        let known = self.doors.known.latest_first();
        for peer in known.into_iter().take(8) {
            self.hearsay(peer.node, ZoneId::default(), peer.addr, Duration::ZERO);
        }
        self.tend_sessions();
    }

    pub(super) fn discovered(&mut self, event: DiscoveryEvent) {
        match event {
            DiscoveryEvent::Found(Found { node, addresses, zone, tags, .. }) => {
                let courtesy = if node > self.me { Duration::ZERO } else { COURTESY };
                self.candidate(node, ZoneId::of(&zone), addresses, courtesy);
                if zone == self.config.zone {
                    self.heard_of(node, &tags);
                    self.on_wire.insert(node, tags);
                }
                self.tend_dials();
            }
            DiscoveryEvent::Lost(node) => {
                self.dials.known.remove(&node);
                self.on_wire.remove(&node);
                self.choice.lost(&node);
                let now = self.now();
                for fetching in self.locals.values_mut().filter_map(|local| local.fetching.as_mut()) {
                    fetching.exchange.heard_of(node, false, now);
                }
            }
            DiscoveryEvent::Warning(warning) => tracing::warn!("{warning}"),
        }
    }

    /// Discovery says that a node of this zone takes part in the exchanges with these tags; with none, that it may.
    fn heard_of(&mut self, node: NodeId, tags: &[Tag]) {
        let now = self.now();
        let met = self.neighbours.contains_key(&node);
        for (index, local) in &mut self.locals {
            let takes_part = tags.contains(&self.config.network.tag(node, index));
            if let Some(race) = local.race.as_mut().filter(|_| !met && (takes_part || tags.is_empty())) {
                race.machine.heard_of(node, now);
            }
            if let Some(fetching) = local.fetching.as_mut().filter(|_| takes_part) {
                fetching.exchange.heard_of(node, true, now);
            }
        }
    }

    /// The same of all that discovery named so far, for an index that is new here.
    pub(super) fn heard_before(&mut self) {
        let named = std::mem::take(&mut self.on_wire);
        named.iter().for_each(|(node, tags)| self.heard_of(*node, tags));
        self.on_wire = named;
    }

    /// A neighbour named nodes that may become neighbours.
    pub(super) fn told_of(&mut self, peers: &[PeerAddress]) {
        for peer in peers {
            let wanted = !peer.address.ip().to_canonical().is_loopback();
            if wanted && !self.neighbours.contains_key(&peer.node) {
                self.hearsay(peer.node, peer.zone, peer.address, COURTESY);
            }
        }
        self.tend_dials();
    }

    /// Neighbours that are named to a new one, with addresses that mean the same there.
    pub(super) fn peers_for(&self, to: &NodeId) -> Vec<PeerAddress> {
        let named = self.choice.to_tell(to).into_iter().filter_map(|node| {
            let neighbour = self.neighbours.get(&node)?;
            let address = at_port(neighbour.addr, neighbour.hello.session_port);
            let scoped = matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local());
            let usable = neighbour.hello.session_port != 0 && !scoped && !address.ip().is_loopback();
            usable.then(|| PeerAddress { node, zone: neighbour.zone(), address })
        });
        named.collect()
    }

    /// A node that may be dialled at these addresses, as it says itself: they replace those it said before.
    fn candidate(&mut self, node: NodeId, zone: ZoneId, mut addresses: Vec<SocketAddr>, after: Duration) {
        addresses.retain(|addr| self.config.admission.admits_dial(*addr));
        address::order(&mut addresses);
        if addresses.is_empty() {
            return;
        }
        if let Some(candidate) = self.considered(node, zone, after)
            && candidate.addresses != addresses
        {
            candidate.addresses = addresses;
            let now = self.now();
            self.choice.moved(&node, after, now);
        }
    }

    /// The same as others say: it is tried besides what is known, which it does not replace, for they may be wrong.
    fn hearsay(&mut self, node: NodeId, zone: ZoneId, addr: SocketAddr, after: Duration) {
        let addr = address::canonical(addr);
        if !self.config.admission.admits_dial(addr) {
            return;
        }
        if let Some(candidate) = self.considered(node, zone, after)
            && candidate.told.len() < TOLD
            && !candidate.told.contains(&addr)
        {
            candidate.told.push(addr);
        }
    }

    /// The candidate of this name, if it may be one; a new one has no address yet.
    fn considered(&mut self, node: NodeId, zone: ZoneId, after: Duration) -> Option<&mut Candidate> {
        let now = self.now();
        if node == self.me || self.banned.contains(&node) || !self.choice.learned(node, zone, after, now) {
            return None;
        }
        Some(self.dials.known.entry(node).or_default())
    }

    /// Does what the choice of neighbours wants: dials, and lets go of those that are too many.
    pub(super) fn tend_dials(&mut self) {
        let now = self.now();
        while let Some(step) = self.choice.poll(now) {
            match step {
                Step::Dial(node) if !self.dial(node) => self.not_reached(node),
                Step::Dial(_) => {}
                Step::Drop(node) => self.close_as(node, ENOUGH, true),
            }
        }
    }

    /// A dial did not lead to a session. Who has no address any more is forgotten, and who is forgotten has none.
    pub(super) fn not_reached(&mut self, node: NodeId) {
        let now = self.now();
        self.choice.failed(node, false, now);
        if !self.dials.known.contains_key(&node) {
            self.choice.lost(&node);
        } else if !self.choice.knows(&node) {
            self.dials.known.remove(&node);
        }
    }

    /// Whether the node is being dialled now.
    fn dial(&mut self, node: NodeId) -> bool {
        let Some(candidate) = self.dials.known.get_mut(&node).filter(|candidate| !candidate.dialling) else {
            return false;
        };
        let Some(addr) =
            candidate.addresses_to_try().nth(candidate.attempt % candidate.addresses_to_try().count().max(1))
        else {
            return false;
        };
        candidate.dialling = true;
        candidate.attempt += 1;
        let (config, events) = (self.session_config.clone(), self.events.clone());
        tokio::spawn(async move {
            let opened = session::connect(addr, Some(node), &config).await;
            let error = opened.as_ref().err().map(ToString::to_string);
            if events.send(Event::Dialled { node, addr, error }).await.is_err() {
                return;
            }
            if let Ok(session) = opened {
                let _ = events.send(Event::Opened { session: Box::new(session), dialled: true }).await;
            }
        });
        true
    }

    /// A dial ended, with a session that is told next, or with an error.
    pub(super) fn dialled(&mut self, node: NodeId, addr: SocketAddr, error: Option<&str>) {
        if let Some(candidate) = self.dials.known.get_mut(&node) {
            candidate.dialling = false;
        }
        let Some(error) = error else { return };
        self.not_reached(node);
        tracing::debug!(%addr, error, "no session");
        if !self.neighbours.contains_key(&node) {
            self.doors.verify(node);
        }
    }

    pub(super) fn dht_event(&mut self, event: DhtEvent) {
        match event {
            DhtEvent::Provider { node, addr, .. } => {
                let courtesy = if node > self.me { Duration::ZERO } else { COURTESY };
                self.hearsay(node, ZoneId::default(), addr, courtesy);
                self.tend_dials();
            }
            DhtEvent::Joined => tracing::debug!("the DHT is of use"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use proto::message::Hello;
    use tokio::sync::mpsc;

    use super::*;
    use crate::node::NodeConfig;
    use crate::node::admission::Admission;
    use crate::node::doors::Doors;
    use crate::node::identity::Identity;
    use crate::node::session::SessionConfig;
    use crate::node::tls::TlsConfigs;

    const OTHER: NodeId = NodeId([7; 32]);

    /// A hub that nothing happens to but what the test does.
    pub(in crate::node::hub) async fn hub(admission: Admission) -> (Hub, mpsc::Receiver<Event>) {
        let mut config = NodeConfig::new(Identity::ephemeral());
        (config.lan, config.admission) = (false, Arc::new(admission));
        let tls = TlsConfigs::new(&config.identity).unwrap();
        let hello = Hello {
            version: proto::VERSION,
            network: String::new(),
            zone: String::new(),
            session_port: 0,
            dht_port: 0,
            agent: String::new(),
        };
        let ((events, told), (done, _)) = Hub::channels();
        let doors = Doors::open(&config, 0, &events).await;
        (Hub::new(config, SessionConfig::new(tls, hello), doors, events, done), told)
    }

    fn found(addresses: &[&str]) -> DiscoveryEvent {
        let addresses = addresses.iter().map(|addr| addr.parse().unwrap()).collect();
        DiscoveryEvent::Found(Found { node: OTHER, addresses, zone: String::new(), held: 0, tags: Vec::new() })
    }

    fn told(node: NodeId, address: &str) -> PeerAddress {
        PeerAddress { node, zone: ZoneId::default(), address: address.parse().unwrap() }
    }

    fn tried(hub: &Hub, node: &NodeId) -> Vec<String> {
        hub.dials
            .known
            .get(node)
            .map_or(Vec::new(), |candidate| candidate.addresses_to_try().map(|addr| addr.to_string()).collect())
    }

    #[tokio::test]
    async fn what_neighbours_tell_of_a_node_is_tried_after_what_it_says_itself() {
        let (mut hub, _) = hub(Admission::default()).await;
        hub.discovered(found(&["10.0.0.7:7"]));
        (1..100).for_each(|n| hub.told_of(&[told(OTHER, &format!("10.0.9.{n}:7"))]));
        let all = tried(&hub, &OTHER);
        assert_eq!((all.len(), all[0].as_str()), (1 + TOLD, "10.0.0.7:7"), "{all:?}");
        hub.discovered(found(&["10.0.0.8:7"]));
        assert_eq!(tried(&hub, &OTHER)[0], "10.0.0.8:7");
    }

    #[tokio::test]
    async fn addresses_that_neighbours_tell_are_dialled_where_the_rules_admit_them_and_never_the_machine_itself() {
        let opened = Admission { allow: vec!["203.0.113.0/24".parse().unwrap()], ..Admission::default() };
        for (admission, address, dialled) in [
            (Admission::default(), "10.0.0.7:7", true),
            (Admission::default(), "203.0.113.7:7", false),
            (Admission::default(), "127.0.0.1:7", false),
            (Admission::default(), "[::1]:7", false),
            (Admission::default(), "[::ffff:127.0.0.1]:7", false),
            (opened.clone(), "203.0.113.7:7", true),
            (opened, "10.0.0.7:7", false),
        ] {
            let (mut hub, _) = hub(admission).await;
            hub.told_of(&[told(OTHER, address)]);
            assert_eq!(!tried(&hub, &OTHER).is_empty(), dialled, "{address}");
        }
    }

    #[tokio::test]
    async fn who_came_by_itself_and_left_is_forgotten_for_it_cannot_be_dialled() {
        let (mut hub, _events) = hub(Admission::default()).await;
        for n in 0..100 {
            let (node, now) = (NodeId([n; 32]), hub.now());
            hub.choice.opened(node, ZoneId::default(), now);
            hub.choice.closed(node, now);
            hub.started -= Duration::from_secs(2);
            hub.tend_sessions();
        }
        assert_eq!(hub.choice.known(), 0);
    }

    #[tokio::test]
    async fn who_never_answers_is_dialled_less_and_less_and_then_forgotten_with_its_addresses() {
        let (mut hub, mut events) = hub(Admission::default()).await;
        hub.discovered(found(&["127.0.0.1:1"]));
        let mut dials = 0;
        while !hub.dials.known.is_empty() {
            hub.tend_sessions();
            if hub.dials.known.values().any(|candidate| candidate.dialling) {
                let event = events.recv().await.unwrap();
                hub.handle(event);
                dials += 1;
            }
            hub.started -= Duration::from_secs(1);
            assert!(hub.now() < Duration::from_secs(1000), "still tried, after {dials} dials");
        }
        assert!((10..20).contains(&dials) && hub.choice.known() == 0, "{dials}");
    }
}
