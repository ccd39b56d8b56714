//! Nodes to start from by DNS names, with a name server that the test runs.

use std::process::Command;
use std::time::Duration;

use super::{machine_can, node_of, start_node, status};
use crate::support::lan::{Lan, Plan, wait_until};
use crate::support::need::find_program;
use crate::support::{Need, Process, require};

/// Lets a host ask a name server of its own that knows this, in dnsmasq's words.
fn name_server(lan: &Lan, host: usize, knows: &[&str]) -> Process {
    lan.names(host, "127.0.0.1 localhost\n");
    let mut dnsmasq = Command::new(find_program("dnsmasq").unwrap());
    dnsmasq.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"]);
    dnsmasq.args(["--pid-file=", "--listen-address=127.0.0.1", "--bind-interfaces", "--local-ttl=0"]);
    lan.run(host, dnsmasq.args(knows))
}

/// The peer ids of a host's neighbours.
fn met(lan: &Lan, host: usize) -> Vec<String> {
    let neighbours = status(lan, host)["neighbours"].as_array().unwrap().clone();
    neighbours.iter().map(|neighbour| neighbour["peer_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn nodes_behind_a_name_are_met_by_srv_and_by_dnsaddr_records() {
    if !machine_can() || !require(&[Need::Program("dnsmasq")]) {
        return;
    }
    let lan = Lan::new(Plan::segments(&[1, 1, 1]));
    let _first = start_node(&lan, 1, &[]);
    let peer = status(&lan, 1)["peer_id"].as_str().unwrap().to_owned();
    let dnsaddr = format!("--txt-record=_dnsaddr.inner.test,dnsaddr=/ip4/10.77.1.1/tcp/7748/p2p/{peer}");
    for (host, knows, name) in [
        (
            2,
            vec!["--srv-host=_caswarm._tcp.fleet.test,one.test,7748", "--host-record=one.test,10.77.1.1"],
            "fleet.test",
        ),
        (3, vec!["--txt-record=_dnsaddr.outer.test,dnsaddr=/dnsaddr/inner.test", &dnsaddr], "/dnsaddr/outer.test"),
    ] {
        let _server = name_server(&lan, host, &knows);
        let node = start_node(&lan, host, &["--bootstrap", name]);
        wait_until("they have met", Duration::from_secs(30), || met(&lan, host).contains(&peer));
        assert_eq!(node.stderr(), "");
    }
}

#[test]
fn name_is_resolved_again_when_all_that_it_stood_for_are_lost() {
    if !machine_can() || !require(&[Need::Program("dnsmasq")]) {
        return;
    }
    let lan = Lan::new(Plan::segments(&[1, 1, 1]));
    let mut first = start_node(&lan, 1, &[]);
    let second = start_node(&lan, 2, &["--bootstrap", "fleet.test"]);
    wait_until("it says what is missing", Duration::from_secs(30), || {
        second.stderr().contains("--bootstrap fleet.test: ")
    });
    drop(second);

    let srv = "--srv-host=_caswarm._tcp.fleet.test,one.test,7748";
    let server = name_server(&lan, 2, &[srv, "--host-record=one.test,10.77.1.1"]);
    let _second = start_node(&lan, 2, &["--bootstrap", "fleet.test"]);
    let there = |host: usize, node: proto::NodeId| {
        let peer = caswarm::node::identity::peer_id_of(node).unwrap().to_string();
        met(&lan, host).contains(&peer)
    };
    let one = node_of(&lan, 1);
    wait_until("they have met", Duration::from_secs(30), || there(2, one));
    drop(server);
    let _server = name_server(&lan, 2, &[srv, "--host-record=one.test,10.77.3.3"]);
    let _third = start_node(&lan, 3, &[]);
    let three = node_of(&lan, 3);
    first.kill();
    wait_until("the name's new node is met", Duration::from_secs(90), || there(2, three));
}
