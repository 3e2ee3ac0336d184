//! What went wrong with suppliers, in words for the message of a download that fails: the newest few, each said once.

use std::collections::VecDeque;

/// Kept at most; a crowd of hostile peers must not fill memory, nor a screen.
const TROUBLES_MAX: usize = 16;

/// A bounded list of sentences, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Troubles(VecDeque<String>);

impl Troubles {
    /// Adds one unless it is there already; returns whether it was news.
    pub(crate) fn note(&mut self, text: String) -> bool {
        if self.0.contains(&text) {
            return false;
        }
        if self.0.len() >= TROUBLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(text);
        true
    }

    /// All of them.
    pub(crate) fn list(&self) -> Vec<String> {
        self.0.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_kept_once_and_the_oldest_gives_way() {
        let mut troubles = Troubles::default();
        assert!(troubles.note("again".into()));
        assert!(!troubles.note("again".into()));
        for number in 0..TROUBLES_MAX {
            assert!(troubles.note(number.to_string()));
        }
        let kept = troubles.list();
        assert_eq!((kept.len(), kept.first().map(String::as_str)), (TROUBLES_MAX, Some("0")));
    }
}
