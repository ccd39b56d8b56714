//! Two versions of an image, as casync publishes them: indexes and one store, made once for all tests that run together.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use caswarm::format::index::Index;

use crate::support::{data, run};

/// Length of the first version in bytes; about 15 MB as stored.
const LENGTH: usize = 32 << 20;

/// A published directory with `v1.caibx`, `v1.caibx.id`, `v2.caibx` (and no `.id`, as casync leaves it) and
/// `default.castr`, and the images beside it.
pub struct Published {
    dir: tempfile::TempDir,
    /// The image of the first version.
    pub v1: Vec<u8>,
    /// The image of the second: some of it new, some of it moved.
    pub v2: Vec<u8>,
    /// The index id of the first version.
    pub v1_id: String,
}

impl Published {
    /// The one that some test already holds, else a new one.
    pub fn get() -> Arc<Self> {
        static SHARED: Mutex<Weak<Published>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let new = Arc::new(Self::make());
            *shared = Arc::downgrade(&new);
            new
        })
    }

    /// What the web server publishes.
    pub fn www(&self) -> PathBuf {
        self.dir.path().join("www")
    }

    /// A file outside of what is published: `v1.img` or `v2.img`.
    pub fn image(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Paths of the distinct chunks of a version, as they are asked for.
    pub fn chunks(&self, version: &str) -> BTreeSet<String> {
        let index = Index::parse(&std::fs::read(self.www().join(format!("{version}.caibx"))).unwrap()).unwrap();
        let path = |id: String| format!("/default.castr/{}/{id}.cacnk", &id[..4]);
        index.chunks.iter().map(|chunk| path(chunk.id.to_string())).collect()
    }

    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let v1 = data::image(1, LENGTH);
        let v2 = data::next_version(&v1, 2, 0.1, 4);
        std::fs::create_dir(dir.path().join("www")).unwrap();
        for (name, image) in [("v1", &v1), ("v2", &v2)] {
            let file = dir.path().join(format!("{name}.img"));
            std::fs::write(&file, image).unwrap();
            let mut casync = Command::new("casync");
            casync.arg("make").arg(format!("--store={}", dir.path().join("www/default.castr").display()));
            run(casync.arg(dir.path().join(format!("www/{name}.caibx"))).arg(&file)).ok();
        }
        let v1_id = sha256(&dir.path().join("www/v1.caibx"));
        std::fs::write(dir.path().join("www/v1.caibx.id"), format!("{v1_id}\n")).unwrap();
        Self { dir, v1, v2, v1_id }
    }
}

fn sha256(file: &std::path::Path) -> String {
    let sum = run(Command::new("sha256sum").arg(file)).ok();
    sum.stdout.split_whitespace().next().unwrap().to_owned()
}
