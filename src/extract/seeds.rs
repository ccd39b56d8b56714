//! One seed of an extraction: its chunks are read where its index (or the chunker) says they are, checked, and written,
//! or shared with the target where the file system can. A seed that has changed is found out by the hash.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use proto::Position;

use super::plan::span;
use super::progress::Place;
use super::reflink::{self, BLOCK};
use super::workers::Context;
use crate::chunk::{self, Claim};
use crate::source::seed::Seed;

/// A run is shared with the target only if that many bytes of whole blocks lie in it.
const SMALLEST_SHARE: u64 = 16 << 10;

/// A seed, and whether blocks can be shared with it.
pub(super) struct SeedSource {
    seed: Seed,
    reflink: AtomicBool,
}

/// Positions that follow each other in the seed and in the target alike.
#[derive(Debug, PartialEq)]
struct Run {
    positions: Vec<Position>,
    seed_offset: u64,
    target_offset: u64,
    length: u64,
}

impl SeedSource {
    /// Takes chunks from `seed`; with `reflink` by sharing blocks, until the file system says that it cannot.
    pub(super) fn new(seed: Seed, reflink: bool) -> Self {
        Self { seed, reflink: AtomicBool::new(reflink) }
    }

    /// The seed.
    pub(super) fn seed(&self) -> &Seed {
        &self.seed
    }

    /// Writes what the seed has of `positions`. Returns what it has not, or not any more.
    pub(super) fn process(&self, context: &Context, positions: Vec<Position>) -> io::Result<Vec<Position>> {
        let positions = match self.reflink.load(Ordering::Relaxed) {
            true => self.share(context, positions)?,
            false => positions,
        };
        self.copy(context, positions)
    }

    fn copy(&self, context: &Context, positions: Vec<Position>) -> io::Result<Vec<Position>> {
        let layout = context.assembly.layout();
        let mut pending = Vec::new();
        let mut claimed = Vec::new();
        let mut claims = Vec::new();
        for position in positions {
            let id = layout.id(position);
            match self.seed.get(id) {
                Ok(Some(encoded)) => {
                    claimed.push(position);
                    claims.push(Claim { encoded, id, length: layout.length(position) });
                }
                Ok(None) => pending.push(position),
                Err(error) => {
                    tracing::debug!(%error, "a seed cannot be read; asking elsewhere");
                    pending.push(position);
                }
            }
        }
        let verified = chunk::verify_many(&claims, context.digest);
        drop(claims);
        for (position, verified) in claimed.into_iter().zip(verified) {
            let Ok(chunk) = verified else {
                pending.push(position);
                continue;
            };
            context.progress.add_received(Place::Seeds, chunk.bytes().len() as u64);
            if context.assembly.put(position, &chunk)? {
                context.progress.add_image(Place::Seeds, span(layout, position));
            }
        }
        pending.sort_unstable();
        Ok(pending)
    }

    /// Shares whole blocks first and then hashes what the target has become: what counts is what is in the target,
    /// however the seed changes meanwhile. Returns what is to be copied.
    fn share(&self, context: &Context, positions: Vec<Position>) -> io::Result<Vec<Position>> {
        let layout = context.assembly.layout();
        let located = positions.iter().map(|&position| {
            let &[target_offset] = layout.offsets(position) else { return (position, None) };
            let seed_offset = self.seed.find(&layout.id(position)).map(|found| found.offset);
            (position, seed_offset.map(|seed_offset| (seed_offset, target_offset, u64::from(layout.length(position)))))
        });
        let (runs, mut pending) = runs(located);
        for run in runs {
            if !self.share_run(context, &run)? {
                pending.extend(run.positions);
                continue;
            }
            for &position in &run.positions {
                let mut bytes = vec![0; layout.length(position) as usize];
                context.assembly.file().read_exact_at(&mut bytes, layout.offsets(position)[0])?;
                if context.digest.id(&bytes) != layout.id(position) {
                    pending.push(position);
                } else if context.assembly.mark(position) {
                    context.progress.add_received(Place::Seeds, bytes.len() as u64);
                    context.progress.add_image(Place::Seeds, span(layout, position));
                }
            }
        }
        pending.sort_unstable();
        Ok(pending)
    }

    /// Shares the whole blocks of a run and copies the rest of it. `false` if that is not possible.
    fn share_run(&self, context: &Context, run: &Run) -> io::Result<bool> {
        let first = run.target_offset.next_multiple_of(BLOCK) - run.target_offset;
        let last = (run.target_offset + run.length) / BLOCK * BLOCK;
        let Some(length) = last.checked_sub(run.target_offset + first).filter(|length| *length >= SMALLEST_SHARE)
        else {
            return Ok(false);
        };
        if run.seed_offset % BLOCK != run.target_offset % BLOCK {
            return Ok(false);
        }
        let (seed, target) = (self.seed.file(), context.assembly.file());
        if let Err(errno) =
            reflink::clone_range(seed, run.seed_offset + first, length, target, run.target_offset + first)
        {
            tracing::debug!(%errno, seed = %self.seed.path().display(), "no blocks can be shared with this seed");
            self.reflink.store(false, Ordering::Relaxed);
            return Ok(false);
        }
        for (from, length) in [(0, first), (first + length, run.length - first - length)] {
            let mut bytes = vec![0; length as usize];
            if seed.read_exact_at(&mut bytes, run.seed_offset + from).is_err() {
                return Ok(false);
            }
            target.write_all_at(&bytes, run.target_offset + from)?;
        }
        Ok(true)
    }
}

/// Groups positions, each with (offset in the seed, offset in the target, length), into runs. The second part of the
/// answer is what cannot be in a run.
fn runs(located: impl Iterator<Item = (Position, Option<(u64, u64, u64)>)>) -> (Vec<Run>, Vec<Position>) {
    let mut runs: Vec<Run> = Vec::new();
    let mut others = Vec::new();
    for (position, place) in located {
        let Some((seed_offset, target_offset, length)) = place else {
            others.push(position);
            continue;
        };
        let follows = |run: &&mut Run| {
            run.seed_offset + run.length == seed_offset && run.target_offset + run.length == target_offset
        };
        match runs.last_mut().filter(follows) {
            Some(run) => {
                run.positions.push(position);
                run.length += length;
            }
            None => runs.push(Run { positions: vec![position], seed_offset, target_offset, length }),
        }
    }
    (runs, others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_seed_and_target_form_one_run() {
        let located = [
            (0, Some((100, 0, 50))),
            (1, Some((150, 50, 10))),
            (2, None),
            (3, Some((160, 70, 5))),
            (4, Some((900, 75, 5))),
        ];
        let (runs, others) = runs(located.into_iter());
        let shape: Vec<_> = runs.iter().map(|run| (run.positions.clone(), run.seed_offset, run.length)).collect();
        assert_eq!(shape, [(vec![0, 1], 100, 60), (vec![3], 160, 5), (vec![4], 900, 5)]);
        assert_eq!(others, [2]);
    }
}
