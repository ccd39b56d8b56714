//! What an extraction leaves and a node serves from: an image, or a tree, each with its index. Which of the two lies at
//! a path, the path says.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proto::{ChunkId, IndexId};

use super::holder::{Holder, ImageHolder};
use super::tree_holder::TreeHolder;
use crate::chunk::Encoded;
use crate::format::layout::Layout;
use crate::source::SourceError;

/// One of them.
pub enum Extracted {
    /// A file or block device.
    Image(ImageHolder),
    /// A directory.
    Tree(Box<TreeHolder>),
}

impl Extracted {
    /// Opens what is at the path; `index` is the bytes of its index file. Blocks: a tree is walked.
    ///
    /// # Errors
    /// When it cannot be read or the index is none; the message names the place.
    pub fn open(path: &Path, index: Bytes) -> Result<Self, SourceError> {
        match path.is_dir() {
            true => Ok(Self::Tree(Box::new(TreeHolder::open(path, index)?))),
            false => Ok(Self::Image(ImageHolder::open(path, index)?)),
        }
    }

    /// The bytes of its index file.
    pub fn index(&self) -> &Bytes {
        match self {
            Self::Image(image) => image.index(),
            Self::Tree(tree) => tree.index(),
        }
    }

    /// The name of its index.
    pub fn index_id(&self) -> IndexId {
        match self {
            Self::Image(image) => image.index_id(),
            Self::Tree(tree) => tree.index_id(),
        }
    }

    /// The layout of its index.
    pub fn layout(&self) -> &Arc<Layout> {
        match self {
            Self::Image(image) => image.layout(),
            Self::Tree(tree) => tree.layout(),
        }
    }

    fn holder(&self) -> &dyn Holder {
        match self {
            Self::Image(image) => image,
            Self::Tree(tree) => tree.as_ref(),
        }
    }
}

impl Holder for Extracted {
    fn name(&self) -> String {
        self.holder().name()
    }

    fn has(&self, id: &ChunkId) -> bool {
        self.holder().has(id)
    }

    fn read(&self, id: &ChunkId) -> Result<Option<Encoded>, SourceError> {
        self.holder().read(id)
    }

    fn count(&self) -> u64 {
        self.holder().count()
    }

    fn is_removed(&self) -> bool {
        self.holder().is_removed()
    }

    fn refused(&self, id: &ChunkId) {
        self.holder().refused(id);
    }
}
