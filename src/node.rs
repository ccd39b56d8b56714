//! A running peer: finds neighbours, opens sessions, fetches and serves chunks. It translates between the world and the
//! machines of [`proto`], which decide.
//!
//! - [`hub`]: the event loop that owns everything; [`Node`] is its handle.
//! - [`discovery`] (mDNS) and [`dht`] (Kademlia) produce addresses, [`session`] talks to one of them.
//! - [`holder`] is what a node serves from, `serve` how.
//! - [`fetch`] is the seam to whoever wants an image; [`lan`] puts a node behind it.

pub mod address;
pub mod admission;
mod bootstrap;
pub mod connected;
pub mod dht;
pub mod discovery;
mod doors;
pub mod extracted;
pub mod fetch;
pub mod frame;
pub mod holder;
pub mod hub;
pub mod identity;
pub mod known_peers;
pub mod lan;
pub mod limits;
pub mod membership;
mod names;
pub mod network_key;
pub mod outbox;
mod recent;
mod serve;
pub mod session;
mod slots;
pub mod tls;
mod tree_holder;
pub mod zone;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use proto::message::Hello;
use proto::{IndexId, VERSION};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::extract::network::{FetchError, Job, NetworkReport};
use crate::format::layout::Layout;
use address::Bootstrap;
use admission::Admission;
use doors::Doors;
use holder::Holder;
use hub::{Command, Event, Hub, Status};
use identity::Identity;
use limits::Limits;
use membership::Membership;
use session::{SessionConfig, SessionError};
use tls::{TlsConfigError, TlsConfigs};

/// Connections that wait to be taken.
const BACKLOG: i32 = 1024;

/// Handshakes of others at a time, and of one address: one that opens connections and says nothing keeps nobody else out.
const HANDSHAKES: usize = 64;
const HANDSHAKES_OF_ONE: usize = 16;

/// How a node is set up.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Its key.
    pub identity: Identity,
    /// Where last known peers are kept; `None` = nowhere.
    pub state_dir: Option<PathBuf>,
    /// The network; nodes of others are not talked to.
    pub network: Membership,
    /// With whom the node talks.
    pub admission: Arc<Admission>,
    /// The zone label; empty = the network of the machine's segment.
    pub zone: String,
    /// Where sessions are accepted; port 0 = any. `[::]` is every address of both families.
    pub listen: SocketAddr,
    /// Whether there are neighbours at all. False: no listener, no discovery, no sessions.
    pub lan: bool,
    /// Whether chunks are given to neighbours.
    pub share: bool,
    /// What it may take of the network.
    pub limits: Limits,
    /// Whether the node keeps DHT records for others.
    pub dht_server: bool,
    /// Nodes that multicast does not reach, by their session addresses, or names that stand for some.
    pub bootstrap: Vec<Bootstrap>,
    /// How long nothing may come before a fetch is given up.
    pub patience: Duration,
}

impl NodeConfig {
    /// The usual settings.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            state_dir: None,
            network: Membership::default(),
            admission: Arc::default(),
            zone: String::new(),
            listen: SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
            lan: true,
            share: true,
            limits: Limits::default(),
            dht_server: false,
            bootstrap: Vec::new(),
            patience: Duration::from_secs(30),
        }
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken, or there is no such address.
    #[error("cannot accept sessions on {addr}: {source}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
}

/// The handle of a running node; clones speak with the same one. It ends with [`Node::shutdown`].
#[derive(Clone)]
pub struct Node {
    events: mpsc::Sender<Event>,
    port: u16,
}

impl Node {
    /// Starts a node; has to be called within a tokio runtime. Where mDNS or Kademlia do not work it runs without.
    ///
    /// # Errors
    /// When it cannot listen where it was told to.
    pub async fn start(mut config: NodeConfig) -> Result<Self, StartError> {
        config.zone = zone::zone_name(&config.zone);
        let tls = TlsConfigs::new(&config.identity)?;
        let ((events, receiver), (done, finished)) = Hub::channels();
        let listener = match config.lan {
            true => {
                let failed = |source| StartError::Listen { addr: config.listen, source };
                Some(listen(config.listen).map_err(failed)?)
            }
            false => None,
        };
        let port = listener.as_ref().and_then(|listener| listener.local_addr().ok()).map_or(0, |addr| addr.port());
        let doors = Doors::open(&config, port, &events).await;
        let hello = Hello {
            version: VERSION,
            network: config.network.name().to_owned(),
            zone: config.zone.clone(),
            session_port: port,
            // Of one that keeps no records there is nothing to be had in the DHT: thirty machines would open 435 connections.
            dht_port: if config.dht_server { doors.dht_port() } else { 0 },
            agent: concat!("caswarm/", env!("CARGO_PKG_VERSION")).into(),
        };
        let mut sessions = SessionConfig::new(tls, hello).of(config.network.clone());
        sessions.admission.clone_from(&config.admission);
        sessions.background = config.limits.background;
        if let Some(listener) = listener {
            // Whoever names a public address to listen on means it.
            let public = !config.listen.ip().is_unspecified() && !address::is_private(config.listen.ip());
            tokio::spawn(accept(listener, public, sessions.clone(), events.clone()));
        }
        for address in config.bootstrap.iter().filter(|_| config.lan) {
            tokio::spawn(bootstrap::keep(address.clone(), sessions.clone(), events.clone()));
        }
        let hub = Hub::new(config, sessions, doors, events.clone(), done);
        tokio::spawn(hub.run(receiver, finished));
        Ok(Self { events, port })
    }

    /// The port on which sessions are accepted; 0 = none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The index with this id from a neighbour. `None`: none has it, and this node is the one that should ask the
    /// origin; if `origin` is false there is none to ask, and the search goes on until the future is dropped.
    pub async fn index(&self, id: IndexId, origin: bool) -> Option<Bytes> {
        self.ask(|reply| Command::Index { id, origin, reply }).await.flatten()
    }

    /// Fetches an image. Ends when everything wanted is in place or nowhere to be had.
    ///
    /// # Errors
    /// [`FetchError`] with what every source said last.
    pub async fn fetch(&self, job: Job) -> Result<NetworkReport, FetchError> {
        let job = Box::new(job);
        let ended = FetchError { missing: 0, reasons: "the node ended".into() };
        self.ask(|reply| Command::Fetch { job, reply }).await.unwrap_or(Err(ended))
    }

    /// Serves from `holder` from now on, in place of one of the same name. With an index, the image is announced under `name`.
    pub async fn serve(&self, holder: Arc<dyn Holder>, index: Option<(IndexId, Bytes, Arc<Layout>)>, name: String) {
        let _ = self.events.send(Event::Command(Command::Serve { holder, index, name })).await;
    }

    /// Serves no longer from the holder of this name.
    pub async fn unserve(&self, place: String) {
        let _ = self.events.send(Event::Command(Command::Unserve { place })).await;
    }

    /// Whether a neighbour still lacks chunks of this index.
    pub async fn needed(&self, index: IndexId) -> bool {
        self.ask(|reply| Command::Needed { index, reply }).await.unwrap_or(false)
    }

    /// The node's state; `None` after it ended.
    pub async fn status(&self) -> Option<Status> {
        self.ask(|reply| Command::Status { reply }).await
    }

    /// Says goodbye to everyone and ends the node.
    pub async fn shutdown(&self) {
        self.ask(|reply| Command::Shutdown { reply }).await;
        self.events.closed().await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.events.send(Event::Command(command(reply))).await.ok()?;
        answer.await.ok()
    }
}

/// Listens; on both families where every address is meant and the machine has IPv6.
fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let everywhere = addr.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let socket = match listening(addr, everywhere) {
        Err(error) if everywhere && error.kind() != io::ErrorKind::AddrInUse => {
            tracing::debug!(%error, "no IPv6");
            listening(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), addr.port()), false)?
        }
        other => other?,
    };
    TcpListener::from_std(socket)
}

fn listening(addr: SocketAddr, dual: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    if dual {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Takes connections and opens sessions on them, a bounded number at a time; without `public`, only between addresses of a
/// LAN (private, link-local, loopback) and those that the node's rules or its nodes to start from name.
async fn accept(listener: TcpListener, public: bool, config: SessionConfig, events: mpsc::Sender<Event>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let mut each = BTreeMap::new();
    let warned = Arc::new(AtomicBool::new(false));
    loop {
        let Ok(room) = handshakes.clone().acquire_owned().await else { return };
        let connection = tokio::select! {
            connection = listener.accept() => connection,
            () = events.closed() => return,
        };
        let Ok((tcp, from)) = connection else {
            // Out of file descriptors, most likely: it passes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Both ends: a machine may have a public address besides, and be asked there by whoever knows a way.
        let here = tcp.local_addr().map(|here| here.ip());
        let reachable = public || here.is_ok_and(|here| config.admission.is_reachable(here));
        if !reachable || !config.admission.admits_caller(from.ip(), public) {
            tracing::debug!(%from, "not admitted");
            continue;
        }
        let of_one = Arc::clone(each.entry(from.ip()).or_insert_with(|| Arc::new(Semaphore::new(HANDSHAKES_OF_ONE))));
        let of_one = of_one.try_acquire_owned();
        // Whoever has no handshake under way is forgotten.
        each.retain(|_, handshakes| handshakes.available_permits() < HANDSHAKES_OF_ONE);
        let Ok(of_one) = of_one else {
            tracing::debug!(%from, "too many connections at a time");
            continue;
        };
        let (config, events, warned) = (config.clone(), events.clone(), warned.clone());
        tokio::spawn(async move {
            match session::accept(tcp, &config).await {
                Ok(session) => {
                    let _ = events.send(Event::Opened { session: Box::new(session), dialled: false }).await;
                }
                Err(error @ SessionError::Twin { .. }) if !warned.swap(true, Ordering::Relaxed) => {
                    tracing::warn!("{error}");
                }
                Err(error) => tracing::debug!(%error, "no session"),
            }
            drop((room, of_one));
        });
    }
}
