//! `caswarm verify`: every kind of damage is found, nothing that is right is accused, and only what is bad is removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use caswarm::chunk::Encoding;
use caswarm::format::compression::Compressor;
use caswarm::format::digest::Digest;

use crate::support::data::Random;
use crate::support::{Ran, caswarm, run};

struct Store(tempfile::TempDir);

impl Store {
    fn new() -> Self {
        let store = Self(tempfile::tempdir().unwrap());
        fs::create_dir(store.path()).unwrap();
        store
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("s.castr")
    }

    fn verify(&self, arguments: &[&str]) -> Ran {
        let mut command = caswarm(&self.0.path().join("state"));
        run(command.arg("verify").args(arguments).arg("s.castr").current_dir(self.0.path()))
    }

    /// Puts a file where the chunk of `plain` belongs. Returns its name below the store.
    fn put(&self, plain: &[u8], digest: Digest, suffix: &str, bytes: &[u8]) -> String {
        let id = digest.id(plain).to_string();
        let name = format!("{}/{id}{suffix}", &id[..4]);
        fs::create_dir_all(self.path().join(&id[..4])).unwrap();
        fs::write(self.path().join(&name), bytes).unwrap();
        name
    }
}

fn compress(encoding: Encoding, plain: &[u8]) -> Vec<u8> {
    Compressor::new(encoding).unwrap().compress(plain).unwrap()
}

const SHA512: Digest = Digest::Sha512_256;

#[test]
fn every_kind_of_damage_is_found_and_what_is_right_is_not_accused() {
    let store = Store::new();
    let mut random = Random::new(51);
    let mut plain = || random.text(70_000);
    let mut good = Vec::new();
    for encoding in [Encoding::Zstd, Encoding::Xz, Encoding::Gzip] {
        for digest in [SHA512, Digest::Sha256] {
            let plain = plain();
            good.push(store.put(&plain, digest, ".cacnk", &compress(encoding, &plain)));
        }
    }
    let both = plain();
    good.push(store.put(&both, SHA512, "", &both));
    good.push(store.put(&both, SHA512, ".cacnk", &compress(Encoding::Zstd, &both)));
    let long = vec![1; 3 << 20];
    good.push(store.put(&long, SHA512, ".cacnk", &compress(Encoding::Zstd, &long)));

    let mut bad = Vec::new();
    let mut damaged = |suffix: &str, damage: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let plain = plain();
        let bytes = if suffix.is_empty() { plain.clone() } else { compress(Encoding::Zstd, &plain) };
        bad.push(store.put(&plain, SHA512, suffix, &damage(bytes)));
    };
    let flip = |mut bytes: Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };
    damaged(".cacnk", &flip);
    damaged("", &flip);
    damaged(".cacnk", &|bytes| bytes[..bytes.len() - 1].to_vec());
    damaged(".cacnk", &|_| Vec::new());
    damaged("", &|_| Vec::new());
    damaged(".cacnk", &|bytes| [&bytes[..], b"x"].concat());
    damaged(".cacnk", &|_| compress(Encoding::Zstd, b"another chunk"));
    damaged(".cacnk", &|_| b"<html>404</html>".to_vec());
    damaged(".cacnk", &|_| compress(Encoding::Zstd, &vec![0; 140 << 20]));
    // Half of a pair is bad, the other is not.
    let pair = random.text(60_000);
    good.push(store.put(&pair, SHA512, ".cacnk", &compress(Encoding::Zstd, &pair)));
    bad.push(store.put(&pair, SHA512, "", b"no"));
    // A pipe would wait for a writer.
    let pipe = store.put(b"pipe", SHA512, ".cacnk", b"");
    fs::remove_file(store.path().join(&pipe)).unwrap();
    run(Command::new("mkfifo").arg(store.path().join(&pipe))).ok();
    bad.push(pipe);
    // Nobody's business.
    std::os::unix::fs::symlink("/dev/null", store.path().join(&good[0][..4]).join("link")).unwrap();
    store.put(b"x", SHA512, ".0123.tmp", b"under way");

    let ran = store.verify(&["--json", "--threads=3"]).failed();
    assert_eq!(ran.status.code(), Some(1));
    bad.sort();
    let told = &ran.json()["stores"][0];
    assert_eq!(names(&told["bad"], "file"), bad, "{told}");
    assert_eq!(told["chunks"], good.len() + bad.len());
    let said = store.verify(&[]).failed();
    assert!(bad.iter().all(|name| said.stdout.contains(name.as_str())), "{said}");
    assert!(present(&store.path(), &good) && present(&store.path(), &bad));

    let repaired = store.verify(&["--repair", "--json"]).ok().json();
    assert!(repaired["stores"][0]["bad"].as_array().unwrap().iter().all(|bad| bad["removed"] == true), "{repaired}");
    assert!(present(&store.path(), &good));
    assert!(!bad.iter().any(|name| store.path().join(name).symlink_metadata().is_ok()));
    let clean = store.verify(&["--json"]).ok().json();
    assert_eq!(
        (&clean["stores"][0]["chunks"], names(&clean["stores"][0]["bad"], "file").len()),
        (&good.len().into(), 0)
    );
}

fn names(array: &serde_json::Value, key: &str) -> Vec<String> {
    array.as_array().unwrap().iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
}

fn present(store: &Path, names: &[String]) -> bool {
    names.iter().all(|name| store.join(name).symlink_metadata().is_ok())
}

#[test]
fn what_is_no_store_is_named() {
    let store = Store::new();
    let mut command = caswarm(&store.0.path().join("state"));
    let ran = run(command.args(["verify", "nowhere.castr"]).current_dir(store.0.path())).failed();
    ran.says(&["nowhere.castr", "no such chunk store"]);
}
