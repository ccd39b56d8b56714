//! The HTTP client and the store on top of it, over the wire: servers that misbehave in every way that was thought of,
//! and one that does not (nginx). What a whole extraction makes of several such stores is in `stores`.

mod nginx;
mod stores;

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use caswarm::source::http::{HttpClient, HttpOptions};
use caswarm::source::http_store::HttpStore;
use caswarm::source::{ChunkSource, SourceError};
use proto::ChunkId;

use crate::support::published::{Published, assert_chunk};
use crate::support::wire::{Asked, Step, Wire, announce, answer};

const STALL: Duration = Duration::from_millis(300);
const LONGEST_WAIT: Duration = Duration::from_millis(1500);

/// A client in a hurry.
pub fn client() -> HttpClient {
    HttpClient::new(HttpOptions {
        connect_timeout: Duration::from_secs(2),
        stall_timeout: STALL,
        tries: 3,
        backoff: Duration::from_millis(20),
        longest_wait: LONGEST_WAIT,
        ..HttpOptions::default()
    })
    .unwrap()
}

fn store(wire: &Wire) -> HttpStore {
    HttpStore::new(&wire.url("default.castr"), client()).with_limit(1 << 20)
}

/// A chunk's file, and what it is a chunk of.
struct Sample {
    id: ChunkId,
    length: u32,
    file: Vec<u8>,
}

fn sample() -> Sample {
    let published = Published::new(200_000);
    let (id, length) = published.chunks()[0];
    Sample { id, length, file: published.chunk_file(&id) }
}

/// Everything that may pass, by what the server does.
fn transient(file: &[u8]) -> Vec<(&'static str, Vec<Step>)> {
    let half = || vec![announce(file.len() as u64), Step::Send(file[..file.len() / 2].to_vec())];
    let then = |mut steps: Vec<Step>, last: Step| {
        steps.push(last);
        steps
    };
    vec![
        ("500", answer(500, "", b"oops")),
        ("503 with Retry-After", answer(503, "Retry-After: 0\r\n", b"")),
        ("503 with a Retry-After that is none", answer(503, "Retry-After: soon\r\n", b"")),
        ("429", answer(429, "", b"")),
        ("no answer", vec![Step::Close]),
        ("a reset", vec![Step::Reset]),
        ("a reset in the body", then(half(), Step::Reset)),
        ("half a body", then(half(), Step::Close)),
        ("a stall", vec![Step::Stall]),
        ("a stall in the body", then(half(), Step::Stall)),
        ("no HTTP", vec![Step::Send(b"\x15\x03\x03 SSH-2.0\r\n\r\n".to_vec()), Step::Close]),
        ("half a head", vec![Step::Send(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()), Step::Close]),
    ]
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let sample = sample();
    for (fault, steps) in transient(&sample.file) {
        let file = sample.file.clone();
        let wire = Wire::serve(move |asked| if asked.before == 0 { steps.clone() } else { answer(200, "", &file) });
        let fetched = store(&wire).fetch(sample.id).await.unwrap_or_else(|error| panic!("{fault}: {error}"));
        assert_chunk(&fetched.unwrap(), sample.id, sample.length);
        assert_eq!(wire.count(""), 2, "{fault}");
    }
}

#[tokio::test]
async fn what_does_not_pass_is_tried_so_often_and_named() {
    let sample = sample();
    for (fault, steps) in transient(&sample.file) {
        let wire = Wire::serve(move |_| steps.clone());
        let error = store(&wire).fetch(sample.id).await.unwrap_err();
        assert!(matches!(error, SourceError::Unavailable { .. }), "{fault}: {error:?}");
        let said = error.to_string();
        assert!(said.contains(&wire.url("default.castr")) && said.contains("3 times"), "{fault}: {said}");
        assert_eq!(wire.count(""), 3, "{fault}");
    }
}

#[tokio::test]
async fn absence_is_no_error_and_final() {
    let sample = sample();
    for status in [404, 410, 403] {
        let wire = Wire::serve(move |_| answer(status, "", b"<html>no</html>"));
        let fetched = store(&wire).fetch_timed(sample.id).await.unwrap();
        assert!(fetched.encoded.is_none(), "{status}");
        assert_eq!((fetched.forbidden, wire.count("")), (status == 403, 1), "{status}");
    }
}

#[tokio::test]
async fn what_is_no_chunk_store_is_refused_at_once() {
    let sample = sample();
    let endless = vec![Step::Send(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()), Step::Endless];
    for (fault, steps, says) in [
        ("a page", answer(200, "Content-Type: text/html\r\n", b"<html>hello</html>"), "is this a chunk store?"),
        ("nothing", answer(200, "", b""), "is this a chunk store?"),
        ("a login", answer(401, "", b""), "401"),
        ("nonsense", answer(400, "", b""), "400"),
        ("too long", vec![announce(1 << 40), Step::Endless], "longer than"),
        ("endless", endless, "longer than"),
    ] {
        let wire = Wire::serve(move |_| steps.clone());
        let store = store(&wire);
        let error = store.fetch(sample.id).await.unwrap_err();
        assert!(matches!(error, SourceError::Refused { .. }), "{fault}: {error:?}");
        let said = error.to_string();
        assert!(said.contains(&wire.url("default.castr")) && said.contains(says), "{fault}: {said}");
        assert_eq!(wire.count(""), 1, "{fault}");
        assert!(store.client().received() <= (1 << 20) + (1 << 18), "{fault}: {}", store.client().received());
    }
}

#[tokio::test]
async fn a_server_that_asks_for_a_pause_gets_it_within_bounds() {
    let sample = sample();
    for (asks, least) in
        [("1", Duration::from_secs(1)), ("86400", LONGEST_WAIT), ("99999999999999999999", Duration::ZERO)]
    {
        let file = sample.file.clone();
        let wait = format!("Retry-After: {asks}\r\n");
        let wire = Wire::serve(move |asked| match asked.before {
            0 => answer(503, &wait, b""),
            _ => answer(200, "", &file),
        });
        assert!(store(&wire).fetch(sample.id).await.unwrap().is_some());
        let asked = wire.asked();
        let pause = asked[1].at - asked[0].at;
        assert!(pause >= least && pause < LONGEST_WAIT * 10, "{asks}: {pause:?}");
    }
}

#[tokio::test]
async fn nobody_listening_and_no_such_host_are_named() {
    let sample = sample();
    let gone = Wire::serve(|_| vec![]).url("default.castr").replace("http://127.0.0.1", "http://127.0.0.2");
    for (base, says) in [(gone.as_str(), "no connection"), ("http://nowhere.invalid/default.castr", "does not resolve")]
    {
        let error = HttpStore::new(base, client()).fetch(sample.id).await.unwrap_err();
        assert!(matches!(error, SourceError::Unavailable { .. }), "{error:?}");
        let said = error.to_string();
        assert!(said.contains(base) && said.contains(says) && said.contains("3 times"), "{said}");
    }
}

#[tokio::test]
async fn a_connection_is_used_for_many_requests_whatever_their_answers() {
    let sample = sample();
    let file = sample.file.clone();
    let wire = Wire::serve(move |asked| match asked.before % 4 {
        0 => answer(404, "", &[b' '; 5000]),
        1 => answer(500, "", &[b' '; 5000]),
        2 => answer(200, "", &file),
        _ => answer(403, "", b""),
    });
    let store = store(&wire);
    for _ in 0..40 {
        store.fetch(sample.id).await.unwrap();
    }
    assert_eq!((wire.count(""), wire.connections()), (53, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_are_in_flight_at_once() {
    const MANY: usize = 64;
    let sample = sample();
    let file = sample.file.clone();
    // Nobody is answered before all have asked.
    let barrier = Arc::new(Barrier::new(MANY));
    let wire = Wire::serve(move |_: &Asked| {
        barrier.wait();
        answer(200, "", &file)
    });
    let patient = HttpOptions { stall_timeout: Duration::from_secs(30), tries: 1, ..HttpOptions::default() };
    let store = HttpStore::new(&wire.url("default.castr"), HttpClient::new(patient).unwrap());
    let fetched = futures::future::join_all((0..MANY).map(|_| store.fetch(sample.id))).await;
    assert!(fetched.into_iter().all(|fetched| fetched.unwrap().is_some()));
    assert_eq!(wire.count(""), MANY);
}

#[tokio::test]
async fn a_slow_server_that_keeps_sending_is_waited_for() {
    let sample = sample();
    let file = sample.file.clone();
    let wire = Wire::serve(move |_| {
        let mut steps = vec![announce(file.len() as u64)];
        steps.extend(file.chunks(file.len().div_ceil(5)).map(|part| Step::Send(part.to_vec())));
        steps
    });
    wire.dawdle(STALL * 2 / 5);
    let started = Instant::now();
    assert_chunk(&store(&wire).fetch(sample.id).await.unwrap().unwrap(), sample.id, sample.length);
    assert!(started.elapsed() > STALL && wire.count("") == 1);
}

#[tokio::test]
async fn a_server_that_drips_is_given_up_as_one_that_stalls() {
    let sample = sample();
    let file = sample.file.clone();
    let wire = Wire::serve(move |asked| match asked.before {
        0 => [announce(file.len() as u64)].into_iter().chain(file.iter().map(|byte| Step::Send(vec![*byte]))).collect(),
        _ => vec![Step::Close],
    });
    // Each byte comes in time.
    wire.dawdle(STALL / 3);
    let error = store(&wire).fetch_timed(sample.id).await.unwrap_err().to_string();
    assert!(wire.count("") > 1, "{error}");
}
