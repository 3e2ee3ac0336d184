//! The daemon as people and machines meet it: its control socket, the commands that ask it, its service manager.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use piecework::surfaces::control::{Client, OPENAPI, ROUTES};
use serde_json::{Value, json};

use crate::support::{PATIENCE, Running, Site, bytes, command, n};

const MIB: usize = 1 << 20;

/// A daemon in `site`, with its state in `n`.
pub fn node(site: &Site, args: &[&str], dress: impl FnOnce(&mut Command)) -> Running {
    let mut node = command();
    node.current_dir(site.path("")).args(["node", "--mode", "simple", "--state", "n", "--listen", "127.0.0.1:0"]);
    node.args(args);
    dress(&mut node);
    let node = Running::start(node);
    node.address();
    node
}

/// The only content in the cache of the daemon in `n`.
pub fn cached_copy(site: &Site) -> std::path::PathBuf {
    let mut contents = std::fs::read_dir(site.path("n/cache/contents")).expect("a cache");
    contents.next().expect("a content").expect("it").path()
}

/// What a command says with `--json` about the daemon in `n`.
pub fn asked(site: &Site, args: &[&str]) -> Value {
    let said = site.ok(&[args, &["--json", "--state", "n"]].concat());
    serde_json::from_str(said.trim()).expect("JSON")
}

/// The status, once it is as wanted.
pub fn status_when(site: &Site, wanted: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let status = asked(site, &["status"]);
        if wanted(&status) {
            return status;
        }
        assert!(began.elapsed() < PATIENCE, "{status}");
    }
}

pub fn signal(node: &Running, name: &str) {
    let sent = Command::new("kill").args([name, &node.pid().to_string()]).status().expect("kill is there");
    assert!(sent.success());
}

/// A stand-in for a service manager's socket.
struct Manager(UnixDatagram);

impl Manager {
    fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self(socket)
    }

    /// The next message that is no heartbeat.
    fn hears(&self) -> String {
        loop {
            let mut buffer = [0; 4096];
            let length = self.0.recv(&mut buffer).expect("a message in time");
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text != "WATCHDOG=1" {
                return text;
            }
        }
    }
}

#[test]
fn a_daemon_tells_its_service_manager_and_whoever_asks_what_it_does() {
    let site = Site::new();
    let content = bytes(61, 3 * MIB + 7);
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("n");
    let seed = site.seed("f", "seed-state");
    let manager = Manager::new(&site.path("notify"));
    let notify = site.text("notify");
    let mut node = node(&site, &["--fetch", "f.piecework", "--peer", &seed.address()], |node| {
        node.env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "200000");
    });
    assert!(manager.hears().starts_with("READY=1\nSTATUS=serving"));
    let status = status_when(&site, |status| status["downloads"][0]["status"] == "complete");
    let download = &status["downloads"][0];
    assert_eq!(n(download, "bytes_from_peers"), content.len() as u64, "{status}");
    assert_eq!((&download["name"], &download["uid"]), (&json!("demo/f"), &Value::Null), "{status}");
    assert_eq!(n(&status["totals"], "bytes_from_peers"), content.len() as u64, "{status}");
    let peers = asked(&site, &["peers"]);
    assert_eq!((n(&peers[0], "bytes_received"), &peers[0]["scope"]), (content.len() as u64, &json!("host")), "{peers}");
    assert_eq!((&peers[0]["path"], &peers[0]["inbound"]), (&json!("direct"), &json!(false)), "{peers}");
    let perf = asked(&site, &["perf"]);
    assert_eq!((n(&perf, "contents"), n(&perf, "peer_count")), (1, 1), "{perf}");
    assert!(n(&perf, "resident_bytes") > 0 && n(&perf, "disk_free_bytes") > 0, "{perf}");
    let cache = asked(&site, &["cache", "list"]);
    assert_eq!((&cache[0]["name"], n(&cache[0], "bytes_total")), (&json!("demo/f"), content.len() as u64), "{cache}");
    for (args, said) in [
        (vec!["status"], "demo/f"),
        (vec!["peers"], "127.0.0.1"),
        (vec!["perf"], "resident memory"),
        (vec!["cache", "list"], "demo/f"),
    ] {
        let text = site.ok(&[args.as_slice(), &["--state", "n"]].concat());
        assert!(text.contains(said), "{text}");
    }
    signal(&node, "-HUP");
    assert!(manager.hears().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert!(manager.hears().starts_with("READY=1"));
    signal(&node, "-TERM");
    assert_eq!(manager.hears(), "STOPPING=1");
    assert_eq!(node.wait(), Some(0), "{}", node.stderr());
    assert!(!site.path("n/control.sock").exists(), "the socket goes with its daemon");
    site.refused(&["status", "--state", "n"], 69, "no_daemon");
}

#[test]
fn downloads_stand_still_while_the_daemon_is_paused() {
    let site = Site::new();
    site.file("f", &bytes(62, 2 * MIB));
    site.publish("f", &[]);
    site.trust("n");
    let [port] = crate::support::free_ports::<1>();
    let address = format!("127.0.0.1:{port}");
    let _node = node(&site, &["--fetch", "f.piecework", "--peer", &address], |_| ());
    status_when(&site, |status| status["downloads"][0]["status"] == "downloading");
    assert_eq!(asked(&site, &["pause"]), json!({ "paused": true }));
    let status = status_when(&site, |status| status["downloads"][0]["status"] == "paused");
    assert_eq!(status["paused"], true);
    let _seed = site.seed_at("f", "seed-state", &address);
    status_when(&site, |status| n(status, "peer_count") == 1);
    assert_eq!(asked(&site, &["status"])["downloads"][0]["status"], "paused");
    assert_eq!(asked(&site, &["resume"]), json!({ "paused": false }));
    status_when(&site, |status| status["downloads"][0]["status"] == "complete");
}

/// Whether a value is of a schema; the few words of JSON Schema that the description uses.
pub fn fits(value: &Value, schema: &Value, document: &Value) -> Result<(), String> {
    if let Some(name) = schema["$ref"].as_str() {
        let pointer = name.strip_prefix('#').expect("a local reference");
        return fits(value, document.pointer(pointer).expect("it leads somewhere"), document);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allows = |allowed: &Value| allowed == kind || (allowed == "number" && kind == "integer");
    let types = &schema["type"];
    if !allows(types) && !types.as_array().is_some_and(|types| types.iter().any(allows)) {
        return Err(format!("{value} is no {types}"));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return Err(format!("{value} is none of {words:?}"));
    }
    if let (Some(items), Some(schema)) = (value.as_array(), schema.get("items")) {
        items.iter().try_for_each(|item| fits(item, schema, document))?;
    }
    if let (Some(object), Some(properties)) = (value.as_object(), schema["properties"].as_object()) {
        let (mut told, mut described): (Vec<_>, Vec<_>) = (object.keys().collect(), properties.keys().collect());
        told.sort();
        described.sort();
        if told != described {
            return Err(format!("it has {told:?}, the description {described:?}"));
        }
        properties.iter().try_for_each(|(key, schema)| fits(&object[key], schema, document))?;
    }
    Ok(())
}

#[test]
fn the_description_of_the_api_is_true() {
    let site = Site::new();
    site.file("f", &bytes(63, MIB));
    site.publish("f", &[]);
    site.trust("n");
    let seed = site.seed("f", "seed-state");
    let _node = node(&site, &["--fetch", "f.piecework", "--peer", &seed.address()], crate::control_tcp::door);
    status_when(&site, |status| status["downloads"][0]["status"] == "complete");
    let document: Value = serde_json::from_str(OPENAPI).expect("JSON");
    let described: usize = document["paths"]
        .as_object()
        .expect("paths")
        .values()
        .map(|path| path.as_object().map_or(0, serde_json::Map::len))
        .sum();
    assert_eq!(described, ROUTES.len(), "as many as there are routes");
    let client = Client::new(&site.path("n/control.sock"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        assert_eq!(client.get("/v1/openapi.json").await.expect("it describes itself"), document);
        let inspected: Value = serde_json::from_str(&site.ok(&["inspect", "f.piecework", "--json"])).expect("JSON");
        let manifest = inspected["manifest_id"].as_str().expect("an id").to_owned();
        let content = inspected["files"][0]["content_id"].as_str().expect("an id");
        let same = json!({ "wanted": format!("piecework:manifest:{manifest}") });
        for route in ROUTES {
            let operation = &document["paths"][route.path][route.method];
            assert!(operation.is_object(), "{} {} is not described", route.method, route.path);
            let path = route.path.replace("{number}", if route.method == "delete" { "2" } else { "1" });
            let path = path.replace("{content}", content);
            let answer = match (route.method, route.path) {
                (_, "/v1/events" | "/v1/holds") => continue,
                // What changes the cache has a story of its own.
                (method, path) if path.starts_with("/v1/cache") && method != "get" => continue,
                ("get", _) => client.get(&path).await,
                ("delete", _) => client.delete(&path).await,
                ("post", "/v1/mode") => client.post(&path, Some(&json!({ "mode": "simple" }))).await,
                ("post", "/v1/downloads") => client.post(&path, Some(&same)).await,
                _ => client.post(&path, None).await,
            };
            let answer = answer.unwrap_or_else(|error| panic!("{} {path}: {error}", route.method));
            let responses = operation["responses"].as_object().expect("responses");
            let (_, good) = responses.iter().find(|(status, _)| status.starts_with('2')).expect("a good one");
            let schema = &good["content"]["application/json"]["schema"];
            fits(&answer, schema, &document).unwrap_or_else(|why| panic!("{} {path}: {why}", route.method));
        }
        for (body, status) in [(json!({ "wanted": "/etc/passwd" }), 400), (json!({ "wanted": 5 }), 422), (json!({}), 422)] {
            let refused = client.post("/v1/downloads", Some(&body)).await.expect_err("refused");
            assert!(matches!(&refused, piecework::surfaces::control::Error::Refused { status: said, .. } if *said == status), "{refused:?}");
        }
        let mut events = client.follow("/v1/holds", &same).await.expect("held");
        let told = events.next().await.expect("an event").expect("more to come");
        fits(&told, &document["components"]["schemas"]["Download"], &document).unwrap_or_else(|why| panic!("{why}"));
        let file = client.file(&format!("/v1/downloads/1/contents/{content}")).await.expect("an open file");
        assert_eq!(file.metadata().expect("a file").len(), MIB as u64);
        for body in [json!({}), json!({ "wanted": "x", "envelope": "y" }), json!({ "envelope": "%" }), json!({ "envelope": "eA==" })] {
            assert!(client.follow("/v1/holds", &body).await.is_err(), "{body}");
        }
        assert!(client.get("/v1/downloads/77").await.is_err());
        assert!(client.get("/v1/downloads/x").await.is_err_and(|error| error.code().word() == "usage"));
        assert!(client.get("/v1/cache?after=x").await.is_err());
        assert!(client.get("/v2/status").await.is_err());
    });
    let raw = |request: &str| {
        let mut stream = UnixStream::connect(client.path()).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("written");
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).expect("an answer");
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    let web = raw("GET /v1/status HTTP/1.1\r\nHost: evil.test\r\nOrigin: http://evil.test\r\n\r\n");
    assert!(web.starts_with("HTTP/1.1 403 "), "{web}");
    let form = raw("POST /v1/downloads HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}");
    assert!(form.starts_with("HTTP/1.1 415 "), "{form}");
    let events = raw("GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(events.starts_with("HTTP/1.1 200 ") && events.contains("text/event-stream"), "{events}");
}

#[test]
fn members_of_the_group_may_look_and_strangers_may_not_even_connect() {
    let site = Site::new();
    let own = std::fs::metadata(site.path("")).expect("it is there");
    if own.uid() != 0 {
        println!("skipped: only root can act as a second user");
        return;
    }
    let open = |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("changed");
    std::fs::create_dir_all(site.path("run/piecework")).expect("made");
    ["", "run", "run/piecework"].iter().for_each(|name| open(&site.path(name)));
    let program = site.path("piecework");
    std::fs::copy(env!("CARGO_BIN_EXE_piecework"), &program).expect("copied");
    let runtime = site.path("run/piecework");
    let _node = node(&site, &[], |node| _ = node.env("RUNTIME_DIRECTORY", &runtime));
    let socket = std::fs::metadata(runtime.join("control.sock")).expect("it is there");
    assert_eq!(socket.mode() & 0o777, 0o660);
    let stranger = |gid: u32, word: &str| {
        let mut command = Command::new(&program);
        command.env_clear().env("HOME", site.path("nowhere")).env("XDG_RUNTIME_DIR", site.path("run"));
        command.current_dir("/").uid(65534).gid(gid).arg(word).arg("--json");
        let output = command.output().expect("it starts");
        let said = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        (output.status.code(), said)
    };
    assert_eq!(stranger(65534, "status").0, Some(77), "no member of the group");
    let (code, said) = stranger(socket.gid(), "status");
    assert_eq!((code, &said["paused"]), (Some(0), &json!(false)), "{said}");
    let (code, said) = stranger(socket.gid(), "pause");
    assert_eq!((code, &said["code"]), (Some(77), &json!("policy")), "{said}");
    assert_eq!(stranger(socket.gid(), "status").1["paused"], false, "nothing has changed");
}

#[test]
fn the_configuration_is_shown_with_who_set_what_and_checked_before_it_is_used() {
    let site = Site::new();
    site.file("good.toml", b"[policy]\nupload_slots = 4\n");
    site.file("bad.toml", b"[policy]\nupload_slot = 4\n");
    let shown = site.ok(&["config", "show", "--json", "--config", "good.toml"]);
    let rows: Value = serde_json::from_str(&shown).expect("JSON");
    let row =
        rows.as_array().expect("rows").iter().find(|row| row["key"] == "policy.upload_slots").expect("it is there");
    assert_eq!(row["value"], "4");
    assert!(row["provider"].as_str().is_some_and(|by| by.contains("good.toml")), "{row}");
    let checked: Value = serde_json::from_str(&site.ok(&["config", "check", "good.toml", "--json"])).expect("JSON");
    assert_eq!(checked.as_array().map(Vec::len), Some(1), "{checked}");
    let said = site.refused(&["config", "check", "bad.toml"], 78, "bad_config");
    assert!(said.contains("upload_slots"), "the nearest known key: {said}");
}

#[test]
fn the_unit_is_sound_and_its_command_line_starts_a_daemon() {
    let site = Site::new();
    let unit = include_str!("../../packaging/systemd/piecework.service");
    let line =
        unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/piecework ")).expect("a command line");
    let (state, runtime) = (site.text("n"), site.path("run"));
    std::fs::create_dir(&runtime).expect("made");
    let manager = Manager::new(&site.path("notify"));
    let mut node = command();
    node.args(line.split(' ').map(|word| if word == "/var/lib/piecework" { state.as_str() } else { word }));
    node.env("NOTIFY_SOCKET", site.path("notify")).env("RUNTIME_DIRECTORY", &runtime);
    node.env("PIECEWORK_CACHE_DIR", site.path("cache"));
    // The machine's own port may be in use, and its LAN is none of a test's business.
    node.env("PIECEWORK_LISTEN", "127.0.0.1:0").env("PIECEWORK_DOWNLOAD_MODE", "simple");
    let mut node = Running::start(node);
    assert!(manager.hears().starts_with("READY=1"), "{}", node.stderr());
    assert!(runtime.join("control.sock").exists() && site.path("cache/entries").exists());
    signal(&node, "-TERM");
    assert_eq!(manager.hears(), "STOPPING=1");
    assert_eq!(node.wait(), Some(0));
    let here = unit.replace("/usr/bin/piecework", env!("CARGO_BIN_EXE_piecework"));
    let file = site.file("piecework.service", here.as_bytes());
    match Command::new("systemd-analyze").arg("verify").arg(&file).output() {
        Err(_) => println!("skipped: no systemd-analyze on this machine"),
        Ok(verified) => {
            let said = String::from_utf8_lossy(&verified.stderr);
            assert!(verified.status.success() && !said.contains("piecework.service:"), "{said}");
        }
    }
}
