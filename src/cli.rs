//! The command line as typed. One subcommand a file: its `Args` and its `run`; what they do is the library's.

pub mod casync;
pub mod demo;
pub mod digest;
pub mod extract;
pub mod gc;
pub mod keygen;
pub mod lan;
pub mod list;
pub mod look;
pub mod make;
pub mod mtree;
pub mod node;
pub mod serve;
pub mod stat;
pub mod status;
pub mod trees;
pub mod unpack;
pub mod verify;

mod logging;
mod publish;
mod signals;
mod values;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::exit::Exit;
use crate::state_dir::{StateDir, StateDirError};
pub use values::{parse_boolean, parse_bytes};

/// A LAN peer-to-peer network for casync images: each chunk crosses the Internet once.
#[derive(Debug, Parser)]
#[command(name = "caswarm", version, max_term_width = 110)]
pub struct Cli {
    /// What holds for every subcommand.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every subcommand takes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Global {
    /// Say more on stderr; up to three times.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say nothing but errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// What to log: a level (error, warn, info, debug, trace, or 0 to 7 as casync has them), or filters as in RUST_LOG.
    #[arg(short, long, global = true, env = "CASYNC_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Where a node keeps its key, its last known peers and its control socket
    /// [default: /var/lib/caswarm for root, else $XDG_STATE_HOME/caswarm].
    #[arg(long, global = true, env = "CASWARM_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

impl Global {
    /// The state directory of this run, not yet made.
    ///
    /// # Errors
    /// When nothing says where it should be.
    pub fn state_dir(&self) -> Result<StateDir, StateDirError> {
        StateDir::find(self.state_dir.clone())
    }
}

/// Threads for work that blocks. Each costs memory that the allocator keeps for it.
const BLOCKING_THREADS: usize = 6;

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Cut an image or a tree into chunks: writes an index, its .id, and a store. Or make the archive of a tree.
    Make(make::Args),
    /// Write the image or tree that an index describes, from the nearest place that has each chunk; or unpack an archive.
    Extract(Box<extract::Args>),
    /// List what is in an archive, the index of one, or a directory.
    List(list::Args),
    /// Describe every file of an archive, the index of one, or a directory, as BSD's mtree does.
    Mtree(mtree::Args),
    /// Describe one file of an archive, or of the index of one, or the top of a directory.
    Stat(stat::Args),
    /// Print the digest of an image or a tree, of an archive, or of what an index describes: what make prints.
    Digest(digest::Args),
    /// Remove from a store what none of these indexes needs.
    Gc(gc::Args),
    /// Check every chunk of a store.
    Verify(verify::Args),
    /// The giving side of casync's remote protocol; ssh starts it.
    #[command(hide = true)]
    Pull(serve::Args),
    /// The taking side of casync's remote protocol; ssh starts it.
    #[command(hide = true)]
    Push(serve::Args),
    /// Stay and serve chunks to the neighbours.
    Node(node::Args),
    /// Make the key of a network that only machines with a copy of it can join.
    Keygen(keygen::Args),
    /// Show what the running node holds, whom it sees, and what went where.
    Status(status::Args),
    /// Show it all on this machine: an origin, several nodes, and where each byte came from.
    Demo(demo::Args),
}

impl Cli {
    /// Sets up logging and does what was asked.
    ///
    /// # Errors
    /// Whatever stopped the subcommand; `main` prints the chain.
    pub fn run(self) -> anyhow::Result<Exit> {
        logging::start(&self.global);
        if self.command.stays_in_the_background() {
            crate::background::lower_this_process();
        }
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.enable_all().max_blocking_threads(BLOCKING_THREADS).build()?;
        let done = runtime.block_on(async {
            match self.command {
                Command::Make(args) => make::run(args, &self.global).await,
                Command::Extract(args) => extract::run(*args, &self.global).await,
                Command::List(args) => list::run(args, &self.global).await,
                Command::Mtree(args) => mtree::run(args, &self.global).await,
                Command::Stat(args) => stat::run(args, &self.global).await,
                Command::Digest(args) => digest::run(args, &self.global).await,
                Command::Gc(args) => gc::run(args, &self.global).await,
                Command::Verify(args) => verify::run(args, &self.global).await,
                Command::Pull(args) => serve::run(serve::Verb::Pull, args, &self.global).await,
                Command::Push(args) => serve::run(serve::Verb::Push, args, &self.global).await,
                Command::Node(args) => node::run(args, &self.global).await,
                Command::Keygen(args) => keygen::run(&args, &self.global),
                Command::Status(args) => status::run(args, &self.global).await,
                Command::Demo(args) => demo::run(args, &self.global).await,
            }
        });
        runtime.shutdown_background();
        done
    }
}

impl Command {
    fn stays_in_the_background(&self) -> bool {
        match self {
            Command::Extract(args) => args.lan.background,
            Command::Node(args) => args.lan.background,
            _ => false,
        }
    }
}

/// How many threads work where nobody says how many.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
