//! Which network a node belongs to: its name and, where it has one, its key. Everything that differs between networks is
//! derived here: the proof of membership inside a session, what mDNS may show, and what Kademlia is shut off with.

use std::fmt;

use aws_lc_rs::hmac;
use libp2p::StreamProtocol;
use libp2p::pnet::PreSharedKey;
use proto::{IndexId, NodeId};
use sha2::{Digest, Sha256};

use super::discovery::Tag;
use super::network_key::NetworkKey;

/// The label of TLS's exporter (RFC 8446, 7.5) for proofs of membership.
pub(super) const EXPORTER: &[u8] = b"EXPORTER-caswarm-network-key";

/// Bytes of a proof.
pub(super) const PROOF_BYTES: usize = 32;

/// The network of a node. Without a key it is open to whoever names it.
#[derive(Clone, Default)]
pub struct Membership {
    name: String,
    secrets: Option<Secrets>,
}

/// What was derived from the key, one for each purpose.
#[derive(Clone)]
struct Secrets {
    session: hmac::Key,
    mdns: hmac::Key,
    dht: [u8; 32],
}

/// Which side of a session proves its membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The one that dialled.
    Dialler,
    /// The one that accepted.
    Acceptor,
}

impl Side {
    pub(super) fn other(self) -> Self {
        match self {
            Side::Dialler => Side::Acceptor,
            Side::Acceptor => Side::Dialler,
        }
    }
}

impl Membership {
    /// The network of this name, kept to those who have the key if there is one.
    pub fn new(name: &str, key: Option<&NetworkKey>) -> Self {
        let secrets = key.map(|key| {
            let mac = |purpose| hmac::Key::new(hmac::HMAC_SHA256, &key.derive(purpose, name));
            Secrets { session: mac("session"), mdns: mac("mdns"), dht: key.derive("dht", name) }
        });
        Self { name: name.to_owned(), secrets }
    }

    /// The network's name; empty for the default one.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether anybody may join who reaches a node of it.
    pub fn is_open(&self) -> bool {
        self.secrets.is_none()
    }

    /// Proves in one TLS session that `side` has the key. It is of no use in another session, since `exporter` is that
    /// session's; nor between other nodes, nor to the other side itself.
    pub(super) fn proof(&self, side: Side, exporter: &[u8; 32], dialler: NodeId, acceptor: NodeId) -> Option<[u8; 32]> {
        let secrets = self.secrets.as_ref()?;
        let mut proof = [0; PROOF_BYTES];
        proof.copy_from_slice(hmac::sign(&secrets.session, &statement(side, exporter, dialler, acceptor)).as_ref());
        Some(proof)
    }

    /// Whether `side` has the key, going by its proof. Takes the same time whatever is wrong with it.
    pub(super) fn proves(
        &self,
        proof: &[u8; PROOF_BYTES],
        side: Side,
        exporter: &[u8; 32],
        dialler: NodeId,
        acceptor: NodeId,
    ) -> bool {
        let statement = statement(side, exporter, dialler, acceptor);
        self.secrets.as_ref().is_some_and(|secrets| hmac::verify(&secrets.session, &statement, proof).is_ok())
    }

    /// By which mDNS tells the nodes of one network from those of others.
    pub(super) fn mdns_hash(&self) -> String {
        match &self.secrets {
            Some(secrets) => hex::encode(&hmac::sign(&secrets.mdns, b"net").as_ref()[..4]),
            None => hex::encode(&open_hash(&self.name, b"")[..4]),
        }
    }

    /// What a node of this network calls an index in mDNS. With a key nobody else can tell which index is meant, nor
    /// whether two nodes mean the same.
    pub fn tag(&self, node: NodeId, index: &IndexId) -> Tag {
        let mut tag = [0; 4];
        match &self.secrets {
            Some(secrets) => {
                let about = [b"tag".as_slice(), node.as_bytes(), index.as_bytes()].concat();
                tag.copy_from_slice(&hmac::sign(&secrets.mdns, &about).as_ref()[..4]);
            }
            None => tag.copy_from_slice(&open_hash(&self.name, index.as_bytes())[..4]),
        }
        Tag(tag)
    }

    /// What Kademlia's connections are encrypted with before anything is said on them.
    pub(super) fn pre_shared_key(&self) -> Option<PreSharedKey> {
        self.secrets.as_ref().map(|secrets| PreSharedKey::new(secrets.dht))
    }

    /// Kademlia's protocol: the default network has the plain name; others have their own, so that they never mix.
    pub(super) fn kad_protocol(&self) -> StreamProtocol {
        let plain = StreamProtocol::new("/caswarm/kad/1.0.0");
        if self.name.is_empty() {
            return plain;
        }
        let name = hex::encode(&Sha256::digest(&self.name)[..8]);
        StreamProtocol::try_from_owned(format!("/caswarm/{name}/kad/1.0.0")).unwrap_or(plain)
    }
}

impl From<&str> for Membership {
    /// The open network of this name.
    fn from(name: &str) -> Self {
        Self::new(name, None)
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("name", &self.name).field("open", &self.is_open()).finish()
    }
}

fn statement(side: Side, exporter: &[u8; 32], dialler: NodeId, acceptor: NodeId) -> [u8; 97] {
    let mut statement = [0; 97];
    statement[0] = match side {
        Side::Dialler => 0,
        Side::Acceptor => 1,
    };
    statement[1..33].copy_from_slice(exporter);
    statement[33..65].copy_from_slice(dialler.as_bytes());
    statement[65..].copy_from_slice(acceptor.as_bytes());
    statement
}

fn open_hash(network: &str, what: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(b"caswarm mdns\0")
        .chain_update(network)
        .chain_update([0])
        .chain_update(what)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NodeId = NodeId([1; 32]);
    const TWO: NodeId = NodeId([2; 32]);
    const INDEX: IndexId = IndexId([9; 32]);

    fn keyed(name: &str) -> (Membership, NetworkKey) {
        let key = NetworkKey::generate().unwrap();
        (Membership::new(name, Some(&key)), key)
    }

    #[test]
    fn a_proof_holds_for_its_side_its_session_and_its_nodes_only() {
        let (network, key) = keyed("a");
        let proof = network.proof(Side::Dialler, &[5; 32], ONE, TWO).unwrap();
        assert!(network.proves(&proof, Side::Dialler, &[5; 32], ONE, TWO));
        assert!(!network.proves(&proof, Side::Acceptor, &[5; 32], ONE, TWO), "reflected");
        assert!(!network.proves(&proof, Side::Dialler, &[6; 32], ONE, TWO), "replayed");
        assert!(!network.proves(&proof, Side::Dialler, &[5; 32], TWO, ONE));
        assert!(!network.proves(&proof, Side::Dialler, &[5; 32], ONE, NodeId([3; 32])));
        let mut altered = proof;
        altered[31] ^= 1;
        assert!(!network.proves(&altered, Side::Dialler, &[5; 32], ONE, TWO));
        for other in [keyed("a").0, Membership::new("b", Some(&key)), Membership::from("a")] {
            assert!(!other.proves(&proof, Side::Dialler, &[5; 32], ONE, TWO));
        }
    }

    #[test]
    fn open_networks_and_indexes_have_tags_of_their_own_whoever_holds_them() {
        let (open, lab) = (Membership::default(), Membership::from("lab"));
        assert_eq!(open.tag(ONE, &INDEX), open.tag(TWO, &INDEX));
        assert_ne!(open.tag(ONE, &INDEX), open.tag(ONE, &IndexId([8; 32])));
        assert_ne!(open.tag(ONE, &INDEX), lab.tag(ONE, &INDEX));
        assert_ne!(open.mdns_hash(), lab.mdns_hash());
    }

    #[test]
    fn tags_of_a_keyed_network_show_neither_the_index_nor_who_holds_the_same() {
        let (network, key) = keyed("a");
        let tag = network.tag(ONE, &INDEX);
        assert_eq!(tag, Membership::new("a", Some(&key)).tag(ONE, &INDEX));
        for other in [network.tag(TWO, &INDEX), Membership::from("a").tag(ONE, &INDEX), keyed("a").0.tag(ONE, &INDEX)] {
            assert_ne!(tag, other);
        }
        assert_ne!(network.mdns_hash(), Membership::from("a").mdns_hash());
    }
}
