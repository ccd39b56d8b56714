//! The links: when bytes that are sent now, by a neighbour or the origin, are where they were sent.

use std::time::Duration;

use proto::exchange::OriginAnswer;
use proto::{Position, Time};

use super::network::{Event, Network};

impl Network {
    /// When bytes that would be here at `in_full` are, given what is on its way already.
    pub(super) fn onto_downlink(&mut self, to: usize, bytes: u32, in_full: Time) -> Time {
        let machine = &mut self.machines[to];
        let took = Duration::from_secs_f64(f64::from(bytes) / machine.spec.down);
        machine.down_free = in_full.max(machine.down_free + took);
        machine.down_free
    }

    pub(super) fn ask_origin(&mut self, at: usize, position: Position) {
        let delay = self.setup.origin_delay;
        let down = |time: Time| self.setup.origin_down.is_some_and(|(from, to)| time >= from && time < to);
        let reaches = self.machines[at].spec.origin;
        let length = self.stored[position as usize];
        let took = Duration::from_secs_f64(f64::from(length) / self.setup.origin_rate);
        let begins = self.origin_free.max(self.now + delay);
        if !reaches || down(self.now + delay) || down(begins + took) {
            let answer = OriginAnswer::Unavailable;
            let event = Event::FromOrigin { to: at, position, answer };
            return self.push(self.now + delay * 2 + Duration::from_millis(1), event);
        }
        if !self.fetched.insert(position) {
            self.outcome.repeated.push((self.now, at, position));
        }
        self.origin_free = begins + took;
        self.outcome.origin_bytes += u64::from(length);
        let arrives = self.onto_downlink(at, length, begins + took + delay);
        let first_byte = (begins + delay).saturating_sub(self.now);
        let answer = OriginAnswer::Bytes { bytes: u64::from(length), first_byte };
        self.push(arrives, Event::FromOrigin { to: at, position, answer });
    }
}
