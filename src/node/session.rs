//! A session with a neighbour: one TCP connection with TLS, both sides proven, also as members of the network where it
//! has a key, `Hello` exchanged.
//!
//! It carries messages and decides nothing: what they mean is the hub's and `proto`'s business.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::limits::MESSAGE_BYTES;
use proto::message::Hello;
use proto::{Message, NodeId};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

pub use super::outbox::{STALL, SendError, SessionSender};

use super::address;
use super::admission::Admission;
use super::connected::Connected;
use super::frame::{FrameError, FrameReader};
use super::membership::{EXPORTER, Membership, PROOF_BYTES, Side};
use super::outbox::{self, Shared};
use super::tls::{TlsConfigs, node_of};
use crate::background;

/// How long everything up to the other side's `Hello` may take.
pub const OPENING: Duration = Duration::from_secs(5);

/// Bytes of the largest `Hello`, with room for fields of later versions.
const HELLO_BYTES: usize = 4096;

/// Bytes read from the system at once; rustls by itself asks for 4 KiB a time.
const READ_BYTES: usize = 64 << 10;

/// Bytes of TLS records that wait for the socket: one batch of the outbox.
const TLS_BYTES: usize = outbox::BATCH_BYTES + (4 << 10);

/// Bytes that the socket takes ahead of what the network took. What is in here, in TLS and in a batch is ahead of every
/// small message: where eight machines share 50 Mbit/s, 32 KiB of each are a tenth of a second, and words that come later
/// than that cost the origin chunks that are on their way already. Larger buffers are no faster.
const UNSENT_BYTES: u32 = 32 << 10;

type Stream = TlsStream<BufReader<TcpStream>>;

/// An open session.
#[derive(Debug)]
pub struct Session {
    /// Who is on the other side, proven.
    pub remote: NodeId,
    /// What it said of itself.
    pub hello: Hello,
    /// The other side's end of the TCP connection; its port is the session port only if we dialled.
    pub remote_addr: SocketAddr,
    /// What it sends.
    pub reader: SessionReader,
    /// What is sent to it. Dropping the last clone ends the session.
    pub sender: SessionSender,
}

/// The receiving side of a session. Dropping it ends the session.
#[derive(Debug)]
pub struct SessionReader {
    frames: FrameReader<ReadHalf<Stream>>,
    shared: Arc<Shared>,
    remote_addr: SocketAddr,
}

/// Why there is no session, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The TCP connection was not made.
    #[error("{addr}: {source}")]
    Connect {
        /// Who was dialled.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The other side did not prove who it is, or is no caswarm node of this version.
    #[error("{addr}: TLS handshake: {reason}")]
    Handshake {
        /// The other side.
        addr: SocketAddr,
        /// What was wrong.
        reason: String,
    },
    /// Somebody else answered than was dialled.
    #[error("{addr}: is node {found}, not {expected}")]
    WrongNode {
        /// Who was dialled.
        addr: SocketAddr,
        /// The node expected there.
        expected: NodeId,
        /// The node found there.
        found: NodeId,
    },
    /// We reached ourselves.
    #[error("{addr}: is this node itself")]
    Itself {
        /// The other side.
        addr: SocketAddr,
    },
    /// Another machine has our key.
    #[error(
        "{addr}: has the key of this node itself, so neither can talk to the other: one of them runs with a copy of the \
         other's state directory; remove node.key there and start it again"
    )]
    Twin {
        /// The other side.
        addr: SocketAddr,
    },
    /// There is a session with that node already.
    #[error("{addr}: is node {node}, with which there is a session already")]
    Connected {
        /// Who was dialled.
        addr: SocketAddr,
        /// Who it is.
        node: NodeId,
    },
    /// This node does not talk to that one.
    #[error("{addr}: not allowed by this node's --allow-peer and --deny-peer, or no private address")]
    NotAdmitted {
        /// The other side.
        addr: SocketAddr,
    },
    /// The other side does not have this network's key.
    #[error("{addr}: does not have this node's network key")]
    NotMember {
        /// The other side.
        addr: SocketAddr,
    },
    /// The other side speaks another version.
    #[error("{addr}: speaks protocol version {theirs}, this node {ours}")]
    Version {
        /// The other side.
        addr: SocketAddr,
        /// Its version.
        theirs: u16,
        /// Ours.
        ours: u16,
    },
    /// The other side belongs to another network.
    #[error("{addr}: belongs to network {theirs:?}, this node to {ours:?}")]
    Network {
        /// The other side.
        addr: SocketAddr,
        /// Its network.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// The session was not open in time.
    #[error("{addr}: no session within {} s", OPENING.as_secs())]
    TimedOut {
        /// The other side.
        addr: SocketAddr,
    },
    /// The other side sent what is no message, or not one that belongs here.
    #[error("{addr}: {reason}")]
    Malformed {
        /// The other side.
        addr: SocketAddr,
        /// What was wrong.
        reason: String,
    },
    /// The connection broke, or the other side did not read for [`STALL`].
    #[error("{addr}: connection lost: {reason}")]
    Lost {
        /// The other side.
        addr: SocketAddr,
        /// What happened.
        reason: String,
    },
}

/// What a session needs of this node.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Certificate and TLS settings.
    pub tls: TlsConfigs,
    /// What this node says of itself.
    pub hello: Hello,
    /// How long the other side may not read before the session is given up; [`STALL`] unless a test cannot wait.
    pub stall: Duration,
    /// The nodes that need no second session: one that turns out to be among them is not opened.
    pub connected: Connected,
    /// The network that the other side has to prove to belong to.
    pub membership: Membership,
    /// With whom this node talks.
    pub admission: Arc<Admission>,
    /// Whether packets are marked as less than best effort.
    pub background: bool,
}

impl SessionConfig {
    /// The usual settings: the open network that the hello names.
    pub fn new(tls: TlsConfigs, hello: Hello) -> Self {
        let membership = Membership::from(hello.network.as_str());
        Self {
            tls,
            hello,
            stall: STALL,
            connected: Connected::default(),
            membership,
            admission: Arc::default(),
            background: false,
        }
    }

    /// The same in a network that may have a key.
    pub fn of(self, membership: Membership) -> Self {
        let tls = if membership.is_open() { self.tls } else { self.tls.keyed() };
        Self { tls, membership, ..self }
    }
}

/// Opens a session with the node at `addr`, which has to be `expected` if that is given. Dropping the future gives up.
pub async fn connect(
    addr: SocketAddr,
    expected: Option<NodeId>,
    config: &SessionConfig,
) -> Result<Session, SessionError> {
    if !config.admission.admits_dial(addr) {
        return Err(SessionError::NotAdmitted { addr });
    }
    let opened = tokio::time::timeout(OPENING, async {
        let tcp = TcpStream::connect(addr).await.map_err(|source| SessionError::Connect { addr, source })?;
        prepare(&tcp, config.background);
        let name = ServerName::IpAddress(addr.ip().into());
        let mut tls = TlsConnector::from(config.tls.client.clone())
            .connect(name, BufReader::with_capacity(READ_BYTES, tcp))
            .await
            .map_err(|e| handshake(addr, &e))?;
        tls.get_mut().1.set_buffer_limit(Some(TLS_BYTES));
        open(TlsStream::Client(tls), addr, expected, config).await
    });
    opened.await.unwrap_or(Err(SessionError::TimedOut { addr }))
}

/// Opens a session on a connection that was accepted. Dropping the future closes it.
///
/// Each call costs a handshake: whoever accepts connections has to bound how many of these run at once.
pub async fn accept(tcp: TcpStream, config: &SessionConfig) -> Result<Session, SessionError> {
    let addr = tcp.peer_addr().map_err(|e| lost(SocketAddr::from(([0, 0, 0, 0], 0)), &e))?;
    let addr = address::canonical(addr);
    let opened = tokio::time::timeout(OPENING, async {
        prepare(&tcp, config.background);
        let mut tls = TlsAcceptor::from(config.tls.server.clone())
            .accept(BufReader::with_capacity(READ_BYTES, tcp))
            .await
            .map_err(|e| handshake(addr, &e))?;
        tls.get_mut().1.set_buffer_limit(Some(TLS_BYTES));
        open(TlsStream::Server(tls), addr, None, config).await
    });
    opened.await.unwrap_or(Err(SessionError::TimedOut { addr }))
}

impl SessionReader {
    /// The next message and its payload, which is empty where the message has none. `None` after the other side closed
    /// the connection between two messages, or this side closed it. Can be dropped at any await and called again.
    pub async fn next(&mut self) -> Result<Option<(Message, Bytes)>, SessionError> {
        let addr = self.remote_addr;
        tokio::select! {
            biased;
            next = self.frames.next(MESSAGE_BYTES) => next.map_err(|e| frame(addr, e)),
            ended = self.shared.ended() => match ended {
                None => Ok(None),
                Some(reason) => Err(SessionError::Lost { addr, reason }),
            },
        }
    }
}

impl Drop for SessionReader {
    fn drop(&mut self) {
        self.shared.close();
    }
}

async fn open(
    mut stream: Stream,
    addr: SocketAddr,
    expected: Option<NodeId>,
    config: &SessionConfig,
) -> Result<Session, SessionError> {
    let Some(remote) = node_of(stream.get_ref().1.peer_certificates()) else {
        return Err(SessionError::Handshake { addr, reason: "its key is not ed25519".into() });
    };
    if let Some(expected) = expected.filter(|expected| *expected != remote) {
        return Err(SessionError::WrongNode { addr, expected, found: remote });
    }
    if remote == config.tls.node {
        let own = address::is_own(addr.ip());
        return Err(if own { SessionError::Itself { addr } } else { SessionError::Twin { addr } });
    }
    if matches!(stream, TlsStream::Client(_)) && config.connected.contains(&remote) {
        return Err(SessionError::Connected { addr, node: remote });
    }
    if !config.admission.admits(remote, addr.ip()) {
        return Err(SessionError::NotAdmitted { addr });
    }
    prove(&mut stream, addr, remote, config).await?;

    let ours = Message::Hello(config.hello.clone());
    let ours = proto::codec::encode(&ours).map_err(|e| malformed(addr, &e))?;
    stream.write_all(&ours).await.map_err(|e| lost(addr, &e))?;
    stream.flush().await.map_err(|e| lost(addr, &e))?;

    let (read, write) = tokio::io::split(stream);
    let mut frames = FrameReader::new(read);
    let hello = match frames.next(HELLO_BYTES).await {
        Ok(Some((Message::Hello(hello), _))) => hello,
        Ok(Some(_)) => return Err(malformed(addr, &"the first message was no hello")),
        Ok(None) => return Err(lost(addr, &"closed before its hello")),
        Err(e) => return Err(frame(addr, e)),
    };
    check(addr, &hello, &config.hello)?;

    let (sender, shared) = outbox::start(write, config.stall);
    Ok(Session {
        remote,
        hello,
        remote_addr: addr,
        reader: SessionReader { frames, shared, remote_addr: addr },
        sender,
    })
}

/// In a network with a key, both sides prove that they have it, before anything else is said.
async fn prove(
    stream: &mut Stream,
    addr: SocketAddr,
    remote: NodeId,
    config: &SessionConfig,
) -> Result<(), SessionError> {
    if config.membership.is_open() {
        return Ok(());
    }
    let us = config.tls.node;
    let (side, dialler, acceptor) = match stream {
        TlsStream::Client(_) => (Side::Dialler, us, remote),
        TlsStream::Server(_) => (Side::Acceptor, remote, us),
    };
    let exporter = [0; 32];
    let exporter = match stream {
        TlsStream::Client(tls) => tls.get_ref().1.export_keying_material(exporter, EXPORTER, None),
        TlsStream::Server(tls) => tls.get_ref().1.export_keying_material(exporter, EXPORTER, None),
    };
    let exporter = exporter.map_err(|e| SessionError::Handshake { addr, reason: e.to_string() })?;
    let ours = config.membership.proof(side, &exporter, dialler, acceptor).unwrap_or_default();
    let mut theirs = [0; PROOF_BYTES];
    let exchanged = async {
        stream.write_all(&ours).await?;
        stream.flush().await?;
        stream.read_exact(&mut theirs).await
    };
    exchanged.await.map_err(|e| lost(addr, &e))?;
    match config.membership.proves(&theirs, side.other(), &exporter, dialler, acceptor) {
        true => Ok(()),
        false => Err(SessionError::NotMember { addr }),
    }
}

fn check(addr: SocketAddr, theirs: &Hello, ours: &Hello) -> Result<(), SessionError> {
    if theirs.version != ours.version {
        return Err(SessionError::Version { addr, theirs: theirs.version, ours: ours.version });
    }
    if theirs.network != ours.network {
        let (theirs, ours) = (theirs.network.clone(), ours.network.clone());
        return Err(SessionError::Network { addr, theirs, ours });
    }
    Ok(())
}

/// Sets what makes small messages fast and dead neighbours noticed. Without any of it the session still works.
fn prepare(tcp: &TcpStream, background: bool) {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    let socket = socket2::SockRef::from(tcp);
    if background {
        background::mark(&socket);
    }
    let set = [
        socket.set_tcp_nodelay(true),
        socket.set_tcp_keepalive(&keepalive),
        #[cfg(any(target_os = "linux", target_os = "android"))]
        socket.set_tcp_notsent_lowat(UNSENT_BYTES),
    ];
    for error in set.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "socket option");
    }
}

fn handshake(addr: SocketAddr, error: &io::Error) -> SessionError {
    use rustls::{AlertDescription, Error};
    let reason = match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::NoApplicationProtocol | Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            "one of the two speaks another protocol version, or has a network key where the other has none".to_owned()
        }
        _ => error.to_string(),
    };
    SessionError::Handshake { addr, reason }
}

fn malformed(addr: SocketAddr, reason: &dyn std::fmt::Display) -> SessionError {
    SessionError::Malformed { addr, reason: reason.to_string() }
}

fn lost(addr: SocketAddr, reason: &dyn std::fmt::Display) -> SessionError {
    SessionError::Lost { addr, reason: reason.to_string() }
}

fn frame(addr: SocketAddr, error: FrameError) -> SessionError {
    match error {
        FrameError::Malformed(e) => malformed(addr, &e),
        FrameError::Truncated => lost(addr, &error),
        FrameError::Io(e) => lost(addr, &e),
    }
}
