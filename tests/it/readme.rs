//! The README's commands, read from it and run in its order: three machines are three folders, names are loopback
//! addresses, ports are free ones, and the program is the one just built. A command that is not known here fails the
//! test, and so does one that the README has no more.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Running, bytes, command, same};

const MIB: usize = 1 << 20;

/// Every command of the README's `sh` blocks, one a line, continuations joined.
fn commands(readme: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut inside = false;
    let mut begun = String::new();
    for line in readme.lines() {
        match line.trim() {
            "```sh" => inside = true,
            "```" => inside = false,
            other if other.starts_with("```") => panic!("a block that no test runs: {other}"),
            other if inside => {
                let (text, goes_on) = other.strip_suffix('\\').map_or((other, false), |text| (text, true));
                begun.push_str(text.trim());
                if goes_on {
                    begun.push(' ');
                } else if !begun.is_empty() {
                    commands.push(std::mem::take(&mut begun));
                }
            }
            _ => {}
        }
    }
    commands
}

/// A command line's words; of the shell's quoting only what the README uses.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            other => words.last_mut().expect("never empty").push(other),
        }
    }
    words.retain(|word| !word.is_empty());
    assert!(!quoted && !line.contains(['"', '$', '|', '>']), "quoting beyond this test: {line}");
    words
}

/// One machine: a folder that is also its home.
struct Machine {
    folder: PathBuf,
}

impl Machine {
    fn new(root: &Path, name: &str) -> Self {
        let folder = root.join(name);
        std::fs::create_dir(&folder).expect("a folder");
        Self { folder }
    }

    fn command(&self, line: &str) -> Command {
        let mut words = words(line);
        assert_eq!(words.remove(0), "piecework", "{line}");
        // The state folder of a user; root has another, which no test may touch.
        let state = self.folder.join("state").to_str().expect("temporary paths are UTF-8").to_owned();
        words.iter_mut().for_each(|word| *word = word.replace("~/.local/state/piecework", &state));
        words.extend(["--state", &state].map(str::to_owned));
        // Where it would listen on the known port of every interface.
        if ["seed", "get", "node"].contains(&words[0].as_str()) {
            words.extend(["--listen", "127.0.0.1:0"].map(str::to_owned));
        }
        let mut command = command();
        for variable in ["XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            command.env_remove(variable);
        }
        command.current_dir(&self.folder).env("HOME", &self.folder).args(words);
        command
    }

    /// Runs to success; returns stdout.
    fn run(&self, line: &str) -> String {
        let output = self.command(line).output().expect("the program starts");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Starts what runs on; returns it with the `HOST:PORT` of the address that it prints first.
    fn start(&self, line: &str) -> (Running, String) {
        let running = Running::start(self.command(line));
        let address = running.address();
        let mut parts = address.split('/').skip(2);
        let (host, port) = (parts.next(), parts.nth(1));
        let place = host.zip(port).map(|(host, port)| format!("{host}:{port}"));
        (running, place.unwrap_or_else(|| panic!("{line}: no multiaddress: {address}")))
    }

    fn copy(&self, from: &Machine, names: &[&str]) {
        for name in names {
            std::fs::copy(from.folder.join(name), self.folder.join(name)).expect("it was made");
        }
    }
}

#[test]
fn every_command_of_the_readme_does_what_it_says() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let [first, second, third] = ["first", "second", "third"].map(|name| Machine::new(root.path(), name));
    // Long enough that one piece fetched twice stays within what the demo allows.
    let content = bytes(91, 40 * MIB + 3);
    std::fs::write(first.folder.join("image.iso"), &content).expect("written");
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(package.join("README.md")).expect("there");
    let ci = std::fs::read_to_string(package.join(".ci/run")).expect("there");
    let (mut at_first, mut at_second, mut content_id) = (String::new(), String::new(), String::new());
    let mut running = Vec::new();
    let mut known = 0;
    for line in commands(&readme) {
        let here = line
            .replace("first.example:7680", &at_first)
            .replace("second.example:7680", &at_second)
            .replace("first.example:8000", "127.0.0.1:8000")
            .replace("CONTENT_ID", &content_id);
        known += 1;
        match line.as_str() {
            // The program just built stands for the installed one; the demo gets a file of ours to be quick.
            "cargo run --release -- demo" => {
                let told = first.run("piecework demo image.iso");
                assert!(told.contains("verified"), "{told}");
                assert!(ci.contains("cargo run --release --locked -- demo"), "CI runs it");
            }
            // This very test is run by it.
            "cargo test --workspace --locked" => assert!(ci.contains(&line), "CI runs it"),
            "cargo install --path . --locked" => {
                let cargo = std::fs::read_to_string(package.join("Cargo.toml")).expect("there");
                assert!(cargo.contains("[[bin]]\nname = \"piecework\""), "this package installs the program");
            }
            "piecework key new publisher.key" => {
                first.run(&here);
                assert!(first.folder.join("publisher.key.pub").exists());
            }
            line if line.starts_with("piecework publish image.iso --key publisher.key ") => {
                first.run(&here);
            }
            "piecework inspect image.piecework" => {
                let told = first.run(&here);
                let id = told.lines().find_map(|line| line.trim().strip_prefix("content id "));
                id.expect("it prints the content id").trim().clone_into(&mut content_id);
            }
            "piecework seed image.iso --manifest image.piecework" => {
                let (seed, address) = first.start(&here);
                running.push(seed);
                at_first = address;
                second.copy(&first, &["image.piecework", "publisher.key.pub"]);
            }
            "piecework trust add publisher.key.pub --publisher example --names 'example/*'" => {
                second.run(&here);
            }
            "piecework trust list" => assert!(second.run(&here).contains("example/*")),
            "piecework get image.piecework -o image.iso --peer first.example:7680" => {
                second.run(&here);
                assert!(same(&second.folder.join("image.iso"), &content));
            }
            "piecework verify image.iso image.piecework" => assert!(second.run(&here).starts_with("verified")),
            "piecework get image.piecework -o image.iso --peer first.example:7680 --keep-seeding" => {
                let (seed, address) = second.start(&here);
                let told = seed.line().expect("how it ended");
                assert!(told.contains("0 B from peers"), "nothing is fetched: {told}");
                running.push(seed);
                at_second = address;
            }
            line if line.starts_with("piecework get 'piecework:CONTENT_ID' -o image.iso --peer ") => {
                third.run(&here);
                assert!(same(&third.folder.join("image.iso"), &content));
            }
            // On the second machine, which trusts the publisher.
            "piecework node --fetch image.piecework --peer first.example:7680" => {
                let (node, address) = second.start(&here);
                // Whoever asks it alone gets the file once it has it.
                let ask = format!("piecework get 'piecework:{content_id}' -o again.iso --peer {address} --mode simple");
                third.run(&ask);
                assert!(same(&third.folder.join("again.iso"), &content));
                let mut node = node;
                assert_eq!(node.terminate(), Some(0), "{}", node.stderr());
            }
            "piecework store check ~/.local/state/piecework" => {
                assert!(!second.run(&here).is_empty());
            }
            other => panic!("the README has a command that this test does not know: {other}"),
        }
    }
    assert_eq!(known, 15, "the README has lost a command, or this test has");
}
