//! The one test binary. It needs nothing; what a test needs beyond the program it says with `support::require`, and is
//! skipped aloud without it. `CASWARM_TESTS_REQUIRE_ALL=1` makes every skip a failure.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod archive;
mod as_casync;
mod casync_formats;
mod corpus;
mod corrupt_input;
mod dht;
mod extract;
mod gc;
mod http_store;
mod lan;
mod make;
mod membership;
mod sftp;
mod sim;
mod source_contract;
mod ssh;
mod support;
mod transport;
mod tree_holder;
mod trees;
mod verify;

/// Every file here has to be a module of this file, or its tests would silently not run.
#[test]
fn every_test_file_is_a_module_of_this_binary() {
    let main = include_str!("main.rs");
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for entry in std::fs::read_dir(here).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(module) = name.strip_suffix(".rs") else { continue };
        let declared = main.lines().any(|line| line.trim_end_matches(';') == format!("mod {module}"));
        assert!(module == "main" || declared, "tests/{name} is not a module of tests/main.rs");
    }
}
