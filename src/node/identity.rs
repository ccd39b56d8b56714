//! Who this node is: an ed25519 key, kept in the state directory or made for one run.
//!
//! The public key is the [`NodeId`] of `proto`; libp2p's `PeerId` is another way to write the same 32 bytes.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey, ed25519};
use proto::NodeId;

const FILE: &str = "node.key";

/// What libp2p puts before the raw key in the `PeerId` of an ed25519 key: the identity multihash of its protobuf form.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// A node's key pair.
#[derive(Debug, Clone)]
pub struct Identity {
    keypair: Keypair,
    node_id: NodeId,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The key file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key file is none.
    #[error("{path}: not a node key (64 hexadecimal digits); remove it to get a new identity")]
    Corrupt {
        /// The key file.
        path: PathBuf,
    },
}

impl Identity {
    /// The identity kept in `state_dir`; made and kept there if there is none. The directory must exist.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, IdentityError> {
        let path = state_dir.join(FILE);
        match load(&path) {
            Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let (identity, secret) = generate();
        match create(state_dir, &path, &secret) {
            Ok(()) => Ok(identity),
            // Another process made one in the meantime: its identity counts.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => load(&path),
            Err(source) => Err(IdentityError::Io { path, source }),
        }
    }

    /// A new identity that is kept nowhere.
    pub fn ephemeral() -> Self {
        generate().0
    }

    /// This node's name in the protocol: its public key.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// This node's name in libp2p.
    pub fn peer_id(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }

    pub(crate) fn keypair(&self) -> &Keypair {
        &self.keypair
    }
}

/// The libp2p name of a node; `None` if the id is no valid public key.
pub fn peer_id_of(node: NodeId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(node.as_bytes()).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The node of a libp2p name; `None` if it is not an ed25519 key's.
pub fn node_id_of(peer: PeerId) -> Option<NodeId> {
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&PEER_ID_PREFIX)?;
    Some(NodeId(key.try_into().ok()?))
}

fn from_secret(mut secret: [u8; 32]) -> Option<Identity> {
    let secret = ed25519::SecretKey::try_from_bytes(&mut secret).ok()?;
    let pair = ed25519::Keypair::from(secret);
    let node_id = NodeId(pair.public().to_bytes());
    Some(Identity { keypair: pair.into(), node_id })
}

fn generate() -> (Identity, [u8; 32]) {
    let pair = ed25519::Keypair::generate();
    let mut secret = [0; 32];
    secret.copy_from_slice(pair.secret().as_ref());
    let node_id = NodeId(pair.public().to_bytes());
    (Identity { keypair: pair.into(), node_id }, secret)
}

fn load(path: &Path) -> Result<Identity, IdentityError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(source) => return Err(IdentityError::Io { path: path.into(), source }),
    };
    let mut secret = [0; 32];
    let digits = text.trim_ascii_end();
    let identity = hex::decode_to_slice(digits, &mut secret).ok().and_then(|()| from_secret(secret));
    identity.ok_or_else(|| IdentityError::Corrupt { path: path.into() })
}

/// Puts the key in place whole and never over another one.
fn create(state_dir: &Path, path: &Path, secret: &[u8; 32]) -> io::Result<()> {
    let temporary = state_dir.join(format!(".{FILE}.{}", std::process::id()));
    let written = (|| {
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{}", hex::encode(secret))?;
        file.sync_all()?;
        std::fs::hard_link(&temporary, path)
    })();
    std::fs::remove_file(&temporary).ok();
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_kept_identity_is_the_same_next_time_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::load_or_create(dir.path()).unwrap();
        let second = Identity::load_or_create(dir.path()).unwrap();
        assert_eq!(first.node_id(), second.node_id());
        assert_eq!(first.peer_id(), second.peer_id());
        let mode = dir.path().join(FILE).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_corrupt_key_file_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        for text in ["", "zz", &"a".repeat(63), &"a".repeat(66)] {
            std::fs::write(&path, text).unwrap();
            let error = Identity::load_or_create(dir.path()).unwrap_err();
            assert!(error.to_string().contains("node.key"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_missing_state_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Identity::load_or_create(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn node_ids_and_peer_ids_are_two_ways_to_write_one_key() {
        let identity = Identity::ephemeral();
        assert_eq!(peer_id_of(identity.node_id()), Some(identity.peer_id()));
        assert_eq!(node_id_of(identity.peer_id()), Some(identity.node_id()));
    }
}
