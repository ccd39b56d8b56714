//! The LAN itself does what the other tests rely on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::support::lan::{Cut, Lan, ORIGIN, Plan};
use crate::support::{Need, require};

#[test]
fn the_lan_floods_multicast_within_a_segment_and_cuts_silently() {
    if !require(&[Need::Namespaces, Need::Program("nginx")]) {
        return;
    }
    let lan = Lan::new(Plan::segments(&[2, 1]).origin_mbit(100));
    let www = tempfile::tempdir().unwrap();
    std::fs::write(www.path().join("file"), vec![7; 500_000]).unwrap();
    let origin = lan.origin(www.path());
    let listeners: Vec<_> =
        lan.hosts().map(|host| lan.on(host, || TcpListener::bind("0.0.0.0:900").unwrap())).collect();
    let reaches = |from: usize, to: usize| reaches(&lan, from, &format!("{}:900", lan.address(to)));
    let origin_answers = |from: usize| reaches_origin(&lan, from);

    assert!(reaches(1, 2) && reaches(2, 1) && reaches(1, 3) && reaches(3, 2));
    assert!(origin_answers(1) && origin_answers(3));
    let sockets: Vec<_> = lan.hosts().map(|host| lan.on(host, multicast_socket)).collect();
    lan.on(1, || multicast_socket().send_to(b"hello", "224.0.0.251:900")).unwrap();
    let heard: Vec<_> = sockets.iter().map(|socket| socket.recv(&mut [0; 9]).is_ok()).collect();
    assert_eq!(heard, [true, true, false], "multicast");

    lan.cut(1, Cut::Lan);
    assert!(!reaches(1, 2) && !reaches(2, 1) && !reaches(1, 3) && reaches(2, 3) && origin_answers(1));
    lan.heal(1);
    lan.cut(1, Cut::Internet);
    assert!(reaches(1, 2) && reaches(3, 1) && !origin_answers(1) && origin_answers(2));
    lan.heal(1);
    lan.cut(1, Cut::All);
    assert!(!reaches(1, 2) && !reaches(3, 1) && !origin_answers(1));
    lan.heal(1);
    assert!(reaches(1, 2) && origin_answers(1));

    let asked = origin.requests();
    assert!(asked.iter().all(|request| request.status == 200 && request.bytes == 500_000 && request.path == "/file"));
    assert_eq!(asked.iter().filter(|request| request.from == lan.address(2)).count(), 1);
    let sent = lan.origin_sent();
    let want = 500_000 * asked.len() as u64;
    assert!((want..want + want / 5).contains(&sent), "the counter says {sent} bytes, wanted {want} and headers");
    drop(listeners);
}

#[test]
fn a_far_origin_is_as_far_as_planned_and_its_bytes_are_counted() {
    if !require(&[Need::Namespaces, Need::Program("nginx")]) {
        return;
    }
    let lan = Lan::new(Plan::hosts(&[1]).origin_mbit(100).lan_mbit(200).origin_delay_ms(20));
    let www = tempfile::tempdir().unwrap();
    std::fs::write(www.path().join("file"), vec![7; 500_000]).unwrap();
    let _origin = lan.origin(www.path());
    let began = Instant::now();
    assert!(reaches(&lan, 1, &format!("{ORIGIN}:80")));
    // There and back.
    assert!(began.elapsed() >= Duration::from_millis(40), "{:?}", began.elapsed());
    let before = lan.origin_payload_sent();
    assert!(reaches_origin(&lan, 1));
    let sent = lan.origin_payload_sent() - before;
    assert!((500_000..520_000).contains(&sent), "the counter says {sent} bytes for a file of 500000");
}

fn reaches(lan: &Lan, from: usize, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    lan.on(from, move || TcpStream::connect_timeout(&to, Duration::from_millis(500)).is_ok())
}

fn reaches_origin(lan: &Lan, from: usize) -> bool {
    let address = SocketAddr::new(ORIGIN.parse().unwrap(), 80);
    lan.on(from, move || {
        let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) else { return false };
        stream.write_all(b"GET /file HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer.len() > 500_000
    })
}

fn multicast_socket() -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:900").unwrap_or_else(|_| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.join_multicast_v4(&[224, 0, 0, 251].into(), &[0, 0, 0, 0].into()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket
}
