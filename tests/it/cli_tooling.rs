//! What a publisher and a receiver do at the command line: keys, publish, sign, inspect, verify, trust.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use sha2::Digest;

const MIB: usize = 1 << 20;

/// A folder in which one story is told, with its own state.
struct Desk {
    folder: tempfile::TempDir,
}

/// How a command ended.
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Desk {
    /// A desk with the key pair `k`, `k.pub` on it.
    fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        desk.ok(&["key", "new", "k"]);
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().expect("has one")).expect("made");
        fs::write(self.path(name), bytes).expect("written");
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let output = Command::new(env!("CARGO_BIN_EXE_piecework"))
            .args(arguments)
            .args(["--state", "state"])
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .env_remove("PIECEWORK_LOG")
            .output()
            .expect("the program starts");
        let Output { status, stdout, stderr } = output;
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Ended { code: status.code().expect("no signal"), stdout: text(stdout), stderr: text(stderr) }
    }

    /// Runs what must succeed.
    fn ok(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {}{}", ended.stdout, ended.stderr);
        ended.stdout
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments)).expect("one JSON object")
    }

    /// Runs what must fail with this exit code and code word, naming `culprit` and a remedy.
    fn refused(&self, arguments: &[&str], code: i32, word: &str, culprit: &str) -> String {
        let ended = self.run(arguments);
        let told = format!("{arguments:?}: {}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.code, code, "{told}");
        assert!(ended.stderr.contains(&format!("[{word}]")) && ended.stderr.contains(culprit), "{told}");
        ended.stderr
    }

    /// Publishes with the key `k`.
    fn publish(&self, path: &str, name: &str, out: &str, more: &[&str]) -> Value {
        let mut arguments = vec!["publish", path, "--key", "k", "--name", name, "-o", out, "--json"];
        arguments.extend(more);
        self.json(&arguments)
    }

    fn trust(&self, names: &str) {
        self.ok(&["trust", "add", "k.pub", "--publisher", "acme", "--names", names]);
    }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 + index / 251) as u8).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

/// Runs openssl; `None` where there is none.
fn openssl(folder: &Path, arguments: &[&str]) -> Option<Vec<u8>> {
    let Ok(output) = Command::new("openssl").args(arguments).current_dir(folder).output() else {
        println!("skipped: no openssl on this machine");
        return None;
    };
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

#[test]
fn openssl_reads_our_keys_and_we_take_its_keys() {
    let desk = Desk::new();
    let folder = desk.folder.path();
    assert_eq!((mode(&desk.path("k")), mode(&desk.path("k.pub"))), (0o600, 0o644));
    let id = desk.json(&["key", "show", "k", "--json"])["key_id"].as_str().expect("text").to_owned();
    assert_eq!(desk.json(&["key", "show", "k.pub", "--json"])["key_id"], id);
    for name in ["k", "k.pub"] {
        assert!(desk.ok(&["key", "show", name]).contains(&id));
    }
    let before = fs::read(desk.path("k")).expect("there");
    desk.refused(&["key", "new", "k"], 73, "destination_exists", "k");
    fs::write(desk.path("other.pub"), "mine").expect("written");
    desk.refused(&["key", "new", "other"], 73, "destination_exists", "other.pub");
    assert!(!desk.path("other").exists());
    assert_eq!(fs::read(desk.path("k")).expect("there"), before);

    let Some(public) = openssl(folder, &["pkey", "-in", "k", "-pubout"]) else { return };
    assert_eq!(public, fs::read(desk.path("k.pub")).expect("there"));
    let der = openssl(folder, &["pkey", "-in", "k", "-pubout", "-outform", "DER"]).expect("there is one");
    let digest: Vec<String> = sha2::Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest.concat(), id);

    openssl(folder, &["genpkey", "-algorithm", "ed25519", "-out", "theirs"]);
    openssl(folder, &["pkey", "-in", "theirs", "-pubout", "-out", "theirs.pub"]);
    desk.write("f", "bytes");
    desk.ok(&["publish", "f", "--key", "theirs", "--name", "a/b", "-o", "m"]);
    desk.ok(&["verify", "f", "m", "--key", "theirs.pub"]);
    openssl(folder, &["genpkey", "-algorithm", "x25519", "-out", "wrong"]);
    desk.refused(&["key", "show", "wrong"], 65, "bad_input", "wrong");
}

#[test]
fn a_file_is_published_inspected_and_verified() {
    let desk = Desk::new();
    let file = bytes(5 * MIB + 7);
    desk.write("big.iso", &file);
    let urls = ["--url", "http://a.test/d/", "--url", "https://b.test/exact?x=1"];
    let more = ["--version", "1.2", "--expires", "2999-01-01T00:00:00Z", "--annotation", "k=v=w"];
    let told = desk.publish("big.iso", "acme/big", "m.piecework", &[&urls[..], &more].concat());
    let content_id = blake3::hash(&file).to_string();
    assert_eq!(told["files"][0]["content_id"], content_id);
    assert_eq!(told["link"], format!("piecework:manifest:{}", told["manifest_id"].as_str().expect("text")));

    let shown = desk.json(&["inspect", "m.piecework", "--json"]);
    let entry = &shown["files"][0];
    assert_eq!((&shown["name"], &shown["version"]), (&"acme/big".into(), &"1.2".into()));
    assert_eq!((&shown["expires"], &shown["annotations"]["k"]), (&"2999-01-01T00:00:00Z".into(), &"v=w".into()));
    assert_eq!((&entry["path"], &entry["length"]), (&"big.iso".into(), &file.len().into()));
    assert_eq!((&entry["piece_bytes"], &entry["piece_count"]), (&MIB.into(), &6.into()));
    assert_eq!(entry["sources"], serde_json::json!(["http://a.test/d/big.iso", "https://b.test/exact?x=1"]));
    assert_eq!((&shown["signatures"][0]["fit"], &entry["content_id"]), (&"fits".into(), &content_id.clone().into()));
    let text = desk.ok(&["inspect", "m.piecework"]);
    for part in [content_id.as_str(), "acme/big", "2999-01-01", "5.0 MiB", "6 of 1.0 MiB", "http://a.test/d/big.iso"] {
        assert!(text.contains(part), "{part}: {text}");
    }

    desk.ok(&["verify", "big.iso", "m.piecework", "--key", "k.pub"]);
    desk.trust("acme/*");
    assert!(desk.ok(&["verify", "big.iso", "m.piecework"]).contains("verified"));
    let told = desk.json(&["verify", "big.iso", "m.piecework", "--json"]);
    assert_eq!((&told["verified"], &told["publisher"], &told["error"]), (&true.into(), &"acme".into(), &Value::Null));
}

#[test]
fn each_publication_of_a_name_has_a_higher_sequence() {
    let desk = Desk::new();
    desk.write("f", "one");
    let first = desk.publish("f", "a/b", "m", &["--sequence", "9000000000000000"]);
    let second = desk.publish("f", "a/b", "m", &[]);
    assert_eq!(
        (&first["sequence"], &second["sequence"]),
        (&9_000_000_000_000_000u64.into(), &9_000_000_000_000_001u64.into())
    );
    let other = desk.publish("f", "a/c", "m", &[]);
    assert!(other["sequence"].as_u64().expect("a number") < 9_000_000_000_000_000);
}

#[test]
fn a_folder_is_published_with_its_paths_and_executable_bits() {
    let desk = Desk::new();
    let files = [("app/bin/run", bytes(10)), ("app/a b/\u{fc}#.bin", bytes(MIB + 1)), ("app/empty", Vec::new())];
    files.iter().for_each(|(name, bytes)| desk.write(name, bytes));
    fs::set_permissions(desk.path("app/bin/run"), fs::Permissions::from_mode(0o755)).expect("ours");
    desk.publish("app", "acme/app", "m", &["--url", "http://a.test/x/"]);
    let shown = desk.json(&["inspect", "m", "--json"]);
    let listed =
        |key: &str| shown["files"].as_array().expect("a list").iter().map(|file| file[key].clone()).collect::<Vec<_>>();
    assert_eq!(listed("path"), ["a b/\u{fc}#.bin", "bin/run", "empty"]);
    assert_eq!(listed("executable"), [false, true, false]);
    assert_eq!(shown["files"][0]["sources"][0], "http://a.test/x/a%20b/%C3%BC%23.bin");
    assert_eq!(shown["files"][2]["content_id"], blake3::hash(b"").to_string());
    desk.ok(&["verify", "app", "m", "--key", "k.pub"]);

    desk.write("app/extra", "x");
    let ended = desk.run(&["verify", "app", "m", "--key", "k.pub"]);
    assert!(ended.code == 0 && ended.stderr.contains("app/extra"), "{}", ended.stderr);
    desk.write("app/empty", "x");
    fs::remove_file(desk.path("app/bin/run")).expect("ours");
    let told = desk.run(&["verify", "app", "m", "--key", "k.pub", "--json"]);
    let told: Value = serde_json::from_str(&told.stdout).expect("one JSON object");
    let codes: Vec<_> = told["files"].as_array().expect("a list").iter().map(|file| file["code"].clone()).collect();
    assert_eq!(codes, [Value::Null, "input_missing".into(), "wrong_length".into()]);
    desk.refused(&["verify", "app", "m", "--key", "k.pub"], 66, "input_missing", "app/bin/run");
}

#[test]
fn what_cannot_be_published_is_refused_by_name_and_nothing_is_written() {
    let desk = Desk::new();
    desk.write("f", "bytes");
    desk.write("d/f", "bytes");
    fs::create_dir(desk.path("none")).expect("made");
    let refused = |path: &str, out: &str, more: &[&str], code: i32, word: &str, culprit: &str| {
        let arguments = [&["publish", path, "-o", out, "--name", "a/b"], more].concat();
        let before = fs::read(desk.path(out)).ok();
        desk.refused(&arguments, code, word, culprit);
        assert_eq!(fs::read(desk.path(out)).ok(), before, "{arguments:?}");
    };
    let key = ["--key", "k"];
    refused("f", "m", &[], 64, "usage", "--key");
    refused("f", "m", &["--key", "k.pub"], 65, "bad_input", "k.pub");
    refused("f", "m", &["--key", "gone"], 66, "input_missing", "gone");
    refused("gone", "m", &key, 66, "input_missing", "gone");
    refused("f", "nowhere/m", &key, 73, "cannot_create", "nowhere/m");
    refused("f", "f", &key, 64, "usage", "f");
    refused("f", "d/f", &key, 73, "destination_exists", "d/f");
    refused("d", "d/m", &key, 64, "usage", "d/m");
    refused("none", "m", &key, 65, "bad_input", "none");
    refused("d", "m", &["--key", "k", "--url", "http://a.test/exact"], 64, "usage", "http://a.test/exact");
    refused("f", "m", &["--key", "k", "--url", "ftp://a.test/"], 64, "usage", "ftp://a.test/");
    refused("f", "m", &["--key", "k", "--annotation", "a=1", "--annotation", "a=2"], 64, "usage", "annotation");
    let link = desk.path("d/link");
    symlink("f", &link).expect("made");
    refused("d", "m", &key, 65, "bad_input", "d/link");
    fs::remove_file(&link).expect("ours");
    drop(std::os::unix::net::UnixListener::bind(desk.path("d/socket")).expect("bound"));
    refused("d", "m", &key, 65, "bad_input", "d/socket");
    fs::remove_file(desk.path("d/socket")).expect("ours");
    desk.write("d/nul", "reserved elsewhere");
    refused("d", "m", &key, 65, "unsafe_path", "d/nul");
    for wrong in [&["--expires", "tomorrow"][..], &["--annotation", "k"], &["--sequence", "-1"]] {
        let arguments = [&["publish", "f", "--key", "k", "--name", "a/b", "-o", "m"], wrong].concat();
        assert_eq!(desk.run(&arguments).code, 64, "{wrong:?}");
    }
    let left: Vec<_> =
        fs::read_dir(desk.folder.path()).expect("there").flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("tmp")), "{left:?}");
}

#[test]
fn wrong_bytes_are_told_by_kind_and_exit_code() {
    let desk = Desk::new();
    let file = bytes(3 * MIB + 5);
    desk.write("f", &file);
    desk.publish("f", "a/b", "m", &[]);
    let verify = ["verify", "f", "m", "--key", "k.pub"];
    desk.write("f", &file[..3 * MIB]);
    let told = desk.refused(&verify, 65, "wrong_length", "f");
    assert!(told.contains("3145733") && told.contains("3145728"), "{told}");
    let mut flipped = file.clone();
    flipped[2 * MIB + 9] ^= 0x80;
    desk.write("f", &flipped);
    let told = desk.refused(&verify, 65, "content_mismatch", "f");
    assert!(told.contains("piece is 2"), "{told}");
    fs::remove_file(desk.path("f")).expect("ours");
    desk.refused(&verify, 66, "input_missing", "f");
    desk.refused(&["verify", "f", "gone", "--key", "k.pub"], 66, "input_missing", "gone");

    desk.write("f", &file);
    desk.ok(&verify);
    let manifest = fs::read(desk.path("m")).expect("there");
    desk.write("cut", &manifest[..manifest.len() - 1]);
    desk.refused(&["verify", "f", "cut", "--key", "k.pub"], 65, "bad_manifest", "cut");
    desk.refused(&["inspect", "cut"], 65, "bad_manifest", "cut");
    // One letter of the name, which is signed.
    let at = manifest.windows(3).position(|three| three == b"a/b").expect("the name");
    let mut tampered = manifest.clone();
    tampered[at] = b'x';
    desk.write("tampered", &tampered);
    for arguments in [&["verify", "f", "tampered", "--key", "k.pub"][..], &["sign", "tampered", "--key", "k"]] {
        desk.refused(arguments, 65, "bad_signature", "tampered");
    }
    desk.refused(&["verify", "f", "tampered"], 65, "bad_signature", "tampered");
    assert_eq!(desk.json(&["inspect", "tampered", "--json"])["signatures"][0]["fit"], "does_not_fit");
}

#[test]
fn an_unknown_publisher_is_refused_with_the_command_that_would_trust_it() {
    let desk = Desk::new();
    desk.write("f", "bytes");
    desk.publish("f", "acme/b", "m", &[]);
    let id = desk.json(&["key", "show", "k", "--json"])["key_id"].as_str().expect("text").to_owned();
    let told = desk.refused(&["verify", "f", "m"], 77, "unknown_publisher", "m");
    let command = format!("piecework trust add --from m --key-id {id} --publisher P --names PATTERN");
    assert!(told.contains(&command) && told.contains("by another way"), "{told}");
    let ended = desk.run(&["verify", "f", "m", "--json"]);
    let told: Value = serde_json::from_str(&ended.stdout).expect("one JSON object");
    assert_eq!(
        (ended.code, &told["verified"], &told["error"]["code"]),
        (77, &false.into(), &"unknown_publisher".into())
    );
    assert!(told["error"]["remedy"].as_str().expect("text").contains("trust add"));
    assert!(ended.stderr.is_empty(), "{}", ended.stderr);

    desk.ok(&["key", "new", "stranger"]);
    desk.refused(&["verify", "f", "m", "--key", "stranger.pub"], 77, "unknown_publisher", "m");
    desk.refused(
        &["trust", "add", "--from", "m", "--key-id", &"0".repeat(64), "--publisher", "p", "--names", "*"],
        66,
        "input_missing",
        "m",
    );
    assert!(!desk.path("state/trust.toml").exists());

    let told =
        desk.ok(&["trust", "add", "--from", "m", "--key-id", &id, "--publisher", "acme", "--names", "acme/*", "x/*"]);
    assert!(told.contains(&id) && told.contains("by another way"), "{told}");
    assert_eq!((mode(&desk.path("state")), mode(&desk.path("state/trust.toml"))), (0o700, 0o600));
    desk.ok(&["verify", "f", "m"]);
    let list = desk.json(&["trust", "list", "--json"]);
    let publisher = &list["publishers"][0];
    assert_eq!((&publisher["name"], &publisher["threshold"]), (&"acme".into(), &1.into()));
    assert_eq!((&publisher["names"][1], &publisher["keys"][0]["key_id"]), (&"x/*".into(), &id.clone().into()));
    assert!(desk.ok(&["trust", "list"]).contains(&id));

    desk.publish("f", "other/b", "m2", &[]);
    desk.refused(&["verify", "f", "m2"], 77, "name_not_allowed", "m2");
    desk.ok(&["trust", "remove", "acme"]);
    desk.refused(&["verify", "f", "m"], 77, "unknown_publisher", "m");
    desk.refused(&["trust", "remove", "acme"], 66, "input_missing", "acme");
}

#[test]
fn an_expired_manifest_is_refused_whoever_signed_it() {
    let desk = Desk::new();
    desk.write("f", "bytes");
    desk.publish("f", "a/b", "m", &["--expires", "2020-01-01T00:00:00Z"]);
    desk.trust("a/*");
    desk.refused(&["verify", "f", "m"], 77, "expired", "m");
    desk.refused(&["verify", "f", "m", "--key", "k.pub"], 77, "expired", "m");
    desk.publish("f", "a/b", "m", &[]);
    desk.ok(&["verify", "f", "m"]);
}

#[test]
fn a_threshold_asks_for_distinct_keys_and_sign_adds_them() {
    let desk = Desk::new();
    desk.ok(&["key", "new", "k2"]);
    desk.write("f", "bytes");
    desk.publish("f", "a/b", "m", &["--key", "k"]);
    let add = ["trust", "add", "k.pub", "k2.pub", "--publisher", "p", "--names", "a/*", "--threshold"];
    desk.refused(&[&add[..], &["3"]].concat(), 64, "usage", "p");
    desk.refused(&["trust", "add", "k.pub", "--publisher", "p"], 64, "usage", "--names");
    desk.ok(&[&add[..], &["2", "--origins", "*.test", "--max-age", "60"]].concat());
    desk.refused(&["verify", "f", "m"], 77, "threshold_not_met", "m");
    desk.refused(&["verify", "f", "m", "--key", "k.pub", "--key", "k2.pub"], 77, "unknown_publisher", "m");
    let before = desk.json(&["inspect", "m", "--json"])["manifest_id"].clone();
    // Twice: the same key counts once.
    for _ in 0..2 {
        assert_eq!(desk.json(&["sign", "m", "--key", "k2", "--json"])["key_ids"].as_array().map(Vec::len), Some(2));
    }
    assert_eq!(desk.json(&["inspect", "m", "--json"])["manifest_id"], before);
    desk.ok(&["verify", "f", "m"]);
    desk.ok(&["verify", "f", "m", "--key", "k.pub", "--key", "k2.pub"]);
    desk.refused(&["sign", "m"], 64, "usage", "--key");
}

#[test]
fn an_outside_program_signs_without_a_shell() {
    let desk = Desk::new();
    desk.write("f", "bytes");
    if openssl(desk.folder.path(), &["version"]).is_none() {
        return;
    }
    let script = "#!/bin/sh\n\
        set -e\n\
        cat > \"$1.message\"\n\
        sig=$(openssl pkeyutl -sign -inkey k -rawin -in \"$1.message\" | base64 -w0)\n\
        printf '{\"public_key\": \"%s\", \"sig\": \"%s\"}' \"$(sed 's/$/\\\\n/' k.pub | tr -d '\\n')\" \"$sig\"\n";
    desk.write("signer", script);
    desk.write("fails", "#!/bin/sh\ncat > /dev/null\nexit 3\n");
    desk.write("babbles", "#!/bin/sh\ncat > /dev/null\nyes\n");
    for name in ["signer", "fails", "babbles"] {
        fs::set_permissions(desk.path(name), fs::Permissions::from_mode(0o755)).expect("ours");
    }
    let publish = |command: &'static str| ["publish", "f", "--signer-command", command, "--name", "a/b", "-o", "m"];
    desk.refused(&publish("./gone x"), 66, "input_missing", "./gone x");
    desk.refused(&publish("./fails"), 74, "io", "./fails");
    desk.refused(&publish("./babbles"), 65, "bad_input", "./babbles");
    desk.refused(&publish("./signer 'x"), 64, "usage", "./signer 'x");
    assert!(!desk.path("m").exists());
    desk.ok(&publish("./signer 'with space'"));
    assert!(desk.path("with space.message").exists());
    desk.ok(&["verify", "f", "m", "--key", "k.pub"]);
}
