//! What `list`, `mtree`, `stat` and `digest` have in common: what to look into, and where chunks are to be had.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::trees::TreeArgs;
use super::values::{What, parse_what};
use crate::browse::Tree;
use crate::browse::indexed::Indexed;
use crate::browse::reader::{ArchiveFile, ReadAt, Reader};
use crate::extract::SourceOptions;
use crate::format::digest::Digest;
use crate::source::http::{HttpClient, HttpOptions};
use crate::source::location::Location;

/// What to look into.
#[derive(Debug, clap::Args)]
pub struct LookArgs {
    /// An archive (.catar), the index of one (.caidx, also a URL), or a directory.
    #[arg(value_name = "TREE", default_value = ".")]
    tree: String,
    /// Only this path in the archive.
    path: Option<OsString>,
    /// The chunk store of an index: a directory or URL [default: default.castr beside the index].
    #[arg(long, env = "CASYNC_STORE", value_name = "STORE")]
    store: Option<String>,
    /// One more store, asked after those before it, local ones first; may be repeated.
    #[arg(long, value_name = "STORE")]
    extra_store: Vec<String>,
    /// What it is, whatever its name: archive, archive-index, blob, blob-index or directory.
    #[arg(long, value_name = "KIND", value_parser = parse_what)]
    what: Option<What>,
    #[command(flatten)]
    pub(super) settings: TreeArgs,
}

/// What it turned out to be.
pub(super) enum Found {
    Archive(PathBuf),
    Index(Location),
    Directory(PathBuf),
    /// The index of an image, or a file that is none of these.
    ImageIndex(Location),
    Image(PathBuf),
}

impl LookArgs {
    /// What is to be looked into, by its name and by what it is.
    pub(super) fn found(&self) -> anyhow::Result<Found> {
        let location = Location::parse(&self.tree);
        location.check_supported()?;
        let what = self.what.or_else(|| What::of_name(&location.file_name()));
        let found = match (&location, what) {
            (Location::Path(path), what)
                if path.is_dir() && matches!(self.what.and(what), None | Some(What::Directory)) =>
            {
                Found::Directory(path.clone())
            }
            (Location::Path(path), Some(What::Archive)) => Found::Archive(path.clone()),
            (_, Some(What::ArchiveIndex)) => Found::Index(location),
            (_, Some(What::BlobIndex)) => Found::ImageIndex(location),
            (Location::Path(path), None | Some(What::Blob)) => Found::Image(path.clone()),
            (Location::Path(path), Some(What::Directory)) => bail!("{}: is no directory", path.display()),
            _ => bail!("{location}: of remote places only indexes can be looked into; their names end in .caidx"),
        };
        if self.path.is_some() && !matches!(found, Found::Archive(_) | Found::Index(_)) {
            bail!("{}: a path can be looked up in an archive or the index of one only", self.tree);
        }
        if self.settings.is_given() && !matches!(found, Found::Directory(_)) {
            bail!("{}: --with, --without and the like choose from directories; this has what it has", self.tree);
        }
        Ok(found)
    }

    /// The path that was given, as bytes.
    pub(super) fn path(&self) -> &[u8] {
        self.path.as_deref().map_or(&[], OsStr::as_encoded_bytes)
    }

    /// Opens an index, whose chunks are all needed in order if `all`.
    pub(super) async fn index(&self, location: &Location, all: bool) -> anyhow::Result<Indexed> {
        let http = HttpClient::new(HttpOptions::default())?;
        let options = SourceOptions {
            store: self.store.as_deref().map(Location::parse),
            extra_stores: self.extra_store.iter().map(|store| Location::parse(store)).collect(),
            ..SourceOptions::default()
        };
        let indexed = Indexed::open(location, &options, &http).await?;
        Ok(if all { indexed.sequential() } else { indexed })
    }

    /// Opens the tree and hands it to `tell`, with whether it is an archive. `all`: every byte of content is needed.
    pub(super) async fn look<T: Send + 'static>(
        self,
        all: bool,
        tell: impl FnOnce(Tree, bool) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let found = self.found()?;
        let index = match &found {
            Found::Index(location) => Some(self.index(location, all && self.path.is_none()).await?),
            _ => None,
        };
        let told = tokio::task::spawn_blocking(move || {
            let archive = |source: Box<dyn ReadAt>, features| -> anyhow::Result<Tree> {
                let reader = Reader::open(source, features, self.path())?;
                Ok(Tree::of(if all { reader.reading_all() } else { reader }))
            };
            match (found, index) {
                (Found::Archive(path), _) => tell(archive(Box::new(ArchiveFile::open(&path)?), None)?, true),
                (_, Some(index)) => {
                    let features = index.index().flags;
                    tell(archive(Box::new(index), Some(features))?, true)
                }
                (Found::Directory(path), _) => tell(directory(&path, &self.settings)?, false),
                _ => bail!("{}: is no tree; archives end in .catar, their indexes in .caidx", self.tree),
            }
        });
        told.await.context("looking stopped")?
    }
}

fn directory(path: &Path, settings: &TreeArgs) -> anyhow::Result<Tree> {
    Ok(Tree::directory(path, settings.settings(Digest::default()))?)
}
