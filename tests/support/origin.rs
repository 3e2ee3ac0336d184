//! An HTTP/1.1 origin that misbehaves to order, on a real socket.
//!
//! Answers are written by hand, since no server library would write most of them. It runs on a thread of its own, so
//! that plain tests and asynchronous ones use it alike, and knows nothing of the program under test.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// How the origin answers a request for a file that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// As a good server does: ranges, strong ETag, Last-Modified, If-Range, keep-alive.
    Normal,
    /// As `Normal`, but bodies are chunked and their length is not told.
    Chunked,
    /// 200 and the whole file, whatever was asked.
    IgnoresRanges,
    /// As `IgnoresRanges`, with neither a length nor chunks: the end of the connection ends the body.
    WholeUntilClose,
    /// The right head, then this many bytes, then a closed connection.
    TruncatesAfter(u64),
    /// The right range, and a `Content-Length` that is off by this much.
    LiesAboutLength(i64),
    /// 206 with a range that starts one byte later than asked.
    WrongContentRange,
    /// 206 without `Content-Range`.
    NoContentRange,
    /// 206 with only this many of the asked bytes.
    AnswersPrefix(u64),
    /// The right head, then a chunked body that never ends.
    EndlessBody,
    /// A head that never ends.
    EndlessHead,
    /// A redirect that comes back after two hops.
    RedirectCircle,
    /// A redirect to an ever new URL.
    RedirectForever,
    /// A redirect to this URL.
    RedirectTo(String),
    /// This status for the first `times` requests, then as `Normal`.
    Status {
        /// Code and phrase, such as `503 Service Unavailable`.
        status: &'static str,
        /// Value of `Retry-After`.
        retry_after: Option<String>,
        /// How many times.
        times: u64,
    },
    /// Other bytes under the same length.
    OtherBytes,
    /// A file of this length in the right one's place.
    OtherLength(u64),
    /// As `Normal` for this many requests; after them other bytes, ETag and Last-Modified.
    ChangesAfter(u64),
    /// Each request finds another ETag under the same Last-Modified, as behind some load balancers; the condition of
    /// `If-Range` is compared with the new one.
    NewTagEachTime,
    /// The right head and bytes, declared as gzip.
    Gzip,
    /// The right head, then this many bytes, then silence.
    StallsAfter(u64),
    /// Nothing at all, for as long as the client waits.
    Silent,
    /// This many bytes a second.
    SlowTrickle(u64),
    /// Reads the request and hangs up.
    ClosesAtOnce,
    /// 200 and a page that says that the file is not there.
    HtmlErrorPage200,
}

/// What the origin saw and sent so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Connections accepted.
    pub connections: u64,
    /// Requests whose head was read whole.
    pub requests: u64,
    /// Bytes of bodies that the kernel took.
    pub body_bytes: u64,
    /// First and last byte of each `Range` asked for; `None` for a request without.
    pub ranges: Vec<Option<(u64, u64)>>,
    /// Heads of the requests.
    pub heads: Vec<String>,
}

/// Range and head of one request.
type Logged = (Option<(u64, u64)>, String);

struct Shared {
    files: BTreeMap<String, Arc<Vec<u8>>>,
    behaviour: Mutex<(Behaviour, BTreeMap<String, Behaviour>)>,
    connections: AtomicU64,
    requests: AtomicU64,
    body_bytes: AtomicU64,
    log: Mutex<Vec<Logged>>,
}

/// A running origin; dropping it closes its connections and joins its thread.
pub struct TestOrigin {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Requests kept in the log.
const LOG_MAX: usize = 100_000;
/// Largest request head read.
const HEAD_BYTES_MAX: usize = 64 << 10;

impl TestOrigin {
    /// Serves `content` at `/file` on 127.0.0.1.
    pub fn start(content: Vec<u8>, behaviour: Behaviour) -> Self {
        Self::start_files(BTreeMap::from([("/file".to_owned(), content)]), behaviour)
    }

    /// Serves several files by path, such as `/a/b`.
    pub fn start_files(files: BTreeMap<String, Vec<u8>>, behaviour: Behaviour) -> Self {
        Self::start_at("127.0.0.1".parse().expect("an address"), files, behaviour)
    }

    /// The same at another address of the caller's network.
    pub fn start_at(ip: std::net::IpAddr, files: BTreeMap<String, Vec<u8>>, behaviour: Behaviour) -> Self {
        let shared = Arc::new(Shared {
            files: files.into_iter().map(|(path, bytes)| (path, Arc::new(bytes))).collect(),
            behaviour: Mutex::new((behaviour, BTreeMap::new())),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            body_bytes: AtomicU64::new(0),
            log: Mutex::new(Vec::new()),
        });
        let listener = std::net::TcpListener::bind((ip, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("a bound socket");
        let (stop, stopped) = oneshot::channel();
        let served = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listening socket");
                tokio::select! {
                    () = accept(listener, served) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path, `/file` for instance.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From the next request on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.shared.behaviour.lock().expect("no test panics within").0 = behaviour;
    }

    /// From the next request on, for one path.
    pub fn behave_at(&self, path: &str, behaviour: Behaviour) {
        self.shared.behaviour.lock().expect("no test panics within").1.insert(path.to_owned(), behaviour);
    }

    /// What it saw so far.
    pub fn seen(&self) -> Seen {
        let log = self.shared.log.lock().expect("no test panics within").clone();
        let (ranges, heads) = log.into_iter().unzip();
        Seen {
            connections: self.shared.connections.load(Ordering::SeqCst),
            requests: self.shared.requests.load(Ordering::SeqCst),
            body_bytes: self.shared.body_bytes.load(Ordering::SeqCst),
            ranges,
            heads,
        }
    }
}

impl Drop for TestOrigin {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let mut connection = Connection { stream, shared, unread: Vec::new() };
            // Its error is the client's departure, which is what many tests wait for.
            while let Ok(true) = connection.serve_one().await {}
        });
    }
}

struct Connection {
    stream: TcpStream,
    shared: Arc<Shared>,
    unread: Vec<u8>,
}

/// What a request asked.
struct Request {
    path: String,
    head_only: bool,
    range: Option<(u64, u64)>,
    if_range: Option<String>,
    /// Position among all requests, from 0.
    number: u64,
}

/// How an answer goes out.
struct Answer {
    status: &'static str,
    headers: String,
    /// Of the content, before `mask`.
    from: u64,
    until: u64,
    mask: u8,
}

impl Connection {
    /// Serves a request; whether another may follow on this connection.
    async fn serve_one(&mut self) -> std::io::Result<bool> {
        let Some(head) = self.read_head().await? else {
            return Ok(false);
        };
        let request = self.note(head);
        let behaviour = {
            let (all, by_path) = &*self.shared.behaviour.lock().expect("no test panics within");
            by_path.get(&request.path).unwrap_or(all).clone()
        };
        if let Some(goes_on) = self.misbehave_without_file(&behaviour, &request).await? {
            return Ok(goes_on);
        }
        let plain_path = request.path.split('?').next().unwrap_or_default();
        let Some(content) = self.shared.files.get(plain_path).cloned() else {
            return self.write_all_of("404 Not Found", "", b"not here\n").await;
        };
        self.serve_file(&behaviour, &request, content).await
    }

    async fn read_head(&mut self) -> std::io::Result<Option<String>> {
        loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = self.unread.split_off(end + 4);
                let head = std::mem::replace(&mut self.unread, rest);
                return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
            }
            if self.unread.len() > HEAD_BYTES_MAX {
                return Ok(None);
            }
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn note(&self, head: String) -> Request {
        let value = |name: &str| {
            head.lines()
                .skip(1)
                .filter_map(|line| line.split_once(':'))
                .find_map(|(found, value)| found.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned()))
        };
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let range = value("range").and_then(|range| {
            let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((first.parse().ok()?, last.parse().unwrap_or(u64::MAX)))
        });
        let request = Request {
            path: target.to_owned(),
            head_only: method == "HEAD",
            range,
            if_range: value("if-range"),
            number: self.shared.requests.fetch_add(1, Ordering::SeqCst),
        };
        let mut log = self.shared.log.lock().expect("no test panics within");
        if log.len() < LOG_MAX {
            log.push((range, head));
        }
        request
    }

    /// Behaviours that need no file; whether the connection goes on, or `None` where a file is to be served.
    async fn misbehave_without_file(
        &mut self,
        behaviour: &Behaviour,
        request: &Request,
    ) -> std::io::Result<Option<bool>> {
        let redirect = |to: &str| format!("Location: {to}\r\n");
        let goes_on = match behaviour {
            Behaviour::RedirectTo(to) => self.write_all_of("302 Found", &redirect(to), b"over there\n").await?,
            Behaviour::RedirectCircle => {
                let to = match request.path.strip_suffix("?again") {
                    Some(first) => first.to_owned(),
                    None => format!("{}?again", request.path),
                };
                self.write_all_of("307 Temporary Redirect", &redirect(&to), b"").await?
            }
            Behaviour::RedirectForever => {
                let to = format!("/hop{}", request.number);
                self.write_all_of("301 Moved Permanently", &redirect(&to), b"").await?
            }
            Behaviour::Status { status, retry_after, times } if request.number < *times => {
                let header = retry_after.as_ref().map_or(String::new(), |wait| format!("Retry-After: {wait}\r\n"));
                self.write_all_of(status, &header, b"not now\n").await?
            }
            Behaviour::HtmlErrorPage200 => {
                self.write_all_of("200 OK", "Content-Type: text/html\r\n", b"<h1>Oh no</h1>\n").await?
            }
            Behaviour::ClosesAtOnce => false,
            Behaviour::Silent => {
                self.wait_for_close().await?;
                false
            }
            Behaviour::EndlessHead => {
                self.stream.write_all(b"HTTP/1.1 206 Partial Content\r\n").await?;
                loop {
                    self.stream.write_all(&b"X-More: and more\r\n".repeat(1000)).await?;
                }
            }
            _ => return Ok(None),
        };
        Ok(Some(goes_on))
    }

    async fn serve_file(
        &mut self,
        behaviour: &Behaviour,
        request: &Request,
        content: Arc<Vec<u8>>,
    ) -> std::io::Result<bool> {
        let mut content = content;
        if let Behaviour::OtherLength(length) = behaviour {
            let mut other = content.to_vec();
            other.resize(usize::try_from(*length).expect("a length of the test"), 0x5a);
            content = Arc::new(other);
        }
        let length = content.len() as u64;
        let Some(answer) = shape(behaviour, request, length) else {
            return self
                .write_all_of("416 Range Not Satisfiable", &format!("Content-Range: bytes */{length}\r\n"), b"")
                .await;
        };
        let count = answer.until - answer.from;
        let framing = match behaviour {
            Behaviour::Chunked | Behaviour::EndlessBody => "Transfer-Encoding: chunked\r\n".to_owned(),
            Behaviour::WholeUntilClose => "Connection: close\r\n".to_owned(),
            Behaviour::LiesAboutLength(off) => format!("Content-Length: {}\r\n", count.saturating_add_signed(*off)),
            _ => format!("Content-Length: {count}\r\n"),
        };
        let head = format!("HTTP/1.1 {}\r\n{}{framing}\r\n", answer.status, answer.headers);
        self.stream.write_all(head.as_bytes()).await?;
        if request.head_only {
            return Ok(true);
        }
        let bytes_at = |from: u64, until: u64| -> Vec<u8> {
            content[from as usize..until as usize].iter().map(|byte| byte ^ answer.mask).collect()
        };
        let cut = |after: u64| answer.until.min(answer.from.saturating_add(after));
        match behaviour {
            Behaviour::TruncatesAfter(after) => {
                self.write_body(&bytes_at(answer.from, cut(*after))).await?;
                Ok(false)
            }
            Behaviour::StallsAfter(after) => {
                self.write_body(&bytes_at(answer.from, cut(*after))).await?;
                self.wait_for_close().await?;
                Ok(false)
            }
            Behaviour::SlowTrickle(rate) => {
                let step = (rate / 10).max(1);
                let mut from = answer.from;
                while from < answer.until {
                    let until = answer.until.min(from + step);
                    self.write_body(&bytes_at(from, until)).await?;
                    from = until;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok(true)
            }
            Behaviour::Chunked => {
                self.write_chunk(&bytes_at(answer.from, answer.until)).await?;
                self.stream.write_all(b"0\r\n\r\n").await?;
                Ok(true)
            }
            Behaviour::EndlessBody => {
                self.write_chunk(&bytes_at(answer.from, answer.until)).await?;
                loop {
                    self.write_chunk(&[0x5a; 64 << 10]).await?;
                }
            }
            _ => {
                let mut from = answer.from;
                while from < answer.until {
                    let until = answer.until.min(from + (256 << 10));
                    self.write_body(&bytes_at(from, until)).await?;
                    from = until;
                }
                Ok(!matches!(behaviour, Behaviour::LiesAboutLength(_) | Behaviour::WholeUntilClose))
            }
        }
    }

    async fn write_all_of(&mut self, status: &str, headers: &str, body: &[u8]) -> std::io::Result<bool> {
        let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
        self.stream.write_all(head.as_bytes()).await?;
        self.write_body(body).await?;
        Ok(true)
    }

    async fn write_body(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let mut left = bytes;
        while !left.is_empty() {
            let written = self.stream.write(left).await?;
            self.shared.body_bytes.fetch_add(written as u64, Ordering::SeqCst);
            left = &left[written..];
        }
        Ok(())
    }

    async fn write_chunk(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes()).await?;
        self.write_body(bytes).await?;
        self.stream.write_all(b"\r\n").await
    }

    async fn wait_for_close(&mut self) -> std::io::Result<()> {
        let mut ignored = [0; 1024];
        while self.stream.read(&mut ignored).await? != 0 {}
        Ok(())
    }
}

/// Status, headers and bytes of an answer with a file of `length` bytes; `None` for a range beyond it.
fn shape(behaviour: &Behaviour, request: &Request, length: u64) -> Option<Answer> {
    let changed = matches!(behaviour, Behaviour::ChangesAfter(after) if request.number >= *after);
    let mask = if changed || *behaviour == Behaviour::OtherBytes { 0xff } else { 0 };
    let (tag, date) = match behaviour {
        Behaviour::NewTagEachTime => (format!("\"{}\"", request.number), "Sun, 06 Nov 1994 08:49:37 GMT"),
        _ if changed => ("\"second\"".to_owned(), "Mon, 07 Nov 1994 08:49:37 GMT"),
        _ => ("\"first\"".to_owned(), "Sun, 06 Nov 1994 08:49:37 GMT"),
    };
    let mut headers = format!("ETag: {tag}\r\nLast-Modified: {date}\r\nContent-Type: application/octet-stream\r\n");
    if *behaviour == Behaviour::Gzip {
        headers += "Content-Encoding: gzip\r\n";
    }
    let fresh = request.if_range.as_ref().is_none_or(|condition| *condition == tag);
    let ignores = matches!(behaviour, Behaviour::IgnoresRanges | Behaviour::WholeUntilClose);
    let Some((first, last)) = request.range.filter(|_| fresh && !ignores) else {
        return Some(Answer { status: "200 OK", headers, from: 0, until: length, mask });
    };
    if first >= length || first > last {
        return None;
    }
    let mut until = length.min(last.saturating_add(1));
    if let Behaviour::AnswersPrefix(bytes) = behaviour {
        until = until.min(first + bytes);
    }
    let mut told = (first, until - 1);
    if *behaviour == Behaviour::WrongContentRange {
        told = (first + 1, until);
    }
    if *behaviour != Behaviour::NoContentRange {
        headers += &format!("Content-Range: bytes {}-{}/{}\r\n", told.0, told.1, length.max(told.1 + 1));
    }
    Some(Answer { status: "206 Partial Content", headers, from: first, until, mask })
}
