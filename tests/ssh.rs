//! Remote places by casync's own protocol over a real sshd: both programs as both sides; what goes wrong; and the taking
//! and giving side alone, with what no decent program says.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use caswarm::remote::link::{Reader, Writer};
use caswarm::remote::message::{Message, services};
use caswarm::remote::serve::{self, Offer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::data::{assert_file_is, image, next_version};
use crate::support::lan::wait_until;
use crate::support::process::PATIENCE;
use crate::support::published::Published;
use crate::support::sshd::{SSHD, Sshd, script};
use crate::support::{Need, Process, Ran, caswarm, require, run};

struct Place {
    dir: tempfile::TempDir,
    sshd: Sshd,
}

/// Which program runs on a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    Casync,
}

use Side::{Casync, Ours};

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap(), sshd: Sshd::start() };
        let old = image(71, 2_000_000);
        fs::write(place.path("v1"), &old).unwrap();
        fs::write(place.path("v2"), next_version(&old, 72, 0.2, 4)).unwrap();
        fs::create_dir_all(place.path("tree/sub")).unwrap();
        fs::write(place.path("tree/file"), &old[..300_000]).unwrap();
        fs::write(place.path("tree/sub/other"), b"other").unwrap();
        fs::create_dir(place.path("there")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A location on the other machine, which is this one.
    fn there(&self, name: &str) -> String {
        format!("box:{}", self.path("there").join(name).display())
    }

    fn command(&self, client: Side, server: Side, arguments: &[&str]) -> Command {
        let mut command = match client {
            Ours => caswarm(&self.path("state")),
            Casync => Command::new("casync"),
        };
        if client == Ours && arguments[0] == "extract" {
            command.args(["extract", "--no-lan", "--seed-output=no"]).args(&arguments[1..]);
        } else {
            command.args(arguments);
        }
        command.current_dir(self.dir.path()).env("CASYNC_SSH_PATH", self.sshd.ssh()).env("TMPDIR", self.dir.path());
        match server {
            Ours => command.env("CASYNC_REMOTE_PATH", env!("CARGO_BIN_EXE_caswarm")),
            Casync => command.env_remove("CASYNC_REMOTE_PATH"),
        };
        command
    }

    fn run(&self, client: Side, server: Side, arguments: &[&str]) -> Ran {
        run(&mut self.command(client, server, arguments))
    }
}

fn chunks(store: &Path) -> BTreeSet<PathBuf> {
    let directories = fs::read_dir(store).unwrap().map(|directory| directory.unwrap().path());
    let files = directories.flat_map(|directory| fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()));
    files.filter(|file| file.extension().is_some_and(|kind| kind == "cacnk")).collect()
}

fn needs() -> Vec<Need> {
    [&SSHD[..], &[Need::Program("casync")]].concat()
}

const PAIRS: [(Side, Side); 4] = [(Ours, Casync), (Casync, Ours), (Ours, Ours), (Casync, Casync)];

#[test]
fn either_pushes_to_either_and_only_what_is_missing_and_either_extracts_it() {
    if !require(&needs()) {
        return;
    }
    for (client, server) in PAIRS {
        let place = Place::new();
        let digest = run(Command::new("casync").args(["make", "v1.caibx", "v1"]).current_dir(place.dir.path())).ok();
        let (first, second) = (place.there("v1.caibx"), place.there("v2.caibx"));
        let made = place.run(client, server, &["make", &first, "v1"]).ok();
        assert_eq!(made.stdout, digest.stdout, "{client:?} to {server:?}");
        assert_file_is(&place.path("there/v1.caibx"), &fs::read(place.path("v1.caibx")).unwrap());
        let store = place.path("there/default.castr");
        let names = |store: &Path| -> BTreeSet<_> {
            chunks(store).into_iter().map(|chunk| chunk.file_name().unwrap().to_owned()).collect()
        };
        assert_eq!(names(&store), names(&place.path("default.castr")), "{client:?} to {server:?}");
        // What is there already is not written again, and by us not sent.
        let before = chunks(&store);
        let times = |chunks: &BTreeSet<PathBuf>| -> Vec<_> {
            chunks.iter().map(|chunk| fs::metadata(chunk).unwrap().modified().unwrap()).collect()
        };
        let written = times(&before);
        let made = place.run(client, server, &["make", "--verbose", &second, "v2"]).ok();
        assert_eq!(times(&before), written);
        let new = chunks(&store).len() - before.len();
        assert!(new > 0);
        if client == Ours {
            made.says(&[&format!(" pushed={new} ")]);
        }
        for (reader, writer) in PAIRS {
            place.run(reader, writer, &["extract", &second, "out"]).ok();
            assert_file_is(&place.path("out"), &fs::read(place.path("v2")).unwrap());
            fs::remove_file(place.path("out")).unwrap();
        }
        if client == Ours || server == Ours {
            let id = fs::read_to_string(place.path("there/v2.caibx.id")).unwrap();
            let index = fs::read(place.path("there/v2.caibx")).unwrap();
            assert_eq!(id.trim(), caswarm::format::index::Index::index_id(&index).to_string());
        }
        wait_until("no ssh is left", PATIENCE, || place.sshd.clients() == 0);
    }
}

#[test]
fn an_id_that_was_there_names_no_other_index_afterwards() {
    if !require(&needs()) {
        return;
    }
    for server in [Casync, Ours] {
        let place = Place::new();
        let index = place.there("os.caibx");
        place.run(Ours, server, &["make", &index, "v1"]).ok();
        let old = fs::read_to_string(place.path("there/os.caibx.id")).unwrap();
        place.run(Ours, server, &["make", "--id=no", &index, "v2"]).ok();
        let new = fs::read_to_string(place.path("there/os.caibx.id")).unwrap();
        assert!(new.parse::<proto::IndexId>().is_err() || server == Ours, "{new}");
        assert_ne!(new, old);
        // One that cannot be written is an error, and the index stays.
        fs::remove_file(place.path("there/os.caibx.id")).unwrap();
        fs::create_dir_all(place.path("there/os.caibx.id/in the way")).unwrap();
        let before = fs::read(place.path("there/os.caibx")).unwrap();
        place.run(Ours, server, &["make", &index, "v1"]).failed();
        assert_file_is(&place.path("there/os.caibx"), &before);
    }
}

#[test]
fn a_pipe_can_be_made_from_and_who_is_stopped_leaves_no_temporary_store() {
    if !require(&needs()) {
        return;
    }
    let place = Place::new();
    let stores = || {
        let names = fs::read_dir(place.dir.path()).unwrap().flatten().map(|file| file.file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".castr")).count()
    };
    run(Command::new("mkfifo").arg(place.path("pipe"))).ok();
    let make = || Process::spawn(&mut place.command(Ours, Ours, &["make", &place.there("p.caibx"), "pipe"]));
    let image = fs::read(place.path("v1")).unwrap();

    let making = make();
    let mut pipe = fs::File::options().write(true).open(place.path("pipe")).unwrap();
    pipe.write_all(&image).unwrap();
    drop(pipe);
    making.wait(PATIENCE).ok();
    place.run(Ours, Ours, &["extract", &place.there("p.caibx"), "out"]).ok();
    assert_file_is(&place.path("out"), &image);
    assert_eq!(stores(), 0);

    let mut making = make();
    let mut pipe = fs::File::options().write(true).open(place.path("pipe")).unwrap();
    pipe.write_all(&image[..1_000_000]).unwrap();
    wait_until("chunks are stored", PATIENCE, || stores() == 1);
    assert!(making.is_running());
    making.signal(rustix::process::Signal::TERM);
    assert_eq!(making.wait(PATIENCE).status.code(), Some(143));
    assert_eq!(stores(), 0);
    drop(pipe);
}

#[test]
fn trees_and_archives_travel_both_ways_and_can_be_looked_into() {
    if !require(&needs()) {
        return;
    }
    for (client, server) in [(Ours, Casync), (Casync, Ours), (Ours, Ours)] {
        let place = Place::new();
        let (index, archive) = (place.there("t.caidx"), place.there("t.catar"));
        let made = place.run(client, server, &["make", &index, "tree"]).ok();
        assert_eq!(place.run(client, server, &["make", &archive, "tree"]).ok().stdout, made.stdout);
        let here = run(Command::new("casync").args(["make", "t.catar", "tree"]).current_dir(place.dir.path())).ok();
        assert_eq!(here.stdout, made.stdout);
        assert_file_is(&place.path("there/t.catar"), &fs::read(place.path("t.catar")).unwrap());
        place.run(client, server, &["extract", &index, "out"]).ok();
        run(Command::new("diff").args(["-r", "tree", "out"]).current_dir(place.dir.path())).ok();
        for verb in ["list", "mtree", "digest"] {
            let local = place.run(client, server, &[verb, "there/t.caidx"]).ok();
            assert_eq!(place.run(client, server, &[verb, &index]).ok().stdout, local.stdout, "{verb}");
        }
        let leftovers = fs::read_dir(place.dir.path()).unwrap().flatten().map(|file| file.file_name());
        let leftovers: Vec<_> = leftovers.filter(|name| name.to_string_lossy().ends_with(".castr")).collect();
        assert_eq!(leftovers.len(), 0, "{leftovers:?}");
    }
}

#[test]
fn a_local_index_takes_a_remote_store_by_either_way_of_naming_it() {
    if !require(&needs()) {
        return;
    }
    let place = Place::new();
    place.run(Ours, Ours, &["make", &place.there("v1.caibx"), "v1"]).ok();
    fs::copy(place.path("there/v1.caibx"), place.path("v1.caibx")).unwrap();
    let url = format!("ssh://127.0.0.1:{}{}", place.sshd.port, place.path("there/default.castr").display());
    for store in [place.there("default.castr"), url] {
        for server in [Ours, Casync] {
            place.run(Ours, server, &["extract", "v1.caibx", "out", &format!("--store={store}")]).ok();
            assert_file_is(&place.path("out"), &fs::read(place.path("v1")).unwrap());
            fs::remove_file(place.path("out")).unwrap();
        }
    }
    // A name that a shell would take apart.
    fs::rename(place.path("there"), place.path("there; echo $HOME 'x'")).unwrap();
    let odd = format!("--store=box:{}/default.castr", place.path("there; echo $HOME 'x'").display());
    place.run(Ours, Casync, &["extract", "v1.caibx", "out", &odd]).ok();
}

#[test]
fn what_is_missing_there_is_an_error_here() {
    if !require(&needs()) {
        return;
    }
    let place = Place::new();
    place.run(Ours, Ours, &["make", &place.there("v1.caibx"), "v1"]).ok();
    for server in [Ours, Casync] {
        let missing = place.there("missing.caibx");
        place.run(Ours, server, &["extract", &missing, "out"]).failed().says(&["missing.caibx"]);
    }
    for chunk in chunks(&place.path("there/default.castr")).into_iter().take(3) {
        fs::remove_file(chunk).unwrap();
    }
    for server in [Ours, Casync] {
        let ran = place.run(Ours, server, &["extract", &place.there("v1.caibx"), "out"]).failed();
        ran.says(&["3 of the image's chunks", "default.castr"]);
    }
    place.run(Casync, Ours, &["extract", &place.there("v1.caibx"), "out"]).failed();
    let elsewhere = place.run(Ours, Ours, &["make", &place.there("x.caibx"), "v1", "--store=other:s.castr"]).failed();
    elsewhere.says(&["another machine"]);
    place.run(Ours, Ours, &["make", &place.there("x.caibx"), "v1", "--store=s.castr"]).failed().says(&["s.castr"]);
    place.run(Ours, Ours, &["make", "-v:x.caibx", "v1"]).failed();
    wait_until("no ssh is left", PATIENCE, || place.sshd.clients() == 0);
}

#[test]
fn another_side_that_speaks_something_else_is_an_error_and_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let published = Published::new(300_000);
    let at = |name: &str| dir.path().join(name);
    let hello = {
        let bytes = Message::Hello(services::READABLE_INDEX | services::READABLE_STORE).to_bytes().0;
        fs::write(at("hello"), bytes).unwrap();
        format!("cat {}", at("hello").display())
    };
    let huge = [&(1u64 << 60).to_le_bytes()[..], &[1; 8]].concat();
    fs::write(at("huge"), huge).unwrap();
    for (says, script_text) in [
        ("not casync's protocol", "echo Welcome to this machine, stranger; exec cat".to_owned()),
        ("not casync's protocol", format!("cat {}; exec cat", at("huge").display())),
        ("not casync's protocol", "exec cat /dev/zero".to_owned()),
        ("ended too early", "exit 3".to_owned()),
        ("ended too early", hello.clone()),
        ("something else", format!("{hello}; {hello}; exec cat")),
        ("not casync's protocol", format!("{hello}; exec cat /dev/urandom")),
    ] {
        script(&at("ssh"), &script_text);
        // A store that fails is asked again for a while, whatever its failure: one of them has to do.
        for store in [false, true].into_iter().take(if says == "something else" { 2 } else { 1 }) {
            let mut command = caswarm(&at("state"));
            let local = published.path("os.caibx").display().to_string();
            let words = match store {
                false => vec!["box:os.caibx".to_owned(), "--store=box:s.castr".to_owned()],
                true => vec![local, "--store=box:s.castr".to_owned()],
            };
            command.args(["extract", "--no-lan"]).args(words).arg(at("out"));
            let ran = run(command.env("CASYNC_SSH_PATH", at("ssh")).current_dir(dir.path())).failed();
            let random = says.contains("protocol") && ran.stderr.contains("unknown kind");
            let said = random || ran.stderr.contains(says);
            assert!(said, "{says}: {ran}");
            assert!(!at("out").exists());
        }
    }
    let nowhere = at("no-such-ssh");
    let mut command = caswarm(&at("state"));
    command.args(["extract", "--no-lan", "box:os.caibx", "out"]).current_dir(dir.path());
    run(command.env("CASYNC_SSH_PATH", nowhere)).failed().says(&["no-such-ssh", "cannot be started"]);
}

/// A pusher of the test's own: says these, and returns what the taking side made of it.
async fn pushed(offer: &Offer, says: Vec<Message>) -> Result<(), String> {
    let (here, there) = tokio::io::duplex(1 << 20);
    let (input, output) = tokio::io::split(there);
    let taking = serve::push(offer, input, output);
    let speaking = async {
        let (mut listen, mut speak) = tokio::io::split(here);
        for message in says {
            let (head, data) = message.to_bytes();
            let _ = speak.write_all(&head).await;
            let _ = speak.write_all(&data).await;
        }
        let _ = speak.shutdown().await;
        let mut heard = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(20), listen.read_to_end(&mut heard)).await;
    };
    tokio::join!(taking, speaking).0.map_err(|error| error.to_string())
}

#[tokio::test]
async fn what_is_pushed_is_checked_before_it_is_kept() {
    let published = Published::new(300_000);
    let dir = tempfile::tempdir().unwrap();
    let offer =
        Offer { index: Some(dir.path().join("os.caibx")), store: Some(dir.path().join("s.castr")), ..Offer::default() };
    let hello = Message::Hello(services::PUSH_CHUNKS | services::PUSH_INDEX | services::PUSH_INDEX_CHUNKS);
    let index: bytes::Bytes = fs::read(published.path("os.caibx")).unwrap().into();
    let begin = vec![hello.clone(), Message::Index(index.clone()), Message::IndexEof];
    let chunk = |id| Message::Chunk { compressed: true, id, data: published.chunk_file(&id).into() };
    let ids: Vec<_> = published.chunks().into_iter().map(|(id, _)| id).collect();
    let good: Vec<Message> = ids.iter().map(|id| chunk(*id)).collect();
    let with = |further: Vec<Message>| [begin.clone(), further].concat();
    let mut lying = good.clone();
    lying[0] = Message::Chunk { compressed: true, id: ids[0], data: published.chunk_file(&ids[1]).into() };
    let mut repeated = good.clone();
    repeated.insert(1, good[0].clone());
    for (what, says) in [
        ("nothing", vec![]),
        ("no hello", vec![Message::IndexEof]),
        ("a hello that wants to pull", vec![Message::Hello(services::PULL_INDEX)]),
        ("a cut index", vec![hello.clone(), Message::Index(index.slice(..index.len() - 1)), Message::IndexEof]),
        ("half an index", vec![hello.clone(), Message::Index(index.slice(..100))]),
        ("too few chunks", with(good[1..].to_vec())),
        ("a missing chunk", with(vec![Message::Missing(ids[0])])),
        ("another chunk's bytes", with(lying)),
        ("a chunk nobody asked for", with(vec![chunk_of_nobody()])),
        ("a chunk twice", with(repeated)),
        ("a chunk of no compression", with(vec![Message::Chunk { compressed: true, id: ids[0], data: "x".into() }])),
    ] {
        // What came before the error stays in the store, and would not be asked for again.
        let _ = fs::remove_dir_all(dir.path().join("s.castr"));
        assert!(pushed(&offer, says).await.is_err(), "{what}");
        assert!(!dir.path().join("os.caibx").exists(), "{what}");
        if dir.path().join("s.castr").exists() {
            let mut verify = caswarm(&dir.path().join("state"));
            run(verify.arg("verify").arg(dir.path().join("s.castr"))).ok();
        }
    }
    fs::remove_dir_all(dir.path().join("s.castr")).unwrap();
    pushed(&offer, with(good)).await.unwrap_or_else(|error| panic!("what is right: {error}"));
    assert_file_is(&dir.path().join("os.caibx"), &index);
}

fn chunk_of_nobody() -> Message {
    Message::Chunk { compressed: false, id: proto::ChunkId([9; 32]), data: "x".into() }
}

/// A puller of the test's own: says these, and returns everything it hears.
async fn pulled(offer: &Offer, says: Vec<Message>) -> (Result<(), String>, Vec<u8>) {
    let (here, there) = tokio::io::duplex(1 << 16);
    let (input, output) = tokio::io::split(there);
    let speaking = async {
        let (mut listen, mut speak) = tokio::io::split(here);
        for message in says {
            let _ = speak.write_all(&message.to_bytes().0).await;
        }
        let mut heard = Vec::new();
        let read = listen.read_to_end(&mut heard);
        let _ = tokio::time::timeout(Duration::from_millis(1500), read).await;
        heard
    };
    let giving = async { serve::pull(offer, input, output).await.map_err(|error| error.to_string()) };
    let giving = tokio::time::timeout(Duration::from_secs(20), giving);
    let (given, heard) = tokio::join!(giving, speaking);
    (given.unwrap_or_else(|_| Err("never ends".to_owned())), heard)
}

#[tokio::test]
async fn a_question_asked_again_is_answered_again_and_nonsense_ends_it() {
    let published = Published::new(300_000);
    let offer = Offer { store: Some(published.path("default.castr")), ..Offer::default() };
    let hello = Message::Hello(services::PULL_CHUNKS);
    let (id, _) = published.chunks()[0];
    let ask = |id| Message::Request { high: false, ids: vec![id] };
    let (here, there) = tokio::io::duplex(1 << 16);
    let asking = async {
        let (input, output) = tokio::io::split(here);
        let (mut reader, mut writer) = (Reader::new(input, None), Writer::new(output));
        writer.send(&hello).await.unwrap();
        assert_eq!(reader.receive().await.unwrap(), Message::Hello(services::READABLE_STORE));
        for _ in 0..3 {
            writer.send(&ask(id)).await.unwrap();
            let data = published.chunk_file(&id).into();
            assert_eq!(reader.receive().await.unwrap(), Message::Chunk { compressed: true, id, data });
        }
        writer.send(&Message::Goodbye).await.unwrap();
    };
    let (input, output) = tokio::io::split(there);
    let (given, ()) = tokio::join!(serve::pull(&offer, input, output), asking);
    given.unwrap();
    let absent = ask(proto::ChunkId([1; 32]));
    let (given, heard) = pulled(&offer, vec![hello.clone(), absent]).await;
    assert!(given.is_ok() && heard.ends_with(&[1; 32]));
    for says in [vec![Message::Hello(services::PULL_INDEX)], vec![hello.clone(), Message::IndexEof], vec![ask(id)]] {
        let (given, _) = pulled(&offer, says.clone()).await;
        assert!(given.is_err(), "{says:?}");
    }
}
