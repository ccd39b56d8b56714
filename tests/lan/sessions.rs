//! How sessions come about and end, where the other side is late, dead, silent or greedy.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use caswarm::node::identity::Identity;
use caswarm::node::session::{self, Session, SessionConfig};
use proto::message::Join;
use proto::{IndexId, Message};

use super::published::Published;
use super::{machine_can, neighbours, start_node, start_provider};
use crate::support::lan::{Lan, Plan, wait_until};
use crate::support::session::config as session_config;
use crate::support::{caswarm, run};

#[test]
fn bootstrap_that_is_no_address_is_refused_with_its_text() {
    let state = tempfile::tempdir().unwrap();
    for text in ["nowhere", "host:0", "1.2.3:77", "fe80::1:77", "http://host:77"] {
        let ran = run(caswarm(state.path()).args(["node", "--bootstrap", text])).failed();
        ran.says(&["--bootstrap", text, "give host:port"]);
    }
}

#[test]
fn bootstrap_name_is_resolved_again_until_one_of_its_addresses_answers() {
    if !machine_can() {
        return;
    }
    let lan = Lan::new(Plan::segments(&[1, 1]));
    lan.names(2, "127.0.0.1 localhost\n");
    let mut first = start_node(&lan, 1, &[]);
    let second = start_node(&lan, 2, &["--bootstrap", "first.test:7748"]);
    wait_until("it says that the name means nothing", Duration::from_secs(20), || {
        second.stderr().contains("--bootstrap first.test:7748")
    });
    lan.names(2, &format!("10.77.1.200 first.test\n{} first.test\n", lan.address(1)));
    wait_until("they have met", Duration::from_secs(60), || neighbours(&lan, 2) == 1);

    first.kill();
    wait_until("the session is gone", Duration::from_secs(30), || neighbours(&lan, 2) == 0);
    let _first = start_node(&lan, 1, &[]);
    wait_until("they have met again", Duration::from_secs(60), || neighbours(&lan, 2) == 1);
    let said = second.stderr();
    assert_eq!(said.matches("--bootstrap").count(), 1, "{said}");
}

#[test]
fn address_that_opens_connections_and_says_nothing_keeps_nobody_else_out() {
    if !machine_can() {
        return;
    }
    let lan = Lan::new(Plan::hosts(&[3]));
    let _node = start_node(&lan, 1, &[]);
    let node = address(&lan, 1);
    let silent: Vec<_> = lan.on(2, || (0..100).map(|_| TcpStream::connect(node).unwrap()).collect());
    let opened = lan.on(3, || block_on(session::connect(node, None, &config(&Identity::ephemeral()))).map(drop));
    opened.unwrap();
    drop(silent);
}

#[test]
fn address_that_brings_many_nodes_does_not_take_every_session() {
    if !machine_can() {
        return;
    }
    let lan = Lan::new(Plan::hosts(&[2]));
    let _node = start_node(&lan, 1, &[]);
    let node = address(&lan, 1);
    let kept = lan.on(2, || {
        block_on(async {
            let mut kept = Vec::new();
            for _ in 0..40 {
                let mut session = session::connect(node, None, &config(&Identity::ephemeral())).await.unwrap();
                if answers(&mut session).await {
                    kept.push(session);
                }
            }
            kept.len()
        })
    });
    assert_eq!(kept, 32);
}

#[test]
fn node_that_lost_its_session_gets_another_before_the_old_one_is_given_up() {
    if !machine_can() {
        return;
    }
    let lan = Lan::new(Plan::hosts(&[2]));
    let _node = start_node(&lan, 1, &[]);
    let node = address(&lan, 1);
    lan.on(2, || {
        block_on(async {
            let config = config(&Identity::ephemeral());
            // Nobody reads it: to the node it is as if the machine had lost power.
            let _lost = session::connect(node, None, &config).await.unwrap();
            let began = Instant::now();
            loop {
                let mut session = session::connect(node, None, &config).await.unwrap();
                if answers(&mut session).await {
                    break;
                }
                assert!(began.elapsed() < Duration::from_secs(12), "the node holds on to the dead session");
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
    });
}

#[test]
fn node_that_keeps_no_records_for_others_tells_no_dht_port() {
    if !machine_can() {
        return;
    }
    let lan = Lan::new(Plan::hosts(&[3]));
    let _nodes = (start_node(&lan, 1, &[]), start_node(&lan, 2, &["--no-dht-server"]));
    let dht_port = |host| {
        let node = address(&lan, host);
        lan.on(3, || {
            block_on(async {
                session::connect(node, None, &config(&Identity::ephemeral())).await.unwrap().hello.dht_port
            })
        })
    };
    assert_ne!(dht_port(1), 0);
    assert_eq!(dht_port(2), 0);
}

#[test]
fn peer_that_asks_for_an_index_again_and_again_is_refused() {
    const ASKED: usize = 3000;
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[2]));
    let _node = start_provider(&lan, 1, &published, &[]);
    let (node, index) = (address(&lan, 1), published.v1_id.parse::<IndexId>().unwrap());
    let (given, refused) = lan.on(2, || {
        block_on(async {
            let mut session = session::connect(node, None, &config(&Identity::ephemeral())).await.unwrap();
            for _ in 0..ASKED {
                session.sender.send(&Message::GetIndex { index }).unwrap();
            }
            // It does not read until all of them have come.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let (mut given, mut refused) = (0, 0);
            while given + refused < ASKED {
                match session.reader.next().await.unwrap().unwrap().0 {
                    Message::IndexPart { offset: 0, .. } => given += 1,
                    Message::NoIndex { .. } => refused += 1,
                    _ => {}
                }
            }
            (given, refused)
        })
    });
    assert!(given > 0 && refused > ASKED / 2, "{given} given, {refused} refused");
}

#[test]
fn who_may_hold_chunks_of_an_image_says_so_to_all_neighbours_and_when_it_does_not() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[2]));
    let _node = start_provider(&lan, 1, &published, &[]);
    let (node, index) = (address(&lan, 1), IndexId([9; 32]));
    lan.on(2, || {
        block_on(async {
            let one = session::connect(node, None, &config(&Identity::ephemeral())).await.unwrap();
            let mut other = session::connect(node, None, &config(&Identity::ephemeral())).await.unwrap();
            assert!(answers(&mut other).await);
            let join = |downloads| Join { index, downloads, has_index: downloads };
            one.sender.send(&Message::Join(join(true))).unwrap();
            assert_eq!(about(&mut other, index).await, Message::Join(join(false)));
            one.sender.send(&Message::NoIndex { index }).unwrap();
            assert_eq!(about(&mut other, index).await, Message::Leave { index });
        });
    });
}

/// What the other side says next of an index: that it takes part, or no longer.
async fn about(session: &mut Session, index: IndexId) -> Message {
    loop {
        let (message, _) = session.reader.next().await.unwrap().unwrap();
        match &message {
            Message::Join(join) if join.index == index => return message,
            Message::Leave { index: of } if *of == index => return message,
            _ => {}
        }
    }
}

/// Whether the other side answers a ping, and does not close the session instead.
async fn answers(session: &mut Session) -> bool {
    if session.sender.send(&Message::Ping { nonce: 7 }).is_err() {
        return false;
    }
    while let Ok(Some((message, _))) = session.reader.next().await {
        match message {
            Message::Pong { nonce: 7 } => return true,
            Message::Bye { .. } => return false,
            _ => {}
        }
    }
    false
}

pub(super) fn address(lan: &Lan, host: usize) -> SocketAddr {
    SocketAddr::new(lan.address(host).parse().unwrap(), 7748)
}

pub(super) fn config(identity: &Identity) -> SessionConfig {
    session_config("", identity)
}

pub(super) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}
