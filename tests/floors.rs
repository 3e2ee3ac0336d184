//! Guards the house: a file names rooms on lower floors and its own room, never one beside or above it; the pure rooms
//! touch no disk, socket, clock or entropy. Each rule proves here that it catches a planted fault.

use std::fmt;
use std::path::{Path, PathBuf};

/// The rooms, floor by floor. Where `split` is set, every entry of the folder is a room of its own.
const ROOMS: &[Room] = &[
    Room { floor: 0, name: "content", split: false },
    Room { floor: 1, name: "wire", split: false },
    Room { floor: 1, name: "policy", split: false },
    Room { floor: 2, name: "swarm", split: false },
    Room { floor: 3, name: "drivers", split: true },
    Room { floor: 4, name: "services", split: true },
    Room { floor: 5, name: "programs", split: true },
    Room { floor: 6, name: "surfaces", split: true },
    Room { floor: 7, name: "cli", split: false },
];

/// The highest floor without I/O.
const PURE_FLOOR_MAX: u8 = 2;

/// Paths that no pure room may name outside its tests. A path is refused when it begins with one of these.
const IMPURE: &[&str] = &[
    "tokio",
    "futures_util",
    "libp2p",
    "libp2p_stream",
    "libp2p_tls",
    "hyper",
    "hyper_util",
    "reqwest",
    "rustls",
    "mdns_sd",
    "rustix",
    "libc",
    "getrandom",
    "governor",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::os",
    "std::sync::mpsc",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::time::UNIX_EPOCH",
    "time::OffsetDateTime::now_utc",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::collections::hash_map",
    "std::collections::hash_set",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
];

/// Folders whose items a pure room must name one by one, so that [`IMPURE`] sees them.
const NO_GLOB: &[&str] = &["std", "std::net", "std::time", "std::collections", "std::io", "std::sync"];

struct Room {
    floor: u8,
    name: &'static str,
    split: bool,
}

/// A room as a file or a path names it: `content`, or `drivers/store`.
/// Files that are compiled for tests only.
const TESTS_ALONE: [&str; 1] = ["content/vectors.rs"];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    floor: u8,
    room: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// The file lies in, or names, a folder that is on no floor.
    NoFloor(String),
    Beside {
        from: String,
        to: String,
    },
    Above {
        from: String,
        to: String,
    },
    /// `crate::*`, or `crate` itself under another name: nobody can tell which rooms are meant.
    WholeCrate(String),
    Super(String),
    Impure(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NoFloor(what) => write!(f, "{what} is on no floor; give it one in tests/floors.rs"),
            Fault::Beside { from, to } => write!(f, "{from} names {to}, which lies beside it"),
            Fault::Above { from, to } => write!(f, "{from} names {to}, which lies above it"),
            Fault::WholeCrate(path) => write!(f, "`{path}` hides which rooms are meant"),
            Fault::Super(path) => write!(f, "`{path}`: write the path from `crate`"),
            Fault::Impure(path) => write!(f, "`{path}` has no place in a pure room"),
        }
    }
}

/// Which room the path `segments`, relative to `src/` or after `crate`, leads to; `None` for `lib.rs` and `main.rs`.
fn place(segments: &[String]) -> Result<Option<Place>, Fault> {
    let Some(first) = segments.first() else { return Ok(None) };
    let first = first.trim_end_matches(".rs");
    if segments.len() == 1 && matches!(first, "lib" | "main") {
        return Ok(None);
    }
    let Some(room) = ROOMS.iter().find(|room| room.name == first) else {
        return Err(Fault::NoFloor(first.to_owned()));
    };
    let inner = segments.get(1).map(|name| name.trim_end_matches(".rs"));
    let name = match inner {
        // What begins with a capital is a type of the folder's `mod.rs`, shared by its rooms.
        Some(inner) if room.split && inner != "mod" && inner.starts_with(|c: char| c.is_ascii_lowercase()) => {
            format!("{first}/{inner}")
        }
        _ => first.to_owned(),
    };
    Ok(Some(Place { floor: room.floor, room: name }))
}

/// Every fault of one file; `file` is relative to `src/`.
fn faults(file: &str, source: &str) -> Vec<Fault> {
    let segments: Vec<String> = file.split('/').map(str::to_owned).collect();
    let here = match place(&segments) {
        Ok(here) => here,
        Err(fault) => return vec![fault],
    };
    let tokens = tokens(source);
    let mut found = Vec::new();
    for path in paths(&tokens) {
        found.extend(path_fault(here.as_ref(), &path));
    }
    let pure = here.is_some_and(|here| here.floor <= PURE_FLOOR_MAX);
    if pure && !file.ends_with("/tests.rs") {
        for path in paths(without_tests(&tokens)) {
            let text = path.join("::");
            let below = |prefix: &&&str| text == **prefix || text.starts_with(&format!("{prefix}::"));
            let glob = text.strip_suffix("::*").is_some_and(|folder| NO_GLOB.contains(&folder));
            if glob || IMPURE.iter().any(|prefix| below(&prefix)) {
                found.push(Fault::Impure(text));
            }
        }
    }
    found
}

fn path_fault(here: Option<&Place>, path: &[String]) -> Option<Fault> {
    let text = path.join("::");
    match path.first().map(String::as_str) {
        Some("super") if path.get(1).map(String::as_str) != Some("*") => Some(Fault::Super(text)),
        // The binary reaches the library by its name.
        Some("crate" | "piecework") => {
            if path.len() == 1 && path[0] == "piecework" {
                return None;
            }
            if path.len() == 1 || path[1] == "*" || path[1] == "self" {
                return Some(Fault::WholeCrate(text));
            }
            let to = match place(&path[1..]) {
                Ok(to) => to?,
                Err(fault) => return Some(fault),
            };
            let from = here?;
            // A folder of rooms lies below each of them: it may hold what they all share.
            let own = from.room == to.room || from.room.starts_with(&format!("{}/", to.room));
            match to.floor.cmp(&from.floor) {
                _ if own => None,
                std::cmp::Ordering::Less => None,
                std::cmp::Ordering::Equal => Some(Fault::Beside { from: from.room.clone(), to: to.room }),
                std::cmp::Ordering::Greater => Some(Fault::Above { from: from.room.clone(), to: to.room }),
            }
        }
        _ => None,
    }
}

/// What is left of a file's tokens when its last `#[cfg(test)] mod ...` is cut off.
fn without_tests(tokens: &[String]) -> &[String] {
    const MARK: [&str; 8] = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    match tokens.windows(MARK.len()).rposition(|window| window.iter().eq(MARK.iter())) {
        Some(at) => &tokens[..at],
        None => tokens,
    }
}

/// Identifiers, `::` and single punctuation marks; comments, strings and characters left out.
fn tokens(source: &str) -> Vec<String> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        let length = match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => block_comment(rest),
            ['"', ..] => string(rest),
            ['b' | 'c', '"', ..] => 1 + string(&rest[1..]),
            ['r', '"' | '#', ..] if raw_string(rest).is_some() => raw_string(rest).unwrap_or(1),
            ['b' | 'c', 'r', '"' | '#', ..] if raw_string(&rest[1..]).is_some() => {
                1 + raw_string(&rest[1..]).unwrap_or(1)
            }
            ['\'', '\\', ..] => 3 + rest[3..].iter().position(|c| *c == '\'').unwrap_or(0),
            ['\'', _, '\'', ..] => 3,
            [':', ':', ..] => {
                tokens.push("::".to_owned());
                2
            }
            [c, ..] if c.is_alphabetic() || *c == '_' => {
                let length = rest.iter().position(|c| !c.is_alphanumeric() && *c != '_').unwrap_or(rest.len());
                tokens.push(rest[..length].iter().collect());
                length
            }
            [c, ..] => {
                if !c.is_whitespace() {
                    tokens.push(c.to_string());
                }
                1
            }
            [] => 1,
        };
        at += length;
    }
    tokens
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

fn raw_string(rest: &[char]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let closes = |at: usize| rest[at] == '"' && rest[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
    let end = (2 + hashes..rest.len()).find(|at| closes(*at));
    Some(end.map_or(rest.len(), |end| end + 1 + hashes))
}

/// Every path, with the groups of `use` written out: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(tokens: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let visibility = at > 0 && tokens[at - 1] == "(" && tokens.get(at + 1).is_some_and(|next| next == ")");
        let starts = is_name(&tokens[at]) && !visibility && (at == 0 || tokens[at - 1] != "::");
        if starts { path(tokens, &mut at, &mut Vec::new(), &mut found) } else { at += 1 }
    }
    found
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn path(tokens: &[String], at: &mut usize, before: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let depth = before.len();
    while let Some(token) = tokens.get(*at) {
        if token == "{" && *at > 0 && tokens[*at - 1] == "::" {
            *at += 1;
            while tokens.get(*at).is_some_and(|token| token != "}") {
                if is_name(&tokens[*at]) || tokens[*at] == "*" {
                    path(tokens, at, before, found);
                    if tokens.get(*at).is_some_and(|token| token == "as") {
                        *at += 2;
                    }
                } else {
                    *at += 1;
                }
            }
            *at += 1;
            before.truncate(depth);
            return;
        }
        if !is_name(token) && token != "*" {
            break;
        }
        before.push(token.clone());
        *at += 1;
        match tokens.get(*at) {
            Some(next) if next == "::" => *at += 1,
            _ => break,
        }
    }
    found.push(before.clone());
    before.truncate(depth);
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder` but build output and the history.
fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a folder that was just opened").path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | ".git" | "corpus" | "artifacts") {
                files_below(&path, found);
            }
        } else if name != ".git" {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let root = root().join("src");
    let mut files = Vec::new();
    files_below(&root, &mut files);
    files
        .into_iter()
        .filter(|file| file.extension().is_some_and(|ending| ending == "rs"))
        .map(|file| {
            let name = file.strip_prefix(&root).expect("found below it").to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, text)
        })
        .collect()
}

#[test]
fn every_file_names_lower_floors_and_its_own_room_only() {
    let sources = sources();
    assert!(sources.len() > 10, "found {} files: is this the right folder?", sources.len());
    let complaints: Vec<String> = sources
        .iter()
        .flat_map(|(name, text)| faults(name, text).into_iter().map(move |fault| (name, fault)))
        // A file of tests alone may read what it tests against.
        .filter(|(name, fault)| !(TESTS_ALONE.contains(&name.as_str()) && matches!(fault, Fault::Impure(_))))
        .map(|(name, fault)| format!("src/{name}: {fault}"))
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn planted_faults_are_caught() {
    let above = |from: &str, to: &str| Fault::Above { from: from.into(), to: to.into() };
    let beside = |from: &str, to: &str| Fault::Beside { from: from.into(), to: to.into() };
    let impure = |path: &str| Fault::Impure(path.into());
    let planted: &[(&str, &str, Fault)] = &[
        ("content/a.rs", "use crate::swarm::Swarm;", above("content", "swarm")),
        ("content/a.rs", "fn f() { crate::cli::run() }", above("content", "cli")),
        ("content/a.rs", "use crate::{content::hash, wire};", above("content", "wire")),
        ("content/a.rs", "use crate::{content::{hash, layout}, policy::{Mode}};", above("content", "policy")),
        ("wire/a.rs", "use crate::policy::Mode;", beside("wire", "policy")),
        ("swarm/a.rs", "use crate::drivers::store::Store;", above("swarm", "drivers/store")),
        ("drivers/store/a.rs", "use crate::drivers::transport::Dial;", beside("drivers/store", "drivers/transport")),
        ("drivers/hashing.rs", "use crate::drivers::{store::Store};", beside("drivers/hashing", "drivers/store")),
        ("drivers/store/mod.rs", "use crate::services::node::Node;", above("drivers/store", "services/node")),
        ("services/node/a.rs", "use crate::services::catalog::X;", beside("services/node", "services/catalog")),
        ("programs/peer/a.rs", "pub use crate::surfaces::metrics;", above("programs/peer", "surfaces/metrics")),
        ("drivers/store/a.rs", "macro_rules! m { () => { $crate::cli::run() } }", above("drivers/store", "cli")),
        ("content/a.rs", "const S: &str = \"\\\"\"; use crate::wire::X;", above("content", "wire")),
        ("content/a.rs", "const S: &str = r#\"\"\"#; use crate::wire::X;", above("content", "wire")),
        ("content/a.rs", "const C: char = '\"'; use crate::wire::X;", above("content", "wire")),
        ("content/a.rs", "fn f<'a>(x: &'a str) { crate::wire::X }", above("content", "wire")),
        ("content/a.rs", "/* a /* b */ c */ use crate::wire::X;", above("content", "wire")),
        ("content/a.rs", "#[cfg(test)] mod tests { use crate::wire::X; }", above("content", "wire")),
        ("cellar/a.rs", "", Fault::NoFloor("cellar".into())),
        ("content/a.rs", "use crate::cellar::Wine;", Fault::NoFloor("cellar".into())),
        ("content/a.rs", "use crate::*;", Fault::WholeCrate("crate::*".into())),
        ("content/a.rs", "use crate as here;", Fault::WholeCrate("crate".into())),
        ("content/a.rs", "use super::layout::PieceIndex;", Fault::Super("super::layout::PieceIndex".into())),
        ("content/a.rs", "use super::super::*;", Fault::Super("super::super::*".into())),
        ("content/a.rs", "use super::{hash};", Fault::Super("super::hash".into())),
        ("content/a.rs", "use super as up;", Fault::Super("super".into())),
        ("content/a.rs", "use std::fs::File;", impure("std::fs::File")),
        ("wire/a.rs", "use std::{fmt, fs};", impure("std::fs")),
        ("policy/a.rs", "let x = std::env::var(\"X\");", impure("std::env::var")),
        ("swarm/a.rs", "use std::time::{Duration, Instant};", impure("std::time::Instant")),
        ("swarm/a.rs", "let now = std::time::SystemTime::now();", impure("std::time::SystemTime::now")),
        ("swarm/a.rs", "use std::collections::{BTreeMap, HashMap};", impure("std::collections::HashMap")),
        ("swarm/a.rs", "use std::time::*;", impure("std::time::*")),
        ("swarm/a.rs", "use std::net::TcpStream;", impure("std::net::TcpStream")),
        ("swarm/a.rs", "async fn f() { tokio::spawn(g()) }", impure("tokio::spawn")),
        ("swarm/a.rs", "use getrandom::fill;", impure("getrandom::fill")),
    ];
    for (file, source, fault) in planted {
        assert_eq!(faults(file, source).iter().collect::<Vec<_>>(), [fault], "{file}: {source}");
    }
}

#[test]
fn honest_files_pass() {
    let honest = [
        ("lib.rs", "pub mod content; pub mod cli;"),
        ("main.rs", "fn main() -> ExitCode { piecework::cli::run(std::env::args_os()) }"),
        ("cli/get.rs", "use crate::{drivers::store::Store, services::node::Node, content::hash::ContentId};"),
        ("drivers/store/a.rs", "use crate::drivers::store::error::Error; use crate::content::hash;"),
        ("drivers/store/a.rs", "use std::{fs, net::TcpStream}; use tokio::task; use crate::drivers::Blame;"),
        ("swarm/a.rs", "use std::{collections::BTreeMap, net::{IpAddr, SocketAddr}, time::Duration};"),
        (
            "swarm/a.rs",
            "// use crate::cli::run; std::fs\nconst S: &str = \"crate::cli\"; const T: &str = r\"std::fs\";",
        ),
        (
            "swarm/a.rs",
            "/// See [`crate::cli`].\npub(super) fn f() {} #[cfg(test)] mod tests { use super::*; use std::fs; }",
        ),
        ("content/proto.rs", "include!(concat!(env!(\"OUT_DIR\"), \"/piecework.v1.rs\"));"),
    ];
    for (file, source) in honest {
        assert_eq!(faults(file, source), [], "{file}: {source}");
    }
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let silent: Vec<String> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(name, _)| name).collect();
    assert!(silent.is_empty(), "no `//!` line at the top of {silent:?}");
}

/// What a tree that others build must not hold: paths of one machine, and marks of unfinished work.
#[test]
fn the_tree_names_no_machine_and_leaves_nothing_open() {
    // Written in two halves so that this file passes its own test.
    let anywhere = [concat!("/wo", "rk/"), concat!("/fa", "rm/"), concat!("/ro", "ot/")];
    let in_code = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("FIX", "ME"), concat!("XX", "X:")];
    let mut files = Vec::new();
    files_below(&root(), &mut files);
    let mut complaints = Vec::new();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let code = file.extension().is_some_and(|ending| ending == "rs");
        let words = anywhere.iter().chain(in_code.iter().filter(|_| code));
        for (number, line) in text.lines().enumerate() {
            for word in words.clone().filter(|word| line.contains(**word)) {
                complaints.push(format!("{}:{}: {word}", file.display(), number + 1));
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
