//! Who shares the budget of the site's line: contents that this node lacks a part of, and those that peers of its site say
//! they lack. What a content's share is spent on is the engine's business.
//!
//! Every node that lacks a content tells its word to all peers of its site, so that nodes with no content in common divide
//! the line as well. Nobody keeps the line's books: each divides by the contents that it has heard of, and what
//! somebody makes up is bounded by address, as everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use crate::services::node::Inner;
use crate::services::node::limits::{SHARING_COUNTED, SHARING_LASTS, SHARING_PAUSE, SHARING_RENEW};
use crate::services::node::link::Link;
use crate::swarm::event::{AddressKey, Scope};
use crate::wire::limits::SHARING_COUNT_MAX;
use crate::wire::version::Features;
use crate::wire::{Frame, SharingWord, line_divisor};

/// What one link's peer said last.
struct Told {
    address: AddressKey,
    contents: Vec<SharingWord>,
    at: Instant,
}

#[derive(Default)]
struct Sharers {
    /// Contents of this node, each with how many downloads it has.
    own: BTreeMap<SharingWord, u32>,
    /// By the link's number.
    told: BTreeMap<u64, Told>,
}

impl Sharers {
    /// What is told to others: the first few, so that who lacks a thousand contents has no thousand parts.
    fn tells(&self) -> Vec<SharingWord> {
        self.own.keys().take(SHARING_COUNT_MAX).copied().collect()
    }

    /// What each content of this node has to divide the budget by; 0 while it has none.
    fn divisor(&self) -> u32 {
        if self.own.is_empty() {
            return 0;
        }
        let mut by_address: BTreeMap<AddressKey, BTreeSet<SharingWord>> = BTreeMap::new();
        for told in self.told.values() {
            by_address.entry(told.address).or_default().extend(&told.contents);
        }
        let mut all = BTreeSet::from_iter(self.tells());
        for contents in by_address.into_values() {
            all.extend(contents.into_iter().take(SHARING_COUNT_MAX));
        }
        line_divisor(all.len(), self.own.len())
    }

    fn forget_old(&mut self, now: Instant) {
        self.told.retain(|_, told| now.saturating_duration_since(told.at) < SHARING_LASTS);
    }
}

/// What this node knows of those that share its line.
pub(crate) struct Sharing {
    sharers: Mutex<Sharers>,
    divisor: watch::Sender<u32>,
    /// There is something to tell.
    news: Notify,
    /// Something was told, and is not counted yet.
    heard: Notify,
}

impl Default for Sharing {
    fn default() -> Self {
        Self { sharers: Mutex::default(), divisor: watch::channel(0).0, news: Notify::new(), heard: Notify::new() }
    }
}

/// A download that takes its part of the budget; it counts while this lives.
pub(crate) struct Sharer {
    node: Arc<Inner>,
    word: SharingWord,
}

impl Drop for Sharer {
    fn drop(&mut self) {
        self.node.sharing.change(|sharers| {
            if let Some(count) = sharers.own.get_mut(&self.word) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    sharers.own.remove(&self.word);
                }
            }
        });
        self.node.sharing.news.notify_one();
    }
}

impl Sharing {
    fn sharers(&self) -> MutexGuard<'_, Sharers> {
        self.sharers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Sharers)) {
        let mut sharers = self.sharers();
        change(&mut sharers);
        let divisor = sharers.divisor();
        // Under the lock, so that of two changes the later is told last.
        self.divisor.send_if_modified(|before| std::mem::replace(before, divisor) != divisor);
    }

    /// What the budget is divided by, told whenever that changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u32> {
        self.divisor.subscribe()
    }

    /// The same now; 0 where this node takes nothing of a budget.
    pub(crate) fn divisor(&self) -> u32 {
        *self.divisor.borrow()
    }
}

impl Inner {
    /// A download of this node takes its part from now on.
    pub(crate) fn share_line(self: &Arc<Self>, word: SharingWord) -> Sharer {
        self.sharing.change(|sharers| {
            let count = sharers.own.entry(word).or_insert(0);
            *count = count.saturating_add(1);
        });
        self.sharing.news.notify_one();
        Sharer { node: Arc::clone(self), word }
    }

    fn shares_line_with(&self, link: &Link) -> bool {
        link.features.has(Features::SHARING) && self.scope_of(link) <= Scope::Site
    }

    /// A peer of the site hears at once for what this node takes its part.
    pub(crate) fn tell_sharing(&self, link: &Link) {
        let contents = self.sharing.sharers().tells();
        if !contents.is_empty() && self.shares_line_with(link) {
            link.send(Frame::Sharing { contents });
        }
    }

    /// A peer says for what it takes its part.
    pub(crate) fn hear_sharing(&self, link: &Link, contents: Vec<SharingWord>) {
        if self.scope_of(link) > Scope::Site {
            return;
        }
        let mut sharers = self.sharing.sharers();
        if contents.is_empty() {
            sharers.told.remove(&link.number);
        } else {
            sharers.told.insert(link.number, Told { address: link.address, contents, at: Instant::now() });
        }
        self.sharing.heard.notify_one();
    }

    /// What its peer said went with the link.
    pub(crate) fn forget_sharing(&self, link: &Link) {
        if self.sharing.sharers().told.remove(&link.number).is_some() {
            self.sharing.heard.notify_one();
        }
    }
}

/// Tells peers of the site what changes, and now and then what does not, as long as the node lives.
pub(crate) async fn attend(node: Arc<Inner>) {
    tokio::select! {
        () = node.stopped() => {}
        () = tell_all(&node) => {}
        () = count_all(&node) => {}
    }
}

/// Counts what was told, all that came meanwhile at once: however often a peer says something else, it costs no more.
async fn count_all(node: &Inner) {
    loop {
        node.sharing.heard.notified().await;
        node.sharing.change(|sharers| sharers.forget_old(Instant::now()));
        tokio::time::sleep(SHARING_COUNTED).await;
    }
}

async fn tell_all(node: &Arc<Inner>) {
    let mut said = Vec::new();
    loop {
        let due = async {
            match said.is_empty() {
                true => std::future::pending().await,
                false => tokio::time::sleep(SHARING_RENEW).await,
            }
        };
        let renewed = tokio::select! {
            () = node.sharing.news.notified() => false,
            () = due => true,
        };
        node.sharing.change(|sharers| sharers.forget_old(Instant::now()));
        let contents = node.sharing.sharers().tells();
        if renewed || contents != said {
            let links: Vec<_> = node.links().values().cloned().collect();
            for link in links.iter().filter(|link| node.shares_line_with(link)) {
                link.send(Frame::Sharing { contents: contents.clone() });
            }
            said = contents;
        }
        if renewed {
            // Whoever is not connected does not know of us, nor we of it.
            node.dial_found();
        }
        // Of many small contents one after the other each would be told to everybody twice.
        tokio::time::sleep(SHARING_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(number: u8) -> SharingWord {
        [number; 8]
    }

    fn sharers(own: &[u8], told: &[(u8, &[u8])]) -> Sharers {
        let at = Instant::now();
        let say = |(link, (address, contents)): (usize, &(u8, &[u8]))| {
            let contents = contents.iter().copied().map(word).collect();
            (link as u64, Told { address: AddressKey([*address; 18]), contents, at })
        };
        Sharers {
            own: own.iter().map(|number| (word(*number), 1)).collect(),
            told: told.iter().enumerate().map(say).collect(),
        }
    }

    #[test]
    fn a_line_is_divided_by_the_contents_of_the_site_whoever_lacks_them() {
        assert_eq!(sharers(&[], &[(1, &[1])]).divisor(), 0, "it takes nothing");
        assert_eq!(sharers(&[1], &[]).divisor(), 1);
        assert_eq!(sharers(&[1], &[(1, &[1]), (2, &[1])]).divisor(), 1, "the same one");
        assert_eq!(sharers(&[1], &[(1, &[1, 2]), (2, &[2, 3])]).divisor(), 3);
    }

    #[test]
    fn who_lacks_many_contents_has_a_few_parts_all_in_all() {
        let many: Vec<u8> = (0..40).collect();
        let (here, there) = (sharers(&many, &[(1, &[100])]), sharers(&[100], &[(1, &[0, 1, 2, 3])]));
        assert_eq!(here.tells().len(), SHARING_COUNT_MAX);
        // Forty times 1/50 here, and 1/5 there.
        assert_eq!((here.divisor(), there.divisor()), (50, 5));
        assert_eq!(sharers(&[0, 1, 2, 3, 4], &[]).divisor(), 5, "alone");
    }

    #[test]
    fn one_address_has_a_few_parts_however_many_identities_it_makes_up() {
        let made_up: Vec<[u8; 4]> =
            (0..30).map(|number| [4 * number, 4 * number + 1, 4 * number + 2, 4 * number + 3]).collect();
        let told: Vec<(u8, &[u8])> = made_up.iter().map(|contents| (7, &contents[..])).collect();
        assert_eq!(sharers(&[200], &told).divisor(), 1 + SHARING_COUNT_MAX as u32);
    }

    #[test]
    fn what_nobody_renews_is_forgotten() {
        let mut sharers = sharers(&[1], &[(1, &[2])]);
        sharers.forget_old(Instant::now() + SHARING_RENEW);
        assert_eq!(sharers.divisor(), 2);
        sharers.forget_old(Instant::now() + SHARING_LASTS);
        assert_eq!(sharers.divisor(), 1);
    }
}
