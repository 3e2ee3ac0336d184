//! What there is to ask, and who may. The table [`ROUTES`] is the API: the router is made from it, so a route that is not
//! in it does not exist, and none escapes the question of who calls.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use crate::content::code::Code;
use crate::drivers::machine::process;
use crate::programs::peer::Failure;
use crate::programs::peer::downloads::{Cancelled, Order, Priority};
use crate::programs::peer::keep::Daemon;
use crate::surfaces::control::access::{Connection, Right};
use crate::surfaces::control::socket::Socket;
use crate::surfaces::control::steer::{self, WISHES_MAX, Wish};
use crate::surfaces::control::tcp::{Door, Entry};
use crate::surfaces::control::view::{
    ApplianceView, ConfigRow, DiagnosisView, Download, GateView, Peer, Perf, PiecesView, RatesView, Refusal,
    SavingsView, Status,
};
use crate::surfaces::control::{cached, events, holds};

/// The description of this API, OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("openapi.json");
/// Longest body of a request; the longest thing asked for is a link.
const BODY_BYTES_MAX: usize = 64 << 10;

/// One thing that can be asked.
pub struct Route {
    /// HTTP method.
    pub method: &'static str,
    /// Path, as OpenAPI writes it.
    pub path: &'static str,
    /// Who may.
    pub right: Right,
    handler: fn() -> MethodRouter<Api>,
}

/// Everything that can be asked.
pub const ROUTES: &[Route] = &[
    Route { method: "get", path: "/v1/status", right: Right::Look, handler: || get(status) },
    Route { method: "get", path: "/v1/downloads", right: Right::Look, handler: || get(downloads) },
    Route { method: "post", path: "/v1/downloads", right: Right::Member, handler: || post(start) },
    Route { method: "get", path: "/v1/downloads/{number}", right: Right::Look, handler: || get(download) },
    Route { method: "delete", path: "/v1/downloads/{number}", right: Right::Member, handler: || delete(cancel) },
    Route {
        method: "get",
        path: "/v1/downloads/{number}/manifest",
        right: Right::Member,
        handler: || get(holds::envelope),
    },
    Route {
        method: "get",
        path: "/v1/downloads/{number}/contents/{content}",
        right: Right::Member,
        handler: || get(holds::content),
    },
    Route { method: "post", path: "/v1/holds", right: Right::Member, handler: || post(holds::hold) },
    Route { method: "get", path: "/v1/peers", right: Right::Look, handler: || get(peers) },
    Route { method: "get", path: "/v1/downloads/{number}/pieces", right: Right::Look, handler: || get(pieces) },
    Route { method: "get", path: "/v1/rates", right: Right::Look, handler: || get(rates) },
    Route { method: "get", path: "/v1/perf", right: Right::Look, handler: || get(perf) },
    Route { method: "get", path: "/v1/cache", right: Right::Look, handler: || get(cached::list) },
    Route { method: "delete", path: "/v1/cache", right: Right::Owner, handler: || delete(cached::clear) },
    Route { method: "post", path: "/v1/cache/expire", right: Right::Owner, handler: || post(cached::expire) },
    Route { method: "delete", path: "/v1/cache/{manifest}", right: Right::Owner, handler: || delete(cached::remove) },
    Route { method: "post", path: "/v1/cache/{manifest}/pin", right: Right::Owner, handler: || post(cached::pin) },
    Route {
        method: "delete",
        path: "/v1/cache/{manifest}/pin",
        right: Right::Owner,
        handler: || delete(cached::unpin),
    },
    Route {
        method: "post",
        path: "/v1/cache/{manifest}/verify",
        right: Right::Owner,
        handler: || post(cached::verify),
    },
    Route { method: "post", path: "/v1/dashboard", right: Right::Member, handler: || post(dashboard) },
    Route { method: "get", path: "/v1/log", right: Right::Look, handler: || get(cached::log) },
    Route { method: "get", path: "/v1/diagnosis", right: Right::Look, handler: || get(diagnosis) },
    Route { method: "get", path: "/v1/config", right: Right::Look, handler: || get(config) },
    Route { method: "get", path: "/v1/events", right: Right::Look, handler: || get(follow) },
    Route { method: "get", path: "/v1/openapi.json", right: Right::Look, handler: || get(openapi) },
    Route { method: "get", path: "/v1/mode", right: Right::Look, handler: || get(steer::mode) },
    Route { method: "post", path: "/v1/mode", right: Right::Owner, handler: || post(steer::set) },
    Route { method: "delete", path: "/v1/mode", right: Right::Owner, handler: || delete(steer::reset) },
    Route { method: "post", path: "/v1/pause", right: Right::Owner, handler: || post(pause) },
    Route { method: "post", path: "/v1/resume", right: Right::Owner, handler: || post(resume) },
    Route { method: "post", path: "/v1/sleep", right: Right::Owner, handler: || post(sleep) },
    Route { method: "post", path: "/v1/wake", right: Right::Owner, handler: || post(wake) },
];

/// What handlers are given.
#[derive(Clone)]
pub struct Api {
    pub(super) daemon: Daemon,
    config: Arc<Mutex<Vec<ConfigRow>>>,
    /// The daemon's own user.
    pub(super) own_uid: u32,
    /// Where wishes for another mode go.
    pub(super) wishes: mpsc::Sender<Wish>,
    /// Held while a long body is read.
    pub(super) body_turn: Arc<tokio::sync::Mutex<()>>,
    /// Where browsers come in.
    door: Option<Entry>,
}

impl Api {
    /// The API of a daemon, and what is wished of it; `config` are its policies as key, value and provider.
    pub fn new(
        daemon: Daemon,
        config: impl IntoIterator<Item = (String, String, String)>,
    ) -> (Self, mpsc::Receiver<Wish>) {
        let rows = rows(config);
        let own_uid = rustix::process::geteuid().as_raw();
        let (wishes, wished) = mpsc::channel(WISHES_MAX);
        let (config, body_turn) = (Arc::new(Mutex::new(rows)), Arc::default());
        (Self { daemon, config, own_uid, wishes, body_turn, door: None }, wished)
    }

    /// The same, and it invites browsers to this door.
    pub fn with_door(mut self, door: &Door) -> Self {
        self.door = Some(door.entry());
        self
    }

    /// Who set a policy, by its path.
    pub(super) fn provider(&self, key: &str) -> String {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        config.iter().find(|row| row.key == key).map(|row| row.provider.clone()).unwrap_or_default()
    }

    /// Shows these policies from now on.
    pub fn configured(&self, config: impl IntoIterator<Item = (String, String, String)>) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = rows(config);
    }

    pub(super) fn status(&self) -> Status {
        let node = &self.daemon.node;
        Status {
            version: env!("CARGO_PKG_VERSION"),
            mode: self.daemon.gates.mode().to_string(),
            paused: self.daemon.downloads.is_paused(),
            gates: {
                let shut = self.daemon.gates.verdict().gates.into_iter().map(GateView::from);
                let node_gates = [node.is_isolated().then(GateView::isolated), node.is_asleep().then(GateView::asleep)];
                shut.chain(node_gates.into_iter().flatten()).collect()
            },
            cache_hosts: self.daemon.cache_hosts(),
            uptime_seconds: self.daemon.started.elapsed().as_secs(),
            peer_id: node.peer_id().to_string(),
            listening: node.listening().iter().map(ToString::to_string).collect(),
            peer_count: node.peer_count(),
            line_shared_by: node.line_shared_by(),
            totals: node.totals().into(),
            downloads: self.daemon.downloads.list().into_iter().map(Download::from).collect(),
            appliance: self.daemon.appliance.as_ref().map(ApplianceView::from),
        }
    }

    pub(super) fn router(self) -> Router {
        let mut router = Router::new();
        for route in ROUTES {
            let (right, own) = (route.right, self.own_uid);
            let guard = middleware::from_fn(
                move |ConnectInfo(caller): ConnectInfo<Connection>, request: Request, next: Next| async move {
                    match refuse_caller(caller.caller, right, own, &request) {
                        Some(refusal) => refusal,
                        None => next.run(request).await,
                    }
                },
            );
            router = router.route(route.path, (route.handler)().layer(guard));
        }
        router.fallback(unknown).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(self)
    }
}

fn rows(config: impl IntoIterator<Item = (String, String, String)>) -> Vec<ConfigRow> {
    config.into_iter().map(|(key, value, provider)| ConfigRow { key, value, provider }).collect()
}

/// Serves the API until the future is dropped; the socket's file goes with it.
pub async fn serve(socket: Socket, api: Api) {
    let (listener, _unlink) = socket.split();
    let service = api.router().into_make_service_with_connect_info::<Connection>();
    if let Err(error) = axum::serve(listener, service).await {
        tracing::error!(%error, "the control API has ended");
    }
}

/// `None`: may pass. A browser names the page that makes it ask; no page has any business on the socket, and one of
/// another site none anywhere.
fn refuse_caller(
    caller: crate::surfaces::control::Caller,
    right: Right,
    own: u32,
    request: &Request,
) -> Option<Response> {
    if request.headers().contains_key(header::ORIGIN) {
        return Some(refusal(StatusCode::FORBIDDEN, Code::Policy, "requests of web pages are refused"));
    }
    if !caller.may(right, own) {
        let message = "only the daemon's own user and root may do this";
        return Some(refusal(StatusCode::FORBIDDEN, Code::Policy, message));
    }
    None
}

pub(super) fn refusal(status: StatusCode, code: Code, message: impl Into<String>) -> Response {
    (status, Json(Refusal { code: code.word(), message: message.into() })).into_response()
}

pub(super) fn failed(failure: &Failure) -> Response {
    let status = match failure.code {
        Code::ResourceRefused => StatusCode::TOO_MANY_REQUESTS,
        code if code.exit_code() == 77 => StatusCode::FORBIDDEN,
        Code::Io | Code::DiskFull | Code::CannotCreate => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    };
    refusal(status, failure.code, failure.to_string())
}

async fn unknown(method: Method) -> Response {
    refusal(StatusCode::NOT_FOUND, Code::Usage, format!("there is nothing here for {method}; see /v1/openapi.json"))
}

async fn status(State(api): State<Api>) -> Json<Status> {
    Json(api.status())
}

async fn downloads(State(api): State<Api>) -> Json<Vec<Download>> {
    Json(api.daemon.downloads.list().into_iter().map(Download::from).collect())
}

/// The number of a download in a path.
pub(super) fn number(text: &str) -> Result<u64, Response> {
    let refused = |_| refusal(StatusCode::BAD_REQUEST, Code::Usage, "the number of a download is digits alone");
    text.parse().map_err(refused)
}

async fn download(State(api): State<Api>, Path(text): Path<String>) -> Response {
    let number = match number(&text) {
        Ok(number) => number,
        Err(refused) => return refused,
    };
    match api.daemon.downloads.find(number) {
        Some(report) => Json(Download::from(report)).into_response(),
        None => no_download(number),
    }
}

pub(super) fn no_download(number: u64) -> Response {
    refusal(StatusCode::NOT_FOUND, Code::InputMissing, format!("there is no download {number}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StartBody {
    wanted: String,
    #[serde(default)]
    foreground: bool,
    /// When it should be there, in seconds.
    within: Option<u32>,
}

async fn start(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Connection>,
    body: Result<Json<StartBody>, JsonRejection>,
) -> Response {
    let body = match body {
        Ok(Json(body)) => body,
        Err(wrong) => return refusal(wrong.status(), Code::Usage, wrong.body_text()),
    };
    let priority = if body.foreground { Priority::Foreground } else { Priority::Background };
    let (uid, owner) = (caller.caller.uid(), caller.caller.is_owner(api.own_uid));
    let within = body.within.map(|seconds| Duration::from_secs(seconds.into()));
    let order = |wanted| Order { wanted, peers: Vec::new(), priority, within, uid, owner };
    let started = holds::wanted(&body.wanted).and_then(|wanted| api.daemon.downloads.start(order(wanted)));
    match started {
        Ok(number) => (StatusCode::ACCEPTED, Json(json!({ "number": number }))).into_response(),
        Err(failure) => failed(&failure),
    }
}

/// Everybody may take back what they want themselves; ending it for all is the owner's.
async fn cancel(
    State(api): State<Api>,
    ConnectInfo(caller): ConnectInfo<Connection>,
    Path(text): Path<String>,
) -> Response {
    let number = match number(&text) {
        Ok(number) => number,
        Err(refused) => return refused,
    };
    let (uid, owner) = (caller.caller.uid(), caller.caller.is_owner(api.own_uid));
    match api.daemon.downloads.cancel(number, uid, owner).await {
        Cancelled::Unknown => no_download(number),
        Cancelled::NotTheirs => {
            let message = "another user's download; only that user, the daemon's own user and root may end it";
            refusal(StatusCode::FORBIDDEN, Code::Policy, message)
        }
        outcome => Json(json!({ "number": number, "ended": outcome == Cancelled::Ended })).into_response(),
    }
}

/// Which pieces of a download are here.
async fn pieces(State(api): State<Api>, Path(text): Path<String>) -> Response {
    let number = match number(&text) {
        Ok(number) => number,
        Err(refused) => return refused,
    };
    let Some(report) = api.daemon.downloads.find(number) else { return no_download(number) };
    let Some((manifest, _)) = report.manifest else {
        let message = format!("the manifest of download {number} is not known yet");
        return refusal(StatusCode::CONFLICT, Code::InputMissing, message);
    };
    if let Some(held) = api.daemon.node.held(&manifest) {
        return Json(PiecesView::new(number, &held)).into_response();
    }
    // Nobody has it open: the cache knows.
    let cache = Arc::clone(&api.daemon.cache);
    match api.daemon.node.disk().run(move || cache.held(manifest)).await {
        Ok(Some(held)) => Json(PiecesView::new(number, &held)).into_response(),
        Ok(None) => {
            let message = format!("no piece of download {number} is in the cache");
            refusal(StatusCode::CONFLICT, Code::InputMissing, message)
        }
        Err(error) => failed(&Failure::from(error)),
    }
}

async fn rates(State(api): State<Api>) -> Json<RatesView> {
    let samples = api.daemon.rates.samples().into_iter().map(Into::into).collect();
    Json(RatesView { uptime_seconds: api.daemon.started.elapsed().as_secs_f64(), samples })
}

async fn peers(State(api): State<Api>) -> Json<Vec<Peer>> {
    Json(api.daemon.node.peers().into_iter().map(Peer::from).collect())
}

async fn perf(State(api): State<Api>) -> Json<Perf> {
    let daemon = &api.daemon;
    let cache = Arc::clone(&daemon.cache);
    let (contents, disk_free_bytes) = daemon
        .node
        .disk()
        .run(move || (cache.count().unwrap_or(0), cache.free_bytes().unwrap_or(0)))
        .await
        .unwrap_or_default();
    let seen = process::look();
    let account = daemon.ledger.account();
    Json(Perf {
        uptime_seconds: daemon.started.elapsed().as_secs(),
        contents,
        shares_open: daemon.node.shares().len(),
        peer_count: daemon.node.peer_count(),
        downloads: daemon.downloads.list().len(),
        resident_bytes: seen.resident_bytes,
        cpu_seconds: seen.cpu_seconds,
        descriptors: seen.descriptors,
        disk_free_bytes,
        totals: daemon.node.totals().into(),
        month: (&account).into(),
        savings: account.savings.iter().map(SavingsView::from).collect(),
    })
}

/// A URL that begins a session of whoever opens it first.
async fn dashboard(State(api): State<Api>) -> Response {
    let Some(door) = &api.door else {
        let message = "the daemon serves no page: [control] listen is off";
        return refusal(StatusCode::CONFLICT, Code::BadConfig, message);
    };
    match door.invitation() {
        Some(url) => Json(json!({ "url": url })).into_response(),
        None => refusal(StatusCode::INTERNAL_SERVER_ERROR, Code::ResourceRefused, "the system has no entropy"),
    }
}

async fn diagnosis(State(api): State<Api>) -> Json<DiagnosisView> {
    Json(api.daemon.diagnose().await.into())
}

async fn config(State(api): State<Api>) -> Json<Vec<ConfigRow>> {
    Json(api.config.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

async fn follow(State(api): State<Api>) -> impl IntoResponse {
    events::stream(api)
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

async fn pause(State(api): State<Api>) -> Response {
    paused(&api, true)
}

async fn resume(State(api): State<Api>) -> Response {
    paused(&api, false)
}

async fn sleep(State(api): State<Api>) -> Response {
    api.daemon.node.sleeps().await;
    Json(json!({ "asleep": true })).into_response()
}

async fn wake(State(api): State<Api>) -> Response {
    api.daemon.node.woke().await;
    Json(json!({ "asleep": false })).into_response()
}

fn paused(api: &Api, paused: bool) -> Response {
    match api.daemon.downloads.pause(paused) {
        Ok(()) => Json(json!({ "paused": paused })).into_response(),
        Err(failure) => failed(&failure),
    }
}
