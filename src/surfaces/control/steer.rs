//! Changing the running daemon's mode. Policies are the command line's to merge, so a wish goes there, and its answer back.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::oneshot;

use crate::content::code::Code;
use crate::policy::Key;
use crate::surfaces::control::routes::{Api, refusal};
use crate::surfaces::control::view::ModeView;

/// Wishes that wait for their turn.
pub(super) const WISHES_MAX: usize = 16;

/// What somebody who may steer the daemon wants.
pub struct Wish {
    /// The mode, by word or number; `None`: as the configuration has it.
    pub mode: Option<String>,
    /// Told once it holds, or why it does not.
    pub answer: oneshot::Sender<Result<(), (Code, String)>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModeBody {
    mode: String,
}

pub(super) async fn mode(State(api): State<Api>) -> Response {
    shown(&api)
}

pub(super) async fn set(State(api): State<Api>, body: Result<Json<ModeBody>, JsonRejection>) -> Response {
    match body {
        Ok(Json(body)) => wish(&api, Some(body.mode)).await,
        Err(wrong) => refusal(wrong.status(), Code::Usage, wrong.body_text()),
    }
}

pub(super) async fn reset(State(api): State<Api>) -> Response {
    wish(&api, None).await
}

async fn wish(api: &Api, mode: Option<String>) -> Response {
    let (answer, answered) = oneshot::channel();
    let gone = || refusal(StatusCode::SERVICE_UNAVAILABLE, Code::NoDaemon, "the daemon is stopping");
    if api.wishes.send(Wish { mode, answer }).await.is_err() {
        return gone();
    }
    match answered.await {
        Ok(Ok(())) => shown(api),
        Ok(Err((code, message))) => refusal(StatusCode::BAD_REQUEST, code, message),
        Err(_) => gone(),
    }
}

fn shown(api: &Api) -> Response {
    let provider = api.provider(Key::DownloadMode.path());
    Json(ModeView { mode: api.daemon.gates.mode().word(), provider }).into_response()
}
