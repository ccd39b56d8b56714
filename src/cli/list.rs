//! `caswarm list`: casync's `list`.

use clap::ArgAction;

use super::look::LookArgs;
use super::{Global, parse_boolean};
use crate::browse::list::list;
use crate::exit::Exit;

/// What `caswarm list` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    look: LookArgs,
    /// Also what is in its directories.
    #[arg(long, value_name = "BOOL", default_value = "yes", value_parser = parse_boolean, action = ArgAction::Set)]
    recursive: bool,
}

/// Prints mode and path of every node.
///
/// # Errors
/// Whatever cannot be read.
pub async fn run(args: Args, _global: &Global) -> anyhow::Result<Exit> {
    let recursive = args.recursive;
    args.look
        .look(false, move |tree, _| Ok(list(tree, recursive, &mut std::io::BufWriter::new(std::io::stdout().lock()))?))
        .await?;
    Ok(Exit::Ok)
}
