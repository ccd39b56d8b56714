//! The program called as `casync`: the same command lines through both programs, RAUC's and those of scripts, and the same
//! files, words and exit codes out of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::data::{image, next_version};
use crate::support::need::find_program;
use crate::support::{Need, Ran, require, run};

/// A directory for each of the two, with the same things in it.
struct Both {
    dir: tempfile::TempDir,
}

const OURS: &str = "ours";
const THEIRS: &str = "theirs";

impl Both {
    fn new() -> Self {
        let both = Self { dir: tempfile::tempdir().unwrap() };
        let old = image(61, 2_000_000);
        for side in [OURS, THEIRS] {
            let at = both.at(side);
            fs::create_dir_all(at.join("tree/sub")).unwrap();
            fs::create_dir(at.join("bin")).unwrap();
            fs::write(at.join("os.img"), next_version(&old, 62, 0.3, 5)).unwrap();
            fs::write(at.join("old.img"), &old).unwrap();
            fs::write(at.join("tree/file"), &old[..300_000]).unwrap();
            fs::write(at.join("tree/sub/other"), b"other").unwrap();
            std::os::unix::fs::symlink("file", at.join("tree/link")).unwrap();
            let times = ["-h", "-d", "2020-02-02 02:02:02"];
            let things = ["tree/file", "tree/sub/other", "tree/link", "tree/sub", "tree"];
            run(Command::new("touch").args(times).args(things).current_dir(&at)).ok();
            run(Command::new("tar").args(["cf", "tree.tar", "-C", "tree", "."]).current_dir(&at)).ok();
        }
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_caswarm"), both.at(OURS).join("bin/casync")).unwrap();
        std::os::unix::fs::symlink(find_program("casync").unwrap(), both.at(THEIRS).join("bin/casync")).unwrap();
        both
    }

    fn at(&self, side: &str) -> PathBuf {
        self.dir.path().join(side)
    }

    fn command(&self, side: &str, line: &str) -> Command {
        let at = self.at(side);
        let mut command = Command::new("sh");
        let path = format!("{}:{}", at.join("bin").display(), std::env::var("PATH").unwrap());
        command.args(["-c", line]).current_dir(&at).env("PATH", path).env("TMPDIR", &at);
        for name in ["CASYNC_STORE", "CASYNC_VERBOSE", "CASYNC_LOG_LEVEL", "RUST_LOG", "NOTIFY_SOCKET"] {
            command.env_remove(name);
        }
        command.env("CASWARM_STATE_DIR", at.join("state"));
        command
    }

    /// Runs a line of the shell on both sides, which must end alike and say the same on standard output. Returns ours and
    /// theirs.
    #[track_caller]
    fn alike(&self, line: &str) -> [Ran; 2] {
        let [ours, theirs] = [OURS, THEIRS].map(|side| run(&mut self.command(side, line)));
        assert_eq!(ours.status.code(), theirs.status.code(), "{ours}\n{theirs}");
        assert_eq!(ours.stdout, theirs.stdout, "{ours}\n{theirs}");
        [ours, theirs]
    }

    /// The same, and both succeed, with nothing on our standard error.
    #[track_caller]
    fn done(&self, line: &str) -> Ran {
        let [ours, theirs] = self.alike(line);
        theirs.ok();
        assert_eq!(ours.stderr, "", "{ours}");
        ours.ok()
    }

    #[track_caller]
    fn same_file(&self, name: &str) {
        let [ours, theirs] = [OURS, THEIRS].map(|side| fs::read(self.at(side).join(name)).unwrap());
        assert!(ours == theirs, "{name} differs");
    }
}

const NEEDS: [Need; 1] = [Need::Program("casync")];

#[test]
fn rauc_makes_and_installs_images_and_trees() {
    if !require(&[NEEDS[0], Need::Program("fakeroot")]) {
        return;
    }
    let both = Both::new();
    // RAUC's own words, in its order.
    both.done("casync make bundle/os.caibx os.img --store bundle.castr 2>/dev/null; test ! -e bundle/os.caibx");
    both.done("mkdir bundle && casync make bundle/os.caibx os.img --store bundle.castr");
    both.same_file("bundle/os.caibx");
    let tree = "rm -rf tmp; mkdir tmp; fakeroot sh -c 'tar xf tree.tar -C tmp --numeric-owner && casync make --with=unix \
                bundle/tree.caidx tmp --store bundle.castr'";
    both.done(tree);
    both.same_file("bundle/tree.caidx");
    assert!(!both.at(OURS).join("bundle/os.caibx.id").exists(), "casync writes no .id into the bundle");
    both.done("casync extract --seed old.img --store bundle.castr --seed-output=no bundle/os.caibx slot");
    both.done("mkdir mnt && casync extract --seed tree --store bundle.castr --seed-output=no bundle/tree.caidx mnt");
    for side in [OURS, THEIRS] {
        run(&mut both.command(side, "cmp slot os.img && diff -r tree mnt")).ok();
    }
    both.done("casync mtree mnt");
    // The default store lies beside the index.
    both.done("casync make bundle/two.caibx os.img && casync extract bundle/two.caibx two.img && cmp two.img os.img");
}

#[test]
fn a_device_is_a_slot() {
    if !require(&[NEEDS[0], Need::Root, Need::Program("losetup")]) {
        return;
    }
    let both = Both::new();
    let line = "truncate -s 4M slot; casync make os.caibx os.img >/dev/null && d=$(losetup --find --show slot) && \
                casync extract --seed old.img --store default.castr --seed-output=no os.caibx $d; e=$?; \
                losetup -d $d; cmp -n $(stat -c %s os.img) slot os.img && exit $e";
    both.done(line);
}

#[test]
fn scripts_read_the_same_from_both() {
    if !require(&NEEDS) {
        return;
    }
    let both = Both::new();
    for line in [
        "casync --version | head -n 1",
        "casync make --store=s.castr --chunk-size=16K:32K:128K --compression=xz --digest=sha256 a.caibx os.img",
        "casync --with=best --without=privileged make b.caidx tree",
        "casync make b.catar tree",
        "cd tree && casync make ../c.caidx",
        "casync list b.catar",
        "casync --recursive=no list b.catar",
        "casync mtree b.caidx",
        "casync list tree",
        "casync mtree --with=unix tree",
        "casync stat b.caidx sub/other",
        "casync digest tree",
        "casync digest --with=unix tree",
        "casync digest b.caidx sub",
        "casync digest --digest=sha256 os.img",
        "CASYNC_STORE=t.castr casync make d.caibx os.img && CASYNC_STORE=t.castr casync digest d.caibx",
        "casync extract --delete=no --reflink=no --punch-holes=no b.caidx out && diff -r out tree",
        "casync extract --hardlink=yes --seed=tree b.caidx linked && diff -r linked tree",
        "casync extract b.catar out2 sub && diff -r out2/sub tree/sub",
        "cp a.caibx other.name && casync extract --what=blob-index --store=s.castr other.name o && cmp o os.img",
        "casync extract d.caibx --store=t.castr --seed old.img - > piped && cmp piped os.img",
        "casync gc --dry-run b.caidx c.caidx",
        "casync gc -v b.caidx --store=s.castr | tail -n 1 | sed 's/ [0-9]* directories,//'",
        "casync help >/dev/null",
    ] {
        both.done(line);
    }
    // Where casync refuses a pipe.
    run(&mut both.command(OURS, "casync extract d.caibx --store=t.castr - | cmp - os.img")).ok();
    both.same_file("a.caibx");
    both.same_file("b.caidx");
    both.same_file("b.catar");
    both.same_file("c.caidx");
}

#[test]
fn what_fails_fails_in_both_with_the_same_code() {
    if !require(&NEEDS) {
        return;
    }
    let both = Both::new();
    both.done("casync make os.caibx os.img >/dev/null");
    for (line, named) in [
        ("casync", "no command"),
        ("casync frobnicate", "frobnicate"),
        ("casync --frobnicate list tree", "--frobnicate"),
        ("casync extract missing.caibx out", "missing.caibx"),
        ("casync extract --store=missing.castr os.caibx out", "missing.castr"),
        ("head -c 1000 os.caibx > cut.caibx; casync extract cut.caibx out", "cut.caibx"),
        ("find default.castr -name '*.cacnk' | head -n 3 | xargs rm; casync extract os.caibx out2", "out2"),
        ("casync make x.caibx missing.img", "missing.img"),
        ("casync make x.caidx --rate-limit-bps=0 tree/file", "tree/file"),
        ("casync list missing", "missing"),
    ] {
        let [ours, _] = both.alike(line);
        assert_eq!(ours.failed().says(&[named]).status.code(), Some(1), "{line}");
    }
    // Refused here by name, where casync does it.
    for (line, named) in [
        ("casync make -c x.caidx tree", "--cache-auto"),
        ("casync make --cache=c x.caidx tree", "--cache"),
        ("casync mount x.caidx tree", "mount"),
    ] {
        let ran = run(&mut both.command(OURS, line)).failed().says(&["casync: ", named]);
        assert_eq!(ran.status.code(), Some(1));
    }
}

#[test]
fn an_id_that_is_there_is_kept_right_and_nobody_waits_at_the_end() {
    if !require(&NEEDS) {
        return;
    }
    let both = Both::new();
    fs::write(both.at(OURS).join("os.caibx.id"), "of another index").unwrap();
    run(&mut both.command(OURS, "casync make os.caibx os.img")).ok();
    let index = fs::read(both.at(OURS).join("os.caibx")).unwrap();
    let id = fs::read_to_string(both.at(OURS).join("os.caibx.id")).unwrap();
    assert_eq!(id.trim(), caswarm::format::index::Index::index_id(&index).to_string());
    let verbose = run(&mut both.command(OURS, "CASYNC_VERBOSE=1 casync extract os.caibx out")).ok();
    assert!(!verbose.stderr.is_empty() && verbose.stdout.is_empty(), "{verbose}");
    assert!(same(&both.at(OURS).join("out"), &both.at(OURS).join("os.img")));
}

fn same(a: &Path, b: &Path) -> bool {
    fs::read(a).unwrap() == fs::read(b).unwrap()
}
