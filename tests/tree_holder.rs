//! Chunks from a tree as it lies on disk: all of them while it is as its index says, and all that are still right when it
//! is not any more. What is wrong is found out by the digest and then no longer held; nothing outside the tree is read.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use caswarm::chunk::verify;
use caswarm::format::index::Index;
use caswarm::format::layout::Layout;
use caswarm::node::extracted::Extracted;
use caswarm::node::holder::Holder;

use crate::support::data::{Random, image};
use crate::support::{caswarm, run};

struct Tree {
    dir: tempfile::TempDir,
    index: Bytes,
}

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("t/a/b")).unwrap();
        fs::create_dir_all(at("t/empty")).unwrap();
        let mut random = Random::new(91);
        for number in 0..40 {
            fs::write(at(&format!("t/a/b/{number}")), random.text(2_000 + 500 * number)).unwrap();
        }
        fs::write(at("t/a/none"), b"").unwrap();
        fs::write(at("t/a/victim"), random.bytes(300_000)).unwrap();
        fs::write(at("t/z"), image(92, 2_500_000)).unwrap();
        std::os::unix::fs::symlink("a", at("t/link")).unwrap();
        let mut make = caswarm(&at("state"));
        run(make.args(["make", "t.caidx", "t"]).current_dir(dir.path())).ok();
        let index = fs::read(at("t.caidx")).unwrap().into();
        Self { dir, index }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("t").join(name)
    }

    fn open(&self) -> std::sync::Arc<dyn Holder> {
        Extracted::open(&self.path(""), self.index.clone()).unwrap().holder
    }

    /// How many chunks are right, of how many there are. Those that are wrong are not held afterwards.
    fn right(&self, holder: &dyn Holder) -> (u32, u32) {
        let index = Index::parse(&self.index).unwrap();
        let layout = Layout::of(&index);
        let mut right = 0;
        for position in 0..layout.count() {
            let (id, length) = (layout.id(position), layout.length(position));
            if !holder.has(&id) {
                continue;
            }
            let good = match holder.read(&id).unwrap() {
                Some(found) => match verify(&found, id, index.digest(), length) {
                    Ok(_) => true,
                    Err(_) => {
                        holder.refused(&id);
                        false
                    }
                },
                None => false,
            };
            assert_eq!(holder.has(&id), good, "position {position}");
            right += u32::from(good);
        }
        assert_eq!(holder.count(), u64::from(right));
        (right, layout.count())
    }
}

#[test]
fn every_chunk_of_an_untouched_tree_is_there() {
    let tree = Tree::new();
    let (right, all) = tree.right(&*tree.open());
    assert_eq!(right, all);
    assert!(all > 30);
    fs::write(tree.dir.path().join("file"), b"").unwrap();
    assert!(Extracted::open(&tree.path("nothing"), tree.index.clone()).is_err());
    assert!(Extracted::open(&tree.path(""), tree.index.slice(..100)).is_err());
}

#[test]
fn what_changes_while_it_is_served_costs_its_own_chunks_only() {
    type Change = (&'static str, fn(&Tree));
    let changes: [Change; 7] = [
        ("other bytes", |tree| fs::write(tree.path("a/victim"), vec![7; 300_000]).unwrap()),
        ("longer", |tree| {
            let bytes = fs::read(tree.path("a/victim")).unwrap();
            fs::write(tree.path("a/victim"), [&b"before"[..], &bytes].concat()).unwrap();
        }),
        ("shorter", |tree| fs::write(tree.path("a/victim"), b"x").unwrap()),
        ("removed", |tree| fs::remove_file(tree.path("a/victim")).unwrap()),
        ("a link to the same bytes outside", |tree| {
            fs::rename(tree.path("a/victim"), tree.dir.path().join("outside")).unwrap();
            std::os::unix::fs::symlink("../../outside", tree.path("a/victim")).unwrap();
        }),
        ("a pipe", |tree| {
            fs::remove_file(tree.path("a/victim")).unwrap();
            run(std::process::Command::new("mkfifo").arg(tree.path("a/victim"))).ok();
        }),
        ("a directory", |tree| {
            fs::remove_file(tree.path("a/victim")).unwrap();
            fs::create_dir(tree.path("a/victim")).unwrap();
        }),
    ];
    for (what, change) in changes {
        let tree = Tree::new();
        let holder = tree.open();
        change(&tree);
        let (right, all) = tree.right(&*holder);
        assert!((1..=8).contains(&(all - right)), "{what}: {right} of {all}");
        assert_eq!(tree.right(&*holder).0, right, "{what}");
        // New files, and other metadata, are no matter: the map is of before.
        fs::write(tree.path("a/new"), b"new").unwrap();
        assert_eq!(tree.right(&*holder).0, right, "{what}");
    }
}

#[test]
fn a_tree_that_changed_before_it_is_opened_gives_what_is_left_of_it() {
    let tree = Tree::new();
    fs::write(tree.path("a/b/0"), vec![b'x'; 9_000]).unwrap();
    fs::write(tree.path("a/new"), b"new").unwrap();
    let (right, all) = tree.right(&*tree.open());
    assert!((1..=12).contains(&(all - right)), "{right} of {all}");
    fs::remove_dir_all(tree.path("a")).unwrap();
    let holder = tree.open();
    let (right, _) = tree.right(&*holder);
    assert!(right > 10 && right < all, "{right} of {all}");
    assert!(!holder.is_removed());
    fs::remove_dir_all(tree.path("")).unwrap();
    assert!(holder.is_removed());
}
