//! `caswarm status`.

use std::io::Write;

use super::Global;
use crate::daemon::control;
use crate::exit::Exit;
use crate::node::hub::Status;

/// What `caswarm status` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON object, for programs.
    #[arg(long)]
    json: bool,
}

/// Shows the state of the node that runs here.
///
/// # Errors
/// When none does.
pub async fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    let status = control::status(&global.state_dir()?.control_socket()).await?;
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &status)?;
        writeln!(out)?;
    } else {
        show(&status, &mut out)?;
    }
    Ok(Exit::Ok)
}

fn show(status: &Status, out: &mut impl Write) -> std::io::Result<()> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    writeln!(out, "node {} on port {}, up {:.0} s", status.peer_id, status.port, status.uptime)?;
    let network = if status.network.is_empty() { "default" } else { &status.network };
    let who = if status.open {
        "open, whoever is on the LAN may take chunks"
    } else {
        "keyed, only who has its key may join"
    };
    writeln!(out, "network {network}: {who}")?;
    writeln!(out, "sent {:.1} MiB to neighbours, refused {} damaged chunks", mib(status.sent), status.refused)?;
    for holder in &status.holders {
        writeln!(out, "serves from {holder}")?;
    }
    for image in &status.images {
        let name = if image.name.is_empty() { "named by a neighbour" } else { &image.name };
        let index = image.index.get(..16).unwrap_or(&image.index);
        let (held, chunks) = (image.held, image.chunks);
        writeln!(out, "index {index}  {held} of {chunks} chunks  {} neighbours  {name}", image.neighbours)?;
    }
    for neighbour in &status.neighbours {
        writeln!(
            out,
            "neighbour {}  {}  {:.0} s  received {:.1} MiB, sent {:.1} MiB",
            neighbour.peer_id,
            neighbour.addr,
            neighbour.connected,
            mib(neighbour.received),
            mib(neighbour.sent)
        )?;
    }
    Ok(())
}
