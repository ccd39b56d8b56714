//! casync's `list`: mode and path of every node.

use std::io::Write;

use super::{BrowseError, Tree, Visit, words};

/// Lists a tree, one node a line; without `recursive` only the top and what is in it.
///
/// # Errors
/// Whatever cannot be read, or written.
pub fn list(mut tree: Tree, recursive: bool, out: &mut dyn Write) -> Result<(), BrowseError> {
    let mut depth = 0;
    loop {
        match tree.visit()? {
            Visit::Enter(node) => {
                if recursive || depth < 2 {
                    writeln!(out, "{} {}", words::mode(&node.entry), words::path(&node.path))?;
                }
                depth += 1;
            }
            Visit::Leave => depth -= 1,
            Visit::End => return Ok(out.flush()?),
        }
    }
}
