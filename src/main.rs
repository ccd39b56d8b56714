//! The program: parse, log, run, exit code.

fn main() {}
