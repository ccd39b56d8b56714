//! How `extract` puts a tree back: the options for it, and what becomes of what could not be put back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::ArgAction;

use super::parse_boolean;
use super::trees::ShiftArgs;
use crate::browse::reader::{ArchiveFile, Reader};
use crate::browse::{Tree, Visit};
use crate::exit::Exit;
use crate::extract::report::Bytes;
use crate::extract::tree::TreeTarget;
use crate::format::archive::Kind;
use crate::format::features;
use crate::tree::unpack::{Options, Unpacked};

/// Options that say how a tree is put back.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Trees")]
pub struct UnpackArgs {
    /// Put back these features of files, by casync's names, such as best, unix, fat or xattrs; may be repeated
    /// [default: all that the archive has].
    #[arg(long, value_name = "FEATURE", value_parser = features::parse)]
    with: Vec<u64>,
    /// Do not put back these; may be repeated.
    #[arg(long, value_name = "FEATURE", value_parser = features::parse)]
    without: Vec<u64>,
    /// Remove what is in the directory, but not in the tree [default: yes].
    #[arg(long, value_name = "BOOL", value_parser = parse_boolean, action = ArgAction::Set)]
    delete: Option<bool>,
    /// Replace and remove also what is immutable or append-only [default: no].
    #[arg(long, value_name = "BOOL", value_parser = parse_boolean, action = ArgAction::Set)]
    undo_immutable: Option<bool>,
    /// Make files that are equal to files of seeds hard links to them [default: no].
    #[arg(long, value_name = "BOOL", value_parser = parse_boolean, action = ArgAction::Set)]
    hardlink: Option<bool>,
    /// Succeed also if the file system or the user cannot have all metadata; what is missing is listed all the same.
    #[arg(long)]
    best_effort: bool,
    #[command(flatten)]
    shift: ShiftArgs,
}

impl UnpackArgs {
    /// How to put a tree back.
    pub(super) fn options(&self, punch_holes: bool) -> Options {
        Options {
            wanted: features::select(&self.with, &self.without),
            shift: self.shift.shift(),
            delete: self.delete.unwrap_or(true),
            undo_immutable: self.undo_immutable.unwrap_or(false),
            punch_holes,
        }
    }

    /// Whether equal files become hard links.
    pub(super) fn hardlink(&self) -> bool {
        self.hardlink.unwrap_or(false)
    }

    /// Whether missing metadata are no failure.
    pub(super) fn best_effort(&self) -> bool {
        self.best_effort
    }

    /// Whether any of it was asked for.
    pub(super) fn is_given(&self) -> bool {
        let chosen = !self.with.is_empty() || !self.without.is_empty() || self.shift.is_given();
        chosen || self.delete.is_some() || self.undo_immutable.is_some() || self.hardlink.is_some() || self.best_effort
    }
}

/// What was done with an archive, for machines: a part of what is reported of an index, under the same names.
pub(super) fn report(target: &Path, unpacked: &Unpacked, took: Duration) -> serde_json::Value {
    serde_json::json!({
        "target": target,
        "entries": unpacked.entries,
        "bytes_total": unpacked.bytes,
        "complaints_total": unpacked.complaints_total,
        "complaints": unpacked.complaints,
        "seconds": (took.as_secs_f64() * 1000.0).round() / 1000.0,
    })
}

/// Reads an archive, or the part of it that was asked for, to its end and says what would be written.
///
/// # Errors
/// When it is broken.
pub(super) async fn look_only(archive: PathBuf, target: TreeTarget, json: bool) -> anyhow::Result<Exit> {
    let looking = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let mut tree = Tree::of(Reader::open(Box::new(ArchiveFile::open(&archive)?), None, &target.path)?);
        let (mut entries, mut bytes) = (0_u64, 0_u64);
        loop {
            match tree.visit()? {
                Visit::Enter(node) => {
                    entries += 1;
                    if let Kind::File { size } = node.entry.kind {
                        bytes += size;
                    }
                }
                Visit::Leave => {}
                Visit::End => return Ok((target.directory, entries, bytes)),
            }
        }
    });
    let (directory, entries, bytes) = looking.await.context("looking stopped")??;
    if json {
        println!("{}", serde_json::json!({ "target": directory, "entries": entries, "bytes_total": bytes }));
    } else {
        println!("{}: {entries} files and directories, {}", directory.display(), Bytes(bytes));
    }
    Ok(Exit::Ok)
}

/// Lists what could not be put back, and says whether that is a failure.
///
/// # Errors
/// When there is any and it was not asked to go on regardless.
pub(super) fn judge(total: u64, complaints: &[String], best_effort: bool) -> anyhow::Result<Exit> {
    if total == 0 {
        return Ok(Exit::Ok);
    }
    complaints.iter().for_each(|complaint| eprintln!("{complaint}"));
    let more = total - complaints.len() as u64;
    if more > 0 {
        eprintln!("and {more} more");
    }
    if best_effort {
        return Ok(Exit::Ok);
    }
    anyhow::bail!(
        "everything else is there, but {total} things could not be put back (above); leave them out with --without, or \
         accept it with --best-effort"
    )
}
