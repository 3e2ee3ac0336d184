//! The control API on TCP: who comes in with the token, with a session, and who not at all; and that nothing a page of another
//! site can make a browser send changes or tells anything.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::{Value, json};

use crate::daemon::{asked, node};
use crate::support::{PATIENCE, Running, Site};

/// For a daemon with the door open at a port of the system's choice.
pub fn door(node: &mut Command) {
    node.env("PIECEWORK_CONTROL_LISTEN", "127.0.0.1:0");
}

/// A daemon, the authority of its door, and its token.
fn open(site: &Site) -> (Running, String, String) {
    let node = node(site, &[], door);
    let url = asked(site, &["dashboard"])["url"].as_str().expect("a URL").to_owned();
    let authority = url.trim_start_matches("http://").split('/').next().expect("an authority").to_owned();
    let token = std::fs::read_to_string(site.path("n/control.token")).expect("made");
    (node, authority, token.trim().to_owned())
}

/// Status, head and body of what a request with these headers is answered.
fn ask(authority: &str, request: &str, headers: &[&str], body: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(authority).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut head = format!("{request} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    headers.iter().for_each(|header| head.push_str(&format!("{header}\r\n")));
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).expect("a status").parse().expect("a number"), head.to_ascii_lowercase(), body.to_owned())
}

#[test]
fn the_token_acts_as_the_daemons_user_and_a_session_looks() {
    let site = Site::new();
    let (node, authority, token) = open(&site);
    let host = format!("Host: {authority}");
    let bearer = format!("Authorization: Bearer {token}");
    let (status, head, body) = ask(&authority, "GET /v1/status", &[&host, &bearer], "");
    assert_eq!(status, 200, "{body}");
    assert!(
        head.contains("content-security-policy: default-src 'none'") && head.contains("cache-control: no-store"),
        "{head}"
    );
    assert_eq!(serde_json::from_str::<Value>(&body).expect("JSON")["mode"], "simple");
    assert_eq!(ask(&authority, "POST /v1/pause", &[&host, &bearer], "").0, 200);
    assert_eq!(asked(&site, &["status"])["paused"], true);
    assert_eq!(ask(&authority, "POST /v1/resume", &[&host, &bearer], "").0, 200);
    for wrong in
        ["Authorization: Bearer", "Authorization: Bearer x", "Authorization: Basic eDp5", &bearer[..bearer.len() - 1]]
    {
        let (status, head, _) = ask(&authority, "GET /v1/status", &[&host, wrong], "");
        assert!(status == 401 && head.contains("www-authenticate: bearer"), "{wrong}: {status}");
    }
    let url = site.ok(&["dashboard", "--state", "n"]).trim().to_owned();
    let code = url.split('#').nth(1).expect("a code");
    let origin = format!("Origin: http://{authority}");
    let (status, head, _) = ask(&authority, "POST /session", &[&host, &origin], code);
    assert_eq!(status, 204, "{head}");
    let set = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie").to_owned();
    assert!(set.contains("httponly") && set.contains("samesite=strict") && set.contains("path=/"), "{set}");
    let cookie = format!("Cookie: a=b; {}", set.split(';').next().expect("a pair"));
    assert_eq!(ask(&authority, "POST /session", &[&host], code).0, 401, "a code holds once");
    for path in ["status", "downloads", "peers", "perf", "rates", "cache", "log", "config", "diagnosis", "openapi.json"]
    {
        assert_eq!(ask(&authority, &format!("GET /v1/{path}"), &[&host, &cookie, &origin], "").0, 200, "{path}");
    }
    let json = "Content-Type: application/json";
    for (request, body) in [
        ("POST /v1/pause", ""),
        ("POST /v1/dashboard", ""),
        ("DELETE /v1/cache", ""),
        ("DELETE /v1/downloads/1", ""),
        ("POST /v1/downloads", "{\"wanted\":\"http://127.0.0.1/x\"}"),
        ("POST /v1/holds", "{\"wanted\":\"http://127.0.0.1/x\"}"),
        ("GET /v1/downloads/1/manifest", ""),
    ] {
        assert_eq!(ask(&authority, request, &[&host, &cookie, &origin, json], body).0, 403, "{request}");
    }
    let status = asked(&site, &["status"]);
    assert_eq!((&status["paused"], &status["downloads"]), (&json!(false), &json!([])), "nothing has changed");
    assert!(!node.stderr().contains(&token), "no log tells the token");
}

#[test]
fn nothing_that_a_page_of_another_site_makes_a_browser_send_is_answered() {
    let site = Site::new();
    let (_node, authority, token) = open(&site);
    let port = authority.rsplit(':').next().expect("a port");
    let (host, bearer) = (format!("Host: {authority}"), format!("Authorization: Bearer {token}"));
    // Each with the token, so that nothing but where it comes from is wrong.
    let foreign_hosts =
        ["evil.test", "127.0.0.1.evil.test", "localhost.evil.test", "evil.test@127.0.0.1", "2130706433", ""];
    let hosts = foreign_hosts.iter().map(|name| vec![format!("Host: {name}:{port}")]);
    let hosts = hosts.chain([vec![], vec![host.clone(), "Host: evil.test".to_owned()]]);
    let foreign_origins =
        ["http://evil.test", "https://evil.test", "null", "file://", "http://127.0.0.1:1", "http://localhost:1"];
    let origins = foreign_origins.iter().map(|origin| vec![host.clone(), format!("Origin: {origin}")]);
    let sites = ["cross-site", "same-site"].map(|site| vec![host.clone(), format!("Sec-Fetch-Site: {site}")]);
    let both = [vec![host.clone(), format!("Origin: http://{authority}"), "Origin: http://evil.test".to_owned()]];
    let mut refused = 0;
    for headers in hosts.chain(origins).chain(sites).chain(both) {
        for (request, kind, body) in [
            ("GET /v1/status", "Accept: */*", ""),
            ("POST /v1/pause", "Content-Type: text/plain", ""),
            ("DELETE /v1/cache", "Accept: */*", ""),
            ("POST /v1/downloads", "Content-Type: application/json", "{\"wanted\":\"http://127.0.0.1/x\"}"),
            ("POST /session", "Content-Type: text/plain", "x"),
        ] {
            let all: Vec<&str> = headers.iter().map(String::as_str).chain([bearer.as_str(), kind]).collect();
            let (status, head, answer) = ask(&authority, request, &all, body);
            // A request without a host, or with two, is refused by HTTP itself.
            assert!(status == 403 || status == 400, "{request} {headers:?}: {status} {answer}");
            assert!(!head.contains("access-control-allow"), "{head}");
            refused += 1;
        }
    }
    assert!(refused >= 40, "{refused}");
    // A preflight gets no leave.
    let preflight = [&host, "Origin: http://evil.test", "Access-Control-Request-Method: POST"];
    assert_eq!(ask(&authority, "OPTIONS /v1/pause", &preflight, "").0, 403);
    let status = asked(&site, &["status"]);
    assert_eq!((&status["paused"], &status["downloads"]), (&json!(false), &json!([])), "nothing has changed");
    // The page's files tell nothing and need nothing; a name that was rebound gets not even these.
    assert_eq!(ask(&authority, "GET /", &[&host], "").0, 200);
    assert_eq!(ask(&authority, "GET /", &["Host: evil.test"], "").0, 403);
    assert_eq!(ask(&authority, "GET /v1/status", &[&host], "").0, 401);
}

#[test]
fn the_door_is_shut_unless_asked_for_and_its_token_is_its_owners_alone() {
    let site = Site::new();
    {
        let _node = node(&site, &[], |_| ());
        let said = site.refused(&["dashboard", "--state", "n"], 78, "bad_config");
        assert!(said.contains("[control] listen"), "{said}");
        assert!(!site.path("n/control.token").exists());
    }
    let token = site.file("token", &[b'x'; 40]);
    let args = ["node", "--mode", "simple", "--state", "n", "--listen", "127.0.0.1:0", "--config", "c.toml"];
    let config = format!("[control]\nlisten = \"127.0.0.1:0\"\ntoken_file = {token:?}\nhosts = [\"node.example\"]\n");
    site.file("c.toml", config.as_bytes());
    std::fs::set_permissions(&token, PermissionsExt::from_mode(0o644)).expect("changed");
    assert!(site.refused(&args, 78, "bad_config").contains("0600"));
    std::fs::set_permissions(&token, PermissionsExt::from_mode(0o600)).expect("changed");
    {
        let _node = node(&site, &["--config", "c.toml"], |_| ());
        let url = asked(&site, &["dashboard"])["url"].as_str().expect("a URL").to_owned();
        let authority = url.trim_start_matches("http://").split('/').next().expect("an authority").to_owned();
        let bearer = format!("Authorization: Bearer {}", "x".repeat(40));
        let answer = |host: &str| ask(&authority, "GET /v1/status", &[&format!("Host: {host}"), &bearer], "").0;
        assert_eq!((answer("node.example"), answer("other.example")), (200, 403));
        let endpoints = site.ok(&["doctor", "endpoints", "--config", "c.toml"]);
        assert!(!endpoints.contains("control"), "nobody comes to loopback from elsewhere: {endpoints}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    site.file("c.toml", format!("[control]\nlisten = \"{address}\"\n").as_bytes());
    assert!(site.refused(&args, 71, "resource_refused").contains(&address));
}
