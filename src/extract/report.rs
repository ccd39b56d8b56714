//! What an extraction did: for people a few lines, for machines one JSON object with these fields.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use proto::IndexId;

use super::index_file::Whence;
use super::network::NetworkReport;
use super::plan::PlanBytes;
use super::progress::{Blame, Place, Progress};
use crate::tree::unpack::Unpacked;

/// What an extraction did. Sizes are in bytes.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// The image's final place.
    pub target: PathBuf,
    /// SHA-256 of the index file, in hexadecimal.
    pub index_id: String,
    /// Where the index came from: `file`, `lan` or `origin`.
    pub index_from: Whence,
    /// Length of the index file.
    pub index_bytes: u64,
    /// Length of the image.
    pub bytes_total: u64,
    /// Distinct chunks of the image.
    pub chunks: u32,
    /// Bytes of the image by where they came from. They add up to `bytes_total`.
    pub from: From,
    /// Bytes read or received from each place as they are stored there (compressed, usually), wasted ones included.
    pub received: From,
    /// Requests for chunks that the remote stores were sent.
    pub origin_requests: u64,
    /// Neighbours with whom there was a session.
    pub peers: u64,
    /// Chunks that came although they were held already.
    pub duplicates: u64,
    /// How many chunks were not what they were said to be.
    pub corrupt_total: u64,
    /// The first hundred of them: who gave what.
    pub corrupt: Vec<Blame>,
    /// Files and directories of a tree that were written, `null` for an image.
    pub entries: Option<u64>,
    /// Bytes of a tree in blocks that are shared with seeds, `null` for an image.
    pub shared: Option<u64>,
    /// Files of a tree that are hard links to files of seeds, `null` for an image.
    pub linked: Option<u64>,
    /// Metadata of a tree that the target cannot have, `null` for an image.
    pub complaints_total: Option<u64>,
    /// The first hundred of them: where and what.
    pub complaints: Vec<String>,
    /// From the start to the durable image; a tree is not made durable.
    pub seconds: f64,
    /// `bytes_total` over `seconds`.
    pub rate: f64,
}

/// Bytes by place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct From {
    /// Right in the target already.
    pub kept: u64,
    /// Seeds.
    pub seeds: u64,
    /// Local stores.
    pub store: u64,
    /// Neighbours.
    pub lan: u64,
    /// Remote stores.
    pub origin: u64,
}

impl Report {
    pub(super) fn new(
        target: PathBuf,
        index: (IndexId, Whence, u64),
        chunks: u32,
        progress: &Progress,
        network: NetworkReport,
        took: Duration,
    ) -> Self {
        let by = |bytes: &dyn Fn(Place) -> u64| From {
            kept: bytes(Place::Kept),
            seeds: bytes(Place::Seeds),
            store: bytes(Place::Store),
            lan: bytes(Place::Lan),
            origin: bytes(Place::Origin),
        };
        let seconds = took.as_secs_f64();
        Report {
            target,
            index_id: index.0.to_string(),
            index_from: index.1,
            index_bytes: index.2,
            bytes_total: progress.total(),
            chunks,
            from: by(&|place| progress.image_bytes(place)),
            received: by(&|place| progress.received_bytes(place)),
            origin_requests: network.origin_requests,
            peers: network.peers,
            duplicates: progress.duplicates() + network.duplicates,
            corrupt_total: progress.corrupt(),
            corrupt: progress.blames(),
            entries: None,
            shared: None,
            linked: None,
            complaints_total: None,
            complaints: Vec::new(),
            seconds: (seconds * 1000.0).round() / 1000.0,
            rate: (progress.total() as f64 / seconds.max(0.001)).round(),
        }
    }
}

impl Report {
    pub(super) fn with_tree(mut self, unpacked: Unpacked) -> Self {
        self.entries = Some(unpacked.entries);
        self.shared = Some(unpacked.shared);
        self.linked = Some(unpacked.linked);
        self.complaints_total = Some(unpacked.complaints_total);
        self.complaints = unpacked.complaints;
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = Bytes(self.bytes_total);
        writeln!(
            f,
            "{}: {total} in {:.1} s ({}/s)",
            self.target.display(),
            self.seconds,
            Bytes(self.rate.max(0.0) as u64)
        )?;
        let From { kept, seeds, store, lan, origin } = self.from;
        let mut parts = Vec::new();
        for (bytes, name, received) in [
            (kept, "there already", None),
            (seeds, "seeds", None),
            (store, "local store", None),
            (lan, "LAN", Some(self.received.lan)),
            (origin, "Internet", Some(self.received.origin)),
        ] {
            match received {
                _ if bytes == 0 => {}
                Some(received) => parts.push(format!("{name} {} ({} received)", Bytes(bytes), Bytes(received))),
                None => parts.push(format!("{name} {}", Bytes(bytes))),
            }
        }
        write!(f, "  from: {}", if parts.is_empty() { "nothing to do".to_owned() } else { parts.join(", ") })?;
        if let Some(entries) = self.entries {
            write!(f, "\n  {entries} files and directories")?;
            if let Some(linked) = self.linked.filter(|linked| *linked > 0) {
                write!(f, ", {linked} of them links to files of seeds")?;
            }
            if let Some(shared) = self.shared.filter(|shared| *shared > 0) {
                write!(f, ", {} shared with seeds", Bytes(shared))?;
            }
        }
        if self.duplicates > 0 {
            write!(f, "\n  {} chunks came twice", self.duplicates)?;
        }
        if let Some(first) = self.corrupt.first() {
            write!(f, "\n  {} corrupt, taken elsewhere: chunk {}", self.corrupt_total, first.chunk)?;
            write!(f, " from {}", first.source)?;
        }
        Ok(())
    }
}

/// What an extraction would do, with `--dry-run`. Sizes are in bytes of the image.
#[derive(Debug, Clone, serde::Serialize)]
pub struct DryRun {
    /// Where the image would go.
    pub target: PathBuf,
    /// SHA-256 of the index file, in hexadecimal.
    pub index_id: String,
    /// Length of the image.
    pub bytes_total: u64,
    /// Distinct chunks of the image.
    pub chunks: u32,
    /// Right in the target already.
    pub kept: u64,
    /// From seeds.
    pub seeds: u64,
    /// From local stores.
    pub store: u64,
    /// From neighbours and remote stores.
    pub network: u64,
}

impl DryRun {
    pub(super) fn new(target: PathBuf, index_id: IndexId, total: u64, chunks: u32, plan: PlanBytes) -> Self {
        DryRun {
            target,
            index_id: index_id.to_string(),
            bytes_total: total,
            chunks,
            kept: plan.kept,
            seeds: plan.seeds,
            store: plan.stores,
            network: plan.missing,
        }
    }
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} in {} chunks", self.target.display(), Bytes(self.bytes_total), self.chunks)?;
        writeln!(f, "  there already  {}", Bytes(self.kept))?;
        writeln!(f, "  seeds          {}", Bytes(self.seeds))?;
        writeln!(f, "  local store    {}", Bytes(self.store))?;
        write!(f, "  network        {}", Bytes(self.network))
    }
}

/// A size for people.
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", indicatif::BinaryBytes(self.0))
    }
}
