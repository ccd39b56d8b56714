//! The one directory with everything a node keeps: key, last known peers, control socket. Many nodes run on one machine
//! when each has its own.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Name of the control socket inside the directory.
pub const CONTROL_SOCKET: &str = "control.sock";

/// Where a node keeps its state. The directory is made by [`StateDir::create`], not before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir {
    path: PathBuf,
    runtime: Option<PathBuf>,
}

/// Why there is no state directory.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Nothing says where it should be.
    #[error("no place for a state directory: neither HOME nor XDG_STATE_HOME is set; name one with --state-dir")]
    NoHome,
    /// It cannot be made or is not usable.
    #[error("state directory {path}: {source}; name another with --state-dir")]
    Create {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl StateDir {
    /// Decides where the state is: `named` (`--state-dir` or `CASWARM_STATE_DIR`), else what the environment says.
    ///
    /// # Errors
    /// [`StateDirError::NoHome`] when nothing names a place.
    pub fn find(named: Option<PathBuf>) -> Result<Self, StateDirError> {
        let root = rustix::process::geteuid().is_root();
        Self::resolve(named, root, |name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    /// Makes the directory, readable by its owner only, if it is not there.
    ///
    /// # Errors
    /// [`StateDirError::Create`] when it cannot be made.
    pub fn create(&self) -> Result<&Path, StateDirError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        made.map_err(|source| StateDirError::Create { path: self.path.clone(), source })?;
        Ok(&self.path)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The control socket of the node whose state this is; whether one runs shows by connecting.
    pub fn control_socket(&self) -> PathBuf {
        self.runtime.as_ref().unwrap_or(&self.path).join(CONTROL_SOCKET)
    }

    fn resolve(
        named: Option<PathBuf>,
        root: bool,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, StateDirError> {
        let list = |name| env(name).map(first_of_list);
        if let Some(path) = named {
            return Ok(StateDir { path, runtime: None });
        }
        let runtime = list("RUNTIME_DIRECTORY");
        if let Some(path) = list("STATE_DIRECTORY") {
            return Ok(StateDir { path, runtime });
        }
        if root {
            return Ok(StateDir { path: "/var/lib/caswarm".into(), runtime });
        }
        let base = match env("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()) {
            Some(base) => base,
            None => PathBuf::from(env("HOME").ok_or(StateDirError::NoHome)?).join(".local/state"),
        };
        Ok(StateDir { path: base.join("caswarm"), runtime })
    }
}

/// systemd separates several directories by colons; the first is the unit's own.
fn first_of_list(value: OsString) -> PathBuf {
    match value.to_str().and_then(|list| list.split_once(':')) {
        Some((first, _)) => first.into(),
        None => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(named: Option<&str>, root: bool, env: &[(&str, &str)]) -> StateDir {
        let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        StateDir::resolve(named.map(PathBuf::from), root, env).unwrap()
    }

    #[test]
    fn the_named_directory_wins_and_holds_its_own_socket() {
        let dir = found(Some("/n1"), true, &[("STATE_DIRECTORY", "/s"), ("RUNTIME_DIRECTORY", "/run/c")]);
        assert_eq!(dir.control_socket(), Path::new("/n1/control.sock"));
    }

    #[test]
    fn systemd_directories_come_before_the_defaults() {
        let dir = found(None, true, &[("STATE_DIRECTORY", "/s:/t"), ("RUNTIME_DIRECTORY", "/run/c")]);
        assert_eq!((dir.path(), dir.control_socket()), (Path::new("/s"), PathBuf::from("/run/c/control.sock")));
    }

    #[test]
    fn a_user_has_it_by_xdg_and_root_in_var_lib() {
        assert_eq!(found(None, true, &[("HOME", "/root")]).path(), Path::new("/var/lib/caswarm"));
        assert_eq!(found(None, false, &[("HOME", "/h")]).path(), Path::new("/h/.local/state/caswarm"));
        let xdg = [("HOME", "/h"), ("XDG_STATE_HOME", "/x")];
        assert_eq!(found(None, false, &xdg).path(), Path::new("/x/caswarm"));
        assert!(StateDir::resolve(None, false, |_| None).is_err());
    }
}
