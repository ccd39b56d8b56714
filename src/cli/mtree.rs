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
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let told = args
        .look
        .look(true, move |tree, _| Ok(mtree(tree, threads, &mut std::io::BufWriter::new(std::io::stdout().lock()))?));
    told.await?;
    Ok(Exit::Ok)
}
