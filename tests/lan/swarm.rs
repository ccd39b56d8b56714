//! Many machines and one image: what the origin is asked for, and what it is not.

use std::time::Duration;

use super::published::Published;
use super::{machine_can, start_extract, start_node, start_provider};
use crate::support::data::assert_file_is;
use crate::support::lan::{Cut, Lan, Plan, wait_until};
use crate::support::process::PATIENCE;

#[test]
fn machines_that_start_together_ask_the_origin_about_once_for_each_chunk() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[5]).origin_mbit(25));
    let origin = lan.origin(&published.www());
    let url = origin.url("v1.caibx");
    let extracting: Vec<_> = lan.hosts().map(|host| start_extract(&lan, host, &url, &[])).collect();
    let reports: Vec<_> = extracting.into_iter().map(|process| process.wait(PATIENCE).ok().json()).collect();

    for host in lan.hosts() {
        assert_file_is(&lan.dir(host).join("out.img"), &published.v1);
    }
    let asked = origin.chunk_requests();
    let chunks = published.chunks("v1");
    assert!(asked.keys().all(|path| chunks.contains(path)), "chunks of another image were asked for");
    // All but the chunk of zeros, which is a hole already.
    assert!(asked.len() + 1 >= chunks.len(), "some chunk was never asked for");
    let requests: usize = asked.values().sum();
    assert!(
        requests as f64 <= 1.05 * chunks.len() as f64,
        "{requests} requests for {} chunks; reports: {reports:#?}",
        chunks.len()
    );
    let indexes = origin.requests().iter().filter(|request| request.path == "/v1.caibx").count();
    assert!(indexes <= 2, "the index was fetched {indexes} times from the origin");
}

#[test]
fn late_joiner_takes_everything_from_its_neighbours() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[3]).origin_mbit(25));
    let origin = lan.origin(&published.www());
    let _node = start_provider(&lan, 1, &published, &[]);
    let _second = start_node(&lan, 2, &[]);

    let ran = start_extract(&lan, 3, &origin.url("v1.caibx"), &[]).wait(PATIENCE).ok();
    assert_file_is(&lan.dir(3).join("out.img"), &published.v1);
    let asked = origin.chunk_requests_from(&lan.address(3));
    let chunks = published.chunks("v1").len();
    assert!(asked * 50 <= chunks, "{asked} of {chunks} chunks were asked of the origin: {ran}");
}

#[test]
fn machine_without_neighbours_asks_once_for_each_chunk() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[1]));
    let origin = lan.origin(&published.www());
    let report = start_extract(&lan, 1, &origin.url("v2.caibx"), &[]).wait(PATIENCE).ok().json();
    assert_file_is(&lan.dir(1).join("out.img"), &published.v2);
    let asked = origin.chunk_requests();
    // All but the chunk of zeros, which is a hole already.
    let chunks = published.chunks("v2");
    assert!(asked.keys().all(|path| chunks.contains(path)) && asked.len() + 1 >= chunks.len(), "{}", asked.len());
    assert!(asked.values().all(|&times| times == 1), "{asked:?}");
    assert_eq!(report["from"]["origin"].as_u64().unwrap() + report["from"]["kept"].as_u64().unwrap(), {
        report["bytes_total"].as_u64().unwrap()
    });
}

#[test]
fn machine_without_internet_finishes_from_its_neighbours() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[3]).origin_mbit(40));
    let origin = lan.origin(&published.www());
    let url = origin.url("v1.caibx");
    lan.cut(3, Cut::Internet);
    // All three start together: what the third needs, the others are only just fetching.
    let pinned = ["--index-id", published.v1_id.as_str()];
    let connected = [1, 2].map(|host| start_extract(&lan, host, &url, &["--linger", "60"]));
    let alone = start_extract(&lan, 3, &url, &pinned);
    alone.wait(PATIENCE).ok();
    assert_file_is(&lan.dir(3).join("out.img"), &published.v1);
    for (host, process) in [1, 2].into_iter().zip(connected) {
        wait_until("the others finish too", PATIENCE, || lan.dir(host).join("out.img").exists());
        assert_file_is(&lan.dir(host).join("out.img"), &published.v1);
        drop(process);
    }
    assert_eq!(origin.chunk_requests_from(&lan.address(3)), 0);
    let (requests, chunks) = (origin.chunk_requests().values().sum::<usize>(), published.chunks("v1").len());
    assert!(requests as f64 <= 1.05 * chunks as f64, "{requests} requests for {chunks} chunks");
}

#[test]
fn provider_in_another_segment_is_found_through_the_dht() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::segments(&[2, 1]));
    let listen = "0.0.0.0:7700";
    let _provider = start_provider(&lan, 1, &published, &["--listen", listen]);
    let _known = start_node(&lan, 2, &["--listen", listen]);
    std::thread::sleep(Duration::from_secs(2));

    // The third machine reaches no origin and hears no multicast of the others. It is told of the second only, which holds
    // nothing: that the first holds the image, only the DHT can tell.
    let bootstrap = format!("{}:7700", lan.address(2));
    let arguments = ["--index-id", &published.v1_id, "--bootstrap", &bootstrap];
    start_extract(&lan, 3, "http://10.79.0.2/v1.caibx", &arguments).wait(PATIENCE).ok();
    assert_file_is(&lan.dir(3).join("out.img"), &published.v1);
}
