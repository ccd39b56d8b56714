//! The directory in which a demonstration happens, gone when it is over.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// A new directory. Dropping it removes it with all that is inside.
pub(super) struct Workplace {
    path: PathBuf,
}

impl Workplace {
    /// Makes one in `parent` (None: the directory for temporary files), where `bytes` have to be free.
    pub(super) fn create(parent: Option<&Path>, bytes: u64) -> anyhow::Result<Self> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let volume = rustix::fs::statvfs(&parent).with_context(|| parent.display().to_string())?;
        let free = volume.f_bavail.saturating_mul(volume.f_frsize);
        ensure!(
            free > bytes,
            "{}: {} MiB are free, the demonstration needs {}; name another directory with --dir, or less with --size",
            parent.display(),
            free >> 20,
            bytes >> 20
        );
        let path = parent.join(format!("caswarm-demo-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| path.display().to_string())?;
        let place = Self { path: path.canonicalize()? };
        std::fs::create_dir(place.www())?;
        Ok(place)
    }

    /// The image to publish.
    pub(super) fn image(&self) -> PathBuf {
        self.path.join("image")
    }

    /// What the origin publishes.
    pub(super) fn www(&self) -> PathBuf {
        self.path.join("www")
    }

    /// The index in it.
    pub(super) fn index(&self) -> PathBuf {
        self.www().join("image.caibx")
    }

    /// The store in it.
    pub(super) fn store(&self) -> PathBuf {
        self.www().join("default.castr")
    }

    /// A directory for one node.
    pub(super) fn node(&self, number: usize) -> PathBuf {
        self.path.join(format!("node-{number}"))
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "left behind");
        }
    }
}
