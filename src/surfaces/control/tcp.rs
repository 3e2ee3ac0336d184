//! The door for browsers and for programs without the socket: HTTP on TCP, off unless policy names an address. Nobody is
//! believed to be who the kernel says here; the token makes an owner, a browser's session may look. What a page of another
//! site makes a browser send is refused before either is asked: by `Host`, against names that were rebound to this machine,
//! by `Origin` and `Sec-Fetch-Site`, against requests of other pages (Fetch, "CORS protocol"; W3C Fetch Metadata).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::content::code::Code;
use crate::surfaces::Asset;
use crate::surfaces::control::Error;
use crate::surfaces::control::access::{Caller, Connection};
use crate::surfaces::control::keys::{Keys, SESSION_LASTS};
use crate::surfaces::control::routes::{Api, refusal};

/// Connections at one time; who comes when all are taken waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 32;
/// A connection on which nothing has moved for so long is closed: its other end is gone. Events say every 15 seconds that they
/// live; the longest answer is that of a content being hashed.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// How long the body that asks for a session may take.
const CODE_TIMEOUT: Duration = Duration::from_secs(10);
/// After a refusal of the system, such as no descriptor left, before the next attempt.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);
/// Longest body that asks for a session.
const CODE_BYTES_MAX: usize = 256;
/// Where a browser says the asking page is from.
const FETCH_SITE: &str = "sec-fetch-site";
/// What a page of ours may load: files of ours, nothing within the page itself, nothing from elsewhere.
const CONTENT_SECURITY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A door that is bound.
pub struct Door {
    listener: TcpListener,
    entry: Entry,
}

/// The door as the API sees it; a handle.
#[derive(Clone)]
pub(super) struct Entry(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    /// Names in `Host` that are this daemon, besides addresses and `localhost`.
    names: Vec<String>,
    keys: Keys,
    assets: &'static [Asset],
    /// Cookies do not tell ports apart, so each daemon of a host has a name of its own.
    cookie: String,
}

impl Door {
    /// Binds; must be called within a runtime. The token is read from `token_file`, which is made where it is missing;
    /// `names` are those under which others reach this daemon, through a proxy for instance.
    ///
    /// # Errors
    /// [`Error::Door`] where the address is taken or not this machine's; [`Error::Token`].
    pub async fn bind(
        address: SocketAddr,
        token_file: &Path,
        names: Vec<String>,
        assets: &'static [Asset],
    ) -> Result<Self, Error> {
        let keys = Keys::open(token_file)?;
        let refuse = |source| Error::Door { address, source };
        let listener = TcpListener::bind(address).await.map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        let cookie = format!("piecework_{}", address.port());
        Ok(Self { listener, entry: Entry(Arc::new(Inner { address, names, keys, assets, cookie })) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.entry.0.address
    }

    pub(super) fn entry(&self) -> Entry {
        self.entry.clone()
    }

    /// Serves the API, and the page's files, until the future is dropped.
    pub async fn serve(self, api: Api) {
        let entry = self.entry.clone();
        let router: Router = api.router().layer(middleware::from_fn(move |request: Request, next: Next| {
            let entry = entry.clone();
            async move { guarded(entry.answer(request, next).await) }
        }));
        let listener = Patient { listener: self.listener, room: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
        let service = router.into_make_service_with_connect_info::<Connection>();
        if let Err(error) = axum::serve(listener, service).await {
            tracing::error!(%error, "the control API on TCP has ended");
        }
    }
}

impl Entry {
    /// A URL that begins a browser's session, once. The code is behind `#`, so it is sent to nobody unasked.
    pub(super) fn invitation(&self) -> Option<String> {
        let code = self.0.keys.code(Instant::now())?;
        let mut address = self.0.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
                SocketAddr::V6(_) => IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
            });
        }
        Some(format!("http://{address}/#{}", code.as_str()))
    }

    async fn answer(self, mut request: Request, next: Next) -> Response {
        let headers = request.headers();
        let Some(host) = only(headers, &header::HOST).filter(|host| is_ours(host, &self.0.names)) else {
            let message = "the Host of a request is to be an address, localhost, or a name of [control] hosts";
            return refusal(StatusCode::FORBIDDEN, Code::Policy, message);
        };
        if headers.contains_key(header::ORIGIN)
            && !only(headers, &header::ORIGIN).is_some_and(|said| is_own(said, host))
        {
            return refusal(StatusCode::FORBIDDEN, Code::Policy, "requests of other web pages are refused");
        }
        let path = request.uri().path();
        if matches!(*request.method(), Method::GET | Method::HEAD)
            && let Some(asset) = self.0.assets.iter().find(|asset| asset.path == path)
        {
            return ([(header::CONTENT_TYPE, asset.kind)], asset.bytes).into_response();
        }
        if headers.contains_key(FETCH_SITE) && !matches!(only(headers, FETCH_SITE), Some("same-origin" | "none")) {
            return refusal(StatusCode::FORBIDDEN, Code::Policy, "requests of other web pages are refused");
        }
        if path == "/session" {
            return self.session(request).await;
        }
        let Some(caller) = self.caller(headers) else {
            let message = "neither the token of the token file nor a session; `piecework dashboard` begins one";
            let refused = refusal(StatusCode::UNAUTHORIZED, Code::Policy, message);
            return ([(header::WWW_AUTHENTICATE, "Bearer")], refused).into_response();
        };
        // The API refuses what comes with an origin, and this one was found to be ours.
        request.headers_mut().remove(header::ORIGIN);
        request.extensions_mut().insert(ConnectInfo(Connection { caller, outgoing: None }));
        next.run(request).await
    }

    /// Who asks: whoever has the token acts as the daemon's user, a session looks.
    fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        if headers.contains_key(header::AUTHORIZATION) {
            let token = only(headers, &header::AUTHORIZATION)?.strip_prefix("Bearer ")?;
            let own = rustix::process::geteuid().as_raw();
            return self.0.keys.is_token(token.trim()).then_some(Caller::User(own));
        }
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let (_, session) = pairs.find(|(name, _)| *name == self.0.cookie)?;
        self.0.keys.is_session(session, Instant::now()).then_some(Caller::Browser)
    }

    /// Takes a code for a cookie that no script reads and no other site makes a browser send.
    async fn session(self, request: Request) -> Response {
        if request.method() != Method::POST {
            return refusal(StatusCode::METHOD_NOT_ALLOWED, Code::Usage, "POST alone");
        }
        let read = tokio::time::timeout(CODE_TIMEOUT, to_bytes(request.into_body(), CODE_BYTES_MAX)).await;
        let code = read.ok().and_then(Result::ok).and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        let session = code.and_then(|code| self.0.keys.begin(code.trim(), Instant::now()));
        let Some(session) = session else {
            let message = "the code is wrong, spent, or older than two minutes; ask `piecework dashboard` for another";
            return refusal(StatusCode::UNAUTHORIZED, Code::Policy, message);
        };
        let (name, lasts) = (&self.0.cookie, SESSION_LASTS.as_secs());
        let cookie = format!("{name}={}; Path=/; Max-Age={lasts}; HttpOnly; SameSite=Strict", session.as_str());
        ([(header::SET_COOKIE, cookie)], StatusCode::NO_CONTENT).into_response()
    }
}

/// The value of a header that is there once, as text.
fn only(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.to_str().ok())?
}

/// Whether a `Host` is this daemon: an address is, since no name that was rebound is one.
fn is_ours(host: &str, names: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    if let Some(address) = name.strip_prefix('[') {
        return address.strip_suffix(']').is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    name.parse::<std::net::Ipv4Addr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether an `Origin` is the page that `host` serves; a proxy in front may speak TLS.
fn is_own(origin: &str, host: &str) -> bool {
    ["http://", "https://"]
        .iter()
        .filter_map(|scheme| origin.strip_prefix(scheme))
        .any(|authority| authority.eq_ignore_ascii_case(host))
}

fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    response
}

/// Accepts while there is room.
struct Patient {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

/// A connection that is closed when nothing moves on it.
struct Lively {
    stream: TcpStream,
    silence: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Listener for Patient {
    type Io = Lively;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Lively, SocketAddr) {
        loop {
            // Nobody closes it.
            let Ok(place) = Arc::clone(&self.room).acquire_owned().await else { continue };
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let silence = Box::pin(tokio::time::sleep(SILENCE_MAX));
                    return (Lively { stream, silence, _place: place }, address);
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection to the control API can be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Patient>> for Connection {
    fn connect_info(_: IncomingStream<'_, Patient>) -> Self {
        // The door says later who it is.
        Self { caller: Caller::Nobody, outgoing: None }
    }
}

impl Lively {
    /// What came of an attempt; one that waits is an error once nothing has moved for too long.
    fn moved<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.silence.as_mut().reset(tokio::time::Instant::now() + SILENCE_MAX);
            return outcome;
        }
        match self.silence.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Lively {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.moved(context, outcome)
    }
}

impl AsyncWrite for Lively {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.moved(context, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_localhost_and_the_names_that_policy_lists() {
        let names = ["node.example".to_owned()];
        for host in [
            "127.0.0.1",
            "127.0.0.1:7681",
            "[::1]:7681",
            "[::1]",
            "localhost:1",
            "LOCALHOST",
            "Node.Example:8",
            "10.0.0.1",
        ] {
            assert!(is_ours(host, &names), "{host}");
        }
        for host in [
            "",
            ":",
            "evil.test",
            "evil.test:7681",
            "127.0.0.1.evil.test",
            "localhost.evil.test",
            "localhost.",
            "[::1",
            "::1",
            "[localhost]",
            "127.0.0.1:x",
            "127.0.0.1@evil.test",
            "2130706433",
            "0x7f000001",
            "node.example.evil.test",
            "xnode.example",
        ] {
            assert!(!is_ours(host, &names), "{host}");
        }
    }

    #[test]
    fn an_origin_is_ours_when_it_is_the_host_of_the_request() {
        assert!(is_own("http://127.0.0.1:7681", "127.0.0.1:7681") && is_own("https://Node.example", "node.example"));
        for origin in [
            "null",
            "",
            "http://evil.test",
            "http://127.0.0.1:7682",
            "http://127.0.0.1",
            "file://",
            "http://127.0.0.1:7681/",
        ] {
            assert!(!is_own(origin, "127.0.0.1:7681"), "{origin}");
        }
    }
}
