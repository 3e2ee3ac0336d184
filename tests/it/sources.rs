//! HTTP sources against servers that misbehave.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use piecework::content::code::Code;
use piecework::content::layout::ByteRange;
use piecework::drivers::sources::{
    Blame, Body, Change, Client, Error, Gate, Options, Proxies, RedirectFault, Refusal, Source, Stage,
};
use piecework::swarm::event::SourceFault;

use crate::support::origin::{Behaviour, TestOrigin};

pub(crate) const MIB: u64 = 1 << 20;

/// Bytes without a pattern that a shifted copy would share.
pub(crate) fn content(length: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .collect()
}

pub(crate) fn range(offset: u64, length: u64) -> ByteRange {
    ByteRange { offset, length }
}

/// Options that let `url` through, with waits for impatient tests.
pub(crate) fn options_for(url: &str) -> Options {
    let mut gate = Gate::default();
    gate.give(Source::new(url).expect("a URL of the test").url());
    Options { gate, stall_timeout: Duration::from_millis(500), proxies: Proxies::None, ..Options::default() }
}

/// All that a body delivers, and how it ended.
pub(crate) async fn read(mut body: Body) -> (Vec<u8>, Option<Error>) {
    let mut bytes = Vec::new();
    loop {
        match body.chunk().await {
            Ok(Some(more)) => bytes.extend_from_slice(&more),
            Ok(None) => return (bytes, None),
            Err(error) => return (bytes, Some(error)),
        }
    }
}

/// An origin with 3 MiB and a bit, and a client that may ask it.
pub(crate) struct Case {
    pub(crate) content: Vec<u8>,
    pub(crate) origin: TestOrigin,
    pub(crate) client: Client,
    pub(crate) source: Source,
}

impl Case {
    pub(crate) fn new(behaviour: Behaviour) -> Self {
        Self::with(behaviour, |_| {})
    }

    fn with(behaviour: Behaviour, adjust: impl FnOnce(&mut Options)) -> Self {
        let content = content(3 * MIB + 77);
        let origin = TestOrigin::start(content.clone(), behaviour);
        let url = origin.url("/file");
        let mut options = options_for(&url);
        adjust(&mut options);
        Self { content, client: Client::new(options), source: Source::new(&url).expect("a URL"), origin }
    }

    pub(crate) fn length(&self) -> u64 {
        self.content.len() as u64
    }

    async fn open(&self, asked: ByteRange) -> Result<Body, Error> {
        self.client.open(&self.source, asked, self.length()).await
    }

    async fn refused(&self, asked: ByteRange) -> Error {
        self.open(asked).await.expect_err("refused at the head")
    }

    pub(crate) fn part(&self, asked: ByteRange) -> &[u8] {
        &self.content[asked.offset as usize..asked.end() as usize]
    }
}

pub(crate) const MIDDLE: ByteRange = ByteRange { offset: MIB, length: MIB };

#[tokio::test]
async fn ranges_come_as_asked_over_one_connection() {
    let case = Case::new(Behaviour::Normal);
    for asked in [range(0, 1), MIDDLE, range(3 * MIB, 77), range(0, case.length()), range(case.length() - 1, 1)] {
        let body = case.open(asked).await.expect("a body");
        assert_eq!((body.start(), body.end(), body.is_whole_file()), (asked.offset, asked.end(), false));
        let (bytes, error) = read(body).await;
        assert!(error.is_none(), "{error:?}");
        assert!(bytes == case.part(asked));
    }
    assert_eq!((case.source.serves_ranges(), case.source.total()), (Some(true), Some(case.length())));
    let seen = case.origin.seen();
    assert_eq!((seen.connections, seen.requests), (1, 5));
    assert!(seen.heads.iter().skip(1).all(|head| head.to_lowercase().contains("if-range: \"first\"")));
    assert!(seen.heads.iter().all(|head| head.to_lowercase().contains("accept-encoding: identity")));
}

#[tokio::test]
async fn a_range_outside_of_the_file_is_not_asked_for() {
    let case = Case::new(Behaviour::Normal);
    for asked in [range(0, 0), range(0, case.length() + 1), range(u64::MAX, 2), range(case.length(), 1)] {
        let error = case.refused(asked).await;
        assert!(matches!(error, Error::OutOfFile { .. }) && error.blame() == Blame::Local, "{error}");
    }
    assert_eq!(case.origin.seen().connections, 0);
}

#[tokio::test]
async fn chunked_ranges_are_held_to_their_range() {
    let case = Case::new(Behaviour::Chunked);
    let (bytes, error) = read(case.open(MIDDLE).await.expect("a body")).await;
    assert!(error.is_none() && bytes == case.part(MIDDLE));
}

#[tokio::test]
async fn without_ranges_the_whole_file_streams_from_its_first_byte() {
    for behaviour in [Behaviour::IgnoresRanges, Behaviour::WholeUntilClose] {
        let case = Case::new(behaviour);
        let body = case.open(MIDDLE).await.expect("a body");
        assert_eq!((body.start(), body.end(), body.is_whole_file()), (0, case.length(), true));
        let (bytes, error) = read(body).await;
        assert!(error.is_none() && bytes == case.content);
        assert_eq!(case.source.serves_ranges(), Some(false));
    }
}

#[tokio::test]
async fn a_truncated_body_says_where_it_ended() {
    let case = Case::new(Behaviour::TruncatesAfter(1000));
    let (bytes, error) = read(case.open(MIDDLE).await.expect("a body")).await;
    assert!(bytes == case.part(range(MIB, 1000)));
    let error = error.expect("truncated");
    assert!(
        matches!(error, Error::Truncated { expected, found, .. } if expected == 2 * MIB && found == MIB + 1000),
        "{error}"
    );
    assert_eq!((error.fault(), error.retry(), error.blame()), (SourceFault::Truncated, true, Blame::Source));
}

#[tokio::test]
async fn a_body_asked_again_after_its_error_gives_no_byte() {
    let case = Case::new(Behaviour::TruncatesAfter(10));
    let mut body = case.open(MIDDLE).await.expect("a body");
    while body.chunk().await.is_ok() {}
    assert!(matches!(body.chunk().await, Err(Error::Truncated { .. })));
}

#[tokio::test]
async fn a_content_length_that_contradicts_the_range_is_a_lie() {
    for off in [-1, 1, 1 << 40] {
        let case = Case::new(Behaviour::LiesAboutLength(off));
        let error = case.refused(MIDDLE).await;
        assert!(matches!(error, Error::WrongRange { .. }), "{error}");
        assert_eq!((error.fault(), error.retry(), error.code()), (SourceFault::Refused, false, Code::Protocol));
    }
}

#[tokio::test]
async fn a_range_that_was_not_asked_for_is_refused() {
    for behaviour in [Behaviour::WrongContentRange, Behaviour::NoContentRange] {
        let case = Case::new(behaviour);
        let error = case.refused(MIDDLE).await;
        assert!(matches!(error, Error::WrongRange { .. }), "{error}");
        assert!(error.to_string().contains("bytes 1048576-2097151"), "{error}");
    }
}

#[tokio::test]
async fn the_beginning_of_a_range_is_taken_and_its_end_missed() {
    let case = Case::new(Behaviour::AnswersPrefix(1000));
    let body = case.open(MIDDLE).await.expect("a body");
    assert_eq!((body.start(), body.end()), (MIB, MIB + 1000));
    let (bytes, error) = read(body).await;
    assert!(bytes == case.part(range(MIB, 1000)));
    assert!(matches!(error, Some(Error::Truncated { expected, .. }) if expected == 2 * MIB), "{error:?}");
}

#[tokio::test]
async fn an_endless_body_is_cut_where_it_should_end() {
    let case = Case::new(Behaviour::EndlessBody);
    let (bytes, error) = read(case.open(MIDDLE).await.expect("a body")).await;
    assert!(bytes == case.part(MIDDLE));
    let error = error.expect("too long");
    assert!(matches!(error, Error::Overlong { promised, .. } if promised == 2 * MIB), "{error}");
    assert!(!error.retry());
}

#[tokio::test]
async fn an_endless_head_ends_the_request() {
    let case = Case::new(Behaviour::EndlessHead);
    let error = case.refused(MIDDLE).await;
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn redirects_in_a_circle_and_without_end_are_bounded() {
    let case = Case::new(Behaviour::RedirectCircle);
    let error = case.refused(MIDDLE).await;
    assert!(matches!(error, Error::Redirect { fault: RedirectFault::Circle, .. }), "{error}");
    assert_eq!(case.origin.seen().requests, 2);

    let case = Case::new(Behaviour::RedirectForever);
    let error = case.refused(MIDDLE).await;
    assert!(matches!(error, Error::Redirect { fault: RedirectFault::TooMany { hops_max: 5 }, .. }), "{error}");
    assert_eq!((case.origin.seen().requests, case.origin.seen().connections), (6, 1));
}

#[tokio::test]
async fn a_redirect_is_followed_where_the_gate_lets_it() {
    let case = Case::new(Behaviour::Normal);
    let other = TestOrigin::start(Vec::new(), Behaviour::RedirectTo(case.origin.url("/file")));
    let source = Source::new(&other.url("/file")).expect("a URL");
    // The first origin alone was given: the second, on the same address, was named by nobody but the first.
    let strict = Client::new(options_for(&other.url("/file")));
    let error = strict.open(&source, MIDDLE, case.length()).await.expect_err("refused");
    assert!(matches!(error, Error::Gate { refusal: Refusal::Address { .. }, .. }), "{error}");
    assert_eq!(error.code(), Code::OriginNotAllowed);
    assert_eq!(case.origin.seen().connections, 0);

    let mut options = options_for(&other.url("/file"));
    options.gate.give(case.source.url());
    let (bytes, error) = read(Client::new(options).open(&source, MIDDLE, case.length()).await.expect("a body")).await;
    assert!(error.is_none() && bytes == case.part(MIDDLE));
    assert_eq!(other.seen().ranges.last(), case.origin.seen().ranges.last());
    assert_eq!(case.origin.seen().requests, 1);
}

#[tokio::test]
async fn a_redirect_to_nowhere_is_said() {
    for (to, expected) in
        [("http://[", "names no URL"), ("ftp://h.test/", "scheme"), ("http://u:p@h.test/", "password")]
    {
        let case = Case::new(Behaviour::RedirectTo(to.to_owned()));
        let error = case.refused(MIDDLE).await.to_string();
        assert!(error.contains(expected) && !error.contains("u:p"), "{error}");
    }
}

#[tokio::test]
async fn busy_servers_say_when_to_come_back() {
    for (status, code, asked, wait) in [
        ("429 Too Many Requests", 429, Some("7"), Some(7)),
        ("503 Service Unavailable", 503, Some("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0)),
        ("503 Service Unavailable", 503, Some("86400000"), Some(3600)),
        ("503 Service Unavailable", 503, Some("soon"), None),
        ("500 Internal Server Error", 500, None, None),
        ("502 Bad Gateway", 502, None, None),
    ] {
        let case = Case::new(Behaviour::Status { status, retry_after: asked.map(str::to_owned), times: 1 });
        let error = case.refused(MIDDLE).await;
        assert!(matches!(error, Error::Busy { status, .. } if status == code), "{error}");
        assert_eq!(error.retry_after(), wait.map(Duration::from_secs), "{status} {asked:?}");
        assert_eq!((error.fault(), error.retry()), (SourceFault::Busy, true));
        let (bytes, error) = read(case.open(MIDDLE).await.expect("a body")).await;
        assert!(error.is_none() && bytes == case.part(MIDDLE));
    }
}

#[tokio::test]
async fn what_is_not_there_stays_away() {
    for status in [
        "404 Not Found",
        "403 Forbidden",
        "410 Gone",
        "401 Unauthorized",
        "416 Range Not Satisfiable",
        "501 No",
        "204 No Content",
        "304 Not Modified",
    ] {
        let case = Case::new(Behaviour::Status { status, retry_after: None, times: 1 });
        let error = case.refused(MIDDLE).await;
        assert!(matches!(error, Error::Status { .. }), "{status}: {error}");
        assert_eq!((error.fault(), error.retry(), error.code()), (SourceFault::Refused, false, Code::NoSource));
    }
}

#[tokio::test]
async fn another_length_is_found_out_in_one_request() {
    for behaviour in [Behaviour::OtherLength(5 * MIB), Behaviour::OtherLength(2 * MIB), Behaviour::OtherLength(10)] {
        let case = Case::new(behaviour.clone());
        let error = case.refused(MIDDLE).await;
        let expected = case.length();
        assert!(
            matches!(error, Error::Changed { change: Change::Length { expected: e, .. }, .. } if e == expected),
            "{behaviour:?}: {error}"
        );
        assert_eq!((error.fault(), error.retry(), error.code()), (SourceFault::Changed, false, Code::SourceChanged));
        assert_eq!(case.origin.seen().requests, 1);
    }
}

#[tokio::test]
async fn a_page_in_the_files_place_is_named_as_one() {
    let case = Case::new(Behaviour::HtmlErrorPage200);
    let error = case.refused(MIDDLE).await;
    assert!(matches!(error, Error::Changed { .. }) && error.to_string().contains("text/html"), "{error}");
}

#[tokio::test]
async fn a_file_replaced_midway_is_found_out_by_the_next_request() {
    let case = Case::new(Behaviour::ChangesAfter(1));
    assert!(read(case.open(range(0, MIB)).await.expect("a body")).await.1.is_none());
    let error = case.refused(MIDDLE).await;
    assert!(matches!(error, Error::Changed { change: Change::Validator { .. }, .. }), "{error}");
    assert_eq!(case.origin.seen().requests, 2);
}

#[tokio::test]
async fn servers_that_disagree_about_the_tag_alone_are_used_without_it() {
    let case = Case::new(Behaviour::NewTagEachTime);
    for asked in [range(0, MIB), MIDDLE, range(2 * MIB, MIB)] {
        let body = case.open(asked).await.expect("a body");
        assert!(!body.is_whole_file());
        let (bytes, error) = read(body).await;
        assert!(error.is_none() && bytes == case.part(asked));
    }
    // Once, a whole file came for a range, and was left lying.
    assert_eq!(case.origin.seen().requests, 4);
}

#[tokio::test]
async fn other_bytes_of_the_same_length_pass_and_are_the_hashes_to_judge() {
    let case = Case::new(Behaviour::OtherBytes);
    let (bytes, error) = read(case.open(MIDDLE).await.expect("a body")).await;
    assert!(error.is_none() && bytes.len() as u64 == MIB && bytes != case.part(MIDDLE));
}

#[tokio::test]
async fn compression_that_nobody_asked_for_is_refused() {
    let case = Case::new(Behaviour::Gzip);
    let error = case.refused(MIDDLE).await;
    assert!(matches!(&error, Error::Compressed { encoding, .. } if encoding == "gzip"), "{error}");
    let error = case.client.fetch_small(&case.origin.url("/file"), 10 * MIB).await.expect_err("refused");
    assert!(matches!(error, Error::Compressed { .. }), "{error}");
}

#[tokio::test]
async fn silence_within_a_body_ends_it() {
    let case = Case::new(Behaviour::StallsAfter(1000));
    let began = Instant::now();
    let (bytes, error) = read(case.open(MIDDLE).await.expect("a body")).await;
    assert!(bytes == case.part(range(MIB, 1000)));
    let error = error.expect("stalled");
    assert!(matches!(error, Error::TimedOut { stage: Stage::Body, .. }), "{error}");
    assert_eq!((error.fault(), error.retry()), (SourceFault::TimedOut, true));
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn silence_before_the_head_ends_the_request() {
    let case = Case::with(Behaviour::Silent, |options| options.head_timeout = Duration::from_millis(300));
    let error = case.refused(MIDDLE).await;
    assert!(matches!(error, Error::TimedOut { stage: Stage::Head, .. }), "{error}");
}

#[tokio::test]
async fn a_trickle_is_no_delivery() {
    let case = Case::with(Behaviour::SlowTrickle(500), |options| {
        options.rate_bytes_min = 10_000;
        options.rate_window = Duration::from_millis(500);
    });
    let (bytes, error) = read(case.open(MIDDLE).await.expect("a body")).await;
    assert!(matches!(error, Some(Error::TimedOut { stage: Stage::Rate { bytes_min: 10_000 }, .. })), "{error:?}");
    assert!(!bytes.is_empty() && bytes == case.part(range(MIB, bytes.len() as u64)));
}

#[tokio::test]
async fn a_slow_reader_is_not_taken_for_a_slow_server() {
    let case = Case::with(Behaviour::Normal, |options| {
        options.rate_bytes_min = 1 << 30;
        options.rate_window = Duration::from_millis(200);
    });
    let mut body = case.open(MIDDLE).await.expect("a body");
    let mut bytes = body.chunk().await.expect("bytes").expect("bytes").to_vec();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let (rest, error) = read(body).await;
    bytes.extend(rest);
    assert!(error.is_none(), "{error:?}");
    assert!(bytes == case.part(MIDDLE));
}

#[tokio::test]
async fn a_server_that_hangs_up_is_unreachable_and_so_is_none() {
    let case = Case::new(Behaviour::ClosesAtOnce);
    let error = case.refused(MIDDLE).await;
    assert!(matches!(error, Error::Unreachable { .. }) && error.retry(), "{error}");

    let address = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let url = format!("http://{address}/file?token=secret");
    let source = Source::new(&url).expect("a URL");
    let error = Client::new(options_for(&url)).open(&source, MIDDLE, 3 * MIB).await.expect_err("refused");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
}

#[tokio::test]
async fn no_more_requests_than_slots_run_at_once() {
    let case = Case::with(Behaviour::StallsAfter(1), |options| {
        options.connections_per_host = 2;
        options.stall_timeout = Duration::from_secs(60);
    });
    let first = case.open(MIDDLE).await.expect("a body");
    let _second = case.open(MIDDLE).await.expect("a body");
    assert!(tokio::time::timeout(Duration::from_millis(200), case.open(MIDDLE)).await.is_err());
    assert_eq!(case.origin.seen().requests, 2);
    drop(first);
    case.open(MIDDLE).await.expect("a body");
}

#[tokio::test]
async fn small_documents_are_read_up_to_their_bound() {
    let case = Case::new(Behaviour::Normal);
    let url = case.origin.url("/file");
    for behaviour in [Behaviour::Normal, Behaviour::Chunked, Behaviour::WholeUntilClose] {
        case.origin.behave(behaviour.clone());
        let whole = case.client.fetch_small(&url, case.length()).await.expect("fetched");
        assert!(whole == case.content, "{behaviour:?}");
        let error = case.client.fetch_small(&url, case.length() - 1).await.expect_err("too large");
        assert!(matches!(error, Error::TooLarge { .. }), "{behaviour:?}: {error}");
    }
    case.origin.behave(Behaviour::EndlessBody);
    let error = case.client.fetch_small(&url, 4 * MIB).await.expect_err("endless");
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    case.origin.behave(Behaviour::TruncatesAfter(9));
    let error = case.client.fetch_small(&url, 4 * MIB).await.expect_err("truncated");
    assert!(matches!(error, Error::Truncated { .. }), "{error}");
    assert!(matches!(case.client.fetch_small("nonsense", 1).await, Err(Error::BadUrl { .. })));
}
