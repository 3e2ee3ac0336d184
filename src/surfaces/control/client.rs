//! The client: one request a connection, answers bounded.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::surfaces::control::Error;
use crate::surfaces::control::descriptor::Receiving;

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

    /// `GET`s a path whose answer comes with an open file.
    ///
    /// # Errors
    /// As [`Client::get`]; [`Error::Answer`] where no file came.
    pub async fn file(&self, path: &str) -> Result<std::fs::File, Error> {
        let (stream, taken) = Receiving::new(self.connect().await?);
        let response = exchange(TokioIo::new(stream), Method::GET, path, None).await?;
        read(response).await?;
        let file = taken.lock().unwrap_or_else(PoisonError::into_inner).take();
        file.map(std::fs::File::from).ok_or_else(|| Error::Answer { reason: "no open file came with it".to_owned() })
    }

    /// `POST`s a path that answers with events.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn follow(&self, path: &str, body: &Value) -> Result<Events, Error> {
        let response = self.send(Method::POST, path, Some(body)).await?;
        if !response.status().is_success() {
            return Err(match read(response).await {
                Err(refused) => refused,
                Ok(_) => Error::Answer { reason: "neither events nor a refusal".to_owned() },
            });
        }
        Ok(Events { body: response.into_body(), text: Vec::new() })
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        read(self.send(method, path, body).await?).await
    }

    async fn connect(&self) -> Result<UnixStream, Error> {
        let opened = UnixStream::connect(&self.path).await;
        opened.map_err(|source| Error::NoDaemon { path: self.path.clone(), source })
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response<Incoming>, Error> {
        exchange(TokioIo::new(self.connect().await?), method, path, body).await
    }
}

async fn exchange<T: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static>(
    stream: T,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Response<Incoming>, Error> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.map_err(|error| unreadable(&error))?;
    tokio::spawn(connection);
    let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let mut request = Request::builder().method(method).uri(path).header("host", "piecework");
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let request = request.body(Full::new(bytes)).map_err(|error| unreadable(&error))?;
    sender.send_request(request).await.map_err(|error| unreadable(&error))
}

async fn read(response: Response<Incoming>) -> Result<Value, Error> {
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

/// Events of the daemon, as they come (WHATWG HTML, "Server-sent events"; one line of data each, as it writes them).
pub struct Events {
    body: Incoming,
    text: Vec<u8>,
}

impl Events {
    /// The data of the next event; `None` at their end. May be given up and called again.
    ///
    /// # Errors
    /// [`Error::Answer`].
    pub async fn next(&mut self) -> Result<Option<Value>, Error> {
        loop {
            while let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                if let Some(data) = line.strip_prefix(b"data:") {
                    return serde_json::from_slice(data).map(Some).map_err(|error| unreadable(&error));
                }
            }
            if self.text.len() > ANSWER_BYTES_MAX {
                return Err(Error::Answer { reason: "an event without end".to_owned() });
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(unreadable(&error)),
                Some(Ok(frame)) => self.text.extend(frame.data_ref().into_iter().flatten()),
            }
        }
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> Error {
    Error::Answer { reason: error.to_string() }
}
