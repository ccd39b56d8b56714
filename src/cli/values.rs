//! Values that several options take, spelt as casync spells them.

use crate::format::digest::Digest;

/// casync's booleans: 1/yes/y/true/t/on and 0/no/n/false/f/off, in any case.
///
/// # Errors
/// Any other word.
pub fn parse_boolean(word: &str) -> Result<bool, String> {
    match word.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Ok(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Ok(false),
        _ => Err("say yes or no".to_owned()),
    }
}

/// A number of bytes, with casync's suffixes B K M G T P E (powers of 1024).
///
/// # Errors
/// Not a number, an unknown suffix, or more than fits.
pub fn parse_bytes(word: &str) -> Result<u64, String> {
    let digits = word.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let shift = match &word[digits.len()..] {
        "" | "B" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        "E" => 60,
        other => return Err(format!("unknown suffix {other:?}: use B, K, M, G, T, P or E")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{word:?} is not a number of bytes"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{word} is too large"))
}

/// A rate: as [`parse_bytes`], and not 0.
///
/// # Errors
/// As there, or 0.
pub(super) fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        0 => Err("0 bytes a second would take for ever".to_owned()),
        rate => Ok(rate),
    }
}

/// A digest by casync's names.
///
/// # Errors
/// Any other word.
pub(super) fn parse_digest(name: &str) -> Result<Digest, String> {
    match name {
        "default" | "sha512-256" => Ok(Digest::Sha512_256),
        "sha256" => Ok(Digest::Sha256),
        _ => Err("use sha512-256 or sha256".to_owned()),
    }
}

/// What a file is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A tree in one file.
    Archive,
    /// The index of such.
    ArchiveIndex,
    /// An image.
    Blob,
    /// The index of such.
    BlobIndex,
    /// A tree.
    Directory,
}

impl What {
    /// What something of this name is, if the name tells.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1 {
            "catar" => Some(Self::Archive),
            "caidx" => Some(Self::ArchiveIndex),
            "caibx" => Some(Self::BlobIndex),
            _ => None,
        }
    }
}

/// casync's words for it.
///
/// # Errors
/// Any other word.
pub(super) fn parse_what(word: &str) -> Result<What, String> {
    match word {
        "archive" => Ok(What::Archive),
        "archive-index" => Ok(What::ArchiveIndex),
        "blob" => Ok(What::Blob),
        "blob-index" => Ok(What::BlobIndex),
        "directory" => Ok(What::Directory),
        _ => Err("use archive, archive-index, blob, blob-index or directory".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_casyncs() {
        assert_eq!(parse_boolean("Yes"), Ok(true));
        assert_eq!(parse_boolean("OFF"), Ok(false));
        assert!(parse_boolean("maybe").is_err());
    }

    #[test]
    fn byte_suffixes_are_powers_of_1024() {
        assert_eq!(parse_bytes("3K"), Ok(3072));
        assert_eq!(parse_bytes("7"), Ok(7));
        assert!(parse_bytes("1KB").is_err() && parse_bytes("99999999E").is_err() && parse_bytes("").is_err());
    }
}
