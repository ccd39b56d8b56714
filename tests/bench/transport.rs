//! What a session costs beside plain TCP, and what starting the DHT costs. Both ends are in this process, on loopback.
//!
//! `cargo bench --bench transport`. With the argument `join`, run on several machines or in several network namespaces at
//! once, it instead looks for neighbours for five seconds and says when it had its first session, and with how many.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use caswarm::node::dht::{self, DhtConfig};
use caswarm::node::discovery::{Discovery, DiscoveryConfig, DiscoveryEvent};
use caswarm::node::identity::Identity;
use caswarm::node::session::{self, SessionConfig};
use caswarm::node::tls::TlsConfigs;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use proto::message::{Encoding, Hello};
use proto::{IndexId, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const CHUNK: usize = 64 << 10;
const CHUNKS: usize = 32_768;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if std::env::args().any(|arg| arg == "join") {
        runtime.block_on(join());
        return;
    }
    for _ in 0..3 {
        let plain = runtime.block_on(measure("plain TCP", plain_tcp()));
        let session = runtime.block_on(measure("session", one_session()));
        println!("session / plain TCP: {:.2} of the rate", session / plain);
    }
    runtime.block_on(handshakes());
    runtime.block_on(dht_start());
}

/// Prints rate and CPU time of moving the bytes, and returns MB/s.
async fn measure(name: &str, transfer: impl Future<Output = Duration>) -> f64 {
    let before = cpu_seconds();
    let took = transfer.await;
    let bytes = (CHUNK * CHUNKS) as f64;
    let rate = bytes / 1e6 / took.as_secs_f64();
    println!("{name}: {rate:.0} MB/s, {:.2} CPU s per GB, both ends", (cpu_seconds() - before) / bytes * 1e9);
    rate
}

async fn plain_tcp() -> Duration {
    let (listener, addr) = listen().await;
    let (client, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
    let (mut client, mut server) = (client.unwrap(), accepted.unwrap().0);
    let began = Instant::now();
    let writer = tokio::spawn(async move {
        let chunk = vec![7; CHUNK];
        for _ in 0..CHUNKS {
            client.write_all(&chunk).await.unwrap();
        }
    });
    let mut chunk = vec![0; CHUNK];
    for _ in 0..CHUNKS {
        server.read_exact(&mut chunk).await.unwrap();
    }
    writer.await.unwrap();
    began.elapsed()
}

async fn one_session() -> Duration {
    let (listener, addr) = listen().await;
    let (one, two) = (config(), config());
    let accepted = async { session::accept(listener.accept().await.unwrap().0, &two).await };
    let (a, b) = tokio::join!(session::connect(addr, None, &one), accepted);
    let (a, mut b) = (a.unwrap(), b.unwrap());
    let began = Instant::now();
    let sending = tokio::spawn(async move {
        let payload = Bytes::from(vec![7; CHUNK]);
        for position in 0..CHUNKS as u32 {
            let index = IndexId([1; 32]);
            let message = Message::Chunk { index, position, encoding: Encoding::Zstd, length: CHUNK as u32 };
            a.sender.send_chunk(message, payload.clone()).await.unwrap();
        }
        a
    });
    for _ in 0..CHUNKS {
        assert_eq!(b.reader.next().await.unwrap().unwrap().1.len(), CHUNK);
    }
    let took = began.elapsed();
    drop(sending.await.unwrap());
    took
}

async fn handshakes() {
    let (listener, addr) = listen().await;
    let (one, two) = (config(), config());
    let (began, before) = (Instant::now(), cpu_seconds());
    for _ in 0..200 {
        let accepted = async { session::accept(listener.accept().await.unwrap().0, &two).await };
        let (a, b) = tokio::join!(session::connect(addr, None, &one), accepted);
        a.unwrap();
        b.unwrap();
    }
    let cpu = (cpu_seconds() - before) / 200.0;
    println!("opening a session: {:.2} ms, {:.2} CPU ms both ends", began.elapsed().as_secs_f64() * 5.0, cpu * 1e3);
}

async fn dht_start() {
    let (before, memory, began) = (cpu_seconds(), resident_bytes(), Instant::now());
    let mut running = Vec::new();
    for _ in 0..20 {
        running.push(dht::start(DhtConfig::new(Identity::ephemeral(), 1)).await.unwrap());
    }
    let cpu = (cpu_seconds() - before) / 20.0;
    let grown = resident_bytes().saturating_sub(memory) / 20;
    println!(
        "starting the DHT: {:.2} ms, {:.2} CPU ms, {} KiB",
        began.elapsed().as_secs_f64() * 50.0,
        cpu * 1e3,
        grown >> 10
    );
}

async fn join() {
    let began = Instant::now();
    let identity = Identity::ephemeral();
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let mut config = config();
    config.tls = TlsConfigs::new(&identity).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (discovery, mut events) = Discovery::start(DiscoveryConfig::new(&identity, port));
    let mut sessions = Vec::new();
    let mut first = None;
    let mut nodes = BTreeSet::new();
    let mut found = 0;
    let mut opening = FuturesUnordered::new();
    let end = tokio::time::sleep(Duration::from_secs(5));
    tokio::pin!(end);
    loop {
        let opened = tokio::select! {
            () = &mut end => break,
            Ok((tcp, _)) = listener.accept() => {
                let config = config.clone();
                // Never awaited here: two nodes that accept each other's calls would each wait for the other's dial.
                opening.push(async move { session::accept(tcp, &config).await }.boxed());
                continue;
            }
            Some(event) = events.recv() => {
                if let DiscoveryEvent::Found(neighbour) = event {
                    found += 1;
                    let config = config.clone();
                    opening.push(async move { session::connect(neighbour.addresses[0], Some(neighbour.node), &config).await }.boxed());
                }
                continue;
            }
            Some(opened) = opening.next(), if !opening.is_empty() => opened,
        };
        if let Ok(session) = opened {
            first.get_or_insert(began.elapsed());
            nodes.insert(session.remote);
            sessions.push(session);
        }
    }
    println!("first session after {first:?}, {} neighbours, {found} found by mDNS", nodes.len());
    discovery.shutdown().await;
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

fn config() -> SessionConfig {
    let hello = Hello {
        version: proto::VERSION,
        network: String::new(),
        zone: String::new(),
        session_port: 0,
        dht_port: 0,
        agent: "bench".into(),
    };
    SessionConfig::new(TlsConfigs::new(&Identity::ephemeral()).unwrap(), hello)
}

/// User and system time of this process so far, to a hundredth of a second.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
