//! The options of every subcommand that runs a node.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

use super::values::parse_rate;
use crate::node::NodeConfig;
use crate::node::address::{Bootstrap, ParseAddressError};
use crate::node::admission::{Admission, PeerRule};
use crate::node::identity::Identity;
use crate::node::limits::Limits;
use crate::node::membership::Membership;
use crate::node::network_key::NetworkKey;

/// Where to start; an empty variable of the environment is nowhere.
#[derive(Debug, Clone)]
pub struct Start(Option<Bootstrap>);

/// How a node takes part in the LAN.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Neighbours")]
pub struct LanArgs {
    /// Where to start, where multicast does not reach: a node's HOST:PORT, or a DNS name whose SRV records
    /// (_caswarm._tcp.NAME) or dnsaddr records (_dnsaddr.NAME) tell some; may be repeated.
    #[arg(long, value_name = "ADDR", env = "CASWARM_BOOTSTRAP", value_delimiter = ',', value_parser = start)]
    pub bootstrap: Vec<Start>,

    /// Talk only to nodes that were given the same name.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub network: String,

    /// Talk only to nodes that have the same key, in a file that `caswarm keygen` made: the network is no longer open to
    /// whoever is on the LAN.
    #[arg(long, value_name = "FILE", env = "CASWARM_NETWORK_KEY")]
    pub network_key: Option<PathBuf>,

    /// Talk only to these nodes: a peer id (`caswarm status` shows it), an address or a range like 10.1.0.0/16; may be
    /// repeated. A range of public addresses is opened by it.
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    pub allow_peer: Vec<PeerRule>,

    /// Do not talk to these nodes, whatever is allowed; may be repeated.
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    pub deny_peer: Vec<PeerRule>,

    /// The label of this machine's rack or site [default: the network of its segment,
    /// like 10.77.1.0/24].
    #[arg(long, value_name = "LABEL", default_value = "", hide_default_value = true)]
    pub zone: String,

    /// Where to accept sessions: ADDRESS:PORT, an address or a port [default: any port, or 7748 for `caswarm node`].
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,

    /// Take chunks from neighbours but give none.
    #[arg(long)]
    pub no_share: bool,

    /// Neither ask neighbours nor serve them: nothing listens, nothing is announced.
    #[arg(long)]
    pub no_lan: bool,

    /// Send at most that many bytes a second to neighbours; 10M means 10 MiB a second.
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    pub limit_upload: Option<u64>,

    /// Receive at most that many bytes a second from neighbours, likewise.
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    pub limit_download: Option<u64>,

    /// Receive at most that many bytes a second from the Internet's stores, likewise.
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    pub limit_origin: Option<u64>,

    /// Serve at most that many neighbours at a time; the others are told to ask again soon [default: 32, fewer with
    /// --limit-upload or --background].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub upload_slots: Option<u16>,

    /// Let everything else on this machine and this network go first: what is sent to neighbours is marked as lower effort
    /// (DSCP LE), the processor and the disks are used when others do not need them.
    #[arg(long)]
    pub background: bool,
}

impl LanArgs {
    /// The node that these options describe. `port` is where to listen unless they say so.
    ///
    /// # Errors
    /// When an address cannot be read.
    pub fn node_config(&self, identity: Identity, port: Option<u16>) -> anyhow::Result<NodeConfig> {
        let mut config = NodeConfig::new(identity);
        let key = self.network_key.as_deref().map(NetworkKey::load).transpose().context("network key")?;
        config.network = Membership::new(&self.network, key.as_ref());
        config.bootstrap = self.bootstrap.iter().filter_map(|start| start.0.clone()).collect();
        let named = config.bootstrap.iter().filter_map(|start| match start {
            Bootstrap::Node(node) => node.host.parse::<IpAddr>().ok(),
            Bootstrap::Name(_) => None,
        });
        config.admission = Arc::new(Admission {
            allow: self.allow_peer.clone(),
            deny: self.deny_peer.clone(),
            named: named.map(|ip| ip.to_canonical()).collect(),
        });
        config.zone.clone_from(&self.zone);
        config.lan = !self.no_lan;
        config.share = !self.no_share;
        config.limits = Limits {
            upload: self.limit_upload,
            download: self.limit_download,
            upload_slots: self.upload_slots.map(usize::from),
            background: self.background,
        };
        config.listen.set_port(port.unwrap_or(0));
        if let Some(text) = &self.listen {
            config.listen = listen_address(text)?;
        }
        Ok(config)
    }
}

fn start(text: &str) -> Result<Start, ParseAddressError> {
    if text.is_empty() { Ok(Start(None)) } else { text.parse().map(|start| Start(Some(start))) }
}

fn listen_address(text: &str) -> anyhow::Result<SocketAddr> {
    if let Ok(port) = text.parse() {
        return Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, 0));
    }
    text.parse().with_context(|| format!("--listen {text}: give ADDRESS:PORT, an address or a port"))
}
