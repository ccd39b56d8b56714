//! Sessions: who is dialled, which session is kept where two nodes dial each other, and signs of life.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proto::limits::EXCHANGES_PER_PEER;
use proto::message::Hello;
use proto::{Holdings, IndexId, Message, NodeId};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{Event, Hub, UNSEEN_BYTES};
use crate::node::address;
use crate::node::dht::DhtEvent;
use crate::node::discovery::{DiscoveryEvent, Found};
use crate::node::outbox::SessionSender;
use crate::node::serve::{Wants, serve};
use crate::node::session::{self, Session};

/// Sessions at a time.
const SESSIONS: usize = 96;
/// Bytes of chunks that wait to be sent on one session.
const QUEUED_BYTES: usize = 1 << 20;
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
    bootstrap: VecDeque<(SocketAddr, Instant, Duration)>,
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
    pub(super) fn dial_bootstrap(&mut self) {
        let known = self.doors.known.latest_first();
        for peer in known.into_iter().take(8) {
            self.candidate(peer.node, vec![peer.addr], Duration::ZERO);
        }
        let now = Instant::now();
        self.dials.bootstrap.extend(self.config.bootstrap.iter().map(|addr| (*addr, now, REDIAL)));
        self.tend_sessions();
    }

    pub(super) fn discovered(&mut self, event: DiscoveryEvent) {
        match event {
            DiscoveryEvent::Found(Found { node, addresses, .. }) => {
                let courtesy = if node > self.me { Duration::ZERO } else { COURTESY };
                self.candidate(node, addresses, courtesy);
                self.dial_due();
            }
            DiscoveryEvent::Lost(node) => {
                self.dials.known.remove(&node);
            }
            DiscoveryEvent::Warning(warning) => tracing::warn!("{warning}"),
        }
    }

    /// A node that may be dialled at these addresses.
    pub(super) fn candidate(&mut self, node: NodeId, mut addresses: Vec<SocketAddr>, after: Duration) {
        addresses.retain(|addr| addr.port() != 0);
        if node == self.me || self.banned.contains(&node) || addresses.is_empty() {
            return;
        }
        address::order(&mut addresses);
        let next = Instant::now() + after;
        let new = Candidate { addresses: Vec::new(), next, pause: REDIAL, attempt: 0, dialling: false };
        let candidate = self.dials.known.entry(node).or_insert(new);
        candidate.addresses = addresses;
    }

    pub(super) fn tend_sessions(&mut self) {
        self.dial_due();
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
        let mut due = Vec::new();
        for (id, candidate) in &mut self.dials.known {
            let room = self.dials.under_way + due.len() < DIALS && self.neighbours.len() < SESSIONS;
            if room && !candidate.dialling && candidate.next <= now && !self.neighbours.contains_key(id) {
                candidate.dialling = true;
                let addr = candidate.addresses[candidate.attempt % candidate.addresses.len()];
                candidate.attempt += 1;
                due.push((Some(*id), addr));
            }
        }
        for _ in 0..self.dials.bootstrap.len() {
            let Some((addr, next, pause)) = self.dials.bootstrap.pop_front() else { break };
            let there = self.neighbours.values().any(|neighbour| neighbour.addr == addr);
            if next <= now && !there && self.dials.under_way + due.len() < DIALS {
                due.push((None, addr));
                self.dials.bootstrap.push_back((addr, now + pause, (pause * 2).min(LAST_REDIAL)));
            } else {
                self.dials.bootstrap.push_back((addr, next, pause));
            }
        }
        for (node, addr) in due {
            self.dials.under_way += 1;
            let (config, events) = (self.session_config.clone(), self.events.clone());
            tokio::spawn(async move {
                let event = match session::connect(addr, node, &config).await {
                    Ok(session) => Event::Opened { session: Box::new(session), dialled: true },
                    Err(error) => Event::DialFailed { node, addr, error: error.to_string() },
                };
                let _ = events.send(event).await;
            });
        }
    }

    pub(super) fn dial_failed(&mut self, node: Option<NodeId>, addr: SocketAddr, error: &str) {
        self.dials.under_way = self.dials.under_way.saturating_sub(1);
        tracing::debug!(%addr, error, "no session");
        if let Some(candidate) = node.and_then(|node| self.dials.known.get_mut(&node)) {
            candidate.dialling = false;
            candidate.next = Instant::now() + candidate.pause;
            candidate.pause = (candidate.pause * 2).min(LAST_REDIAL);
        }
        if let Some(node) = node {
            self.doors.verify(node);
        }
    }

    pub(super) fn opened(&mut self, session: Session, dialled: bool) {
        let Session { remote, hello, remote_addr, mut reader, sender } = session;
        if dialled {
            self.dials.under_way = self.dials.under_way.saturating_sub(1);
        }
        if let Some(candidate) = self.dials.known.get_mut(&remote) {
            candidate.dialling = false;
            candidate.pause = REDIAL;
            candidate.next = Instant::now() + REDIAL;
        }
        if self.banned.contains(&remote) || (self.neighbours.len() >= SESSIONS && !dialled) {
            sender.close("not wanted");
            return;
        }
        if let Some(other) = self.neighbours.get(&remote) {
            // Both sides keep the session that the node with the lower id dialled.
            let keep_new = dialled == (self.me < remote) && other.dialled != dialled;
            if !keep_new {
                sender.close("there is a session already");
                return;
            }
            self.close(remote, "there is a session already");
        }
        self.serial += 1;
        let serial = self.serial;
        let (events, unseen) = (self.events.clone(), self.unseen.clone());
        let reading = tokio::spawn(async move {
            let reason = loop {
                match reader.next().await {
                    Ok(Some((message, payload))) => {
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
        let wants = Arc::new(Wants::default());
        let serving = tokio::spawn(serve(wants.clone(), sender.clone(), self.serving.clone()));
        let now = Instant::now();
        tracing::info!(node = ?remote, addr = %remote_addr, agent = hello.agent, "session");
        if hello.dht_port != 0 {
            self.doors.add_dht_peer(remote, SocketAddr::new(remote_addr.ip(), hello.dht_port));
        }
        if hello.session_port != 0 {
            self.doors.note_known(remote, SocketAddr::new(remote_addr.ip(), hello.session_port));
        }
        let neighbour = Neighbour {
            serial,
            hello,
            addr: remote_addr,
            since: now,
            rosters: BTreeMap::new(),
            wants,
            received: 0,
            sender,
            dialled,
            heard: now,
            pinged: now,
            tasks: [reading.abort_handle(), serving.abort_handle()],
        };
        self.neighbours.insert(remote, neighbour);
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
        let Some(neighbour) = self.neighbours.remove(&id) else { return };
        neighbour.sender.close(reason);
        if let Some(candidate) = self.dials.known.get_mut(&id) {
            candidate.next = candidate.next.max(Instant::now() + COURTESY);
        }
        for index in neighbour.rosters.keys() {
            self.departed(id, index);
        }
        self.gathering.retain(|(from, _), _| *from != id);
    }

    /// Ends the session and accepts no other with that node.
    pub(super) fn ban(&mut self, id: NodeId) {
        tracing::info!(node = ?id, "banned: it sent a chunk that was not what it said");
        self.banned.insert(id);
        self.dials.known.remove(&id);
        self.close(id, "sent a corrupt chunk");
    }

    pub(super) fn dht_event(&mut self, event: DhtEvent) {
        match event {
            DhtEvent::Provider { node, addr, .. } => {
                let courtesy = if node > self.me { Duration::ZERO } else { COURTESY };
                self.candidate(node, vec![addr], courtesy);
                self.dial_due();
            }
            DhtEvent::Joined => tracing::debug!("the DHT is of use"),
        }
    }

    pub(super) async fn say_goodbye(&mut self) {
        let anybody = !self.neighbours.is_empty();
        for (_, neighbour) in std::mem::take(&mut self.neighbours) {
            neighbour.sender.close("shutting down");
        }
        let _ = tokio::time::timeout(GOODBYE, self.doors.close(anybody)).await;
    }
}
