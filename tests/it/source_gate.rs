//! URLs of strangers, and where they would lead: the gate of the HTTP sources.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use piecework::content::pattern::{OriginPattern, OriginRules};
use piecework::drivers::sources::{Body, Client, Error, Gate, Lookup, LookupFuture, Options, Proxies, Refusal, Source};

use crate::sources::{Case, MIB, MIDDLE, content, options_for, range, read};
use crate::support::origin::{Behaviour, TestOrigin};

/// Listens on both loopbacks on one port, and counts who came.
struct Canary {
    listeners: Vec<TcpListener>,
    port: u16,
}

impl Canary {
    fn new() -> Self {
        let first = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = first.local_addr().expect("bound").port();
        let mut listeners = vec![first];
        // Machines without IPv6 have no second loopback to guard.
        listeners.extend(TcpListener::bind(("::1", port)));
        for listener in &listeners {
            listener.set_nonblocking(true).expect("a socket");
        }
        Self { listeners, port }
    }

    fn connections(&self) -> usize {
        self.listeners.iter().map(|listener| std::iter::from_fn(|| listener.accept().ok()).count()).sum()
    }
}

/// Answers every name in turn with each of `answers`, and notes who was asked for.
struct FakeLookup {
    answers: Vec<Vec<SocketAddr>>,
    turn: AtomicUsize,
    asked: Mutex<Vec<String>>,
}

impl FakeLookup {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |text: &&str| SocketAddr::new(text.parse().expect("an address of the test"), 0);
        let answers = answers.iter().map(|answer| answer.iter().map(parse).collect()).collect();
        Arc::new(Self { answers, turn: AtomicUsize::new(0), asked: Mutex::default() })
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("no panic within"))
    }
}

impl Lookup for FakeLookup {
    fn lookup(&self, host: &str) -> LookupFuture {
        self.asked.lock().expect("no panic within").push(host.to_owned());
        let turn = self.turn.fetch_add(1, Ordering::SeqCst);
        let answer = self.answers[turn % self.answers.len()].clone();
        Box::pin(async move { io::Result::Ok(answer) })
    }
}

fn strict_client(lookup: &Arc<FakeLookup>, patterns: &[&str]) -> Client {
    let patterns = patterns.iter().map(|text| OriginPattern::new(text).expect("a pattern of the test"));
    Client::new(Options {
        gate: Gate::new(OriginRules { patterns: patterns.collect() }),
        lookup: Arc::<FakeLookup>::clone(lookup),
        connect_timeout: Duration::from_millis(50),
        head_timeout: Duration::from_millis(200),
        proxies: Proxies::None,
        ..Options::default()
    })
}

/// Lines of the corpus: class, expected name, URL.
fn corpus(port: u16) -> Vec<(&'static str, &'static str, String)> {
    let text = include_str!("../attacks/ssrf_urls.txt");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let read = |line: &'static str| {
        let (class, rest) = line.split_once(' ').expect("a class and a URL");
        let (name, url) = if class == "name" { rest.split_once(' ').expect("a name and a URL") } else { ("", rest) };
        (class, name, url.replace("PORT", &port.to_string()))
    };
    lines.map(read).collect()
}

pub(crate) async fn attempt(client: &Client, url: &str) -> Result<Body, Error> {
    client.open(&Source::new(url)?, range(0, 1), MIB).await
}

#[tokio::test]
async fn no_url_of_a_stranger_reaches_this_machine() {
    let canary = Canary::new();
    let cases = corpus(canary.port);
    assert!(cases.iter().map(|(_, _, url)| url).collect::<BTreeSet<_>>().len() >= 100);
    for patterns in [&[][..], &["*"], &["*:*"]] {
        for answer in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "127.8.8.8", "169.254.169.254", "0.0.0.0", "fe80::1"] {
            let lookup = FakeLookup::new(&[&[answer]]);
            let client = strict_client(&lookup, patterns);
            for (class, name, url) in &cases {
                let error = attempt(&client, url).await.err().unwrap_or_else(|| panic!("{url} was fetched"));
                let asked = lookup.asked();
                match *class {
                    "url" => assert!(matches!(error, Error::BadUrl { .. }), "{url}: {error}"),
                    "gate" => assert!(matches!(error, Error::Gate { .. }), "{url}: {error}"),
                    "name" => assert!(
                        matches!(error, Error::Gate { refusal: Refusal::Address { .. }, .. }) && asked == [*name],
                        "{url}: {error}, asked {asked:?}"
                    ),
                    other => panic!("unknown class {other:?}"),
                }
                assert!(*class == "name" || asked.is_empty(), "{url}: asked {asked:?}");
            }
        }
    }
    assert_eq!(canary.connections(), 0);
    // The canary would have sung.
    let lookup = FakeLookup::new(&[&["127.0.0.1"]]);
    let client = strict_client(&lookup, &[&format!("localhost:{}", canary.port)]);
    let error = attempt(&client, &format!("http://localhost:{}/", canary.port)).await.expect_err("it never answers");
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert_eq!(canary.connections(), 1);
}

#[tokio::test]
async fn no_redirect_reaches_this_machine() {
    let canary = Canary::new();
    let origin = TestOrigin::start(Vec::new(), Behaviour::Normal);
    let lookup = FakeLookup::new(&[&["127.0.0.1"]]);
    let mut gate = Gate::default();
    gate.give(Source::new(&origin.url("/")).expect("a URL").url());
    let options = Options {
        gate,
        lookup: Arc::<FakeLookup>::clone(&lookup),
        proxies: Proxies::None,
        ..options_for(&origin.url("/"))
    };
    let client = Client::new(options);
    for (class, _, url) in corpus(canary.port) {
        // What is no URL by itself may well be one beside the origin's; a header holds no other scripts.
        if class == "url" || !url.is_ascii() {
            continue;
        }
        origin.behave(Behaviour::RedirectTo(url.trim().to_owned()));
        let before = origin.seen().requests;
        let error = attempt(&client, &origin.url("/start")).await.expect_err("refused");
        assert!(!matches!(error, Error::TimedOut { .. }), "{url}: {error}");
        assert!(origin.seen().requests <= before + 6, "{url}");
    }
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn a_name_that_changes_its_mind_is_checked_each_time() {
    let canary = Canary::new();
    // A good address first and a bad one after it, alternating, and both at once.
    for answers in [&[&["192.0.2.1"][..], &["127.0.0.1"]][..], &[&["127.0.0.1", "192.0.2.1"], &["192.0.2.1", "::1"]]] {
        let lookup = FakeLookup::new(answers);
        let client = strict_client(&lookup, &["*"]);
        for _ in 0..6 {
            let error = attempt(&client, &format!("http://rebind.test:{}/", canary.port)).await.expect_err("refused");
            assert!(
                matches!(error, Error::Gate { .. } | Error::TimedOut { .. } | Error::Unreachable { .. }),
                "{error}"
            );
        }
        // Once a connection, and no more.
        assert_eq!(lookup.asked().len(), 6);
    }
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn a_server_that_moves_is_looked_up_again() {
    let case = Case::new(Behaviour::Normal);
    let port = case.origin.address().port();
    let url = format!("http://origin.test:{port}/file");
    // Nobody listens at the first address; the second time the name leads to the origin.
    let lookup = FakeLookup::new(&[&["127.0.0.2"], &["127.0.0.1"]]);
    let options = Options { lookup: Arc::<FakeLookup>::clone(&lookup), ..options_for(&url) };
    let (client, source) = (Client::new(options), Source::new(&url).expect("a URL"));
    let error = client.open(&source, MIDDLE, case.length()).await.expect_err("nobody there");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let (bytes, error) = read(client.open(&source, MIDDLE, case.length()).await.expect("a body")).await;
    assert!(error.is_none() && bytes == case.part(MIDDLE));
}

#[tokio::test]
async fn a_proxy_is_asked_for_what_is_elsewhere_and_the_gate_before_it() {
    let bytes = content(MIB);
    // What a proxy is sent is a whole URL, which here is the name of a file.
    let files = BTreeMap::from([("http://cdn.test/file".to_owned(), bytes.clone())]);
    let proxy = TestOrigin::start_files(files, Behaviour::Normal);
    let with_word = proxy.url("").replace("http://", "http://user:word@");
    let lookup = FakeLookup::new(&[&["127.0.0.1"]]);
    let client = Client::new(Options {
        proxies: Proxies::All(with_word),
        lookup: Arc::<FakeLookup>::clone(&lookup),
        ..Options::default()
    });
    let source = Source::new("http://cdn.test/file").expect("a URL");
    let (part, error) = read(client.open(&source, range(5, 7), MIB).await.expect("a body")).await;
    assert!(error.is_none() && part == bytes[5..12]);
    let seen = proxy.seen();
    assert!(seen.heads[0].to_lowercase().contains("proxy-authorization: basic dxnlcjp3b3jk"), "{}", seen.heads[0]);

    for url in
        ["http://127.0.0.1:8080/file", "http://169.254.169.254/file", "http://u@cdn.test/file", "http://cdn.test:25/"]
    {
        let error = attempt(&client, url).await.expect_err("refused");
        assert!(matches!(error, Error::Gate { .. }), "{url}: {error}");
    }
    // Names of the loopback are not the proxy's to look up.
    let error = attempt(&client, "http://localhost:8080/file").await.expect_err("refused");
    assert!(matches!(error, Error::Gate { .. }), "{error}");
    assert_eq!((proxy.seen().requests, lookup.asked()), (1, vec!["localhost".to_owned()]));
}
