//! Server-sent events: the status, each time something has changed, at most twice a second (WHATWG HTML, "Server-sent
//! events").

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;

use crate::surfaces::control::routes::Api;

/// How often it is looked whether something has changed.
const EVERY: Duration = Duration::from_millis(500);

pub(super) fn stream(api: Api) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let events = unfold((api, String::new()), |(api, last)| async move {
        let mut first = last.is_empty();
        loop {
            if !std::mem::take(&mut first) {
                tokio::time::sleep(EVERY).await;
            }
            let mut status = api.status();
            // Time passes even where nothing happens.
            status.uptime_seconds = 0;
            let now = serde_json::to_string(&status).unwrap_or_default();
            if now != last {
                return Some((Ok(Event::default().event("status").data(&now)), (api, now)));
            }
        }
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}
