//! How much of the cache is one user's, or one publisher's: noted when a content is fetched first, and kept within
//! `user_quota`. What is in the cache already and nobody is known to have asked for counts for its publisher alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::content::code::Code;
use crate::content::hash::ManifestId;
use crate::drivers::store::StateDir;
use crate::programs::peer::Failure;
use crate::programs::peer::downloads::Shared;
use crate::programs::peer::eviction::Held;
use crate::programs::peer::journal::Deed;
use crate::programs::peer::resolve::Resolved;

/// In the state folder: a line for each content of the cache, its manifest, the user or `-`, the publisher.
const FILE: &str = "owners";
/// Longest file; what is longer was not written here.
const FILE_BYTES_MAX: usize = 16 << 20;

/// For whom a content was fetched, and who published it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    /// `None`: the daemon's own configuration, which has no quota.
    uid: Option<u32>,
    /// Empty where nobody signed it.
    publisher: String,
}

/// The owners of what the cache holds.
pub(super) struct Owners {
    state: Arc<StateDir>,
    table: Mutex<Option<BTreeMap<ManifestId, Owner>>>,
}

impl Owners {
    pub(super) fn new(state: Arc<StateDir>) -> Self {
        Self { state, table: Mutex::default() }
    }

    /// Notes an owner, unless there is one, and forgets what the cache holds no more. Writes on the calling thread, which is
    /// to be a disk thread. Returns the owners of all that it holds.
    fn note(
        &self,
        manifest: ManifestId,
        owner: Owner,
        held: &[ManifestId],
    ) -> Result<BTreeMap<ManifestId, Owner>, crate::drivers::store::Error> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let known = table.get_or_insert_with(|| {
            let read = self.state.folder().read(Path::new(FILE), FILE_BYTES_MAX).ok().flatten().unwrap_or_default();
            parse(&String::from_utf8(read).unwrap_or_default())
        });
        let before = known.clone();
        known.retain(|id, _| held.contains(id) || *id == manifest);
        known.entry(manifest).or_insert(owner);
        if *known != before {
            self.state.folder().replace(Path::new(FILE), write(known).as_bytes())?;
        }
        Ok(known.clone())
    }
}

fn parse(text: &str) -> BTreeMap<ManifestId, Owner> {
    let line = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let manifest = words.next()?.parse().ok()?;
        let uid = match words.next()? {
            "-" => None,
            uid => Some(uid.parse().ok()?),
        };
        Some((manifest, Owner { uid, publisher: words.next()?.to_owned() }))
    };
    text.lines().filter_map(line).collect()
}

fn write(owners: &BTreeMap<ManifestId, Owner>) -> String {
    let line = |(manifest, owner): (&ManifestId, &Owner)| {
        let uid = owner.uid.map_or_else(|| "-".to_owned(), |uid| uid.to_string());
        format!("{manifest} {uid} {}\n", owner.publisher)
    };
    owners.iter().map(line).collect()
}

impl Shared {
    /// Keeps a download within what its user, and its publisher, may have of the cache; what they have there longest out of
    /// use goes first.
    ///
    /// # Errors
    /// [`Code::DiskFull`], with the policy's name: it does not fit.
    pub(super) async fn within_quota(
        &self,
        resolved: &Resolved,
        uid: Option<u32>,
        quota: Option<u64>,
    ) -> Result<(), Failure> {
        let Some(quota) = quota else { return Ok(()) };
        let publisher = resolved.trusted.as_ref().map(|trusted| trusted.publisher.clone()).unwrap_or_default();
        let owner = Owner { uid, publisher };
        let (manifest, total) = (resolved.manifest.id(), resolved.manifest.layout().total_bytes());
        let held = self.held().await?;
        let ids: Vec<_> = held.iter().map(|entry| entry.manifest).collect();
        let (owners, noted) = (Arc::clone(&self.owners), owner.clone());
        let owners = self.means.node.disk().run(move || owners.note(manifest, noted, &ids)).await??;
        let user = uid.map(|uid| (format!("user {uid}"), Some(uid), None));
        let publisher = (!owner.publisher.is_empty())
            .then(|| (format!("publisher {}", owner.publisher), None, Some(owner.publisher.clone())));
        for (who, uid, publisher) in user.into_iter().chain(publisher) {
            let theirs = |entry: &&Held| {
                owners.get(&entry.manifest).is_some_and(|owner| {
                    entry.manifest != manifest
                        && (uid.is_some() && owner.uid == uid || publisher.as_ref() == Some(&owner.publisher))
                })
            };
            let mut theirs: Vec<Held> = held.iter().filter(theirs).copied().collect();
            theirs.sort_by_key(|entry| entry.used);
            let mut taken = theirs.iter().fold(total, |sum, entry| sum.saturating_add(entry.bytes));
            let could_go = theirs.iter().filter(|entry| !entry.stays).map(|entry| entry.bytes).sum::<u64>();
            if taken.saturating_sub(could_go) <= quota {
                for entry in theirs.iter().filter(|entry| !entry.stays) {
                    if taken > quota && self.remove(entry.manifest).await? {
                        taken = taken.saturating_sub(entry.bytes);
                        let why = format!("user_quota of {who}: {} bytes", entry.bytes);
                        self.means.journal.note(Deed::Evicted, &entry.manifest.to_string(), &why, None);
                    }
                }
            }
            if taken > quota {
                let message = format!("{taken} bytes of the cache would be those of {who}, user_quota is {quota}");
                return Err(Failure::new(Code::DiskFull, message)
                    .remedy("remove or unpin contents of the cache, or raise the quota"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_read_as_they_were_written_and_nonsense_is_left_out() {
        let id = |byte| ManifestId::new([byte; 32]);
        let owners = BTreeMap::from([
            (id(1), Owner { uid: Some(1000), publisher: "acme tools".into() }),
            (id(2), Owner { uid: None, publisher: String::new() }),
        ]);
        assert_eq!(parse(&write(&owners)), owners);
        assert!(parse("x 1 y\n\n1 2\n").is_empty());
    }
}
