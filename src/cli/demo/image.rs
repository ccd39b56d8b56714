//! Real data for a demonstration: a file that the user names, or files of the machine it runs on.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// Where Linux machines keep much that is much the same on each of them.
const PLACES: [&str; 4] = ["/usr/bin", "/usr/lib", "/usr/share", "/usr/sbin"];

/// Files start at multiples of this, as they do in a file system.
const BLOCK: u64 = 4096;

/// Files looked at, at most.
const FILES: usize = 100_000;

/// What an image was made of.
pub(super) struct Collected {
    /// Length of the image.
    pub(super) bytes: u64,
    files: usize,
    from: String,
}

impl fmt::Display for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.files {
            1 => write!(f, "{}", self.from),
            files => write!(f, "{files} files of this machine ({})", self.from),
        }
    }
}

/// Writes `image` from the first `limit` bytes of `data`; without it, from files of this machine one after the other.
pub(super) fn collect(data: Option<&Path>, limit: u64, image: &Path) -> anyhow::Result<Collected> {
    let mut out = File::create_new(image).with_context(|| image.display().to_string())?;
    if let Some(data) = data {
        let file = File::open(data).with_context(|| data.display().to_string())?;
        let bytes = std::io::copy(&mut file.take(limit), &mut out).with_context(|| data.display().to_string())?;
        ensure!(bytes > 0, "{}: is empty", data.display());
        return Ok(Collected { bytes, files: 1, from: data.display().to_string() });
    }
    let (mut length, mut files, mut from) = (0, 0, Vec::new());
    for place in PLACES.map(PathBuf::from).into_iter().chain(std::env::current_exe()) {
        let before = files;
        for path in files_under(&place) {
            if length >= limit {
                break;
            }
            // A file that cannot be read is one that this user may not see.
            let Ok(file) = File::open(&path) else { continue };
            let copied = std::io::copy(&mut file.take(limit - length), &mut out)
                .with_context(|| format!("{} into {}", path.display(), image.display()))?;
            length = (length + copied).next_multiple_of(BLOCK).min(limit);
            out.seek(SeekFrom::Start(length))?;
            files += usize::from(copied > 0);
        }
        if files > before {
            from.push(place.display().to_string());
        }
    }
    out.set_len(length)?;
    ensure!(length > 0, "nothing to make an image of; name a file with --data");
    Ok(Collected { bytes: length, files, from: from.join(", ") })
}

/// Regular files at or under a path, in the order of their names; links are not followed.
fn files_under(place: &Path) -> Vec<PathBuf> {
    let (mut files, mut left) = (Vec::new(), vec![place.to_owned()]);
    while let Some(path) = left.pop() {
        let Ok(meta) = path.symlink_metadata() else { continue };
        if meta.is_file() && meta.len() > 0 {
            files.push(path);
        } else if meta.is_dir() {
            left.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        if files.len() >= FILES {
            break;
        }
    }
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_of_a_file_is_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let (data, image) = (dir.path().join("data"), dir.path().join("image"));
        std::fs::write(&data, vec![3; 10_000]).unwrap();
        assert_eq!(collect(Some(&data), 7_000, &image).unwrap().bytes, 7_000);
        assert_eq!(std::fs::read(&image).unwrap(), vec![3; 7_000]);
    }

    #[test]
    fn image_of_the_machine_is_as_long_as_asked() {
        let image = tempfile::tempdir().unwrap();
        let image = image.path().join("image");
        let collected = collect(None, 3 << 20, &image).unwrap();
        assert_eq!(collected.bytes, image.metadata().unwrap().len());
        assert!(collected.bytes <= 3 << 20 && collected.bytes > 0);
    }
}
