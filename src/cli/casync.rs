//! Called by the name `casync`, the program takes casync's command lines and does what casync would: this turns one into
//! the program's own. An option that casync would not heed for a command is dropped, as casync drops it; one that would
//! change what casync does, and that this program does not have, is refused by its name.
//!
//! What is not casync's: chunks may also come from neighbours, which nobody waits for at the end; `--no-lan` and the other
//! options for that are taken too. Nothing is said on standard error unless something is wrong, or `-v` is given.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::parse_boolean;
use crate::format::features;

/// What a command line comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Words to print, and no more.
    Print(String),
    /// The program's own command line.
    Run(Vec<OsString>),
}

/// Whether a program of this name is to be casync.
pub fn is_casync(program: &OsStr) -> bool {
    program.as_bytes().rsplit(|byte| *byte == b'/').next() == Some(b"casync")
}

/// What becomes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It means the same here, for these commands.
    For(&'static [&'static str]),
    /// The same, and only where trees are: casync does not heed it for images.
    ForTrees(&'static [&'static str]),
    /// It would change what is done, and that is not offered.
    Refused,
    /// Some of casync's that are treated by themselves.
    Own,
}

const MAKE: &[&str] = &["make"];
const EXTRACT: &[&str] = &["extract"];
const ARCHIVED: &[&str] = &["make", "list", "mtree", "stat", "digest"];
const ALL: &[&str] = &["make", "extract", "list", "mtree", "stat", "digest", "gc"];

/// casync's options, whether they take a value, and what becomes of them; then those of ours.
const OPTIONS: [(&str, bool, Fate); 37] = [
    ("help", false, Fate::Own),
    ("version", false, Fate::Own),
    ("log-level", true, Fate::For(ALL)),
    ("verbose", false, Fate::Own),
    ("dry-run", false, Fate::For(&["gc"])),
    ("store", true, Fate::For(ALL)),
    ("extra-store", true, Fate::For(&["extract", "list", "mtree", "stat", "digest"])),
    ("chunk-size", true, Fate::For(MAKE)),
    ("seed", true, Fate::For(EXTRACT)),
    ("cache", true, Fate::Refused),
    ("cache-auto", false, Fate::Refused),
    ("rate-limit-bps", true, Fate::For(EXTRACT)),
    ("with", true, Fate::ForTrees(&["make", "extract", "list", "mtree", "stat", "digest"])),
    ("without", true, Fate::ForTrees(&["make", "extract", "list", "mtree", "stat", "digest"])),
    ("what", true, Fate::For(&["make", "extract", "list", "mtree", "stat", "digest"])),
    ("exclude-nodump", true, Fate::ForTrees(ARCHIVED)),
    ("exclude-submounts", true, Fate::ForTrees(ARCHIVED)),
    ("exclude-file", true, Fate::ForTrees(ARCHIVED)),
    ("undo-immutable", true, Fate::ForTrees(EXTRACT)),
    ("delete", true, Fate::ForTrees(EXTRACT)),
    ("punch-holes", true, Fate::For(EXTRACT)),
    ("reflink", true, Fate::For(EXTRACT)),
    ("hardlink", true, Fate::ForTrees(EXTRACT)),
    ("seed-output", true, Fate::For(EXTRACT)),
    ("uid-shift", true, Fate::ForTrees(&["make", "extract", "list", "mtree", "stat", "digest"])),
    ("uid-range", true, Fate::ForTrees(&["make", "extract", "list", "mtree", "stat", "digest"])),
    ("recursive", true, Fate::For(&["list"])),
    ("mkdir", true, Fate::For(&[])),
    ("digest", true, Fate::For(&["make", "digest"])),
    ("compression", true, Fate::For(MAKE)),
    ("no-lan", false, Fate::For(EXTRACT)),
    ("no-share", false, Fate::For(EXTRACT)),
    ("linger", true, Fate::For(EXTRACT)),
    ("network", true, Fate::For(EXTRACT)),
    ("zone", true, Fate::For(EXTRACT)),
    ("bootstrap", true, Fate::For(EXTRACT)),
    ("listen", true, Fate::For(EXTRACT)),
];

/// The short ones.
const SHORT: [(u8, &str); 5] =
    [(b'h', "help"), (b'l', "log-level"), (b'v', "verbose"), (b'n', "dry-run"), (b'c', "cache-auto")];

const BOOLEANS: [&str; 10] = [
    "exclude-nodump",
    "exclude-submounts",
    "exclude-file",
    "undo-immutable",
    "delete",
    "punch-holes",
    "reflink",
    "hardlink",
    "seed-output",
    "recursive",
];

/// A command line taken apart as getopt does: options may stand anywhere before `--`.
struct Line {
    options: Vec<(&'static str, bool, Fate, OsString)>,
    words: Vec<OsString>,
}

/// What the environment says, as far as it changes what a command line means.
#[derive(Debug, Clone, Copy, Default)]
pub struct Environment {
    /// `CASYNC_VERBOSE` says yes.
    pub verbose: bool,
    /// `CASYNC_LOG_LEVEL` says something, which is heeded where the level is needed.
    pub log_level: bool,
}

impl Environment {
    /// That of this process.
    pub fn of_this_process() -> Self {
        let verbose = std::env::var("CASYNC_VERBOSE").is_ok_and(|word| parse_boolean(&word).unwrap_or(false));
        Self { verbose, log_level: std::env::var_os("CASYNC_LOG_LEVEL").is_some_and(|level| !level.is_empty()) }
    }
}

/// Turns a command line of casync's, without the program's name, into one of the program's own.
///
/// # Errors
/// The reason why it cannot be done, for people.
pub fn translate(arguments: impl IntoIterator<Item = OsString>, environment: Environment) -> Result<Said, String> {
    let line = take_apart(arguments.into_iter())?;
    let given = |name: &str| line.options.iter().any(|(option, ..)| *option == name);
    if given("help") {
        return Ok(Said::Print(HELP.to_owned()));
    }
    if given("version") {
        return Ok(Said::Print(concat!("casync 2\n(caswarm ", env!("CARGO_PKG_VERSION"), ")\n").to_owned()));
    }
    if let Some(listed) = line.options.iter().find_map(|(name, _, _, value)| listed(name, value)) {
        return Ok(Said::Print(listed));
    }
    let Some((verb, words)) = line.words.split_first() else {
        return Err("no command: make, extract, list, mtree, stat, digest or gc".to_owned());
    };
    let verb = match verb.as_bytes() {
        b"help" => return Ok(Said::Print(HELP.to_owned())),
        b"mount" | b"mkdev" | b"udev" => {
            return Err(format!("{} is not offered; casync itself has it", verb.display()));
        }
        b"pull" | b"push" => {
            let words = line.words.iter().cloned();
            return Ok(Said::Run(["caswarm".into()].into_iter().chain(words).collect()));
        }
        known => ALL.iter().find(|verb| verb.as_bytes() == known),
    };
    let verb = *verb.ok_or_else(|| format!("unknown command {}", line.words[0].display()))?;
    let mut run: Vec<OsString> = vec!["caswarm".into(), verb.into()];
    let verbose = environment.verbose || given("verbose");
    run.push(if verbose { "--verbose" } else { "--quiet" }.into());
    if !given("log-level") && !environment.log_level && !verbose {
        run.push("--log-level=warn".into());
    }
    if verb == "extract" && !given("linger") {
        run.push("--linger=0".into());
    }
    if verb == "gc" {
        run.push("--grace=0".into());
    }
    if verb == "make" {
        run.push("--id=no".into());
    }
    let tree = is_about_trees(verb, words, &line.options);
    let archive = verb == "extract" && words.first().is_some_and(|word| word.as_bytes().ends_with(b".catar"));
    for (name, takes, fate, value) in &line.options {
        if BOOLEANS.contains(name) && value.to_str().is_none_or(|value| parse_boolean(value).is_err()) {
            return Err(format!("--{name}={}: say yes or no", value.display()));
        }
        let passed = match fate {
            Fate::Own => false,
            // An archive has no chunks.
            Fate::For(_) if archive && matches!(*name, "seed" | "extra-store" | "rate-limit-bps") => false,
            Fate::ForTrees(_) if archive && *name == "hardlink" => false,
            Fate::For(verbs) => verbs.contains(&verb),
            Fate::ForTrees(verbs) => verbs.contains(&verb) && tree,
            Fate::Refused => return Err(format!("--{name} is not offered")),
        };
        if passed {
            let mut option = OsString::from(format!("--{name}"));
            if *takes {
                option.push("=");
                option.push(value);
            }
            run.push(option);
        }
    }
    run.push("--".into());
    run.extend(words.iter().cloned());
    match (verb, words) {
        ("make", []) => return Err("make: what is to be made? OUTPUT [INPUT]".to_owned()),
        ("make", [_]) => run.push(".".into()),
        ("extract", []) => return Err("extract: what is to be extracted? INPUT [OUTPUT]".to_owned()),
        ("extract", [_]) => run.push(".".into()),
        _ => {}
    }
    Ok(Said::Run(run))
}

fn take_apart(mut arguments: impl Iterator<Item = OsString>) -> Result<Line, String> {
    let mut line = Line { options: Vec::new(), words: Vec::new() };
    while let Some(argument) = arguments.next() {
        let bytes = argument.as_bytes();
        if bytes == b"--" {
            line.words.extend(arguments);
            break;
        }
        if let Some(long) = bytes.strip_prefix(b"--") {
            let (name, value) = match long.iter().position(|byte| *byte == b'=') {
                Some(at) => (&long[..at], Some(OsString::from_vec(long[at + 1..].to_vec()))),
                None => (long, None),
            };
            let (name, takes, fate) = long_option(name)?;
            let value = match (takes, value) {
                (false, Some(_)) => return Err(format!("--{name} takes no value")),
                (false, None) => OsString::new(),
                (true, Some(value)) => value,
                (true, None) => arguments.next().ok_or_else(|| format!("--{name} needs a value"))?,
            };
            line.options.push((name, takes, fate, value));
        } else if bytes.len() > 1 && bytes[0] == b'-' {
            let mut rest = &bytes[1..];
            while let Some((letter, after)) = rest.split_first() {
                let known = SHORT.iter().find(|(short, _)| short == letter);
                let (_, name) = known.ok_or_else(|| format!("unknown option -{}", char::from(*letter)))?;
                let (name, takes, fate) = long_option(name.as_bytes())?;
                rest = after;
                let mut value = OsString::new();
                if takes {
                    value = OsString::from_vec(std::mem::take(&mut rest).to_vec());
                    if value.is_empty() {
                        value = arguments.next().ok_or_else(|| format!("--{name} needs a value"))?;
                    }
                }
                line.options.push((name, takes, fate, value));
            }
        } else {
            line.words.push(argument);
        }
    }
    Ok(line)
}

/// By its name, or by the beginning of it if no other begins so.
fn long_option(name: &[u8]) -> Result<(&'static str, bool, Fate), String> {
    let shown = String::from_utf8_lossy(name);
    if let Some(option) = OPTIONS.iter().find(|(known, ..)| known.as_bytes() == name) {
        return Ok(*option);
    }
    let mut begun = OPTIONS.iter().filter(|(known, ..)| known.as_bytes().starts_with(name) && !name.is_empty());
    match (begun.next(), begun.next()) {
        (Some(option), None) => Ok(*option),
        (Some(_), Some(_)) => Err(format!("--{shown} is the beginning of several options")),
        _ => Err(format!("unknown option --{shown}")),
    }
}

/// What `help` as a value lists.
fn listed(name: &str, value: &OsStr) -> Option<String> {
    if value != "help" {
        return None;
    }
    let (title, names): (_, Vec<&str>) = match name {
        "with" | "without" => ("Supported --with= and --without= flags:", features::names().collect()),
        "what" => ("Allowed --what= selectors:", vec!["archive", "archive-index", "blob", "blob-index", "directory"]),
        "digest" => ("Supported digests:", vec!["sha512-256", "sha256"]),
        "compression" => ("Supported compressions:", vec!["zstd", "xz", "gzip"]),
        _ => return None,
    };
    Some(format!("{title}\n{}\n", names.join("\n")))
}

/// Whether options for trees mean something: by `--what`, or by what is named.
fn is_about_trees(verb: &str, words: &[OsString], options: &[(&str, bool, Fate, OsString)]) -> bool {
    let what = options.iter().rev().find(|(name, ..)| *name == "what").map(|(.., value)| value.as_bytes());
    if let Some(what) = what {
        return matches!(what, b"archive" | b"archive-index" | b"directory");
    }
    let first = words.first().map_or(OsStr::new("."), OsString::as_os_str);
    let name = crate::source::location::Location::parse(&first.to_string_lossy()).file_name();
    match verb {
        "make" | "extract" => name.ends_with(".catar") || name.ends_with(".caidx"),
        // Archives and their indexes have what they have.
        _ => std::path::Path::new(first).is_dir(),
    }
}

const HELP: &str = "\
casync [OPTIONS...] make [ARCHIVE|ARCHIVE_INDEX|BLOB_INDEX] [PATH]
casync [OPTIONS...] extract [ARCHIVE|ARCHIVE_INDEX|BLOB_INDEX] [PATH]
casync [OPTIONS...] list [ARCHIVE|ARCHIVE_INDEX|DIRECTORY] [PATH]
casync [OPTIONS...] mtree [ARCHIVE|ARCHIVE_INDEX|DIRECTORY] [PATH]
casync [OPTIONS...] stat [ARCHIVE|ARCHIVE_INDEX|DIRECTORY] [PATH]
casync [OPTIONS...] digest [ARCHIVE|BLOB|ARCHIVE_INDEX|BLOB_INDEX|DIRECTORY] [PATH]
casync [OPTIONS...] gc BLOB_INDEX|ARCHIVE_INDEX...

This is caswarm, called as casync: it takes casync's options, and fetches chunks from
neighbours first. Not offered: mount, mkdev, --cache=, -c.
Besides casync's there are, for extract: --no-lan, --no-share, --linger=SECONDS,
--network=NAME, --zone=LABEL, --bootstrap=HOST:PORT, --listen=ADDR.
`caswarm help` says more.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<String, String> {
        run_in(line, Environment::default())
    }

    fn run_in(line: &str, environment: Environment) -> Result<String, String> {
        let words = line.split_whitespace().map(OsString::from);
        match translate(words, environment)? {
            Said::Print(text) => Ok(text),
            Said::Run(words) => Ok(words.join(OsStr::new(" ")).into_string().unwrap()),
        }
    }

    #[test]
    fn options_stand_anywhere_and_may_be_shortened() {
        let meant = run("extract --store=S --seed D --seed-output=no i.caibx /dev/x").unwrap();
        for line in [
            "--store S extract --seed=D i.caibx --seed-output no /dev/x",
            "--st=S --seed=D --seed-o=no extract i.caibx /dev/x",
            "--store=S --seed D --seed-output=no extract -- i.caibx /dev/x",
        ] {
            assert_eq!(run(line).as_ref(), Ok(&meant), "{line}");
        }
        assert_eq!(
            meant,
            "caswarm extract --quiet --log-level=warn --linger=0 --store=S --seed=D --seed-output=no -- i.caibx /dev/x"
        );
        assert!(run("-vn gc i.caibx").unwrap().contains("--verbose --grace=0 --dry-run"));
        assert!(run("-ldebug list x.catar").unwrap().contains("--log-level=debug"));
    }

    #[test]
    fn a_log_level_of_the_environment_is_not_overridden() {
        let environment = Environment { log_level: true, ..Environment::default() };
        assert!(!run_in("list x.catar", environment).unwrap().contains("--log-level"));
        assert!(run_in("-ldebug list x.catar", environment).unwrap().contains("--log-level=debug"));
    }

    #[test]
    fn what_casync_does_not_heed_is_dropped_and_what_is_missing_here_is_refused_by_name() {
        let dropped =
            run("extract --with=unix --delete=no --chunk-size=4K --mkdir=no --hardlink=no i.caibx o").unwrap();
        assert_eq!(dropped, "caswarm extract --quiet --log-level=warn --linger=0 -- i.caibx o");
        assert!(run("extract --delete=no i.caidx o").unwrap().contains("--delete=no"));
        for (line, named) in [
            ("make --cache=C i.caidx t", "--cache"),
            ("make -c i.caidx t", "--cache-auto"),
            ("extract --frobnicate i.caidx t", "--frobnicate"),
            ("extract --se=x i.caidx t", "--se"),
            ("extract --store", "--store"),
            ("extract --delete=maybe i.caidx t", "--delete=maybe"),
            ("-x list", "-x"),
            ("mount i.caidx m", "mount"),
            ("frobnicate", "frobnicate"),
            ("", "no command"),
            ("make", "OUTPUT"),
        ] {
            assert!(run(line).unwrap_err().contains(named), "{line}: {:?}", run(line));
        }
    }

    #[test]
    fn defaults_and_lists_are_casyncs() {
        assert!(run("make x.caidx").unwrap().ends_with("-- x.caidx ."));
        assert!(run("extract x.caidx").unwrap().ends_with("-- x.caidx ."));
        assert!(run("--version").unwrap().starts_with("casync 2\n"));
        assert!(run("make --with=help").unwrap().contains("\n32bit-uids\n"));
        assert_eq!(run("pull - - i.caibx s").unwrap(), "caswarm pull - - i.caibx s");
    }

    #[test]
    fn the_name_decides() {
        assert!(is_casync(OsStr::new("/usr/bin/casync")) && is_casync(OsStr::new("casync")));
        assert!(!is_casync(OsStr::new("caswarm")) && !is_casync(OsStr::new("/casync/caswarm")));
    }
}
