//! Which nodes hold or want an index, beyond the reach of multicast: libp2p's Kademlia, with provider records of indexes,
//! in shards where many provide one.
//!
//! All of libp2p's networking is in this module. It carries no chunks and no messages of `proto`; what it finds are nodes
//! and the addresses of their session ports. Addresses that others tell are not believed: a node is dialled at the IP
//! address from which it was heard, at the ports it told.

mod addresses;
mod behaviour;
mod gate;
mod places;
mod shards;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::kad::store::RecordStore;
use libp2p::kad::{self, GetProvidersOk, InboundRequest, ProviderRecord, QueryId, QueryResult, RecordKey};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify};
use proto::{IndexId, NodeId};
use tokio::sync::{mpsc, oneshot};

use super::address;
use super::admission::Admission;
use super::identity::{Identity, node_id_of, peer_id_of};
use super::membership::Membership;
use addresses::{heard_at, multiaddr, needs_scope, session_port, socket_addr};
use behaviour::{Behaviour, BehaviourEvent, KEYS, swarm};
use places::{Asked, Provided};

/// How long a search is repeated when nodes become known.
const SEARCH: Duration = Duration::from_secs(60);

/// How long to wait for more nodes to become known before telling and asking them, and how long before doing so again.
const GATHER: Duration = Duration::from_millis(100);
const REPEAT: Duration = Duration::from_secs(5);

/// What is announced is announced again after this, then twice as long each time, until libp2p's own renewal takes over:
/// nobody confirms a record, and one that got lost would be missing for minutes.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(3);
const LAST_ANNOUNCE: Duration = Duration::from_secs(200);

/// A node that was made known and did not say yet what it is, is dialled again this often, and so many times: it is made
/// known only once, and a dial may fail.
const DIAL_AGAIN: Duration = Duration::from_secs(3);
const DIALS: u32 = 20;

/// How long listening may take until there is an address.
const LISTEN: Duration = Duration::from_secs(3);

/// Indexes of our own that are announced or searched at a time; more are refused.
pub const INDEXES: usize = 256;

/// Nodes whose session address is waited for.
const NODES: usize = 1024;

/// What the DHT part of a node is told.
#[derive(Debug, Clone)]
pub struct DhtConfig {
    /// The node.
    pub identity: Identity,
    /// Where to listen; unspecified = every interface, by IPv4 and IPv6.
    pub listen: IpAddr,
    /// The TCP port to listen on; 0 = any.
    pub port: u16,
    /// Whether to keep records for others. False: only ask and announce.
    pub server: bool,
    /// The network; networks do not see each other's records.
    pub network: Membership,
    /// The TCP port on which this node accepts sessions; 0 = it does not.
    pub session_port: u16,
    /// With whom this node talks.
    pub admission: Arc<Admission>,
    /// Whether packets are marked as less than best effort.
    pub background: bool,
}

impl DhtConfig {
    /// The usual settings: default network, any port, every interface, private addresses, no records for others.
    pub fn new(identity: Identity, session_port: u16) -> Self {
        let listen = Ipv6Addr::UNSPECIFIED.into();
        let (network, admission) = Default::default();
        Self { identity, listen, port: 0, server: false, network, session_port, admission, background: false }
    }
}

/// What the DHT has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DhtEvent {
    /// A node announced that it holds or wants an index. Told again whenever it is found again.
    Provider {
        /// The index searched for.
        index: IndexId,
        /// The node.
        node: NodeId,
        /// Its session port, at the IP address from which it was heard.
        addr: SocketAddr,
    },
    /// A node that keeps records became known: the DHT is of use from now on.
    Joined,
}

/// Why there is no DHT.
#[derive(Debug, thiserror::Error)]
pub enum DhtError {
    /// The port is taken, or there is no such address.
    #[error("DHT: cannot listen on {addr}: {reason}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// libp2p could not be set up.
    #[error("DHT: {0}")]
    Setup(String),
}

/// The running DHT; it ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct DhtHandle {
    commands: mpsc::Sender<Command>,
    port: u16,
}

#[derive(Debug)]
enum Command {
    AddPeer(NodeId, SocketAddr),
    Close(oneshot::Sender<()>),
    Provide(IndexId),
    Withdraw(IndexId),
    Find(IndexId),
}

impl DhtHandle {
    /// The TCP port of its listener, for our `Hello`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes a node known, by the address of its DHT port.
    pub fn add_peer(&self, node: NodeId, addr: SocketAddr) {
        self.command(Command::AddPeer(node, addr));
    }

    /// Announces that this node holds or wants the index, now and until withdrawn.
    pub fn provide(&self, index: IndexId) {
        self.command(Command::Provide(index));
    }

    /// No longer announces the index. Others forget within a quarter of an hour.
    pub fn withdraw(&self, index: IndexId) {
        self.command(Command::Withdraw(index));
    }

    /// Searches for nodes that hold or want the index: now, and for a minute whenever further nodes become known.
    pub fn find_providers(&self, index: IndexId) {
        self.command(Command::Find(index));
    }

    /// Takes back what this node announced, as well as that can be done in half a second, and ends.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }

    /// What is said faster than it can be done is dropped: every command is repeated by those who need it.
    fn command(&self, command: Command) {
        if let Err(error) = self.commands.try_send(command) {
            tracing::debug!(%error, "DHT command dropped");
        }
    }
}

/// Starts the DHT; has to be called within a tokio runtime. Returns once it listens.
pub async fn start(config: DhtConfig) -> Result<(DhtHandle, mpsc::Receiver<DhtEvent>), DhtError> {
    let mut swarm = swarm(&config)?;
    let port = listen(&mut swarm, &config).await?;
    let (commands, receiver) = mpsc::channel(1024);
    let (events, told) = mpsc::channel(1024);
    let dht = Dht {
        swarm,
        config,
        events,
        remote: BTreeMap::new(),
        sessions: BTreeMap::new(),
        waiting: BTreeMap::new(),
        unmet: BTreeMap::new(),
        provided: BTreeMap::new(),
        asked: HashMap::new(),
        looked: BTreeMap::new(),
        kept: HashSet::new(),
        addresses: BTreeMap::new(),
        sought: BTreeMap::new(),
        repeat: None,
        repeated: None,
        announce: None,
    };
    tokio::spawn(dht.run(receiver));
    Ok((DhtHandle { commands, port }, told))
}

/// Listens on one port, of both families where every interface is meant; returns it.
async fn listen(swarm: &mut Swarm<Behaviour>, config: &DhtConfig) -> Result<u16, DhtError> {
    let first = if config.listen.is_unspecified() { Ipv4Addr::UNSPECIFIED.into() } else { config.listen };
    let addr = SocketAddr::new(first, config.port);
    let failed = |reason: String| DhtError::Listen { addr, reason };
    swarm.listen_on(multiaddr(addr)).map_err(|e| failed(e.to_string()))?;
    let listening = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { address, .. } => {
                    note_own(swarm, config, &address);
                    return Ok(socket_addr(&address).map_or(0, |addr| addr.port()));
                }
                SwarmEvent::ListenerError { error, .. } => return Err(failed(error.to_string())),
                SwarmEvent::ListenerClosed { reason: Err(error), .. } => return Err(failed(error.to_string())),
                _ => {}
            }
        }
    };
    let listening = tokio::time::timeout(LISTEN, listening).await;
    let port = listening.unwrap_or_else(|_| Err(failed("no interface has an address".into())))?;
    if config.listen.is_unspecified()
        && let Err(error) = swarm.listen_on(multiaddr(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)))
    {
        tracing::debug!(%error, "the DHT is on IPv4 only");
    }
    Ok(port)
}

struct Dht {
    swarm: Swarm<Behaviour>,
    config: DhtConfig,
    events: mpsc::Sender<DhtEvent>,
    /// From which IP address connected nodes are heard.
    remote: BTreeMap<PeerId, IpAddr>,
    /// Where connected nodes accept sessions.
    sessions: BTreeMap<PeerId, SocketAddr>,
    /// Nodes found, whose session address is not known yet, and for which index.
    waiting: BTreeMap<PeerId, BTreeSet<IndexId>>,
    /// Nodes made known that did not say yet what they are: where they are, and how often they were dialled.
    unmet: BTreeMap<PeerId, (Multiaddr, u32)>,
    provided: BTreeMap<IndexId, Provided>,
    /// Questions on their way.
    asked: HashMap<QueryId, Asked>,
    /// How many others provide an index, in this node's shards, as far as it was looked.
    looked: BTreeMap<IndexId, BTreeMap<u8, usize>>,
    /// Keys of which records are kept for others.
    kept: HashSet<RecordKey>,
    /// Where those are that announced something here.
    addresses: BTreeMap<PeerId, Vec<Multiaddr>>,
    /// Until when indexes are searched.
    sought: BTreeMap<IndexId, Instant>,
    /// When to announce and search again because of new nodes, and when that was done last.
    repeat: Option<Instant>,
    repeated: Option<Instant>,
    /// When to announce again whatever happens, and the pause until then.
    announce: Option<(Instant, Duration)>,
}

impl Dht {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut dial_again = tokio::time::interval(DIAL_AGAIN);
        loop {
            let repeat = self.repeat;
            let announce = self.announce.map(|(at, _)| at);
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Close(done)) => return self.withdraw_all(done).await,
                    Some(command) => self.command(command),
                    None => return,
                },
                event = self.swarm.select_next_some() => self.event(event),
                _ = dial_again.tick() => {
                    self.dial_unmet();
                    self.look_around();
                    self.sweep();
                }
                () = tokio::time::sleep_until(repeat.unwrap_or_else(Instant::now).into()), if repeat.is_some() => {
                    self.repeat = None;
                    self.repeat();
                }
                () = tokio::time::sleep_until(announce.unwrap_or_else(Instant::now).into()), if announce.is_some() => {
                    self.announce_again();
                }
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::AddPeer(node, addr) => {
                let Some(peer) =
                    peer_id_of(node).filter(|_| self.config.admission.admits_dial(addr) && !needs_scope(addr.ip()))
                else {
                    return;
                };
                if self.unmet.len() < NODES && !self.sessions.contains_key(&peer) {
                    self.unmet.insert(peer, (multiaddr(addr), 0));
                }
                self.dial(peer, vec![multiaddr(addr)]);
            }
            Command::Provide(index) => {
                if self.begin_providing(index) {
                    self.announce = Some((Instant::now() + ANNOUNCE_AGAIN, ANNOUNCE_AGAIN));
                }
            }
            Command::Withdraw(index) => self.stop_providing(index),
            Command::Close(_) => {}
            Command::Find(index) => {
                let now = Instant::now();
                self.sought.retain(|_, until| *until > now);
                if self.sought.len() < INDEXES {
                    self.sought.insert(index, now + SEARCH);
                    self.find(index);
                }
            }
        }
    }

    fn dial_unmet(&mut self) {
        self.unmet.retain(|_, (_, dials)| *dials < DIALS);
        let mut again = Vec::new();
        for (peer, (addr, dials)) in &mut self.unmet {
            *dials += 1;
            again.push((*peer, addr.clone()));
        }
        for (peer, addr) in again {
            self.dial(peer, vec![addr]);
        }
    }

    fn announce_again(&mut self) {
        let pause = self.announce.map_or(LAST_ANNOUNCE, |(_, pause)| pause * 2);
        self.announce = (pause < LAST_ANNOUNCE).then(|| (Instant::now() + pause, pause));
        self.provide_all();
    }

    fn provide_all(&mut self) {
        for index in self.provided.keys().copied().collect::<Vec<_>>() {
            self.provide(index);
        }
    }

    /// Tells and asks those who became known meanwhile.
    fn repeat(&mut self) {
        self.provide_all();
        let now = Instant::now();
        self.repeated = Some(now);
        self.sought.retain(|_, until| *until > now);
        for index in self.sought.keys().copied().collect::<Vec<_>>() {
            self.find(index);
        }
    }

    fn event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => note_own(&mut self.swarm, &self.config, &address),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.swarm.remove_external_address(&address),
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => {
                if let Some(addr) = socket_addr(endpoint.get_remote_address()) {
                    self.remote.insert(peer_id, addr.ip());
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                self.remote.remove(&peer_id);
                self.sessions.remove(&peer_id);
                self.waiting.remove(&peer_id);
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer_id), error, .. } => {
                tracing::debug!(%peer_id, %error, "DHT node not reached");
                if !self.remote.contains_key(&peer_id) {
                    self.waiting.remove(&peer_id);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                self.identified(peer_id, &info);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => self.kad_event(event),
            _ => {}
        }
    }

    /// A connected node said what it is: where its sessions are accepted, and whether it keeps records.
    fn identified(&mut self, peer: PeerId, info: &identify::Info) {
        let Some(&ip) = self.remote.get(&peer) else { return };
        self.unmet.remove(&peer);
        let kad = self.config.network.kad_protocol();
        if info.protocols.contains(&kad) {
            for addr in heard_at(ip, &info.listen_addrs) {
                self.swarm.behaviour_mut().kad.add_address(&peer, addr);
            }
        }
        let Some(port) = session_port(&info.agent_version).filter(|_| !needs_scope(ip)) else { return };
        let addr = SocketAddr::new(ip, port);
        self.sessions.insert(peer, addr);
        for index in self.waiting.remove(&peer).unwrap_or_default() {
            self.tell(index, peer, addr);
        }
    }

    fn kad_event(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed { id, result: QueryResult::GetProviders(result), step, .. } => {
                if let Ok(GetProvidersOk::FoundProviders { providers, .. }) = result {
                    self.named(id, providers);
                }
                if step.last {
                    self.answered(id);
                }
            }
            kad::Event::InboundRequest { request: InboundRequest::AddProvider { record: Some(record) } } => {
                self.keep(record);
            }
            kad::Event::RoutingUpdated { is_new_peer: true, .. } => {
                self.events.try_send(DhtEvent::Joined).ok();
                let soon = Instant::now() + GATHER;
                self.repeat.get_or_insert(self.repeated.map_or(soon, |last| soon.max(last + REPEAT)));
            }
            _ => {}
        }
    }

    /// A node provides an index: it is told as soon as it is known where it accepts sessions.
    fn locate(&mut self, index: IndexId, peer: PeerId) {
        if let Some(&addr) = self.sessions.get(&peer) {
            self.tell(index, peer, addr);
            return;
        }
        if self.waiting.len() >= NODES && !self.waiting.contains_key(&peer) {
            return;
        }
        self.waiting.entry(peer).or_default().insert(index);
        let kept = self.addresses.get(&peer).cloned();
        self.dial(peer, kept.unwrap_or_default());
    }

    /// Keeps what a node announced, with the address from which we hear it in place of those that it claims. What comes
    /// without any is taken back by it.
    fn keep(&mut self, mut record: ProviderRecord) {
        let Some(&ip) = self.remote.get(&record.provider) else { return };
        if record.addresses.is_empty() {
            self.swarm.behaviour_mut().kad.store_mut().remove_provider(&record.key, &record.provider);
            return;
        }
        record.addresses = heard_at(ip, &record.addresses);
        if self.kept.len() < KEYS {
            self.kept.insert(record.key.clone());
        }
        if self.addresses.len() >= NODES && !self.addresses.contains_key(&record.provider) {
            self.addresses.clear();
        }
        self.addresses.insert(record.provider, record.addresses.clone());
        if let Err(error) = self.swarm.behaviour_mut().kad.store_mut().add_provider(record) {
            tracing::debug!(%error, "DHT record not kept");
        }
    }

    fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(addresses)
            .extend_addresses_through_behaviour()
            .build();
        match self.swarm.dial(options) {
            // It is connected, or about to be.
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => {
                tracing::debug!(%peer, %error, "DHT node not dialled");
                self.waiting.remove(&peer);
            }
        }
    }

    fn tell(&self, index: IndexId, peer: PeerId, addr: SocketAddr) {
        if let Some(node) = node_id_of(peer) {
            self.events.try_send(DhtEvent::Provider { index, node, addr }).ok();
        }
    }
}

/// Tells others of an address of our own, unless it is one that they cannot reach.
fn note_own(swarm: &mut Swarm<Behaviour>, config: &DhtConfig, address: &Multiaddr) {
    let reachable =
        |addr: &SocketAddr| (!addr.ip().is_loopback() || config.listen.is_loopback()) && !needs_scope(addr.ip());
    if socket_addr(address).filter(reachable).is_some() {
        swarm.add_external_address(address.clone());
    }
}
