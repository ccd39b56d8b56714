//! Who may join, with whole machines: networks with a key, and neighbours that are not wanted.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use caswarm::node::membership::Membership;
use proto::{IndexId, Message};

use super::published::Published;
use super::sessions::{address, block_on, config};
use super::{give, machine_can, neighbours, node_of, start_extract, start_node, start_provider, status};
use crate::support::data::assert_file_is;
use crate::support::lan::{Cut, Lan, Plan};
use crate::support::process::PATIENCE;
use crate::support::{caswarm, run};

/// Makes a key on one host and gives it to others.
fn share_key(lan: &Lan, hosts: &[usize]) {
    let key = lan.dir(hosts[0]).join("key");
    lan.start(hosts[0], &["keygen", "key"]).wait(Duration::from_secs(10)).ok();
    for host in &hosts[1..] {
        std::fs::copy(&key, lan.dir(*host).join("key")).unwrap();
    }
}

#[test]
fn machine_without_the_key_gets_nothing_from_those_that_have_it() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[3]));
    let origin = lan.origin(&published.www());
    share_key(&lan, &[1, 2]);
    let keyed = ["--network-key", "key"];
    let _node = start_provider(&lan, 1, &published, &keyed[..]);
    assert_eq!(status(&lan, 1)["open"], false);
    let shown = lan.start(1, &["status"]).wait(Duration::from_secs(10)).ok();
    assert!(shown.stdout.contains("keyed, only who has its key may join"), "{shown}");

    // The one is told where the node is, and has the origin; the other has neither.
    let bootstrap = format!("{}:7748", lan.address(1));
    lan.cut(2, Cut::Internet);
    let arguments = [&["--index-id", published.v1_id.as_str()], &keyed[..]].concat();
    let member = start_extract(&lan, 2, &origin.url("v1.caibx"), &arguments).wait(PATIENCE).ok();
    assert_file_is(&lan.dir(2).join("out.img"), &published.v1);
    assert_eq!(member.json()["from"]["origin"], 0, "{member}");

    let stranger = start_extract(&lan, 3, &origin.url("v1.caibx"), &["--bootstrap", &bootstrap]).wait(PATIENCE).ok();
    assert_file_is(&lan.dir(3).join("out.img"), &published.v1);
    assert_eq!(stranger.json()["from"]["lan"], 0, "{stranger}");
    stranger.says(&["--bootstrap", "has a network key where the other has none"]);
}

#[test]
fn multicast_of_a_keyed_network_names_no_image() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[3]));
    share_key(&lan, &[1]);
    for host in [1, 2] {
        give(&lan, host, &published.www().join("v1.caibx"), "v1.caibx");
        give(&lan, host, &published.image("v1.img"), "v1.img");
    }
    let listener = lan.on(3, listen_to_mdns);
    let _keyed = start_node(&lan, 1, &["--image", "v1.caibx=v1.img", "--network-key", "key"]);
    let _open = start_node(&lan, 2, &["--image", "v1.caibx=v1.img"]);
    let (keyed, open) = (node_of(&lan, 1), node_of(&lan, 2));
    let index: IndexId = published.v1_id.parse().unwrap();
    // What anybody can compute who wants to know who holds this image.
    let tag = |node| hex::encode(Membership::default().tag(node, &index).0);
    let held = status(&lan, 2)["images"][0]["chunks"].as_u64().unwrap();
    // Told is the power of two below it.
    let chunks = format!("n={}", 1 << held.ilog2());

    let (mut of_keyed, mut of_open) = (Vec::new(), Vec::new());
    let deadline = Instant::now() + Duration::from_secs(20);
    let names = |packet: &[u8], text: &str| packet.windows(text.len()).any(|part| part == text.as_bytes());
    // The tags come a few seconds after the first announcement.
    while Instant::now() < deadline && !of_open.iter().any(|packet: &Vec<u8>| names(packet, &tag(open))) {
        let mut packet = vec![0; 9000];
        let Ok((length, from)) = listener.recv_from(&mut packet) else { continue };
        packet.truncate(length);
        match from.ip().to_string() {
            ip if ip == lan.address(1) => of_keyed.push(packet),
            ip if ip == lan.address(2) => of_open.push(packet),
            _ => {}
        }
    }
    assert!(of_open.iter().any(|packet| names(packet, &tag(open))), "the open network's tag was not seen");
    assert!(of_open.iter().any(|packet| names(packet, &chunks)), "{chunks} was not seen");
    assert!(of_keyed.iter().any(|packet| names(packet, "x=") && packet.len() > 100), "the keyed node was not heard");
    for packet in of_keyed {
        for known in [tag(keyed), tag(open), chunks.clone(), format!("n={held}"), published.v1_id.clone()] {
            assert!(!names(&packet, &known), "{known} in {:?}", String::from_utf8_lossy(&packet));
        }
    }
}

#[test]
fn key_files_are_private_and_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let keygen = || run(caswarm(dir.path()).arg("keygen").arg(&key));
    keygen().ok();
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    let before = std::fs::read(&key).unwrap();
    keygen().failed().says(&["key: exists already"]);
    assert_eq!(std::fs::read(&key).unwrap(), before);

    let node = || run(caswarm(dir.path()).arg("node").arg("--network-key").arg(&key));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    node().failed().says(&["key: may be read or changed by others (mode 0644)", "chmod 600"]);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&key, &before[..before.len() / 2]).unwrap();
    node().failed().says(&["key: not a network key", "caswarm keygen"]);
    std::fs::remove_file(&key).unwrap();
    node().failed().says(&["key: No such file"]);
    // A variable that is there and empty is a mistake, not an open network.
    run(caswarm(dir.path()).arg("node").env("CASWARM_NETWORK_KEY", "")).failed().says(&["--network-key"]);
}

#[test]
fn neighbours_that_are_denied_give_and_get_nothing() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[3]));
    let origin = lan.origin(&published.www());
    let only_the_third = ["--allow-peer", "10.77.1.3/32"];
    let _node = start_provider(&lan, 1, &published, &only_the_third[..]);
    let node = peer_id(&lan, 1);

    let from_lan = |host: usize, arguments: &[&str]| {
        let ran = start_extract(&lan, host, &origin.url("v1.caibx"), arguments).wait(PATIENCE).ok();
        assert_file_is(&lan.dir(host).join("out.img"), &published.v1);
        std::fs::remove_file(lan.dir(host).join("out.img")).unwrap();
        ran.json()["from"]["lan"].as_u64().unwrap()
    };
    assert_eq!(from_lan(2, &[]), 0, "not allowed");
    assert_eq!(from_lan(3, &["--deny-peer", "10.77.0.0/16"]), 0, "denied by address");
    assert_eq!(from_lan(3, &["--allow-peer", &node, "--deny-peer", &node]), 0, "denied by name");
    assert_eq!(from_lan(3, &["--allow-peer", "10.99.0.0/16"]), 0, "another range is allowed");
    assert!(from_lan(3, &["--allow-peer", &node]) > 0, "allowed by name");
    assert!(neighbours(&lan, 1) <= 1);
}

#[test]
fn addresses_that_are_not_private_are_not_talked_to_unless_allowed() {
    if !machine_can() {
        return;
    }
    let lan = Lan::new(Plan::hosts(&[2]));
    for host in [1, 2] {
        lan.add_address(host, &format!("203.0.113.{host}/24"));
    }
    let node = start_node(&lan, 1, &[]);
    let public: std::net::SocketAddr = "203.0.113.1:7748".parse().unwrap();
    // Neither end may be public: a stranger from outside, nor a stranger inside who calls the public address.
    let calls = |from: &'static str| {
        lan.on(2, move || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&std::net::SocketAddr::new(from.parse().unwrap(), 0).into()).unwrap();
            socket.connect(&public.into()).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut tcp = std::net::TcpStream::from(socket);
            // A node that talks waits for a handshake, five seconds; one that does not closes at once.
            let began = Instant::now();
            let _ = std::io::Read::read(&mut tcp, &mut [0]);
            began.elapsed() > Duration::from_secs(2)
        })
    };
    assert!(!calls("203.0.113.2") && !calls("10.77.1.2"));
    drop(node);
    let _node = start_node(&lan, 1, &["--allow-peer", "203.0.113.0/24"]);
    assert!(calls("203.0.113.2") && !calls("10.77.1.2"));
}

#[test]
fn chunks_leave_only_for_an_index_that_the_asker_joined() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[2]));
    let _node = start_provider(&lan, 1, &published, &[]);
    let (node, index) = (address(&lan, 1), published.v1_id.parse::<IndexId>().unwrap());
    let parsed = caswarm::format::index::Index::parse(&std::fs::read(lan.dir(1).join("v1.caibx")).unwrap()).unwrap();
    let chunk = parsed.chunks[0].id;
    lan.on(2, || {
        block_on(async {
            let mut session =
                caswarm::node::session::connect(node, None, &config(&caswarm::node::identity::Identity::ephemeral()))
                    .await
                    .unwrap();
            let want = Message::Want { index, positions: vec![0], plain: false };
            session.sender.send(&want).unwrap();
            session.sender.send(&Message::GetChunk { chunk }).unwrap();
            let mut refused = 0;
            while refused < 2 {
                match session.reader.next().await.unwrap().unwrap().0 {
                    Message::Absent { positions, retry_ms: 0, .. } if positions == [0] => refused += 1,
                    Message::NoChunk { .. } => refused += 1,
                    message @ (Message::Chunk { .. } | Message::ChunkById { .. }) => panic!("{message:?}"),
                    _ => {}
                }
            }
            let join = proto::message::Join { index, downloads: true, has_index: false };
            session.sender.send(&Message::Join(join)).unwrap();
            session.sender.send(&want).unwrap();
            session.sender.send(&Message::GetChunk { chunk }).unwrap();
            let mut given = 0;
            while given < 2 {
                match session.reader.next().await.unwrap().unwrap().0 {
                    Message::Chunk { position: 0, .. } | Message::ChunkById { .. } => given += 1,
                    message @ (Message::Absent { .. } | Message::NoChunk { .. }) => panic!("{message:?}"),
                    _ => {}
                }
            }
        });
    });
}

fn peer_id(lan: &Lan, host: usize) -> String {
    status(lan, host)["peer_id"].as_str().unwrap().to_owned()
}

/// A socket that hears what is said to mDNS's group.
pub(super) fn listen_to_mdns() -> std::net::UdpSocket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&std::net::SocketAddr::from(([0, 0, 0, 0], 5353)).into()).unwrap();
    socket.join_multicast_v4(&[224, 0, 0, 251].into(), &[0, 0, 0, 0].into()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket.into()
}
