//! Who may be dialled and at which addresses, and the dials under way. Which nodes are to be neighbours is
//! [`proto::neighbours`]' to say, what becomes of a session that opened is [`super::sessions`]'.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proto::message::PeerAddress;
use proto::neighbours::{ENOUGH, Step};
use proto::{NodeId, ZoneId};
use tokio::time::Instant;

use super::sessions::{COURTESY, REDIAL, SESSIONS};
use super::{Event, Hub};
use crate::node::address::{self, at_port};
use crate::node::dht::DhtEvent;
use crate::node::discovery::{DiscoveryEvent, Found, Tag};
use crate::node::session;

/// Nodes known as candidates; later ones are not tried.
const CANDIDATES: usize = 8192;
/// Dials at a time.
const DIALS: usize = 16;
const LAST_REDIAL: Duration = Duration::from_secs(60);

/// Nodes that are to be dialled or being dialled.
#[derive(Default)]
pub(super) struct Dials {
    pub(super) known: BTreeMap<NodeId, Candidate>,
    under_way: usize,
}

pub(super) struct Candidate {
    addresses: Vec<SocketAddr>,
    pub(super) next: Instant,
    pub(super) pause: Duration,
    attempt: usize,
    dialling: bool,
}

impl Hub {
    pub(super) fn dial_known(&mut self) {
        let known = self.doors.known.latest_first();
        for peer in known.into_iter().take(8) {
            self.candidate(peer.node, ZoneId::default(), vec![peer.addr], Duration::ZERO);
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
                self.dial_due();
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
            let wanted = address::is_dialable(peer.address) && address::is_private(peer.address.ip());
            if wanted && !self.neighbours.contains_key(&peer.node) {
                self.candidate(peer.node, peer.zone, vec![peer.address], COURTESY);
            }
        }
        self.dial_due();
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

    /// A node that may be dialled at these addresses.
    pub(super) fn candidate(&mut self, node: NodeId, zone: ZoneId, mut addresses: Vec<SocketAddr>, after: Duration) {
        addresses.retain(|addr| addr.port() != 0 && self.config.admission.admits_dial(*addr));
        if node == self.me || self.banned.contains(&node) || addresses.is_empty() {
            return;
        }
        if self.dials.known.len() >= CANDIDATES && !self.dials.known.contains_key(&node) {
            return;
        }
        let time = self.now();
        self.choice.learned(node, zone, after, time);
        address::order(&mut addresses);
        let next = Instant::now() + after;
        let new = Candidate { addresses: Vec::new(), next, pause: REDIAL, attempt: 0, dialling: false };
        let candidate = self.dials.known.entry(node).or_insert(new);
        if candidate.addresses != addresses {
            candidate.addresses = addresses;
            candidate.pause = REDIAL;
            candidate.next = candidate.next.min(next);
        }
    }

    pub(super) fn dial_due(&mut self) {
        let now = Instant::now();
        // Before it is asked whether there is room for more: only this makes room.
        if self.choice.bounded() {
            return self.dial_chosen();
        }
        if self.dials.under_way >= DIALS || self.neighbours.len() >= SESSIONS {
            return;
        }
        let waiting = self.dials.known.iter().filter(|(id, candidate)| {
            !candidate.dialling && candidate.next <= now && !self.neighbours.contains_key(id)
        });
        // Who waits longest comes first, so that those that never answer do not keep others from their turn.
        let mut due: Vec<_> = waiting.map(|(id, candidate)| (candidate.next, *id)).collect();
        due.sort_unstable();
        due.truncate(DIALS - self.dials.under_way);
        for (_, node) in due {
            self.dial(node);
        }
    }

    /// There are more nodes than neighbours: dials those that were chosen, and lets go of those that are too many.
    fn dial_chosen(&mut self) {
        let now = self.now();
        while let Some(step) = self.choice.poll(now) {
            match step {
                Step::Dial(node) if !self.dial(node) => self.choice.failed(node, false, now),
                Step::Dial(_) => {}
                Step::Drop(node) => self.close_as(node, ENOUGH, true),
            }
        }
    }

    /// Whether the node is being dialled now.
    fn dial(&mut self, node: NodeId) -> bool {
        let Some(candidate) = self.dials.known.get_mut(&node).filter(|candidate| !candidate.dialling) else {
            return false;
        };
        candidate.dialling = true;
        let addr = candidate.addresses[candidate.attempt % candidate.addresses.len()];
        candidate.attempt += 1;
        self.dials.under_way += 1;
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
        self.dials.under_way = self.dials.under_way.saturating_sub(1);
        if let Some(candidate) = self.dials.known.get_mut(&node) {
            candidate.dialling = false;
            candidate.next = Instant::now() + candidate.pause;
            candidate.pause = (candidate.pause * 2).min(LAST_REDIAL);
        }
        let Some(error) = error else { return };
        let now = self.now();
        self.choice.failed(node, false, now);
        tracing::debug!(%addr, error, "no session");
        if !self.neighbours.contains_key(&node) {
            self.doors.verify(node);
        }
    }

    pub(super) fn dht_event(&mut self, event: DhtEvent) {
        match event {
            DhtEvent::Provider { node, addr, .. } => {
                let courtesy = if node > self.me { Duration::ZERO } else { COURTESY };
                self.candidate(node, ZoneId::default(), vec![addr], courtesy);
                self.dial_due();
            }
            DhtEvent::Joined => tracing::debug!("the DHT is of use"),
        }
    }
}
