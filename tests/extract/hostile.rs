//! Neighbours that mean harm: they say that they hold everything, and then send garbage, the wrong chunk, half a chunk,
//! a bomb, or nothing. Each costs time, none costs the image.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use caswarm::format::index::Index;
use caswarm::node::identity::Identity;
use caswarm::node::session::{self, Session};
use proto::message::{Encoding, Join};
use proto::{Holdings, IndexId, Message};
use tokio::net::TcpListener;

use super::{Place, Web, from};
use crate::support::data::assert_file_is;
use crate::support::run;
use crate::support::session::config;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    Garbage,
    OtherChunk,
    Half,
    Bomb,
    Nothing,
    Absent,
}

/// A neighbour that does harm, on loopback; it ends with the test's process.
struct Hostile {
    addr: SocketAddr,
    wants: Arc<AtomicU32>,
}

impl Hostile {
    fn start(harm: Harm, network: &str, index: &[u8], chunk: Vec<u8>) -> Self {
        let id = Index::index_id(index);
        let count = Index::parse(index).unwrap().chunks.len() as u32;
        let wants = Arc::new(AtomicU32::new(0));
        let (told, addr) = mpsc::channel();
        let (network, counted) = (network.to_owned(), wants.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                told.send(listener.local_addr().unwrap()).unwrap();
                let config = config(&network, &Identity::ephemeral());
                loop {
                    let (tcp, _) = listener.accept().await.unwrap();
                    if let Ok(session) = session::accept(tcp, &config).await {
                        tokio::spawn(do_harm(harm, session, id, count, chunk.clone(), counted.clone()));
                    }
                }
            });
        });
        Self { addr: addr.recv().unwrap(), wants }
    }
}

async fn do_harm(harm: Harm, mut session: Session, index: IndexId, count: u32, chunk: Vec<u8>, wants: Arc<AtomicU32>) {
    let sender = session.sender.clone();
    sender.send(&Message::Join(Join { index, downloads: false, has_index: false })).unwrap();
    sender.send(&Message::Have { index, holdings: Holdings::all(count) }).unwrap();
    while let Ok(Some((message, _))) = session.reader.next().await {
        let Message::Want { positions, .. } = message else { continue };
        wants.fetch_add(1, Ordering::Relaxed);
        for position in positions {
            let (encoding, bytes) = match harm {
                Harm::Garbage => (Encoding::Plain, vec![0x5a; 70_000]),
                Harm::OtherChunk => (Encoding::Zstd, chunk.clone()),
                Harm::Half => (Encoding::Zstd, chunk[..chunk.len() / 2].to_vec()),
                Harm::Bomb => (Encoding::Zstd, zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap()),
                Harm::Nothing => continue,
                Harm::Absent => {
                    let _ = sender.send(&Message::Absent { index, positions: vec![position], retry_ms: 0 });
                    continue;
                }
            };
            let message = Message::Chunk { index, position, encoding, length: bytes.len() as u32 };
            if sender.send_chunk(message, Bytes::from(bytes)).await.is_err() {
                return;
            }
        }
    }
}

#[test]
fn a_neighbour_that_does_harm_is_found_out_and_the_image_is_right_all_the_same() {
    let place = Place::new(3_000_000);
    let web = Web::serve(place.dir.path());
    let index = std::fs::read(place.path("v1.caibx")).unwrap();
    let chunk = std::fs::read(&place.chunk_files("default.castr")[0]).unwrap();
    for harm in [Harm::Garbage, Harm::OtherChunk, Harm::Half, Harm::Bomb, Harm::Nothing, Harm::Absent] {
        let network = format!("hostile-{}-{harm:?}", std::process::id());
        let hostile = Hostile::start(harm, &network, &index, chunk.clone());
        let bootstrap = hostile.addr.to_string();
        let mut command = place.caswarm();
        command.current_dir(place.dir.path()).args(["extract", "--json", "--linger", "0", "--network", &network]);
        // Slow enough that the origin is not done before the neighbour is asked.
        command.args(["--rate-limit-bps", "700K", "--bootstrap", &bootstrap, &web.url("v1.caibx"), "out.img"]);
        let ran = run(&mut command).ok();
        assert_file_is(&place.path("out.img"), &place.image);
        assert!(hostile.wants.load(Ordering::Relaxed) > 0, "{harm:?}: it was never asked");
        let sent_wrong = !matches!(harm, Harm::Nothing | Harm::Absent);
        assert_eq!(ran.json()["corrupt_total"].as_u64().unwrap() > 0, sent_wrong, "{harm:?}");
        assert!(from(&ran, "origin") > 0, "{harm:?}");
        std::fs::remove_file(place.path("out.img")).unwrap();
    }
}
