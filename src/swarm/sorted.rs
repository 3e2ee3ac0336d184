//! [`Sorted`]: a map in two arrays, for the few entries that are looked for, and gone through, many times an event. Keys lie
//! together, so that one is found with one or two misses of the cache, and all values follow each other.

/// Values by ascending keys. Entries are put in and taken out in time linear in their number.
#[derive(Debug)]
pub(crate) struct Sorted<K, V> {
    keys: Vec<K>,
    /// In the order of the keys; as many.
    values: Vec<V>,
}

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self { keys: Vec::new(), values: Vec::new() }
    }
}

impl<K: Ord + Copy, V> Sorted<K, V> {
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
        self.values.get(self.keys.binary_search(key).ok()?)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.values.get_mut(self.keys.binary_search(key).ok()?)
    }

    /// Puts a value in; what was there under its key is gone.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        match self.keys.binary_search(&key) {
            Ok(place) => {
                if let Some(before) = self.values.get_mut(place) {
                    *before = value;
                }
            }
            Err(place) => {
                self.keys.insert(place, key);
                self.values.insert(place, value);
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.keys.binary_search(key).ok()?;
        self.keys.remove(place);
        Some(self.values.remove(place))
    }

    /// Ascending.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.keys.iter()
    }

    /// By ascending keys.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.values.iter()
    }

    /// By ascending keys.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.values.iter_mut()
    }

    /// By ascending keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.keys.iter().zip(&self.values)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    proptest::proptest! {
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((0u8..20, 0u16..3), 0..200)) {
            let (mut sorted, mut map) = (Sorted::default(), BTreeMap::new());
            for (key, what) in steps {
                if what == 0 {
                    proptest::prop_assert_eq!(sorted.remove(&key), map.remove(&key));
                } else {
                    sorted.insert(key, what);
                    map.insert(key, what);
                }
                proptest::prop_assert!(sorted.iter().eq(map.iter()) && sorted.keys().eq(map.keys()));
                proptest::prop_assert_eq!(sorted.get(&key).copied(), map.get(&key).copied());
                proptest::prop_assert_eq!((sorted.len(), sorted.is_empty()), (map.len(), map.is_empty()));
            }
        }
    }
}
