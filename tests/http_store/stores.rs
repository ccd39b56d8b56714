//! Several stores in order: one that is sick never hides the next, and costs its failures now and then, not for every
//! chunk.

use std::net::TcpListener;
use std::path::PathBuf;

use caswarm::source::http_store::HttpStore;
use caswarm::source::origin_stores::OriginStores;

use super::client;
use crate::support::published::{Published, assert_chunk};
use crate::support::run;
use crate::support::wire::{Step, Wire, answer};

/// A server of the directory's files.
fn good(root: PathBuf) -> Wire {
    Wire::serve(move |asked| match std::fs::read(root.join(&asked.target[1..])) {
        Ok(bytes) => answer(200, "", &bytes),
        Err(_) => answer(404, "", b""),
    })
}

/// Servers that have nothing to give, by what they do.
fn sick() -> Vec<(&'static str, Wire)> {
    let page = || answer(200, "Content-Type: text/html\r\n", b"<html>not here</html>");
    let zstd = [&[0x28, 0xb5, 0x2f, 0xfd][..], &[7; 100]].concat();
    vec![
        ("500s", Wire::serve(|_| answer(500, "", b""))),
        ("pages", Wire::serve(move |_| page())),
        ("hangs up", Wire::serve(|_| vec![Step::Close])),
        ("resets", Wire::serve(|_| vec![Step::Reset])),
        ("garbage", Wire::serve(move |_| answer(200, "", &zstd))),
    ]
}

#[test]
fn a_sick_store_is_soon_asked_last() {
    let published = Published::new(6_000_000);
    let chunks = published.chunks().len();
    let good = good(published.dir().to_owned());
    for (fault, sick) in sick() {
        let (bad, extra) = (sick.url("default.castr"), good.url("default.castr"));
        let ran = published.extracts(&["--store", &bad, "--extra-store", &extra, "os.caibx"]);
        // Less than a second's rest, and the chunks that were under way when it failed first.
        assert!((1..=24).contains(&sick.count("")), "{fault}: asked {} times for {chunks} chunks", sick.count(""));
        assert!(ran.json()["origin_requests"].as_u64().unwrap() as usize >= chunks);
    }
}

#[test]
fn a_store_that_nobody_answers_for_costs_no_pauses() {
    let published = Published::new(6_000_000);
    let good = good(published.dir().to_owned());
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = format!("http://{nobody}/default.castr");
    let ran = published.extracts(&["--store", &refused, "--extra-store", &good.url("default.castr"), "os.caibx"]);
    // Even one round of pauses would be 1.75 s for each of the chunks that are under way together.
    assert!(ran.took.as_secs() < 20, "{ran}");
}

#[tokio::test]
async fn a_store_that_stalls_is_waited_for_once_not_for_every_chunk() {
    let published = Published::new(3_000_000);
    let good = good(published.dir().to_owned());
    let stalls = Wire::serve(|_| vec![Step::Stall]);
    let stores =
        OriginStores::new([&stalls, &good].map(|wire| HttpStore::new(&wire.url("default.castr"), client())).into());
    for (id, length) in published.chunks() {
        let (number, fetched) = stores.ask(id, |_| false).await.found.unwrap();
        assert_chunk(&fetched.encoded.unwrap(), id, length);
        assert_eq!(number, 1);
    }
    // It is asked again after a second, after two more, and so on.
    assert!((1..=5).contains(&stalls.count("")), "{}", stalls.count(""));
}

#[test]
fn a_sick_store_hides_neither_local_nor_remote_ones() {
    let published = Published::new(2_000_000);
    let good = good(published.dir().to_owned());
    let (_, sick) = sick().swap_remove(0);
    let (bad, url) = (sick.url("default.castr"), good.url("default.castr"));
    let local = published.path("default.castr").display().to_string();
    let (bad, url, local) = (bad.as_str(), url.as_str(), local.as_str());
    std::fs::write(published.path("file.castr"), b"").unwrap();
    for stores in [
        [bad, local, "absent.castr"],
        [bad, "absent.castr", url],
        ["file.castr", bad, url],
        ["absent.castr", bad, local],
        [local, bad, url],
    ] {
        let [first, second, third] = stores;
        published.extracts(&["--store", first, "--extra-store", second, "--extra-store", third, "os.caibx"]);
    }
}

#[test]
fn half_of_the_chunks_here_and_half_there_are_a_whole() {
    let published = Published::new(3_000_000);
    for name in ["even.castr", "odd.castr"] {
        let ran = std::process::Command::new("cp")
            .args(["-r", "default.castr", name])
            .current_dir(published.dir())
            .status()
            .unwrap();
        assert!(ran.success());
    }
    for (number, (id, _)) in published.chunks().iter().enumerate() {
        let place = ["even.castr", "odd.castr"][number % 2];
        let file = Published::chunk_path(id).replace("default.castr", place);
        std::fs::remove_file(published.path(&file)).unwrap();
    }
    let good = good(published.dir().to_owned());
    let (_, sick) = sick().swap_remove(0);
    let stores = ["even.castr", "odd.castr"].map(|name| good.url(name));
    let sick = sick.url("default.castr");
    published.extracts(&["--store", &stores[0], "--extra-store", &sick, "--extra-store", &stores[1], "os.caibx"]);
    let local = published.path("even.castr").display().to_string();
    published.extracts(&["--store", &sick, "--extra-store", &local, "--extra-store", &stores[1], "os.caibx"]);
}

#[test]
fn an_extraction_that_is_forbidden_everything_says_so() {
    let published = Published::new(300_000);
    let wire = Wire::serve(|_| answer(403, "", b"<Error><Code>AccessDenied</Code></Error>"));
    let store = wire.url("default.castr");
    let failed = run(&mut published.extract(&["--store", &store, "os.caibx", "out.img"])).failed();
    failed.says(&[&store, "403", "forbids"]);
    assert!(!published.path("out.img").exists());
}

#[tokio::test]
async fn the_next_store_is_asked_before_the_failing_one_is_asked_again() {
    let published = Published::new(300_000);
    let (id, length) = published.chunks()[0];
    let failing = Wire::serve(|asked| answer(if asked.before == 0 { 500 } else { 404 }, "", b""));
    let good = good(published.dir().to_owned());
    let stores =
        OriginStores::new([&failing, &good].map(|wire| HttpStore::new(&wire.url("default.castr"), client())).into());
    let reply = stores.ask(id, |_| false).await;
    let (number, fetched) = reply.found.unwrap();
    assert_chunk(&fetched.encoded.unwrap(), id, length);
    assert_eq!((number, reply.requests, failing.count(""), good.count("")), (1, 2, 1, 1));
    assert!(reply.errors.contains_key(&0));
    // It rests now, so the good one is asked first.
    assert_eq!(stores.ask(id, |_| false).await.requests, 1);
    // Nobody else can be asked: it gets all its tries, and its last word counts.
    let reply = stores.ask(id, |number| number == 1).await;
    assert!(reply.found.is_none() && reply.errors.is_empty() && failing.count("") == 2);
}

#[tokio::test]
async fn a_chunk_that_the_good_store_lacks_is_worth_further_tries_elsewhere() {
    let published = Published::new(300_000);
    let (id, length) = published.chunks()[0];
    let file = published.chunk_file(&id);
    let late = Wire::serve(move |asked| if asked.before < 2 { answer(500, "", b"") } else { answer(200, "", &file) });
    let lacks = Wire::serve(|_| answer(404, "", b""));
    let stores =
        OriginStores::new([&late, &lacks].map(|wire| HttpStore::new(&wire.url("default.castr"), client())).into());
    let reply = stores.ask(id, |_| false).await;
    assert_chunk(&reply.found.unwrap().1.encoded.unwrap(), id, length);
    assert_eq!((reply.requests, late.count(""), lacks.count("")), (4, 3, 1));
}
