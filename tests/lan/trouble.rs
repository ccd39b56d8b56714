//! Several machines extract one image while some of them, their links or the origin fail: everyone ends with the right
//! image, and the origin is not asked for much more than once.

use std::time::Duration;

use rustix::process::Signal;

use super::published::Published;
use super::{machine_can, start_extract};
use crate::support::data::assert_file_is;
use crate::support::lan::{Lan, Origin, Plan, wait_until};
use crate::support::process::{PATIENCE, Process};

/// A LAN on which every host extracts the first version from the origin.
struct Swarm {
    published: std::sync::Arc<Published>,
    lan: Lan,
    origin: Origin,
    /// By host, from 1; the first place is empty.
    extracting: Vec<Option<Process>>,
}

impl Swarm {
    fn start(plan: Plan) -> Self {
        let published = Published::get();
        let lan = Lan::new(plan);
        let origin = lan.origin(&published.www());
        let mut swarm = Self { published, lan, origin, extracting: vec![None] };
        for host in swarm.lan.hosts() {
            let process = swarm.extract(host);
            swarm.extracting.push(Some(process));
        }
        swarm
    }

    fn extract(&self, host: usize) -> Process {
        start_extract(&self.lan, host, &self.origin.url("v1.caibx"), &["--linger", "60"])
    }

    fn kill(&mut self, host: usize) {
        self.extracting[host] = None;
    }

    fn signal(&self, host: usize, signal: Signal) {
        self.extracting[host].as_ref().unwrap().signal(signal);
    }

    /// Waits until the origin has been asked for this part of the image's chunks.
    fn reaches(&self, part: f64) {
        let wanted = (self.published.chunks("v1").len() as f64 * part) as usize;
        wait_until("so much was asked for", PATIENCE, || self.origin.chunk_requests().len() >= wanted);
    }

    fn has_finished(&self, host: usize) -> bool {
        self.lan.dir(host).join("out.img").exists()
    }

    /// Waits until these hosts have the image, the right one.
    fn finish(&self, hosts: impl IntoIterator<Item = usize>) {
        for host in hosts {
            wait_until("the image is there", PATIENCE, || self.has_finished(host));
            assert_file_is(&self.lan.dir(host).join("out.img"), &self.published.v1);
        }
    }

    /// Requests for chunks over the number of chunks.
    fn asked(&self) -> f64 {
        let requests: usize = self.origin.chunk_requests().values().sum();
        requests as f64 / self.published.chunks("v1").len() as f64
    }
}

#[test]
fn killed_machine_costs_no_more_than_what_it_had_begun_and_finishes_when_started_again() {
    if !machine_can() {
        return;
    }
    let mut swarm = Swarm::start(Plan::hosts(&[5]).origin_mbit(25));
    swarm.reaches(0.4);
    swarm.kill(3);
    swarm.reaches(0.7);
    swarm.extracting[3] = Some(swarm.extract(3));
    swarm.finish(swarm.lan.hosts());
    assert!(swarm.asked() <= 1.15, "{:.3} requests a chunk", swarm.asked());
}

#[test]
fn frozen_machine_is_passed_over_and_finishes_once_it_thaws() {
    if !machine_can() {
        return;
    }
    let swarm = Swarm::start(Plan::hosts(&[4]).origin_mbit(25));
    swarm.reaches(0.4);
    swarm.signal(2, Signal::STOP);
    swarm.finish([1, 3, 4]);
    assert!(!swarm.has_finished(2));
    swarm.signal(2, Signal::CONT);
    swarm.finish([2]);
    // What the frozen machine had asked for itself is asked for again, and what it had not, only once.
    assert!(swarm.asked() <= 1.15, "{:.3} requests a chunk", swarm.asked());
}

#[test]
fn halves_of_a_split_lan_trade_again_when_it_is_whole() {
    if !machine_can() {
        return;
    }
    let swarm = Swarm::start(Plan::hosts(&[4]).origin_mbit(15));
    swarm.reaches(0.3);
    swarm.lan.split(&[1, 2]);
    swarm.reaches(0.6);
    swarm.lan.hosts().for_each(|host| swarm.lan.heal(host));
    swarm.finish(swarm.lan.hosts());
    // While it is split, each half has to ask for itself.
    assert!(swarm.asked() <= 1.6, "{:.3} requests a chunk", swarm.asked());
}

#[test]
fn origin_that_dies_halfway_and_comes_back_stops_nobody_for_good() {
    if !machine_can() {
        return;
    }
    let mut swarm = Swarm::start(Plan::hosts(&[4]).origin_mbit(25));
    swarm.reaches(0.5);
    swarm.origin.stop();
    std::thread::sleep(Duration::from_secs(3));
    swarm.origin.start_again(&swarm.lan, &swarm.published.www());
    swarm.finish(swarm.lan.hosts());
    assert!(swarm.asked() <= 1.15, "{:.3} requests a chunk", swarm.asked());
}

#[test]
fn machine_on_a_link_ten_times_slower_holds_up_nobody_else() {
    if !machine_can() {
        return;
    }
    let swarm = Swarm::start(Plan::hosts(&[4]).lan_mbit(50).origin_mbit(50));
    swarm.lan.slow(2, 5);
    swarm.finish([1, 3, 4]);
    assert!(!swarm.has_finished(2));
    // What it has to send the others need not wait for; what it has to receive takes it as long as it takes.
    swarm.finish([2]);
    assert!(swarm.asked() <= 1.15, "{:.3} requests a chunk", swarm.asked());
}

#[test]
fn machines_that_come_and_go_all_the_time_end_with_the_image() {
    if !machine_can() {
        return;
    }
    let mut swarm = Swarm::start(Plan::hosts(&[5]).origin_mbit(20));
    for host in [1, 2, 3, 4, 5, 1, 3] {
        std::thread::sleep(Duration::from_millis(700));
        if !swarm.has_finished(host) {
            swarm.kill(host);
            std::thread::sleep(Duration::from_millis(300));
            swarm.extracting[host] = Some(swarm.extract(host));
        }
    }
    swarm.finish(swarm.lan.hosts());
    assert!(swarm.asked() <= 1.3, "{:.3} requests a chunk", swarm.asked());
}

#[test]
fn links_that_lose_one_packet_in_twenty_cost_time_and_no_copies() {
    if !machine_can() {
        return;
    }
    let swarm = Swarm::start(Plan::hosts(&[3]).loss_percent(5).origin_mbit(50));
    swarm.finish(swarm.lan.hosts());
    assert!(swarm.asked() <= 1.2, "{:.3} requests a chunk", swarm.asked());
}
