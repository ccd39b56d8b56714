//! The program: parse, run, one line for an error, exit code. Called as `casync`, it speaks as that.

use std::ffi::OsString;
use std::process::ExitCode;

use caswarm::cli::Cli;
use caswarm::cli::casync::{Environment, Said, is_casync, translate};
use caswarm::exit::Exit;
use clap::Parser;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    // A casync on another machine starts these, with options of its own before the verb, whatever our name.
    let verb = arguments.iter().find(|argument| !argument.as_encoded_bytes().starts_with(b"-"));
    let called = verb.is_some_and(|verb| verb == "pull" || verb == "push");
    if !is_casync(&program) && !called {
        return run("caswarm", [program].into_iter().chain(arguments)).into();
    }
    let done = match translate(arguments, Environment::of_this_process()) {
        Ok(Said::Run(line)) => run("casync", line),
        Ok(Said::Print(text)) => {
            print!("{text}");
            Exit::Ok
        }
        Err(reason) => {
            eprintln!("casync: {reason}");
            Exit::Failure
        }
    };
    // casync knows only these two.
    if done == Exit::Ok { Exit::Ok } else { Exit::Failure }.into()
}

fn run(name: &str, line: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(line) {
        Ok(cli) => cli,
        Err(help) => {
            let _ = help.print();
            return if help.use_stderr() { Exit::Usage } else { Exit::Ok };
        }
    };
    match cli.run() {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            Exit::Failure
        }
    }
}
