//! `piecework node`: the daemon that keeps contents and serves them.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::notify::Notifier;
use crate::cli::setup::{self, PeerArguments};
use crate::cli::{daemon, output};
use crate::content::code::Code;
use crate::programs::peer::Failure;
use crate::programs::peer::keep::{self, Daemon, Request};
use crate::services::node::PeerAddress;
use crate::surfaces::control::{self, Api, Socket};

/// What the node is to its site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NodeRole {
    /// One machine among others.
    Peer,
}

/// Arguments of `piecework node`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  piecework node\n  piecework node --fetch app.piecework --fetch https://example.org/base.piecework\n  \
    piecework node --serve /srv/app.iso=app.piecework --listen 192.168.1.5:7680\n\n\
    Prints one full multiaddress a line, then runs until SIGINT or SIGTERM. What --fetch names is kept in the cache, is\n\
    fetched again after a restart where it was left, and is served together with all else that the cache holds whole.\n\n\
    SIGHUP reads the trust store again. `piecework status`, `peers`, `perf` and `cache` ask the daemon."
)]
pub struct Arguments {
    /// What the node is to its site.
    #[arg(long, value_enum, default_value_t = NodeRole::Peer)]
    role: NodeRole,
    /// A manifest, URL or link to have in the cache; may be given several times.
    #[arg(long, value_name = "MANIFEST|URL|LINK")]
    fetch: Vec<String>,
    /// A file or folder to serve where it lies, and its manifest; may be given several times.
    #[arg(long, value_name = "PATH=MANIFEST")]
    serve: Vec<String>,
    /// A peer to keep connected; may be given several times.
    #[arg(long, value_name = "HOST:PORT|MULTIADDR")]
    peer: Vec<String>,
    #[command(flatten)]
    peers: PeerArguments,
}

impl Arguments {
    /// Runs it.
    ///
    /// # Errors
    /// As [`keep::start`].
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        run(context, &self)
    }
}

fn run(context: &Context, args: &Arguments) -> Result<(), CliError> {
    let settings = setup::load(context, &args.peers)?;
    let trust = setup::trust_store(context)?;
    let peers = args.peer.iter().map(|peer| peer.parse::<PeerAddress>()).collect::<Result<Vec<_>, _>>();
    let mut serve = Vec::new();
    for pair in &args.serve {
        let (path, manifest) = pair.rsplit_once('=').ok_or_else(|| {
            CliError::new(Code::Usage, format!("--serve {pair}: expected PATH=MANIFEST"))
                .remedy("write for instance --serve /srv/app.iso=app.piecework")
        })?;
        serve.push((PathBuf::from(path), PathBuf::from(manifest)));
    }
    let NodeRole::Peer = args.role;
    let request = Request {
        listen: settings.listen.clone(),
        mode: settings.mode,
        peers: peers.map_err(Failure::from)?,
        fetch: args.fetch.clone(),
        serve,
        cache: settings.cache.clone(),
        min_free_disk: settings.min_free_disk,
        disk_threads: settings.disk_threads,
        site: settings.site,
        swarm: settings.swarm.clone(),
        terms: settings.terms.clone(),
        path: settings.path,
    };
    let socket = daemon::socket_to_make(context)?;
    let config = settings.rows.clone();
    setup::runtime()?.block_on(async {
        let notifier = Notifier::from_environment();
        let mut interrupted = Box::pin(setup::interrupted()?);
        let mut hangups = setup::hangups()?;
        let running = keep::start(request, trust, &settings.state).await?;
        let socket = Socket::bind(&socket)?;
        tracing::info!(socket = %socket.path().display(), "control");
        let control = tokio::spawn(control::serve(socket, Api::new(running.daemon(), config)));
        for address in running.node().listening() {
            output::line(&address.to_string())?;
        }
        tracing::info!(contents = running.contents, "serving");
        let status = format!("serving {} contents", running.contents);
        notifier.ready(&status);
        let beat = notifier.watchdog_every();
        loop {
            tokio::select! {
                () = &mut interrupted => break,
                _ = hangups.recv() => {
                    notifier.reloading();
                    reload(context, &running.daemon());
                    notifier.ready(&status);
                }
                () = tokio::time::sleep(beat.unwrap_or_default()), if beat.is_some() => notifier.alive(),
            }
        }
        notifier.stopping();
        control.abort();
        // Aborted on purpose: its socket is gone once this returns.
        let _ = control.await;
        running.stop().await;
        Ok(())
    })
}

/// Reads the trust store again; what is wrong with it leaves the one before in force. Policies hold until a restart.
fn reload(context: &Context, daemon: &Daemon) {
    match setup::trust_store(context) {
        Ok(trust) => {
            daemon.downloads.trust(trust);
            tracing::info!("the trust store was read again");
        }
        Err(error) => tracing::error!(%error, "the trust store cannot be read again; the one before holds"),
    }
}
