//! Sessions: which is kept where two nodes dial each other, signs of life, and the end. Who is dialled is told in
//! [`super::dials`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proto::limits::EXCHANGES_PER_PEER;
use proto::message::Hello;
use proto::neighbours::ENOUGH;
use proto::{Holdings, IndexId, Message, NodeId, ZoneId};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{Event, Hub, UNSEEN_BYTES};
use crate::node::address::at_port;
use crate::node::outbox::SessionSender;
use crate::node::serve::{Wants, serve};
use crate::node::session::{self, Session};

/// Sessions at a time, and with nodes at one address that came by themselves.
const SESSIONS: usize = 96;
const SESSIONS_OF_ONE: usize = 32;
/// Nodes remembered as banned; a node that wants to come back has to make a new key anyway.
const BANNED: usize = 4096;
/// Bytes of chunks that wait to be sent on one session.
const QUEUED_BYTES: usize = 1 << 20;
/// Bytes of bitmaps kept of one neighbour for indexes that this node does not take part in: a hundred times what those of
/// whole images are. For the others, the index bounds them.
const FOREIGN_HOLDINGS: usize = 256 << 10;
/// The node with the higher id gives the other this long to dial.
pub(super) const COURTESY: Duration = Duration::from_millis(200);
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
    /// When it asked for chunks last.
    pub(super) asked: Option<Instant>,
    /// What it holds; `None` until it said so.
    pub(super) holdings: Option<Holdings>,
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
    /// Writes down who is there now.
    pub(super) fn note_known(&mut self) {
        for (id, neighbour) in self.neighbours.iter().filter(|(_, neighbour)| neighbour.hello.session_port != 0) {
            self.doors.note_known(*id, at_port(neighbour.addr, neighbour.hello.session_port));
        }
        self.doors.save_known();
    }

    pub(super) fn tend_sessions(&mut self) {
        self.tend_dials();
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

    pub(super) fn opened(&mut self, session: Session, dialled: bool) {
        let Session { remote, hello, remote_addr, mut reader, sender } = session;
        let of_one = || self.neighbours.values().filter(|other| other.addr.ip() == remote_addr.ip()).count();
        let zone = ZoneId::of(&hello.zone);
        let new = !dialled && !self.neighbours.contains_key(&remote);
        let full = new && (self.neighbours.len() >= SESSIONS || of_one() >= SESSIONS_OF_ONE);
        if self.banned.contains(&remote) || full {
            sender.close("not wanted");
            self.not_reached(remote);
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

    pub(super) async fn say_goodbye(&mut self) {
        let anybody = !self.neighbours.is_empty();
        self.note_known();
        for (_, neighbour) in std::mem::take(&mut self.neighbours) {
            neighbour.sender.close("shutting down");
        }
        let _ = tokio::time::timeout(GOODBYE, self.doors.close(anybody)).await;
    }
}
