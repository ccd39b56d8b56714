//! A node that serves an extracted tree as it lies on disk: to machines that have no other way to it, also after a
//! restart, and also when some of it has changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{machine_can, start_node, status};
use crate::support::data::{Random, image};
use crate::support::lan::{Lan, Plan, wait_until};
use crate::support::process::PATIENCE;
use crate::support::run;

/// A tree with its index and store, as a publisher has it.
struct Published {
    dir: tempfile::TempDir,
    id: String,
}

impl Published {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("tree/usr/lib/deep")).unwrap();
        let mut random = Random::new(81);
        for number in 0..60 {
            fs::write(at(&format!("tree/usr/lib/{number}")), random.text(3_000 + 400 * number)).unwrap();
        }
        fs::write(at("tree/usr/big"), image(82, 6_000_000)).unwrap();
        fs::write(at("tree/usr/lib/deep/victim"), random.bytes(400_000)).unwrap();
        fs::write(at("tree/zz"), random.bytes(900_000)).unwrap();
        std::os::unix::fs::symlink("usr/lib", at("tree/lib")).unwrap();
        run(Command::new("casync").args(["make", "x.caidx", "tree"]).current_dir(dir.path())).ok();
        let index = fs::read(at("x.caidx")).unwrap();
        let id = caswarm::format::index::Index::index_id(&index).to_string();
        Self { dir, id }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Where there is no origin.
const NOWHERE: &str = "http://10.79.0.2:9/x.caidx";

fn same(a: &Path, b: &Path) -> bool {
    Command::new("diff").args(["-r", "--no-dereference"]).arg(a).arg(b).output().unwrap().status.success()
}

#[test]
fn a_tree_on_disk_is_enough_for_machines_without_an_origin_and_what_changed_in_it_is_not_served() {
    if !machine_can() {
        return;
    }
    let published = Published::new();
    let lan = Lan::new(Plan::hosts(&[3]));
    let tree = lan.dir(1).join("os");
    run(Command::new("cp").arg("-a").arg(published.path("tree")).arg(&tree)).ok();
    let serve = format!("{}={}", published.path("x.caidx").display(), tree.display());
    let _node = start_node(&lan, 1, &["--tree", &serve]);
    let served = || status(&lan, 1)["holders"].to_string().contains(tree.to_str().unwrap());
    wait_until("the tree was walked", PATIENCE, served);
    let extract = ["extract", "--json", "--linger=0", "--index-id", &published.id, NOWHERE, "out"];
    let report = lan.start(2, &extract).wait(PATIENCE).ok().json();
    assert!(same(&lan.dir(2).join("out"), &published.path("tree")));
    assert_eq!(report["received"]["origin"], 0, "{report}");
    assert!(report["received"]["lan"].as_u64().unwrap() > 1_000_000, "{report}");

    // One file has other bytes now, and another one more: what lies behind it in the archive is right all the same.
    let victim = tree.join("usr/lib/deep/victim");
    let mut bytes = fs::read(&victim).unwrap();
    bytes[200_000] ^= 1;
    bytes.extend_from_slice(b"more");
    fs::write(&victim, bytes).unwrap();
    // The node remembers what it gave a moment ago.
    drop(_node);
    let _node = start_node(&lan, 1, &["--tree", &serve]);
    wait_until("the tree was walked", PATIENCE, served);
    let ran = lan.start(3, &extract).wait(PATIENCE).failed();
    let missing = ran.stderr.split(" of the image's chunks").next().and_then(|said| said.rsplit(' ').next());
    let missing: usize = missing.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{ran}"));
    assert!((1..=8).contains(&missing), "{ran}");
    // With the few chunks of the changed file from somewhere else the tree is whole.
    let store = format!("--store={}", published.path("default.castr").display());
    let report = lan.start(3, &[&extract[..], &[&store]].concat()).wait(PATIENCE).ok().json();
    assert!(same(&lan.dir(3).join("out"), &published.path("tree")), "{report}");
}

#[test]
fn a_tree_that_was_extracted_is_handed_to_the_node_and_served_after_its_restart() {
    if !machine_can() {
        return;
    }
    let published = Published::new();
    let lan = Lan::new(Plan::hosts(&[2]));
    let mut node = start_node(&lan, 1, &[]);
    let (index, store) = (published.path("x.caidx"), published.path("default.castr"));
    let store = format!("--store={}", store.display());
    lan.start(1, &["extract", "--linger=0", &store, index.to_str().unwrap(), "os"]).wait(PATIENCE).ok();
    let out = lan.dir(1).join("os").display().to_string();
    wait_until("the node has the tree", PATIENCE, || status(&lan, 1)["holders"].to_string().contains(&out));
    node.kill();
    let _node = start_node(&lan, 1, &[]);
    wait_until("the tree was walked", PATIENCE, || status(&lan, 1)["images"].to_string().contains(&published.id));
    let extract = ["extract", "--linger=0", "--index-id", &published.id, NOWHERE, "out"];
    lan.start(2, &extract).wait(PATIENCE).ok();
    assert!(same(&lan.dir(2).join("out"), &published.path("tree")));
}
