//! `caswarm node`.

use std::path::PathBuf;

use anyhow::Context;

use super::Global;
use super::lan::LanArgs;
use super::signals::Signals;
use crate::daemon::{self, DaemonConfig};
use crate::exit::Exit;
use crate::node::identity::Identity;

/// What `caswarm node` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A chunk store (.castr) to serve from; may be repeated.
    #[arg(long, value_name = "STORE")]
    store: Vec<PathBuf>,

    /// An extracted image to serve from as it lies on disk, with its index; may be repeated.
    #[arg(long, value_name = "INDEX=FILE", value_parser = index_and_file)]
    image: Vec<(PathBuf, PathBuf)>,

    /// An extracted tree to serve from as it lies on disk, with its index; may be repeated.
    #[arg(long, value_name = "INDEX=DIR", value_parser = index_and_file)]
    tree: Vec<(PathBuf, PathBuf)>,

    /// Keep no DHT records for other nodes.
    #[arg(long)]
    no_dht_server: bool,

    #[command(flatten)]
    pub(super) lan: LanArgs,
}

/// Runs a node until it is stopped.
///
/// # Errors
/// Whatever stopped it.
pub async fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    let state = global.state_dir()?;
    let path = state.create()?.to_owned();
    let identity = Identity::load_or_create(&path)?;
    let mut node = args.lan.node_config(identity, Some(daemon::PORT))?;
    node.state_dir = Some(path);
    node.dht_server = !args.no_dht_server;
    if let Some((_, path)) = args.tree.iter().find(|(_, path)| !path.is_dir()) {
        anyhow::bail!("{}: is no directory, so no tree; images are named with --image", path.display());
    }
    let images = args.image.into_iter().chain(args.tree).collect();
    let config = DaemonConfig { node, stores: args.store, images, control: state.control_socket() };
    let mut signals = Signals::listen();
    // To be stopped is how a node ends: that is no failure.
    daemon::run(config, async {
        let _ = signals.next().await;
    })
    .await
    .context("node")?;
    Ok(Exit::Ok)
}

fn index_and_file(text: &str) -> Result<(PathBuf, PathBuf), String> {
    match text.split_once('=') {
        Some((index, file)) if !index.is_empty() && !file.is_empty() => Ok((index.into(), file.into())),
        _ => Err("give the index and the image as INDEX=FILE, for example os.caibx=/dev/sdb2".into()),
    }
}
