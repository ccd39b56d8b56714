//! The highest score that any of some nodes or zones has for each group, kept as they come and go.

#[derive(Debug)]
pub(super) struct Best<T> {
    groups: u32,
    /// In ascending order.
    who: Vec<T>,
    /// By group; empty while there is nobody.
    best: Vec<u64>,
}

impl<T: Ord + Copy> Best<T> {
    pub(super) fn new(groups: u32) -> Self {
        Self { groups, who: Vec::new(), best: Vec::new() }
    }

    /// From now on it is these, in ascending order.
    pub(super) fn set(&mut self, who: Vec<T>, score: impl Fn(&T, u32) -> u64) {
        if who == self.who {
            return;
        }
        if self.best.is_empty() {
            self.best = vec![0; self.groups as usize];
        }
        let without = |all: &[T], others: &[T]| -> Vec<T> {
            all.iter().filter(|one| others.binary_search(one).is_err()).copied().collect()
        };
        for one in &without(&who, &self.who) {
            for (best, group) in self.best.iter_mut().zip(0..) {
                *best = (*best).max(score(one, group));
            }
        }
        let gone = without(&self.who, &who);
        if !gone.is_empty() {
            for (best, group) in self.best.iter_mut().zip(0..) {
                if gone.iter().any(|one| score(one, group) == *best) {
                    *best = who.iter().map(|one| score(one, group)).max().unwrap_or(0);
                }
            }
        }
        self.who = who;
    }

    /// How many they are.
    pub(super) fn len(&self) -> usize {
        self.who.len()
    }

    /// The highest score for a group; 0 if there is nobody.
    pub(super) fn of(&self, group: u32) -> u64 {
        self.best.get(group as usize).copied().unwrap_or(0)
    }

    /// How many of them score higher than this.
    pub(super) fn above(&self, own: u64, group: u32, score: impl Fn(&T, u32) -> u64) -> u32 {
        if self.of(group) <= own {
            return 0;
        }
        self.who.iter().filter(|one| score(one, group) > own).count() as u32
    }

    /// Who has the highest score for a group.
    pub(super) fn holder(&self, group: u32, score: impl Fn(&T, u32) -> u64) -> Option<&T> {
        self.who.iter().max_by_key(|one| score(one, group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(one: &u32, group: u32) -> u64 {
        u64::from((one * 7 + group * 13) % 31)
    }

    #[test]
    fn the_best_is_that_of_who_is_there_whoever_came_and_went() {
        let mut best = Best::new(40);
        for who in [vec![1, 2, 3], vec![2, 9, 11], vec![11], vec![], vec![4, 5, 11, 12]] {
            best.set(who.clone(), score);
            for group in 0..40 {
                assert_eq!(best.of(group), who.iter().map(|one| score(one, group)).max().unwrap_or(0), "{who:?}");
            }
        }
    }
}
