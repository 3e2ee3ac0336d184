//! Metrics: scraped while real bytes move, held against what moved, and against the rules of Prometheus.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use crate::daemon::{asked, node, status_when};
use crate::support::hostile::{Hostile, Malice, Publication};
use crate::support::origin::{Behaviour, TestOrigin};
use crate::support::{PATIENCE, Running, Site, bytes, command, free_ports, n};

const MIB: u64 = 1 << 20;

/// One exchange: status and body.
pub(crate) fn ask(port: u16, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).expect("a status").parse().expect("a number"), body.to_owned())
}

/// Every sample of a page, by name and labels as they stand there.
pub(crate) fn scrape(port: u16) -> BTreeMap<String, f64> {
    let (status, page) = ask(port, "GET /metrics");
    assert_eq!(status, 200, "{page}");
    assert_eq!(complaints(&page), Vec::<String>::new(), "{page}");
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a value");
        (name.to_owned(), value.parse().expect("a number"))
    };
    page.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

/// What `promtool check metrics` complains of: the rules of client_golang's `promlint`, and a page that is not the format.
fn complaints(page: &str) -> Vec<String> {
    let mut kinds = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            if help.trim().is_empty() || !helped.insert(name.to_owned()) {
                found.push(format!("{name}: no help text, or two"));
            }
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
            if kinds.insert(name.to_owned(), kind.to_owned()).is_some() {
                found.push(format!("{name}: two types"));
            }
            found.extend(wrong_name(name, kind));
            continue;
        }
        let Some((sample, value)) = line.rsplit_once(' ') else {
            found.push(format!("{line}: no sample"));
            continue;
        };
        let name = sample.split('{').next().unwrap_or_default();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
            let family = name.strip_suffix(end)?;
            (kinds.get(family).map(String::as_str) == Some("histogram")).then_some(family)
        });
        let family = family.unwrap_or(name);
        if !kinds.contains_key(family) || !helped.contains(family) {
            found.push(format!("{family}: a sample without type or help"));
        }
        if kinds.get(family).map(String::as_str) != Some("histogram") && sample.contains("le=\"") {
            found.push(format!("{family}: the label le outside a histogram"));
        }
        if value.parse::<f64>().is_err() || !seen.insert(sample.to_owned()) {
            found.push(format!("{sample}: no number, or twice"));
        }
    }
    found
}

fn wrong_name(name: &str, kind: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut refuse = |why: &str| found.push(format!("{name}: {why}"));
    let parts: Vec<&str> = name.split('_').collect();
    if (kind == "counter") != name.ends_with("_total") {
        refuse("counters, and they alone, end with _total");
    }
    if ["_bucket", "_sum", "_count"].iter().any(|end| name.ends_with(end)) {
        refuse("the ends of a histogram's samples");
    }
    if name.contains(':') || name.chars().any(|letter| letter.is_ascii_uppercase()) {
        refuse("a colon, or camel case");
    }
    if parts.iter().any(|part| ["counter", "gauge", "histogram", "summary", "untyped"].contains(part)) {
        refuse("its type in its name");
    }
    let abbreviated = ["s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"];
    let other =
        ["milliseconds", "microseconds", "minutes", "hours", "days", "bits", "kilobytes", "megabytes", "percent"];
    if parts.iter().any(|part| abbreviated.contains(part) || other.contains(part)) {
        refuse("a unit that is abbreviated, or no base unit");
    }
    found
}

#[test]
fn the_checker_of_pages_catches_what_is_wrong() {
    let right = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1\"} 1\n";
    assert_eq!(complaints(right), Vec::<String>::new());
    for wrong in [
        "# TYPE a_total counter\na_total 1\n",
        "# HELP a A.\n# TYPE a counter\na 1\n",
        "# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n",
        "# HELP a_ms A.\n# TYPE a_ms gauge\na_ms 1\n",
        "# HELP a_gauge A.\n# TYPE a_gauge gauge\na_gauge 1\n",
        "# HELP aB A.\n# TYPE aB gauge\naB 1\n",
        "# HELP a A.\n# TYPE a gauge\na 1\na 2\n",
        "# HELP a A.\n# TYPE a gauge\na{le=\"1\"} 1\n",
        "# HELP a A.\n# TYPE a gauge\na one\n",
        "b 1\n",
    ] {
        assert!(!complaints(wrong).is_empty(), "{wrong}");
    }
}

/// A daemon with metrics at this port, and its state in `state`.
fn measured(site: &Site, state: &str, port: u16, args: &[&str]) -> Running {
    let mut node = command();
    node.current_dir(site.path("")).env("PIECEWORK_METRICS_LISTEN", format!("127.0.0.1:{port}"));
    node.args(["node", "--mode", "simple", "--state", state]).args(args);
    let node = Running::start(node);
    node.address();
    node
}

#[test]
fn what_is_scraped_is_what_was_moved_and_wasted() {
    let content = bytes(63, 6 * MIB as usize);
    let site = Site::new();
    site.trust("n");
    site.file("f", &content);
    site.publish("f", &[]);
    let origin = TestOrigin::start(bytes(64, 3 * MIB as usize), Behaviour::Normal);
    site.file("g", &bytes(64, 3 * MIB as usize));
    site.publish("g", &[&origin.url("/file")]);
    let envelope = std::fs::read(site.path("f.piecework")).expect("published");
    let liar = Hostile::start(&Publication::new(envelope, &content), Malice::WrongBytes);
    let [ours, theirs, listen] = free_ports();
    let address = format!("127.0.0.1:{listen}");
    let args = ["--listen", "127.0.0.1:0", "--fetch", "f.piecework", "--fetch", "g.piecework"];
    let _node = measured(&site, "n", ours, &[&args[..], &["--peer", &liar.address(), "--peer", &address]].concat());
    liar.wait_for_victim();
    let _seed = measured(&site, "m", theirs, &["--listen", &address, "--serve", "f=f.piecework"]);
    let done = |status: &serde_json::Value| {
        status["downloads"].as_array().is_some_and(|rows| rows.iter().all(|row| row["status"] == "complete"))
    };
    let status = status_when(&site, done);
    let page = scrape(ours);
    let value = |name: &str| *page.get(name).unwrap_or_else(|| panic!("{name} in {page:?}")) as u64;
    assert_eq!(value("piecework_received_bytes_total{source=\"peer\",scope=\"host\"}"), content.len() as u64);
    assert_eq!(value("piecework_received_bytes_total{source=\"http\",scope=\"\"}"), 3 * MIB);
    assert_eq!(value("piecework_wasted_bytes_total{cause=\"bad_hash\"}"), liar.log.bad_mib() * MIB);
    let wasted: u64 = page
        .iter()
        .filter(|(name, _)| name.starts_with("piecework_wasted_bytes"))
        .map(|(_, bytes)| *bytes as u64)
        .sum();
    assert_eq!(wasted, n(&status["totals"], "bytes_wasted"), "{status}");
    assert_eq!(value("piecework_pieces_verified_total"), 6 + 3);
    assert_eq!(value("piecework_pieces_rejected_total"), liar.log.bad_mib());
    assert_eq!(value("piecework_downloads{state=\"complete\"}"), 2);
    assert_eq!(value("piecework_origin_with_peer_available_bytes_total"), 0);
    assert_eq!(value("piecework_piece_request_seconds_count"), 6 + liar.log.bad_mib());
    assert_eq!(value("piecework_block_write_seconds_count"), 6 + 3 + liar.log.bad_mib());
    assert!(value("piecework_source_response_seconds_count") >= 1);
    assert!(value("process_resident_memory_bytes") > 0 && value("piecework_disk_free_bytes") > 0);
    // The other end has sent what was received here; it counts a piece once its last byte is handed on.
    let began = Instant::now();
    let sent = "piecework_sent_bytes_total{scope=\"host\"}";
    while scrape(theirs).get(sent).copied() != Some(content.len() as f64) {
        assert!(began.elapsed() < PATIENCE, "{:?}", scrape(theirs));
    }
    assert_eq!(ask(ours, "GET /healthz"), (200, "ok\n".to_owned()));
    assert_eq!(ask(ours, "POST /metrics").0, 405);
    assert_eq!(ask(ours, "GET /v1/status").0, 404);
}

#[test]
fn what_is_measured_is_explained_and_used_under_its_name() {
    let site = Site::new();
    let [port] = free_ports();
    let _node = measured(&site, "n", port, &["--listen", "127.0.0.1:0"]);
    let (_, page) = ask(port, "GET /metrics");
    let named = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let mut named: BTreeSet<&str> = named.collect();
    let text = include_str!("../../docs/metrics.md");
    let missing: Vec<_> = named.iter().filter(|name| !text.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/metrics.md does not explain {missing:?}");
    named.insert("up");
    for (file, text) in [
        ("docs", text),
        ("alerts", include_str!("../../packaging/prometheus/alerts.yml")),
        ("dashboard", include_str!("../../packaging/prometheus/dashboard.json")),
    ] {
        for word in text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_')) {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
            let ours = word.starts_with("piecework_") || word.starts_with("process_");
            assert!(!ours || named.contains(word) || named.contains(family), "{file}: there is no {word}");
        }
    }
    serde_json::from_str::<serde_json::Value>(include_str!("../../packaging/prometheus/dashboard.json")).expect("JSON");
}

#[test]
fn metrics_are_off_unless_asked_for_and_a_taken_port_is_refused() {
    let site = Site::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    {
        let _node = node(&site, &[], |_| ());
        let config = asked(&site, &["config", "show"]);
        let row =
            config.as_array().expect("rows").iter().find(|row| row["key"] == "metrics.listen").expect("it is there");
        assert_eq!(row["value"], "\"off\"");
    }
    site.file("c.toml", format!("[metrics]\nlisten = \"{address}\"\n").as_bytes());
    let said = site.refused(
        &["node", "--mode", "simple", "--state", "n", "--listen", "127.0.0.1:0", "--config", "c.toml"],
        71,
        "resource_refused",
    );
    assert!(said.contains(&address) && said.contains("metrics"), "{said}");
    site.file("c.toml", b"[metrics]\nlisten = \"everywhere\"\n");
    site.refused(&["config", "check", "c.toml"], 78, "bad_config");
}
