//! A node of the test's own, as far as the first words of a session go.

use caswarm::node::identity::Identity;
use caswarm::node::session::SessionConfig;
use caswarm::node::tls::TlsConfigs;
use proto::message::Hello;

/// What a node of a network says of itself that accepts no sessions and is in no zone.
pub fn hello(network: &str) -> Hello {
    Hello {
        version: proto::VERSION,
        network: network.into(),
        zone: String::new(),
        session_port: 0,
        dht_port: 0,
        agent: "test".into(),
    }
}

/// The session of such a node.
pub fn config(network: &str, identity: &Identity) -> SessionConfig {
    SessionConfig::new(TlsConfigs::new(identity).unwrap(), hello(network))
}
