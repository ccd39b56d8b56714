//! `caswarm extract`. (to come)

use super::Global;
use crate::exit::Exit;

/// What `caswarm extract` takes.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Does it.
///
/// # Errors
/// Whatever stopped it.
#[allow(clippy::unused_async)]
pub async fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    let _ = (args, global);
    anyhow::bail!("extract is not built yet")
}
