//! The options of every subcommand that runs a node.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::Context;

use crate::node::NodeConfig;
use crate::node::address::PeerAddress;
use crate::node::identity::Identity;

/// How a node takes part in the LAN.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Neighbours")]
pub struct LanArgs {
    /// Another node to start from, where multicast does not reach: HOST:PORT; may be repeated.
    #[arg(long, value_name = "ADDR", env = "CASWARM_BOOTSTRAP", value_delimiter = ',')]
    pub bootstrap: Vec<PeerAddress>,

    /// Talk only to nodes that were given the same name.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub network: String,

    /// The label of this machine's rack or site [default: the multicast segment].
    #[arg(long, value_name = "LABEL", default_value = "", hide_default_value = true)]
    pub zone: String,

    /// Where to accept sessions: ADDRESS:PORT, an address or a port [default: any port, or 7748 for `caswarm node`].
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,

    /// Take chunks from neighbours but give none.
    #[arg(long)]
    pub no_share: bool,
}

impl LanArgs {
    /// The node that these options describe. `port` is where to listen unless they say so.
    ///
    /// # Errors
    /// When an address cannot be read.
    pub fn node_config(&self, identity: Identity, port: Option<u16>) -> anyhow::Result<NodeConfig> {
        let mut config = NodeConfig::new(identity);
        config.network.clone_from(&self.network);
        config.zone.clone_from(&self.zone);
        config.share = !self.no_share;
        config.listen.set_port(port.unwrap_or(0));
        if let Some(text) = &self.listen {
            config.listen = listen_address(text)?;
        }
        config.bootstrap.clone_from(&self.bootstrap);
        Ok(config)
    }
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
