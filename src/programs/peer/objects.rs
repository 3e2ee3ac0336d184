//! Contents that lie in object storage: buckets are listed, their manifests are judged, and what they list is offered to
//! peers as if it were here. Opened, and fetched, they are by `remote`, when a peer asks. So a set may be far larger than
//! this machine's disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::content::hash::{ContentId, ManifestId};
use crate::content::trust::TrustStore;
use crate::drivers::sources::{Bucket, Client, Error, Gate, Object, Options, Signer};
use crate::programs::peer::Failure;
use crate::programs::peer::appliance::Shelf;
use crate::programs::peer::downloads::Downloads;
use crate::programs::peer::journal::Deed;
use crate::programs::peer::remote::{self, Offered, Remote};
use crate::programs::peer::resolve::{ENVELOPE_BYTES_MAX, judge};

/// What the key of a manifest ends with.
const ENDING: &str = ".piecework";
/// A bucket in which something failed is looked at again after this, or after the interval where that is shorter.
const RETRY: Duration = Duration::from_secs(60);
/// How often it is looked at what is being fetched from buckets, while anything is.
const TEND_EVERY: Duration = Duration::from_secs(1);
/// Manifests that are fetched at one time; the client opens fewer connections.
const AT_ONCE: usize = 16;
/// A manifest longer than this is fetched with no other beside it: some of the longest would be much memory.
const SMALL_BYTES_MAX: u64 = 1 << 20;
/// Files of all manifests of all buckets; each costs the memory of some 200 bytes.
const FILES_MAX: usize = 1_000_000;

/// What policy says of buckets.
#[derive(Clone)]
pub struct Request {
    /// Each as `https://HOST/BUCKET/PREFIX`.
    pub buckets: Vec<String>,
    /// What requests are signed for.
    pub region: String,
    /// Access key and secret; `None`: requests are not signed.
    pub key: Option<(String, zeroize::Zeroizing<String>)>,
    /// How long until they are listed again.
    pub interval: Duration,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The secret is not shown.
        f.debug_struct("Request").field("buckets", &self.buckets).field("region", &self.region).finish_non_exhaustive()
    }
}

/// How a bucket is asked.
pub(super) struct Way {
    pub(super) bucket: Bucket,
    signer: Option<Arc<Signer>>,
}

impl Way {
    /// A client for this bucket alone, wherever it lies: whoever configured it meant it.
    pub(super) fn client(&self) -> Client {
        let mut gate = Gate::default();
        gate.give(self.bucket.root());
        Client::new(Options { gate, signer: self.signer.clone(), ..Options::default() })
    }
}

/// One bucket as it was seen last.
struct Watched {
    way: Arc<Way>,
    client: Client,
    /// By key: the tag of then, and what came of it.
    seen: BTreeMap<String, (String, Result<ManifestId, String>)>,
    /// Who was believed then.
    trust: Arc<TrustStore>,
    /// What went wrong at the last look.
    trouble: Option<String>,
    /// Objects that are not looked at.
    left_out: Option<String>,
}

/// The buckets of one appliance.
pub(super) struct Objects {
    downloads: Downloads,
    watched: Vec<Watched>,
    interval: Duration,
    remote: Arc<Remote>,
    place: usize,
    shelf: Arc<Mutex<Shelf>>,
}

impl Objects {
    /// Reads what policy names.
    ///
    /// # Errors
    /// A URL that names no bucket.
    pub(super) fn new(request: Request, downloads: &Downloads, shelf: Arc<Mutex<Shelf>>) -> Result<Self, Failure> {
        let trust = downloads.shared.trust();
        let mut watched = Vec::new();
        for url in &request.buckets {
            let bucket = Bucket::new(url)?;
            let key = request.key.as_ref();
            let signer = key.and_then(|(access, secret)| Signer::new(bucket.root(), &request.region, access, secret));
            let way = Arc::new(Way { bucket, signer: signer.map(Arc::new) });
            let (client, trust) = (way.client(), Arc::clone(&trust));
            watched.push(Watched { way, client, seen: BTreeMap::new(), trust, trouble: None, left_out: None });
        }
        let remote = Arc::<Remote>::default();
        let place = downloads.shared.means.node.keep_remote(remote::opener(&remote, &downloads.shared));
        Ok(Self { downloads: downloads.clone(), watched, interval: request.interval, remote, place, shelf })
    }

    /// Lists again and again, and tends what is open, as long as the daemon lives.
    pub(super) async fn keep(mut self) {
        let mut paused = self.downloads.shared.paused.subscribe();
        let mut terms = self.downloads.shared.terms_changed.subscribe();
        loop {
            for number in 0..self.watched.len() {
                self.look(number).await;
            }
            let failed = self.watched.iter().any(|watched| watched.trouble.is_some());
            let again = tokio::time::sleep(if failed { RETRY.min(self.interval) } else { self.interval });
            tokio::pin!(again);
            loop {
                let busy = self.remote.tend(&self.downloads.shared).await;
                self.show().await;
                tokio::select! {
                    () = &mut again => break,
                    () = self.remote.news.notified() => {}
                    () = tokio::time::sleep(TEND_EVERY), if busy => {}
                    changed = paused.changed() => if changed.is_err() { return },
                    // With a reload others may be believed.
                    changed = terms.changed() => match changed {
                        Ok(()) if self.is_believed_as_before() => {}
                        Ok(()) => break,
                        Err(_) => return,
                    },
                }
            }
        }
    }

    fn is_believed_as_before(&self) -> bool {
        let trust = self.downloads.shared.trust();
        self.watched.iter().all(|watched| Arc::ptr_eq(&watched.trust, &trust))
    }

    async fn look(&mut self, number: usize) {
        let Some(watched) = self.watched.get_mut(number) else { return };
        let listing = match watched.way.bucket.list(&watched.client, ENDING).await {
            Ok(listing) => listing,
            Err(error) => {
                tracing::warn!(bucket = %watched.way.bucket.root(), %error, "a bucket cannot be listed");
                watched.trouble = Some(error.to_string());
                return;
            }
        };
        watched.trouble = None;
        watched.left_out = match (listing.left_out, listing.cut) {
            (0, false) => None,
            (0, true) => Some(format!("it holds more objects than are looked at ({})", listing.objects.len())),
            (count, _) => Some(format!("{count} objects have a key that is no path, or no tag")),
        };
        let trust = self.downloads.shared.trust();
        let tags: BTreeMap<&str, &str> =
            listing.objects.iter().map(|object| (object.key.as_str(), object.tag.as_str())).collect();
        let same_trust = Arc::ptr_eq(&trust, &watched.trust);
        watched.trust = Arc::clone(&trust);
        watched.seen.retain(|key, (tag, _)| same_trust && tags.get(key.as_str()) == Some(&tag.as_str()));
        let fresh: Vec<Object> =
            listing.objects.iter().filter(|object| !watched.seen.contains_key(&object.key)).cloned().collect();
        for objects in fresh.chunks(AT_ONCE) {
            if !self.take(number, objects, &trust).await {
                break;
            }
            self.show().await;
        }
        self.forget_lost().await;
    }

    /// Judges manifests; `false` where the bucket has failed, so that the rest is not worth asking for now.
    async fn take(&mut self, number: usize, objects: &[Object], trust: &TrustStore) -> bool {
        let Some(watched) = self.watched.get_mut(number) else { return false };
        let (state, alone) = (&self.downloads.shared.means.state, &tokio::sync::Mutex::new(()));
        let judged = objects.iter().map(|object| {
            let (way, client) = (&watched.way, &watched.client);
            async move {
                let url = way.bucket.url_of(&object.key);
                let (bytes, _alone) = match client.fetch_small(&url, SMALL_BYTES_MAX).await {
                    Err(Error::TooLarge { .. }) => {
                        let alone = alone.lock().await;
                        (client.fetch_small(&url, ENVELOPE_BYTES_MAX).await?, Some(alone))
                    }
                    small => (small?, None),
                };
                // Whoever put it there named this very one: an older one counts too.
                let judged = judge(&bytes, &url, trust, state, true);
                Ok::<_, Error>(judged.map(|judged| offered(way, &object.key, &judged.manifest)))
            }
        });
        let judged = futures_util::future::join_all(judged).await;
        let mut goes_on = true;
        for (object, judged) in objects.iter().zip(judged) {
            let url = watched.way.bucket.url_of(&object.key);
            let came = match judged {
                // It may be there at the next look.
                Err(error) => {
                    tracing::warn!(url, %error, "a manifest in a bucket cannot be read");
                    watched.trouble = Some(error.to_string());
                    goes_on &= !error.retry();
                    continue;
                }
                Ok(Ok((id, offered))) => self.remote.offer(id, offered, FILES_MAX).map(|()| id),
                Ok(Err(failure)) => Err(failure),
            };
            let came = came.map_err(|failure| {
                tracing::warn!(url, reason = %failure, "a manifest in a bucket is refused");
                self.downloads.journal().note(Deed::Refused, &url, &failure.to_string(), None);
                failure.to_string()
            });
            if let Ok(id) = came {
                let contents = self.remote.contents(&id);
                self.downloads.shared.means.node.offer(self.place, [(id, contents)]);
            }
            watched.seen.insert(object.key.clone(), (object.tag.clone(), came));
        }
        goes_on
    }

    /// What no bucket has any more is offered from the cache alone.
    async fn forget_lost(&self) {
        let seen = self.watched.iter().flat_map(|watched| watched.seen.values());
        let held: BTreeSet<ManifestId> = seen.filter_map(|(_, came)| came.as_ref().ok().copied()).collect();
        for manifest in self.remote.keep_only(&held) {
            self.downloads.shared.means.node.forget_remote(&manifest);
            if let Err(failure) = self.downloads.shared.withdraw(manifest).await {
                tracing::warn!(reason = %failure, "the cache cannot be looked at");
            }
        }
    }

    /// Tells how it stands, for whoever looks.
    async fn show(&self) {
        let mut shelf = Shelf::default();
        let troubles = self.remote.troubles(&self.downloads.shared).await;
        for watched in &self.watched {
            let root = PathBuf::from(watched.way.bucket.root().as_str());
            for trouble in watched.trouble.iter().chain(&watched.left_out) {
                shelf.refuse(root.clone(), trouble);
            }
            for (key, (_, came)) in &watched.seen {
                let reason = match came {
                    Ok(id) => troubles.get(id),
                    Err(reason) => Some(reason),
                };
                match reason {
                    Some(reason) => shelf.refuse(watched.way.bucket.url_of(key).into(), reason),
                    None => shelf.served_count = shelf.served_count.saturating_add(1),
                }
            }
        }
        *self.shelf.lock().unwrap_or_else(PoisonError::into_inner) = shelf;
    }
}

/// What is kept of a manifest that is believed.
fn offered(way: &Arc<Way>, key: &str, manifest: &crate::content::manifest::Manifest) -> (ManifestId, Offered) {
    let mut content = way.bucket.url_of(key.strip_suffix(ENDING).unwrap_or(key));
    if manifest.is_directory() {
        content.push('/');
    }
    let contents: Vec<ContentId> = manifest.files().iter().map(|file| file.content_id).collect();
    let bytes = manifest.layout().total_bytes();
    let url = way.bucket.url_of(key);
    (manifest.id(), Offered { way: Arc::clone(way), url, content, bytes, contents: contents.into() })
}
