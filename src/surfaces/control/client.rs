//! The client: one request a connection, answers bounded.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::surfaces::control::Error;

/// Longest answer that is read; a page of everything there is stays far below.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Asks the daemon behind one socket.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// A client of the socket at `path`; nothing is opened yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Where the socket lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `GET`s a path.
    ///
    /// # Errors
    /// [`Error::NoDaemon`], [`Error::Refused`] with the daemon's own word, [`Error::Answer`].
    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        self.ask(Method::GET, path, None).await
    }

    /// `POST`s a path, with a JSON body or none.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post(&self, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        self.ask(Method::POST, path, body).await
    }

    /// `DELETE`s a path.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete(&self, path: &str) -> Result<Value, Error> {
        self.ask(Method::DELETE, path, None).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        let response = self.send(method, path, body).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| unreadable(&error))?.to_bytes();
        let value: Value = serde_json::from_slice(&body).map_err(|error| unreadable(&error))?;
        if status.is_success() {
            return Ok(value);
        }
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Err(Error::Refused { status: status.as_u16(), code: text("code"), message: text("message") })
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response<Incoming>, Error> {
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|source| Error::NoDaemon { path: self.path.clone(), source })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreadable(&error))?;
        tokio::spawn(connection);
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let mut request = Request::builder().method(method).uri(path).header("host", "piecework");
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Full::new(bytes)).map_err(|error| unreadable(&error))?;
        sender.send_request(request).await.map_err(|error| unreadable(&error))
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> Error {
    Error::Answer { reason: error.to_string() }
}
