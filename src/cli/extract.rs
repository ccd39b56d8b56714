//! `caswarm extract`: write the image or the tree that an index describes, or the tree of an archive.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::ArgAction;
use indicatif::{ProgressBar, ProgressStyle};
use proto::IndexId;

use super::lan::LanArgs;
use super::signals::Signals;
use super::unpack::UnpackArgs;
use super::values::{What, parse_what};
use super::{Global, cores, parse_boolean, values};
use crate::browse::reader::ArchiveFile;
use crate::exit::Exit;
use crate::extract::network::Network;
use crate::extract::progress::{Place, Progress};
use crate::extract::report::Bytes;
use crate::extract::stdout;
use crate::extract::target::TargetOptions;
use crate::extract::tree::TreeTarget;
use crate::extract::{self, Config, SourceOptions};
use crate::node::identity::Identity;
use crate::node::lan::Lan;
use crate::source::http::{HttpClient, HttpOptions};
use crate::source::location::Location;
use crate::source::seed::SeedName;

/// What `caswarm extract` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Booleans are yes or no, as casync spells them. An interrupted extraction is taken up again by the \
                        same command: whatever is right in the target, or in the temporary file beside it, is kept."
)]
pub struct Args {
    /// The index of an image (.caibx) or tree (.caidx): a path, or an http:// or https:// URL; or an archive (.catar).
    #[arg(value_name = "INPUT")]
    index: String,
    /// Where it goes: an image to a file, which appears when it is whole, a block device, or - for standard output; a tree
    /// to a directory.
    target: PathBuf,
    /// Only this path of a tree; it is put into the directory under its last name.
    #[arg(value_name = "PATH")]
    path: Option<OsString>,

    /// The chunk store: a directory or URL [default: default.castr beside the index].
    #[arg(long, env = "CASYNC_STORE", value_name = "STORE")]
    store: Option<String>,
    /// One more store, asked after those before it, local ones first; may be repeated.
    #[arg(long, value_name = "STORE")]
    extra_store: Vec<String>,
    /// A file or device to take chunks from, by its index: the one named, else FILE.caibx beside it, else it is cut
    /// anew; for a tree also a directory, by DIRECTORY.caidx beside it; may be repeated.
    #[arg(long, value_name = "[INDEX:]FILE")]
    seed: Vec<String>,
    /// Take chunks from the file that the target replaces, or from the directory that it updates, too.
    #[arg(long, value_name = "BOOL", default_value = "yes", value_parser = parse_boolean, action = ArgAction::Set)]
    seed_output: bool,
    /// Share blocks with seeds where the file system can.
    #[arg(long, value_name = "BOOL", default_value = "yes", value_parser = parse_boolean, action = ArgAction::Set)]
    reflink: bool,
    /// Make holes of zeros.
    #[arg(long, value_name = "BOOL", default_value = "yes", value_parser = parse_boolean, action = ArgAction::Set)]
    punch_holes: bool,
    /// Receive at most that many bytes (not bits, as in casync) a second from remote stores.
    #[arg(long, value_name = "BYTES", value_parser = values::parse_rate)]
    rate_limit_bps: Option<u64>,
    /// Only show what would come from where.
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Update an existing file where it is, instead of replacing it when the new image is whole.
    #[arg(long)]
    in_place: bool,
    /// Print a report for machines on stdout.
    #[arg(long)]
    json: bool,
    /// Accept only the index with this SHA-256.
    #[arg(long, value_name = "HEX")]
    index_id: Option<IndexId>,
    /// Threads that check and write [default: one for each core].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// What the input is, whatever its name: archive, archive-index or blob-index.
    #[arg(long, value_name = "KIND", value_parser = parse_what)]
    what: Option<What>,

    /// Go on serving neighbours that still need chunks for at most that long after the image is whole [default: 120].
    #[arg(long, value_name = "SECONDS")]
    pub(super) linger: Option<u64>,
    #[command(flatten)]
    pub(super) lan: LanArgs,
    #[command(flatten)]
    unpack: UnpackArgs,
}

/// Extracts, and reports.
///
/// # Errors
/// Whatever stopped it.
pub async fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    let what = args.what.or_else(|| What::of_name(&Location::parse(&args.index).file_name()));
    let kind = match what {
        Some(What::Archive) => return unpack(args, global).await,
        Some(What::ArchiveIndex) => "caidx",
        Some(What::BlobIndex) | None => "caibx",
        Some(What::Blob | What::Directory) => anyhow::bail!("{}: only indexes and archives are extracted", args.index),
    };
    args.refuse_what_makes_no_sense(kind)?;
    let mut signals = Signals::listen();
    let rate_limit = args.rate_limit_bps.into_iter().chain(args.lan.limit_origin).min();
    let http = HttpClient::new(HttpOptions { rate_limit, ..HttpOptions::default() })?;
    let network = network(&args, global)?;
    let config = config(&args, kind == "caidx");
    if args.dry_run {
        let plan = extract::dry_run(config, &network, &http).await;
        end(&network, &mut signals).await;
        let plan = plan?;
        if args.json {
            println!("{}", serde_json::to_string(&plan)?)
        } else {
            println!("{plan}")
        }
        return Ok(Exit::Ok);
    }
    let (best_effort, progress) = (args.unpack.best_effort(), Arc::new(Progress::default()));
    let shown = tokio::spawn(show(progress.clone(), !global.quiet && std::io::stderr().is_terminal()));
    let done = tokio::select! {
        done = extract::run(config, &network, &http, progress) => Ok(done),
        signal = signals.next() => Err(signal),
    };
    shown.abort();
    let _ = shown.await;
    let (report, mut image) = match done {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => {
            end(&network, &mut signals).await;
            return Err(error.into());
        }
        Err(signal) => {
            eprintln!("caswarm: stopped; what is there is kept, and the same command goes on with it");
            end(&network, &mut signals).await;
            return Ok(signal);
        }
    };
    if !global.quiet {
        eprintln!("{report}");
    }
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    image.linger = args.linger.map(Duration::from_secs);
    tokio::select! {
        () = network.finished(image) => {}
        // The image is whole: who is tired of waiting loses nothing.
        _ = signals.next() => end(&network, &mut signals).await,
    }
    super::unpack::judge(report.complaints_total.unwrap_or(0), &report.complaints, best_effort)
}

/// Says goodbye to the neighbours; to who asks a second time, that takes too long.
async fn end(network: &Lan, signals: &mut Signals) {
    tokio::select! {
        () = network.close() => {}
        _ = signals.next() => {}
    }
}

/// An archive needs no network, no stores and no seeds.
async fn unpack(args: Args, global: &Global) -> anyhow::Result<Exit> {
    args.refuse_what_makes_no_sense("catar")?;
    let Location::Path(archive) = Location::parse(&args.index) else {
        anyhow::bail!("{}: an archive has to be a local file; of remote trees, extract the index (.caidx)", args.index);
    };
    let (target, best_effort) = (args.tree(), args.unpack.best_effort());
    if args.dry_run {
        return super::unpack::look_only(archive, target, args.json).await;
    }
    let started = std::time::Instant::now();
    let unpacked = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        Ok(extract::tree::unpack(Box::new(ArchiveFile::open(&archive)?), None, &target)?)
    });
    let unpacked = unpacked.await.context("unpacking stopped")??;
    if !global.quiet {
        let seconds = started.elapsed().as_secs_f64();
        let (entries, bytes) = (unpacked.entries, Bytes(unpacked.bytes));
        eprintln!("{}: {entries} files and directories, {bytes}, in {seconds:.1} s", args.target.display());
    }
    if args.json {
        println!("{}", super::unpack::report(&args.target, &unpacked, started.elapsed()));
    }
    super::unpack::judge(unpacked.complaints_total, &unpacked.complaints, best_effort)
}

impl Args {
    /// What to do with a tree.
    fn tree(&self) -> TreeTarget {
        TreeTarget {
            directory: self.target.clone(),
            path: self.path.as_ref().map(|path| path.as_encoded_bytes().to_owned()).unwrap_or_default(),
            options: self.unpack.options(self.punch_holes),
            seeds: self.seeds().filter(|seed| seed.file.is_dir()).collect(),
            hardlink: self.unpack.hardlink(),
        }
    }

    /// Whether the image goes to standard output.
    fn is_to_stdout(&self) -> bool {
        self.target.as_os_str() == stdout::NAME
    }

    fn seeds(&self) -> impl Iterator<Item = SeedName> {
        self.seed.iter().map(|seed| SeedName::parse(seed))
    }

    fn refuse_what_makes_no_sense(&self, kind: &str) -> anyhow::Result<()> {
        let tree = kind == "caidx" || kind == "catar";
        let wrong = [
            (!tree && self.path.is_some(), "a path can be extracted from a tree only"),
            (
                !tree && self.unpack.is_given(),
                "--with, --without, --delete, --undo-immutable, --uid-shift, --uid-range and --best-effort are for trees",
            ),
            (tree && self.in_place, "--in-place is for images; a tree is always updated in place"),
            (tree && self.is_to_stdout(), "a tree cannot go to standard output"),
            (self.is_to_stdout() && self.json, "--json and the image cannot both go to standard output"),
            (self.is_to_stdout() && (self.in_place || self.dry_run), "--in-place and --dry-run need a file or device"),
            (kind == "catar" && self.unpack.hardlink(), "--hardlink is for indexes, which have seeds"),
            (kind == "catar" && !self.seed.is_empty(), "--seed is for indexes"),
            (kind == "catar" && !self.extra_store.is_empty(), "--extra-store is for indexes"),
            (kind == "catar" && self.index_id.is_some(), "--index-id is for indexes"),
        ];
        match wrong.iter().find(|(wrong, _)| *wrong) {
            Some((_, reason)) => anyhow::bail!("{}: {reason}", self.index),
            None => Ok(()),
        }
    }
}

fn network(args: &Args, global: &Global) -> anyhow::Result<Lan> {
    let mut config = args.lan.node_config(Identity::ephemeral(), None)?;
    let state = global.state_dir().ok().map(|state| (state.path().to_owned(), state.control_socket()));
    let (state_dir, control) = state.unzip();
    config.state_dir = state_dir.filter(|dir| dir.is_dir());
    Ok(Lan::new(config, control.filter(|_| !args.lan.no_lan)))
}

fn config(args: &Args, tree: bool) -> Config {
    Config {
        index: Location::parse(&args.index),
        index_id: args.index_id,
        target: args.target.clone(),
        stdout: args.is_to_stdout(),
        tree: tree.then(|| args.tree()),
        target_options: TargetOptions { in_place: args.in_place, punch_holes: args.punch_holes },
        sources: SourceOptions {
            store: args.store.as_deref().map(Location::parse),
            extra_stores: args.extra_store.iter().map(|store| Location::parse(store)).collect(),
            seeds: args.seeds().filter(|seed| !tree || !seed.file.is_dir()).collect(),
            seed_output: args.seed_output,
            reflink: args.reflink,
            neighbours: !args.lan.no_lan,
        },
        threads: args.threads.unwrap_or_else(cores).clamp(1, 64),
    }
}

/// Draws the progress until it is aborted.
async fn show(progress: Arc<Progress>, visible: bool) {
    if !visible {
        return;
    }
    let bar = Bar::new();
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        bar.draw(&progress);
    }
}

/// Disappears when dropped: the report takes its place.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let style = "{bar:24} {percent:>3}% {binary_bytes_per_sec}, {eta} left  {msg}";
        let bar = ProgressBar::new(0);
        Self(bar.with_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    fn draw(&self, progress: &Progress) {
        let places = [
            (Place::Kept, "there"),
            (Place::Seeds, "seeds"),
            (Place::Store, "store"),
            (Place::Lan, "LAN"),
            (Place::Origin, "Internet"),
        ];
        let bytes = places.map(|(place, name)| (progress.image_bytes(place), name));
        let parts = bytes.iter().filter(|(bytes, _)| *bytes > 0);
        let message: Vec<String> = parts.map(|(bytes, name)| format!("{name} {}", Bytes(*bytes))).collect();
        self.0.set_length(progress.total());
        self.0.set_position(bytes.iter().map(|(bytes, _)| bytes).sum());
        self.0.set_message(message.join(", "));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
