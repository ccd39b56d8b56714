//! `kill -9` of `caswarm make` after any number of chunks: nothing under a chunk's or the index's name is ever less than whole, and
//! the next run finishes what was begun.

use std::fs;
use std::path::Path;
use std::time::Duration;

use caswarm::chunk::verify;
use caswarm::format::digest::Digest;
use caswarm::format::index::Index;
use caswarm::source::local_store::LocalStore;

use super::Place;
use crate::support::data::{Random, assert_file_is};
use crate::support::lan::wait_until;
use crate::support::process::PATIENCE;
use crate::support::{Need, Process, require, run};

#[test]
fn a_killed_make_leaves_whole_chunks_and_the_next_finishes() {
    let place = Place::new(6_000_000);
    let undisturbed = place.make(&["--store=whole.castr", "whole.caibx", "image"]).ok();
    let whole = fs::read(place.path("whole.caibx")).unwrap();
    let index = Index::parse(&whole).unwrap();
    let mut random = Random::new(31);
    let (mut interrupted, mut kept) = (0, 0);
    for round in 0..8 {
        // The first rounds go on where the one before was killed, the others begin anew.
        let (index_name, store) = match round {
            0..3 => ("os.caibx".to_owned(), "os.castr".to_owned()),
            _ => (format!("{round}.caibx"), format!("{round}.castr")),
        };
        let until = 1 + random.below(distinct(&index) - 1);
        let mut make = Process::spawn(&mut place.command(&[&format!("--store={store}"), &index_name, "image"]));
        while make.is_running() && directories(&place.path(&store)) < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        interrupted += usize::from(make.is_running());
        make.kill();
        kept += assert_store_is_right(&place.path(&store), &index);
        if place.path(&index_name).exists() {
            assert_file_is(&place.path(&index_name), &whole);
        }
        if round >= 2 {
            let ran = place.make(&[&format!("--store={store}"), &index_name, "image"]).ok();
            assert_eq!(ran.stdout, undisturbed.stdout);
            assert_file_is(&place.path(&index_name), &whole);
            let id = Index::index_id(&whole);
            assert_file_is(&place.path(&format!("{index_name}.id")), format!("{id}\n").as_bytes());
            assert_eq!(assert_store_is_right(&place.path(&store), &index), distinct(&index));
        }
    }
    assert!(interrupted > 0 && kept > 0, "{interrupted} rounds were interrupted, {kept} chunks kept");
}

#[test]
fn casync_extracts_what_a_killed_and_repeated_make_left() {
    if !require(&[Need::Program("casync")]) {
        return;
    }
    let place = Place::new(6_000_000);
    let mut make = Process::spawn(&mut place.command(&["os.caibx", "image"]));
    wait_until("some chunks are stored", PATIENCE, || directories(&place.path("default.castr")) > 10);
    make.kill();
    place.make(&["os.caibx", "image"]).ok();
    let casync = ["extract", "--store=default.castr", "os.caibx", "out"];
    run(std::process::Command::new("casync").args(casync).current_dir(place.0.path())).ok();
    assert_file_is(&place.path("out"), &fs::read(place.path("image")).unwrap());
}

/// Directories in a store: nearly one for each chunk.
fn directories(store: &Path) -> usize {
    fs::read_dir(store).map_or(0, Iterator::count)
}

fn distinct(index: &Index) -> usize {
    index.chunks.iter().map(|chunk| chunk.id).collect::<std::collections::BTreeSet<_>>().len()
}

/// Verifies everything that the store has under a chunk's name. Returns how much that is.
#[track_caller]
fn assert_store_is_right(path: &Path, index: &Index) -> usize {
    if !path.exists() {
        return 0;
    }
    let store = LocalStore::open(path).unwrap();
    let mut start = 0;
    let lengths: std::collections::BTreeMap<_, _> = index
        .chunks
        .iter()
        .map(|chunk| (chunk.id, (chunk.end - std::mem::replace(&mut start, chunk.end)) as u32))
        .collect();
    let mut count = 0;
    for id in store.ids().unwrap() {
        let id = id.unwrap();
        verify(&store.get(id).unwrap().unwrap(), id, Digest::default(), lengths[&id]).unwrap();
        count += 1;
    }
    count
}
