//! A network without IPv4.

use std::time::Duration;

use super::published::Published;
use super::{machine_can, neighbours, start_extract, start_node, start_provider};
use crate::support::data::assert_file_is;
use crate::support::lan::{Lan, Plan, wait_until};
use crate::support::process::PATIENCE;
use crate::support::{Need, require};

#[test]
fn machines_with_ipv6_only_find_each_other_and_trade() {
    if !machine_can() || !require(&[Need::Ipv6]) {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[2]).ipv6());
    let _node = start_provider(&lan, 1, &published, &[]);
    let arguments = ["--index-id", &published.v1_id];
    start_extract(&lan, 2, "http://10.79.0.2/v1.caibx", &arguments).wait(PATIENCE).ok();
    assert_file_is(&lan.dir(2).join("out.img"), &published.v1);
}

#[test]
fn provider_in_another_ipv6_segment_is_found_through_the_dht() {
    if !machine_can() || !require(&[Need::Ipv6]) {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::segments(&[2, 1]).ipv6());
    let _provider = start_provider(&lan, 1, &published, &[]);
    let _known = start_node(&lan, 2, &[]);
    wait_until("the first two have met", Duration::from_secs(20), || neighbours(&lan, 2) == 1);

    let bootstrap = format!("[{}]:7748", lan.address(2));
    let arguments = ["--index-id", &published.v1_id, "--bootstrap", &bootstrap];
    start_extract(&lan, 3, "http://10.79.0.2/v1.caibx", &arguments).wait(PATIENCE).ok();
    assert_file_is(&lan.dir(3).join("out.img"), &published.v1);
}
