//! HTTP sources and servers that mean well: our own origin, and Debian's nginx.

use std::time::{Duration, Instant};

use piecework::drivers::origin::{Options as OriginOptions, Origin};
use piecework::drivers::sources::{Change, Client, Error, Options, Source};

use crate::source_gate::attempt;
use crate::sources::{MIB, MIDDLE, content, options_for, range, read};
use crate::support::nginx::{Nginx, NginxOptions};

#[tokio::test]
async fn our_own_origin_serves_ranges_and_counts_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bytes = content(3 * MIB + 77);
    std::fs::create_dir(folder.path().join("a b")).expect("created");
    std::fs::write(folder.path().join("a b/ü.bin"), &bytes).expect("written");
    let options = OriginOptions {
        listen: "127.0.0.1:0".parse().expect("an address"),
        root: folder.path().to_owned(),
        rate_bytes_max: None,
    };
    let origin = Origin::start(options).await.expect("an origin");
    let base = format!("http://{}/", origin.local_addr());
    let url = piecework::drivers::sources::expand_base(&base, "a b/ü.bin").expect("expands");
    let client = Client::new(options_for(&url));
    let source = Source::new(&url).expect("a URL");
    let length = bytes.len() as u64;
    for asked in [range(0, length), MIDDLE, range(length - 1, 1)] {
        let (part, error) = read(client.open(&source, asked, length).await.expect("a body")).await;
        assert!(error.is_none() && part == bytes[asked.offset as usize..asked.end() as usize]);
    }
    assert_eq!(source.serves_ranges(), Some(true));
    let asked = length + MIB + 1;
    let counts = origin.counts();
    assert_eq!((counts.requests, counts.paths["a b/ü.bin"].requests), (3, 3));
    assert_eq!(counts.paths["a b/ü.bin"].body_bytes, asked);
    assert!((asked..asked + 3000).contains(&counts.bytes_sent), "{counts:?}");

    let error = client.open(&source, MIDDLE, length + 1).await.expect_err("another length");
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    std::fs::write(folder.path().join("a b/ü.bin"), vec![7; bytes.len()]).expect("written");
    // Dates of HTTP are whole seconds, and this test is faster.
    let file = std::fs::File::options().write(true).open(folder.path().join("a b/ü.bin")).expect("opened");
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(5)).expect("dated");
    let error = client.open(&source, MIDDLE, length).await.expect_err("another file");
    assert!(matches!(error, Error::Changed { change: Change::Validator { .. }, .. }), "{error}");
    let missing = Source::new(&format!("{base}none")).expect("a URL");
    let error = client.open(&missing, MIDDLE, length).await.expect_err("not there");
    assert!(matches!(error, Error::Status { status: 404, .. }), "{error}");
}

#[tokio::test]
async fn our_own_origin_keeps_to_its_rate() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    std::fs::write(&file, content(MIB)).expect("written");
    let listen = "127.0.0.1:0".parse().expect("an address");
    let origin = Origin::start(OriginOptions { listen, root: file, rate_bytes_max: Some(2 * MIB) });
    let origin = origin.await.expect("an origin");
    let url = format!("http://{}/file", origin.local_addr());
    let (client, source) = (Client::new(options_for(&url)), Source::new(&url).expect("a URL"));
    let began = Instant::now();
    let (bytes, error) = read(client.open(&source, range(0, MIB), MIB).await.expect("a body")).await;
    assert!(error.is_none() && bytes.len() as u64 == MIB);
    // Half a second's worth; its first slice goes out at once.
    assert!(began.elapsed() > Duration::from_millis(400), "{:?}", began.elapsed());
}

#[tokio::test]
async fn nginx_serves_ranges_redirects_and_whole_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bytes = content(3 * MIB + 77);
    std::fs::write(folder.path().join("file"), &bytes).expect("written");
    let directives = "location /moved { return 302 /file; } location /busy { return 503; }
        location /whole { max_ranges 0; alias ROOT/file; }";
    let directives = directives.replace("ROOT", &folder.path().display().to_string());
    let Some(nginx) = Nginx::start(folder.path(), &NginxOptions { directives, tls: None }) else {
        return;
    };
    let url = |path: &str| format!("http://{}{path}", nginx.address());
    let client = Client::new(options_for(&url("/file")));
    let length = bytes.len() as u64;
    for path in ["/file", "/moved"] {
        let source = Source::new(&url(path)).expect("a URL");
        for asked in [MIDDLE, range(length - 1, 1), range(0, length)] {
            let (part, error) = read(client.open(&source, asked, length).await.expect("a body")).await;
            assert!(error.is_none() && part == bytes[asked.offset as usize..asked.end() as usize], "{path}");
        }
        assert_eq!(source.serves_ranges(), Some(true));
        let error = client.open(&source, MIDDLE, length - 1).await.expect_err("another length");
        assert!(matches!(error, Error::Changed { .. }), "{error}");
    }
    let body = client.open(&Source::new(&url("/whole")).expect("a URL"), MIDDLE, length).await.expect("a body");
    assert!(body.is_whole_file());
    let (whole, error) = read(body).await;
    assert!(error.is_none() && whole == bytes);
    let error = attempt(&client, &url("/busy")).await.expect_err("busy");
    assert!(matches!(error, Error::Busy { status: 503, .. }), "{error}");
    assert!(nginx.stop().iter().any(|line| line == "HTTP/1.1 206 bytes=1048576-2097151"));
}

#[tokio::test]
async fn nginx_serves_https_over_http_2_to_those_who_know_its_issuer() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=test origin", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&chain)
        .output();
    if !made.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: openssl cannot make a certificate here");
        return;
    }
    let bytes = content(3 * MIB + 77);
    std::fs::write(folder.path().join("file"), &bytes).expect("written");
    let options = NginxOptions { directives: String::new(), tls: Some((chain.clone(), key)) };
    let Some(nginx) = Nginx::start(folder.path(), &options) else {
        return;
    };
    let url = format!("https://{}/file", nginx.address());
    let (source, length) = (Source::new(&url).expect("a URL"), bytes.len() as u64);
    let error = Client::new(options_for(&url)).open(&source, MIDDLE, length).await.expect_err("a stranger");
    assert!(matches!(error, Error::Unreachable { .. } | Error::Setup { .. }), "{error}");

    let extra_roots_pem = vec![std::fs::read(&chain).expect("the certificate")];
    let client = Client::new(Options { extra_roots_pem, ..options_for(&url) });
    for asked in [MIDDLE, range(0, length)] {
        let (part, error) = read(client.open(&source, asked, length).await.expect("a body")).await;
        assert!(error.is_none() && part == bytes[asked.offset as usize..asked.end() as usize]);
    }
    assert!(nginx.stop().iter().any(|line| line == "HTTP/2.0 206 bytes=1048576-2097151"));
}
