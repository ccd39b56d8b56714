//! The node's event loop. It owns the sessions and one [`proto::Exchange`] for each index that is being fetched, turns
//! what happens into calls of these machines, and does what they say. It decides nothing itself.
//!
//! Everything that the outside can make grow is bounded here: sessions, exchanges a session, events that wait, bytes of
//! chunks that wait to be looked at.

mod dials;
mod fetching;
mod indexes;
mod sessions;
mod status;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::exchange::Source;
use proto::{Holdings, IndexId, Message, Neighbours, NodeId, Position, Time, ZoneId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::dht::DhtEvent;
use super::discovery::{DiscoveryEvent, Tag};
use super::fetch::Outcome;
use super::holder::Holder;
use super::serve::Serving;
use super::session::{Session, SessionConfig};
use super::{Doors, NodeConfig};
use crate::chunk::Encoded;
use crate::extract::network::{FetchError, Job, NetworkReport};
use crate::format::layout::Layout;
use crate::source::{self, rate_limit::RateLimit};
use dials::Dials;
use fetching::Fetching;
use indexes::{Gathering, Race};
use sessions::Neighbour;
pub use status::{ImageStatus, NeighbourStatus, Status};

/// Events that wait to be looked at.
const EVENTS: usize = 512;

/// Payload bytes that came and were not looked at yet, over all sessions.
const UNSEEN_BYTES: usize = 8 << 20;

/// Bytes of chunks kept as they came, to be served again.
const RECENT_BYTES: usize = 12 << 20;

/// Events handled before the exchanges are asked what to do.
const BATCH: usize = 64;

/// The DHT is asked again this often while something is missing: providers come late, and answers get lost.
const SEARCH_AGAIN: Duration = Duration::from_secs(5);

/// Images that were removed are let go this often, for they fill the disk while they are open here, and the peers met are
/// written down.
const TIDY: Duration = Duration::from_secs(5);

/// Regular chores: pings, dials that wait, holdings that grew by local work.
const CHORES: Duration = Duration::from_millis(100);

/// What happens to a node.
pub(crate) enum Event {
    /// A session opened; whether this node dialled.
    Opened { session: Box<Session>, dialled: bool },
    /// A dial of the hub's ended; without an error its session comes next.
    Dialled { node: NodeId, addr: SocketAddr, error: Option<String> },
    /// A neighbour said something. The permit bounds the bytes that wait.
    Said { from: NodeId, serial: u64, message: Message, payload: Bytes, room: Option<OwnedSemaphorePermit> },
    /// A session ended.
    Ended { from: NodeId, serial: u64, reason: String },
    /// mDNS.
    Discovery(DiscoveryEvent),
    /// Kademlia.
    Dht(DhtEvent),
    /// The origin's stores answered.
    Origin(Box<fetching::OriginReply>),
    /// Local work found out what it lacks; `None`: there will be no more.
    Wanted { index: IndexId, positions: Option<Vec<Position>> },
    /// What a node holds of an index it did not know is worked out.
    Worked { index: IndexId, bytes: Bytes, layout: Arc<Layout>, holdings: Holdings },
    /// Whoever owns the node wants something.
    Command(Command),
}

/// What is asked of a node from within the program.
pub(crate) enum Command {
    /// An index by its id; `None` when it has to come from the origin.
    Index { id: IndexId, origin: bool, reply: oneshot::Sender<Option<Bytes>> },
    /// An image.
    Fetch { job: Box<Job>, reply: oneshot::Sender<Result<NetworkReport, FetchError>> },
    /// Serve from this; with an index, announce it.
    Serve { holder: Arc<dyn Holder>, index: Option<(IndexId, Bytes, Arc<Layout>)>, name: String },
    /// Serve no longer from the place of this name.
    Unserve { place: String },
    /// Whether a neighbour still lacks chunks of this index.
    Needed { index: IndexId, reply: oneshot::Sender<bool> },
    /// The state for people and programs.
    Status { reply: oneshot::Sender<Status> },
    /// Say goodbye to everyone.
    Shutdown { reply: oneshot::Sender<()> },
}

/// What became of a chunk that was handed to the sink.
pub(crate) struct Done {
    index: IndexId,
    position: Position,
    from: Source,
    store: usize,
    outcome: Outcome,
}

/// One index that this node takes part in.
pub(crate) struct Local {
    name: String,
    /// The image that it was announced with, by its holder's name.
    place: Option<String>,
    bytes: Option<Bytes>,
    layout: Option<Arc<Layout>>,
    /// What is served of it while nothing is fetched.
    holdings: Holdings,
    /// Named by a neighbour; kept while one wants it.
    foreign: bool,
    race: Option<Race>,
    fetching: Option<Box<Fetching>>,
}

pub(crate) struct Hub {
    config: NodeConfig,
    me: NodeId,
    started: Instant,
    session_config: SessionConfig,
    doors: Doors,
    serving: Arc<Serving>,
    unseen: Arc<Semaphore>,
    download: Option<Arc<RateLimit>>,
    events: mpsc::Sender<Event>,
    done: mpsc::UnboundedSender<Done>,
    neighbours: BTreeMap<NodeId, Neighbour>,
    /// Who of the many is to be a neighbour.
    choice: Neighbours,
    dials: Dials,
    /// What discovery names of the own zone, with the tags of what each takes part in.
    on_wire: BTreeMap<NodeId, Vec<Tag>>,
    banned: BTreeSet<NodeId>,
    locals: BTreeMap<IndexId, Local>,
    gathering: BTreeMap<(NodeId, IndexId), Gathering>,
    serial: u64,
    searched: Instant,
    tidied: Instant,
}

impl Hub {
    /// Runs until it is told to shut down.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<Event>, mut done: mpsc::UnboundedReceiver<Done>) {
        let mut chores = tokio::time::interval(CHORES);
        chores.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.dial_known();
        loop {
            let deadline = self.deadline();
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else { return };
                    if self.handle(event) {
                        break;
                    }
                }
                Some(one) = done.recv() => self.done(one),
                _ = chores.tick() => self.chores(),
                () = tokio::time::sleep_until(deadline) => {}
            }
            let mut stop = false;
            for _ in 0..BATCH {
                if let Ok(one) = done.try_recv() {
                    self.done(one);
                } else if let Ok(event) = events.try_recv() {
                    stop |= self.handle(event);
                } else {
                    break;
                }
            }
            if stop {
                break;
            }
            self.tend_races();
            self.drive();
        }
        self.say_goodbye().await;
    }

    #[allow(clippy::type_complexity)]
    pub(crate) fn channels()
    -> ((mpsc::Sender<Event>, mpsc::Receiver<Event>), (mpsc::UnboundedSender<Done>, mpsc::UnboundedReceiver<Done>))
    {
        // The second needs no bound of its own: there is one entry for each chunk that is being verified, and the
        // exchange bounds these.
        (mpsc::channel(EVENTS), mpsc::unbounded_channel())
    }

    pub(crate) fn new(
        config: NodeConfig,
        session_config: SessionConfig,
        doors: Doors,
        events: mpsc::Sender<Event>,
        done: mpsc::UnboundedSender<Done>,
    ) -> Self {
        let me = config.identity.node_id();
        Self {
            me,
            choice: Neighbours::new(me, ZoneId::of(&config.zone), source::random()),
            started: Instant::now(),
            session_config,
            doors,
            serving: Arc::new(Serving::new(RECENT_BYTES, &config.limits)),
            download: config.limits.download.map(|rate| Arc::new(RateLimit::new(rate))),
            unseen: Arc::new(Semaphore::new(UNSEEN_BYTES)),
            events,
            done,
            neighbours: BTreeMap::new(),
            dials: Dials::default(),
            on_wire: BTreeMap::new(),
            banned: BTreeSet::new(),
            locals: BTreeMap::new(),
            gathering: BTreeMap::new(),
            serial: 0,
            searched: Instant::now(),
            tidied: Instant::now(),
            config,
        }
    }

    /// True: stop.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Opened { session, dialled } => self.opened(*session, dialled),
            Event::Dialled { node, addr, error } => self.dialled(node, addr, error.as_deref()),
            Event::Said { from, serial, message, payload, room } => {
                if self.neighbours.get(&from).is_some_and(|neighbour| neighbour.serial == serial) {
                    self.said(from, message, payload);
                }
                drop(room);
            }
            Event::Ended { from, serial, reason } => self.ended(from, serial, &reason),
            Event::Discovery(event) => self.discovered(event),
            Event::Dht(event) => self.dht_event(event),
            Event::Origin(reply) => self.origin_replied(*reply),
            Event::Wanted { index, positions } => self.wanted(index, positions),
            Event::Worked { index, bytes, layout, holdings } => self.worked(index, bytes, layout, holdings),
            Event::Command(command) => return self.command(command),
        }
        false
    }

    fn command(&mut self, command: Command) -> bool {
        match command {
            Command::Index { id, origin, reply } => self.find_index(id, origin, reply),
            Command::Fetch { job, reply } => self.fetch(*job, reply),
            Command::Serve { holder, index, name } => self.serve(holder, index, name),
            Command::Unserve { place } => self.unserve(|holder| holder.name() == place),
            Command::Needed { index, reply } => {
                let _ = reply.send(self.needed(&index));
            }
            Command::Status { reply } => {
                let _ = reply.send(self.status());
            }
            Command::Shutdown { reply } => {
                let _ = reply.send(());
                return true;
            }
        }
        false
    }

    fn now(&self) -> Time {
        self.started.elapsed()
    }

    fn deadline(&self) -> Instant {
        let exchanges = self.locals.values().filter_map(|local| local.fetching.as_ref());
        let next = exchanges.filter_map(|fetching| fetching.exchange.poll_timeout()).map(|(at, _)| at).min();
        let far = self.now() + Duration::from_secs(3600);
        self.started + next.unwrap_or(far)
    }

    fn chores(&mut self) {
        self.tend_sessions();
        self.tend_fetching();
        self.forget_foreign();
        self.update_discovery();
        if self.tidied.elapsed() > TIDY {
            self.tidied = Instant::now();
            self.unserve(|holder| holder.is_removed());
            self.note_known();
        }
        if self.searched.elapsed() > SEARCH_AGAIN {
            self.searched = Instant::now();
            for (index, local) in &self.locals {
                if local.race.is_some() || local.fetching.as_ref().is_some_and(|f| !f.exchange.complete()) {
                    self.doors.find_providers(*index);
                }
            }
        }
    }

    /// Sends to everyone who takes part in the exchange of an index.
    fn tell(&self, index: &IndexId, message: &Message) {
        for neighbour in self.neighbours.values().filter(|neighbour| neighbour.rosters.contains_key(index)) {
            neighbour.send(message);
        }
    }

    /// Sends to every neighbour.
    fn tell_all(&self, message: &Message) {
        for neighbour in self.neighbours.values() {
            neighbour.send(message);
        }
    }
}

/// Bytes as a neighbour sent them.
fn encoded(encoding: proto::message::Encoding, bytes: Bytes) -> Encoded {
    Encoded { encoding, bytes }
}
