//! Server-sent events: the status, each time something has changed, at most twice a second (WHATWG HTML, "Server-sent
//! events"). While nothing moves and nobody is connected, nothing wakes up.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::watch;

use crate::surfaces::control::routes::Api;

/// How often at most the status is told, and looked at while bytes may move.
const EVERY: Duration = Duration::from_millis(500);

struct Follower {
    api: Api,
    last: String,
    downloads: watch::Receiver<u64>,
    peers: watch::Receiver<u64>,
}

impl Follower {
    /// The status, once it is another than before.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if !self.last.is_empty() {
                self.wait().await;
            }
            let mut status = self.api.status();
            // Time passes even where nothing happens.
            status.uptime_seconds = 0;
            let now = serde_json::to_string(&status).unwrap_or_default();
            if now != self.last {
                self.last.clone_from(&now);
                return Some((Ok(Event::default().event("status").data(now)), self));
            }
        }
    }

    async fn wait(&mut self) {
        tokio::time::sleep(EVERY).await;
        let daemon = &self.api.daemon;
        if daemon.node.peer_count() > 0 || daemon.downloads.any_active() {
            return;
        }
        tokio::select! {
            _ = self.downloads.changed() => {}
            _ = self.peers.changed() => {}
        }
    }
}

pub(super) fn stream(api: Api) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let (downloads, peers) = (api.daemon.downloads.changes(), api.daemon.node.peer_changes());
    let follower = Follower { api, last: String::new(), downloads, peers };
    Sse::new(unfold(follower, Follower::next)).keep_alive(KeepAlive::default())
}
