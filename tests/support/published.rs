//! A directory with a published image: `os.img`, `os.caibx`, `os.caibx.id`, `default.castr`.

use std::path::{Path, PathBuf};
use std::process::Command;

use caswarm::chunk::Encoded;
use caswarm::format::digest::Digest;
use caswarm::format::index::Index;
use proto::ChunkId;

use super::data::image;
use super::process::{Ran, caswarm, run};

/// See the module.
pub struct Published {
    dir: tempfile::TempDir,
    /// What was published.
    pub image: Vec<u8>,
    /// The index of it.
    pub index: Index,
}

impl Published {
    /// An image of so many bytes, cut and compressed as usual.
    pub fn new(length: usize) -> Self {
        Self::with(length, &[])
    }

    /// The same with further arguments for `make`.
    pub fn with(length: usize, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = image(7, length);
        std::fs::write(dir.path().join("os.img"), &image).unwrap();
        let mut make = caswarm(&dir.path().join("state"));
        run(make.arg("make").args(arguments).args(["os.caibx", "os.img"]).current_dir(dir.path())).ok();
        let index = Index::parse(&std::fs::read(dir.path().join("os.caibx")).unwrap()).unwrap();
        Self { dir, image, index }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The distinct chunks and their lengths, in the order of the image.
    pub fn chunks(&self) -> Vec<(ChunkId, u32)> {
        let mut start = 0;
        let mut chunks = Vec::new();
        for chunk in &self.index.chunks {
            let length = (chunk.end - std::mem::replace(&mut start, chunk.end)) as u32;
            if !chunks.contains(&(chunk.id, length)) {
                chunks.push((chunk.id, length));
            }
        }
        chunks
    }

    /// Where a chunk's compressed file is, below the directory.
    pub fn chunk_path(id: &ChunkId) -> String {
        let name = id.to_string();
        format!("default.castr/{}/{name}.cacnk", &name[..4])
    }

    /// The bytes of a chunk's compressed file.
    pub fn chunk_file(&self, id: &ChunkId) -> Vec<u8> {
        std::fs::read(self.path(&Self::chunk_path(id))).unwrap()
    }

    /// A command that extracts without neighbours, here, with a report on standard output.
    pub fn extract(&self, arguments: &[&str]) -> Command {
        let mut command = caswarm(&self.path("state"));
        command.args(["extract", "--no-lan", "--json"]).args(arguments).current_dir(self.dir.path());
        command
    }

    /// Runs such a command, which must succeed with the right bytes in `out.img`; that is removed again.
    #[track_caller]
    pub fn extracts(&self, arguments: &[&str]) -> Ran {
        let ran = run(self.extract(arguments).arg("out.img")).ok();
        super::data::assert_file_is(&self.path("out.img"), &self.image);
        std::fs::remove_file(self.path("out.img")).unwrap();
        ran
    }
}

/// Panics unless these are the bytes of that chunk.
#[track_caller]
pub fn assert_chunk(encoded: &Encoded, id: ChunkId, length: u32) {
    caswarm::chunk::verify(encoded, id, Digest::default(), length).unwrap();
}
