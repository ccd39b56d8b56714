//! `caswarm demo`: an origin and several machines' worth of caswarm on this one, on data of this machine. It runs the
//! program as users do, one process a node, and looks only at what they print and write.

mod image;
mod nodes;
mod origin;
mod show;
mod workplace;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::{Global, parse_bytes};
use crate::exit::Exit;
use crate::format::index::Index;
use crate::format::layout::Layout;
use nodes::Nodes;
use origin::Origin;
use show::Outcome;
use workplace::Workplace;

/// What `caswarm demo` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many nodes extract the image.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=32))]
    nodes: u32,
    /// A file to make the image of [default: programs and libraries of this machine].
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// The most bytes to make the image of.
    #[arg(long, value_name = "BYTES", default_value = "96M", value_parser = parse_bytes)]
    size: u64,
    /// Rate of the link that the nodes share to the origin, in Mbit/s; 0: no limit.
    #[arg(long, value_name = "MBIT", default_value_t = 50)]
    origin_mbit: u32,
    /// Where to put everything; it is removed afterwards [default: the directory for temporary files].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print one JSON object on stdout instead of a table.
    #[arg(long)]
    json: bool,
}

/// Longest time that the nodes may take together.
const PATIENCE: Duration = Duration::from_secs(600);

/// Makes an image, publishes it, extracts it with several nodes, and shows where each byte came from.
///
/// # Errors
/// When a node fails, or an image is not what was published.
pub async fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    tokio::select! {
        done = demonstrate(args, global) => done,
        // Dropping the rest ends the nodes and removes their files.
        _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
    }
}

async fn demonstrate(args: Args, global: &Global) -> anyhow::Result<Exit> {
    let say = |line: &str| {
        if !global.quiet {
            eprintln!("{line}");
        }
    };
    let copies = u64::from(args.nodes) + 2;
    let place = Workplace::create(args.dir.as_deref(), args.size.saturating_mul(copies))?;
    let collected = image::collect(args.data.as_deref(), args.size, &place.image())?;
    say(&format!("1. an image of {} from {collected}", show::size(collected.bytes)));

    let started = Instant::now();
    nodes::make(&place)?;
    let published = Published::read(&place)?;
    say(&format!(
        "2. caswarm make: {} chunks, {} as stored, in {:.1} s",
        published.chunks,
        show::size(published.stored),
        started.elapsed().as_secs_f64()
    ));

    let rate = (args.origin_mbit > 0).then(|| u64::from(args.origin_mbit) * 125_000);
    let origin = Origin::start(place.www(), rate).await.context("the origin on loopback")?;
    let link = if rate.is_some() { format!("{} Mbit/s", args.origin_mbit) } else { "unlimited".to_owned() };
    say(&format!("3. an origin at {} ({link}), and {} nodes that start now:", origin.url(), args.nodes));
    say(&format!("   caswarm extract {}image.caibx image", origin.url()));

    let started = Instant::now();
    let mut nodes = Nodes::start(&place, &origin.url(), args.nodes)?;
    let deadline = started + PATIENCE;
    while !nodes.look(collected.bytes, !global.quiet && !args.json)? {
        ensure!(Instant::now() < deadline, "the nodes were not done after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    let reports = nodes.finish(Duration::from_secs(30)).await?;

    let outcome = Outcome::new(&published, origin.counts(), &reports, seconds, nodes.identical(&place.image())?);
    if args.json {
        println!("{}", serde_json::to_string(&outcome)?);
    } else {
        println!("{outcome}");
    }
    if !outcome.verified {
        bail!("an image is not what was published: this is a defect, please report it");
    }
    Ok(Exit::Ok)
}

/// What `caswarm make` wrote.
struct Published {
    /// Length of the image in bytes.
    image: u64,
    /// Distinct chunks.
    chunks: u32,
    /// Bytes of the distinct chunks as stored: what one machine needs at least.
    stored: u64,
}

impl Published {
    fn read(place: &Workplace) -> anyhow::Result<Self> {
        let index = Index::parse(&std::fs::read(place.index())?).context("the index just made")?;
        let layout = Layout::of(&index);
        let mut stored = 0;
        for position in 0..layout.count() {
            let id = layout.id(position).to_string();
            let file = place.store().join(&id[..4]).join(format!("{id}.cacnk"));
            stored += std::fs::metadata(&file).with_context(|| file.display().to_string())?.len();
        }
        Ok(Self { image: layout.total(), chunks: layout.count(), stored })
    }
}
