//! Where temporary files go, and files there that nobody else sees.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// `$TMPDIR`, `$TEMP` or `$TMP` if it is a directory, else `/var/tmp`, as casync has it.
pub(crate) fn directory() -> PathBuf {
    let usable = |dir: &PathBuf| dir.is_absolute() && dir.is_dir();
    let named = ["TMPDIR", "TEMP", "TMP"].into_iter().filter_map(std::env::var_os).map(PathBuf::from).find(usable);
    named.unwrap_or_else(|| "/var/tmp".into())
}

/// A file that nobody else sees, and that is gone with this process.
pub(crate) fn nameless() -> io::Result<File> {
    let path = directory().join(format!(".caswarm-{:016x}", crate::source::random()));
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
