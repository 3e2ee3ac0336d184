//! What each day has moved: kept over restarts and over the end of a month, whatever the clock does and the file holds.

use serde_json::{Value, json};

use crate::daemon::{asked, node, status_when};
use crate::support::origin::{Behaviour, TestOrigin};
use crate::support::{Running, Site, bytes, n};

const MIB: u64 = 1 << 20;

/// A daemon on a machine whose date is as the site's `machine/date` says.
fn on(site: &Site, date: &str, args: &[&str]) -> Running {
    site.file("machine/date", date.as_bytes());
    node(site, args, |node| _ = node.env("PIECEWORK_MACHINE", site.path("machine")))
}

fn complete(site: &Site, count: usize) {
    status_when(site, |status| {
        let rows = status["downloads"].as_array().expect("rows");
        rows.len() == count && rows.iter().all(|row| row["status"] == "complete")
    });
}

/// Days and per cents of what was saved.
fn savings(perf: &Value) -> Vec<(u64, Value)> {
    let rows = perf["savings"].as_array().expect("rows");
    rows.iter().map(|row| (n(row, "days"), row["percent"].clone())).collect()
}

#[test]
fn what_was_saved_is_told_for_days_and_months_over_restarts() {
    let site = Site::new();
    site.trust("n");
    let http = bytes(71, MIB as usize);
    let origin = TestOrigin::start(http.clone(), Behaviour::Normal);
    site.file("f", &bytes(70, 3 * MIB as usize));
    site.file("g", &http);
    site.publish("f", &[]);
    site.publish("g", &[&origin.url("/file")]);
    let seed = site.seed("f", "seed-state");
    {
        let mut node = on(&site, "2026-01-31", &["--fetch", "f.piecework", "--peer", &seed.address()]);
        complete(&site, 1);
        let perf = asked(&site, &["perf"]);
        assert_eq!(
            (&perf["month"]["month"], n(&perf["month"], "bytes_from_lan")),
            (&json!("2026-01"), 3 * MIB),
            "{perf}"
        );
        assert_eq!(savings(&perf), [(1, json!(100.0)), (7, json!(100.0)), (28, json!(100.0))]);
        assert_eq!(node.terminate(), Some(0), "{}", node.stderr());
    }
    assert!(
        std::fs::read_to_string(site.path("n/ledger")).expect("written").contains("\n2026-01-31 from_host=3145728")
    );
    {
        let mut node = on(&site, "2026-02-01\n", &["--fetch", "g.piecework"]);
        complete(&site, 1);
        let perf = asked(&site, &["perf"]);
        let month = &perf["month"];
        assert_eq!((n(month, "bytes_from_lan"), n(month, "bytes_from_http")), (0, MIB), "{perf}");
        assert_eq!(savings(&perf), [(1, json!(0.0)), (7, json!(75.0)), (28, json!(75.0))], "{perf}");
        let text = site.ok(&["perf", "--state", "n"]);
        assert!(text.contains("saved by peers and cache hosts in 7 days") && text.contains("75 %"), "{text}");
        // The clock is set back while the daemon runs: the days that were stay as they were.
        site.file("machine/date", b"2026-01-31");
        let perf = asked(&site, &["perf"]);
        assert_eq!(n(&perf["month"], "bytes_from_lan"), 3 * MIB, "{perf}");
        assert_eq!(savings(&perf)[0], (1, json!(100.0)));
        assert_eq!(node.terminate(), Some(0), "{}", node.stderr());
    }
    // Half a line, as people or disks leave one, costs that line.
    let text = std::fs::read_to_string(site.path("n/ledger")).expect("written");
    let cut = text.len() - 3;
    site.file("n/ledger", [&text.as_bytes()[..cut], b"x\n"].concat().as_slice());
    let mut node = on(&site, "2026-02-02", &[]);
    let perf = asked(&site, &["perf"]);
    assert_eq!(savings(&perf), [(1, Value::Null), (7, json!(100.0)), (28, json!(100.0))], "{perf}");
    assert_eq!(node.terminate(), Some(0));
    assert!(node.stderr().contains("lines of the ledger"), "{}", node.stderr());
}
