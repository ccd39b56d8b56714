//! `caswarm gc`: casync's `gc`.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, bail};

use super::Global;
use super::casync::Environment;
use crate::browse::indexed::Nobody;
use crate::exit::Exit;
use crate::extract::index_file;
use crate::gc::{Collected, Options, collect};
use crate::source::http::{HttpClient, HttpOptions};
use crate::source::local_store::{FileKind, LocalStore};
use crate::source::location::Location;

/// For how long what nobody needs yet is left alone, in seconds: others may be making an index.
const GRACE: u64 = 600;

/// How old a temporary file has to be to be a leftover: writing a chunk takes a moment.
const LEFTOVER: Duration = Duration::from_secs(24 * 60 * 60);

/// What `caswarm gc` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "If any of the indexes cannot be read, nothing is removed. A caswarm make that is writing to the \
                        store is waited for; for other programs, such as casync, there is --grace."
)]
pub struct Args {
    /// Every index whose chunks are to stay, of images or trees: paths or URLs.
    #[arg(value_name = "INDEX", required = true)]
    index: Vec<String>,
    /// The store, a directory [default: default.castr beside the first index].
    #[arg(long, env = "CASYNC_STORE", value_name = "DIR")]
    store: Option<String>,
    /// Only say what would be removed; with -v, each of it.
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// What was written less than that long ago stays: its index may be yet to come.
    #[arg(long, value_name = "SECONDS", default_value_t = GRACE)]
    grace: u64,
}

/// Removes chunks.
///
/// # Errors
/// When an index cannot be read, before anything is removed; when the store cannot be read.
pub async fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    let indexes: Vec<Location> = args.index.iter().map(|index| Location::parse(index)).collect();
    let store = args.store.as_deref().map(Location::parse);
    let store = store.or_else(|| indexes.first().map(Location::default_store));
    let store = match store {
        Some(Location::Path(path)) => LocalStore::open(path)?,
        Some(other) => bail!("{other}: chunks can be removed from a local store only; name one with --store"),
        None => bail!("no index was named"),
    };
    let verbose = global.verbose > 0 || Environment::of_this_process().verbose;
    // The lock comes first: an index that a make has just finished is then read as it is now.
    let opened = store.clone();
    let _alone = tokio::task::spawn_blocking(move || {
        let place = opened.path().display().to_string();
        opened.own(|| eprintln!("{place}: something is being written there; waiting for its end"))
    });
    let _alone = _alone.await.context("waiting stopped")??;
    let (needed, references) = needed(&indexes).await?;
    if verbose {
        println!("Chunk store usage: {references} references, {} chunks", needed.len());
    }
    let options = Options { dry_run: args.dry_run, grace: Duration::from_secs(args.grace), leftover: LEFTOVER };
    let collected = tokio::task::spawn_blocking(move || {
        collect(&store, &needed, options, |file| {
            if verbose {
                let what = if file.kind == FileKind::Temporary { "leftover" } else { "chunk" };
                println!("{} {what} {}.", if options.dry_run { "Would remove" } else { "Removing" }, file.name);
            }
        })
    });
    let collected = collected.await.context("gc stopped")??;
    tell(&collected, options, verbose);
    if collected.young > 0 && !global.quiet {
        let (young, grace) = (collected.young, args.grace);
        eprintln!(
            "{young} chunks that none of the indexes needs are younger than {grace} seconds and stay; --grace=0 if \
             nobody else writes there"
        );
    }
    Ok(if collected.stuck == 0 { Exit::Ok } else { Exit::Failure })
}

/// In casync's words.
fn tell(collected: &Collected, options: Options, verbose: bool) {
    let Collected { removed, remaining, directories, .. } = *collected;
    if options.dry_run {
        println!("Would remove {removed} chunks, {remaining} chunks remaining.");
    } else if verbose {
        println!("Removed {removed} chunks, {directories} directories, {remaining} chunks remaining.");
    }
}

/// Every chunk that the indexes name, and how often they do.
async fn needed(indexes: &[Location]) -> anyhow::Result<(HashSet<proto::ChunkId>, usize)> {
    let http = HttpClient::new(HttpOptions::default())?;
    let (mut needed, mut references) = (HashSet::new(), 0);
    for index in indexes {
        let file = index_file::load(index, None, &Nobody, &http).await.context("nothing was removed")?;
        references += file.index.chunks.len();
        needed.extend(file.index.chunks.iter().map(|chunk| chunk.id));
    }
    Ok((needed, references))
}
