//! A wish for a download that lasts as long as somebody holds on to it.

use std::sync::Arc;

use tokio::sync::watch;

use crate::programs::peer::downloads::{DownloadReport, Shared, Standing};
use crate::services::node::progress::Phase;

/// A wish that ends when it is dropped; the download ends with the last one.
pub struct Hold {
    pub(super) shared: Arc<Shared>,
    pub(super) number: u64,
    pub(super) claim: u64,
    pub(super) changes: watch::Receiver<u64>,
}

impl Hold {
    /// The number of its download.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How it goes; of the download that fetches for it, where that is another. `None` once somebody ended it.
    pub fn report(&self) -> Option<DownloadReport> {
        let table = self.shared.table();
        let own = table.entries.get(&self.number)?.report(self.number);
        match own.standing {
            Standing::SharedWith(other) => {
                let fetching = table.entries.get(&other).map(|entry| entry.report(other));
                // Its own number, by which the result is asked for.
                Some(fetching.map_or(own, |report| DownloadReport { number: self.number, ..report }))
            }
            _ => Some(own),
        }
    }

    /// Completes when there is something new to report.
    pub async fn changed(&mut self) {
        let progress = {
            let table = self.shared.table();
            let fetches = match table.entries.get(&self.number).map(|entry| &entry.standing) {
                Some(Standing::SharedWith(other)) => *other,
                _ => self.number,
            };
            let progress = table.entries.get(&fetches).and_then(|entry| entry.progress.clone());
            progress.filter(|progress| progress.borrow().phase == Phase::Downloading)
        };
        let moved = async {
            match progress {
                Some(mut progress) => {
                    progress.mark_unchanged();
                    // One that ends says so by its standing.
                    if progress.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = moved => {}
            _ = self.changes.changed() => {}
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        {
            let mut table = self.shared.table();
            let Some(entry) = table.entries.get_mut(&self.number) else { return };
            entry.claims.retain(|claim| claim.id != self.claim);
            if entry.claims.is_empty() {
                // Its task commits what it has and ends by itself.
                table.end(self.number);
            }
        }
        self.shared.changed();
    }
}
