//! An appliance over a bucket: what lies there is served to peers though the disk has room for a part of it alone.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use piecework::drivers::sources::{Bucket as Listed, Client, Gate, Options, Signer};
use serde_json::Value;

use crate::daemon::{asked, node, signal, status_when};
use crate::support::bucket::{ACCESS, Bucket, REGION, SECRET, Whim, hmac};
use crate::support::{PATIENCE, Running, Site, bytes, n, same};

const MIB: usize = 1 << 20;

/// A folder, a bucket, and what was put into it: each `NAME` with its manifest below `sets/a b/`.
struct Scene {
    site: Site,
    bucket: Bucket,
    contents: BTreeMap<String, Vec<u8>>,
}

impl Scene {
    fn new(sizes: &[(&str, usize)]) -> Self {
        let (site, bucket) = (Site::new(), Bucket::start());
        let mut contents = BTreeMap::new();
        for (seed, (name, length)) in (100..).zip(sizes) {
            let content = bytes(seed, *length);
            site.file(name, &content);
            let manifest = site.publish(name, &[]);
            bucket.put(&format!("sets/a b/{name}"), &content);
            bucket.put(&format!("sets/a b/{name}.piecework"), &std::fs::read(manifest).expect("published"));
            contents.insert((*name).to_owned(), content);
        }
        site.trust("n");
        Self { site, bucket, contents }
    }

    /// An appliance with room for so many MiB in its cache; and its address.
    fn appliance(&self, mib: usize) -> (Running, String) {
        self.site.file("object-key", format!("{ACCESS}\n{SECRET}\n").as_bytes());
        let config = format!(
            "[policy]\nmin_free_disk = 0\nmax_cache_size = \"{mib} MiB\"\n[appliance]\n\
             objects = [\"http://{}/b/sets/\"]\nobjects_region = \"{REGION}\"\nobjects_key_file = {:?}\n",
            self.bucket.address,
            self.site.text("object-key")
        );
        self.site.file("c.toml", config.as_bytes());
        let node = node(&self.site, &["--role", "appliance", "--config", "c.toml", "-v"], |_| ());
        let status = status_when(&self.site, |status| n(&status["appliance"], "watched_served") > 0);
        (node, status["listening"][0].as_str().expect("an address").to_owned())
    }

    /// A peer that asks the appliance for it, for so many seconds.
    fn get(&self, name: &str, out: &str, address: &str, seconds: u32) -> Running {
        let (manifest, seconds, state) = (format!("{name}.piecework"), seconds.to_string(), format!("client-{out}"));
        self.site.trust(&state);
        let how = ["--state", &state, "--peer", address, "--mode", "simple", "--timeout", &seconds];
        self.site.get(&[&[&manifest, "-o", out][..], &how].concat())
    }

    /// A peer gets it from the appliance, right.
    fn got(&self, name: &str, out: &str, (node, address): &(Running, String)) {
        let result = self.get(name, out, address, 60).result();
        assert_eq!(result["error"], Value::Null, "{name}: {result}; {}", node.stderr());
        assert_eq!(n(&result, "bytes_from_peers"), n(&result, "bytes_total"), "{name}: {result}");
        assert!(same(&self.site.path(out), &self.contents[name]), "{name}");
    }

    fn ranges_of(&self, name: &str) -> usize {
        self.bucket.ranges_of(&format!("sets/a b/{name}"))
    }

    /// Bytes that the cache takes on disk.
    fn occupied(&self) -> u64 {
        let contents = std::fs::read_dir(self.site.path("n/cache/contents")).expect("a cache");
        contents.map(|entry| entry.expect("it").metadata().map_or(0, |data| data.blocks() * 512)).sum()
    }

    /// Names of what the cache has.
    fn cached(&self) -> Vec<String> {
        let listed = asked(&self.site, &["cache", "list"]);
        let rows = listed.as_array().or_else(|| listed["entries"].as_array()).expect("rows").clone();
        let mut names: Vec<_> =
            rows.iter().map(|row| row["name"].as_str().expect("a name").replace("demo/", "")).collect();
        names.sort();
        names
    }

    /// The records of all entries of the cache.
    fn records(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = std::fs::read_dir(self.site.path("n/cache/entries")).expect("a cache");
        let records = entries.map(|entry| entry.expect("it").path().join("state"));
        records.filter_map(|record| Some((record.clone(), std::fs::read(&record).ok()?))).collect()
    }

    fn refused(&self) -> Vec<(String, String)> {
        let status = asked(&self.site, &["status"]);
        let rows = status["appliance"]["refused"].as_array().expect("a list");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        rows.iter().map(|row| (text(&row["path"]), text(&row["reason"]))).collect()
    }

    /// What is refused, once it is as wanted.
    fn refused_when(&self, wanted: impl Fn(&[(String, String)]) -> bool) -> Vec<(String, String)> {
        when(|| Some(self.refused()).filter(|refused| wanted(refused)))
    }
}

/// What is there, once it is.
fn when<T>(look: impl Fn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "it does not come");
    }
}

/// The test's own calculation is held against RFC 4231, case 2.
#[test]
fn the_bucket_of_the_tests_calculates_as_the_reference_does() {
    let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    assert_eq!(data_encoding::HEXLOWER.encode(&hmac(b"Jefe", b"what do ya want for nothing?")), expected);
}

#[test]
fn a_bucket_larger_than_the_cache_is_served_by_ranges_verified_and_cached() {
    let names = ["one", "two", "three", "four", "five"];
    let scene = Scene::new(&names.map(|name| (name, 16 * MIB)));
    let limit = 24 * MIB as u64;
    let appliance = scene.appliance(24);
    status_when(&scene.site, |status| n(&status["appliance"], "watched_served") == 5);
    assert_eq!(scene.bucket.sent(), 0, "nothing is read before somebody asks");
    for name in names {
        scene.got(name, &format!("out-{name}"), &appliance);
        assert!(scene.occupied() <= limit, "{}", scene.occupied());
        assert!(scene.ranges_of(name) > 1, "{}", scene.ranges_of(name));
        assert_eq!(scene.cached(), [name]);
    }
    // One that is in the cache is not read again, nor is anything else asked of the bucket.
    let before = scene.bucket.log().len();
    scene.got("five", "out-again", &appliance);
    assert_eq!(scene.bucket.log().len(), before);
    assert_eq!(scene.bucket.sent(), 5 * 16 * MIB, "every byte came once");
    let totals = &asked(&scene.site, &["status"])["totals"];
    assert_eq!(n(totals, "bytes_from_http"), 5 * 16 * MIB as u64, "{totals}");
    // And one that gave way is to be had again.
    scene.got("one", "out-once-more", &appliance);
    assert!(scene.occupied() <= limit);
    assert!(scene.bucket.log().iter().all(|(_, _, status)| *status < 300));
    let counts = || {
        let log = asked(&scene.site, &["log"]);
        let of = |what: &str| log.as_array().expect("records").iter().filter(|record| record["what"] == what).count();
        ["trusted", "fetched", "evicted"].map(of)
    };
    when(|| (counts() == [6, 6, 5]).then_some(()));
    // What is put there later is seen after a reload, if not before.
    let more = bytes(99, MIB);
    scene.site.file("more", &more);
    scene.bucket.put("sets/more.piecework", &std::fs::read(scene.site.publish("more", &[])).expect("published"));
    scene.bucket.put("sets/more", &more);
    scene.bucket.remove("sets/a b/two.piecework");
    scene.bucket.remove("sets/a b/three.piecework");
    signal(&appliance.0, "-HUP");
    status_when(&scene.site, |status| n(&status["appliance"], "watched_served") == 4);
    let result = scene.get("more", "out-more", &appliance.1, 60).result();
    assert_eq!(result["error"], Value::Null, "{result}");
    assert!(same(&scene.site.path("out-more"), &more));
}

#[test]
fn of_several_contents_of_a_bucket_the_least_recently_used_gives_way() {
    let scene = Scene::new(&[("one", 4 * MIB + 3), ("two", 4 * MIB), ("three", 4 * MIB - 1), ("huge", 12 * MIB)]);
    let tree = (bytes(88, MIB + 1), bytes(89, 10));
    scene.site.file("tree/x/large", &tree.0);
    scene.site.file("tree/small", &tree.1);
    let manifest = scene.site.publish("tree", &[]);
    scene.bucket.put("sets/tree.piecework", &std::fs::read(manifest).expect("published"));
    scene.bucket.put("sets/tree/x/large", &tree.0);
    scene.bucket.put("sets/tree/small", &tree.1);
    scene.bucket.put("sets/junk.piecework", b"no manifest");
    scene.bucket.put("sets/../x.piecework", b"no path");
    scene.bucket.put("elsewhere/one.piecework", b"not below the prefix");
    scene.bucket.pages_of(2);
    let appliance = scene.appliance(11);
    let refused = scene.refused_when(|refused| refused.len() == 3);
    let of = |ending: &str| refused.iter().find(|(path, _)| path.ends_with(ending)).map(|(_, reason)| reason.as_str());
    assert!(of("/b/sets/junk.piecework").is_some(), "{refused:?}");
    assert!(of("/b/").is_some_and(|reason| reason.contains("1 objects have a key that is no path")), "{refused:?}");
    let large = of("/sets/a%20b/huge.piecework").unwrap_or_default();
    assert!(large.contains("12582912 bytes") && large.contains("max_cache_size"), "{refused:?}");
    assert_eq!(n(&asked(&scene.site, &["status"])["appliance"], "watched_served"), 4);

    scene.got("one", "out-1", &appliance);
    scene.got("two", "out-2", &appliance);
    scene.got("one", "out-3", &appliance);
    scene.got("three", "out-4", &appliance);
    assert_eq!(scene.cached(), ["one", "three"], "{}", appliance.0.stderr());
    let result = scene.get("tree", "tree-out", &appliance.1, 60).result();
    assert_eq!(result["error"], Value::Null, "{result}");
    assert!(same(&scene.site.path("tree-out/x/large"), &tree.0) && same(&scene.site.path("tree-out/small"), &tree.1));
    assert_eq!(scene.cached(), ["one", "three", "tree"]);

    // What has no room at all drives nothing out, and nothing of it is read.
    let result = scene.get("huge", "huge-out", &appliance.1, 3).result();
    assert_eq!(result["error"]["code"], "no_source", "{result}");
    assert_eq!((scene.cached().len(), scene.ranges_of("huge")), (3, 0));
    assert!(appliance.0.stderr().contains("max_cache_size"), "{}", appliance.0.stderr());
}

#[test]
fn two_that_ask_at_one_time_are_both_served_where_there_is_room_for_one() {
    let scene = Scene::new(&[("one", 16 * MIB), ("two", 16 * MIB)]);
    let appliance = scene.appliance(24);
    status_when(&scene.site, |status| n(&status["appliance"], "watched_served") == 2);
    scene.bucket.allow(Some(4 * MIB));
    let first = scene.get("one", "1", &appliance.1, 80);
    when(|| (scene.bucket.sent() > 3 * MIB).then_some(()));
    let second = scene.get("two", "2", &appliance.1, 80);
    let refused = scene.refused_when(|refused| !refused.is_empty());
    assert!(refused[0].0.ends_with("/two.piecework") && refused[0].1.contains("max_cache_size"), "{refused:?}");
    assert_eq!(scene.ranges_of("two"), 0);
    scene.bucket.allow(None);
    for (client, name, out) in [(first, "one", "1"), (second, "two", "2")] {
        let result = client.result();
        assert_eq!(result["error"], Value::Null, "{name}: {result}; {}", appliance.0.stderr());
        assert!(same(&scene.site.path(out), &scene.contents[name]), "{name}");
    }
    assert!(scene.occupied() <= 24 * MIB as u64);
    assert_eq!(scene.refused_when(|refused| refused.is_empty()), []);
}

#[test]
fn a_bucket_that_is_gone_fails_what_is_not_cached_alone_and_status_says_so() {
    let scene = Scene::new(&[("one", 3 * MIB), ("two", 3 * MIB)]);
    let appliance = scene.appliance(100);
    status_when(&scene.site, |status| n(&status["appliance"], "watched_served") == 2);
    // A bucket that asks for patience is given it.
    scene.bucket.behave(Whim::SlowDown(3));
    scene.got("one", "out-one", &appliance);
    assert!(scene.bucket.log().iter().filter(|(_, _, status)| *status == 503).count() == 3);
    scene.bucket.behave(Whim::Gone);
    scene.got("one", "out-cached", &appliance);
    let waits = scene.get("two", "2", &appliance.1, 80);
    let refused = scene.refused_when(|refused| !refused.is_empty());
    assert!(refused[0].0.ends_with("/two.piecework") && refused[0].1.contains(&scene.bucket.address), "{refused:?}");
    // Who still wants it gets it when the bucket is there again.
    scene.bucket.behave(Whim::None);
    let result = waits.result();
    assert_eq!(result["error"], Value::Null, "{result}; {}", appliance.0.stderr());
    assert!(same(&scene.site.path("2"), &scene.contents["two"]));
    assert_eq!(scene.refused_when(|refused| refused.is_empty()), []);
}

#[test]
fn what_a_bucket_has_wrong_is_never_served() {
    let scene = Scene::new(&[("wrong", 3 * MIB), ("cut", 3 * MIB), ("beside", 3 * MIB)]);
    let mut content = scene.contents["wrong"].clone();
    (0..3).for_each(|piece| content[piece * MIB + 7] ^= 1);
    scene.bucket.put("sets/a b/wrong", &content);
    let appliance = scene.appliance(100);
    status_when(&scene.site, |status| n(&status["appliance"], "watched_served") == 3);
    for (name, whim) in [("wrong", Whim::None), ("cut", Whim::Truncates(1000)), ("beside", Whim::WrongRange)] {
        scene.bucket.behave(whim);
        let result = scene.get(name, &format!("{name}-out"), &appliance.1, 4).result();
        assert_eq!(result["error"]["code"], "no_source", "{result}");
        assert!(scene.ranges_of(name) > 0 && !scene.site.path(&format!("{name}-out")).exists());
    }
    assert_eq!(n(&asked(&scene.site, &["status"])["totals"], "bytes_to_peers"), 0);
    // Nothing of it is held as right either.
    scene.bucket.behave(Whim::None);
    scene.bucket.put("sets/a b/wrong", &scene.contents["wrong"]);
    scene.got("wrong", "right", &appliance);
}

#[test]
fn an_appliance_killed_while_it_fetches_from_a_bucket_goes_on_where_it_was() {
    let scene = Scene::new(&[("one", 4 * MIB), ("two", 16 * MIB), ("three", 16 * MIB)]);
    let mut appliance = scene.appliance(24);
    status_when(&scene.site, |status| n(&status["appliance"], "watched_served") == 3);
    scene.got("one", "out-one", &appliance);
    let before = scene.records();
    scene.bucket.allow(Some(0));
    let mut client = scene.get("two", "out-killed", &appliance.1, 60);
    let fresh = when(|| Some(scene.records()).filter(|records| records.len() > before.len()));
    // What has come is safe once the entry's record says so.
    scene.bucket.allow(Some(9 * MIB));
    when(|| (scene.records() != fresh).then_some(()));
    appliance.0.kill();
    client.kill();
    let before = scene.bucket.sent();
    scene.bucket.allow(None);
    let appliance = scene.appliance(24);
    status_when(&scene.site, |status| n(&status["appliance"], "watched_served") == 3);
    scene.got("two", "out-two", &appliance);
    let fetched = scene.bucket.sent() - before;
    assert!(fetched <= 13 * MIB, "what was there is not fetched again: {fetched}");
    // What was whole is served from the cache still.
    let asked_for = scene.bucket.log().len();
    scene.got("one", "out-one-again", &appliance);
    assert_eq!(scene.bucket.log().len(), asked_for);
    scene.got("three", "out-three", &appliance);
    assert_eq!(scene.cached(), ["one", "three"]);
    assert!(scene.occupied() <= 24 * MIB as u64);
    for name in scene.cached() {
        let checked = asked(&scene.site, &["cache", "verify", &format!("demo/{name}")]);
        assert_eq!(checked["whole"], Value::Bool(true), "{checked}");
    }
}

/// Whoever reads the bucket: its listing page by page, and what is no listing.
#[test]
fn a_hostile_listing_is_refused_and_a_long_one_is_read_to_its_end() {
    let bucket = Bucket::start();
    let awkward = ["sets/a+b c%41&<é>.piecework", "sets/x/y.piecework"];
    let hostile = ["sets/../up.piecework", "sets/./here.piecework", "sets//twice.piecework", "sets/\u{1}.piecework"];
    (0..10_000).for_each(|number| bucket.put(&format!("sets/{number:05}.piecework"), b"x"));
    awkward.iter().chain(&hostile).for_each(|key| bucket.put(key, b"x"));
    bucket.put("sets/no-manifest", b"x");
    let url = format!("http://{}/b/sets/", bucket.address);
    let listed = Listed::new(&url).expect("a bucket");
    let client = |secret: &str| {
        let mut gate = Gate::default();
        gate.give(listed.root());
        let signer = Signer::new(listed.root(), REGION, ACCESS, secret).map(Arc::new);
        Client::new(Options { gate, signer, ..Options::default() })
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let list = |secret: &str| runtime.block_on(listed.list(&client(secret), ".piecework"));
    let listing = list(SECRET).expect("a listing");
    assert_eq!((listing.objects.len(), listing.left_out, listing.cut), (10_002, hostile.len(), false));
    let has = |key: &str| listing.objects.iter().any(|object| object.key == key);
    assert!(awkward.iter().all(|key| has(key)) && has("sets/09999.piecework"));
    assert!(bucket.log().len() > 10);
    let fault = list("another secret").expect_err("it is not ours").to_string();
    assert!(fault.contains("403"), "{fault}");

    let entry = |key: &str| format!("<Contents><Key>{key}</Key><ETag>1</ETag></Contents>");
    let page = |inner: &str| format!("<ListBucketResult>{inner}</ListBucketResult>");
    let circle = "<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>";
    let entities: String =
        (1..9).map(|level| format!("<!ENTITY e{level} \"{}\">", format!("&e{};", level - 1).repeat(9))).collect();
    for (text, expected) in [
        (page(&entry(&"k".repeat(5 << 20))), "larger than"),
        (page(circle), "no listing"),
        (format!("<!DOCTYPE x [<!ENTITY e0 \"x\">{entities}]>{}", page(&entry("&e8;"))), "no listing"),
        (page(&"<A>".repeat(100_000)), "no listing"),
        (page(&entry("elsewhere/x.piecework")), "no listing"),
        ("<html>please log in</html>".to_owned(), "no listing"),
        (String::new(), "no listing"),
    ] {
        bucket.behave(Whim::Listing(text.clone()));
        let fault = list(SECRET).expect_err("no listing").to_string();
        assert!(fault.contains(expected), "{expected}: {fault}");
    }
}
