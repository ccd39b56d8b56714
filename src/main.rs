//! The program: parse, run, one line for an error, exit code.

use std::process::ExitCode;

use caswarm::cli::Cli;
use caswarm::exit::Exit;
use clap::Parser;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(help) => {
            let _ = help.print();
            return if help.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    match cli.run() {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("caswarm: {error:#}");
            Exit::Failure.into()
        }
    }
}
