//! `piecework get`: one download with a progress bar, or as JSON lines.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::get_daemon::{self, Figures, Stopped};
use crate::cli::output::Deadline;
use crate::cli::setup::{self, PeerArguments};
use crate::cli::{daemon, output};
use crate::content::code::Code;
use crate::content::manifest::Manifest;
use crate::content::trust::TrustStore;
use crate::programs::peer::get::{self, News, Request, Summary};
use crate::programs::peer::sources::CacheHosts;
use crate::programs::peer::stream::{Sink, Streamed};
use crate::programs::peer::{Failure, Wanted};
use crate::services::node::PeerAddress;
use crate::services::node::progress::Progress;
use crate::surfaces::control::Client;

/// Arguments of `piecework get`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  piecework get app.piecework\n  piecework get app.piecework -o /srv/app.iso --peer 192.168.1.5:7680\n  \
    piecework get https://example.org/app.piecework --keep-seeding\n  \
    piecework get 'piecework:<content id>?peer=/ip4/192.168.1.5/tcp/7680' -o app.iso\n  \
    piecework get app.piecework -o - | tar x\n  \
    piecework get app.piecework --background --by 6h\n\n\
    An interrupted download goes on where it stopped when the same command is run again.\n\n\
    Where a daemon runs and this user may speak to it, the daemon fetches, once for all who want the content, and the file\n\
    is checked again here. --source, --mode, --listen, --way, --keep-seeding and -o - are for this command's own engine,\n\
    which is used then, and where no daemon answers.\n\n\
    With -o - a single file goes to stdout in order while it comes, and only bytes that were verified. What is ahead of the\n\
    reader waits in a nameless file in the state folder; nothing is kept when the command ends."
)]
pub struct Arguments {
    /// A manifest file, the URL of one, or a piecework: link.
    #[arg(value_name = "MANIFEST|URL|LINK")]
    wanted: String,
    /// Destination; a folder means inside it; - is stdout, as it comes
    #[arg(short, long, value_name = "OUT")]
    out: Option<PathBuf>,
    /// A peer to ask, as HOST:PORT or multiaddress; may be given several times.
    #[arg(long, value_name = "HOST:PORT|MULTIADDR")]
    peer: Vec<String>,
    /// Use only these URLs (or bases ending in /) instead of the manifest's; may be given several times.
    #[arg(long, value_name = "URL")]
    source: Vec<String>,
    #[command(flatten)]
    peers: PeerArguments,
    /// Fetch here, without asking the daemon.
    #[arg(long)]
    no_daemon: bool,
    /// Nobody waits for it: it yields to other traffic on the line, and the daemon fetches what somebody waits for first.
    #[arg(long)]
    background: bool,
    /// When it should be there, such as 90m, 2h30m or 2031-05-01T06:00:00Z: what peers would not bring by then comes over
    /// HTTP
    #[arg(long, value_name = "RFC3339|DURATION", value_parser = output::parse_deadline)]
    by: Option<Deadline>,
    /// Serve on after the download, until stopped by SIGINT or SIGTERM.
    #[arg(long)]
    keep_seeding: bool,
    /// Give up when nobody has delivered for so many seconds.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Replace another file at the destination.
    #[arg(long)]
    force: bool,
    /// Read the finished files again and check the SHA-256 that the publisher signed.
    #[arg(long, value_name = "HASH", value_parser = ["sha256"])]
    check: Option<String>,
    /// Progress and result as JSON lines on stdout.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Runs it.
    ///
    /// # Errors
    /// As [`get::get`]; with `--check`, a file whose SHA-256 is wrong.
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        run(context, &self)
    }
}

fn run(context: &Context, args: &Arguments) -> Result<(), CliError> {
    let result = try_run(context, args);
    if let Err(error) = &result
        && args.json
    {
        output::json(&json!({
            "content_id": null, "bytes_total": 0, "bytes_from_peers": 0, "bytes_from_http": 0,
            "bytes_from_cache_host": 0,
            "bytes_already_held": 0, "bytes_wasted": 0, "seconds": 0.0, "verified": false, "error": error.to_json(),
        }))?;
    }
    result.map_err(|error| if args.json { error.reported() } else { error })
}

/// How much time there is until `--by`.
fn within(args: &Arguments) -> Result<Option<Duration>, CliError> {
    let past = || CliError::new(Code::Usage, "--by names a time that is past").remedy("name one to come, or none");
    args.by.map(|by| by.from_now().ok_or_else(past)).transpose()
}

/// Stdout as what a reader takes the file from, where `-o -` asks for that.
fn sink(args: &Arguments) -> Result<Option<Sink>, CliError> {
    if args.out.as_deref() != Some(Path::new("-")) {
        return Ok(None);
    }
    let refuse = |message: &str, remedy: &str| Err(CliError::new(Code::Usage, message).remedy(remedy));
    if args.json || args.keep_seeding {
        return refuse(
            "-o - has stdout for the file alone, and --json and --keep-seeding write to it too",
            "leave them out",
        );
    }
    if args.check.is_some() {
        return refuse(
            "--check reads finished files again, and -o - leaves none",
            "leave it out: each piece is verified",
        );
    }
    if std::io::stdout().is_terminal() {
        return refuse("a terminal is no place for a file", "pipe it to a program, or name a file with -o");
    }
    let refused = |error| CliError::new(Code::Io, "cannot write to stdout").culprit("stdout").because(error);
    // Not through the standard library's buffer, which looks for line ends.
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().map_err(refused)?;
    Ok(Some(Sink::start(File::from(stdout))?))
}

fn try_run(context: &Context, args: &Arguments) -> Result<(), CliError> {
    let sink = sink(args)?;
    let within = within(args)?;
    let settings = setup::load(context, &args.peers)?;
    let trust = setup::trust_store(context)?;
    let peers = args.peer.iter().map(|peer| peer.parse::<PeerAddress>()).collect::<Result<Vec<_>, _>>();
    let mut swarm = if args.background { settings.terms.background.clone() } else { settings.swarm.clone() };
    swarm.deadline = within;
    let request = Request {
        wanted: Wanted::parse(&args.wanted)?,
        out: args.out.clone(),
        sink,
        peers: peers.map_err(Failure::from)?,
        sources: args.source.clone(),
        company: settings.company.clone(),
        listen: settings.listen.clone(),
        any_port_if_taken: settings.listen_is_default,
        keep_seeding: args.keep_seeding,
        timeout: Duration::from_secs(args.timeout),
        force: args.force,
        disk_threads: settings.disk_threads,
        site: settings.site,
        min_file_size: settings.terms.min_file_size,
        max_age: settings.terms.max_age,
        cache_hosts: CacheHosts { hosts: settings.cache_hosts.clone(), ..settings.terms.cache_hosts.clone() },
        swarm,
        path: settings.path,
        rates: settings.rates,
        line_percents: {
            let policy = &settings.settings.policy;
            (policy.max_foreground_percent, policy.max_background_percent)
        },
        machine: settings.machine.clone(),
    };
    let mut screen = Screen::new(context, args);
    let runtime = setup::runtime()?;
    runtime.block_on(async {
        let mut interrupted = Box::pin(setup::interrupted()?);
        if let Some(client) = daemon_for(context, args, &request.wanted) {
            match through(&client, args, &settings, &trust, &mut screen, &mut interrupted).await {
                Ok(summary) => return finish(context, args, &screen, &summary, true),
                Err(Stopped::Failed(error)) => return Err(error),
                Err(Stopped::NotHere(reason)) => {
                    context.note(&format!("not through the daemon: {reason}; fetching it here"));
                    screen.restart();
                }
            }
        }
        if let Some(reason) = &settings.distrust {
            context.note(&format!("no peers on this network, only HTTP: {reason}"));
        }
        let got = get::get(request, &trust, &settings.state, &mut |news| screen.show(news), &mut interrupted).await?;
        finish(context, args, &screen, &got.summary, false)?;
        if args.keep_seeding {
            got.serve_until(interrupted).await;
        } else {
            got.leave().await;
        }
        Ok(())
    })
}

/// The daemon, if this download may go through it. What only an engine of its own can do is asked of that.
fn daemon_for(context: &Context, args: &Arguments, wanted: &Wanted) -> Option<Client> {
    let reader = args.out.as_deref() == Some(Path::new("-"));
    let own = reader || args.no_daemon || args.keep_seeding || !args.source.is_empty() || !args.peers.is_as_usual();
    let sources = matches!(wanted, Wanted::Link(link) if !link.sources.is_empty());
    if own || sources { None } else { daemon::find(context).ok() }
}

async fn through(
    client: &Client,
    args: &Arguments,
    settings: &setup::Setup,
    trust: &TrustStore,
    screen: &mut Screen,
    interrupted: &mut (dyn Future<Output = ()> + Send + Unpin),
) -> Result<Summary, Stopped> {
    let request = get_daemon::Request {
        wanted: Wanted::parse(&args.wanted)?,
        peers: args.peer.clone(),
        out: args.out.clone(),
        force: args.force,
        background: args.background,
        within: within(args)?,
        timeout: Duration::from_secs(args.timeout),
        trust: trust.clone(),
        state: Arc::clone(&settings.state),
        max_age: settings.terms.max_age,
    };
    get_daemon::get(client, request, &mut |news| screen.show_daemon(news), interrupted).await
}

fn finish(
    context: &Context,
    args: &Arguments,
    screen: &Screen,
    summary: &Summary,
    through_daemon: bool,
) -> Result<(), CliError> {
    screen.finish();
    if args.check.is_some() {
        crate::cli::verify::check(&summary.out, &summary.manifest, context.is_quiet() || args.json)?;
    }
    match summary.streamed {
        None => told(args, summary, through_daemon),
        // Who went away wanted no more: that is no fault, and nothing to talk about.
        Some(Streamed::Unread) => Ok(()),
        Some(Streamed::Whole) => {
            context.note(&summed(summary));
            Ok(())
        }
    }
}

/// The one line, or object, that a finished download ends with.
fn told(args: &Arguments, summary: &Summary, through_daemon: bool) -> Result<(), CliError> {
    if args.json {
        let ids: Vec<String> = summary.manifest.files().iter().map(|file| file.content_id.to_string()).collect();
        let single = (ids.len() == 1).then(|| ids.first().cloned()).flatten();
        return output::json(&json!({
            "content_id": single,
            "manifest_id": summary.manifest.id().to_string(),
            "path": summary.out.display().to_string(),
            "bytes_total": summary.bytes_total,
            "bytes_from_peers": summary.bytes_from_peers,
            "bytes_from_http": summary.bytes_from_http,
            "bytes_from_cache_host": summary.bytes_from_cache_host,
            "bytes_already_held": summary.bytes_already_held,
            "bytes_wasted": summary.bytes_wasted,
            "seconds": summary.duration.as_secs_f64(),
            "through_daemon": through_daemon,
            "verified": true,
            "error": null,
        }));
    }
    output::line(&summed(summary))
}

/// A finished download in one line.
fn summed(summary: &Summary) -> String {
    let rate = output::rate(summary.bytes_total.saturating_sub(summary.bytes_already_held), summary.duration);
    format!(
        "{}: {} verified in {}: {} from peers, {} over HTTP, {} held already ({rate})",
        summary.out.display(),
        output::bytes(summary.bytes_total),
        output::duration(summary.duration),
        output::bytes(summary.bytes_from_peers),
        output::bytes(summary.bytes_from_http),
        output::bytes(summary.bytes_already_held),
    )
}

/// The progress bar, or JSON lines, or nothing.
struct Screen {
    bar: ProgressBar,
    json: bool,
    started: Instant,
    name: String,
}

impl Screen {
    fn new(context: &Context, args: &Arguments) -> Self {
        let visible = !context.is_quiet() && !args.json;
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        Self { bar, json: args.json, started: Instant::now(), name: String::new() }
    }

    fn show(&mut self, news: News<'_>) {
        // A reader that went away is found out by the result, which is written the same way.
        let _ = match news {
            News::Listening(address) if self.json => output::json(&json!({ "listening": address.to_string() })),
            News::Listening(address) => output::line(&address.to_string()),
            News::Known { manifest, out } => {
                self.known(manifest, out);
                Ok(())
            }
            News::Progress(progress) => self.progress(progress),
            News::Comparing(bytes) => {
                self.bar.set_position(bytes);
                self.bar.set_message("comparing what is there");
                Ok(())
            }
        };
    }

    fn known(&mut self, manifest: &Manifest, out: &Path) {
        self.name = out.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.bar.set_length(manifest.layout().total_bytes());
        let style = ProgressStyle::with_template(
            "{prefix} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} ETA {eta} {msg}",
        );
        self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        self.bar.set_prefix(output::plain(&self.name).into_owned());
    }

    fn show_daemon(&mut self, news: get_daemon::News<'_>) {
        // As in `show`.
        let _ = match news {
            get_daemon::News::Known(manifest, out) => {
                self.known(manifest, out);
                Ok(())
            }
            get_daemon::News::Fetching(figures, status) => self.figures(figures, status),
            get_daemon::News::Writing(bytes) => {
                self.bar.set_position(bytes);
                self.bar.set_message("checking and writing");
                Ok(())
            }
            get_daemon::News::Comparing(bytes) => {
                self.bar.set_position(bytes);
                self.bar.set_message("comparing what is there");
                Ok(())
            }
        };
    }

    fn progress(&mut self, progress: &Progress) -> Result<(), CliError> {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let figures = Figures {
            total: progress.bytes_total,
            held: progress.bytes_held,
            from_peers: progress.bytes_from_peers,
            from_http: progress.bytes_from_http,
            from_cache_host: progress.bytes_from_cache_host,
            wasted: progress.bytes_wasted,
            peers: count(progress.peers),
            peers_active: count(progress.peers_active),
        };
        self.figures(figures, "downloading")
    }

    fn figures(&mut self, figures: Figures, status: &str) -> Result<(), CliError> {
        let delivered = figures.from_peers.saturating_add(figures.from_http);
        let share = figures.from_peers.saturating_mul(100).checked_div(delivered).unwrap_or(0);
        if self.json {
            return output::json(&json!({
                "bytes_held": figures.held,
                "bytes_total": figures.total,
                "bytes_from_peers": figures.from_peers,
                "bytes_from_http": figures.from_http,
                "bytes_from_cache_host": figures.from_cache_host,
                "bytes_already_held": figures.held.saturating_sub(delivered),
                "bytes_wasted": figures.wasted,
                "peers": figures.peers,
                "peers_active": figures.peers_active,
                "percent_from_peers": share,
                "elapsed": self.started.elapsed().as_secs_f64(),
            }));
        }
        self.bar.set_position(figures.held);
        let doing = if status == "downloading" { String::new() } else { format!(", {}", output::plain(status)) };
        self.bar.set_message(format!("{} peers, {share} % from peers{doing}", figures.peers));
        Ok(())
    }

    /// Begins anew, after a way that led nowhere.
    fn restart(&mut self) {
        self.bar.reset();
        self.started = Instant::now();
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
