//! Addresses between libp2p's form and the system's, and which of those that a node claims are worth a try.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use super::address;

/// The addresses under which a node heard at `ip` may be dialled, going by the ports that it claims.
pub(super) fn heard_at(ip: IpAddr, claimed: &[Multiaddr]) -> Vec<Multiaddr> {
    if needs_scope(ip) {
        return Vec::new();
    }
    let ports: BTreeSet<_> = claimed.iter().take(64).filter_map(socket_addr).map(|addr| addr.port()).collect();
    ports.into_iter().filter(|port| *port != 0).take(2).map(|port| multiaddr(SocketAddr::new(ip, port))).collect()
}

/// Whether the address means nothing without its interface, which libp2p has no way to write. Sessions reach such nodes,
/// the DHT does not.
pub(super) fn needs_scope(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// The session port that a node tells in its agent text.
pub(super) fn session_port(agent: &str) -> Option<u16> {
    let port = agent.split(' ').find_map(|word| word.strip_prefix("session="))?;
    port.parse().ok().filter(|port| *port != 0)
}

/// An address as libp2p writes it.
pub(super) fn multiaddr(addr: SocketAddr) -> Multiaddr {
    let addr = address::canonical(addr);
    Multiaddr::from(addr.ip()).with(Protocol::Tcp(addr.port()))
}

/// The IP address and TCP port of a libp2p address that starts with them.
pub(super) fn socket_addr(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(address::canonical(SocketAddr::new(ip, port))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_dialled_where_it_was_heard_whatever_it_claims() {
        let claimed = ["/ip4/127.0.0.1/tcp/9", "/ip4/8.8.8.8/tcp/9", "/ip6/::1/tcp/0", "/dns4/x/tcp/5", "/ip4/1.2.3.4"];
        let claimed: Vec<Multiaddr> = claimed.iter().map(|a| a.parse().unwrap()).collect();
        let heard = heard_at([10, 0, 0, 7].into(), &claimed);
        assert_eq!(heard, ["/ip4/10.0.0.7/tcp/9".parse().unwrap()]);
    }

    #[test]
    fn the_session_port_is_read_from_the_agent_text() {
        assert_eq!(session_port("caswarm/0.1.0 session=77"), Some(77));
        for agent in ["", "caswarm/0.1.0", "x session=0", "x session=70000", "session="] {
            assert_eq!(session_port(agent), None, "{agent}");
        }
    }
}
