//! The key of a network: a file that `caswarm keygen` makes and that every machine of the network gets a copy of.
//! What is proven with it, and what is named by it, is [`super::membership`]'s business.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::{hmac, rand};

/// What a key file starts with; 64 hexadecimal digits follow.
const LABEL: &str = "caswarm-network-key-1";

/// Bytes of a file that are looked at; a key file has fewer.
const FILE_BYTES: u64 = 256;

/// 256 random bits that the members of a network share. It is never shown: not in logs, not in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct NetworkKey([u8; 32]);

/// Why there is no network key.
#[derive(Debug, thiserror::Error)]
pub enum NetworkKeyError {
    /// The file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is a file of that name.
    #[error("{path}: exists already; a new key would lock out whoever has the old one, so remove it first")]
    Exists {
        /// The key file.
        path: PathBuf,
    },
    /// Others may read it.
    #[error(
        "{path}: may be read or changed by others (mode {mode:04o}); `chmod 600` it, and make a new one if they did"
    )]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file is none.
    #[error("{path}: not a network key ({LABEL} and 64 hexadecimal digits); `caswarm keygen FILE` makes one")]
    Malformed {
        /// The key file.
        path: PathBuf,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

impl NetworkKey {
    /// A new key.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn generate() -> Result<Self, NetworkKeyError> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).map_err(|_| NetworkKeyError::NoRandomness)?;
        Ok(Self(bytes))
    }

    /// Writes the key to a new file that only its owner may read.
    ///
    /// # Errors
    /// [`NetworkKeyError::Exists`] where there is a file already; it is left alone.
    pub fn save(&self, path: &Path) -> Result<(), NetworkKeyError> {
        let failed = |source| NetworkKeyError::Io { path: path.to_owned(), source };
        let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let mut file = opened.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => NetworkKeyError::Exists { path: path.to_owned() },
            _ => failed(source),
        })?;
        let written = writeln!(file, "{LABEL} {}", hex::encode(self.0)).and_then(|()| file.sync_all());
        written.map_err(|source| {
            let _ = std::fs::remove_file(path);
            failed(source)
        })
    }

    /// Reads the key that a file holds.
    ///
    /// # Errors
    /// When it is no key file, or one that others than its owner may read or change.
    pub fn load(path: &Path) -> Result<Self, NetworkKeyError> {
        let failed = |source| NetworkKeyError::Io { path: path.to_owned(), source };
        let malformed = || NetworkKeyError::Malformed { path: path.to_owned() };
        // Opening a pipe would wait for a writer.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(malformed());
        }
        let file = std::fs::File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(NetworkKeyError::Exposed { path: path.to_owned(), mode });
        }
        let mut text = Vec::new();
        file.take(FILE_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
        let text = std::str::from_utf8(&text).map_err(|_| malformed())?;
        let digits = text.trim().strip_prefix(LABEL).and_then(|rest| rest.strip_prefix(' ')).ok_or_else(malformed)?;
        let mut key = [0; 32];
        hex::decode_to_slice(digits, &mut key).map_err(|_| malformed())?;
        Ok(Self(key))
    }

    /// A MAC key for one purpose in one network: what is made with it tells nothing of the key itself, nor of what is made
    /// for another purpose.
    pub(super) fn derive(&self, purpose: &str, network: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        for part in ["caswarm network key", purpose, network] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        let mut derived = [0; 32];
        derived.copy_from_slice(context.sign().as_ref());
        derived
    }
}

impl fmt::Debug for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_read_back_as_it_was_made_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = NetworkKey::generate().unwrap();
        key.save(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(NetworkKey::load(&path).unwrap(), key);
        assert_ne!(NetworkKey::generate().unwrap(), key);
        assert!(!format!("{key:?}").contains(&hex::encode(key.0)[..8]));
    }

    #[test]
    fn a_file_that_is_there_is_never_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "precious").unwrap();
        let error = NetworkKey::generate().unwrap().save(&path).unwrap_err();
        assert!(matches!(error, NetworkKeyError::Exists { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        NetworkKey::generate().unwrap().save(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = NetworkKey::load(&path).unwrap_err();
            assert!(matches!(error, NetworkKeyError::Exposed { .. }), "{mode:o}: {error}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        NetworkKey::load(&path).unwrap();
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        NetworkKey::generate().unwrap().save(&path).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        let short = good.trim_end()[..good.len() - 3].to_owned();
        for text in [
            "",
            "caswarm-network-key-1",
            &short,
            &format!("{good}{good}"),
            &good.replace("-1 ", "-2 "),
            &"a".repeat(9000),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = NetworkKey::load(&path).unwrap_err();
            assert!(matches!(error, NetworkKeyError::Malformed { .. }), "{text:?}: {error}");
            assert!(error.to_string().contains("key"), "{error}");
        }
        assert!(NetworkKey::load(dir.path()).is_err());
        assert!(NetworkKey::load(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn purposes_and_networks_do_not_share_derived_keys() {
        let key = NetworkKey::generate().unwrap();
        let derived = key.derive("session", "a");
        assert_eq!(derived, key.derive("session", "a"));
        for other in [key.derive("session", "b"), key.derive("sessio", "na"), key.derive("mdns", "a"), key.0] {
            assert_ne!(derived, other);
        }
    }
}
