//! What machines say that have no exchange behind them: how each kind of lie answers, talks and comes and goes.

use std::time::Duration;

use proto::{Holdings, Message, Position};

use super::events::Event;
use super::machine::Kind;
use super::network::INDEX;
use super::part::{Part, Post};

/// Between two words of a machine that only talks.
const WORDS: Duration = Duration::from_millis(200);
/// How long a restless machine stays.
const STAY: Duration = Duration::from_secs(1);

impl Part {
    /// What a machine says that it holds when a session opens; `None`: it does not say.
    pub(super) fn holdings_told(&self, at: usize) -> Option<Holdings> {
        let machine = &self.machines[at];
        match machine.spec.kind {
            Kind::Honest => machine.exchange.as_ref().map(|exchange| Holdings::from(exchange.held().clone())),
            Kind::Claiming => Some(Holdings::new()),
            Kind::Restless => None,
            _ => Some(Holdings::all(self.setup.chunks as u32)),
        }
    }

    /// What else a liar does when a session opens.
    pub(super) fn lie(&mut self, at: usize, peer: usize) {
        match self.machines[at].spec.kind {
            Kind::Claiming => {
                let groups = (0..(self.setup.chunks as u32).div_ceil(16).min(256)).collect();
                self.say(at, peer, Message::Claim { index: INDEX, groups, origin: true });
            }
            Kind::Talking | Kind::Repeating => self.push(self.now + WORDS, Event::Talk(at as u32, peer as u32)),
            Kind::Restless => {
                self.end_session(at, peer, self.now + STAY, false);
                self.posts.push(Post::Dial(self.now + STAY * 11 / 10, Event::Session(at as u32, peer as u32)));
            }
            _ => {}
        }
    }

    /// A liar says something that nobody asked for.
    pub(super) fn talk(&mut self, at: usize, peer: usize) {
        if !self.machines[at].sessions.contains_key(&peer) {
            return;
        }
        if self.machines[at].spec.kind == Kind::Repeating {
            self.wanted(at, peer, &[0]);
        } else {
            let holdings = Holdings::all(self.setup.chunks as u32);
            self.say(at, peer, Message::HaveMore { index: INDEX, holdings, started: Vec::new() });
        }
        self.push(self.now + WORDS, Event::Talk(at as u32, peer as u32));
    }

    /// A peer asks for chunks.
    pub(super) fn wanted(&mut self, at: usize, peer: usize, positions: &[Position]) {
        let kind = self.machines[at].spec.kind;
        let Some(session) = self.machines[at].sessions.get_mut(&peer) else { return };
        match kind {
            Kind::Silent | Kind::Claiming | Kind::Talking | Kind::Restless => return,
            Kind::Denying => {
                let positions = positions.to_vec();
                return self.say(at, peer, Message::Absent { index: INDEX, positions, retry_ms: 0 });
            }
            Kind::Busy => {
                let positions = positions.to_vec();
                return self.say(at, peer, Message::Absent { index: INDEX, positions, retry_ms: 300 });
            }
            Kind::Repeating => session.queue.extend(positions.iter().map(|_| 0)),
            Kind::Honest | Kind::Garbage => session.queue.extend(positions),
        }
        self.machines[at].waiting.insert(peer);
        self.send_next(at);
    }
}
