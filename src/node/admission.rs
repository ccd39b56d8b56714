//! With whom a node talks at all: by address before anything is said, by name once that is proven. Whether one belongs
//! to the network is not asked here.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use libp2p::PeerId;
use proto::NodeId;

use super::address::{is_dialable, is_private};
use super::identity::node_id_of;

/// Whom a rule means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerRule {
    /// The node of this name.
    Node(NodeId),
    /// Nodes at addresses that start with these bits.
    Range(IpAddr, u8),
}

/// What was typed is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no nodes: give a peer id as `caswarm status` shows it, an address, or a range like 10.1.0.0/16")]
pub struct ParseRuleError(String);

/// The rules of one node. The usual ones admit every node at a private or link-local address.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// If there are any, only those that one of them means are talked to. A range of public addresses also opens these.
    pub allow: Vec<PeerRule>,
    /// Those that one of them means are not talked to, whatever is allowed.
    pub deny: Vec<PeerRule>,
    /// Public addresses that were named one by one as nodes to start from.
    pub named: Vec<IpAddr>,
}

impl FromStr for PeerRule {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        let failed = || ParseRuleError(text.chars().take(200).collect());
        if let Some((ip, bits)) = text.split_once('/') {
            let ip: IpAddr = ip.parse().map_err(|_| failed())?;
            // `u8::from_str` would take a sign.
            let digits = !bits.is_empty() && bits.bytes().all(|digit| digit.is_ascii_digit());
            let bits = bits.parse().ok().filter(|bits| digits && *bits <= width(ip)).ok_or_else(failed)?;
            return Ok(PeerRule::Range(ip, bits));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(PeerRule::Range(ip, width(ip)));
        }
        let peer: PeerId = text.parse().map_err(|_| failed())?;
        node_id_of(peer).map(PeerRule::Node).ok_or_else(failed)
    }
}

impl PeerRule {
    fn covers(&self, ip: IpAddr) -> bool {
        let PeerRule::Range(network, bits) = *self else { return false };
        match (network.to_canonical(), ip.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                // A range written as ::ffff:10.0.0.0/104 counts its bits from the long form.
                let bits = bits.min(32 + 96).checked_sub(if self.is_v6() { 96 } else { 0 });
                bits.is_some_and(|bits| same_start(network.to_bits().into(), ip.to_bits().into(), bits, 32))
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => same_start(network.to_bits(), ip.to_bits(), bits, 128),
            _ => false,
        }
    }

    fn is_v6(&self) -> bool {
        matches!(self, PeerRule::Range(IpAddr::V6(_), _))
    }
}

impl Admission {
    /// Whether anything is said to whoever is at this address.
    pub fn admits_address(&self, ip: IpAddr) -> bool {
        self.admits_caller(ip, false)
    }

    /// The same for one that called; with `public`, at an address that was named for whoever may come.
    pub fn admits_caller(&self, ip: IpAddr, public: bool) -> bool {
        let by_name = self.allow.iter().any(|rule| matches!(rule, PeerRule::Node(_)));
        let allowed = self.allow.is_empty() || by_name || self.allow.iter().any(|rule| rule.covers(ip));
        allowed && (public || self.is_reachable(ip)) && !self.deny.iter().any(|rule| rule.covers(ip))
    }

    /// Whether an address that somebody told may be dialled.
    pub fn admits_dial(&self, addr: SocketAddr) -> bool {
        is_dialable(addr) && self.admits_address(addr.ip())
    }

    /// Whether there is a session with a node that proved its name and is heard at this address.
    pub fn admits(&self, node: NodeId, ip: IpAddr) -> bool {
        let means = |rule: &PeerRule| *rule == PeerRule::Node(node) || rule.covers(ip);
        (self.allow.is_empty() || self.allow.iter().any(means)) && !self.deny.iter().any(means)
    }

    /// Whether the address is a LAN's or was named.
    pub fn is_reachable(&self, ip: IpAddr) -> bool {
        is_private(ip) || self.named.contains(&ip.to_canonical()) || self.allow.iter().any(|rule| rule.covers(ip))
    }
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn same_start(a: u128, b: u128, bits: u8, width: u8) -> bool {
    let rest = u32::from(width.saturating_sub(bits));
    (a ^ b).checked_shr(rest).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::super::identity::Identity;
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn rules(texts: &[&str]) -> Vec<PeerRule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn ranges_cover_the_addresses_that_start_with_their_bits() {
        for (range, inside, outside) in [
            ("10.1.0.0/16", "10.1.255.3", "10.2.0.0"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("0.0.0.0/0", "192.168.0.1", "fd00::1"),
            ("fd77::/16", "fd77:1::5", "fd78::1"),
            ("10.1.2.3/31", "10.1.2.2", "10.1.2.4"),
            ("10.0.0.0/8", "::ffff:10.9.9.9", "::ffff:11.0.0.1"),
            ("::ffff:10.0.0.0/104", "10.9.9.9", "11.0.0.1"),
            ("::/0", "fe80::1", "10.0.0.1"),
        ] {
            let rule: PeerRule = range.parse().unwrap();
            assert!(rule.covers(ip(inside)), "{range} {inside}");
            assert!(!rule.covers(ip(outside)), "{range} {outside}");
        }
    }

    #[test]
    fn what_names_no_nodes_is_refused_with_its_text() {
        for text in
            ["", "10.0.0.0/33", "10.0.0/8", "fd00::/129", "10.0.0.1/", "10.0.0.1/+8", "host", "10.0.0.1:77", "QmWrong"]
        {
            let error = text.parse::<PeerRule>().unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn by_default_every_node_of_the_lan_is_admitted_and_nobody_else() {
        let usual = Admission::default();
        for lan in ["10.0.0.1", "192.168.1.1", "169.254.0.9", "127.0.0.1", "fe80::1", "fd00::1"] {
            assert!(usual.admits_address(ip(lan)) && usual.admits(NodeId([1; 32]), ip(lan)), "{lan}");
        }
        for public in ["8.8.8.8", "2001:db8::1"] {
            assert!(!usual.admits_address(ip(public)), "{public}");
        }
    }

    #[test]
    fn denied_is_denied_whatever_is_allowed() {
        let (friend, foe) = (Identity::ephemeral(), Identity::ephemeral());
        let foe_rule = foe.peer_id().to_string();
        let both = Admission {
            allow: rules(&["10.0.0.0/8", &friend.peer_id().to_string(), &foe_rule]),
            deny: rules(&["10.6.0.0/16", &foe_rule]),
            ..Admission::default()
        };
        assert!(both.admits(NodeId([1; 32]), ip("10.1.0.1")));
        assert!(!both.admits(NodeId([1; 32]), ip("192.168.0.1")));
        assert!(both.admits(friend.node_id(), ip("192.168.0.1")));
        assert!(!both.admits(friend.node_id(), ip("10.6.0.1")) && !both.admits_address(ip("10.6.0.1")));
        assert!(!both.admits(foe.node_id(), ip("10.1.0.1")));
        // Who is named is known only after the handshake.
        assert!(both.admits_address(ip("192.168.0.1")));
    }

    #[test]
    fn only_allowed_ranges_are_talked_to_and_a_public_one_is_opened() {
        let only = Admission { allow: rules(&["203.0.113.0/24"]), ..Admission::default() };
        assert!(only.admits_address(ip("203.0.113.9")) && !only.admits_address(ip("10.0.0.1")));
        assert!(!only.admits_address(ip("203.0.114.9")));
        let named = Admission { named: vec![ip("198.51.100.1")], ..Admission::default() };
        assert!(named.admits_address(ip("198.51.100.1")) && named.admits_address(ip("10.0.0.1")));
    }
}
