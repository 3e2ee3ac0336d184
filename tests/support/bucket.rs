//! A small server of one bucket `b` that answers as S3 does: listings page by page, ranges, and a refusal for whoever has
//! not signed. It checks signatures by its own calculation, from the bytes of the request, and knows nothing of the
//! program under test. It misbehaves to order.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};

pub const ACCESS: &str = "the key";
pub const SECRET: &str = "a secret of the test";
pub const REGION: &str = "eu-test-1";
const SERVICE: &str = "s3";
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What is wrong with its answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Whim {
    #[default]
    None,
    /// This many answers of 503 SlowDown, whatever is asked, then as it should be.
    SlowDown(usize),
    /// Bodies of ranges end after this many bytes, and the connection with them.
    Truncates(usize),
    /// The range that comes is one byte beside the one that was asked for.
    WrongRange,
    /// Listings are this text.
    Listing(String),
    /// Connections end at once.
    Gone,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    whim: Whim,
    page: usize,
    /// What was asked: key, empty for a listing; range, empty for none; status.
    log: Vec<(String, String, u16)>,
    /// Bytes of ranges that may still be sent; `None`: all.
    left: Option<usize>,
    sent: usize,
}

/// The server.
#[derive(Clone)]
pub struct Bucket {
    pub address: String,
    state: Arc<(Mutex<State>, Condvar)>,
}

struct Request {
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
}

impl Bucket {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let bucket = Self { address, state: Arc::default() };
        bucket.state().page = 1000;
        let server = bucket.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let server = server.clone();
                // A client that hangs up ends its thread.
                std::thread::spawn(move || {
                    _ = server.serve(&stream);
                    _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        bucket
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().expect("not poisoned")
    }

    pub fn put(&self, key: &str, bytes: &[u8]) {
        self.state().objects.insert(key.to_owned(), bytes.to_vec());
    }

    pub fn remove(&self, key: &str) {
        self.state().objects.remove(key);
    }

    pub fn behave(&self, whim: Whim) {
        self.state().whim = whim;
    }

    /// Keys in a page.
    pub fn pages_of(&self, keys: usize) {
        self.state().page = keys;
    }

    /// Sends so many bytes of ranges more, then none until it is told otherwise; `None`: all.
    pub fn allow(&self, bytes: Option<usize>) {
        self.state().left = bytes;
        self.state.1.notify_all();
    }

    /// Ranges that were asked for of one object.
    pub fn ranges_of(&self, key: &str) -> usize {
        self.state().log.iter().filter(|(asked, range, _)| asked == key && !range.is_empty()).count()
    }

    /// Everything that was asked: key, range, status.
    pub fn log(&self) -> Vec<(String, String, u16)> {
        self.state().log.clone()
    }

    /// Bytes of ranges that were sent.
    pub fn sent(&self) -> usize {
        self.state().sent
    }

    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let Some(request) = read(&mut reader)? else { return Ok(()) };
            let whim = self.state().whim.clone();
            let key = percent_decode_str(&request.path).decode_utf8_lossy().into_owned();
            let key = key.strip_prefix("/b/").unwrap_or("not in the bucket").to_owned();
            let range = request.headers.get("range").cloned().unwrap_or_default();
            let note = |status: u16| self.state().log.push((key.clone(), range.clone(), status));
            match whim {
                Whim::Gone => return Ok(()),
                Whim::SlowDown(times) if times > 0 => {
                    self.state().whim = Whim::SlowDown(times - 1);
                    note(503);
                    answer(stream, "503 Slow Down", "Retry-After: 1\r\n", b"<Error><Code>SlowDown</Code></Error>")?;
                    continue;
                }
                _ => {}
            }
            if let Err(why) = is_signed(&request) {
                note(403);
                answer(stream, "403 Forbidden", "", format!("<Error><Code>{why}</Code></Error>").as_bytes())?;
                continue;
            }
            if key.is_empty() {
                let page = match &whim {
                    Whim::Listing(text) => text.clone(),
                    _ => self.page(&request),
                };
                note(200);
                answer(stream, "200 OK", "Content-Type: application/xml\r\n", page.as_bytes())?;
                continue;
            }
            let object = self.state().objects.get(&key).cloned();
            match (object, range.strip_prefix("bytes=").and_then(|range| range.split_once('-'))) {
                (None, _) => {
                    note(404);
                    answer(stream, "404 Not Found", "", b"<Error><Code>NoSuchKey</Code></Error>")?;
                }
                (Some(object), None) => {
                    note(200);
                    answer(stream, "200 OK", "", &object)?;
                }
                (Some(object), Some((from, to))) => {
                    note(206);
                    let (from, to): (usize, usize) = (from.parse().expect("a number"), to.parse().expect("a number"));
                    self.range(stream, &object, (from, to), &whim)?;
                }
            }
        }
    }

    fn range(
        &self,
        mut stream: &TcpStream,
        object: &[u8],
        (from, to): (usize, usize),
        whim: &Whim,
    ) -> std::io::Result<()> {
        let to = to.min(object.len() - 1);
        let beside = usize::from(*whim == Whim::WrongRange);
        let body = &object[from..=to];
        let length = object.len();
        write!(stream, "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\n", body.len())?;
        write!(
            stream,
            "Content-Range: bytes {}-{}/{length}\r\nETag: \"{length}\"\r\n\r\n",
            from + beside,
            to + beside
        )?;
        let cut = match whim {
            Whim::Truncates(bytes) => body.len().min(*bytes),
            _ => body.len(),
        };
        for part in body[..cut].chunks(64 << 10) {
            {
                let (lock, changed) = &*self.state;
                let mut state = lock.lock().expect("not poisoned");
                while state.left.is_some_and(|left| left < part.len()) {
                    state = changed.wait(state).expect("not poisoned");
                }
                state.left = state.left.map(|left| left - part.len());
                state.sent += part.len();
            }
            stream.write_all(part)?;
        }
        if cut < body.len() { Err(std::io::Error::other("cut on purpose")) } else { Ok(()) }
    }

    fn page(&self, request: &Request) -> String {
        let query: BTreeMap<_, _> = pairs(&request.query).into_iter().collect();
        assert_eq!(query.get("list-type").map(String::as_str), Some("2"), "{}", request.query);
        let (prefix, after) = (&query["prefix"], query.get("continuation-token").cloned().unwrap_or_default());
        let state = self.state();
        let below = state.objects.range(after.clone()..).filter(|(key, _)| **key != after || after.is_empty());
        let mut keys: Vec<_> = below.filter(|(key, _)| key.starts_with(prefix)).take(state.page + 1).collect();
        let truncated = keys.len() > state.page;
        keys.truncate(state.page);
        let encoded = query.get("encoding-type").is_some_and(|kind| kind == "url");
        let mut text = String::from(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name>",
        );
        for (key, object) in &keys {
            let key = match encoded {
                // As S3 does: a slash stays, a space becomes a plus.
                true => encode(key).replace("%2F", "/").replace("%20", "+"),
                false => key.replace('&', "&amp;").replace('<', "&lt;"),
            };
            let tag = data_encoding::HEXLOWER.encode(&Sha256::digest(object.as_slice())[..16]);
            text += &format!("<Contents><Key>{key}</Key><Size>{}</Size><ETag>&quot;{tag}&quot;</ETag>", object.len());
            text += "<StorageClass>STANDARD</StorageClass></Contents>";
        }
        text += &format!("<KeyCount>{}</KeyCount><IsTruncated>{truncated}</IsTruncated>", keys.len());
        if encoded {
            text += "<EncodingType>url</EncodingType>";
        }
        if let Some((last, _)) = keys.last().filter(|_| truncated) {
            let last = last.replace('&', "&amp;").replace('<', "&lt;");
            text += &format!("<NextContinuationToken>{last}</NextContinuationToken>");
        }
        text + "</ListBucketResult>"
    }
}

fn read(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut first = lines[0].split(' ');
    assert_eq!(first.next(), Some("GET"), "nothing but reading is asked of a bucket");
    let target = first.next().expect("a target");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let header = |line: &String| {
        let (name, value) = line.split_once(':').expect("a header");
        (name.to_ascii_lowercase(), value.trim().to_owned())
    };
    let headers = lines[1..].iter().map(header).collect();
    Ok(Some(Request { path: path.to_owned(), query: query.to_owned(), headers }))
}

fn answer(mut stream: &TcpStream, status: &str, more: &str, body: &[u8]) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{more}\r\n", body.len())?;
    stream.write_all(body)
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| percent_decode_str(text).decode_utf8().expect("UTF-8").into_owned();
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| part.split_once('=').unwrap_or((part, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// HMAC (RFC 2104) with SHA-256, written out.
pub fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    match key.len() > 64 {
        true => block[..32].copy_from_slice(&Sha256::digest(key)),
        false => block[..key.len()].copy_from_slice(key),
    }
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
}

/// Whether the request carries a signature of now for what it asks, by "Authenticating Requests (AWS Signature Version 4)".
fn is_signed(request: &Request) -> Result<(), &'static str> {
    let header = |name: &str| request.headers.get(name).map(String::as_str);
    let given = header("authorization").ok_or("AccessDenied")?;
    let given = given.strip_prefix("AWS4-HMAC-SHA256 ").ok_or("AccessDenied")?;
    let field = |name: &str| {
        let found = given.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='));
        found.ok_or("AuthorizationHeaderMalformed")
    };
    let (credential, signed, signature) = (field("Credential")?, field("SignedHeaders")?, field("Signature")?);
    let moment = header("x-amz-date").ok_or("AccessDenied")?;
    let day = moment.get(..8).ok_or("AccessDenied")?;
    let scope = format!("{day}/{REGION}/{SERVICE}/aws4_request");
    if credential != format!("{ACCESS}/{scope}") {
        return Err("InvalidAccessKeyId");
    }
    let format =
        time::format_description::parse_borrowed::<2>("[year][month][day]T[hour][minute][second]Z").expect("right");
    let at = time::PrimitiveDateTime::parse(moment, &format).map_err(|_| "AccessDenied")?.assume_utc().unix_timestamp();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after it").as_secs();
    if now.abs_diff(u64::try_from(at).map_err(|_| "AccessDenied")?) > 900 {
        return Err("RequestTimeTooSkewed");
    }
    let names: Vec<_> = signed.split(';').collect();
    let needed = request.headers.keys().filter(|name| *name == "host" || name.starts_with("x-amz-"));
    if !needed.into_iter().all(|name| names.contains(&name.as_str())) || !names.is_sorted() {
        return Err("AccessDenied");
    }
    let parts: Vec<_> =
        request.path.split('/').map(|part| encode(&percent_decode_str(part).decode_utf8_lossy())).collect();
    let mut query: Vec<_> = pairs(&request.query).iter().map(|(name, value)| (encode(name), encode(value))).collect();
    query.sort();
    let query: Vec<_> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut asked = format!("GET\n{}\n{}\n", parts.join("/"), query.join("&"));
    for name in &names {
        asked += &format!("{name}:{}\n", header(name).ok_or("AccessDenied")?);
    }
    asked += &format!("\n{signed}\n{}", header("x-amz-content-sha256").ok_or("MissingSecurityHeader")?);
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let to_sign = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{}", hex(&Sha256::digest(asked.as_bytes())));
    let key = [REGION, SERVICE, "aws4_request"]
        .iter()
        .fold(hmac(format!("AWS4{SECRET}").as_bytes(), day.as_bytes()), |key, part| hmac(&key, part.as_bytes()));
    if hex(&hmac(&key, to_sign.as_bytes())) == signature { Ok(()) } else { Err("SignatureDoesNotMatch") }
}
