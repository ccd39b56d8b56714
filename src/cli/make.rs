//! `caswarm make`: casync's `make`, for files and block devices and for trees.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ArgAction;

use super::publish::{publish, publish_files};
use super::signals::Signals;
use super::trees::TreeArgs;
use super::values::{What, parse_digest, parse_what};
use super::{Global, cores, parse_boolean};
use crate::chunk::Encoding;
use crate::exit::Exit;
use crate::format::chunk_sizes::ChunkSizes;
use crate::format::digest::Digest;
use crate::make::{IndexFile, Input, Made, Plan, make, make_archive, make_tree};
use crate::remote::Place;
use crate::source::local_store::LocalStore;
use crate::source::location::Location;
use crate::tree::Settings;

/// What `caswarm make` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to write, here or on another machine as `[USER@]HOST:PATH` or
    /// `sftp://[USER@]HOST/PATH`: the index of an image (os.caibx) or of a tree (os.caidx), with os.caibx.id or os.caidx.id beside it
    /// that names it among peers; or a tree's archive (os.catar).
    #[arg(value_name = "OUTPUT")]
    index: PathBuf,
    /// The image: a file, a block device, or - for standard input; or the directory that is the top of the tree.
    #[arg(value_name = "INPUT")]
    pub(super) image: PathBuf,
    /// Where chunks are stored, a directory, on the machine of the index [default: default.castr beside the index].
    #[arg(long, env = "CASYNC_STORE", value_name = "DIR")]
    pub(super) store: Option<PathBuf>,
    /// Sizes of chunks in bytes, with suffixes K, M, G.
    #[arg(long, default_value = "64K", value_name = "AVG|MIN:AVG:MAX")]
    pub(super) chunk_size: ChunkSizes,
    /// How chunks are named [default: sha512-256].
    #[arg(long, default_value = "default", hide_default_value = true, value_name = "sha512-256|sha256", value_parser = parse_digest)]
    pub(super) digest: Digest,
    /// How chunks that the store does not have yet are compressed; none stores them as they are
    /// [default: zstd].
    #[arg(long, default_value = "default", hide_default_value = true, value_name = "zstd|xz|gzip|none", value_parser = compression)]
    pub(super) compression: Encoding,
    /// How many threads compress [default: one for each core].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Write OUTPUT.id beside an index. If not, one that is there already is still made right, or, on another machine
    /// reached by ssh, made to name nothing.
    #[arg(long, value_name = "BOOL", default_value = "yes", value_parser = parse_boolean, action = ArgAction::Set)]
    pub(super) id: bool,
    /// What is to be made, whatever its name: archive, archive-index or blob-index.
    #[arg(long, value_name = "KIND", value_parser = parse_what)]
    what: Option<What>,
    #[command(flatten)]
    tree: TreeArgs,
}

/// What is to be made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Image,
    Tree,
    Archive,
}

impl Args {
    /// How many threads compress.
    pub(super) fn threads(&self) -> usize {
        self.threads.filter(|&threads| threads > 0).unwrap_or_else(cores)
    }

    /// What of a tree is archived.
    pub(super) fn settings(&self) -> Settings {
        self.tree.settings(self.digest)
    }
}

/// Makes the index or archive and prints the digest of what went into it.
///
/// # Errors
/// Whatever stopped it.
pub async fn run(args: Args, _global: &Global) -> anyhow::Result<Exit> {
    if args.index.as_os_str() == "-" {
        bail!("the output has to be a file, not standard output, which is for the digest");
    }
    let what = what(&args.index, &args.image, args.what)?;
    let location = Location::parse(&args.index.to_string_lossy());
    if let Some(place) = Place::of(&location, "ssh") {
        return unless_stopped(publish(args, what, &location, place?)).await;
    }
    if let Some(place) = Place::of(&location, "sftp") {
        return unless_stopped(publish_files(args, what, &location, place?)).await;
    }
    if matches!(location, Location::Url(_)) {
        bail!(
            "{location}: nothing can be written there; make it here and copy it, or use HOST:PATH, or sftp://HOST/PATH"
        );
    }
    let settings = args.settings();
    if what == Output::Archive {
        let made = tokio::task::spawn_blocking(move || make_archive(&args.image, settings, args.digest, &args.index));
        let made = made.await.context("make stopped")??;
        tracing::info!(bytes = made.length, "made");
        println!("{}", made.digest);
        return Ok(Exit::Ok);
    }
    let threads = args.threads();
    let store = args.store.unwrap_or_else(|| beside(&args.index));
    let made = tokio::task::spawn_blocking(move || -> anyhow::Result<Made> {
        let index = IndexFile { path: args.index, id: args.id };
        let plan = |store| {
            let (sizes, digest, encoding) = (args.chunk_size, args.digest, args.compression);
            Plan { store: Some(store), sizes, digest, encoding, threads }
        };
        if what == Output::Tree {
            return Ok(make_tree(&args.image, settings, &index, &plan(LocalStore::open_or_create(store)?))?);
        }
        let input = Input::open(&args.image)?;
        Ok(make(input, &index, &plan(LocalStore::open_or_create(store)?))?)
    })
    .await
    .context("make stopped")??;
    tracing::info!(index = %made.index, chunks = made.chunks, new = made.stored, bytes = made.length, "made");
    println!("{}", made.stream);
    Ok(Exit::Ok)
}

/// Ends it orderly on a signal: what it has in temporary places is removed.
async fn unless_stopped(work: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen();
    tokio::select! {
        done = work => done,
        signal = signals.next() => {
            eprintln!("caswarm: stopped");
            Ok(signal)
        }
    }
}

fn what(output: &Path, input: &Path, said: Option<What>) -> anyhow::Result<Output> {
    let kind = said.or_else(|| What::of_name(&output.to_string_lossy()));
    let (shown, of) = (output.display(), input.display());
    Ok(match (kind, input.is_dir()) {
        (Some(What::ArchiveIndex), true) => Output::Tree,
        (Some(What::Archive), true) => Output::Archive,
        (Some(What::ArchiveIndex | What::Archive), false) => {
            bail!("{shown}: the archive of a tree, or the index of one, is made of a directory, and {of} is none")
        }
        (Some(What::Blob | What::Directory), _) => bail!("{shown}: only indexes and archives are made"),
        (_, true) => bail!("{of}: is a directory; the index of a tree ends in .caidx, its archive in .catar"),
        (_, false) => Output::Image,
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
