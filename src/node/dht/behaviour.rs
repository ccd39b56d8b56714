//! libp2p set up for the DHT: which protocols, and the bounds of each.

use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::kad::{self, Mode, StoreInserts};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{StreamProtocol, Swarm, identify, noise, ping, tcp, yamux};
use sha2::{Digest, Sha256};

use super::{DhtConfig, DhtError};

/// How long a provider record lives without being renewed.
const RECORD_TTL: Duration = Duration::from_secs(15 * 60);

/// How often a provider record is renewed.
const RENEWAL: Duration = Duration::from_secs(5 * 60);

/// How long one question to the network may take.
const QUERY: Duration = Duration::from_secs(10);

/// Indexes kept for others, and nodes kept of each.
const KEYS: usize = 2048;
const PROVIDERS_PER_KEY: usize = 32;

/// Connections of all kinds.
const CONNECTIONS: u32 = 128;

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(super) kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// A swarm that does not listen yet.
pub(super) fn swarm(config: &DhtConfig) -> Result<Swarm<Behaviour>, DhtError> {
    let setup = |e: &dyn std::fmt::Display| DhtError::Setup(e.to_string());
    let swarm = libp2p::SwarmBuilder::with_existing_identity(config.identity.keypair().clone())
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .map_err(|e| setup(&e))?
        .with_behaviour(|_| behaviour(config))
        .map_err(|e| setup(&e))?
        .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(Duration::from_secs(30)))
        .build();
    Ok(swarm)
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
    let mut kad = kad::Config::new(kad_protocol(&config.network));
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
        limits: connection_limits::Behaviour::new(limits),
        kad,
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(30))),
    }
}

/// The default network has the plain name; others have their own, so that they never mix.
pub(super) fn kad_protocol(network: &str) -> StreamProtocol {
    let plain = StreamProtocol::new("/caswarm/kad/1.0.0");
    if network.is_empty() {
        return plain;
    }
    let name = hex::encode(&Sha256::digest(network)[..8]);
    StreamProtocol::try_from_owned(format!("/caswarm/{name}/kad/1.0.0")).unwrap_or(plain)
}
