//! What a node takes of its machine and its network, and how it leaves.

use std::io::Read;
use std::time::{Duration, Instant};

use caswarm::node::identity::Identity;
use caswarm::node::session;
use proto::message::Join;
use proto::{IndexId, Message};
use rustix::process::Signal;

use super::keyed::listen_to_mdns;
use super::published::Published;
use super::sessions::{address, block_on, config};
use super::{machine_can, neighbours, start_extract, start_node, start_provider, status};
use crate::support::data::assert_file_is;
use crate::support::lan::{Cut, Lan, Plan, wait_until};
use crate::support::process::PATIENCE;
use crate::support::{Need, caswarm, require};

/// Bytes a second that the limits of these tests allow, and as it is typed.
const RATE: u64 = 4 << 20;
const TYPED: &str = "4M";

#[test]
fn limits_of_what_neighbours_give_and_take_are_kept() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[3]));
    lan.cut(2, Cut::Internet);
    lan.cut(3, Cut::Internet);
    for (provider, taker) in [(&["--limit-upload", TYPED][..], &[][..]), (&[], &["--limit-download", TYPED])] {
        let _node = start_provider(&lan, 1, &published, provider);
        let pinned = ["--index-id", published.v1_id.as_str()];
        let arguments = [&pinned[..], taker].concat();
        let ran = start_extract(&lan, 2, "http://10.79.0.2/v1.caibx", &arguments).wait(PATIENCE).ok();
        assert_file_is(&lan.dir(2).join("out.img"), &published.v1);
        std::fs::remove_file(lan.dir(2).join("out.img")).unwrap();
        let sent = status(&lan, 1)["sent"].as_u64().unwrap();
        let least = sent as f64 / RATE as f64;
        assert!(sent > 10 << 20 && ran.took.as_secs_f64() > 0.9 * least, "{sent} bytes, at least {least} s: {ran}");
        assert_eq!(ran.json()["duplicates"].as_u64().unwrap_or(0), 0, "{ran}");
    }
}

#[test]
fn limit_of_what_the_origin_gives_is_kept() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[1]));
    let origin = lan.origin(&published.www());
    let ran = start_extract(&lan, 1, &origin.url("v1.caibx"), &["--limit-origin", TYPED]).wait(PATIENCE).ok();
    assert_file_is(&lan.dir(1).join("out.img"), &published.v1);
    let sent: u64 = origin.requests().iter().map(|request| request.bytes).sum();
    let least = sent as f64 / RATE as f64;
    assert!(sent > 10 << 20 && ran.took.as_secs_f64() > 0.9 * least, "{sent} bytes, at least {least} s: {ran}");
}

#[test]
fn neighbour_without_an_upload_slot_is_told_to_come_again_and_gets_its_turn() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[2]));
    let _node = start_provider(&lan, 1, &published, &["--upload-slots", "1", "--limit-upload", "1M"]);
    let (node, index) = (address(&lan, 1), published.v1_id.parse::<IndexId>().unwrap());
    let (busy, given) = lan.on(2, || {
        block_on(async {
            let connect = async || {
                let session = session::connect(node, None, &config(&Identity::ephemeral())).await.unwrap();
                session.sender.send(&Message::Join(Join { index, downloads: true, has_index: false })).unwrap();
                session
            };
            let want = |from: u32| Message::Want { index, positions: (from..from + 64).collect(), plain: false };
            let (mut first, mut second) = (connect().await, connect().await);
            for from in [0, 64, 128] {
                first.sender.send(&want(from)).unwrap();
            }
            // The first has begun to be served.
            while !matches!(first.reader.next().await.unwrap().unwrap().0, Message::Chunk { .. }) {}
            second.sender.send(&want(0)).unwrap();
            let (mut busy, mut given) = ([0, 0], [0, 0]);
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(20) && (given[1] == 0 || busy[0] == 0) {
                let (who, session, message) = tokio::select! {
                    said = first.reader.next() => (0, &first, said.unwrap().unwrap().0),
                    said = second.reader.next() => (1, &second, said.unwrap().unwrap().0),
                };
                match message {
                    Message::Chunk { .. } => given[who] += 1,
                    Message::Absent { positions, retry_ms, .. } => {
                        assert!(retry_ms > 0, "it holds them");
                        busy[who] += 1;
                        tokio::time::sleep(Duration::from_millis(retry_ms.into())).await;
                        session.sender.send(&Message::Want { index, positions, plain: false }).unwrap();
                    }
                    _ => {}
                }
            }
            (busy, given)
        })
    });
    assert!(busy[1] > 0, "the second was served at once: {busy:?} {given:?}");
    assert!(given[1] > 0 && busy[0] > 0, "the first kept the slot for good: {busy:?} {given:?}");
}

#[test]
fn crowd_at_one_upload_slot_gets_everything_from_it() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[5]).lan_mbit(100));
    let _node = start_provider(&lan, 1, &published, &["--upload-slots", "1"]);
    let pinned = ["--index-id", published.v1_id.as_str()];
    // There is no origin that could make up for a neighbour that never gets its turn.
    let extract = |host| start_extract(&lan, host, "http://10.79.0.2/v1.caibx", &pinned);
    let extracting: Vec<_> = (2..=5).map(extract).collect();
    for (host, process) in (2..=5).zip(extracting) {
        process.wait(PATIENCE).ok();
        assert_file_is(&lan.dir(host).join("out.img"), &published.v1);
    }
}

#[test]
fn node_that_shares_nothing_takes_and_gives_nothing() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[3]));
    let origin = lan.origin(&published.www());
    let node = start_provider(&lan, 1, &published, &["--no-share"]);
    // It has sessions, and is asked for everything by one who knows that it is there.
    let (mean, index) = (address(&lan, 1), published.v1_id.parse::<IndexId>().unwrap());
    lan.on(2, || {
        block_on(async {
            let mut session = session::connect(mean, None, &config(&Identity::ephemeral())).await.unwrap();
            session.sender.send(&Message::Join(Join { index, downloads: true, has_index: false })).unwrap();
            session.sender.send(&Message::GetIndex { index }).unwrap();
            session.sender.send(&Message::Want { index, positions: vec![0, 1], plain: false }).unwrap();
            let mut refused = 0;
            while refused < 2 {
                match session.reader.next().await.unwrap().unwrap().0 {
                    Message::NoIndex { .. } => refused += 1,
                    Message::Absent { retry_ms: 0, .. } => refused += 1,
                    Message::Have { holdings, .. } if holdings.positions().is_empty() => {}
                    message @ (Message::Chunk { .. } | Message::IndexPart { .. } | Message::Have { .. }) => {
                        panic!("{message:?}")
                    }
                    _ => {}
                }
            }
        });
    });
    let ran = start_extract(&lan, 2, &origin.url("v1.caibx"), &[]).wait(PATIENCE).ok();
    assert_eq!(ran.json()["from"]["lan"], 0, "{ran}");
    assert_eq!(status(&lan, 1)["sent"], 0);
    drop(node);

    let _other = start_provider(&lan, 3, &published, &[]);
    std::fs::remove_file(lan.dir(2).join("out.img")).unwrap();
    let ran = start_extract(&lan, 2, &origin.url("v1.caibx"), &["--no-share"]).wait(PATIENCE).ok();
    assert!(ran.json()["from"]["lan"].as_u64() > Some(1 << 20), "{ran}");
}

#[test]
fn without_lan_nothing_listens_and_nothing_leaves() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[3]));
    let origin = lan.origin(&published.www());
    let listener = lan.on(3, listen_to_mdns);
    let _neighbour = start_provider(&lan, 1, &published, &[]);
    let before = lan.sent_packets(2);
    let _node = start_node(&lan, 2, &["--no-lan"]);
    assert_eq!(sockets(&lan, 2), Vec::<String>::new());
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(lan.sent_packets(2), before, "packets left");

    let ran = start_extract(&lan, 2, &origin.url("v1.caibx"), &["--no-lan", "--limit-origin", TYPED]);
    wait_until("it extracts", Duration::from_secs(20), || !origin.chunk_requests().is_empty());
    let open = sockets(&lan, 2);
    let to_origin = "02004F0A:0050";
    assert!(open.iter().all(|socket| socket.starts_with("tcp ") && socket.contains(to_origin)), "{open:?}");
    let ran = ran.wait(PATIENCE).ok();
    assert_eq!(ran.json()["from"]["lan"], 0, "{ran}");
    assert_eq!(neighbours(&lan, 1), 0);
    let mut packet = [0; 9000];
    while let Ok((_, from)) = listener.recv_from(&mut packet) {
        assert_ne!(from.ip().to_string(), lan.address(2), "it was heard");
    }
}

/// Sockets of a host: `tcp LOCAL REMOTE STATE`, as the kernel writes them, without those that are over.
fn sockets(lan: &Lan, host: usize) -> Vec<String> {
    const TIME_WAIT: &str = "06";
    let mut found = Vec::new();
    for kind in ["tcp", "tcp6", "udp", "udp6"] {
        let listed = lan.on(host, || std::fs::read_to_string(format!("/proc/thread-self/net/{kind}")));
        for line in listed.unwrap_or_default().lines().skip(1) {
            let words: Vec<_> = line.split_whitespace().collect();
            if words[3] != TIME_WAIT {
                found.push(format!("{kind} {} {} {}", words[1], words[2], words[3]));
            }
        }
    }
    found
}

#[test]
fn background_marks_its_packets_and_lowers_its_threads() {
    if !machine_can() || !require(&[Need::Program("ionice")]) {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[2]));
    let node = start_provider(&lan, 1, &published, &["--background"]);
    for thread in std::fs::read_dir(format!("/proc/{}/task", node.id())).unwrap().flatten() {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap();
        let nice = stat.rsplit(") ").next().unwrap().split(' ').nth(16).unwrap().to_owned();
        assert_eq!(nice, "10", "{stat}");
        let id = thread.file_name().into_string().unwrap();
        let shown = crate::support::run(std::process::Command::new("ionice").args(["-p", &id])).ok();
        assert_eq!(shown.stdout.trim(), "idle", "thread {id}");
    }
    lan.cut(2, Cut::Internet);
    let packets = lan.on(1, || {
        let every = i32::from(0x0003_u16.to_be());
        let socket = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::DGRAM, Some(every.into())).unwrap();
        socket.set_recv_buffer_size(256 << 10).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket
    });
    let pinned = ["--index-id", published.v1_id.as_str()];
    start_extract(&lan, 2, "http://10.79.0.2/v1.caibx", &pinned).wait(PATIENCE).ok();
    // The first host's own packets that carry something, of sessions and of the DHT. When the buffer is full, more are lost.
    let mut marks = std::collections::BTreeMap::new();
    let (mut packet, mut socket) = ([0; 65_536], &packets);
    while let Ok(length) = socket.read(&mut packet) {
        let (tcp, ours, begins) = (packet[9] == 6, packet[12..16] == [10, 77, 1, 1], packet[33] & 2 != 0);
        let headers = 20 + 4 * usize::from(packet[32] >> 4);
        if packet[0] == 0x45 && tcp && ours && !begins && length > headers {
            let dht = packet[..length].windows(12).any(|part| part == b"/multistream");
            *marks.entry((dht, packet[1])).or_insert(0) += 1;
        }
    }
    assert!(marks.contains_key(&(true, 4)) && marks.contains_key(&(false, 4)), "{marks:?}");
    assert!(marks.keys().all(|(_, mark)| *mark == 4), "{marks:?}");
}

#[test]
fn extraction_that_is_told_to_stop_says_goodbye_and_is_taken_up_again() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[2]).origin_mbit(25));
    let origin = lan.origin(&published.www());
    let _neighbour = start_node(&lan, 1, &[]);
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let asked = origin.chunk_requests().len();
        let extracting = start_extract(&lan, 2, &origin.url("v1.caibx"), &[]);
        wait_until("some of it has come", Duration::from_secs(30), || {
            neighbours(&lan, 1) == 1 && origin.chunk_requests().len() > asked + 20
        });
        extracting.signal(signal);
        let told = Instant::now();
        let ran = extracting.wait(Duration::from_secs(10));
        assert_eq!(ran.status.code(), Some(code), "{ran}");
        assert!(told.elapsed() < Duration::from_secs(3), "{:?}", told.elapsed());
        assert!(ran.stderr.contains("the same command goes on"), "{ran}");
        assert!(!lan.dir(2).join("out.img").exists());
        // Nobody said goodbye if this takes until the session is found dead.
        wait_until("the session is over", Duration::from_secs(3), || neighbours(&lan, 1) == 0);
    }
    let ran = start_extract(&lan, 2, &origin.url("v1.caibx"), &[]).wait(PATIENCE).ok();
    assert_file_is(&lan.dir(2).join("out.img"), &published.v1);
    assert!(ran.json()["from"]["kept"].as_u64() > Some(1 << 20), "{ran}");
}

#[test]
fn extraction_that_is_told_to_stop_while_it_lingers_says_goodbye() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[3]));
    let origin = lan.origin(&published.www());
    let listener = lan.on(3, listen_to_mdns);
    let index = published.v1_id.parse::<IndexId>().unwrap();
    let lingering = start_extract(&lan, 1, &origin.url("v1.caibx"), &["--listen", "7748"]);
    wait_until("it listens", Duration::from_secs(20), || {
        lan.on(2, || std::net::TcpStream::connect(address(&lan, 1)).is_ok())
    });
    lan.on(2, || {
        block_on(async {
            // Somebody who needs it all, and takes nothing.
            let mut session = session::connect(address(&lan, 1), None, &config(&Identity::ephemeral())).await.unwrap();
            session.sender.send(&Message::Join(Join { index, downloads: true, has_index: false })).unwrap();
            let whole = Instant::now();
            while !lan.dir(1).join("out.img").exists() {
                assert!(whole.elapsed() < PATIENCE);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            lingering.signal(Signal::TERM);
            let end = async {
                while let Ok(Some((message, _))) = session.reader.next().await {
                    if matches!(message, Message::Bye { .. }) {
                        return true;
                    }
                }
                false
            };
            let said = tokio::time::timeout(Duration::from_secs(3), end).await;
            assert_eq!(said, Ok(true), "no goodbye in the session");
        });
    });
    lingering.wait(Duration::from_secs(5)).ok();
    assert_file_is(&lan.dir(1).join("out.img"), &published.v1);
    let mut packet = [0; 9000];
    let mut gone = false;
    while let Ok((length, from)) = listener.recv_from(&mut packet) {
        gone |= from.ip().to_string() == lan.address(1) && is_goodbye(&packet[..length]);
    }
    assert!(gone, "no goodbye by multicast");
}

#[test]
fn extraction_that_fails_says_goodbye() {
    if !machine_can() {
        return;
    }
    let published = Published::get();
    let lan = Lan::new(Plan::hosts(&[2]));
    // The index without the chunks.
    let www = tempfile::tempdir().unwrap();
    std::fs::copy(published.www().join("v1.caibx"), www.path().join("v1.caibx")).unwrap();
    let origin = lan.origin(www.path());
    let failing = start_extract(&lan, 1, &origin.url("v1.caibx"), &["--listen", "7748"]);
    wait_until("it listens", Duration::from_secs(20), || {
        lan.on(2, || std::net::TcpStream::connect(address(&lan, 1)).is_ok())
    });
    let said = lan.on(2, || {
        block_on(async {
            let mut session = session::connect(address(&lan, 1), None, &config(&Identity::ephemeral())).await.unwrap();
            while let Ok(Some((message, _))) = session.reader.next().await {
                if matches!(message, Message::Bye { .. }) {
                    return true;
                }
            }
            false
        })
    });
    let ran = failing.wait(PATIENCE).failed();
    assert!(said, "no goodbye in the session: {ran}");
}

/// Whether an mDNS answer takes a record back: its first record lives for zero seconds.
fn is_goodbye(packet: &[u8]) -> bool {
    let answer = packet[2] & 0x80 != 0 && u16::from_be_bytes([packet[6], packet[7]]) > 0;
    let mut at = 12;
    while answer && packet.get(at).is_some_and(|length| *length != 0) {
        at += 1 + usize::from(packet[at]);
    }
    answer && packet.get(at + 5..at + 9) == Some(&[0; 4])
}

#[test]
fn nodes_with_one_copied_state_directory_say_so() {
    if !machine_can() {
        return;
    }
    let lan = Lan::new(Plan::hosts(&[2]));
    std::fs::create_dir(lan.dir(1).join("state")).unwrap();
    std::fs::create_dir(lan.dir(2).join("state")).unwrap();
    Identity::load_or_create(&lan.dir(1).join("state")).unwrap();
    std::fs::copy(lan.dir(1).join("state/node.key"), lan.dir(2).join("state/node.key")).unwrap();
    let one = start_node(&lan, 1, &[]);
    let two = start_node(&lan, 2, &["--bootstrap", &format!("{}:7748", lan.address(1))]);
    for node in [&one, &two] {
        let said = || node.stderr().contains("state directory") && node.stderr().contains("node.key");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !said() {
            assert!(Instant::now() < deadline, "one said {:?}, two {:?}", one.stderr(), two.stderr());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn empty_list_of_nodes_to_start_from_is_none() {
    let state = tempfile::tempdir().unwrap();
    let mut command = caswarm(state.path());
    let mut node = crate::support::Process::spawn(
        command.args(["node", "--no-lan"]).env("CASWARM_BOOTSTRAP", "").env("RUST_LOG", "caswarm=info"),
    );
    wait_until("it runs", Duration::from_secs(20), || {
        assert!(node.is_running(), "{}", node.stderr());
        node.stderr().contains("serving")
    });
}
