//! The daemon's page as people see it, in a browser: its numbers are the API's, it fits a phone, it can be read in the dark
//! and used by keyboard, it asks nobody else, and it says so when the daemon is gone.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::control_tcp::door;
use crate::daemon::{asked, node, status_when};
use crate::support::browser::{Browser, LEFT, TAB};
use crate::support::origin::{Behaviour, TestOrigin};
use crate::support::{Running, Site, bytes, n};

const MIB: usize = 1 << 20;

/// A daemon that holds one content from a peer, and a part of another from a slow origin, at rest. Its numbers stand still.
fn at_rest(site: &Site) -> (Running, Running, TestOrigin) {
    site.trust("n");
    let slow = bytes(81, 24 * MIB);
    let origin = TestOrigin::start(slow.clone(), Behaviour::SlowTrickle(6 << 20));
    site.file("base", &bytes(80, 9 * MIB));
    site.file("slow", &slow);
    site.publish("base", &[]);
    site.publish("slow", &[&origin.url("/file")]);
    let seed = site.seed("base", "seed-state");
    let daemon =
        node(site, &["--fetch", "base.piecework", "--fetch", "slow.piecework", "--peer", &seed.address()], door);
    status_when(site, |status| {
        status["downloads"][0]["status"] == "complete" && n(&status["downloads"][1], "bytes_from_http") > 5 * MIB as u64
    });
    asked(site, &["pause"]);
    status_when(site, |status| status["downloads"][1]["status"] == "paused" && n(status, "peer_count") == 1);
    (daemon, seed, origin)
}

/// What the page is to show, by its own names.
fn expected(site: &Site) -> Vec<(String, u64)> {
    let (status, perf) = (asked(site, &["status"]), asked(site, &["perf"]));
    let mut all = Vec::new();
    let mut take = |prefix: String, object: &Value, keys: &[&str]| {
        all.extend(keys.iter().map(|key| (format!("{prefix}.{key}"), n(object, key))));
    };
    take(
        "totals".into(),
        &status["totals"],
        &["bytes_from_peers", "bytes_from_http", "bytes_to_peers", "bytes_wasted"],
    );
    let month = ["bytes_from_lan", "bytes_from_group", "bytes_from_internet", "bytes_from_http"];
    take("month".into(), &perf["month"], &month);
    for saved in perf["savings"].as_array().expect("rows") {
        take(format!("savings.{}", n(saved, "days")), saved, &["bytes_from_peers", "bytes_from_http"]);
    }
    for download in status["downloads"].as_array().expect("rows") {
        let keys = ["bytes_from_peers", "bytes_from_http", "bytes_already_held", "bytes_to_peers", "bytes_wasted"];
        take(format!("download.{}", n(download, "number")), download, &keys);
    }
    all
}

fn numbers_are_the_daemons(browser: &Browser, site: &Site) {
    for (key, value) in expected(site) {
        let shown = browser.when(&format!("document.querySelector('[data-key=\"{key}\"]')?.dataset.value"));
        assert_eq!(shown, json!(value.to_string()), "{key}");
    }
    let told = browser.when("document.querySelector('.map[aria-label]')?.ariaLabel");
    let status = asked(site, &["status"]);
    let held = n(&status["downloads"][1], "bytes_held") / MIB as u64;
    let (here, all) = told.as_str().and_then(|told| told.split_once(" of ")).expect("pieces");
    assert!(here.parse::<u64>().is_ok_and(|here| here <= held && here + 4 >= held), "{told}: {held} MiB are held");
    assert_eq!(all, "24 pieces are here");
    assert_eq!(browser.script("return document.querySelector('.map').dataset.cells"), "24");
    let drawn = "[...document.querySelectorAll('.map path')].map(path => path.getAttribute('d').split('M').length - 1)";
    let cells = browser.script(&format!("return {drawn}"));
    let whole = cells[4].as_u64().unwrap_or(0);
    assert_eq!(whole, here.parse::<u64>().expect("a number"), "{cells}: as many cells are full as pieces are here");
    browser.when("document.querySelectorAll('.graph .peer').length == 1");
    browser.when("document.querySelectorAll('#rates-plot path').length > 0");
    browser.when("document.querySelectorAll('#cache-list li').length == 2");
    let used: u64 =
        asked(site, &["cache", "list"]).as_array().expect("rows").iter().map(|row| n(row, "bytes_on_disk")).sum();
    browser.when(&format!("document.querySelector('[data-key=\"cache.bytes_on_disk\"]')?.dataset.value === '{used}'"));
    assert_eq!(browser.script("return document.querySelectorAll('#gates li').length"), 0);
}

fn it_fits_every_width_and_both_schemes(browser: &Browser) {
    let mut grounds = BTreeSet::new();
    for (width, height) in [(360, 740), (768, 1024), (1280, 900)] {
        for scheme in ["light", "dark"] {
            browser.looks(width, height, scheme);
            let widths = "[document.documentElement.scrollWidth - document.documentElement.clientWidth, innerWidth]";
            assert_eq!(browser.script(&format!("return {widths}")), json!([0, width]), "no scrolling sideways");
            let ground = browser.script("return getComputedStyle(document.body).backgroundColor");
            grounds.insert(ground.to_string());
            let contrast = browser.script(CONTRAST);
            assert_eq!(contrast, json!([]), "{scheme}, {width}: texts that are hard to read");
            // For whoever wants to look: the pictures are kept where this names a folder.
            if let Some(folder) = std::env::var_os("PIECEWORK_TEST_PICTURES") {
                browser.when("(drawn => drawn && drawn.getBoundingClientRect().width > 0)(document.querySelector('#rates-plot svg'))");
                browser.picture(&std::path::Path::new(&folder).join(format!("dashboard-{width}-{scheme}.png")));
            }
        }
    }
    assert_eq!(grounds.len(), 2, "light and dark differ: {grounds:?}");
}

/// Texts whose contrast to what is behind them is below 4.5 to 1 (WCAG 2.2, 1.4.3).
const CONTRAST: &str = r#"
    const parse = (text) => { const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
        const pen = canvas.getContext("2d"); pen.fillStyle = text; pen.fillRect(0, 0, 1, 1); return [...pen.getImageData(0, 0, 1, 1).data]; };
    const light = ([r, g, b]) => { const [x, y, z] = [r, g, b].map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * x + 0.7152 * y + 0.0722 * z; };
    const over = (top, under) => top.slice(0, 3).map((v, at) => v * top[3] / 255 + under[at] * (1 - top[3] / 255));
    const behind = (node) => { const all = []; for (; node; node = node.parentElement) all.unshift(parse(getComputedStyle(node).backgroundColor));
        return all.reduce((under, top) => over(top, under), [255, 255, 255]); };
    const found = [];
    for (const node of document.querySelectorAll("h1,h2,h3,p,dt,dd,li,a,summary,code,.chip,.number")) {
        if (!node.textContent.trim() || !node.checkVisibility() || node.className === "skip") continue;
        const ground = behind(node), ink = over(parse(getComputedStyle(node).color), ground);
        const [high, low] = [light(ink), light(ground)].sort((one, two) => two - one);
        if ((high + 0.05) / (low + 0.05) < 4.5) found.push(`${node.tagName}.${node.className} ${node.textContent.slice(0, 30)}`);
    }
    return found;"#;

fn the_keyboard_reaches_everything(browser: &Browser) {
    const ALL: &str = "[...document.querySelectorAll('a[href], button, summary, [tabindex=\"0\"]')].filter(node => node.checkVisibility())";
    browser.looks(1280, 900, "light");
    browser.script("document.activeElement.blur(); window.reached = new Set()");
    let count = browser.script(&format!("return {ALL}.length")).as_u64().expect("a number");
    assert!(count >= 10, "{count}: skip link, contents, plot, two downloads, a peer");
    for _ in 0..=count {
        browser.press(TAB);
        let outlined = browser.script(
            "const node = document.activeElement, style = getComputedStyle(node); window.reached.add(node); \
             return node === document.body || (style.outlineStyle !== 'none' && style.outlineWidth !== '0px') || style.strokeWidth === '4px'",
        );
        let node = || browser.script("return document.activeElement.outerHTML.slice(0, 200)");
        assert_eq!(outlined, true, "one sees where the focus is: {}", node());
    }
    let missed = browser.script(&format!(
        "return {ALL}.filter(node => !window.reached.has(node)).map(node => node.outerHTML.slice(0, 120))"
    ));
    assert_eq!(missed, json!([]), "Tab does not come to these");
    browser.script("document.querySelector('#rates-plot').focus()");
    (0..2).for_each(|_| browser.press(LEFT));
    browser.when("document.querySelector('#rates-said').textContent.includes(' ago: ')");
    browser.script("document.querySelector('.peer').focus()");
    browser.when("document.querySelector('#peer-said').textContent.includes('received 9.0 MiB')");
    // What is drawn anew keeps the focus.
    browser.script("window.dot = document.querySelector('.peer')");
    browser.when(
        "document.querySelector('.peer') !== window.dot && document.activeElement === document.querySelector('.peer')",
    );
}

#[test]
fn the_page_shows_what_the_daemon_does() {
    let Some(browser) = Browser::start() else { return };
    let site = Site::new();
    let (mut daemon, _seed, _origin) = at_rest(&site);
    let url = site.ok(&["dashboard", "--state", "n"]).trim().to_owned();
    let (base, _) = url.split_once('#').expect("a code");
    browser.looks(1280, 900, "light");
    browser.open(&url);
    browser.when("document.querySelector('#state').textContent === 'downloads paused'");
    assert_eq!(browser.script("return location.href"), json!(base), "the code is gone from where it could be read");
    assert_eq!(browser.script("return document.cookie"), json!(""), "no script reads the session");
    numbers_are_the_daemons(&browser, &site);
    it_fits_every_width_and_both_schemes(&browser);
    the_keyboard_reaches_everything(&browser);
    let asked_for = browser.requests();
    assert!(asked_for.iter().any(|asked| asked.ends_with("/v1/peers")), "{asked_for:?}");
    // The browser's own pages are within it.
    let within =
        |asked: &&String| asked.starts_with(base) || asked.starts_with("chrome://") || asked.starts_with("data:");
    let outside: Vec<_> = asked_for.iter().filter(|asked| !within(asked)).collect();
    assert!(outside.is_empty(), "{outside:?}");
    assert_eq!(browser.log("browser"), Vec::<Value>::new(), "the console is silent");
    // What is done now is seen without asking for the page again.
    asked(&site, &["resume"]);
    browser.when("document.querySelector('#state').textContent !== 'downloads paused'");
    assert_eq!(daemon.terminate(), Some(0), "{}", daemon.stderr());
    browser.when("!document.querySelector('#trouble').hidden && document.querySelector('#trouble').textContent.includes('has not answered since')");
}

#[test]
fn a_browser_without_an_invitation_is_told_how_to_come_by_one() {
    let Some(browser) = Browser::start() else { return };
    let site = Site::new();
    let _daemon = node(&site, &[], door);
    let url = site.ok(&["dashboard", "--state", "n"]).trim().to_owned();
    let (base, _) = url.split_once('#').expect("a code");
    browser.open(base);
    browser.when("document.querySelector('#trouble code')?.textContent === 'piecework dashboard'");
    // The tab is open already when the invitation comes.
    browser.open(&url);
    browser.when("document.querySelector('#state').textContent === 'at rest'");
    assert_eq!(browser.script("return document.querySelector('#trouble').hidden"), json!(true));
    browser.when("document.querySelector('#peers-none').checkVisibility() && document.querySelector('#cache-none').checkVisibility()");
}
