//! What an extraction leaves and a node serves from: an image, or a tree, each with its index. Which of the two lies at
//! a path, the path says.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proto::IndexId;

use super::holder::{Holder, ImageHolder};
use super::tree_holder::TreeHolder;
use crate::format::index::Index;
use crate::format::layout::Layout;
use crate::source::SourceError;

/// One of them.
pub struct Extracted {
    /// Where its chunks are read from.
    pub holder: Arc<dyn Holder>,
    /// The bytes of its index file.
    pub index: Bytes,
    /// The name of its index.
    pub index_id: IndexId,
    /// The layout of its index.
    pub layout: Arc<Layout>,
}

impl Extracted {
    /// Opens what is at the path; `index` is the bytes of its index file. Blocks: a tree is walked.
    ///
    /// # Errors
    /// When it cannot be read or the index is none; the message names the place.
    pub fn open(path: &Path, index: Bytes) -> Result<Self, SourceError> {
        let failed = |error| SourceError::Io { path: path.to_owned(), reason: format!("its index: {error}") };
        let parsed = Index::parse(&index).map_err(failed)?;
        let layout = Arc::new(Layout::of(&parsed));
        let holder: Arc<dyn Holder> = match path.is_dir() {
            true => Arc::new(TreeHolder::open(path, &parsed, layout.clone())?),
            false => Arc::new(ImageHolder::open(path, layout.clone())?),
        };
        Ok(Self { holder, index_id: Index::index_id(&index), index, layout })
    }
}
