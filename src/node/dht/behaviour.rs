//! libp2p set up for the DHT: which protocols, and the bounds of each.

use std::num::NonZeroUsize;
use std::time::Duration;

use futures::future::{BoxFuture, Either};
use futures::{AsyncRead, AsyncWrite};
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::upgrade::Version;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::kad::{self, Mode, StoreInserts};
use libp2p::pnet::{PnetConfig, PnetError, PnetOutput, PreSharedKey};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{Swarm, Transport, identify, noise, ping, tcp, yamux};

use super::gate::{Fenced, Gate};
use super::{DhtConfig, DhtError};
use crate::background;

/// How long a provider record lives without being renewed.
const RECORD_TTL: Duration = Duration::from_secs(15 * 60);

/// How often a provider record is renewed.
const RENEWAL: Duration = Duration::from_secs(5 * 60);

/// How long one question to the network may take.
const QUERY: Duration = Duration::from_secs(10);

/// Indexes kept for others, and nodes kept of each.
pub(super) const KEYS: usize = 2048;
const PROVIDERS_PER_KEY: usize = 32;

/// Connections of all kinds.
const CONNECTIONS: u32 = 128;

/// How long a connection may take to come up.
const OPENING: Duration = Duration::from_secs(10);

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    gate: Gate,
    limits: connection_limits::Behaviour,
    pub(super) kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// A swarm that does not listen yet.
pub(super) fn swarm(config: &DhtConfig) -> Result<Swarm<Behaviour>, DhtError> {
    let setup = |e: &dyn std::fmt::Display| DhtError::Setup(e.to_string());
    let noise = noise::Config::new(config.identity.keypair()).map_err(|e| setup(&e))?;
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let transport = Fenced::new(tcp, config.admission.clone())
        .map({
            let background = config.background;
            move |stream, _| {
                if background {
                    background::mark(&socket2::SockRef::from(&stream.0));
                }
                stream
            }
        })
        .and_then(closed_off(config.network.pre_shared_key()))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux::Config::default())
        .timeout(OPENING)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed();
    let swarm = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(30));
    Ok(Swarm::new(transport, behaviour(config), config.identity.peer_id(), swarm))
}

type ClosedOff<S> = Result<Either<PnetOutput<S>, S>, PnetError>;

/// In a network with a key, everything goes through a cipher that needs the key, from the first byte: whoever does not
/// have it learns nothing and is understood by nobody.
fn closed_off<S: AsyncRead + AsyncWrite + Send + Unpin + 'static, P>(
    key: Option<PreSharedKey>,
) -> impl FnOnce(S, P) -> BoxFuture<'static, ClosedOff<S>> + Clone {
    move |stream, _| {
        Box::pin(async move {
            match key {
                Some(key) => Ok(Either::Left(PnetConfig::new(key).handshake(stream).await?)),
                None => Ok(Either::Right(stream)),
            }
        })
    }
}

fn behaviour(config: &DhtConfig) -> Behaviour {
    let peer = config.identity.peer_id();
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(16))
        .with_max_pending_outgoing(Some(64))
        .with_max_established_incoming(Some(CONNECTIONS / 4 * 3))
        .with_max_established(Some(CONNECTIONS))
        .with_max_established_per_peer(Some(2));

    let store = MemoryStoreConfig {
        max_records: 0,
        max_value_bytes: 0,
        max_providers_per_key: PROVIDERS_PER_KEY,
        max_provided_keys: KEYS,
    };
    let mut kad = kad::Config::new(config.network.kad_protocol());
    kad.set_query_timeout(QUERY)
        .set_record_filtering(StoreInserts::FilterBoth)
        .set_provider_record_ttl(Some(RECORD_TTL))
        .set_provider_publication_interval(Some(RENEWAL))
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_parallelism(NonZeroUsize::MIN.saturating_add(2));
    let mut kad = kad::Behaviour::with_config(peer, MemoryStore::with_config(peer, store), kad);
    kad.set_mode(Some(if config.server { Mode::Server } else { Mode::Client }));

    let agent = format!("caswarm/{} session={}", env!("CARGO_PKG_VERSION"), config.session_port);
    let identify = identify::Config::new("/caswarm/1".into(), config.identity.keypair().public())
        .with_agent_version(agent)
        .with_cache_size(0);
    Behaviour {
        gate: Gate::new(config.admission.clone()),
        limits: connection_limits::Behaviour::new(limits),
        kad,
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(30))),
    }
}
