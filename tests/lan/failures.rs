//! What goes wrong on the way: a neighbour that vanishes, a program that is killed.

use std::path::Path;
use std::time::Duration;

use super::published::Published;
use super::{machine_can, node_of, start_extract, start_provider};
use crate::support::data::assert_file_is;
use crate::support::lan::{Cut, Lan, Plan, wait_until};
use crate::support::process::PATIENCE;

#[test]
fn neighbour_cut_off_mid_transfer_costs_time_and_not_the_image() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[2]).lan_mbit(40));
    let origin = lan.origin(&published.www());
    let _node = start_provider(&lan, 1, &published, &[]);
    let mut extracting = start_extract(&lan, 2, &origin.url("v1.caibx"), &[]);
    wait_until("a part has come", Duration::from_secs(30), || {
        written(&lan.dir(2)) > 6 << 20 || !extracting.is_running()
    });
    lan.cut(1, Cut::All);
    let ran = extracting.wait(PATIENCE).ok();
    assert_file_is(&lan.dir(2).join("out.img"), &published.v1);
    let from = &ran.json()["from"];
    assert!(from["lan"].as_u64() > Some(1 << 20) && from["origin"].as_u64() > Some(1 << 20), "{ran}");
}

#[test]
fn another_neighbour_gives_what_a_frozen_one_owes_while_its_session_lasts() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[3]).lan_mbit(40));
    let origin = lan.origin(&published.www());
    lan.cut(3, Cut::Internet);
    let nodes = [1, 2].map(|host| start_provider(&lan, host, &published, &[]));
    let frozen = node_of(&lan, 1).to_string();
    let url = origin.url("v1.caibx");
    let arguments = ["--log-level", "caswarm=trace", "--index-id", &published.v1_id];
    let mut extracting = start_extract(&lan, 3, &url, &arguments);
    wait_until("a part has come", Duration::from_secs(30), || {
        written(&lan.dir(3)) > 6 << 20 || !extracting.is_running()
    });
    nodes[0].signal(rustix::process::Signal::STOP);
    let ran = extracting.wait(PATIENCE).ok();
    nodes[0].signal(rustix::process::Signal::CONT);
    assert_file_is(&lan.dir(3).join("out.img"), &published.v1);

    // What it owed came from the other, and while there was still a session with it.
    let log: Vec<_> = ran.stderr.lines().collect();
    let last = log.iter().rposition(|line| line.contains("chunk") && line.contains(&format!("from={frozen}")));
    let last = last.unwrap_or_else(|| panic!("it gave nothing: {ran}"));
    let others = log[last..].iter().filter(|line| line.contains("chunk") && line.contains("from=")).count();
    assert!(others > 50, "{others} chunks came after its last");
    assert!(!ran.stderr.contains("session ended"), "{ran}");
    assert_eq!(ran.json()["from"]["origin"], 0);
}

#[test]
fn origin_that_vanishes_mid_transfer_and_comes_back_costs_only_time() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[1]).origin_mbit(40));
    let origin = lan.origin(&published.www());
    let extracting = start_extract(&lan, 1, &origin.url("v1.caibx"), &[]);
    wait_until("a part has come", Duration::from_secs(30), || written(&lan.dir(1)) > 6 << 20);
    lan.cut(1, Cut::Internet);
    std::thread::sleep(Duration::from_secs(3));
    lan.heal(1);
    extracting.wait(PATIENCE).ok();
    assert_file_is(&lan.dir(1).join("out.img"), &published.v1);
}

#[test]
fn extraction_that_was_killed_goes_on_where_it_stopped() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[1]).origin_mbit(40));
    let origin = lan.origin(&published.www());
    let url = origin.url("v1.caibx");
    let chunks = published.chunks("v1").len();
    let mut extracting = start_extract(&lan, 1, &url, &[]);
    wait_until("half has come", Duration::from_secs(30), || origin.chunk_requests().len() > chunks / 2);
    extracting.kill();
    assert!(!lan.dir(1).join("out.img").exists(), "a partial image stands under the final name");
    let before = origin.chunk_requests().values().sum::<usize>();

    let ran = start_extract(&lan, 1, &url, &[]).wait(PATIENCE).ok();
    assert_file_is(&lan.dir(1).join("out.img"), &published.v1);
    let again = origin.chunk_requests().values().sum::<usize>() - before;
    // What was under way when the process died is asked for again: no more than its window of requests.
    assert!(before + again <= chunks + 128, "{before} requests, then {again}, for {chunks} chunks: {ran}");
    assert!(ran.json()["from"]["kept"].as_u64() > Some(4 << 20), "{ran}");
}

#[test]
fn node_that_is_killed_comes_back_as_the_same_peer() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[2]));
    let origin = lan.origin(&published.www());
    start_provider(&lan, 1, &published, &[]).kill();
    let _node = start_provider(&lan, 1, &published, &[]);
    start_extract(&lan, 2, &origin.url("v1.caibx"), &[]).wait(PATIENCE).ok();
    assert_file_is(&lan.dir(2).join("out.img"), &published.v1);
    let asked = origin.chunk_requests_from(&lan.address(2));
    assert!(asked * 50 <= published.chunks("v1").len(), "{asked} chunks were asked of the origin");
}

/// Bytes that the files in a directory occupy on disk, the one being written among them.
fn written(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.blocks() * 512).sum()
}
