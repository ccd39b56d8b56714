//! The rules as seen from outside: what one machine may ask and say, given what it was told.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::election::GROUP;
use proto::exchange::Output;
use proto::{Time, limits};

use super::machine::{Machine, number_of};

/// Bytes that may be outstanding at one peer: the window, and the request that overran it.
const WINDOW: u64 = (4 << 20) + (1 << 20);

/// How long a peer that owes answers may say nothing before what it owes is forgotten.
const SILENCE: Duration = Duration::from_secs(1);

/// Checks one output before it takes effect. `stored` are the bytes of each chunk.
pub fn output(machine: &Machine, output: &Output, stored: &[u32], now: Time) {
    let Some(watch) = &machine.watch else { return };
    let held = machine.exchange.as_ref().unwrap().held();
    match output {
        Output::Ask(id, positions) => {
            let peer = number_of(id);
            assert!(machine.sessions.contains_key(&peer), "asked {peer}, with which there is no session");
            assert!(
                !positions.is_empty() && positions.len() <= limits::WANT_POSITIONS,
                "an ask of {}",
                positions.len()
            );
            assert!(watch.busy.get(&peer).is_none_or(|until| now >= *until), "asked {peer}, which is busy");
            let told = &watch.told[&peer];
            for position in positions {
                assert!(!held.contains(*position), "asked for {position}, which is held");
                assert!(told.contains(*position), "asked {peer} for {position}, which it did not say it holds");
                // After a second of silence a request counts as lost.
                let asked_at = watch.asked.get(&peer).and_then(|asked| asked.get(position));
                assert!(asked_at.is_none_or(|at| now > *at + SILENCE), "asked {peer} twice for {position}");
                let waits = |asked: &&BTreeMap<_, Time>| asked.get(position).is_some_and(|at| now <= *at + SILENCE);
                let others = watch.asked.values().filter(waits).count();
                assert!(others <= 1, "{position} asked of a third peer");
            }
            let outstanding = watch.asked.get(&peer).into_iter().flatten().map(|(position, _)| position);
            let bytes: u64 = outstanding.chain(positions).map(|position| u64::from(stored[*position as usize])).sum();
            assert!(bytes <= WINDOW, "{bytes} bytes outstanding at {peer}");
        }
        Output::AskOrigin(position) => {
            assert!(!held.contains(*position), "the origin asked for {position}, which is held");
            assert!(!watch.origin_asked.contains(position), "the origin asked twice for {position}");
        }
        Output::Announce(to, news, started) => {
            assert!(news.positions().is_subset(held), "announced what is not held");
            assert!(started.len() <= limits::CLAIM_GROUPS);
            assert!(!to.is_empty() && to.iter().all(|to| machine.sessions.contains_key(&number_of(to))));
        }
        Output::Claim(groups) => {
            assert!(!groups.is_empty() && groups.len() <= limits::CLAIM_GROUPS);
            for group in groups {
                let all = u64::from(GROUP.min(stored.len() as u32 - group * GROUP));
                let has = held.range_cardinality(group * GROUP..(group + 1) * GROUP);
                assert!(has < all, "claimed group {group}, which it holds");
            }
        }
        Output::GiveUp(why) => panic!("gave up: {why:?}"),
        Output::Cancel(..) | Output::TellOrigin(_) | Output::Tell(..) | Output::Ban(_) | Output::Complete => {}
    }
}

/// Checks the state after a step: nothing outstanding at somebody who left, and, `fully`, the exchange's own books.
pub fn state(machine: &Machine, now: Time, fully: bool) {
    let Some(watch) = &machine.watch else { return };
    for peer in watch.asked.keys() {
        assert!(machine.sessions.contains_key(peer), "requests outstanding at {peer}, which left");
    }
    let Some(exchange) = &machine.exchange else { return };
    match exchange.poll_timeout() {
        Some((at, why)) => {
            assert!(at > now, "wants to be polled at {at:?} for {why}, and it is {now:?}: a busy loop");
            let soon = now + Duration::from_millis(100);
            assert!(at <= soon || machine.finished.is_some(), "nothing to do until {at:?} for {why}");
        }
        None => assert!(machine.finished.is_some(), "unfinished, without a deadline"),
    }
    if fully && let Err(wrong) = exchange.check() {
        panic!("books: {wrong}");
    }
}
