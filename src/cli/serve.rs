//! `caswarm pull` and `caswarm push`: the other side of casync's remote protocol, for programs, not people: ssh starts them.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use anyhow::bail;
use tokio::fs::File;
use tokio::io::BufWriter;

use super::Global;
use crate::exit::Exit;
use crate::remote::serve::{self, Offer};

/// What `caswarm pull` and `caswarm push` take: `-` is nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Nothing: nobody has come up with what it is for.
    base: OsString,
    /// An archive.
    archive: OsString,
    /// An index.
    index: OsString,
    /// The store that is written to, or read first.
    store: OsString,
    /// Further stores to be read.
    others: Vec<OsString>,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Give.
    Pull,
    /// Take.
    Push,
}

/// Speaks over standard input and output.
///
/// # Errors
/// Whatever ended it early.
pub async fn run(verb: Verb, args: Args, _global: &Global) -> anyhow::Result<Exit> {
    if some(args.base).is_some() {
        bail!("a base to start from is not supported");
    }
    let offer = Offer {
        archive: some(args.archive),
        index: some(args.index),
        store: some(args.store),
        others: args.others.into_iter().filter_map(some).collect(),
    };
    if offer.archive.is_none() && offer.index.is_none() && offer.store.is_none() && offer.others.is_empty() {
        bail!("nothing to do");
    }
    // casync hands its helpers pipes that do not block, which is not what reading them here expects.
    let (input, output) = (std::io::stdin(), std::io::stdout());
    for pipe in [input.as_fd(), output.as_fd()] {
        if let Ok(flags) = rustix::fs::fcntl_getfl(pipe) {
            let _ = rustix::fs::fcntl_setfl(pipe, flags - rustix::fs::OFlags::NONBLOCK);
        }
    }
    let file = |pipe: BorrowedFd<'_>| Ok::<_, std::io::Error>(File::from_std(pipe.try_clone_to_owned()?.into()));
    let (input, output) = (file(input.as_fd())?, BufWriter::new(file(output.as_fd())?));
    match verb {
        Verb::Pull => serve::pull(&offer, input, output).await?,
        Verb::Push => serve::push(&offer, input, output).await?,
    }
    Ok(Exit::Ok)
}

fn some(word: OsString) -> Option<PathBuf> {
    (!word.is_empty() && word != "-").then(|| word.into())
}
