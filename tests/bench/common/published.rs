//! An image as it is published: an index and a store that a web server serves, and how much of the store it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use caswarm::format::index::Index;
use proto::ChunkId;

use super::{image_of_this_machine, previous_version};
use crate::support::need::find_program;
use crate::support::process::{Process, caswarm};

/// What to publish, as typed.
#[derive(Debug, Clone, clap::Args)]
pub struct PublishArgs {
    /// The image [default: 256 MB of files of this machine].
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// The image one version before [default: a tenth of the image changed].
    #[arg(long, value_name = "FILE")]
    pub seed_image: Option<PathBuf>,
    /// A directory with index and store to publish as it is [default: what casync makes of the images].
    #[arg(long, value_name = "DIR", requires_all = ["image", "index"])]
    pub publish: Option<PathBuf>,
    /// With --publish: the index of --image, a path in DIR.
    #[arg(long, value_name = "FILE", requires = "publish")]
    pub index: Option<String>,
    /// With --publish: the index of --seed-image, a path in DIR.
    #[arg(long, value_name = "FILE", requires_all = ["publish", "seed_image"])]
    pub seed_index: Option<String>,
    /// With --publish: the store, a path in DIR.
    #[arg(long, value_name = "STORE", requires = "publish", default_value = "default.castr")]
    pub store: String,
}

/// One version: an image and its index.
#[derive(Debug, Clone)]
pub struct Version {
    /// The image, which nothing changes.
    pub image: PathBuf,
    /// The index, a path in what is published.
    pub index: String,
}

/// What the web server serves, and the images that it was made of.
#[derive(Debug)]
pub struct Published {
    /// The directory that is served.
    pub root: PathBuf,
    /// The store, a path in it.
    pub store: String,
    /// The image to extract.
    pub new: Version,
    /// The image that machines may have already.
    pub old: Option<Version>,
}

impl Published {
    /// Publishes as the arguments say, making what they do not name in a directory; `old` says whether the version
    /// before is needed.
    ///
    /// # Panics
    /// When something cannot be made.
    pub fn new(args: &PublishArgs, work: &Path, old: bool) -> Self {
        let absolute = |path: &Path| std::path::absolute(path).unwrap();
        let image = args.image.as_deref().map_or_else(
            || {
                let image = work.join("new.img");
                image_of_this_machine(&image, 256_000_000);
                image
            },
            absolute,
        );
        if let (Some(root), Some(index)) = (&args.publish, &args.index) {
            let seed = args.seed_image.as_deref().map(absolute).zip(args.seed_index.clone());
            let old = seed.map(|(image, index)| Version { image, index });
            let new = Version { image, index: index.clone() };
            return Self { root: absolute(root), store: args.store.clone(), new, old };
        }
        let root = work.join("www");
        std::fs::create_dir(&root).unwrap();
        let before = old.then(|| {
            args.seed_image.as_deref().map_or_else(
                || {
                    let before = work.join("old.img");
                    previous_version(&image, &before);
                    before
                },
                absolute,
            )
        });
        let store = "default.castr".to_owned();
        let make = |image: PathBuf, index: &str| {
            make(&root.join(index), &root.join(&store), &image);
            Version { image, index: index.to_owned() }
        };
        let (new, old) = (make(image, "new.caibx"), before.map(|image| make(image, "old.caibx")));
        Self { root: root.clone(), store: store.clone(), new, old }
    }

    /// Where the index of a version lies on disk.
    pub fn index(&self, version: &Version) -> PathBuf {
        self.root.join(&version.index)
    }

    /// Distinct chunks of a version, and the size of each as it is stored.
    pub fn chunks(&self, version: &Version) -> BTreeMap<ChunkId, u64> {
        let path = self.index(version);
        let index = Index::parse(&std::fs::read(&path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let store = self.root.join(&self.store);
        let size = |id: ChunkId| {
            let name = id.to_string();
            let file = store.join(&name[..4]).join(format!("{name}.cacnk"));
            file.metadata().unwrap_or_else(|e| panic!("{}: {e}", file.display())).len()
        };
        index.chunks.iter().map(|chunk| (chunk.id, size(chunk.id))).collect()
    }
}

/// Makes an index and a store with casync, and the `.id` beside the index; with caswarm where casync is not installed.
fn make(index: &Path, store: &Path, image: &Path) {
    let patience = std::time::Duration::from_secs(900);
    let work = tempfile::tempdir().unwrap();
    let mut command = match find_program("casync") {
        Some(casync) => Command::new(casync),
        None => {
            println!("casync is not installed: caswarm itself makes what is published");
            caswarm(work.path())
        }
    };
    command.arg("make").arg(format!("--store={}", store.display())).arg(index).arg(image);
    Process::spawn(&mut command).wait(patience).ok();
    let id = Index::index_id(&std::fs::read(index).unwrap());
    std::fs::write(format!("{}.id", index.display()), format!("{id}\n")).unwrap();
}
