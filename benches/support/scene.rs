//! A publisher, a seed and whoever gets from it: real processes, an own folder and state each.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Folder, Serving, piecework, run, text};

/// One publication, ready to be served.
pub struct Scene {
    pub folder: Folder,
    pub content: PathBuf,
    pub manifest: PathBuf,
    pub length: u64,
}

impl Scene {
    /// Publishes `content`, a path below `folder`. `options` are further arguments of `publish`.
    pub fn publish(folder: Folder, content: PathBuf, length: u64, options: &[&str]) -> Self {
        let (key, manifest) = (folder.join("key"), folder.join("m.piecework"));
        run(&["key", "new", text(&key)]);
        let mut args = vec!["publish", text(&content), "--key", text(&key), "--name", "bench/file"];
        args.extend(["-o", text(&manifest)]);
        args.extend(options);
        run(&args);
        let scene = Self { content, manifest, length, folder };
        scene.trust("state");
        scene
    }

    /// Makes a state folder that trusts the publisher.
    pub fn trust(&self, name: &str) -> PathBuf {
        let (state, public) = (self.folder.join(name), self.folder.join("key.pub"));
        run(&["trust", "add", text(&public), "--publisher", "b", "--names", "bench/*", "--state", text(&state)]);
        state
    }

    /// Starts a seed of the content where it lies.
    pub fn seed(&self, name: &str) -> Serving {
        self.seed_of(&self.content, name)
    }

    /// Starts a seed of a copy.
    pub fn seed_of(&self, content: &Path, name: &str) -> Serving {
        let state = self.folder.join(&format!("seed-{name}"));
        Serving::start(&[
            "seed",
            text(content),
            "--manifest",
            text(&self.manifest),
            "--listen",
            "127.0.0.1:0",
            "--mode",
            "simple",
            "--state",
            text(&state),
        ])
    }

    /// A `get` to `out` from `peers`.
    pub fn get(&self, out: &Path, state: &Path, peers: &[&str]) -> Command {
        let mut command = piecework(&["get", text(&self.manifest), "-o", text(out)]);
        for peer in peers {
            command.args(["--peer", peer]);
        }
        command.args(["--mode", "simple", "--listen", "127.0.0.1:0", "--state", text(state), "-q"]);
        command
    }
}
