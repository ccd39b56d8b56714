//! `caswarm make` to another machine: of an image nothing is written here, and only what the other side lacks is
//! compressed; a tree's chunks, and those of standard input, go through a temporary store.

use std::collections::BTreeSet;
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use proto::ChunkId;

use super::make::{Args, Output};
use crate::chunk::{Encoded, Encoding};
use crate::exit::Exit;
use crate::format::compression::Compressor;
use crate::format::digest::Digest;
use crate::format::index::Index;
use crate::format::layout::Layout;
use crate::make::{Input, Made, Plan, cut, cut_tree};
use crate::remote::sftp::Sftp;
use crate::remote::{Place, push};
use crate::source::local_store::LocalStore;
use crate::source::location::Location;
use crate::source::{SourceError, chunk_path, compressed_suffix};
use crate::tree::archiver::Archiver;

/// How much of an archive is read at once, in bytes, and how many blocks wait to be sent.
const BLOCK: usize = 1 << 20;
const WAITING: usize = 4;

/// How many chunks are written at once, file by file.
const TOGETHER: usize = 16;

/// Makes what was asked for and pushes it to `place`, which the location names.
pub(super) async fn publish(args: Args, what: Output, location: &Location, place: Place) -> anyhow::Result<Exit> {
    if what == Output::Archive {
        return publish_archive(args, place).await;
    }
    let store = match &args.store {
        Some(store) => Location::parse(&store.to_string_lossy()),
        None => location.default_store(),
    };
    let store_place = match Place::of(&store, "ssh") {
        Some(store_place) => store_place?,
        None => {
            bail!("{store}: the store of a remote index has to be on the same machine; or make it here and copy it")
        }
    };
    if !store_place.same_host(&place) {
        bail!("{store}: is on another machine than {location}, and one connection speaks with one of them");
    }
    let (threads, temporary) = (args.threads(), temporary(what, &args)?);
    let Ready { made, bytes, rows, read, .. } = ready(&args, what, temporary.as_ref()).await?;
    // An .id that stayed would have machines keep the image that it names. It cannot be removed this way, but be made to
    // name nothing.
    push_id(&place, "\n".to_owned()).await?;
    let pushed = push::index(&place, &store_place, bytes, rows, read, threads).await?;
    if args.id {
        push_id(&place, format!("{}\n", made.index)).await?;
    }
    tracing::info!(index = %made.index, chunks = made.chunks, pushed = pushed.chunks, bytes = pushed.bytes, "made");
    println!("{}", made.stream);
    Ok(Exit::Ok)
}

/// Writes the file beside an index that names it.
async fn push_id(index: &Place, line: String) -> Result<(), SourceError> {
    let beside = Place { path: format!("{}.id", index.path), ..index.clone() };
    let mut once = Some(Bytes::from(line));
    push::archive::<SourceError>(&beside, async || Ok(once.take())).await
}

/// Makes what was asked for and writes it, file by file, to a machine that has nothing but SFTP.
pub(super) async fn publish_files(args: Args, what: Output, location: &Location, place: Place) -> anyhow::Result<Exit> {
    if args.compression == Encoding::Plain {
        bail!("{location}: by SFTP and HTTP only compressed chunks are read; use another --compression");
    }
    let sftp = Sftp::connect(&place).await?;
    if what == Output::Archive {
        bail!("{location}: an archive is made here and copied; its index can be made there");
    }
    let store = match &args.store {
        Some(store) => Location::parse(&store.to_string_lossy()),
        None => location.default_store(),
    };
    let store = match Place::of(&store, "sftp") {
        Some(found) if found.as_ref().is_ok_and(|found| found.same_host(&place)) => found?,
        _ => bail!("{store}: the store of a remote index has to be on the same machine, by the same way"),
    };
    let temporary = temporary(what, &args)?;
    let Ready { made, bytes, ids, read, .. } = &ready(&args, what, temporary.as_ref()).await?;
    sftp.make_directory(&store.path).await?;
    let (sftp, store) = (&sftp, &store.path);
    let suffix = compressed_suffix();
    let sent = futures::stream::iter(ids.iter().copied().map(|id| {
        let (read, path) = (read.clone(), format!("{store}/{}", chunk_path(&id, &suffix)));
        async move {
            if sftp.renew(&path).await? {
                return Ok::<u64, anyhow::Error>(0);
            }
            let found = tokio::task::spawn_blocking(move || read(id)).await??;
            let found = found.with_context(|| format!("chunk {id} is not there any more; did the image change?"))?;
            sftp.make_directory(path.rsplit_once('/').map_or(store, |(directory, _)| directory)).await?;
            sftp.write(&path, &found.bytes).await?;
            Ok(1)
        }
    }));
    let pushed: u64 = sent.buffer_unordered(TOGETHER).try_fold(0, |all, one| async move { Ok(all + one) }).await?;
    // Never an .id beside an index that it does not name: machines would keep the image of the one that it names.
    let id = format!("{}.id", place.path);
    let was_there = sftp.remove(&id).await?;
    sftp.write(&place.path, bytes).await?;
    if args.id || was_there {
        sftp.write(&id, format!("{}\n", made.index).as_bytes()).await?;
    }
    tracing::info!(index = %made.index, chunks = made.chunks, pushed, "made");
    println!("{}", made.stream);
    Ok(Exit::Ok)
}

/// An index, and its chunks to be read when they are needed.
struct Ready {
    made: Made,
    bytes: Bytes,
    rows: usize,
    ids: BTreeSet<ChunkId>,
    read: Arc<push::Read>,
}

/// Makes the index. Of an image, chunks are read a second time later; others wait in a temporary store.
async fn ready(args: &Args, what: Output, temporary: Option<&Temporary>) -> anyhow::Result<Ready> {
    let (image, threads) = (args.image.clone(), args.threads());
    let store = temporary.map(|dir| LocalStore::open(dir.path())).transpose()?;
    let (encoding, digest) = (args.compression, args.digest);
    let plan = Plan { store: store.clone(), sizes: args.chunk_size, digest, encoding, threads };
    let settings = args.settings();
    let made = tokio::task::spawn_blocking(move || -> anyhow::Result<(Made, Bytes)> {
        Ok(match what {
            Output::Tree => cut_tree(&image, settings, &plan)?,
            _ => cut(Input::open(&image)?, &plan)?,
        })
    });
    let (made, bytes) = made.await.context("make stopped")??;
    let index = Index::parse(&bytes).context("the index that was just made")?;
    let ids = index.chunks.iter().map(|chunk| chunk.id).collect();
    let rows = index.chunks.len();
    let read: Arc<push::Read> = match store {
        Some(store) => Arc::new(move |id| store.get(id)),
        None => again(args.image.clone(), &index, encoding)?,
    };
    Ok(Ready { made, bytes, rows, ids, read })
}

/// Where chunks wait that cannot be read a second time.
fn temporary(what: Output, args: &Args) -> anyhow::Result<Option<Temporary>> {
    let again = |found: std::fs::Metadata| found.is_file() || found.file_type().is_block_device();
    if what == Output::Image && args.image.as_os_str() != "-" && std::fs::metadata(&args.image).is_ok_and(again) {
        return Ok(None);
    }
    Temporary::new().map(Some)
}

/// Reads chunks a second time from the image, which has to be as it was.
fn again(image: PathBuf, index: &Index, encoding: Encoding) -> anyhow::Result<Arc<push::Read>> {
    let file = std::fs::File::open(&image).with_context(|| image.display().to_string())?;
    let (layout, digest) = (Layout::of(index), index.digest());
    Ok(Arc::new(move |id| {
        let Some(position) = layout.position(&id) else { return Ok(None) };
        let Some(&offset) = layout.offsets(position).first() else { return Ok(None) };
        let mut bytes = vec![0; layout.length(position) as usize];
        file.read_exact_at(&mut bytes, offset).map_err(|error| SourceError::io(&image, error))?;
        if digest.id(&bytes) != id {
            return Ok(None);
        }
        let compressed = Compressor::new(encoding).and_then(|mut compressor| compressor.compress(&bytes));
        let compressed = compressed.map_err(|error| SourceError::io(&image, error))?;
        Ok(Some(Encoded { encoding, bytes: compressed.into() }))
    }))
}

async fn publish_archive(args: Args, place: Place) -> anyhow::Result<Exit> {
    let (send, mut blocks) = tokio::sync::mpsc::channel::<anyhow::Result<Bytes>>(WAITING);
    let (top, settings, digest): (PathBuf, _, Digest) = (args.image.clone(), args.settings(), args.digest);
    let reading = tokio::task::spawn_blocking(move || {
        let mut hasher = digest.hasher();
        let mut archiver = match Archiver::open(&top, settings) {
            Ok(archiver) => archiver,
            Err(error) => {
                let _ = send.blocking_send(Err(error.into()));
                return hasher.finish();
            }
        };
        loop {
            let mut block = vec![0; BLOCK];
            let block = match archiver.fill(&mut block) {
                Ok(0) => return hasher.finish(),
                Ok(read) => Ok(Bytes::from(block).slice(..read)),
                Err(error) => Err(error.into()),
            };
            if let Ok(block) = &block {
                hasher.update(block);
            }
            let failed = block.is_err();
            if send.blocking_send(block).is_err() || failed {
                return hasher.finish();
            }
        }
    });
    push::archive::<anyhow::Error>(&place, async || blocks.recv().await.transpose()).await?;
    println!("{}", reading.await.context("make stopped")?);
    Ok(Exit::Ok)
}

/// A directory where temporary files go, removed with all that is in it when dropped.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> anyhow::Result<Self> {
        let path = crate::temporary::directory().join(format!("caswarm-{:016x}.castr", crate::source::random()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("{}: a temporary store", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Whoever is still writing into it makes that fail, and finds no directory to write into the next time.
        for _ in 0..100 {
            match std::fs::remove_dir_all(&self.0) {
                Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
                _ => return,
            }
        }
    }
}
