//! What everybody may know of every machine, wherever it runs: what of it does not change.

use proto::{NodeId, Time, ZoneId};

use super::machine::{Cut, Kind, Spec, node_id};

#[derive(Debug, Clone)]
pub struct Who {
    pub id: NodeId,
    pub zone: ZoneId,
    pub rack: usize,
    pub kind: Kind,
    pub origin: bool,
    pub lan: bool,
    pub start: Time,
    stopped: Option<(Time, Time)>,
    cut: Option<(Time, Time, Cut)>,
}

impl Who {
    pub fn new(number: usize, spec: &Spec, zone: ZoneId) -> Self {
        Self {
            id: node_id(number),
            zone,
            rack: spec.rack,
            kind: spec.kind,
            origin: spec.origin,
            lan: spec.lan,
            start: spec.start,
            stopped: spec.stopped,
            cut: spec.cut,
        }
    }

    /// Until when it stands still.
    pub fn stopped_until(&self, now: Time) -> Option<Time> {
        self.stopped.filter(|(from, to)| now >= *from && now < *to).map(|(_, to)| to)
    }

    /// Until when it is cut off like this.
    pub fn cut_until(&self, now: Time, what: &[Cut]) -> Option<Time> {
        self.cut.filter(|(from, to, cut)| now >= *from && now < *to && what.contains(cut)).map(|(_, to, _)| to)
    }

    /// Until when nothing gets from one machine to the other.
    pub fn blocked_until(&self, other: &Self, now: Time) -> Option<Time> {
        if self.cut.is_none() && other.cut.is_none() {
            return None;
        }
        let off = [Cut::Lan, Cut::All];
        let split = match (self.cut_until(now, &[Cut::Split]), other.cut_until(now, &[Cut::Split])) {
            (Some(until), None) | (None, Some(until)) => Some(until),
            _ => None,
        };
        self.cut_until(now, &off).max(other.cut_until(now, &off)).max(split)
    }
}
