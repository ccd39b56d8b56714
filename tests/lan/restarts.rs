//! What a node keeps, and what it lets go: over restarts, in one state directory, on a disk that changes.

use std::time::Duration;

use rustix::process::Signal;

use super::published::Published;
use super::{machine_can, neighbours, start_extract, start_node, status};
use crate::support::data::assert_file_is;
use crate::support::lan::{Lan, Plan, wait_until};
use crate::support::process::PATIENCE;

#[test]
fn image_handed_to_a_node_is_served_by_the_next_one_too() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[2]));
    let origin = lan.origin(&published.www());
    let url = origin.url("v1.caibx");
    let mut node = start_node(&lan, 1, &[]);
    start_extract(&lan, 1, &url, &[]).wait(PATIENCE).ok();
    node.kill();
    let before = origin.requests().len();

    let _node = start_node(&lan, 1, &[]);
    let images = status(&lan, 1)["images"].clone();
    assert!(images[0]["name"].as_str().is_some_and(|name| name.ends_with("/out.img")), "{images}");
    assert_eq!(images[0]["index"], published.v1_id.as_str());
    // Without the origin's index: that has to be there after the restart too.
    let arguments = ["--index-id", &published.v1_id];
    start_extract(&lan, 2, "http://10.79.0.2:9/v1.caibx", &arguments).wait(PATIENCE).ok();
    assert_file_is(&lan.dir(2).join("out.img"), &published.v1);
    assert_eq!(origin.requests().len(), before);
}

#[test]
fn image_that_is_gone_after_a_restart_is_dropped_with_a_word() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[1]));
    let origin = lan.origin(&published.www());
    let node = start_node(&lan, 1, &[]);
    start_extract(&lan, 1, &origin.url("v1.caibx"), &[]).wait(PATIENCE).ok();
    node.signal(Signal::TERM);
    node.wait(Duration::from_secs(10)).ok();
    std::fs::remove_file(lan.dir(1).join("out.img")).unwrap();

    let node = start_node(&lan, 1, &[]);
    assert!(status(&lan, 1)["images"].as_array().unwrap().is_empty());
    node.signal(Signal::TERM);
    node.wait(Duration::from_secs(10)).ok().says(&["out.img is served no longer"]);
}

#[test]
fn image_that_is_replaced_or_removed_is_let_go() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[1]));
    let origin = lan.origin(&published.www());
    let _node = start_node(&lan, 1, &[]);
    let served = || {
        let status = status(&lan, 1);
        (status["holders"].as_array().unwrap().len(), status["images"].clone())
    };
    start_extract(&lan, 1, &origin.url("v1.caibx"), &[]).wait(PATIENCE).ok();
    start_extract(&lan, 1, &origin.url("v2.caibx"), &[]).wait(PATIENCE).ok();
    // The node holds the old image open: as long as it does, its blocks are not free.
    wait_until("one image is left", Duration::from_secs(20), || {
        let (holders, images) = served();
        holders == 1 && images.as_array().unwrap().len() == 1 && images[0]["index"] != published.v1_id.as_str()
    });
    std::fs::remove_file(lan.dir(1).join("out.img")).unwrap();
    wait_until("none is left", Duration::from_secs(20), || {
        let (holders, images) = served();
        holders == 0 && images.as_array().unwrap().is_empty()
    });
}

#[test]
fn second_node_with_the_same_state_says_so_and_the_first_stays() {
    if !machine_can() {
        return;
    }
    let lan = Lan::new(Plan::hosts(&[1]));
    let _first = start_node(&lan, 1, &[]);
    let second = lan.start(1, &["node", "--listen", "127.0.0.1:7749"]).wait(Duration::from_secs(10)).failed();
    second.says(&["a node is running here already", "--state-dir"]);
    status(&lan, 1);
}

#[test]
fn of_nodes_that_start_at_once_with_the_same_state_one_stays() {
    if !machine_can() {
        return;
    }
    let lan = Lan::new(Plan::hosts(&[1]));
    let mut nodes: Vec<_> = (0..4).map(|_| lan.start(1, &["node", "--listen", "127.0.0.1:0"])).collect();
    wait_until("three gave up", Duration::from_secs(20), || {
        nodes.iter_mut().map(|node| usize::from(!node.is_running())).sum::<usize>() == 3
    });
    wait_until("the fourth answers", Duration::from_secs(20), || {
        lan.start(1, &["status", "--json"]).wait(Duration::from_secs(10)).status.success()
    });
}

#[test]
fn node_whose_interface_comes_up_later_is_found() {
    if !machine_can() {
        return;
    }
    let lan = Lan::new(Plan::hosts(&[2]));
    lan.plug(2, false);
    let _one = start_node(&lan, 1, &[]);
    let _two = start_node(&lan, 2, &[]);
    lan.plug(2, true);
    wait_until("they have met", Duration::from_secs(30), || neighbours(&lan, 1) == 1 && neighbours(&lan, 2) == 1);
}

#[test]
fn neighbours_are_remembered_by_a_node_that_is_killed() {
    if !machine_can() {
        return;
    }
    let lan = Lan::new(Plan::hosts(&[2]));
    let mut one = start_node(&lan, 1, &[]);
    let _two = start_node(&lan, 2, &[]);
    let file = lan.dir(1).join("state/known-peers.json");
    wait_until("the neighbour is written down", Duration::from_secs(30), || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains(&format!("{}:7748", lan.address(2))))
    });
    one.kill();
    // What is left of a write that a power cut ended is no reason not to start.
    std::fs::write(&file, "[{\"node\":").unwrap();
    let _one = start_node(&lan, 1, &[]);
    wait_until("they have met", Duration::from_secs(30), || neighbours(&lan, 1) == 1);
}
