//! What a machine can serve to the others: a store, an image as it lies on disk, another version of the image.

use super::published::Published;
use super::{give, machine_can, start_extract, start_node, start_provider};
use crate::support::data::assert_file_is;
use crate::support::lan::{Cut, Lan, Plan};
use crate::support::process::PATIENCE;

#[test]
fn node_serves_a_store_to_whoever_brings_the_index() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[2]));
    let store = published.www().join("default.castr");
    let _node = start_node(&lan, 1, &["--store", store.to_str().unwrap()]);
    lan.cut(2, Cut::Internet);
    let index = give(&lan, 2, &published.www().join("v2.caibx"), "v2.caibx");
    let ran = start_extract(&lan, 2, index, &["--store", "http://10.79.0.2/default.castr"]).wait(PATIENCE).ok();
    assert_file_is(&lan.dir(2).join("out.img"), &published.v2);
    assert_eq!(ran.json()["from"]["origin"], 0, "{ran}");
}

#[test]
fn neighbours_on_the_old_version_serve_what_the_new_one_left_unchanged() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[2]).origin_mbit(25));
    let origin = lan.origin(&published.www());
    let _node = start_provider(&lan, 1, &published, &[]);
    let ran = start_extract(&lan, 2, &origin.url("v2.caibx"), &[]).wait(PATIENCE).ok();
    assert_file_is(&lan.dir(2).join("out.img"), &published.v2);

    // Until the neighbour has fetched the new index and said what it holds of it, the origin is asked: a moment's worth.
    let (old, new) = (published.chunks("v1"), published.chunks("v2"));
    let unchanged = new.intersection(&old).count();
    let needless = origin.chunk_requests().keys().filter(|path| old.contains(*path)).count();
    assert!(needless * 20 <= unchanged, "{needless} of {unchanged} chunks that the neighbour has: {ran}");
}

#[test]
fn finished_image_is_handed_to_the_running_node() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[2]));
    let origin = lan.origin(&published.www());
    let _node = start_node(&lan, 1, &[]);
    start_extract(&lan, 1, &origin.url("v1.caibx"), &[]).wait(PATIENCE).ok();
    let before = origin.chunk_requests().values().sum::<usize>();
    start_extract(&lan, 2, &origin.url("v1.caibx"), &[]).wait(PATIENCE).ok();
    assert_file_is(&lan.dir(2).join("out.img"), &published.v1);
    let more = origin.chunk_requests().values().sum::<usize>() - before;
    assert!(more * 50 <= published.chunks("v1").len(), "{more} chunks were asked of the origin again");
}

#[test]
fn image_that_was_altered_on_disk_is_not_served_where_it_was_altered() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[2]).origin_mbit(25));
    let origin = lan.origin(&published.www());
    let index = give(&lan, 1, &published.www().join("v1.caibx"), "v1.caibx");
    let mut altered = published.v1.clone();
    altered.chunks_mut(4 << 20).for_each(|part| part[..1000].fill(0x5a));
    std::fs::write(lan.dir(1).join("v1.img"), altered).unwrap();
    let _node = start_node(&lan, 1, &["--image", &format!("{index}=v1.img")]);

    let ran = start_extract(&lan, 2, &origin.url("v1.caibx"), &[]).wait(PATIENCE).ok();
    assert_file_is(&lan.dir(2).join("out.img"), &published.v1);
    assert_eq!(ran.json()["corrupt_total"], 0, "{ran}");
    let asked = origin.chunk_requests_from(&lan.address(2));
    let chunks = published.chunks("v1").len();
    assert!(asked >= 7 && asked * 5 < chunks, "{asked} of {chunks} chunks were asked of the origin: {ran}");
}
