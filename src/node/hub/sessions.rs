//! Sessions: who is dialled, which session is kept where two nodes dial each other, and signs of life.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proto::limits::EXCHANGES_PER_PEER;
use proto::message::{Hello, PeerAddress};
use proto::neighbours::{ENOUGH, Step};
use proto::{Holdings, IndexId, Message, NodeId, ZoneId};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{Event, Hub, UNSEEN_BYTES};
use crate::node::address;
use crate::node::dht::DhtEvent;
use crate::node::discovery::{DiscoveryEvent, Found, Tag};
use crate::node::outbox::SessionSender;
use crate::node::serve::{Wants, serve};
use crate::node::session::{self, Session};

/// Sessions at a time, and with nodes at one address that came by themselves.
const SESSIONS: usize = 96;
const SESSIONS_OF_ONE: usize = 32;
/// Nodes known as candidates; later ones are not tried.
const CANDIDATES: usize = 8192;
/// Nodes remembered as banned; a node that wants to come back has to make a new key anyway.
const BANNED: usize = 4096;
/// Bytes of chunks that wait to be sent on one session.
const QUEUED_BYTES: usize = 1 << 20;
/// Bytes of bitmaps kept of one neighbour for indexes that this node does not take part in: a hundred times what those of
/// whole images are. For the others, the index bounds them.
const FOREIGN_HOLDINGS: usize = 256 << 10;
/// Dials at a time.
const DIALS: usize = 16;
/// The node with the higher id gives the other this long to dial.
const COURTESY: Duration = Duration::from_millis(200);
/// A neighbour that could not be dialled is tried again after this, then twice as long.
const REDIAL: Duration = Duration::from_secs(1);
const LAST_REDIAL: Duration = Duration::from_secs(60);
/// An idle session is pinged after this, and closed when nothing is heard for [`DEAF`].
const PING: Duration = Duration::from_secs(5);
const DEAF: Duration = Duration::from_secs(20);
/// Goodbyes may take this long.
const GOODBYE: Duration = Duration::from_millis(700);

/// A node with which there is a session.
pub(super) struct Neighbour {
    pub(super) serial: u64,
    pub(super) hello: Hello,
    pub(super) addr: SocketAddr,
    pub(super) since: Instant,
    pub(super) rosters: BTreeMap<IndexId, Roster>,
    pub(super) wants: Arc<Wants>,
    /// Index files on their way to it, each with a permit.
    pub(super) giving: Arc<Semaphore>,
    pub(super) received: u64,
    pub(super) sender: SessionSender,
    dialled: bool,
    heard: Instant,
    pinged: Instant,
    tasks: [AbortHandle; 2],
}

/// What a neighbour said of one index.
#[derive(Debug, Default, Clone)]
pub(super) struct Roster {
    pub(super) downloads: bool,
    pub(super) has_index: bool,
    pub(super) no_origin: bool,
    /// What it holds; `None` until it said so.
    pub(super) holdings: Option<Holdings>,
}

/// Nodes that are to be dialled or being dialled.
#[derive(Default)]
pub(super) struct Dials {
    known: BTreeMap<NodeId, Candidate>,
    under_way: usize,
}

struct Candidate {
    addresses: Vec<SocketAddr>,
    next: Instant,
    pause: Duration,
    attempt: usize,
    dialling: bool,
}

impl Neighbour {
    /// Queues a message. A session whose queue is full is too slow for small messages; it ends by itself.
    pub(super) fn send(&self, message: &Message) {
        if let Err(error) = self.sender.send(message) {
            tracing::debug!(addr = %self.addr, %error, "message dropped");
        }
    }

    /// Whether another bitmap of an index that this node does not take part in may be kept in place of the one there is.
    pub(super) fn has_room_for(&self, index: &IndexId, holdings: &Holdings, ours: impl Fn(&IndexId) -> bool) -> bool {
        let others = self.rosters.iter().filter(|(id, _)| *id != index && !ours(id));
        let kept: usize = others.filter_map(|(_, roster)| roster.holdings.as_ref()).map(Holdings::bytes).sum();
        kept + holdings.bytes() <= FOREIGN_HOLDINGS
    }

    pub(super) fn zone(&self) -> ZoneId {
        ZoneId::of(&self.hello.zone)
    }

    /// The neighbour's word on one index, within the number of exchanges allowed.
    pub(super) fn roster(&mut self, index: IndexId) -> Option<&mut Roster> {
        if !self.rosters.contains_key(&index) && self.rosters.len() >= EXCHANGES_PER_PEER {
            return None;
        }
        Some(self.rosters.entry(index).or_default())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
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

    /// Writes down who is there now.
    pub(super) fn note_known(&mut self) {
        for (id, neighbour) in self.neighbours.iter().filter(|(_, neighbour)| neighbour.hello.session_port != 0) {
            self.doors.note_known(*id, at_port(neighbour.addr, neighbour.hello.session_port));
        }
        self.doors.save_known();
    }

    pub(super) fn tend_sessions(&mut self) {
        self.dial_due();
        let bounded = self.choice.bounded();
        for fetching in self.locals.values_mut().filter_map(|local| local.fetching.as_mut()) {
            fetching.exchange.set_bounded(bounded);
        }
        let now = Instant::now();
        let mut deaf = Vec::new();
        for (id, neighbour) in &mut self.neighbours {
            if now - neighbour.heard > DEAF {
                deaf.push(*id);
            } else if now - neighbour.heard > PING && now - neighbour.pinged > PING {
                neighbour.pinged = now;
                neighbour.send(&Message::Ping { nonce: neighbour.serial });
            }
        }
        for id in deaf {
            self.close(id, "nothing heard for too long");
        }
    }

    fn dial_due(&mut self) {
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

    pub(super) fn opened(&mut self, session: Session, dialled: bool) {
        let Session { remote, hello, remote_addr, mut reader, sender } = session;
        if let Some(candidate) = self.dials.known.get_mut(&remote) {
            candidate.pause = REDIAL;
            candidate.next = Instant::now() + REDIAL;
        }
        let of_one = || self.neighbours.values().filter(|other| other.addr.ip() == remote_addr.ip()).count();
        let zone = ZoneId::of(&hello.zone);
        let new = !dialled && !self.neighbours.contains_key(&remote);
        let full = new && (self.neighbours.len() >= SESSIONS || of_one() >= SESSIONS_OF_ONE);
        if self.banned.contains(&remote) || full {
            sender.close("not wanted");
            return;
        }
        if new && self.choice.bounded() && !self.choice.accepts(&remote, zone) {
            sender.close(ENOUGH);
            return;
        }
        if let Some(other) = self.neighbours.get(&remote) {
            let keep_new = match other.since.elapsed() < session::OPENING {
                // Both dialled at once: both keep the session that the node with the lower id dialled.
                true => dialled == (self.me < remote) && other.dialled != dialled,
                // Nobody dials a node with which it has a session: the other side lost this one, and we do not know yet.
                false => !dialled,
            };
            if !keep_new {
                sender.close("there is a session already");
                return;
            }
            self.close_as(remote, "there is a session already", true);
        }
        self.serial += 1;
        let serial = self.serial;
        let (events, unseen, download) = (self.events.clone(), self.unseen.clone(), self.download.clone());
        let reading = tokio::spawn(async move {
            let reason = loop {
                match reader.next().await {
                    Ok(Some((message, payload))) => {
                        if let Some(download) = download.as_ref().filter(|_| !payload.is_empty()) {
                            download.pass(payload.len() as u64).await;
                        }
                        let bytes = payload.len().min(UNSEEN_BYTES) as u32;
                        let room = match bytes {
                            0 => None,
                            bytes => unseen.clone().acquire_many_owned(bytes).await.ok(),
                        };
                        let said = Event::Said { from: remote, serial, message, payload, room };
                        if events.send(said).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => break "closed".to_owned(),
                    Err(error) => break error.to_string(),
                }
            };
            let _ = events.send(Event::Ended { from: remote, serial, reason }).await;
        });
        sender.limit_chunks(QUEUED_BYTES);
        let wants = self.serving.wants(serial);
        let serving = tokio::spawn(serve(wants.clone(), sender.clone(), self.serving.clone()));
        let now = Instant::now();
        tracing::info!(node = ?remote, addr = %remote_addr, agent = hello.agent, "session");
        if hello.dht_port != 0 {
            self.doors.add_dht_peer(remote, at_port(remote_addr, hello.dht_port));
        }
        let neighbour = Neighbour {
            serial,
            hello,
            addr: remote_addr,
            since: now,
            rosters: BTreeMap::new(),
            wants,
            giving: Arc::new(Semaphore::new(EXCHANGES_PER_PEER)),
            received: 0,
            sender,
            dialled,
            heard: now,
            pinged: now,
            tasks: [reading.abort_handle(), serving.abort_handle()],
        };
        self.neighbours.insert(remote, neighbour);
        let now = self.now();
        self.choice.opened(remote, zone, now);
        for race in self.locals.values_mut().filter_map(|local| local.race.as_mut()) {
            race.machine.met(remote, now);
        }
        self.session_config.connected.insert(remote);
        self.introduce(remote);
    }

    /// Something came from a neighbour: it is alive.
    pub(super) fn heard(&mut self, from: NodeId, bytes: usize) {
        if let Some(neighbour) = self.neighbours.get_mut(&from) {
            neighbour.heard = Instant::now();
            neighbour.received += bytes as u64;
        }
    }

    pub(super) fn ended(&mut self, from: NodeId, serial: u64, reason: &str) {
        if self.neighbours.get(&from).is_some_and(|neighbour| neighbour.serial == serial) {
            tracing::info!(node = ?from, reason, "session ended");
            self.close(from, "closed");
        }
    }

    /// Ends the session and takes the neighbour out of everything.
    pub(super) fn close(&mut self, id: NodeId, reason: &str) {
        self.close_as(id, reason, false);
    }

    /// The same; `there`: the node is not gone, only no neighbour any more.
    pub(super) fn close_as(&mut self, id: NodeId, reason: &str, there: bool) {
        let now = self.now();
        self.choice.closed(id, now);
        let Some(neighbour) = self.neighbours.remove(&id) else { return };
        self.session_config.connected.remove(&id);
        neighbour.sender.close(reason);
        if let Some(candidate) = self.dials.known.get_mut(&id) {
            candidate.next = candidate.next.max(Instant::now() + COURTESY);
        }
        for index in neighbour.rosters.keys() {
            self.departed(id, index, there);
        }
        self.gathering.retain(|(from, _), _| *from != id);
    }

    /// Ends the session and accepts no other with that node.
    pub(super) fn ban(&mut self, id: NodeId) {
        tracing::info!(node = ?id, "banned: it sent a chunk that was not what it said");
        if self.banned.len() >= BANNED {
            self.banned.pop_first();
        }
        self.banned.insert(id);
        self.dials.known.remove(&id);
        self.close(id, "sent a corrupt chunk");
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

    pub(super) async fn say_goodbye(&mut self) {
        let anybody = !self.neighbours.is_empty();
        self.note_known();
        for (_, neighbour) in std::mem::take(&mut self.neighbours) {
            neighbour.sender.close("shutting down");
        }
        let _ = tokio::time::timeout(GOODBYE, self.doors.close(anybody)).await;
    }
}

/// Another port of the same host; a link-local address keeps its interface.
fn at_port(mut addr: SocketAddr, port: u16) -> SocketAddr {
    addr.set_port(port);
    addr
}
