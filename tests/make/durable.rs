//! What a power failure may find: nothing is on the disk before that on which it rests. Seen in the system calls, for
//! want of a switch to turn the machine off.

use std::process::Command;

use super::Place;
use crate::support::need::find_program;
use crate::support::{Need, require, run};

#[test]
fn chunks_are_on_the_disk_before_the_index_has_its_name_and_the_name_before_make_ends() {
    if !require(&[Need::Program("strace")]) {
        return;
    }
    let place = Place::new(1_000_000);
    for round in ["new chunks", "none"] {
        let make = place.command(&["os.caibx", "image"]);
        let mut traced = Command::new(find_program("strace").unwrap());
        let calls = "trace=syncfs,fsync,fdatasync,rename,renameat,renameat2";
        traced.args(["-f", "-y", "-qq", "-e", calls, "-o", "trace"]).arg(make.get_program()).args(make.get_args());
        traced.current_dir(place.0.path()).env("CASWARM_STATE_DIR", place.path("state"));
        run(&mut traced).ok();
        let trace = std::fs::read_to_string(place.path("trace")).unwrap();
        let calls: Vec<&str> = trace.lines().filter(|line| line.ends_with("= 0")).collect();
        let place_of = |what: &dyn Fn(&str) -> bool| calls.iter().position(|line| what(line));
        let last_chunk = calls.iter().rposition(|line| line.contains("rename") && line.contains(".cacnk"));
        let store = place_of(&|line| line.contains("syncfs(") && line.contains("default.castr")).unwrap();
        let index = place_of(&|line| line.contains("fsync(") && line.contains(".#os.caibx")).unwrap();
        let named = place_of(&|line| line.contains("rename") && line.contains("\"os.caibx\"")).unwrap();
        let directory = calls.iter().rposition(|line| line.contains("fsync(") && !line.contains("os.caibx")).unwrap();
        assert_eq!(last_chunk.is_some(), round == "new chunks", "{trace}");
        assert!(last_chunk < Some(store) && store < index && index < named && named < directory, "{trace}");
    }
}
