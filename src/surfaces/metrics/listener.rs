//! The listener: one request a connection, few connections, each with a deadline.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::surfaces::metrics::text::CONTENT_TYPE;
use crate::surfaces::metrics::{Error, Subject};

/// Scrapers at one time; who comes when all are taken waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 8;
/// How long one exchange may take: who is slower loses the place to the next.
const EXCHANGE_MAX: Duration = Duration::from_secs(10);
/// Longest head of a request, bytes; hyper's least.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// After a refusal of the system, such as no descriptor left, before the next attempt.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// A bound listener.
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds; must be called within a runtime.
    ///
    /// # Errors
    /// The address is taken, or not this machine's.
    pub async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let refuse = |source| Error::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the future is dropped.
    pub async fn serve(self, subject: Subject) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "no connection to the metrics can be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            let subject = subject.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(subject.clone(), request));
                let mut server = http1::Builder::new();
                server.keep_alive(false).max_buf_size(HEAD_BYTES_MAX);
                // A scraper that goes away half-way is no news.
                let _ =
                    tokio::time::timeout(EXCHANGE_MAX, server.serve_connection(TokioIo::new(stream), service)).await;
                drop(place);
            });
        }
    }
}

async fn answer(subject: Subject, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, CONTENT_TYPE, subject.page().await),
        (&Method::GET | &Method::HEAD, "/healthz") => match subject.is_well().await {
            true => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
            false => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", "no disk thread answers\n".to_owned()),
        },
        (_, "/metrics" | "/healthz") => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET alone\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "text/plain", "there are /metrics and /healthz\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    Ok(response)
}
