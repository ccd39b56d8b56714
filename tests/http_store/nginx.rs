//! A server as it should be: HTTP/2 over TLS, redirects, certificates; and proxies.

use caswarm::source::SourceError;
use caswarm::source::http_store::HttpStore;

use super::client;
use crate::support::nginx::Nginx;
use crate::support::published::Published;
use crate::support::wire::{Wire, answer};
use crate::support::{Need, require, run};

const NEEDS: [Need; 2] = [Need::Program("nginx"), Need::Program("openssl")];

#[test]
fn an_image_comes_by_http_2_over_few_connections() {
    if !require(&NEEDS) {
        return;
    }
    let published = Published::new(8_000_000);
    let nginx = Nginx::serve(published.dir(), "");
    let mut extract = published.extract(&[&nginx.https("os.caibx"), "out.img"]);
    let ran = run(extract.env("SSL_CERT_FILE", nginx.authority())).ok();
    assert_eq!(std::fs::read(published.path("out.img")).unwrap(), published.image);
    assert_eq!(ran.json()["from"]["store"], 0, "{}", ran.json());
    let requests = nginx.requests();
    assert!(requests.iter().all(|request| request.protocol == "HTTP/2.0"), "{requests:?}");
    let chunks = requests.iter().filter(|request| request.path.ends_with(".cacnk")).count();
    assert!(chunks > published.chunks().len() / 2 && chunks <= published.chunks().len(), "{chunks} chunks");
    let mut connections: Vec<_> = requests.iter().map(|request| &request.connection).collect();
    connections.sort_unstable();
    connections.dedup();
    assert!(connections.len() <= 2, "{} connections", connections.len());
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_an_error_at_once() {
    if !require(&NEEDS) {
        return;
    }
    let published = Published::new(100_000);
    let nginx = Nginx::serve(published.dir(), "");
    let url = nginx.https("os.caibx");
    // Without an .id to be asked for, there is one thing to ask.
    let id = std::fs::read_to_string(published.path("os.caibx.id")).unwrap();
    let mut extract = published.extract(&["--index-id", id.trim(), &url, "out.img"]);
    run(extract.env("SSL_CERT_FILE", nginx.stranger())).failed().says(&[&url, "certificate"]);
    assert!(nginx.requests().is_empty());
    assert_eq!(nginx.failed_handshakes().len(), 1, "{:?}", nginx.failed_handshakes());
}

#[test]
fn without_any_authority_what_needs_none_still_works() {
    if !require(&NEEDS) {
        return;
    }
    let published = Published::new(100_000);
    let nginx = Nginx::serve(published.dir(), "");
    for index in ["os.caibx".to_owned(), nginx.http("os.caibx")] {
        let mut extract = published.extract(&[&index, "out.img"]);
        let nothing = published.path("nothing");
        run(extract.env("SSL_CERT_FILE", &nothing).env("SSL_CERT_DIR", &nothing)).ok();
        assert_eq!(std::fs::read(published.path("out.img")).unwrap(), published.image);
        std::fs::remove_file(published.path("out.img")).unwrap();
    }
    let mut extract = published.extract(&[&nginx.https("os.caibx"), "out.img"]);
    run(extract.env("SSL_CERT_FILE", published.path("nothing")).env("SSL_CERT_DIR", published.path("nothing")))
        .failed()
        .says(&["certificate", "SSL_CERT_FILE"]);
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever() {
    if !require(&NEEDS) {
        return;
    }
    let published = Published::new(200_000);
    let locations = "location /moved/ { rewrite ^/moved/(.*)$ /$1 redirect; }\n\
                     location /loop/ { return 302 $uri; }\n\
                     location /out/ { return 301 http://127.0.0.2:1$uri; }\n";
    let nginx = Nginx::serve(published.dir(), locations);
    let (id, length) = published.chunks()[0];
    let store = HttpStore::new(&nginx.http("moved/default.castr"), client());
    let encoded = store.fetch_timed(id).await.unwrap().encoded.unwrap();
    crate::support::published::assert_chunk(&encoded, id, length);
    let looped = client().get_file(&nginx.http("loop/x"), 1000).await.unwrap_err();
    assert!(matches!(looped, SourceError::Refused { .. }), "{looped:?}");
    assert!(looped.to_string().contains("redirects") && looped.to_string().contains("loop/x"), "{looped}");
    let asked = nginx.requests().iter().filter(|request| request.path == "/loop/x").count();
    assert!(asked <= 10, "{asked} requests");
    let out = client().get_file(&nginx.http("out/x"), 1000).await.unwrap_err();
    assert!(matches!(out, SourceError::Unavailable { .. }), "{out:?}");
}

#[test]
fn a_redirect_from_https_to_http_is_refused() {
    if !require(&NEEDS) {
        return;
    }
    let published = Published::new(100_000);
    let locations = "location /down/ { rewrite ^/down/(.*)$ http://localhost:PLAIN/$1 redirect; }\n\
                     location /up/ { rewrite ^/up/(.*)$ https://localhost:SECURE/$1 redirect; }\n";
    let nginx = Nginx::serve(published.dir(), locations);
    let down = nginx.https("down/os.caibx");
    let mut extract = published.extract(&[&down, "out.img"]);
    let refused = run(extract.env("SSL_CERT_FILE", nginx.authority())).failed();
    refused.says(&[&down, "from https to http"]);
    assert!(nginx.requests().iter().all(|request| request.path.starts_with("/down/")));
    let mut extract = published.extract(&[&nginx.http("up/os.caibx"), "out.img"]);
    run(extract.env("SSL_CERT_FILE", nginx.authority())).ok();
    assert_eq!(std::fs::read(published.path("out.img")).unwrap(), published.image);
}

#[tokio::test]
async fn what_nginx_denies_or_lacks_is_absent() {
    if !require(&NEEDS) {
        return;
    }
    let published = Published::new(100_000);
    let nginx = Nginx::serve(published.dir(), "location /denied/ { deny all; }");
    let (id, _) = published.chunks()[0];
    for (place, forbidden) in [("denied/default.castr", true), ("absent.castr", false)] {
        let fetched = HttpStore::new(&nginx.http(place), client()).fetch_timed(id).await.unwrap();
        assert!(fetched.encoded.is_none());
        assert_eq!(fetched.forbidden, forbidden, "{place}");
    }
}

#[test]
fn the_environment_names_the_proxy_and_whom_it_is_not_for() {
    let published = Published::new(300_000);
    let root = published.dir().to_owned();
    // Like a proxy, it is asked for whole URLs; like a web server, for paths. It answers both.
    let wire = Wire::serve(move |asked| {
        let path = asked.target.split_once("origin.invalid/").map_or(&asked.target[1..], |(_, path)| path);
        match std::fs::read(root.join(path)) {
            Ok(bytes) => answer(200, "", &bytes),
            Err(_) => answer(404, "", b""),
        }
    });
    let through = |index: &str, no_proxy: &str| {
        let mut extract = published.extract(&[index, "out.img"]);
        let ran = run(extract.env("http_proxy", wire.url("")).env("no_proxy", no_proxy));
        let _ = std::fs::remove_file(published.path("out.img"));
        ran
    };
    through("http://origin.invalid/os.caibx", "").ok();
    let by_proxy = wire.count("http://origin.invalid/");
    assert!(by_proxy > published.chunks().len() / 2 && by_proxy == wire.count(""));
    through(&wire.url("os.caibx"), "127.0.0.1").ok();
    assert_eq!(wire.count("http://"), by_proxy);
    through("http://origin.invalid/os.caibx", "origin.invalid").failed().says(&["origin.invalid", "resolve"]);
}
