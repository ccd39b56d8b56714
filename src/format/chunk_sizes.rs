//! The three sizes that steer the chunker, as casync takes them on its command line and keeps them in an index.

use std::fmt;
use std::str::FromStr;

use super::buzhash::WINDOW;
use super::index::MAX_CHUNK;

/// Smallest, average and largest chunk size in bytes: 1 ≤ min ≤ avg ≤ max ≤ 128 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSizes {
    min: u64,
    avg: u64,
    max: u64,
}

/// Why sizes are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkSizesError {
    /// The text is not `AVG` or `MIN:AVG:MAX`.
    #[error("chunk size {0:?} is neither AVG nor MIN:AVG:MAX, such as 64K or 16K:64K:256K")]
    Syntax(String),
    /// They are out of range or order.
    #[error("chunk sizes must be 1 <= min <= avg <= max <= 128M, not {0}:{1}:{2}")]
    Order(u64, u64, u64),
    /// The rolling hash looks back further than the largest chunk.
    #[error("the largest chunk size must be at least 48 bytes, not {0}, unless all three sizes are the same")]
    BelowWindow(u64),
}

impl Default for ChunkSizes {
    fn default() -> Self {
        Self { min: 16 << 10, avg: 64 << 10, max: 256 << 10 }
    }
}

impl ChunkSizes {
    /// Takes the sizes of an index.
    ///
    /// # Errors
    /// [`ChunkSizesError::Order`].
    pub fn new(min: u64, avg: u64, max: u64) -> Result<Self, ChunkSizesError> {
        match 1 <= min && min <= avg && avg <= max && max <= MAX_CHUNK {
            true => Ok(Self { min, avg, max }),
            false => Err(ChunkSizesError::Order(min, avg, max)),
        }
    }

    /// Reads `AVG`, `MIN:AVG:MAX` or `auto`, for making an index; sizes as in casync, such as `64K` or `1.5M`.
    ///
    /// # Errors
    /// [`ChunkSizesError`] for other text, and for sizes with which casync cannot make anything.
    pub fn parse(text: &str) -> Result<Self, ChunkSizesError> {
        if text == "auto" {
            return Ok(Self::default());
        }
        let size = |word: &str| bytes(word).ok_or_else(|| ChunkSizesError::Syntax(text.to_owned()));
        let sizes = match *text.split(':').collect::<Vec<_>>() {
            [avg] => {
                let avg = size(avg)?;
                Self::new((avg / 4).max(1), avg, avg.saturating_mul(4).min(MAX_CHUNK))?
            }
            [min, avg, max] => Self::new(size(min)?, size(avg)?, size(max)?)?,
            _ => return Err(ChunkSizesError::Syntax(text.to_owned())),
        };
        match sizes.max < WINDOW as u64 && !sizes.fixed() {
            true => Err(ChunkSizesError::BelowWindow(sizes.max)),
            false => Ok(sizes),
        }
    }

    /// The smallest size of a chunk that is not the last.
    pub fn min(&self) -> u64 {
        self.min
    }

    /// The size aimed at.
    pub fn avg(&self) -> u64 {
        self.avg
    }

    /// The largest size.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Whether all chunks but the last have the same size and content does not matter.
    pub fn fixed(&self) -> bool {
        self.min == self.avg && self.avg == self.max
    }

    /// The three, as an index has them.
    pub fn to_array(self) -> [u64; 3] {
        [self.min, self.avg, self.max]
    }

    /// A chunk ends where the rolling hash is one less than a multiple of this.
    pub fn discriminator(&self) -> u64 {
        let avg = self.avg as f64;
        let raw = avg / (-1.42888852e-7 * avg + 1.33237515);
        // casync converts a double to an unsigned integer: on x86-64 a negative one becomes huge.
        let raw = if raw < 0.0 || !raw.is_finite() { u64::MAX } else { raw as u64 };
        raw.clamp(self.min, self.max)
    }
}

impl FromStr for ChunkSizes {
    type Err = ChunkSizesError;

    fn from_str(text: &str) -> Result<Self, ChunkSizesError> {
        Self::parse(text)
    }
}

impl fmt::Display for ChunkSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.min, self.avg, self.max)
    }
}

/// A number of bytes as casync reads it: decimals, suffixes of powers of 1024, and sums such as `1K 512B`.
fn bytes(text: &str) -> Option<u64> {
    let mut sum = 0u64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let (shift, used) = match after.chars().next() {
            None => (0, 0),
            Some(c) if c.is_whitespace() => (0, 0),
            Some(c) => (10 * "BKMGTPE".find(c)? as u32, 1),
        };
        let fraction: f64 = format!("0.{fraction}").parse().ok()?;
        let whole = whole.parse::<u64>().ok()?.checked_mul(1 << shift)?;
        sum = sum.checked_add(whole)?.checked_add((fraction * (1u64 << shift) as f64) as u64)?;
        let after = &after[used..];
        rest = after.trim_start();
        // Two numbers need something between them.
        if !rest.is_empty() && used == 0 && rest.len() == after.len() {
            return None;
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(text: &str) -> Result<[u64; 3], ChunkSizesError> {
        ChunkSizes::parse(text).map(ChunkSizes::to_array)
    }

    #[test]
    fn sizes_are_read_as_casync_reads_them() {
        assert_eq!(sizes("64K"), Ok([16384, 65536, 262144]));
        assert_eq!(sizes("auto"), sizes("65536"));
        assert_eq!(sizes("64M"), Ok([16 << 20, 64 << 20, 128 << 20]));
        assert_eq!(sizes("1K:1.5K:1K 1K"), Ok([1024, 1536, 2048]));
        assert_eq!(sizes("12"), Ok([3, 12, 48]));
        assert_eq!(sizes("7:7:7"), Ok([7, 7, 7]));
        for text in ["", "0", "11", "1K:2K", "2K:1K:4K", "1KB", "1Ki", "-1", "1:2:3:4", "200M", "::", "x", "1:2:40"] {
            assert!(sizes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn discriminators_are_casyncs() {
        let kib = [(4, 3075), (8, 6153), (16, 12318), (32, 24680), (64, 49535), (128, 99777), (256, 202_440)];
        let mib = [(512, 416_942), (1024, 886_711), (2048, 2_030_716), (4096, 5_721_670), (8192, 33_554_432)];
        for (avg, d) in kib.into_iter().chain(mib) {
            assert_eq!(ChunkSizes::parse(&format!("{avg}K")).unwrap().discriminator(), d, "{avg}K");
        }
        for avg in ["9M", "10M", "16M", "64M"] {
            let sizes = ChunkSizes::parse(avg).unwrap();
            assert_eq!(sizes.discriminator(), sizes.max(), "{avg}");
        }
        assert_eq!(ChunkSizes::parse("60000:65536:70000").unwrap().discriminator(), 60_000);
    }
}
