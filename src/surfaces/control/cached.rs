//! The cache as it is asked for and looked after: listed, pinned, removed, checked; and the journal of what was done.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use crate::content::code::Code;
use crate::content::hash::ManifestId;
use crate::programs::peer::{Failure, Removal};
use crate::surfaces::control::access::Connection;
use crate::surfaces::control::routes::{Api, failed, refusal};
use crate::surfaces::control::view::{CachePage, CacheRow};

/// Entries of the cache on one page.
const PAGE_MAX: usize = 500;
/// Records of the journal where nobody says how many.
const RECORDS: usize = 100;

/// One value of a query, if it has one of this name; `Err` where it does not parse.
fn asked<T: std::str::FromStr>(query: Option<&str>, name: &str) -> Result<Option<T>, ()> {
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let Some((_, value)) = pairs.into_iter().find(|(key, _)| key == name) else { return Ok(None) };
    value.parse().map(Some).map_err(|_| ())
}

fn manifest(text: &str) -> Result<ManifestId, Response> {
    text.parse().map_err(|_| refusal(StatusCode::BAD_REQUEST, Code::Usage, "a manifest id is 64 hex digits"))
}

fn unknown(manifest: ManifestId) -> Response {
    let message = format!("the cache has no entry {manifest}");
    refusal(StatusCode::NOT_FOUND, Code::InputMissing, message)
}

fn in_use() -> Response {
    refusal(StatusCode::CONFLICT, Code::Locked, "a download wants it: cancel that first")
}

pub(super) async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Response {
    let Ok(after) = asked::<ManifestId>(query.as_deref(), "after") else {
        return refusal(StatusCode::BAD_REQUEST, Code::Usage, "after is a manifest id, 64 hex digits");
    };
    let cache = std::sync::Arc::clone(&api.daemon.cache);
    let listed = api.daemon.node.disk().run(move || {
        let mut ids = cache.ids()?;
        ids.sort_unstable();
        ids.retain(|id| after.is_none_or(|after| *id > after));
        let more = ids.len() > PAGE_MAX;
        ids.truncate(PAGE_MAX);
        let next = ids.last().filter(|_| more).map(ToString::to_string);
        let row = |id: &ManifestId| CacheRow {
            pinned: cache.is_pinned(*id),
            last_used: cache.last_used(*id).as_secs(),
            ..CacheRow::new(id.to_string(), cache.describe(*id))
        };
        let entries = ids.iter().map(row).collect();
        Ok::<_, crate::drivers::store::Error>(CachePage { entries, next })
    });
    match listed.await {
        Ok(Ok(page)) => Json(page).into_response(),
        Ok(Err(error)) | Err(error) => failed(&Failure::from(error)),
    }
}

pub(super) async fn pin(state: State<Api>, caller: ConnectInfo<Connection>, path: Path<String>) -> Response {
    pinned(state, caller, path, true).await
}

pub(super) async fn unpin(state: State<Api>, caller: ConnectInfo<Connection>, path: Path<String>) -> Response {
    pinned(state, caller, path, false).await
}

async fn pinned(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Connection>,
    Path(text): Path<String>,
    pinned: bool,
) -> Response {
    let manifest = match manifest(&text) {
        Ok(manifest) => manifest,
        Err(refused) => return refused,
    };
    match api.daemon.downloads.pin(manifest, pinned, caller.caller.uid()).await {
        Ok(true) => Json(json!({ "manifest_id": manifest.to_string(), "pinned": pinned })).into_response(),
        Ok(false) => unknown(manifest),
        Err(failure) => failed(&failure),
    }
}

pub(super) async fn remove(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Connection>,
    Path(text): Path<String>,
) -> Response {
    let manifest = match manifest(&text) {
        Ok(manifest) => manifest,
        Err(refused) => return refused,
    };
    match api.daemon.downloads.remove(manifest, caller.caller.uid()).await {
        Ok(Removal::Gone) => gone(&[manifest]),
        Ok(Removal::Unknown) => unknown(manifest),
        Ok(Removal::InUse) => in_use(),
        Err(failure) => failed(&failure),
    }
}

fn gone(manifests: &[ManifestId]) -> Response {
    Json(json!({ "removed": manifests.iter().map(ToString::to_string).collect::<Vec<_>>() })).into_response()
}

pub(super) async fn clear(State(api): State<Api>, ConnectInfo(caller): ConnectInfo<Connection>) -> Response {
    match api.daemon.downloads.clear(caller.caller.uid()).await {
        Ok(manifests) => gone(&manifests),
        Err(failure) => failed(&failure),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpireBody {
    /// Instead of policy's `max_cache_age`.
    unused_seconds: Option<u64>,
}

pub(super) async fn expire(State(api): State<Api>, body: Result<Json<ExpireBody>, JsonRejection>) -> Response {
    let body = match body {
        Ok(Json(body)) => body,
        Err(wrong) => return refusal(wrong.status(), Code::Usage, wrong.body_text()),
    };
    match api.daemon.downloads.expire(body.unused_seconds).await {
        Ok(manifests) => gone(&manifests),
        Err(failure) => failed(&failure),
    }
}

pub(super) async fn verify(State(api): State<Api>, Path(text): Path<String>) -> Response {
    let manifest = match manifest(&text) {
        Ok(manifest) => manifest,
        Err(refused) => return refused,
    };
    match api.daemon.downloads.check(manifest).await {
        Ok(Some(check)) => Json(json!({
            "manifest_id": manifest.to_string(),
            "pieces_held": check.held_count,
            "wrong_pieces": check.wrong.iter().map(|piece| piece.0).collect::<Vec<_>>(),
            "whole": check.whole,
        }))
        .into_response(),
        Ok(None) if api.daemon.cache.ids().is_ok_and(|ids| ids.contains(&manifest)) => in_use(),
        Ok(None) => unknown(manifest),
        Err(failure) => failed(&failure),
    }
}

pub(super) async fn log(State(api): State<Api>, RawQuery(query): RawQuery) -> Response {
    let Ok(count) = asked::<usize>(query.as_deref(), "count") else {
        return refusal(StatusCode::BAD_REQUEST, Code::Usage, "count is a number");
    };
    let (downloads, count) = (api.daemon.downloads.clone(), count.unwrap_or(RECORDS));
    match api.daemon.node.disk().run(move || downloads.journal().newest(count)).await {
        Ok(records) => Json(records).into_response(),
        Err(error) => failed(&Failure::from(error)),
    }
}
