//! A map of few entries whose keys lie side by side: what is looked through again and again, and changes less often.

use std::slice;

#[derive(Debug)]
pub(crate) struct Sorted<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self { keys: Vec::new(), values: Vec::new() }
    }
}

/// Room for so many entries is kept when the last one goes.
const KEPT: usize = 16;

impl<K: Ord, V> Sorted<K, V> {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.keys.binary_search(key).is_ok()
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.keys.binary_search(key).ok().map(|at| &self.values[at])
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.keys.binary_search(key).ok().map(|at| &mut self.values[at])
    }

    /// What was there before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.keys.binary_search(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.values[at], value)),
            Err(at) => {
                self.keys.insert(at, key);
                self.values.insert(at, value);
                None
            }
        }
    }

    pub(crate) fn get_or_insert_with(&mut self, key: K, value: impl FnOnce() -> V) -> &mut V {
        let at = self.keys.binary_search(&key).unwrap_or_else(|at| {
            self.keys.insert(at, key);
            self.values.insert(at, value());
            at
        });
        &mut self.values[at]
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.keys.binary_search(key).ok()?;
        self.keys.remove(at);
        let value = self.values.remove(at);
        if self.keys.is_empty() && self.keys.capacity() > KEPT {
            self.clear();
        }
        Some(value)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn keys(&self) -> slice::Iter<'_, K> {
        self.keys.iter()
    }

    pub(crate) fn values(&self) -> slice::Iter<'_, V> {
        self.values.iter()
    }

    pub(crate) fn iter(&self) -> std::iter::Zip<slice::Iter<'_, K>, slice::Iter<'_, V>> {
        self.keys.iter().zip(&self.values)
    }

    pub(crate) fn iter_mut(&mut self) -> std::iter::Zip<slice::Iter<'_, K>, slice::IterMut<'_, V>> {
        self.keys.iter().zip(&mut self.values)
    }
}

impl<'a, K: Ord, V> IntoIterator for &'a Sorted<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = std::iter::Zip<slice::Iter<'a, K>, slice::Iter<'a, V>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, K: Ord, V> IntoIterator for &'a mut Sorted<K, V> {
    type Item = (&'a K, &'a mut V);
    type IntoIter = std::iter::Zip<slice::Iter<'a, K>, slice::IterMut<'a, V>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_map_that_it_says(steps in prop::collection::vec((0..4u8, 0..40u8, any::<u16>()), 0..200)) {
            let (mut sorted, mut map) = (Sorted::new(), BTreeMap::new());
            for (step, key, value) in steps {
                match step {
                    0 | 1 => prop_assert_eq!(sorted.insert(key, value), map.insert(key, value)),
                    2 => prop_assert_eq!(*sorted.get_or_insert_with(key, || value), *map.entry(key).or_insert(value)),
                    _ => prop_assert_eq!(sorted.remove(&key), map.remove(&key)),
                }
                prop_assert_eq!(sorted.get(&key), map.get(&key));
                prop_assert_eq!(sorted.contains_key(&key), map.contains_key(&key));
                prop_assert!(sorted.iter().eq(&map));
            }
        }
    }
}
