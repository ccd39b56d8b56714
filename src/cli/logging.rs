//! What is logged, and where: stderr, by `--log-level`, else `RUST_LOG`, else `--verbose` and `--quiet`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::Global;

/// Starts logging to stderr for the rest of the run.
pub(super) fn start(global: &Global) {
    let filter = match &global.log_level {
        Some(level) => EnvFilter::try_new(casync_level(level)),
        None => EnvFilter::try_new(
            std::env::var("RUST_LOG")
                .ok()
                .filter(|filter| !filter.is_empty())
                .unwrap_or_else(|| default_filter(global).to_owned()),
        ),
    };
    let filter = filter.unwrap_or_else(|_| EnvFilter::new(default_filter(global)));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start (tests of the library) keeps the first.
    let _ = logs.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init();
}

fn default_filter(global: &Global) -> &'static str {
    match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => "warn,libp2p_kad=error,russh_sftp=error",
        (false, 1) => "warn,libp2p_kad=error,russh_sftp=error,caswarm=info",
        (false, 2) => "info,libp2p_kad=error,russh_sftp=error,caswarm=debug",
        (false, _) => "debug,caswarm=trace",
    }
}

/// casync's numbers (those of syslog) and its `err`; everything else is the filter language of RUST_LOG.
fn casync_level(level: &str) -> &str {
    match level {
        "0" | "1" | "2" | "3" | "err" | "emerg" | "alert" | "crit" => "error",
        "4" | "warning" => "warn",
        "5" | "6" | "notice" => "info",
        "7" => "debug",
        other => other,
    }
}
