//! `caswarm make`: casync's `make`, for files and block devices and for trees.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::Global;
use super::trees::TreeArgs;
use super::values::parse_digest;
use crate::chunk::Encoding;
use crate::exit::Exit;
use crate::format::chunk_sizes::ChunkSizes;
use crate::format::digest::Digest;
use crate::make::{Input, Made, Plan, make, make_archive, make_tree};
use crate::source::local_store::LocalStore;

/// What `caswarm make` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to write: the index of an image (os.caibx) or of a tree (os.caidx), with os.caibx.id or os.caidx.id beside it
    /// that names it among peers; or a tree's archive (os.catar).
    #[arg(value_name = "OUTPUT")]
    index: PathBuf,
    /// The image: a file, a block device, or - for standard input; or the directory that is the top of the tree.
    #[arg(value_name = "INPUT")]
    image: PathBuf,
    /// Where chunks are stored, a directory [default: default.castr beside the index].
    #[arg(long, env = "CASYNC_STORE", value_name = "DIR")]
    store: Option<PathBuf>,
    /// Sizes of chunks in bytes, with suffixes K, M, G.
    #[arg(long, default_value = "64K", value_name = "AVG|MIN:AVG:MAX")]
    chunk_size: ChunkSizes,
    /// How chunks are named [default: sha512-256].
    #[arg(long, default_value = "default", hide_default_value = true, value_name = "sha512-256|sha256", value_parser = parse_digest)]
    digest: Digest,
    /// How chunks that the store does not have yet are compressed; none stores them as they are
    /// [default: zstd].
    #[arg(long, default_value = "default", hide_default_value = true, value_name = "zstd|xz|gzip|none", value_parser = compression)]
    compression: Encoding,
    /// How many threads compress [default: one for each core].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    tree: TreeArgs,
}

/// What the name of the output says is to be made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Image,
    Tree,
    Archive,
}

/// Makes the index or archive and prints the digest of what went into it.
///
/// # Errors
/// Whatever stopped it.
pub async fn run(args: Args, _global: &Global) -> anyhow::Result<Exit> {
    if args.index.as_os_str() == "-" {
        bail!("the output has to be a file, not standard output, which is for the digest");
    }
    let what = what(&args.index, &args.image)?;
    let settings = args.tree.settings(args.digest);
    if what == What::Archive {
        let made = tokio::task::spawn_blocking(move || make_archive(&args.image, settings, args.digest, &args.index));
        let made = made.await.context("make stopped")??;
        tracing::info!(bytes = made.length, "made");
        println!("{}", made.digest);
        return Ok(Exit::Ok);
    }
    let store = args.store.unwrap_or_else(|| beside(&args.index));
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.filter(|&threads| threads > 0).unwrap_or_else(cores);
    let made = tokio::task::spawn_blocking(move || -> anyhow::Result<Made> {
        let plan = |store| {
            let (sizes, digest, encoding) = (args.chunk_size, args.digest, args.compression);
            Plan { index: args.index, store, sizes, digest, encoding, threads }
        };
        if what == What::Tree {
            return Ok(make_tree(&args.image, settings, &plan(LocalStore::open_or_create(store)?))?);
        }
        let input = Input::open(&args.image)?;
        Ok(make(input, &plan(LocalStore::open_or_create(store)?))?)
    })
    .await
    .context("make stopped")??;
    tracing::info!(index = %made.index, chunks = made.chunks, new = made.stored, bytes = made.length, "made");
    println!("{}", made.stream);
    Ok(Exit::Ok)
}

fn what(output: &Path, input: &Path) -> anyhow::Result<What> {
    let kind = output.extension().and_then(|kind| kind.to_str());
    Ok(match (kind, input.is_dir()) {
        (Some("caidx"), true) => What::Tree,
        (Some("catar"), true) => What::Archive,
        (Some(kind @ ("caidx" | "catar")), false) => {
            let (output, input) = (output.display(), input.display());
            bail!(
                "{output}: a .{kind} is made of a directory, and {input} is none; the index of an image ends in .caibx"
            )
        }
        (_, true) => {
            bail!("{}: is a directory; the index of a tree ends in .caidx, its archive in .catar", input.display())
        }
        (_, false) => What::Image,
    })
}

fn beside(index: &Path) -> PathBuf {
    index.with_file_name("default.castr")
}

fn compression(name: &str) -> Result<Encoding, String> {
    match name {
        "default" | "zstd" => Ok(Encoding::Zstd),
        "xz" => Ok(Encoding::Xz),
        "gzip" => Ok(Encoding::Gzip),
        "none" => Ok(Encoding::Plain),
        _ => Err("use zstd, xz, gzip or none".to_owned()),
    }
}
