//! `caswarm mtree`: casync's `mtree`.

use super::Global;
use super::look::LookArgs;
use crate::browse::mtree::mtree;
use crate::exit::Exit;

/// What `caswarm mtree` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    look: LookArgs,
}

/// Prints everything about every node.
///
/// # Errors
/// Whatever cannot be read.
pub async fn run(args: Args, _global: &Global) -> anyhow::Result<Exit> {
    let told = args.look.look(true, |tree, _| Ok(mtree(tree, &mut std::io::BufWriter::new(std::io::stdout().lock()))?));
    told.await?;
    Ok(Exit::Ok)
}
