//! `caswarm verify`: check every chunk of a store.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Global, cores};
use crate::exit::Exit;
use crate::extract::report::Bytes;
use crate::source::local_store::LocalStore;
use crate::verify::{Progress, Verified, repair, verify};

/// What `caswarm verify` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ends with 0 if all chunks are right, or all that were not have been removed; with 1 if bad ones \
                        are there, or something could not be read."
)]
pub struct Args {
    /// The stores, directories.
    #[arg(value_name = "STORE", required = true)]
    store: Vec<PathBuf>,
    /// Remove bad chunks, so that they are fetched, or made, anew.
    #[arg(long, short = 'r')]
    repair: bool,
    /// Print a report for machines on stdout.
    #[arg(long)]
    json: bool,
    /// Threads that read and check [default: one for each core].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// One store, as `--json` tells it.
#[derive(serde::Serialize)]
struct Told {
    store: PathBuf,
    #[serde(flatten)]
    verified: Verified,
}

/// Checks, and reports.
///
/// # Errors
/// When a store cannot be read.
pub async fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    let threads = args.threads.unwrap_or_else(cores).clamp(1, 64);
    let mut told = Vec::new();
    for path in args.store {
        let store = LocalStore::open(&path)?;
        let progress = Arc::new(Progress::default());
        let visible = !global.quiet && std::io::stderr().is_terminal();
        let shown = tokio::spawn(show(progress.clone(), visible));
        let checked = tokio::task::spawn_blocking(move || {
            let mut verified = verify(&store, threads, &progress)?;
            if args.repair {
                let place = store.path().display().to_string();
                repair(&store, &mut verified, || {
                    eprintln!("{place}: something is being written there; waiting for its end")
                })?;
            }
            Ok::<_, crate::source::SourceError>(verified)
        });
        let checked = checked.await.context("verify stopped");
        shown.abort();
        let _ = shown.await;
        let verified = checked??;
        if !global.quiet && !args.json {
            tell(&path, &verified);
        }
        told.push(Told { store: path, verified });
    }
    if args.json {
        println!("{}", serde_json::json!({ "stores": told }));
    }
    let left: usize = told.iter().map(|told| told.verified.left()).sum();
    Ok(if left == 0 { Exit::Ok } else { Exit::Failure })
}

fn tell(store: &std::path::Path, verified: &Verified) {
    for bad in &verified.bad {
        let removed = if bad.removed { " (removed)" } else { "" };
        println!("{}: {}{removed}", store.join(&bad.file).display(), bad.reason);
    }
    let (chunks, bytes, bad) = (verified.chunks, Bytes(verified.bytes), verified.bad.len());
    println!("{}: {chunks} chunks, {bytes}; {bad} bad, {} of them removed", store.display(), bad - verified.left());
}

/// Draws the progress until it is aborted.
async fn show(progress: Arc<Progress>, visible: bool) {
    if !visible {
        return;
    }
    let style = ProgressStyle::with_template("{bar:24} {percent:>3}%, {eta} left  {msg}");
    let bar = Bar(ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())));
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        bar.0.set_length(progress.directories.0.load(Relaxed));
        bar.0.set_position(progress.directories.1.load(Relaxed));
        let (bytes, bad) = (Bytes(progress.bytes.load(Relaxed)), progress.bad.load(Relaxed));
        bar.0.set_message(format!("{bytes}, {bad} bad"));
    }
}

/// Disappears when dropped: the report takes its place.
struct Bar(ProgressBar);

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
