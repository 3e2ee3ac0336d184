//! Asks sources for ranges and follows their redirects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Response;
use reqwest::header::{ACCEPT_ENCODING, HeaderValue, IF_RANGE, LOCATION, RANGE};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use url::{Host, Url};

use crate::content::layout::ByteRange;
use crate::drivers::sources::answer::{
    Answer, Judged, content_length, is_redirect, judge, refuse_busy, refuse_encoding,
};
use crate::drivers::sources::body::{Body, Pace, Promise};
use crate::drivers::sources::error::{Error, RedirectFault, Stage};
use crate::drivers::sources::gate::{Gate, Refusal, authority, is_localhost};
use crate::drivers::sources::resolve::{CheckedResolver, Lookup, SystemLookup};
use crate::drivers::sources::signer::Signer;
use crate::drivers::sources::source::{Source, parse_url, shown};

/// Largest manifest that is fetched by URL.
pub const MANIFEST_BYTES_MAX: u64 = 64 << 20;
/// A redirect's own body is read to the end up to here, to keep its connection; a longer one costs the connection.
const REDIRECT_BODY_MAX: u64 = 16 << 10;
/// HTTP clients, one for each port and way, that are kept.
const ROUTES_MAX: usize = 16;
/// Hosts whose connections are counted.
const HOSTS_MAX: usize = 64;
/// An idle connection is kept this long: a moved server is soon found at its new address.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Which proxies stand between us and the sources. What is on this machine is always asked directly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxies {
    /// Those of `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, read when the client is made.
    Environment,
    /// None.
    None,
    /// This one, by its URL, for everything.
    All(String),
}

impl Proxies {
    fn matcher(&self) -> Option<Matcher> {
        match self {
            Self::Environment => Some(Matcher::from_env()),
            Self::None => None,
            Self::All(url) => Some(Matcher::builder().all(url.as_str()).build()),
        }
    }
}

/// How sources are asked.
#[derive(Clone)]
pub struct Options {
    /// What may be fetched.
    pub gate: Gate,
    /// Name look-ups.
    pub lookup: Arc<dyn Lookup>,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for the head of an answer, connection included.
    pub head_timeout: Duration,
    /// Longest silence within a body.
    pub stall_timeout: Duration,
    /// Bytes a second that a body must deliver over each `rate_window`.
    pub rate_bytes_min: u64,
    /// See `rate_bytes_min`.
    pub rate_window: Duration,
    /// Redirects followed for one request.
    pub redirects_max: usize,
    /// Requests under way to one host and port; more wait for their turn.
    pub connections_per_host: usize,
    /// Which proxies are asked.
    pub proxies: Proxies,
    /// Certificates (PEM) trusted for content beside the system's.
    pub extra_roots_pem: Vec<Vec<u8>>,
    /// Signs requests to one host.
    pub signer: Option<Arc<Signer>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            gate: Gate::default(),
            lookup: Arc::new(SystemLookup),
            connect_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(10),
            // A modem's pace: less is a server that means to hold us.
            rate_bytes_min: 2 << 10,
            rate_window: Duration::from_secs(10),
            redirects_max: 5,
            connections_per_host: 4,
            proxies: Proxies::Environment,
            extra_roots_pem: Vec::new(),
            signer: None,
        }
    }
}

/// Fetches ranges and small documents. One for each gate, on the runtime that it is used on; cheap until used.
pub struct Client {
    options: Options,
    gate: Arc<Gate>,
    proxies: Option<Matcher>,
    routes: Mutex<BTreeMap<Route, reqwest::Client>>,
    slots: Mutex<BTreeMap<(String, u16), Arc<Semaphore>>>,
}

/// What decides which HTTP client a URL takes. The port belongs to it because the resolver that checks addresses is told
/// only the name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    tls: bool,
    port: u16,
    proxy: Option<String>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("gate", &self.gate).finish_non_exhaustive()
    }
}

impl Client {
    /// A client; nothing is connected or loaded before the first request.
    pub fn new(options: Options) -> Self {
        Self {
            gate: Arc::new(options.gate.clone()),
            proxies: options.proxies.matcher(),
            options,
            routes: Mutex::default(),
            slots: Mutex::default(),
        }
    }

    /// Asks a source for a range of a file that the manifest says has `file_length` bytes. The body begins at the
    /// range's offset, or at 0 where the server sends whole files.
    ///
    /// # Errors
    /// Whatever [`Error`] says; of this client's making is only [`Error::OutOfFile`].
    pub async fn open(&self, source: &Source, range: ByteRange, file_length: u64) -> Result<Body, Error> {
        if range.length == 0 || range.offset.checked_add(range.length).is_none_or(|end| end > file_length) {
            return Err(Error::OutOfFile { url: source.shown(), asked: range, file_length });
        }
        let answer = self.request(source.url(), Some((source, range))).await?;
        let Judged::Promise(promise) = judge(source, range, file_length, &answer)? else {
            // Two servers behind one name disagree about the tag: once more, without it.
            drop(answer);
            let answer = self.request(source.url(), Some((source, range))).await?;
            return match judge(source, range, file_length, &answer)? {
                Judged::Promise(promise) => Ok(self.body(answer, promise)),
                Judged::AskPlainly => Err(Error::WrongRange {
                    url: shown(&answer.url),
                    asked: range,
                    found: "a whole file, to a request without a condition".to_owned(),
                }),
            };
        };
        Ok(self.body(answer, promise))
    }

    /// Fetches a whole document of at most `bytes_max` bytes, for instance a manifest.
    ///
    /// # Errors
    /// As [`Client::open`]; [`Error::TooLarge`] above the bound.
    pub async fn fetch_small(&self, url: &str, bytes_max: u64) -> Result<Vec<u8>, Error> {
        let url = parse_url(url)?;
        let answer = self.request(&url, None).await?;
        let headers = answer.response.headers();
        let shown_url = shown(&answer.url);
        let too_large = || Error::TooLarge { url: shown_url.clone(), bytes_max };
        if answer.response.status() != reqwest::StatusCode::OK {
            return Err(Error::Status { url: shown_url, status: answer.response.status().as_u16() });
        }
        refuse_encoding(headers, &shown_url)?;
        let length = content_length(headers);
        if length.is_some_and(|length| length > bytes_max) {
            return Err(too_large());
        }
        let promise = Promise {
            url: shown_url.clone(),
            start: 0,
            // One more than allowed, so that a body without a length shows that it is too long, and a clean end before
            // that is how it should end.
            end: length.unwrap_or(bytes_max.saturating_add(1)),
            asked_end: 0,
            open_ended: length.is_none(),
            end_tells_length: length.is_none(),
            whole_file: true,
        };
        let mut body = self.body(answer, promise);
        let mut document = Vec::new();
        loop {
            match body.chunk().await {
                Ok(Some(bytes)) => document.extend_from_slice(&bytes),
                Ok(None) => break,
                Err(Error::Changed { .. }) if length.is_none() => break,
                Err(error) => return Err(error),
            }
            if u64::try_from(document.len()).unwrap_or(u64::MAX) > bytes_max {
                return Err(too_large());
            }
        }
        Ok(document)
    }

    fn body(&self, answer: Answer, promise: Promise) -> Body {
        let pace = Pace {
            stall_timeout: self.options.stall_timeout,
            rate_bytes_min: self.options.rate_bytes_min,
            rate_window: self.options.rate_window,
        };
        Body::new(answer.response, promise, pace, answer.slot)
    }

    /// Sends a GET and follows redirects by hand, the gate asked at each hop. Ends with an answer that is neither a
    /// redirect nor a plea for time.
    async fn request(&self, first: &Url, asked: Option<(&Source, ByteRange)>) -> Result<Answer, Error> {
        let redirect = |fault| Error::Redirect { url: shown(first), fault };
        let mut url = first.clone();
        url.set_fragment(None);
        let mut visited = BTreeSet::new();
        loop {
            if !visited.insert(url.as_str().to_owned()) {
                return Err(redirect(RedirectFault::Circle));
            }
            if visited.len() > self.options.redirects_max.saturating_add(1) {
                return Err(redirect(RedirectFault::TooMany { hops_max: self.options.redirects_max }));
            }
            self.gate.check(&url).map_err(|refusal| Error::Gate { url: shown(&url), refusal })?;
            let slot = self.slot(&url).await;
            let if_range = asked.and_then(|(source, _)| source.if_range(&url));
            let conditional = if_range.is_some();
            let response = self.send(&url, asked.map(|(_, range)| range), if_range).await?;
            if !is_redirect(response.status()) {
                refuse_busy(&response, &url)?;
                return Ok(Answer { response, url, conditional, slot });
            }
            let next = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let next = next.and_then(|location| url.join(location).ok());
            let mut next = next.ok_or_else(|| redirect(RedirectFault::NoLocation))?;
            next.set_fragment(None);
            self.drain_redirect(response).await;
            tracing::debug!(from = %shown(&url), to = %shown(&next), "redirect");
            url = next;
        }
    }

    async fn send(&self, url: &Url, range: Option<ByteRange>, if_range: Option<String>) -> Result<Response, Error> {
        let mut request = self.route(url)?.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        for (name, value) in self.options.signer.iter().flat_map(|signer| signer.headers(url)) {
            request = request.header(name, value);
        }
        if let Some(range) = range {
            let last = range.end().saturating_sub(1);
            request = request.header(RANGE, format!("bytes={}-{last}", range.offset));
            if let Some(tag) = if_range.and_then(|tag| HeaderValue::try_from(tag).ok()) {
                request = request.header(IF_RANGE, tag);
            }
        }
        match timeout(self.options.head_timeout, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(send_error(url, &error, self.options.connect_timeout)),
            Err(_) => {
                let waited = self.options.head_timeout;
                Err(Error::TimedOut { url: shown(url), stage: Stage::Head, waited })
            }
        }
    }

    /// Reads a redirect's body to its end where that is near, so that its connection can be used again.
    async fn drain_redirect(&self, mut response: Response) {
        if content_length(response.headers()).is_none_or(|length| length > REDIRECT_BODY_MAX) {
            return;
        }
        // Its length is bounded by the head; what goes wrong costs the connection, as not reading would.
        let drained = async { while let Ok(Some(_)) = response.chunk().await {} };
        let _ = timeout(Duration::from_secs(1), drained).await;
    }

    /// A place among the requests to the URL's host.
    async fn slot(&self, url: &Url) -> OwnedSemaphorePermit {
        let slots = self.options.connections_per_host.max(1);
        let semaphore = {
            let mut hosts = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            if hosts.len() >= HOSTS_MAX {
                hosts.retain(|_, semaphore| semaphore.available_permits() < slots);
            }
            let key = authority(url).unwrap_or_default();
            Arc::clone(hosts.entry(key).or_insert_with(|| Arc::new(Semaphore::new(slots))))
        };
        semaphore.acquire_owned().await.expect("a semaphore of this map is never closed")
    }

    /// The HTTP client for a URL.
    fn route(&self, url: &Url) -> Result<reqwest::Client, Error> {
        let Some((host, port)) = authority(url) else {
            return Err(Error::Gate { url: shown(url), refusal: Refusal::NoHost });
        };
        let proxy = self.proxy(url, &host);
        let proxy_uri = proxy.as_ref().map(|proxy| proxy.uri().to_string());
        let route = Route { tls: url.scheme() == "https", port, proxy: proxy_uri };
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = routes.get(&route) {
            return Ok(client.clone());
        }
        let proxy = match proxy {
            None => None,
            Some(intercept) => {
                let all = reqwest::Proxy::all(intercept.uri().to_string()).map_err(|error| setup(&error))?;
                Some(match intercept.basic_auth() {
                    Some(credentials) => all.custom_http_auth(credentials.clone()),
                    None => all,
                })
            }
        };
        let client = self.build(&route, proxy)?;
        if routes.len() >= ROUTES_MAX {
            routes.pop_first();
        }
        routes.insert(route, client.clone());
        Ok(client)
    }

    /// The proxy for a URL. It looks names up itself, so that of the gate's checks those of the URL hold
    /// and those of addresses are its own; what is on this machine is never asked of a proxy.
    fn proxy(&self, url: &Url, host: &str) -> Option<hyper_util::client::proxy::matcher::Intercept> {
        let here = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
            Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
            _ => is_localhost(host),
        };
        if here {
            return None;
        }
        self.proxies.as_ref()?.intercept(&url.as_str().parse().ok()?)
    }

    fn build(&self, route: &Route, proxy: Option<reqwest::Proxy>) -> Result<reqwest::Client, Error> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("piecework/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(self.options.connect_timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(self.options.connections_per_host)
            .tcp_nodelay(true)
            .no_proxy();
        let proxy_tls = route.proxy.as_ref().is_some_and(|proxy| proxy.starts_with("https:"));
        if route.tls || proxy_tls {
            let mut roots = Vec::new();
            for pem in &self.options.extra_roots_pem {
                roots.extend(reqwest::Certificate::from_pem_bundle(pem).map_err(|error| setup(&error))?);
            }
            builder = builder.tls_certs_merge(roots);
        } else {
            // No TLS on this way: a machine without certificates fetches all the same, and none are loaded.
            builder = builder.tls_certs_only([]);
        }
        builder = match proxy {
            Some(proxy) => builder.proxy(proxy),
            None => builder.dns_resolver(CheckedResolver {
                gate: Arc::clone(&self.gate),
                lookup: Arc::clone(&self.options.lookup),
                port: route.port,
            }),
        };
        builder.build().map_err(|error| setup(&error))
    }
}

fn setup(error: &reqwest::Error) -> Error {
    Error::Setup { why: causes(error) }
}

/// What became of a request that got no answer; a refusal by our own resolver is found among the causes.
fn send_error(url: &Url, error: &reqwest::Error, connect_timeout: Duration) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(refusal) = inner.downcast_ref::<Refusal>() {
            return Error::Gate { url: shown(url), refusal: refusal.clone() };
        }
        cause = inner.source();
    }
    if error.is_timeout() {
        return Error::TimedOut { url: shown(url), stage: Stage::Head, waited: connect_timeout };
    }
    Error::Unreachable { url: shown(url), why: causes(error) }
}

/// The causes below an error of the HTTP client, outermost first; its own line repeats the URL and is left out.
fn causes(error: &reqwest::Error) -> String {
    let mut said = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        if said.last() != Some(&text) {
            said.push(text);
        }
        cause = inner.source();
    }
    if said.is_empty() { error.to_string() } else { said.join(": ").chars().take(400).collect() }
}
