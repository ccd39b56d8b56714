//! `caswarm stat`: casync's `stat`.

use super::Global;
use super::look::LookArgs;
use crate::browse::stat::stat;
use crate::exit::Exit;

/// What `caswarm stat` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    look: LookArgs,
}

/// Prints everything about one node.
///
/// # Errors
/// Whatever cannot be read.
pub async fn run(args: Args, _global: &Global) -> anyhow::Result<Exit> {
    args.look.look(false, |tree, archive| Ok(stat(tree, archive, &mut std::io::stdout().lock())?)).await?;
    Ok(Exit::Ok)
}
