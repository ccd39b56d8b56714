//! `caswarm digest`: casync's `digest`.

use anyhow::Context;

use super::Global;
use super::look::{Found, LookArgs};
use super::values::parse_digest;
use crate::browse::digest::{of_archive, of_stream};
use crate::browse::reader::ArchiveFile;
use crate::exit::Exit;
use crate::format::digest::Digest;
use crate::make::{Input, digest, digest_tree};

/// What `caswarm digest` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    look: LookArgs,
    /// The digest of a directory or image; archives and indexes have their own [default: sha512-256].
    #[arg(long, default_value = "default", hide_default_value = true, value_name = "sha512-256|sha256", value_parser = parse_digest)]
    digest: Digest,
}

/// Prints the digest that `make` prints.
///
/// # Errors
/// Whatever cannot be read.
pub async fn run(args: Args, _global: &Global) -> anyhow::Result<Exit> {
    let found = args.look.found()?;
    let index = match &found {
        Found::Index(location) | Found::ImageIndex(location) => {
            Some(args.look.index(location, args.look.path().is_empty()).await?)
        }
        _ => None,
    };
    let id = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let path = args.look.path();
        Ok(match (found, index) {
            (Found::Archive(file), _) => of_archive(Box::new(ArchiveFile::open(&file)?), None, path)?,
            (Found::Index(_), Some(index)) => {
                let features = index.index().flags;
                of_archive(Box::new(index), Some(features), path)?
            }
            (Found::ImageIndex(_), Some(index)) => {
                let hasher = index.index().digest().hasher();
                of_stream(Box::new(index), hasher)?
            }
            (Found::Directory(top), _) => digest_tree(&top, args.look.settings.settings(args.digest))?,
            (Found::Image(path), _) => digest(Input::open(&path)?, args.digest)?,
            (Found::Index(_) | Found::ImageIndex(_), None) => anyhow::bail!("the index was not opened"),
        })
    });
    println!("{}", id.await.context("digest stopped")??);
    Ok(Exit::Ok)
}
