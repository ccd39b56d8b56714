//! `caswarm make`: casync's `make` for files and block devices.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::Global;
use crate::chunk::Encoding;
use crate::exit::Exit;
use crate::format::chunk_sizes::ChunkSizes;
use crate::format::digest::Digest;
use crate::make::{Input, Plan, make};
use crate::source::local_store::LocalStore;

/// What `caswarm make` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The index to write, such as os.caibx; os.caibx.id beside it names it among peers.
    index: PathBuf,
    /// The image: a file, a block device, or - for standard input.
    image: PathBuf,
    /// Where chunks are stored, a directory [default: default.castr beside the index].
    #[arg(long, env = "CASYNC_STORE", value_name = "DIR")]
    store: Option<PathBuf>,
    /// Sizes of chunks in bytes, with suffixes K, M, G.
    #[arg(long, default_value = "64K", value_name = "AVG|MIN:AVG:MAX")]
    chunk_size: ChunkSizes,
    /// How chunks are named [default: sha512-256].
    #[arg(long, default_value = "default", hide_default_value = true, value_name = "sha512-256|sha256", value_parser = digest)]
    digest: Digest,
    /// How chunks that the store does not have yet are compressed; none stores them as they are
    /// [default: zstd].
    #[arg(long, default_value = "default", hide_default_value = true, value_name = "zstd|xz|gzip|none", value_parser = compression)]
    compression: Encoding,
    /// How many threads compress [default: one for each core].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// Makes the index and prints the digest of the image.
///
/// # Errors
/// Whatever stopped it.
pub async fn run(args: Args, _global: &Global) -> anyhow::Result<Exit> {
    if let Some(kind) = args.index.extension().filter(|kind| *kind == "caidx" || *kind == "catar") {
        bail!("{}: .{} is for file trees; the index of an image ends in .caibx", args.index.display(), kind.display());
    }
    if args.index.as_os_str() == "-" {
        bail!("the index has to be a file, not standard output, which is for the digest");
    }
    let store = args.store.unwrap_or_else(|| beside(&args.index));
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.filter(|&threads| threads > 0).unwrap_or_else(cores);
    let made = tokio::task::spawn_blocking(move || {
        let input = Input::open(&args.image)?;
        let store = LocalStore::open_or_create(store)?;
        let (sizes, digest, encoding) = (args.chunk_size, args.digest, args.compression);
        make(input, &Plan { index: args.index, store, sizes, digest, encoding, threads })
    })
    .await
    .context("make stopped")??;
    tracing::info!(index = %made.index, chunks = made.chunks, new = made.stored, bytes = made.length, "made");
    println!("{}", made.stream);
    Ok(Exit::Ok)
}

fn beside(index: &Path) -> PathBuf {
    index.with_file_name("default.castr")
}

fn digest(name: &str) -> Result<Digest, String> {
    match name {
        "default" | "sha512-256" => Ok(Digest::Sha512_256),
        "sha256" => Ok(Digest::Sha256),
        _ => Err("use sha512-256 or sha256".to_owned()),
    }
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
