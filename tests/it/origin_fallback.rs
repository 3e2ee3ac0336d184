//! HTTP behind the peers: each way in which an origin can misbehave ends in the right file, or in an error that names
//! the culprit; and a crowd that starts together takes about one copy.

use crate::support::nginx::{Nginx, NginxOptions};
use crate::support::origin::{Behaviour, TestOrigin};
use crate::support::{Running, Site, bytes, free_ports, n, same};

const MIB: usize = 1 << 20;

/// A site whose only source is `origin`.
fn site_with(content: &[u8], urls: &[&str]) -> Site {
    let site = Site::new();
    site.file("f", content);
    site.publish("f", urls);
    site.trust("s");
    site
}

fn get(site: &Site) -> Running {
    site.get(&["f.piecework", "-o", "out", "--mode", "http-only", "--state", "s", "--timeout", "20"])
}

#[test]
fn without_peers_everything_comes_over_http() {
    let content = bytes(11, 7 * MIB + 3);
    let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
    let site = site_with(&content, &[&origin.url("/file")]);
    let result = get(&site).success();
    assert_eq!(n(&result, "bytes_from_http"), content.len() as u64);
    assert!(same(&site.path("out"), &content));
    assert_eq!(origin.seen().body_bytes, content.len() as u64, "each byte left the origin once");
}

#[test]
fn origins_that_can_be_coped_with_are_coped_with() {
    let content = bytes(12, 5 * MIB + 9);
    for behaviour in [
        Behaviour::Chunked,
        Behaviour::IgnoresRanges,
        Behaviour::WholeUntilClose,
        Behaviour::AnswersPrefix(MIB as u64 + 17),
        Behaviour::NewTagEachTime,
        Behaviour::Status { status: "503 Service Unavailable", retry_after: Some("0".into()), times: 2 },
        Behaviour::Status { status: "429 Too Many Requests", retry_after: Some("1".into()), times: 1 },
        Behaviour::Status { status: "500 Internal Server Error", retry_after: None, times: 1 },
    ] {
        let origin = TestOrigin::start(content.clone(), behaviour.clone());
        let site = site_with(&content, &[&origin.url("/file")]);
        get(&site).success();
        assert!(same(&site.path("out"), &content), "{behaviour:?}");
    }
}

#[test]
fn a_bad_origin_costs_nothing_when_a_good_one_stands_beside_it() {
    let content = bytes(13, 6 * MIB + 1);
    for behaviour in [
        Behaviour::TruncatesAfter(100_000),
        Behaviour::LiesAboutLength(-5),
        Behaviour::LiesAboutLength(1000),
        Behaviour::WrongContentRange,
        Behaviour::NoContentRange,
        Behaviour::EndlessBody,
        Behaviour::EndlessHead,
        Behaviour::RedirectCircle,
        Behaviour::RedirectForever,
        Behaviour::OtherBytes,
        Behaviour::OtherLength(77),
        Behaviour::ChangesAfter(1),
        Behaviour::Gzip,
        Behaviour::ClosesAtOnce,
        Behaviour::HtmlErrorPage200,
        Behaviour::Status { status: "404 Not Found", retry_after: None, times: u64::MAX },
        Behaviour::Status { status: "503 Service Unavailable", retry_after: Some("3600".into()), times: u64::MAX },
    ] {
        let bad = TestOrigin::start(content.clone(), behaviour.clone());
        let good = TestOrigin::start(content.clone(), Behaviour::Normal);
        let site = site_with(&content, &[&bad.url("/file"), &good.url("/file")]);
        let result = get(&site).success();
        assert!(same(&site.path("out"), &content), "{behaviour:?}");
        assert!(n(&result, "bytes_wasted") <= 10 * MIB as u64, "{behaviour:?}: {result}");
    }
}

#[test]
fn a_changed_file_is_found_out_in_under_three_requests_and_said() {
    let content = bytes(14, 8 * MIB);
    for behaviour in [Behaviour::OtherBytes, Behaviour::OtherLength(5 * MIB as u64)] {
        let origin = TestOrigin::start(content.clone(), behaviour.clone());
        let site = site_with(&content, &[&origin.url("/file")]);
        let get = get(&site);
        let result = get.result();
        assert_eq!(result["error"]["code"], "source_changed", "{behaviour:?}: {result}");
        let culprit = result["error"]["culprit"].as_str().expect("a culprit");
        assert!(culprit.contains(&origin.url("/file")), "{culprit}");
        assert!(!result["error"]["remedy"].as_str().expect("a remedy").is_empty());
        assert!(origin.seen().requests < 3, "{behaviour:?}: {} requests", origin.seen().requests);
        assert!(!site.path("out").exists());
    }
}

#[test]
fn a_source_on_this_machine_must_be_named() {
    let content = bytes(15, MIB);
    let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
    let site = Site::new();
    site.file("f", &content);
    site.publish("f", &[&origin.url("/file")]);
    site.ok(&["trust", "add", "key.pub", "--publisher", "demo", "--names", "demo/*", "--state", "s"]);
    let get = site.get(&["f.piecework", "-o", "out", "--mode", "http-only", "--state", "s", "--timeout", "5"]);
    let result = get.result();
    assert!(!result["error"].is_null(), "{result}");
    assert_eq!(origin.seen().connections, 0);
    // On the command line it is named.
    let url = origin.url("/file");
    let args = ["f.piecework", "-o", "out", "--mode", "http-only", "--state", "s", "--source", &url];
    site.get(&args).success();
}

#[test]
fn nginx_serves_a_download_and_a_manifest() {
    let content = bytes(16, 20 * MIB + 11);
    let site = Site::new();
    site.file("www/f", &content);
    let Some(nginx) = Nginx::start(&site.path("www"), &NginxOptions::default()) else { return };
    let base = format!("http://{}", nginx.address());
    site.file("f", &content);
    site.publish("f", &[&format!("{base}/f")]);
    std::fs::copy(site.path("f.piecework"), site.path("www/f.piecework")).expect("ours");
    site.trust("s");
    let url = format!("{base}/f.piecework");
    let result = site.get(&[&url, "-o", "out", "--mode", "http-only", "--state", "s"]).success();
    assert_eq!(n(&result, "bytes_from_http"), content.len() as u64);
    assert!(same(&site.path("out"), &content));
}

#[test]
fn three_peers_without_a_seed_take_about_one_copy_from_the_origin() {
    let content = bytes(17, 48 * MIB);
    let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
    let site = Site::new();
    site.file("f", &content);
    site.publish("f", &[&origin.url("/file")]);
    let ports = free_ports::<3>();
    for index in 0..3 {
        site.trust(&format!("s{index}"));
    }
    let gets: Vec<Running> = (0..3)
        .map(|index| {
            let (state, out) = (format!("s{index}"), format!("out{index}"));
            let listen = format!("127.0.0.1:{}", ports[index]);
            let others: Vec<String> =
                (0..3).filter(|other| *other != index).map(|other| format!("127.0.0.1:{}", ports[other])).collect();
            site.get(&[
                "f.piecework",
                "-o",
                &out,
                "--peer",
                &others[0],
                "--peer",
                &others[1],
                "--mode",
                "simple",
                "--state",
                &state,
                "--keep-seeding",
                "--listen",
                &listen,
            ])
        })
        .collect();
    for (index, get) in gets.iter().enumerate() {
        get.success();
        assert!(same(&site.path(&format!("out{index}")), &content));
    }
    let copies = origin.seen().body_bytes as f64 / content.len() as f64;
    assert!(copies <= 1.1, "{copies:.3} copies left the origin");
}

#[test]
fn http_takes_over_when_the_seed_dies() {
    let content = bytes(18, 32 * MIB);
    let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
    let site = Site::new();
    site.file("f", &content);
    site.publish("f", &[&origin.url("/file")]);
    site.trust("s");
    let mut seed = site.seed("f", "seed-state");
    let peer = seed.address();
    let get = site.get(&["f.piecework", "-o", "out", "--peer", &peer, "--mode", "simple", "--state", "s"]);
    get.line();
    seed.kill();
    get.success();
    assert!(same(&site.path("out"), &content));
}
