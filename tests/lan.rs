//! Whole machines on a LAN that the test builds, with an image that the casync program published on nginx.

mod failures;
mod ipv6;
mod keyed;
mod manners;
mod names;
mod neighbours;
mod network;
mod published;
mod restarts;
mod sessions;
mod swarm;
mod trees;
mod trouble;

use std::path::Path;
use std::time::Duration;

use published::Published;

use crate::support::lan::{Lan, wait_until};
use crate::support::{Need, Process, require};

/// What all of these tests need of the machine.
fn machine_can() -> bool {
    require(&[Need::Namespaces, Need::Program("casync"), Need::Program("nginx")])
}

/// Starts `caswarm node` on a host and waits until it answers `caswarm status`.
fn start_node(lan: &Lan, host: usize, arguments: &[&str]) -> Process {
    let mut node = lan.start(host, &[&["node"], arguments].concat());
    wait_until("the node answers status", Duration::from_secs(20), || {
        assert!(node.is_running(), "the node ended: {}{}", node.stdout(), node.stderr());
        lan.start(host, &["status", "--json"]).wait(Duration::from_secs(10)).status.success()
    });
    node
}

/// Starts a node that serves the first version from its image.
fn start_provider(lan: &Lan, host: usize, published: &Published, arguments: &[&str]) -> Process {
    let index = give(lan, host, &published.www().join("v1.caibx"), "v1.caibx");
    let image = give(lan, host, &published.image("v1.img"), "v1.img");
    start_node(lan, host, &[&["--image", &format!("{index}={image}")], arguments].concat())
}

/// What the node that runs on a host says of itself.
fn status(lan: &Lan, host: usize) -> serde_json::Value {
    lan.start(host, &["status", "--json"]).wait(Duration::from_secs(20)).ok().json()
}

/// The name of the node on a host.
fn node_of(lan: &Lan, host: usize) -> proto::NodeId {
    let peer: libp2p::PeerId = status(lan, host)["peer_id"].as_str().unwrap().parse().unwrap();
    caswarm::node::identity::node_id_of(peer).unwrap()
}

/// The nodes with which the node on a host has sessions.
fn neighbours(lan: &Lan, host: usize) -> usize {
    status(lan, host)["neighbours"].as_array().unwrap().len()
}

/// Starts an extraction on a host into `out.img` in the host's directory.
fn start_extract(lan: &Lan, host: usize, index: &str, arguments: &[&str]) -> Process {
    lan.start(host, &[&["extract", index, "out.img", "--json"], arguments].concat())
}

/// Copies a file into a host's directory under the same name, which is returned.
fn give<'a>(lan: &Lan, host: usize, file: &Path, name: &'a str) -> &'a str {
    std::fs::copy(file, lan.dir(host).join(name)).unwrap();
    name
}
