//! Waiting for a download: it is wanted as long as the connection that asked for it stands, which tells how it goes; the
//! contents are then passed on as open files.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use futures_util::stream::unfold;
use serde::Deserialize;
use serde_json::json;

use crate::content::code::Code;
use crate::content::hash::{ContentId, ManifestId};
use crate::programs::peer::downloads::{Order, Priority, Standing};
use crate::programs::peer::{Failure, Hold, Wanted};
use crate::services::node::PeerAddress;
use crate::surfaces::control::access::Connection;
use crate::surfaces::control::routes::{Api, failed, no_download, number as parse_number, refusal};
use crate::surfaces::control::view::Download;

/// Longest body: an envelope of 12 MiB, which lists a file of 384 GiB. One is read at a time.
const BODY_BYTES_MAX: usize = 16 << 20;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Peers that one request may name.
const PEERS_MAX: usize = 32;
/// How often at most it is told how a download goes.
const EVERY: Duration = Duration::from_millis(100);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HoldBody {
    /// A link or URL; else there is an envelope.
    wanted: Option<String>,
    /// A manifest's envelope, base64.
    envelope: Option<String>,
    #[serde(default)]
    peers: Vec<String>,
    #[serde(default)]
    background: bool,
    /// When it should be there, in seconds.
    within: Option<u32>,
}

/// What to fetch, as a caller names it: a path would be opened with the daemon's rights, not the caller's.
pub(super) fn wanted(text: &str) -> Result<Wanted, Failure> {
    match Wanted::parse(text)? {
        Wanted::File(_) => Err(Failure::new(Code::Usage, "name a link or a URL; paths are not opened for others")),
        wanted => Ok(wanted),
    }
}

impl HoldBody {
    fn order(self, caller: &Connection, own: u32) -> Result<Order, Failure> {
        let bad = |message: &str| Failure::new(Code::Usage, message);
        let wanted = match (&self.wanted, &self.envelope) {
            (Some(text), None) => wanted(text)?,
            (None, Some(text)) => {
                let bytes = BASE64.decode(text.as_bytes()).map_err(|_| bad("the envelope is not base64"))?;
                Wanted::Envelope(bytes.into())
            }
            _ => return Err(bad("name either what is wanted or an envelope")),
        };
        if self.peers.len() > PEERS_MAX {
            return Err(bad("at most 32 peers"));
        }
        let peers = self.peers.iter().map(|peer| peer.parse::<PeerAddress>()).collect::<Result<_, _>>()?;
        let priority = if self.background { Priority::Background } else { Priority::Foreground };
        let (uid, owner) = (caller.caller.uid(), caller.caller.is_owner(own));
        let within = self.within.map(|seconds| Duration::from_secs(seconds.into()));
        Ok(Order { wanted, peers, priority, within, uid, owner })
    }
}

/// Reads a bounded JSON body, one at a time, so that callers cannot fill the memory together.
async fn read(api: &Api, request: Request) -> Result<HoldBody, Response> {
    let kind = request.headers().get(header::CONTENT_TYPE).map(header::HeaderValue::as_bytes);
    if kind != Some(b"application/json") {
        let message = "the body is to be application/json";
        return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::Usage, message));
    }
    let _turn = api.body_turn.lock().await;
    let read = tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX)).await;
    let bytes: Bytes = match read {
        Err(_) => return Err(refusal(StatusCode::REQUEST_TIMEOUT, Code::Protocol, "the body did not come in time")),
        Ok(Err(error)) => {
            return Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceRefused, error.to_string()));
        }
        Ok(Ok(bytes)) => bytes,
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| refusal(StatusCode::UNPROCESSABLE_ENTITY, Code::Usage, error.to_string()))
}

/// Begins to have something, for as long as the answer is read.
pub(super) async fn hold(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Connection>,
    request: Request<Body>,
) -> Response {
    let body = match read(&api, request).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let hold = body.order(&caller, api.own_uid).and_then(|order| api.daemon.downloads.hold(order));
    match hold {
        Ok(hold) => Sse::new(unfold((hold, true), step)).keep_alive(KeepAlive::default()).into_response(),
        Err(failure) => failed(&failure),
    }
}

/// How it goes, now and each time that it has changed.
async fn step((mut hold, first): (Hold, bool)) -> Option<(Result<Event, Infallible>, (Hold, bool))> {
    if !first {
        hold.changed().await;
        tokio::time::sleep(EVERY).await;
    }
    let told = serde_json::to_string(&Download::from(hold.report()?)).unwrap_or_default();
    Some((Ok(Event::default().event("download").data(told)), (hold, false)))
}

/// The manifest of a download that this caller may have the contents of.
fn theirs(api: &Api, caller: &Connection, number: &str) -> Result<(u64, Option<ManifestId>, bool), Response> {
    let number = parse_number(number)?;
    let found = api.daemon.downloads.find(number).ok_or_else(|| no_download(number))?;
    let own = caller.caller.is_owner(api.own_uid) || api.daemon.downloads.is_wanted_by(number, caller.caller.uid());
    if !own {
        let message = "another user's download; its contents are for those who want it";
        return Err(refusal(StatusCode::FORBIDDEN, Code::Policy, message));
    }
    let whole = |standing: &Standing| *standing == Standing::Complete;
    let complete = match found.standing {
        Standing::SharedWith(other) => api.daemon.downloads.find(other).is_some_and(|other| whole(&other.standing)),
        standing => whole(&standing),
    };
    Ok((number, found.manifest.map(|(manifest, _)| manifest), complete))
}

/// The envelope of a download's manifest.
pub(super) async fn envelope(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Connection>,
    Path(number): Path<String>,
) -> Response {
    let (number, manifest) = match theirs(&api, &caller, &number) {
        Ok((number, Some(manifest), _)) => (number, manifest),
        Ok((number, None, _)) => return unknown_yet(number),
        Err(refused) => return refused,
    };
    let cache = std::sync::Arc::clone(&api.daemon.cache);
    match api.daemon.node.disk().run(move || cache.envelope(manifest)).await {
        Ok(Some(envelope)) => {
            Json(json!({ "manifest_id": manifest.to_string(), "envelope": BASE64.encode(&envelope) })).into_response()
        }
        Ok(None) => unknown_yet(number),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, error.code(), error.to_string()),
    }
}

fn unknown_yet(number: u64) -> Response {
    let message = format!("the manifest of download {number} is not in the cache yet");
    refusal(StatusCode::CONFLICT, Code::InputMissing, message)
}

/// One content of a download that is whole, as an open file that goes along with the answer.
pub(super) async fn content(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Connection>,
    Path((number, content)): Path<(String, String)>,
) -> Response {
    let Some(outgoing) = &caller.outgoing else {
        return refusal(StatusCode::BAD_REQUEST, Code::Usage, "open files travel over the unix socket alone");
    };
    let Ok(content) = content.parse::<ContentId>() else {
        return refusal(StatusCode::BAD_REQUEST, Code::Usage, "a content id is 64 hex digits");
    };
    let manifest = match theirs(&api, &caller, &number) {
        Ok((_, Some(manifest), true)) => manifest,
        Ok((number, ..)) => {
            let message = format!("download {number} is not whole yet");
            return refusal(StatusCode::CONFLICT, Code::InputMissing, message);
        }
        Err(refused) => return refused,
    };
    let cache = std::sync::Arc::clone(&api.daemon.cache);
    match api.daemon.node.disk().run(move || cache.open_content(manifest, content)).await {
        Ok(Ok(Some(file))) => {
            outgoing.pass(file.into());
            Json(json!({ "content_id": content.to_string() })).into_response()
        }
        Ok(Ok(None)) => refusal(StatusCode::NOT_FOUND, Code::InputMissing, "the download has no such content"),
        Ok(Err(error)) | Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, error.code(), error.to_string()),
    }
}
