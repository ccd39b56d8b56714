//! A tree and several machines: what an image's chunks can do, a tree's can.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::Place;
use super::grow::{self, EXT4};
use crate::support::data::image;
use crate::support::lan::{Lan, Plan};
use crate::support::process::PATIENCE;
use crate::support::{Need, require, run};

#[test]
fn a_tree_crosses_the_internet_about_once_for_machines_that_start_together() {
    if !require(&[Need::Namespaces, Need::Program("nginx"), Need::Program("casync")]) {
        return;
    }
    let place = Place::new();
    let tree = place.path("tree");
    grow::tree(61, 150, &tree, EXT4);
    fs::write(tree.join("big"), image(9, 8_000_000)).unwrap();
    // What is published has the permissions of the top.
    for public in [place.0.path(), &tree] {
        fs::set_permissions(public, fs::Permissions::from_mode(0o755)).unwrap();
    }
    place.ours(&["make", "x.caidx", "tree"]).ok();
    let original = place.both_make(&tree, &[]);
    let chunks: usize = fs::read_dir(place.path("default.castr"))
        .unwrap()
        .map(|directory| fs::read_dir(directory.unwrap().path()).unwrap().count())
        .sum();

    let lan = Lan::new(Plan::hosts(&[3]).origin_mbit(25));
    let origin = lan.origin(place.0.path());
    let url = origin.url("x.caidx");
    let extracting: Vec<_> = lan
        .hosts()
        .map(|host| {
            let out = lan.dir(host).join("out");
            lan.start(host, &["extract", "--json", &url, out.to_str().unwrap()])
        })
        .collect();
    let reports: Vec<_> = extracting.into_iter().map(|process| process.wait(PATIENCE).ok().json()).collect();
    for host in lan.hosts() {
        let out = lan.dir(host).join("out");
        run(Command::new("casync").args(["make", "again.catar"]).arg(&out).current_dir(place.0.path())).ok();
        assert!(fs::read(place.path("again.catar")).unwrap() == original, "host {host}");
        let left: Vec<_> = fs::read_dir(lan.dir(host)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".caswarm")), "{left:?}");
    }
    let requests: usize = origin.chunk_requests().values().sum();
    assert!(requests as f64 <= 1.1 * chunks as f64, "{requests} requests for {chunks} chunks; {reports:#?}");
}
