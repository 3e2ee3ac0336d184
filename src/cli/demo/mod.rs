//! `piecework demo`: the main job for real, in one command: a publisher, an origin, a seed and three peers, each a
//! process of this very program, on loopback.

mod child;
mod origin;
mod report;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::context::Context;
use crate::cli::demo::child::{Getter, Origin, Seed, piecework};
use crate::cli::demo::report::{Act, PeerRow};
use crate::cli::error::CliError;
use crate::cli::output;
use crate::content::code::Code;

/// Bytes of the file that the demo makes where none is named.
const GENERATED_BYTES: u64 = 256 << 20;
/// Peers of each act.
const PEERS: usize = 3;
/// How long one act may take before it counts as failed.
const ACT_TIMEOUT: Duration = Duration::from_secs(600);

/// Arguments of `piecework demo`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  piecework demo\n  piecework demo ubuntu.iso\n  piecework demo --json ubuntu.iso\n\n\
    Everything lives in a temporary folder that is removed at the end, unless --dir names one. It needs room for four\n\
    copies of the file."
)]
pub struct Arguments {
    /// File to deliver; without one, 256 MiB of random bytes are made.
    file: Option<PathBuf>,
    /// Folder for keys, copies and state; kept afterwards.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The figures as one JSON object on stdout.
    #[arg(long)]
    json: bool,
    /// Serve a folder by plain HTTP until stdin ends; what the demo runs as its origin.
    #[arg(long, hide = true, value_name = "ROOT")]
    origin: Option<PathBuf>,
}

impl Arguments {
    /// Runs it.
    ///
    /// # Errors
    /// A child process fails, a copy does not verify, more than 1.1 copies left the origin, or the disk is full.
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        run(context, &self)
    }
}

fn run(context: &Context, args: &Arguments) -> Result<(), CliError> {
    if let Some(root) = &args.origin {
        return origin::serve(root);
    }
    let mut folder = Folder::new(args.dir.as_deref())?;
    let result = play(context, args, folder.path());
    folder.clean();
    result
}

fn play(context: &Context, args: &Arguments, dir: &Path) -> Result<(), CliError> {
    let quiet = context.is_quiet() || args.json;
    let say = |text: &str| {
        if !quiet {
            eprintln!("{text}");
        }
    };
    let file = match &args.file {
        Some(file) => file.canonicalize().map_err(|error| {
            CliError::new(Code::InputMissing, format!("cannot read {}: {error}", file.display()))
                .culprit(file.display().to_string())
                .remedy("name a file that exists, or none at all")
        })?,
        None => generate(&dir.join("demo.bin"), quiet)?,
    };
    let length = std::fs::metadata(&file).map_err(|error| failed(&file, &error))?.len();
    let name = file.file_name().map_or_else(|| "demo.bin".into(), |name| name.to_string_lossy().into_owned());

    say("1. A publisher makes a key, and an ordinary web server offers the file.");
    let key = dir.join("publisher.key");
    piecework(&["key", "new", &text(&key)])?;
    let served = dir.join("origin");
    make_dir(&served)?;
    let origin_file = served.join("file");
    std::os::unix::fs::symlink(&file, &origin_file).map_err(|error| failed(&origin_file, &error))?;
    let mut origin = Origin::start(&origin_file)?;

    say("2. The publisher signs a manifest: one hash a piece, one signature over all.");
    let manifest = dir.join("demo.piecework");
    let began = Instant::now();
    piecework(&[
        "publish",
        &text(&file),
        "--key",
        &text(&key),
        "--name",
        "demo/file",
        "--version",
        "1",
        "--url",
        &format!("http://{}/file", origin.address),
        "-o",
        &text(&manifest),
    ])?;
    let publish_seconds = began.elapsed().as_secs_f64();
    let stage = Stage { dir, manifest: &manifest, key: &key, length, name: &name, quiet };

    say("3. First act: one seed, three peers. The origin stands behind them in case.");
    let seed = Seed::start(&file, &manifest, &dir.join("seed-state"))?;
    let first = act("with a seed", &stage, &mut origin, Some(&seed.address))?;
    drop(seed);
    say("4. Second act: no seed. Three peers that know each other, and the origin.");
    let second = act("without a seed", &stage, &mut origin, None)?;
    drop(origin);

    let report = report::Report { file: name.clone(), length, publish_seconds, acts: vec![first, second] };
    if args.json {
        output::json(&report.to_json())?
    } else {
        output::text(&report.to_string())?
    }
    report.judge()
}

/// What both acts are played with.
struct Stage<'a> {
    dir: &'a Path,
    manifest: &'a Path,
    key: &'a Path,
    length: u64,
    name: &'a str,
    quiet: bool,
}

fn act(title: &str, stage: &Stage<'_>, origin: &mut Origin, seed: Option<&str>) -> Result<Act, CliError> {
    let slug = title.replace(' ', "-");
    let before = origin.bytes_sent()?;
    let ports = free_ports()?;
    let bars = MultiProgress::with_draw_target(if stage.quiet {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    });
    let began = Instant::now();
    let mut getters = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let home = stage.dir.join(format!("{slug}-peer{}", index + 1));
        make_dir(&home)?;
        let state = home.join("state");
        piecework(&[
            "trust",
            "add",
            &text(&stage.key.with_extension("key.pub")),
            "--publisher",
            "demo",
            "--names",
            "demo/*",
            "--origins",
            "127.0.0.1:*",
            "--state",
            &text(&state),
        ])?;
        let known: Vec<String> = match seed {
            Some(address) => vec![address.to_owned()],
            None => ports.iter().filter(|other| *other != port).map(|other| format!("127.0.0.1:{other}")).collect(),
        };
        let bar = bars.add(ProgressBar::new(stage.length));
        bar.set_style(style());
        bar.set_prefix(format!("peer {}", index + 1));
        getters.push((home.join(stage.name), state, known, *port, bar));
    }
    let mut running = Vec::new();
    for (out, state, known, port, bar) in getters {
        running.push(Getter::start(stage.manifest, &out, &state, &known, port, bar)?);
    }
    let mut finals = Vec::new();
    for getter in &mut running {
        finals.push(getter.wait_complete(began + ACT_TIMEOUT)?);
    }
    let seconds = began.elapsed().as_secs_f64();
    let origin_bytes = origin.bytes_sent()?.saturating_sub(before);
    let mut peers = Vec::new();
    for (getter, figures) in running.into_iter().zip(finals) {
        let out = getter.out.clone();
        getter.stop()?;
        piecework(&[
            "verify",
            &text(&out),
            &text(stage.manifest),
            "--key",
            &text(&stage.key.with_extension("key.pub")),
        ])?;
        peers.push(PeerRow { figures, verified: true });
        std::fs::remove_file(&out).map_err(|error| failed(&out, &error))?;
    }
    Ok(Act { title: title.to_owned(), peers, origin_bytes, seconds })
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("   {prefix} {wide_bar} {bytes:>10}/{total_bytes} {binary_bytes_per_sec:>12} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Ports that are free now. Another program may take one before the peer does; the peer then says so and the demo ends.
fn free_ports() -> Result<Vec<u16>, CliError> {
    let probe = || -> std::io::Result<Vec<u16>> {
        let held: Vec<_> = (0..PEERS).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        held.iter().map(|listener| listener.local_addr().map(|address| address.port())).collect()
    };
    probe().map_err(|error| CliError::new(Code::ResourceRefused, format!("no free port on loopback: {error}")))
}

/// Random bytes that no hash or file system can shorten: BLAKE3's extendable output over a fresh seed.
fn generate(path: &Path, quiet: bool) -> Result<PathBuf, CliError> {
    let bar = ProgressBar::with_draw_target(
        Some(GENERATED_BYTES),
        if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() },
    );
    bar.set_style(style());
    bar.set_prefix("making a file");
    let write = || -> std::io::Result<()> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| std::io::Error::other(error.to_string()))?;
        let mut stream = blake3::Hasher::new_keyed(&seed).finalize_xof();
        let mut file = std::fs::File::create_new(path)?;
        let mut buffer = vec![0; 1 << 20];
        let mut left = GENERATED_BYTES;
        while left > 0 {
            stream.read_exact(&mut buffer)?;
            file.write_all(&buffer)?;
            left = left.saturating_sub(buffer.len() as u64);
            bar.inc(buffer.len() as u64);
        }
        Ok(())
    };
    write().map_err(|error| failed(path, &error))?;
    bar.finish_and_clear();
    Ok(path.to_owned())
}

/// The demo's folder: temporary unless named.
struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    fn new(named: Option<&Path>) -> Result<Self, CliError> {
        let (path, temporary) = match named {
            Some(path) => (path.to_owned(), false),
            None => {
                let mut tag = [0; 8];
                getrandom::fill(&mut tag)
                    .map_err(|error| CliError::new(Code::ResourceRefused, format!("no entropy: {error}")))?;
                let tag = data_encoding::HEXLOWER.encode(&tag);
                (std::env::temp_dir().join(format!("piecework-demo-{tag}")), true)
            }
        };
        make_dir(&path)?;
        let path = path.canonicalize().map_err(|error| failed(&path, &error))?;
        Ok(Self { path, temporary })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn clean(&mut self) {
        if std::mem::take(&mut self.temporary)
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(folder = %self.path.display(), %error, "the demo's folder could not be removed");
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.clean();
    }
}

fn make_dir(path: &Path) -> Result<(), CliError> {
    std::fs::create_dir_all(path).map_err(|error| {
        CliError::new(Code::CannotCreate, format!("cannot create {}: {error}", path.display()))
            .culprit(path.display().to_string())
            .remedy("name a folder that can be written with --dir")
    })
}

fn failed(path: &Path, error: &std::io::Error) -> CliError {
    let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
    let code = if full { Code::DiskFull } else { Code::Io };
    CliError::new(code, format!("{}: {error}", path.display()))
        .culprit(path.display().to_string())
        .remedy("free some space, or name a folder elsewhere with --dir")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
