//! What the decisions cost, in processor time: at the size of the largest images, with thirty neighbours.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::exchange::{Config, Exchange, OriginAnswer, Output};
use proto::{Holdings, IndexId, NodeId, ZoneId};
use roaring::RoaringBitmap;

use super::machine::node_id;

/// Nanoseconds an event for one node of an exchange of `positions`, half of which its thirty neighbours bring.
fn nanoseconds_an_event(positions: u32) -> u64 {
    let peers: Vec<NodeId> = (1..=30).map(node_id).collect();
    let lengths: Arc<[u32]> = vec![64 << 10; positions as usize].into();
    let config = Config::default();
    let mut now = Duration::ZERO;
    let start = Instant::now();
    let mut exchange = Exchange::new(node_id(0), &IndexId([7; 32]), lengths, RoaringBitmap::new(), config, now);
    let mut events = 0u64;
    for peer in &peers {
        exchange.joined(*peer, ZoneId::default(), true, now);
        exchange.have(*peer, &Holdings::new(), now);
        while exchange.poll(now).is_some() {}
        events += 2;
    }
    for round in 0..200 {
        now += Duration::from_millis(10);
        let mut answers = Vec::new();
        for (number, peer) in peers.iter().enumerate() {
            let first = (round * 30 + number as u32) * 32 % positions;
            exchange.have_more(*peer, &(first..(first + 16).min(positions)).collect(), now);
            events += 1;
            while let Some(output) = exchange.poll(now) {
                answers.push(output);
            }
        }
        while let Some(output) = answers.pop() {
            let mut stored = Vec::new();
            match output {
                Output::Ask(peer, asked) => {
                    stored.extend(asked.into_iter().filter(|position| exchange.arrived(*position, peer, 23_000, now)));
                }
                Output::AskOrigin(position) => {
                    let answer = OriginAnswer::Bytes { bytes: 23_000, first_byte: Duration::from_millis(1) };
                    stored.extend(exchange.origin_answered(position, answer, now).then_some(position));
                }
                _ => {}
            }
            for position in stored {
                exchange.stored(position, now);
                events += 2;
                while let Some(output) = exchange.poll(now) {
                    if matches!(output, Output::Ask(..)) {
                        answers.push(output);
                    }
                }
            }
        }
    }
    start.elapsed().as_nanos() as u64 / events
}

#[test]
fn a_decision_stays_cheap_however_large_the_image() {
    for positions in [15_700, 1_000_000] {
        let cost = nanoseconds_an_event(positions);
        println!("{positions} positions, 30 neighbours: {cost} ns an event");
        assert!(cost < 500_000, "{cost} ns an event at {positions} positions");
    }
}
