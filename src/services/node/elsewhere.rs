//! Which contents others of the site hold whole, as far as this node has seen lately: what leaves a cache asks.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::content::hash::ManifestId;
use crate::services::node::limits::{ELSEWHERE_FRESH, ELSEWHERE_KEPT_MAX};

/// When a neighbour was last seen to hold each manifest's files whole.
#[derive(Default)]
pub(crate) struct Elsewhere(Mutex<BTreeMap<ManifestId, Instant>>);

impl Elsewhere {
    /// A neighbour holds it whole, now.
    pub(crate) fn seen(&self, manifest: ManifestId) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.contains_key(&manifest)
            && held.len() >= ELSEWHERE_KEPT_MAX
            && let Some(oldest) = held.iter().min_by_key(|(_, at)| **at).map(|(manifest, _)| *manifest)
        {
            held.remove(&oldest);
        }
        held.insert(manifest, Instant::now());
    }

    /// Whether one was seen to hold it lately.
    pub(crate) fn holds(&self, manifest: &ManifestId) -> bool {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(manifest).is_some_and(|at| at.elapsed() < ELSEWHERE_FRESH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes() {
        let elsewhere = Elsewhere::default();
        let id = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            ManifestId::new(id)
        };
        (0..ELSEWHERE_KEPT_MAX).for_each(|number| elsewhere.seen(id(number)));
        assert!(elsewhere.holds(&id(0)));
        elsewhere.seen(id(ELSEWHERE_KEPT_MAX));
        assert!(!elsewhere.holds(&id(0)) && elsewhere.holds(&id(1)) && elsewhere.holds(&id(ELSEWHERE_KEPT_MAX)));
    }
}
