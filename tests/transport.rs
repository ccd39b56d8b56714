//! Sessions, discovery and the DHT over real sockets.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use caswarm::node::dht::{self, DhtConfig, DhtEvent};
use caswarm::node::discovery::{Discovery, DiscoveryConfig, DiscoveryEvent};
use caswarm::node::identity::Identity;
use caswarm::node::membership::Membership;
use caswarm::node::session::{self, SendError, Session, SessionConfig, SessionError};
use proto::message::Encoding;
use proto::{ChunkId, IndexId, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn config(network: &str) -> SessionConfig {
    crate::support::session::config(network, &Identity::ephemeral())
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Both ends of an attempt at a session: who dialled, who accepted.
async fn both(
    dialler: &SessionConfig,
    acceptor: &SessionConfig,
) -> (Result<Session, SessionError>, Result<Session, SessionError>) {
    let (listener, addr) = listen().await;
    let accepted = async { session::accept(listener.accept().await.unwrap().0, acceptor).await };
    tokio::join!(session::connect(addr, None, dialler), accepted)
}

async fn pair() -> (Session, Session) {
    let (a, b) = both(&config(""), &config("")).await;
    (a.unwrap(), b.unwrap())
}

fn chunk(length: usize) -> Message {
    Message::Chunk { index: IndexId([1; 32]), position: 7, encoding: Encoding::Plain, length: length as u32 }
}

#[tokio::test]
async fn two_sessions_talk_and_each_side_knows_the_other() {
    let (one, two) = (config(""), config(""));
    let (a, b) = both(&one, &two).await;
    let (mut a, mut b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.hello, two.hello);
    let ids = [a.remote, b.remote];
    assert_ne!(ids[0], ids[1]);

    a.sender.send(&Message::Ping { nonce: 5 }).unwrap();
    assert_eq!(b.reader.next().await.unwrap().unwrap().0, Message::Ping { nonce: 5 });
    let payload = Bytes::from(vec![9; 300_000]);
    b.sender.try_send_chunk(chunk(payload.len()), payload.clone()).unwrap();
    assert_eq!(a.reader.next().await.unwrap().unwrap(), (chunk(payload.len()), payload));
}

#[tokio::test]
async fn closing_says_goodbye_and_ends_both_sides() {
    let (mut a, mut b) = pair().await;
    a.sender.close("shutting down");
    assert_eq!(a.sender.send(&Message::Ping { nonce: 1 }), Err(SendError::Closed));
    assert_eq!(b.reader.next().await.unwrap().unwrap().0, Message::Bye { reason: "shutting down".into() });
    assert!(b.reader.next().await.unwrap().is_none());
    assert!(a.reader.next().await.unwrap().is_none());
}

#[tokio::test]
async fn dropping_one_side_ends_the_other() {
    let (a, mut b) = pair().await;
    a.sender.send(&Message::Ping { nonce: 1 }).unwrap();
    drop(a);
    assert_eq!(b.reader.next().await.unwrap().unwrap().0, Message::Ping { nonce: 1 });
    assert!(b.reader.next().await.unwrap().is_none());
    drop(b.reader);
    assert!(b.sender.is_closed());
}

#[tokio::test]
async fn a_node_other_than_the_one_dialled_is_refused() {
    let (listener, addr) = listen().await;
    let server = config("");
    let expected = Identity::ephemeral().node_id();
    let accepted = async { session::accept(listener.accept().await.unwrap().0, &server).await };
    let client = config("");
    let (dialled, accepted) = tokio::join!(session::connect(addr, Some(expected), &client), accepted);
    assert!(matches!(dialled, Err(SessionError::WrongNode { expected: e, .. }) if e == expected), "{dialled:?}");
    assert!(accepted.is_err());
}

#[tokio::test]
async fn other_networks_other_versions_and_oneself_are_refused_by_both_sides() {
    let (a, b) = both(&config("red"), &config("blue")).await;
    assert!(matches!(&a, Err(SessionError::Network { theirs, .. }) if theirs == "blue"), "{a:?}");
    assert!(matches!(&b, Err(SessionError::Network { theirs, .. }) if theirs == "red"), "{b:?}");

    let mut newer = config("");
    newer.hello.version += 1;
    let (a, b) = both(&config(""), &newer).await;
    assert!(matches!(a, Err(SessionError::Version { .. })), "{a:?}");
    assert!(matches!(b, Err(SessionError::Version { .. })), "{b:?}");

    let one = config("");
    let (a, b) = both(&one, &one).await;
    assert!(matches!(a, Err(SessionError::Itself { .. })), "{a:?}");
    assert!(matches!(b, Err(SessionError::Itself { .. })), "{b:?}");
}

#[tokio::test]
async fn garbage_instead_of_tls_is_refused() {
    let (listener, addr) = listen().await;
    let garbage = async {
        let mut tcp = TcpStream::connect(addr).await.unwrap();
        tcp.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        tcp.read_to_end(&mut rest).await.ok();
    };
    let server = config("");
    let accepted = async { session::accept(listener.accept().await.unwrap().0, &server).await };
    let ((), accepted) = tokio::join!(garbage, accepted);
    assert!(matches!(accepted, Err(SessionError::Handshake { .. })), "{accepted:?}");
}

#[tokio::test]
async fn a_silent_stranger_is_given_up_in_time() {
    let (listener, addr) = listen().await;
    let _silent = TcpStream::connect(addr).await.unwrap();
    let began = Instant::now();
    let accepted = session::accept(listener.accept().await.unwrap().0, &config("")).await;
    assert!(matches!(accepted, Err(SessionError::TimedOut { .. })), "{accepted:?}");
    assert!(began.elapsed() < session::OPENING + Duration::from_secs(2));
}

#[tokio::test]
async fn nobody_listening_is_told_with_the_address() {
    let (listener, addr) = listen().await;
    drop(listener);
    let error = session::connect(addr, None, &config("")).await.unwrap_err();
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_reads_costs_a_bounded_amount_and_is_cut() {
    let mut one = config("");
    one.stall = Duration::from_secs(1);
    let (a, b) = both(&one, &config("")).await;
    let (mut a, _unread) = (a.unwrap(), b.unwrap());
    a.sender.limit_chunks(1 << 20);
    let payload = Bytes::from(vec![0; 65_536]);
    let began = Instant::now();
    let mut taken = 0;
    let refused = loop {
        match a.sender.try_send_chunk(chunk(payload.len()), payload.clone()) {
            Ok(()) => taken += payload.len(),
            Err(SendError::Full) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(e) => break e,
        }
        assert!(a.sender.queued_bytes() < 2 << 20);
        assert!(began.elapsed() < Duration::from_secs(20));
    };
    assert_eq!(refused, SendError::Closed);
    assert!(taken < 64 << 20, "{taken}");
    let end = a.reader.next().await;
    assert!(matches!(end, Err(SessionError::Lost { .. })), "{end:?}");
}

#[tokio::test]
async fn control_messages_overtake_queued_chunks() {
    let (a, mut b) = pair().await;
    a.sender.limit_chunks(64 << 20);
    let payload = Bytes::from(vec![0; 1 << 18]);
    for _ in 0..200 {
        a.sender.try_send_chunk(chunk(payload.len()), payload.clone()).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    a.sender.send(&Message::Ping { nonce: 3 }).unwrap();
    let mut before = 0;
    while !matches!(b.reader.next().await.unwrap().unwrap().0, Message::Ping { .. }) {
        before += 1;
    }
    assert!(before < 100, "{before} of 200 chunks came first");
}

#[tokio::test]
async fn queued_chunks_can_be_taken_back() {
    let (a, mut b) = pair().await;
    let id = |n| Message::ChunkById { chunk: ChunkId([n; 32]), encoding: Encoding::Plain, length: 3 };
    for n in 0..4 {
        a.sender.try_send_chunk(id(n), Bytes::from_static(b"abc")).unwrap();
    }
    assert_eq!(a.sender.retract(|m| *m == id(1) || *m == id(2)), 2);
    assert_eq!(b.reader.next().await.unwrap().unwrap().0, id(0));
    assert_eq!(b.reader.next().await.unwrap().unwrap().0, id(3));
}

#[tokio::test]
async fn a_payload_of_another_length_than_announced_is_not_sent() {
    let (a, _b) = pair().await;
    assert!(matches!(a.sender.try_send_chunk(chunk(4), Bytes::from_static(b"abc")), Err(SendError::Invalid(_))));
    assert!(matches!(a.sender.send(&chunk(4)), Err(SendError::Invalid(_))));
}

/// The next event about `node`, within `limit`.
async fn event_about(
    events: &mut tokio::sync::mpsc::Receiver<DiscoveryEvent>,
    node: proto::NodeId,
    limit: Duration,
) -> DiscoveryEvent {
    let wait = async {
        loop {
            match events.recv().await.expect("discovery ended") {
                DiscoveryEvent::Found(found) if found.node != node => {}
                DiscoveryEvent::Lost(lost) if lost != node => {}
                DiscoveryEvent::Warning(_) => {}
                event => return event,
            }
        }
    };
    tokio::time::timeout(limit, wait).await.expect("no event in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_find_each_other_by_multicast_and_notice_a_goodbye() {
    let (early, late) = (Identity::ephemeral(), Identity::ephemeral());
    let named = |identity: &Identity, port, network: &str| {
        let network = Membership::from(network);
        DiscoveryConfig { zone: "rack 1".into(), network, ..DiscoveryConfig::new(identity, port) }
    };
    let (here, mut events) = Discovery::start(named(&early, 4001, "t"));
    let (_stranger, mut strange) = Discovery::start(named(&Identity::ephemeral(), 4003, "another"));
    tokio::time::sleep(Duration::from_millis(500)).await;

    let began = Instant::now();
    let (there, _events) = Discovery::start(named(&late, 4002, "t"));
    let event = event_about(&mut events, late.node_id(), Duration::from_secs(5)).await;
    let took = began.elapsed();
    let DiscoveryEvent::Found(found) = event else { panic!("{event:?}") };
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(found.addresses.iter().all(|a| a.port() == 4002), "{found:?}");
    assert_eq!((found.zone.as_str(), found.held), ("rack 1", 0));

    let tag = Membership::from("t").tag(late.node_id(), &IndexId([3; 32]));
    there.update(77, vec![tag]);
    loop {
        let event = event_about(&mut events, late.node_id(), Duration::from_secs(8)).await;
        let DiscoveryEvent::Found(found) = event else { panic!("{event:?}") };
        // Told as the power of two below it.
        if found.held == 64 {
            assert_eq!(found.tags, [tag]);
            break;
        }
    }

    there.shutdown().await;
    while event_about(&mut events, late.node_id(), Duration::from_secs(5)).await != DiscoveryEvent::Lost(late.node_id())
    {
    }
    here.shutdown().await;
    while let Ok(event) = strange.try_recv() {
        assert!(!matches!(event, DiscoveryEvent::Found(_)), "{event:?}");
    }
}

fn dht(server: bool, session_port: u16) -> DhtConfig {
    let listen = "127.0.0.1".parse().unwrap();
    DhtConfig { listen, server, ..DhtConfig::new(Identity::ephemeral(), session_port) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_is_found_through_a_node_in_the_middle() {
    let (left, middle, right) = (dht(false, 5001), dht(true, 0), dht(false, 5003));
    let provider = left.identity.node_id();
    let middle_id = middle.identity.node_id();
    let (left, _left_events) = dht::start(left).await.unwrap();
    let (middle, _middle_events) = dht::start(middle).await.unwrap();
    let (right, mut events) = dht::start(right).await.unwrap();
    let index = IndexId([8; 32]);

    // Announced and searched before anybody is known: both have to be made up for.
    left.provide(index);
    right.find_providers(index);
    let middle_addr = SocketAddr::from(([127, 0, 0, 1], middle.port()));
    left.add_peer(middle_id, middle_addr);
    tokio::time::sleep(Duration::from_millis(700)).await;
    let began = Instant::now();
    right.add_peer(middle_id, middle_addr);

    let wait = async {
        loop {
            match events.recv().await.expect("the DHT ended") {
                DhtEvent::Provider { index, node, addr } => return (index, node, addr),
                DhtEvent::Joined => {}
            }
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(10), wait).await.expect("not found in time");
    assert_eq!(found, (index, provider, SocketAddr::from(([127, 0, 0, 1], 5001))));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_taken_port_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = dht::start(DhtConfig { port, ..dht(false, 0) }).await.unwrap_err();
    assert!(error.to_string().contains(&port.to_string()), "{error}");
}
