//! What a node may take of its machine and its network, as its owner said.

use std::time::Duration;

/// Neighbours served at a time where nothing is limited: as many as a node usually has, so that only a crowd notices.
const SLOTS: usize = 32;

/// The same for a node that is to stay in the background, or whose upload is limited.
const FEW_SLOTS: usize = 8;

/// Bytes a second that a slot should be worth: with a low limit there are fewer.
const SLOT_RATE: u64 = 128 << 10;

/// How long what is asked of neighbours takes at the limit. More would make them look late.
const AHEAD: Duration = Duration::from_millis(500);

/// Bytes asked of neighbours at a time, however low the limit is: a chunk of the usual size. With more, one that takes its
/// turn would not be heard for so long that it seemed dead.
const LEAST_AHEAD: u64 = 64 << 10;

/// See the module. Rates are in bytes a second; `None` = no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Sent to neighbours: chunks and index files.
    pub upload: Option<u64>,
    /// Received from neighbours, likewise.
    pub download: Option<u64>,
    /// Neighbours served at a time; `None` = a usual number.
    pub upload_slots: Option<usize>,
    /// Whether packets are marked as less than best effort.
    pub background: bool,
}

impl Limits {
    /// Neighbours served at a time.
    pub(crate) fn slots(&self) -> usize {
        let by_rate = self.upload.map_or(FEW_SLOTS, |rate| (rate / SLOT_RATE).clamp(1, FEW_SLOTS as u64) as usize);
        let few = self.upload.is_some() || self.background;
        self.upload_slots.unwrap_or(if few { by_rate } else { SLOTS })
    }

    /// Bytes asked of neighbours at a time.
    pub(crate) fn ahead(&self) -> u64 {
        self.download.map_or(u64::MAX, |rate| ((rate as f64 * AHEAD.as_secs_f64()) as u64).max(LEAST_AHEAD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_has_few_slots_and_asks_for_little_ahead() {
        let limits = |upload, background| Limits { upload, background, ..Limits::default() };
        assert_eq!(limits(None, false).slots(), SLOTS);
        assert_eq!(limits(None, true).slots(), FEW_SLOTS);
        assert_eq!(limits(Some(1), true).slots(), 1);
        assert_eq!(limits(Some(512 << 10), false).slots(), 4);
        assert_eq!(limits(Some(1 << 30), false).slots(), FEW_SLOTS);
        assert_eq!(Limits { upload_slots: Some(3), ..limits(Some(1), true) }.slots(), 3);
        assert_eq!(Limits::default().ahead(), u64::MAX);
        assert_eq!(Limits { download: Some(4 << 20), ..Limits::default() }.ahead(), 2 << 20);
        assert_eq!(Limits { download: Some(1), ..Limits::default() }.ahead(), LEAST_AHEAD);
    }
}
