//! Clocks that were set back.

use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::daemon::node;
use crate::support::{Site, bytes, command, have, n, same};

const DAY: u64 = 86_400;

/// The program by a clock that is off by this, as `faketime` writes it.
fn by_clock(site: &Site, off: &str, args: &[&str]) -> Output {
    let real = command();
    let mut faked = Command::new("faketime");
    faked.args(["-f", off]).arg(real.get_program()).args(args).current_dir(site.path(""));
    // Timers of the program are none of this.
    faked.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1").env_remove("PIECEWORK_LOG");
    faked.output().expect("it starts")
}

fn publish(site: &Site, name: &str, off: &str, expires: Option<u64>) {
    let (out, publication) = (format!("{name}.piecework"), format!("demo/{name}"));
    let expires = expires.map(|at| {
        let at =
            i64::try_from(at).ok().and_then(|at| time::OffsetDateTime::from_unix_timestamp(at).ok()).expect("a time");
        at.format(&time::format_description::well_known::Rfc3339).expect("a text")
    });
    let mut args = vec!["publish", name, "--key", "key", "--name", &publication, "-o", &out, "-q"];
    args.extend(expires.iter().flat_map(|at| ["--expires", at.as_str()]));
    let said = by_clock(site, off, &args);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

#[test]
fn what_has_expired_stays_so_where_the_clock_is_behind_what_was_verified() {
    if !have("faketime") {
        return;
    }
    let site = Site::new();
    site.file("old", &bytes(1, 1000));
    site.file("new", &bytes(2, 1000));
    // To this machine's clock it is as if it had been set back by ten days.
    publish(&site, "old", "+0d", Some(now() + 5 * DAY));
    publish(&site, "new", "+10d", None);
    site.trust("s");
    let get = |manifest: &str, out: &str| {
        let seed = site.seed(manifest.trim_end_matches(".piecework"), "seed-state");
        let args = [manifest, "-o", out, "--state", "s", "--mode", "simple", "--no-daemon", "--peer", &seed.address()];
        site.get(&args).result()
    };
    let before = get("old.piecework", "a");
    assert_eq!(before["verified"], true, "nothing is known yet: {before}");
    assert_eq!(get("new.piecework", "b")["verified"], true);
    let refused = get("old.piecework", "c");
    assert_eq!(refused["error"]["code"], "expired", "{refused}");
    let said = site.refused(&["get", "old.piecework", "-o", "c", "--state", "s", "--no-daemon"], 77, "expired");
    assert!(
        said.contains("clock says")
            && said.contains("at least: a manifest of the same publisher")
            && said.contains("set it"),
        "{said}"
    );
    site.refused(&["verify", "old", "old.piecework", "--state", "s"], 77, "expired");
    assert!(site.ok(&["verify", "new", "new.piecework", "--state", "s"]).contains("new"));
    // The daemon's doctor knows, and says by whose word.
    std::fs::create_dir_all(site.path("n")).expect("made");
    let _node = node(&site, &[], |_| ());
    let well = site.run(&["doctor", "--state", "n"]);
    assert!(String::from_utf8_lossy(&well.stdout).contains("clock"), "{well:?}");
    drop(_node);
    std::fs::copy(site.path("s/newest-made"), site.path("n/newest-made")).expect("copied");
    let _node = node(&site, &[], |_| ());
    let told = site.run(&["doctor", "--state", "n"]);
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(text.contains("a manifest of demo") && text.contains("Set it"), "{text}");
}

#[test]
fn a_content_asked_for_by_its_id_needs_no_clock() {
    if !have("faketime") {
        return;
    }
    let (site, content) = (Site::new(), bytes(3, 3 << 20));
    site.file("f", &content);
    site.publish("f", &[]);
    let seed = site.seed("f", "seed-state");
    let address = seed.address();
    let link = format!("piecework:{}", blake3::hash(&content).to_hex());
    for (off, out) in [("-20y", "long-ago"), ("+20y", "far-ahead")] {
        let args = ["get", &link, "-o", out, "--state", "s", "--mode", "simple", "--no-daemon", "--json"];
        let said = by_clock(&site, off, &[&args[..], &["--peer", &address]].concat());
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.status.success(), "{off}: {text}{}", String::from_utf8_lossy(&said.stderr));
        let last = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
        assert_eq!(n(&last, "bytes_from_peers"), content.len() as u64, "{off}");
        assert!(same(&site.path(out), &content));
    }
}
