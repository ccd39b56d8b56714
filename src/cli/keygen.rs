//! `caswarm keygen`.

use std::path::PathBuf;

use super::Global;
use crate::exit::Exit;
use crate::node::network_key::NetworkKey;

/// What `caswarm keygen` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the key goes; nothing may be there. Every machine of the network needs a copy that only its owner may read.
    file: PathBuf,
}

/// Makes a network key.
///
/// # Errors
/// When there is a file already, or it cannot be written.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<Exit> {
    NetworkKey::generate()?.save(&args.file)?;
    if !global.quiet {
        eprintln!("{}: a new network key, for --network-key on every machine of the network", args.file.display());
    }
    Ok(Exit::Ok)
}
