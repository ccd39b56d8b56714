//! `caswarm extract`: write the image that an index describes.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ArgAction;
use indicatif::{ProgressBar, ProgressStyle};
use proto::IndexId;

use super::lan::LanArgs;
use super::{Global, parse_boolean, parse_bytes};
use crate::exit::Exit;
use crate::extract::network::Network;
use crate::extract::progress::{Place, Progress};
use crate::extract::report::Bytes;
use crate::extract::target::TargetOptions;
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
    /// The index: a path, or an http:// or https:// URL.
    #[arg(value_name = "INDEX.caibx")]
    index: String,
    /// Where the image goes: a file, which appears when it is whole, or a block device.
    target: PathBuf,

    /// The chunk store: a directory or URL [default: default.castr beside the index].
    #[arg(long, env = "CASYNC_STORE", value_name = "STORE")]
    store: Option<String>,
    /// One more store, asked after those before it, local ones first; may be repeated.
    #[arg(long, value_name = "STORE")]
    extra_store: Vec<String>,
    /// A file or device to take chunks from, by its index: the one named, else FILE.caibx beside it, else it is cut
    /// anew; may be repeated.
    #[arg(long, value_name = "[INDEX:]FILE")]
    seed: Vec<String>,
    /// Take chunks from the file that the target replaces, too.
    #[arg(long, value_name = "BOOL", default_value = "yes", value_parser = parse_boolean, action = ArgAction::Set)]
    seed_output: bool,
    /// Share blocks with seeds where the file system can.
    #[arg(long, value_name = "BOOL", default_value = "yes", value_parser = parse_boolean, action = ArgAction::Set)]
    reflink: bool,
    /// Make holes of zeros.
    #[arg(long, value_name = "BOOL", default_value = "yes", value_parser = parse_boolean, action = ArgAction::Set)]
    punch_holes: bool,
    /// Receive at most that many bytes (not bits, as in casync) a second from remote stores.
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
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

    /// Go on serving neighbours that still need chunks for at most that long after the image is whole [default: 120].
    #[arg(long, value_name = "SECONDS")]
    pub(super) linger: Option<u64>,
    /// Neither ask neighbours nor serve them.
    #[arg(long)]
    pub(super) no_lan: bool,
    #[command(flatten)]
    pub(super) lan: LanArgs,
}

/// Extracts, and reports.
///
/// # Errors
/// Whatever stopped it.
pub async fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    if [".caidx", ".catar"].iter().any(|kind| Location::parse(&args.index).file_name().ends_with(kind)) {
        anyhow::bail!(
            "{}: file trees are not built yet, only images; the index of an image ends in .caibx",
            args.index
        );
    }
    let http = HttpClient::new(HttpOptions { rate_limit: args.rate_limit_bps, ..HttpOptions::default() })?;
    let network = network(&args, global)?;
    let config = config(&args);
    if args.dry_run {
        let plan = extract::dry_run(config, &network, &http).await?;
        if args.json {
            println!("{}", serde_json::to_string(&plan)?)
        } else {
            println!("{plan}")
        }
        return Ok(Exit::Ok);
    }
    let progress = Arc::new(Progress::default());
    let shown = tokio::spawn(show(progress.clone(), !global.quiet && std::io::stderr().is_terminal()));
    let done = extract::run(config, &network, &http, progress).await;
    shown.abort();
    let _ = shown.await;
    let (report, mut image) = done?;
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
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(Exit::Ok)
}

fn network(args: &Args, global: &Global) -> anyhow::Result<Lan> {
    let mut config = args.lan.node_config(Identity::ephemeral(), None)?;
    config.lan = !args.no_lan;
    let state = global.state_dir().ok().map(|state| (state.path().to_owned(), state.control_socket()));
    let (state_dir, control) = state.unzip();
    config.state_dir = state_dir.filter(|dir| dir.is_dir());
    Ok(Lan::new(config, control.filter(|_| !args.no_lan)))
}

fn config(args: &Args) -> Config {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    Config {
        index: Location::parse(&args.index),
        index_id: args.index_id,
        target: args.target.clone(),
        target_options: TargetOptions { in_place: args.in_place, punch_holes: args.punch_holes },
        sources: SourceOptions {
            store: args.store.as_deref().map(Location::parse),
            extra_stores: args.extra_store.iter().map(|store| Location::parse(store)).collect(),
            seeds: args.seed.iter().map(|seed| SeedName::parse(seed)).collect(),
            seed_output: args.seed_output,
            reflink: args.reflink,
            neighbours: !args.no_lan,
        },
        threads: args.threads.unwrap_or_else(cores).clamp(1, 64),
    }
}

fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        0 => Err("0 bytes a second would take for ever".to_owned()),
        rate => Ok(rate),
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
