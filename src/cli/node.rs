//! `piecework node`: the daemon that keeps contents and serves them.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::notify::Notifier;
use crate::cli::setup::{self, PeerArguments};
use crate::cli::{daemon, files, output};
use crate::content::code::Code;
use crate::policy::{Key, Layer, Policy, Raw, Settings};
use crate::programs::peer::gates::House;
use crate::programs::peer::journal::Deed;
use crate::programs::peer::keep::{self, Daemon, Request};
use crate::programs::peer::{Failure, appliance, objects, scrub};
use crate::services::node::PeerAddress;
use crate::surfaces::control::{self, Api, Door, Socket};
use crate::surfaces::dashboard;
use crate::surfaces::metrics::{Listener, Subject};

/// Name of the token's file in the state folder, where policy names no other.
const TOKEN_FILE: &str = "control.token";
/// Longest file of a key for object storage, bytes.
const OBJECT_KEY_BYTES_MAX: usize = 1024;

/// What the node is to its site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NodeRole {
    /// One machine among others.
    Peer,
    /// The seed of a site: watches folders, prefetches, keeps without limit of age.
    Appliance,
}

/// Arguments of `piecework node`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  piecework node\n  piecework node --fetch app.piecework --fetch https://example.org/base.piecework\n  \
    piecework node --serve /srv/app.iso=app.piecework --listen 192.168.1.5:7680\n  \
    piecework node --role appliance\n\n\
    Prints one full multiaddress a line, then runs until SIGINT or SIGTERM. What --fetch names is kept in the cache, is\n\
    fetched again after a restart where it was left, and is served together with all else that the cache holds whole.\n\n\
    SIGHUP reads the trust store and the configuration again. `piecework status`, `peers`, `perf` and `cache` ask the daemon."
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
    pub fn run(mut self, context: &Context) -> Result<(), CliError> {
        self.peers.appliance = self.role == NodeRole::Appliance;
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
    let policy = &settings.settings.policy;
    let appliance = (args.role == NodeRole::Appliance).then(|| appliance_request(policy)).transpose()?;
    let lists = [policy.appliance_prefetch.is_empty(), policy.appliance_objects.is_empty()];
    if appliance.is_none() && !(policy.appliance_folders.is_empty() && lists == [true, true]) {
        tracing::warn!("what [appliance] says holds with --role appliance alone");
    }
    let request = Request {
        listen: settings.listen.clone(),
        peers: peers.map_err(Failure::from)?,
        fetch: args.fetch.clone(),
        serve,
        rendezvous: appliance.is_some() && policy.appliance_rendezvous && policy.download_mode.uses_peers(),
        appliance,
        cache: settings.cache.clone(),
        disk_threads: settings.disk_threads,
        site: settings.site,
        swarm: settings.swarm.clone(),
        terms: settings.terms.clone(),
        path: settings.path,
        house: settings.house.clone(),
        machine: settings.machine.clone(),
    };
    let socket = daemon::socket_to_make(context)?;
    let mut steering = Steering { configured: settings.settings.clone(), told: None };
    let holds = settings.settings.clone();
    setup::runtime()?.block_on(async {
        let notifier = Notifier::from_environment();
        let mut interrupted = Box::pin(setup::interrupted()?);
        let mut hangups = setup::hangups()?;
        let running = keep::start(request, trust, &settings.state).await?;
        let socket = Socket::bind(&socket)?;
        tracing::info!(socket = %socket.path().display(), "control");
        let door = door(&holds.policy, settings.state.path()).await?;
        let (api, mut wishes) = Api::new(running.daemon(), shown(&holds));
        let api = door.iter().fold(api, Api::with_door);
        if let Some(door) = door {
            tracing::info!(address = %door.address(), "control on TCP");
            tokio::spawn(door.serve(api.clone()));
        }
        let control = tokio::spawn(control::serve(socket, api.clone()));
        if let Some(address) = holds.policy.metrics_listen {
            let listener = Listener::bind(address).await?;
            tracing::info!(address = %listener.address(), "metrics");
            tokio::spawn(listener.serve(Subject::new(running.daemon())));
        }
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
                    let holds = steering.reload(context, args, &running.daemon()).await;
                    api.configured(shown(&holds));
                    notifier.ready(&status);
                }
                Some(wish) = wishes.recv() => {
                    let told = steering.mode(wish.mode, &running.daemon()).await;
                    let told = told.map(|holds| api.configured(shown(&holds)));
                    // A caller that has gone needs no answer.
                    let _ = wish.answer.send(told.map_err(|error| (error.code(), error.to_string())));
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

fn appliance_request(policy: &Policy) -> Result<appliance::Request, CliError> {
    Ok(appliance::Request {
        folders: policy.appliance_folders.clone(),
        prefetch: policy.appliance_prefetch.clone(),
        prefetch_interval: policy.appliance_prefetch_interval,
        scrub: scrub::Request { interval: policy.appliance_scrub_interval, rate: policy.appliance_scrub_rate },
        objects: objects::Request {
            buckets: policy.appliance_objects.clone(),
            region: policy.appliance_objects_region.clone(),
            key: object_key(policy)?,
            interval: policy.appliance_prefetch_interval,
        },
    })
}

/// The key for object storage, where policy names a file of it.
fn object_key(policy: &Policy) -> Result<Option<(String, zeroize::Zeroizing<String>)>, CliError> {
    let Some(path) = &policy.appliance_objects_key_file else { return Ok(None) };
    let text = zeroize::Zeroizing::new(files::read_text(path, OBJECT_KEY_BYTES_MAX)?);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    match (lines.next(), lines.next(), lines.next()) {
        (Some(access), Some(secret), None) => Ok(Some((access.to_owned(), secret.to_owned().into()))),
        _ => Err(CliError::new(Code::BadConfig, "expected two lines: an access key and its secret")
            .path(path)
            .remedy("write the access key's id on the first line and the secret on the second")),
    }
}

/// The control API's door on TCP, if policy wants one.
async fn door(policy: &Policy, state: &Path) -> Result<Option<Door>, CliError> {
    let Some(address) = policy.control_listen else { return Ok(None) };
    let token = policy.control_token_file.clone().unwrap_or_else(|| state.join(TOKEN_FILE));
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "control on TCP beyond this machine: token and sessions cross the network in clear");
    }
    Ok(Some(Door::bind(address, &token, policy.control_hosts.clone(), dashboard::FILES).await?))
}

/// Policies that a running daemon takes over; the others hold from its next start on.
const TAKEN_OVER: &[Key] = &[
    Key::DownloadMode,
    Key::GroupId,
    Key::GroupIdSource,
    Key::GroupSecretFile,
    Key::RestrictPeersBy,
    Key::TrustedNetworks,
    Key::Rendezvous,
    Key::Bootstrap,
    Key::Relay,
    Key::MonthlyUploadCap,
    Key::RelayDataBudget,
    Key::MinBackgroundRate,
    Key::DelayForegroundHttp,
    Key::DelayBackgroundHttp,
    Key::OriginGateways,
    Key::OriginConnections,
    Key::LineBudget,
    Key::MinFileSizeToPeer,
    Key::MaxAgeOfManifest,
    Key::UserQuota,
    Key::CacheHost,
    Key::CacheHostSource,
    Key::DelayForegroundCacheFallback,
    Key::DelayBackgroundCacheFallback,
    Key::CacheHostOnVpn,
    Key::MinFreeDisk,
    Key::MaxCacheSize,
    Key::MaxCachePercent,
    Key::MaxCacheAge,
    Key::MaxForegroundRate,
    Key::MaxBackgroundRate,
    Key::MaxForegroundPercent,
    Key::MaxBackgroundPercent,
    Key::MaxUploadRate,
    Key::ForegroundHours,
    Key::BackgroundHours,
    Key::MinRamToPeer,
    Key::MinDiskToPeer,
    Key::MinBatteryToUpload,
    Key::Metered,
    Key::PeerOnVpn,
    Key::VpnKeywords,
];

fn shown(settings: &Settings) -> Vec<(String, String, String)> {
    settings.rows().map(|(key, value, by)| (key.path().to_owned(), value, by.to_string())).collect()
}

/// What a running daemon goes by: what files, environment and flags say, and over it what somebody told it.
struct Steering {
    configured: Settings,
    /// Until the daemon's end.
    told: Option<Layer>,
}

impl Steering {
    /// Reads trust store and configuration again while downloads go on; what is wrong with either leaves the one before in
    /// force. Returns what holds now.
    async fn reload(&mut self, context: &Context, args: &Arguments, daemon: &Daemon) -> Settings {
        match setup::trust_store(context) {
            Ok(trust) => {
                daemon.downloads.trust(trust);
                tracing::info!("the trust store was read again");
            }
            Err(error) => tracing::error!(%error, "the trust store cannot be read again; the one before holds"),
        }
        let held = self.held(&self.told).unwrap_or_else(|_| self.configured.clone());
        match self.read(context, args, daemon, &held) {
            Ok((configured, told, holds, house)) => {
                (self.configured, self.told) = (configured, told);
                daemon.downloads.terms(setup::terms(&holds.policy));
                daemon.gates.house(house).await;
                holds
            }
            Err(error) => {
                tracing::error!(%error, "the configuration is refused; the one before holds");
                daemon.downloads.journal().note(Deed::Refused, "the configuration", &error.to_string(), None);
                held
            }
        }
    }

    /// What files, environment and flags say now, what was told and still holds, and both together.
    fn read(
        &self,
        context: &Context,
        args: &Arguments,
        daemon: &Daemon,
        held: &Settings,
    ) -> Result<(Settings, Option<Layer>, Settings, House), CliError> {
        let read = setup::settings(context, &args.peers)?;
        let mut configured = self.configured.clone();
        configured.take_over(&read, TAKEN_OVER);
        // A mode that was told goes where the new configuration has no place for it, as a group that is no more.
        let told = self.told.clone().filter(|told| configured.clone().over([told.clone()]).is_ok());
        let holds = configured.clone().over(told.clone())?;
        let house = setup::house(&holds.policy)?;
        for key in Key::ALL.iter().filter(|key| holds.policy.show(**key) != held.policy.show(**key)) {
            let (value, by) = (holds.policy.show(*key), holds.provider(*key).to_string());
            tracing::info!(key = key.path(), value, by, "taken over");
            daemon.downloads.journal().note(Deed::Reloaded, key.path(), &format!("{value}, by {by}"), None);
        }
        for key in Key::ALL.iter().filter(|key| read.policy.show(**key) != configured.policy.show(**key)) {
            let (value, by) = (read.policy.show(*key), read.provider(*key).to_string());
            tracing::warn!(key = key.path(), value, by, "holds from the next start on");
        }
        Ok((configured, told, holds, house))
    }

    fn held(&self, told: &Option<Layer>) -> Result<Settings, CliError> {
        Ok(self.configured.clone().over(told.clone())?)
    }

    /// Takes another mode while downloads go on, or with `None` the configured one. Returns what holds now.
    async fn mode(&mut self, mode: Option<String>, daemon: &Daemon) -> Result<Settings, CliError> {
        let told = mode.map(|mode| Layer::control(Key::DownloadMode, Raw::Text(mode)));
        let holds = self.held(&told)?;
        let house = setup::house(&holds.policy)?;
        self.told = told;
        let (key, by) = (Key::DownloadMode, holds.provider(Key::DownloadMode).to_string());
        let value = holds.policy.show(key);
        tracing::info!(key = key.path(), value, by, "taken over");
        daemon.downloads.journal().note(Deed::Reloaded, key.path(), &format!("{value}, by {by}"), None);
        daemon.downloads.terms(setup::terms(&holds.policy));
        daemon.gates.house(house).await;
        Ok(holds)
    }
}
