//! casync's way to other machines: a program of its own kind on the other side, started by `ssh`, with which it speaks
//! [`message`]s over a pair of pipes. [`pull`] and [`push`] are this side, [`serve`] is the other. [`sftp`] is the way to
//! machines that have no such program. Nothing that the other
//! side says is trusted, and the child is ended with whoever started it.
//!
//! `$CASYNC_SSH_PATH` names another program than `ssh`, `$CASYNC_REMOTE_PATH` another than `casync` on the other side.

pub mod link;
pub mod message;
pub mod pull;
pub mod push;
pub mod serve;
pub mod sftp;

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{BufReader, BufWriter};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::chunk::{Encoded, Encoding};
use crate::source::location::Location;
use crate::source::{SourceError, detect};
use link::{LinkError, Reader, Writer};
use message::{Message, services};

/// How long the other side may be silent: connecting, and people who type a passphrase, take a while.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long a child may take to end by itself.
const ENDING: Duration = Duration::from_secs(10);

/// A path on another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As ssh takes it: `[user@]host`, or a name of its configuration.
    pub host: String,
    /// If another than ssh would take.
    pub port: Option<u16>,
    /// As the machine takes it: relative ones begin at the user's home directory.
    pub path: String,
}

impl Place {
    /// The place of `[user@]host:path`, or of `SCHEME://[user@]host[:port]/path` for the scheme given. `None` if the
    /// location is of another kind.
    ///
    /// # Errors
    /// `Refused` where it could not be named to ssh.
    pub fn of(location: &Location, scheme: &str) -> Option<Result<Self, SourceError>> {
        let refused = |reason| Some(Err(SourceError::refused(location, reason)));
        let (host, port, path) = match location {
            Location::Ssh { host, path } if scheme == "ssh" => (host.as_str(), None, path.clone()),
            Location::Url(url) => {
                let rest = url.strip_prefix(scheme)?.strip_prefix("://")?;
                let Some((host, path)) = rest.split_once('/') else {
                    return refused("names no path on that host");
                };
                let (host, port) = match host.rsplit_once(':') {
                    Some((before, port)) if !port.ends_with(']') => match port.parse() {
                        Ok(port) => (before, Some(port)),
                        Err(_) => return refused("has no port that is a number"),
                    },
                    _ => (host, None),
                };
                (host, port, format!("/{path}"))
            }
            _ => return None,
        };
        let bare = host.rsplit('@').next().unwrap_or(host);
        // ssh would take these for options.
        if bare.is_empty() || host.starts_with('-') || bare.starts_with('-') {
            return refused("names no host that ssh could be given");
        }
        // ssh wants addresses without the brackets that tell them from the path.
        let host = host.replace(['[', ']'], "");
        Some(Ok(Self { host, port, path }))
    }

    /// Whether another is on the same machine, as far as names tell.
    pub fn same_host(&self, other: &Self) -> bool {
        (&self.host, self.port) == (&other.host, other.port)
    }

    /// The command that runs ssh for this host, without what is to be run there.
    pub(crate) fn ssh(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CASYNC_SSH_PATH").unwrap_or_else(|| "ssh".into()));
        if let Some(port) = self.port {
            command.arg("-p").arg(port.to_string());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    }

    fn file(&self) -> String {
        // A path that begins so would be an option, or nothing at all.
        if self.path.starts_with('-') { format!("./{}", self.path) } else { self.path.clone() }
    }
}

/// What one of the two verbs is about: `-` stands for what it is not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subject<'a> {
    pub(crate) archive: Option<&'a Place>,
    pub(crate) index: Option<&'a Place>,
    pub(crate) store: Option<&'a Place>,
}

/// A conversation with a program on another machine.
pub(crate) struct Remote {
    pub(crate) child: Child,
    pub(crate) reader: Reader<BufReader<ChildStdout>>,
    pub(crate) writer: Writer<BufWriter<ChildStdin>>,
    /// What it is called in messages.
    pub(crate) name: String,
}

impl Remote {
    /// Starts the other side, and agrees with it that it has what this side wants.
    pub(crate) async fn start(verb: &str, subject: &Subject<'_>, wants: u64) -> Result<Self, SourceError> {
        let places = [subject.archive, subject.index, subject.store];
        let Some(host) = places.into_iter().flatten().next() else {
            return Err(SourceError::refused("ssh", "nothing to speak about"));
        };
        let name = places.into_iter().flatten().map(|place| format!("{}:{}", place.host, place.path)).next();
        let name = name.unwrap_or_default();
        let mut command = host.ssh();
        let program = std::env::var("CASYNC_REMOTE_PATH").unwrap_or_else(|_| "casync".to_owned());
        command.arg(&host.host).arg(program).arg(verb).arg("-");
        for place in places {
            command.arg(place.map_or_else(|| "-".to_owned(), |place| quoted(&place.file())));
        }
        let (child, stdin, stdout) = start(command, &name)?;
        let writer = Writer::new(BufWriter::new(stdin));
        let reader = Reader::new(BufReader::new(stdout), Some(PATIENCE)).beside(&writer);
        let mut remote = Self { child, reader, writer, name };
        let greeted = remote.greet(wants).await;
        greeted.map_err(|error| remote.failed(error))?;
        Ok(remote)
    }

    async fn greet(&mut self, wants: u64) -> Result<(), LinkError> {
        // If the pipe is broken already, what the other side said first tells more.
        let said = self.writer.send(&Message::Hello(wants)).await;
        match self.reader.receive().await? {
            Message::Hello(has) if services::unknown(has) => {
                Err(LinkError::Unexpected("a hello with services that nobody knows".to_owned()))
            }
            Message::Hello(has) if !services::agree(wants, has) => {
                Err(LinkError::Unexpected("the other side does not offer what is wanted of it".to_owned()))
            }
            Message::Hello(_) => said,
            _ => Err(LinkError::Unexpected("the other side does not begin with a hello".to_owned())),
        }
    }

    /// What went wrong, with the name of the place.
    pub(crate) fn failed(&self, error: LinkError) -> SourceError {
        failed(&self.name, error)
    }

    /// Waits until the child has ended, which it has been told to. Returns whether it was content.
    pub(crate) async fn end(self) -> bool {
        let Self { mut child, writer, reader, .. } = self;
        drop((writer, reader));
        match tokio::time::timeout(ENDING, child.wait()).await {
            Ok(Ok(status)) => status.success(),
            _ => {
                let _ = child.kill().await;
                false
            }
        }
    }
}

/// Starts ssh for a place of that name; what it reads, and what it says.
pub(crate) fn start(mut command: Command, name: &str) -> Result<(Child, ChildStdin, ChildStdout), SourceError> {
    let mut child = command.spawn().map_err(|error| {
        let program = command.as_std().get_program().display();
        SourceError::refused(name, format!("{program} cannot be started: {error}"))
    })?;
    match (child.stdin.take(), child.stdout.take()) {
        (Some(stdin), Some(stdout)) => Ok((child, stdin, stdout)),
        _ => Err(SourceError::refused(name, "ssh has no pipes")),
    }
}

/// A chunk as it came; `None` if it is said to be compressed and is not by any means known.
fn encoded(compressed: bool, bytes: Bytes) -> Option<Encoded> {
    let encoding = if compressed { detect(&bytes)? } else { Encoding::Plain };
    Some(Encoded { encoding, bytes })
}

/// What went wrong with a place: what may pass, and what will not.
fn failed(name: &str, error: LinkError) -> SourceError {
    match error {
        LinkError::Message(_) | LinkError::Unexpected(_) => SourceError::refused(name, error),
        LinkError::Aborted { .. } | LinkError::Ended | LinkError::Silent(_) | LinkError::Io(_) => {
            SourceError::unavailable(name, error)
        }
    }
}

/// As the other side's shell wants it, which ssh hands the words joined by spaces.
fn quoted(word: &str) -> String {
    // What is before the slash is the shell's to replace.
    if let Some(rest) = word.strip_prefix("~/") {
        return format!("~/{}", if rest.is_empty() { String::new() } else { quoted(rest) });
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=:,@%~".contains(&byte);
    match word.bytes().all(plain) && !word.starts_with('~') && !word.is_empty() {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Option<Result<Place, String>> {
        Place::of(&Location::parse(text), "ssh").map(|place| place.map_err(|error| error.to_string()))
    }

    #[test]
    fn places_are_what_ssh_is_given() {
        let of = |host: &str, port, path: &str| Some(Ok(Place { host: host.into(), port, path: path.into() }));
        for (text, expected) in [
            ("host:images/os.caibx", of("host", None, "images/os.caibx")),
            ("me@[::1]:/srv/os.caibx", of("me@::1", None, "/srv/os.caibx")),
            ("ssh://host/srv/os.caibx", of("host", None, "/srv/os.caibx")),
            ("ssh://me@host:2222/os.caibx", of("me@host", Some(2222), "/os.caibx")),
            ("ssh://[::1]:22/os.caibx", of("::1", Some(22), "/os.caibx")),
            ("ssh://[::1]/os.caibx", of("::1", None, "/os.caibx")),
            ("https://host/os.caibx", None),
            ("/srv/os.caibx", None),
        ] {
            assert_eq!(place(text), expected, "{text}");
        }
        for text in ["-v:os.caibx", "ssh://-oProxyCommand=x/os.caibx", "ssh://host", "ssh://host:x/os", "ssh:///os"] {
            let refused = place(text).unwrap().unwrap_err();
            assert!(refused.starts_with(text), "{refused}");
        }
    }

    #[test]
    fn the_other_sides_shell_gets_paths_as_they_are() {
        assert_eq!(quoted("/srv/os-1.0.caibx"), "/srv/os-1.0.caibx");
        assert_eq!(quoted("/srv/it's; here"), r"'/srv/it'\''s; here'");
        assert_eq!(quoted("$(x)"), "'$(x)'");
        assert_eq!(quoted("~/os.caibx"), "~/os.caibx");
        assert_eq!(quoted("~/my images/os.caibx"), "~/'my images/os.caibx'");
        assert_eq!(quoted("~root/os.caibx"), "'~root/os.caibx'");
    }
}
