//! Addresses of nodes: as people type them, which may be talked to, and in which order they are tried.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use proto::NodeId;

use super::identity::node_id_of;

/// Addresses kept of one name or node; the rest are dropped.
pub const ADDRESSES: usize = 16;

/// The address of a node's session port as typed: `host:port`, `[v6]:port` or `/ip4/…/tcp/…[/p2p/…]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// A name or an IP address.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// Who has to answer there; `None` = whoever does.
    pub node: Option<NodeId>,
}

/// Where to start: one node, or those that a DNS name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bootstrap {
    /// This one.
    Node(PeerAddress),
    /// Those that the name's SRV records (`_caswarm._tcp.NAME`) and `dnsaddr` records (`_dnsaddr.NAME`) tell.
    Name(String),
}

/// What was wrong with a typed address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no address of a node: give host:port, [v6]:port or /ip4/ADDRESS/tcp/PORT[/p2p/PEERID], or a DNS name with \
     SRV or dnsaddr records"
)]
pub struct ParseAddressError(String);

impl FromStr for Bootstrap {
    type Err = ParseAddressError;

    /// A name needs a dot, so that a port that was forgotten is noticed; one that has none can end in one.
    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let name = text.strip_prefix("/dnsaddr/").unwrap_or(text);
        let numbers = name.chars().all(|c| c.is_ascii_digit() || c == '.');
        if name.contains('.') && !name.contains([':', '/']) && !numbers && is_name_or_ipv4(name) {
            return Ok(Bootstrap::Name(name.to_owned()));
        }
        text.parse().map(Bootstrap::Node)
    }
}

impl fmt::Display for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bootstrap::Node(node) => node.fmt(f),
            Bootstrap::Name(name) => f.write_str(name),
        }
    }
}

impl FromStr for PeerAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let parsed = if text.starts_with('/') { multiaddr(text) } else { host_port(text) };
        parsed.ok_or_else(|| ParseAddressError(text.chars().take(200).collect()))
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl PeerAddress {
    /// The IP addresses behind it, in the order to try them.
    pub async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let mut found: Vec<_> = tokio::net::lookup_host((self.host.as_str(), self.port)).await?.collect();
        order(&mut found);
        Ok(found)
    }
}

/// Whether the address is a LAN's: private, link-local, shared (100.64/10) or this machine's.
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            ip.is_private() || ip.is_link_local() || ip.is_loopback() || shared
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Whether it is an address of this machine: only then can something be bound to it. Link-local ones, which mean nothing
/// without their interface, are taken for it.
pub fn is_own(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()) || std::net::UdpSocket::bind((ip, 0)).is_ok()
}

/// Whether a connection to the address can be meant at all: one host's, with a port.
pub fn is_dialable(addr: SocketAddr) -> bool {
    let ip = addr.ip().to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

/// Sorts addresses into the order to try them: IPv4 first, this machine's and link-local ones last in their family.
/// Drops repetitions and what is more than [`ADDRESSES`].
pub fn order(addresses: &mut Vec<SocketAddr>) {
    for addr in addresses.iter_mut() {
        *addr = canonical(*addr);
    }
    addresses.sort_by_key(|addr| (addr.is_ipv6(), is_last(addr.ip()), *addr));
    addresses.dedup();
    addresses.truncate(ADDRESSES);
}

/// Another port of the same host; a link-local address keeps its interface.
pub fn at_port(mut addr: SocketAddr, port: u16) -> SocketAddr {
    addr.set_port(port);
    addr
}

/// The address without IPv6's clothing of IPv4, which a dual-stack listener puts on.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, addr.port()),
        IpAddr::V6(_) => addr,
    }
}

fn is_last(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

fn host_port(text: &str) -> Option<PeerAddress> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').filter(|v6| v6.split('%').next().unwrap_or("").parse::<Ipv6Addr>().is_ok())?,
        None => host,
    };
    if !text.starts_with('[') && !is_name_or_ipv4(host) {
        return None;
    }
    port_of(port).map(|port| PeerAddress { host: host.to_owned(), port, node: None })
}

/// What is all digits and dots is meant as an IPv4 address, and some resolvers would make one of anything.
fn is_name_or_ipv4(host: &str) -> bool {
    let label = |label: &str| {
        let plain = label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        !label.is_empty() && label.len() <= 63 && plain && !label.starts_with('-')
    };
    if host.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return host.parse::<std::net::Ipv4Addr>().is_ok();
    }
    host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
}

fn port_of(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

fn multiaddr(text: &str) -> Option<PeerAddress> {
    let addr: Multiaddr = text.parse().ok()?;
    let mut parts = addr.iter();
    let host = match parts.next()? {
        Protocol::Ip4(ip) => ip.to_string(),
        Protocol::Ip6(ip) => ip.to_string(),
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => name.into_owned(),
        _ => return None,
    };
    let Protocol::Tcp(port @ 1..) = parts.next()? else { return None };
    let node = match parts.next() {
        None => None,
        Some(Protocol::P2p(peer)) => Some(node_id_of(peer)?),
        Some(_) => return None,
    };
    parts.next().is_none().then_some(PeerAddress { host, port, node })
}

#[cfg(test)]
mod tests {
    use super::super::identity::Identity;
    use super::*;

    #[test]
    fn every_form_of_address_is_understood() {
        let identity = Identity::ephemeral();
        let peer = format!("/ip4/10.0.0.1/tcp/77/p2p/{}", identity.peer_id());
        for (text, host, port, node) in [
            ("10.0.0.1:77", "10.0.0.1", 77, None),
            ("host-1.example:77", "host-1.example", 77, None),
            ("[fe80::1]:77", "fe80::1", 77, None),
            ("[fe80::1%eth0]:77", "fe80::1%eth0", 77, None),
            ("/ip6/fd00::1/tcp/77", "fd00::1", 77, None),
            ("/dns4/h/tcp/77", "h", 77, None),
            (&peer, "10.0.0.1", 77, Some(identity.node_id())),
        ] {
            assert_eq!(text.parse(), Ok(PeerAddress { host: host.into(), port, node }), "{text}");
        }
    }

    #[test]
    fn names_with_a_dot_stand_for_what_dns_says() {
        for name in ["fleet.example", "fleet.", "_x.fleet.example"] {
            assert_eq!(name.parse(), Ok(Bootstrap::Name(name.into())));
            assert_eq!(format!("/dnsaddr/{name}").parse(), Ok(Bootstrap::Name(name.into())));
        }
        assert!(matches!("fleet.example:77".parse(), Ok(Bootstrap::Node(_))));
        for text in ["fleet", "10.0.0.1", "1.2.3", "a..b", "/dnsaddr/", "/dnsaddr/a.b/tcp/7", "fleet.example/"] {
            assert!(text.parse::<Bootstrap>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_text() {
        for text in [
            "",
            "host",
            ":77",
            "host:0",
            "host:x",
            "host:70000",
            "1.2.3:77",
            "256.1.1.1:77",
            "77:77",
            "a..b:77",
            "-a:77",
            ".:77",
            "a b:77",
            "fe80::1:77",
            "[x]:77",
            "/ip4/1.2.3.4/udp/7",
            "/ip4/1.2.3.4/tcp/0",
            "/ip4/1.2.3.4/tcp/7/ws",
            "http://host:77",
            "/",
        ] {
            let error = text.parse::<PeerAddress>().unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn only_addresses_of_a_lan_are_private() {
        for ip in [
            "10.1.2.3",
            "172.31.0.1",
            "192.168.0.1",
            "169.254.1.1",
            "127.0.0.1",
            "100.64.0.1",
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_private(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:db8::1", "::ffff:8.8.8.8", "0.0.0.0"] {
            assert!(!is_private(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn ipv4_is_tried_first_and_nothing_twice() {
        let mut addresses: Vec<SocketAddr> =
            ["[fe80::1]:1", "[fd00::1]:1", "127.0.0.1:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"]
                .iter()
                .map(|a| a.parse().unwrap())
                .collect();
        order(&mut addresses);
        let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.1:1", "127.0.0.1:1", "[fd00::1]:1", "[fe80::1]:1"]);
    }
}
