//! Networks with a key: who does not have it gets nothing but a proof that is of no use elsewhere. The strangers here
//! speak TLS as well as any node, and what they receive is counted byte by byte.

use std::net::SocketAddr;
use std::time::Duration;

use caswarm::node::admission::{Admission, PeerRule};
use caswarm::node::dht::{self, DhtConfig, DhtEvent};
use caswarm::node::identity::Identity;
use caswarm::node::membership::Membership;
use caswarm::node::network_key::NetworkKey;
use caswarm::node::session::{self, Session, SessionConfig, SessionError};
use caswarm::node::tls::TlsConfigs;
use proto::{IndexId, Message, codec};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::session::{config, hello};

/// Bytes of a proof of membership.
const PROOF: usize = 32;

fn key() -> NetworkKey {
    NetworkKey::generate().unwrap()
}

fn node(network: &str, key: Option<&NetworkKey>) -> SessionConfig {
    config(network, &Identity::ephemeral()).of(Membership::new(network, key))
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

type Opened = Result<Session, SessionError>;

/// Both ends of an attempt at a session: who dialled, who accepted.
async fn both(dialler: &SessionConfig, acceptor: &SessionConfig) -> (Opened, Opened) {
    let (listener, addr) = listen().await;
    let accepted = async { session::accept(listener.accept().await.unwrap().0, acceptor).await };
    tokio::join!(session::connect(addr, None, dialler), accepted)
}

/// A stranger's TLS, as that of a node whose network has a key.
fn stranger() -> TlsConfigs {
    TlsConfigs::new(&Identity::ephemeral()).unwrap().keyed()
}

async fn dial(tls: &TlsConfigs, addr: SocketAddr) -> tokio_rustls::client::TlsStream<TcpStream> {
    let tcp = TcpStream::connect(addr).await.unwrap();
    let name = ServerName::IpAddress(addr.ip().into());
    TlsConnector::from(tls.client.clone()).connect(name, tcp).await.unwrap()
}

async fn answer(tls: &TlsConfigs, listener: &TcpListener) -> tokio_rustls::server::TlsStream<TcpStream> {
    let (tcp, _) = listener.accept().await.unwrap();
    TlsAcceptor::from(tls.server.clone()).accept(tcp).await.unwrap()
}

async fn proof_of(stream: &mut (impl AsyncRead + Unpin)) -> [u8; PROOF] {
    let mut proof = [0; PROOF];
    stream.read_exact(&mut proof).await.unwrap();
    proof
}

/// Everything that still comes, and the end.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut rest = Vec::new();
    // However the other side ends the connection.
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.expect("not closed");
    rest
}

fn greeting() -> Vec<u8> {
    codec::encode(&Message::Hello(hello(""))).unwrap()
}

#[tokio::test]
async fn members_talk_and_those_with_another_key_or_none_do_not() {
    let (ours, other) = (key(), key());
    let (a, b) = both(&node("", Some(&ours)), &node("", Some(&ours))).await;
    let (a, mut b) = (a.unwrap(), b.unwrap());
    a.sender.send(&Message::Ping { nonce: 5 }).unwrap();
    assert_eq!(b.reader.next().await.unwrap().unwrap().0, Message::Ping { nonce: 5 });

    let (a, b) = both(&node("", Some(&ours)), &node("", Some(&other))).await;
    assert!(matches!(a, Err(SessionError::NotMember { .. })), "{a:?}");
    assert!(matches!(b, Err(SessionError::NotMember { .. })), "{b:?}");
    // One key for two networks does not make them one.
    let (a, b) = both(&node("red", Some(&ours)), &node("blue", Some(&ours))).await;
    assert!(matches!(a, Err(SessionError::NotMember { .. })) && b.is_err(), "{a:?} {b:?}");
    for (dialler, acceptor) in [(Some(&ours), None), (None, Some(&ours))] {
        let (a, b) = both(&node("", dialler), &node("", acceptor)).await;
        assert!(matches!(a, Err(SessionError::Handshake { .. } | SessionError::Lost { .. })), "{a:?}");
        assert!(matches!(b, Err(SessionError::Handshake { .. })), "{b:?}");
    }
}

#[tokio::test]
async fn stranger_without_the_key_hears_no_word_whichever_side_dialled() {
    let member = node("", Some(&key()));
    let guess = [0x5a; PROOF].to_vec();
    let no_alpn = {
        let mut tls = stranger();
        std::sync::Arc::make_mut(&mut tls.client).alpn_protocols.clear();
        tls
    };
    for (tls, says) in
        [(stranger(), Vec::new()), (stranger(), guess.clone()), (stranger(), greeting()), (no_alpn, greeting())]
    {
        let (listener, addr) = listen().await;
        let accepted = async { session::accept(listener.accept().await.unwrap().0, &member).await };
        let intruder = async {
            let mut stream = dial(&tls, addr).await;
            stream.write_all(&says).await.unwrap();
            let heard = proof_of(&mut stream).await.len();
            (heard, rest(&mut stream).await)
        };
        let (accepted, (_, heard)) = tokio::join!(accepted, intruder);
        assert!(accepted.is_err(), "{accepted:?}");
        assert_eq!(heard, b"", "after {says:?}");
    }
    let (listener, addr) = listen().await;
    let intruder = async {
        let mut stream = answer(&stranger(), &listener).await;
        stream.write_all(&guess).await.unwrap();
        proof_of(&mut stream).await;
        rest(&mut stream).await
    };
    let (dialled, heard) = tokio::join!(session::connect(addr, None, &member), intruder);
    assert!(matches!(dialled, Err(SessionError::NotMember { .. })), "{dialled:?}");
    assert_eq!(heard, b"");
}

#[tokio::test]
async fn proof_that_is_sent_back_to_who_made_it_proves_nothing() {
    let member = node("", Some(&key()));
    let (listener, addr) = listen().await;
    let accepted = async { session::accept(listener.accept().await.unwrap().0, &member).await };
    let mirror = async {
        let mut stream = dial(&stranger(), addr).await;
        let proof = proof_of(&mut stream).await;
        stream.write_all(&proof).await.unwrap();
        stream.write_all(&greeting()).await.unwrap();
        rest(&mut stream).await
    };
    let (accepted, heard) = tokio::join!(accepted, mirror);
    assert!(matches!(accepted, Err(SessionError::NotMember { .. })), "{accepted:?}");
    assert_eq!(heard, b"");
}

#[tokio::test]
async fn proof_of_another_session_proves_nothing() {
    let key = key();
    let (victim, member) = (node("", Some(&key)), node("", Some(&key)));
    // A member is lured into dialling the stranger, who takes its proof and presents it later, under its own name.
    let tls = stranger();
    let (trap, trap_addr) = listen().await;
    let lured = async {
        let mut stream = answer(&tls, &trap).await;
        let proof = proof_of(&mut stream).await;
        drop(stream);
        proof
    };
    let (lost, taken) = tokio::join!(session::connect(trap_addr, None, &victim), lured);
    assert!(lost.is_err());

    let (listener, addr) = listen().await;
    let accepted = async { session::accept(listener.accept().await.unwrap().0, &member).await };
    let replay = async {
        let mut stream = dial(&tls, addr).await;
        stream.write_all(&taken).await.unwrap();
        stream.write_all(&greeting()).await.unwrap();
        proof_of(&mut stream).await;
        rest(&mut stream).await
    };
    let (accepted, heard) = tokio::join!(accepted, replay);
    assert!(matches!(accepted, Err(SessionError::NotMember { .. })), "{accepted:?}");
    assert_eq!(heard, b"");
}

#[tokio::test]
async fn man_in_the_middle_of_two_members_hears_no_word_of_either() {
    let key = key();
    let (one, two) = (node("", Some(&key)), node("", Some(&key)));
    let (trap, trap_addr) = listen().await;
    let (listener, addr) = listen().await;
    let dialled = session::connect(trap_addr, None, &one);
    let accepted = async { session::accept(listener.accept().await.unwrap().0, &two).await };
    let middle = async {
        let tls = stranger();
        let (mut towards_one, mut towards_two) = (answer(&tls, &trap).await, dial(&tls, addr).await);
        let (of_one, of_two) = (proof_of(&mut towards_one).await, proof_of(&mut towards_two).await);
        relay(&mut towards_two, &of_one).await;
        relay(&mut towards_one, &of_two).await;
        (rest(&mut towards_one).await, rest(&mut towards_two).await)
    };
    let (dialled, accepted, heard) = tokio::join!(dialled, accepted, middle);
    assert!(matches!(dialled, Err(SessionError::NotMember { .. })), "{dialled:?}");
    assert!(matches!(accepted, Err(SessionError::NotMember { .. })), "{accepted:?}");
    assert_eq!(heard, (Vec::new(), Vec::new()));
}

async fn relay(to: &mut (impl AsyncWrite + Unpin), proof: &[u8]) {
    to.write_all(proof).await.unwrap();
    to.flush().await.unwrap();
}

#[tokio::test]
async fn nodes_that_are_denied_or_not_allowed_get_no_session() {
    let (one, two) = (node("", None), node("", None));
    let peer = |config: &SessionConfig| PeerRule::Node(config.tls.node);
    let with =
        |config: &SessionConfig, admission| SessionConfig { admission: Admission::into(admission), ..config.clone() };
    let loopback: PeerRule = "127.0.0.0/8".parse().unwrap();
    for (admission, admitted) in [
        (Admission { allow: vec![peer(&one)], ..Admission::default() }, true),
        (Admission { allow: vec![loopback], ..Admission::default() }, true),
        (Admission { allow: vec![peer(&two)], ..Admission::default() }, false),
        (Admission { deny: vec![peer(&one)], ..Admission::default() }, false),
        (Admission { allow: vec![peer(&one)], deny: vec![loopback], ..Admission::default() }, false),
    ] {
        let (_, accepted) = both(&one, &with(&two, admission.clone())).await;
        assert_eq!(accepted.is_ok(), admitted, "{admission:?}");
        // Where the address alone is refused, nothing is dialled, and nobody ever called.
        let (listener, addr) = listen().await;
        let (one, two) = (one.clone(), with(&two, admission.clone()));
        tokio::spawn(async move { session::accept(listener.accept().await.unwrap().0, &one).await.map(drop) });
        assert_eq!(session::connect(addr, None, &two).await.is_ok(), admitted, "{admission:?}");
    }
}

#[tokio::test]
async fn public_addresses_are_not_dialled_unless_they_are_allowed() {
    let addr = SocketAddr::from(([203, 0, 113, 1], 9));
    let refused = session::connect(addr, None, &node("", None)).await;
    assert!(matches!(refused, Err(SessionError::NotAdmitted { .. })), "{refused:?}");
}

fn dht(server: bool, session_port: u16, network: &Membership) -> DhtConfig {
    let listen = "127.0.0.1".parse().unwrap();
    DhtConfig { listen, server, network: network.clone(), ..DhtConfig::new(Identity::ephemeral(), session_port) }
}

#[tokio::test(flavor = "multi_thread")]
async fn dht_of_a_keyed_network_answers_its_members_and_nobody_else() {
    let ours = Membership::new("", Some(&key()));
    let (provider, server, asker) = (dht(false, 5001, &ours), dht(true, 0, &ours), dht(false, 5003, &ours));
    let wrong = dht(false, 5004, &Membership::new("", Some(&key())));
    let open = dht(false, 5005, &Membership::default());
    let (provider_id, server_id) = (provider.identity.node_id(), server.identity.node_id());
    let index = IndexId([8; 32]);
    let (provider, _p) = dht::start(provider).await.unwrap();
    let (server, _s) = dht::start(server).await.unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], server.port()));
    provider.provide(index);
    provider.add_peer(server_id, at);

    let (asker, mut found) = dht::start(asker).await.unwrap();
    let (wrong, mut by_wrong) = dht::start(wrong).await.unwrap();
    let (open, mut by_open) = dht::start(open).await.unwrap();
    for handle in [&asker, &wrong, &open] {
        handle.add_peer(server_id, at);
        handle.find_providers(index);
    }
    // Asked again and again, as a node does that lacks something.
    let wait = async {
        loop {
            let event = tokio::time::timeout(Duration::from_secs(1), found.recv()).await;
            if let Ok(event) = event
                && let DhtEvent::Provider { node, .. } = event.expect("the DHT ended")
            {
                return node;
            }
            [&asker, &wrong, &open].iter().for_each(|handle| handle.find_providers(index));
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(30), wait).await.expect("not found in time"), provider_id);
    // The strangers had the same time, and do not even know that a DHT is there.
    assert!(by_wrong.try_recv().is_err() && by_open.try_recv().is_err());

    // On the wire there is a nonce, and then nothing that a stranger can read.
    let mut tcp = TcpStream::connect(at).await.unwrap();
    tcp.write_all(&[7; 24]).await.unwrap();
    tcp.write_all(b"\x13/multistream/1.0.0\n\x07/noise\n").await.unwrap();
    let heard = rest(&mut tcp).await;
    assert!(heard.len() >= 24 && !heard.windows(11).any(|part| part == b"multistream"), "{heard:?}");
}
