//! The images and trees that a node was handed while it ran, kept for its next start: a list of them, and the bytes of their
//! indexes, in the state directory. The images themselves stay where they are, and nothing of them is looked at here.
//!
//! Both are written whole or not at all. What cannot be used any more is dropped with a log line.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proto::IndexId;
use serde::{Deserialize, Serialize};

use crate::format::index::Index;
use crate::node::extracted::Extracted;

const FILE: &str = "images.json";

/// The directory with the indexes, each named by its id.
const INDEXES: &str = "indexes";

const VERSION: u32 = 1;

/// How many are kept; the one handed over longest ago goes first.
const IMAGES: usize = 64;

/// Bytes of the indexes of all of them; the latest is kept whatever its length.
const INDEX_BYTES: u64 = 256 << 20;

/// Bytes of a list that is read at all.
const FILE_BYTES: u64 = 1 << 20;

/// The images handed over, at most [`IMAGES`].
#[derive(Debug)]
pub(super) struct KeptImages {
    dir: PathBuf,
    /// The latest last.
    images: Vec<Kept>,
}

/// One of them, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    image: PathBuf,
    index: String,
}

#[derive(Serialize, Deserialize)]
struct List {
    version: u32,
    images: Vec<Kept>,
}

impl KeptImages {
    /// Reads what is kept in `state_dir` and opens the images that are still there. Trees, which take longer, are only
    /// listed.
    pub(super) fn load(state_dir: &Path) -> (Self, Vec<(Extracted, PathBuf)>) {
        let mut kept = Self { dir: state_dir.to_owned(), images: Vec::new() };
        let listed = match read_list(&state_dir.join(FILE)) {
            Ok(list) => list,
            Err(error) => {
                tracing::warn!("{}: {error}; no image of the last run is served", state_dir.join(FILE).display());
                return (kept, Vec::new());
            }
        };
        let mut opened = Vec::new();
        for entry in listed.iter().skip(listed.len().saturating_sub(IMAGES)) {
            if entry.image.is_dir() {
                kept.images.push(entry.clone());
                continue;
            }
            match entry.open(state_dir) {
                Ok(holder) => {
                    opened.push((holder, entry.image.clone()));
                    kept.images.push(entry.clone());
                }
                Err(reason) => tracing::warn!("{} is served no longer: {reason}", entry.image.display()),
            }
        }
        if kept.images != listed {
            kept.save_or_warn();
        }
        (kept, opened)
    }

    /// Keeps an image in place of the one that was at its path. Returns the images that had to make room.
    ///
    /// # Errors
    /// When it cannot be written; what was kept before still is.
    pub(super) fn add(&mut self, image: &Path, holder: &Extracted) -> io::Result<Vec<PathBuf>> {
        let index = holder.index_id.to_string();
        std::fs::create_dir_all(self.dir.join(INDEXES))?;
        write_whole(&self.index_path(&index), &holder.index)?;
        self.images.retain(|kept| kept.image != image);
        self.images.push(Kept { image: image.to_owned(), index });
        let too_many = self.images.len() - self.fitting();
        let gone = self.images.drain(..too_many).map(|kept| kept.image).collect();
        self.save()?;
        Ok(gone)
    }

    /// How many of the latest can be kept.
    fn fitting(&self) -> usize {
        let lengths =
            self.images.iter().rev().map(|kept| self.index_path(&kept.index).metadata().map_or(0, |m| m.len()));
        let mut total = 0;
        let fit = lengths.take(IMAGES).take_while(|length| {
            total += length;
            total <= INDEX_BYTES
        });
        fit.count().max(1)
    }

    /// The trees that are kept.
    pub(super) fn trees(&self) -> Vec<Kept> {
        self.images.iter().filter(|kept| kept.image.is_dir()).cloned().collect()
    }

    /// Whether it is still kept, and with this index.
    pub(super) fn keeps(&self, kept: &Kept) -> bool {
        self.images.contains(kept)
    }

    /// It cannot be served any more.
    pub(super) fn drop_with_a_word(&mut self, gone: &Kept, reason: &str) {
        tracing::warn!("{} is served no longer: {reason}", gone.image.display());
        self.images.retain(|kept| kept != gone);
        self.save_or_warn();
    }

    fn index_path(&self, id: &str) -> PathBuf {
        index_path(&self.dir, id)
    }

    fn save_or_warn(&self) {
        if let Err(error) = self.save() {
            tracing::warn!("{}: {error}; the images handed over are not kept", self.dir.join(FILE).display());
        }
    }

    /// Writes the list, then removes the indexes that it does not name.
    fn save(&self) -> io::Result<()> {
        let list = List { version: VERSION, images: self.images.clone() };
        write_whole(&self.dir.join(FILE), &serde_json::to_vec_pretty(&list)?)?;
        let Ok(entries) = std::fs::read_dir(self.dir.join(INDEXES)) else { return Ok(()) };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let named = |kept: &Kept| name.to_str().and_then(|name| name.strip_suffix(".caibx")) == Some(&kept.index);
            if !self.images.iter().any(named) {
                std::fs::remove_file(entry.path()).ok();
            }
        }
        Ok(())
    }
}

impl Kept {
    pub(super) fn place(&self) -> &Path {
        &self.image
    }

    /// Opens what lies there, with its index from `state_dir`. Blocks: a tree is walked.
    pub(super) fn open(&self, state_dir: &Path) -> Result<Extracted, String> {
        let id: IndexId = self.index.parse().map_err(|_| "its index id is none".to_owned())?;
        let file = index_path(state_dir, &self.index);
        let bytes = std::fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        if Index::index_id(&bytes) != id {
            return Err(format!("{} is damaged", file.display()));
        }
        Extracted::open(&self.image, Bytes::from(bytes)).map_err(|e| e.to_string())
    }
}

fn index_path(state_dir: &Path, id: &str) -> PathBuf {
    state_dir.join(INDEXES).join(format!("{id}.caibx"))
}

fn read_list(path: &Path) -> io::Result<Vec<Kept>> {
    match path.metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Ok(meta) if meta.len() > FILE_BYTES => return Err(io::Error::other("too large")),
        _ => {}
    }
    let list: List = serde_json::from_slice(&std::fs::read(path)?)?;
    match list.version {
        VERSION => Ok(list.images),
        other => Err(io::Error::other(format!("written by another version of caswarm (format {other})"))),
    }
}

/// Puts a file in place whole, so that a power cut leaves the old one or the new one.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    })();
    if written.is_err() {
        std::fs::remove_file(&temporary).ok();
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::digest::Digest;
    use crate::format::index::IndexChunk;

    /// An image of one chunk, and the place where it lies.
    fn image(dir: &Path, number: usize) -> (PathBuf, Extracted) {
        let path = dir.join(format!("{number}.img"));
        let bytes = number.to_le_bytes();
        std::fs::write(&path, bytes).unwrap();
        let chunks = vec![IndexChunk { end: 8, id: Digest::Sha512_256.id(&bytes) }];
        let index = Index { flags: 0xb000_0000_0000_0000, sizes: [1, 10, 20], chunks };
        (path.clone(), Extracted::open(&path, index.to_bytes().into()).unwrap())
    }

    /// What a node that starts on the directory would serve.
    fn served(state: &Path) -> Vec<PathBuf> {
        KeptImages::load(state).1.into_iter().map(|(_, path)| path).collect()
    }

    #[test]
    fn what_was_handed_over_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (mut kept, none) = KeptImages::load(dir.path());
        assert!(none.is_empty());
        let (one, two) = (image(dir.path(), 1), image(dir.path(), 2));
        for (path, holder) in [&one, &two, &one] {
            assert!(kept.add(path, holder).unwrap().is_empty());
        }
        let (_, opened) = KeptImages::load(dir.path());
        let opened: Vec<_> = opened.iter().map(|(holder, path)| (path, holder.index_id)).collect();
        assert_eq!(opened, [(&two.0, two.1.index_id), (&one.0, one.1.index_id)]);
    }

    #[test]
    fn another_image_at_the_same_place_replaces_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let (mut kept, _) = KeptImages::load(dir.path());
        let (path, old) = image(dir.path(), 1);
        kept.add(&path, &old).unwrap();
        let (_, new) = image(dir.path(), 2);
        kept.add(&path, &new).unwrap();
        let (_, opened) = KeptImages::load(dir.path());
        assert_eq!(opened.iter().map(|(holder, _)| holder.index_id).collect::<Vec<_>>(), [new.index_id]);
        assert_eq!(std::fs::read_dir(dir.path().join(INDEXES)).unwrap().count(), 1);
    }

    #[test]
    fn the_oldest_images_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let (mut kept, _) = KeptImages::load(dir.path());
        let images: Vec<_> = (0..IMAGES + 2).map(|number| image(dir.path(), number)).collect();
        let gone: Vec<_> = images.iter().flat_map(|(path, holder)| kept.add(path, holder).unwrap()).collect();
        assert_eq!(gone, [images[0].0.clone(), images[1].0.clone()]);
        assert_eq!(served(dir.path()).len(), IMAGES);
        assert_eq!(std::fs::read_dir(dir.path().join(INDEXES)).unwrap().count(), IMAGES);
    }

    #[test]
    fn what_is_gone_or_damaged_is_dropped_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (mut kept, _) = KeptImages::load(dir.path());
        let images: Vec<_> = (0..4).map(|number| image(dir.path(), number)).collect();
        for (path, holder) in &images {
            kept.add(path, holder).unwrap();
        }
        std::fs::remove_file(&images[0].0).unwrap();
        std::fs::write(kept.index_path(&kept.images[1].index), "x").unwrap();
        std::fs::remove_file(kept.index_path(&kept.images[2].index)).unwrap();
        assert_eq!(served(dir.path()), [images[3].0.clone()]);
        assert_eq!(served(dir.path()), [images[3].0.clone()]);
    }

    #[test]
    fn a_damaged_list_is_a_warning_and_counts_as_empty() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{", "[]", r#"{"version":1,"images":[{}]}"#, r#"{"version":2,"images":[]}"#] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            assert!(served(dir.path()).is_empty(), "{text}");
        }
        let id = "../".repeat(20);
        let list = format!(r#"{{"version":1,"images":[{{"image":"/etc/passwd","index":"{id}"}}]}}"#);
        std::fs::write(dir.path().join(FILE), list).unwrap();
        assert!(served(dir.path()).is_empty());
    }
}
