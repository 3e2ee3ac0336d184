//! What `get`, `seed` and `node` need before they start: settings from files, environment and flags, the runtime, the
//! trust store, signals.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::files;
use crate::content::code::Code;
use crate::content::trust::TrustStore;
use crate::drivers::store::StateDir;
use crate::drivers::transport::PathPreference;
use crate::policy::{Key, Layer, Mode, Policy, Provider, Raw, Settings, Site};
use crate::programs::peer::Failure;
use crate::programs::peer::downloads::Terms;
use crate::programs::peer::eviction::CacheRules;
use crate::programs::peer::gates::{self, House};
use crate::programs::peer::sources::CacheHosts;
use crate::services::node::{CachePatience, Company, PeerAddress, Rates, Secrets};
use crate::swarm;

/// Flags that `get`, `seed` and `node` share.
#[derive(Debug, Clone, Args)]
pub struct PeerArguments {
    /// Accepts peers on this address; may be given several times; port 0 takes any free port
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Vec<String>,
    /// Which sources may be used: http-only, lan, group, internet, simple (named peers and HTTP, no discovery), bypass
    #[arg(long, value_name = "MODE")]
    pub mode: Option<String>,
    /// A node by which the mode internet finds others; may be given several times
    #[arg(long, value_name = "MULTIADDR", hide_short_help = true)]
    pub bootstrap: Vec<String>,
    /// Threads that verify, read and write; with 1, one thread makes every write
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub disk_threads: u16,
    /// Which way to peers: by itself, the data plane alone, or libp2p streams alone
    #[arg(long, value_enum, value_name = "WAY", default_value_t = Way::Auto, hide_short_help = true)]
    pub way: Way,
    /// The defaults of the role appliance hold
    #[arg(skip)]
    pub appliance: bool,
}

impl PeerArguments {
    /// Whether none of them asks for something that only an engine of one's own can do.
    pub fn is_as_usual(&self) -> bool {
        self.listen.is_empty() && self.mode.is_none() && self.bootstrap.is_empty() && self.way == Way::Auto
    }
}

/// `--way`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// The data plane, else a libp2p stream.
    Auto,
    /// The data plane alone.
    Direct,
    /// libp2p streams alone.
    Stream,
}

/// What holds for one run.
pub struct Setup {
    /// The state folder.
    pub state: Arc<StateDir>,
    /// Where the daemon's cache lies.
    pub cache: PathBuf,
    /// Whom to meet, on the network of now.
    pub company: Company,
    /// Why nobody is met on this network, if so.
    pub distrust: Option<String>,
    /// Addresses to accept peers on.
    pub listen: Vec<SocketAddr>,
    /// Nobody chose them.
    pub listen_is_default: bool,
    /// Threads that verify, read and write.
    pub disk_threads: usize,
    /// The site that policy names, as the word that peers are told.
    pub site: Option<[u8; crate::wire::limits::SITE_BYTES]>,
    /// Engine settings of what somebody waits for.
    pub swarm: swarm::Options,
    /// What policy says of the daemon's downloads.
    pub terms: Terms,
    /// Cache hosts to ask, on the network of now.
    pub cache_hosts: Vec<String>,
    /// Which way to peers.
    pub path: PathPreference,
    /// What an operator wants, as far as it can change while a daemon runs.
    pub house: House,
    /// Rates that policy sets for this hour.
    pub rates: Rates,
    /// Root of the files that tell of this machine.
    pub machine: PathBuf,
    /// Every policy, and who set it.
    pub settings: Settings,
}

/// Reads all settings and opens the state folder.
///
/// # Errors
/// A setting outside its range, or a state folder that cannot be used.
pub fn load(context: &Context, arguments: &PeerArguments) -> Result<Setup, CliError> {
    let settings = settings(context, arguments)?;
    let policy = &settings.policy;
    let machine = std::env::var_os(MACHINE_VARIABLE).map_or_else(|| PathBuf::from("/"), PathBuf::from);
    let house = house(policy)?;
    let looked = gates::look(policy, &machine, std::path::Path::new("/"), None);
    let state = Arc::new(StateDir::open(&context.make_state_folder()?).map_err(Failure::from)?);
    Ok(Setup {
        cache: context.cache_folder(&settings, state.path())?,
        state,
        company: looked.company(&house),
        distrust: looked.distrust().map(str::to_owned),
        listen: policy.listen.clone(),
        listen_is_default: *settings.provider(Key::Listen) == Provider::Default,
        disk_threads: usize::from(arguments.disk_threads),
        site: match &settings.policy.site {
            Site::Auto => None,
            Site::Named(name) => Some(crate::wire::site_word(name)),
        },
        swarm: swarm_options(policy),
        terms: terms(policy),
        cache_hosts: looked.cache_hosts().to_vec(),
        path: match arguments.way {
            Way::Auto => PathPreference::Auto,
            Way::Direct => PathPreference::Direct,
            Way::Stream => PathPreference::Stream,
        },
        rates: looked.rates(policy, 0),
        house,
        machine,
        settings,
    })
}

/// What of the policies can change while a daemon runs.
///
/// # Errors
/// The group's secrets cannot be read, or are none.
pub fn house(policy: &Policy) -> Result<House, CliError> {
    Ok(House { policy: policy.clone(), secrets: secrets(policy)? })
}

/// A folder that plays the machine, for trials of what a machine at hand does not do.
const MACHINE_VARIABLE: &str = "PIECEWORK_MACHINE";

/// Longest file of a group's secrets, bytes.
const GROUP_SECRET_BYTES_MAX: usize = 4096;

/// The group's secrets, where policy names a file of them; none in modes that have no group.
fn secrets(policy: &Policy) -> Result<Option<Secrets>, CliError> {
    let of_a_group = matches!(policy.download_mode, Mode::Group | Mode::Internet);
    let Some(path) = policy.group_secret_file.as_ref().filter(|_| of_a_group) else { return Ok(None) };
    let bytes = zeroize::Zeroizing::new(files::read_bytes(path, GROUP_SECRET_BYTES_MAX)?);
    Secrets::read(&bytes).map(Some).map_err(|cause| {
        CliError::new(Code::BadConfig, format!("the group's secret is of no use: {cause}"))
            .path(path)
            .remedy("write one that nobody guesses: openssl rand -hex 32")
    })
}

/// Every policy's effective value for a command with these flags.
///
/// # Errors
/// A setting outside its range, or one that needs another.
pub fn settings(context: &Context, arguments: &PeerArguments) -> Result<Settings, CliError> {
    let list = |texts: &[String]| (!texts.is_empty()).then(|| Raw::List(texts.to_vec()));
    let flags = Layer::default()
        .flag(Key::DownloadMode, "--mode", arguments.mode.clone().map(Raw::Text))
        .flag(Key::Listen, "--listen", list(&arguments.listen))
        .flag(Key::Bootstrap, "--bootstrap", list(&arguments.bootstrap));
    let mut settings = context.settings([flags])?;
    for node in &settings.policy.bootstrap {
        if let Err(error) = node.parse::<PeerAddress>() {
            return Err(CliError::new(Code::BadConfig, format!("{}: {error}", Key::Bootstrap.path()))
                .culprit(settings.provider(Key::Bootstrap).to_string())
                .remedy("take what that node prints at its start"));
        }
    }
    if arguments.appliance {
        settings.as_appliance();
    }
    Ok(settings)
}

fn swarm_options(policy: &Policy) -> swarm::Options {
    swarm::Options {
        upload_slots: policy.upload_slots,
        origin_gateways: policy.origin_gateways,
        origin_connections: policy.origin_connections,
        line_budget: policy.line_budget,
        http_delay: policy.delay_foreground_http,
        min_rate: policy.min_background_rate,
        ..swarm::Options::default()
    }
}

/// What policy says of the daemon's downloads.
pub fn terms(policy: &Policy) -> Terms {
    let mut foreground = swarm_options(policy);
    let mut background = swarm::Options {
        http_delay: policy.delay_background_http,
        background: true,
        origin_connections: 1,
        ..foreground.clone()
    };
    // Peers that are slow because we want them so are no reason to turn to HTTP.
    for (options, rate) in
        [(&mut foreground, policy.max_foreground_rate), (&mut background, policy.max_background_rate)]
    {
        if rate > 0 {
            options.min_rate = options.min_rate.min(rate / 2);
        }
    }
    let cache = CacheRules {
        bytes_max: Some(policy.max_cache_size).filter(|bytes| *bytes > 0),
        percent_max: policy.max_cache_percent.into(),
        free_bytes_min: policy.min_free_disk,
        age_max: Some(policy.max_cache_age.as_secs()).filter(|seconds| *seconds > 0),
    };
    let patience = CachePatience {
        foreground: policy.delay_foreground_cache_fallback,
        background: policy.delay_background_cache_fallback,
        found: false,
    };
    // Which they are follows from the machine as well.
    let cache_hosts = CacheHosts { hosts: Vec::new(), patience };
    Terms {
        peers: policy.download_mode.uses_peers(),
        foreground,
        background,
        cache,
        cache_hosts,
        min_file_size: policy.min_file_size_to_peer,
        max_age: policy.max_age_of_manifest,
        quota: policy.user_quota,
    }
}

/// The trust store of this instance; empty where there is none yet.
///
/// # Errors
/// It does not parse or cannot be read.
pub fn trust_store(context: &Context) -> Result<TrustStore, CliError> {
    crate::cli::trust::load(&context.state_folder()?)
}

/// The runtime of everything but peer connections and disk.
///
/// # Errors
/// The system refuses threads or descriptors.
pub fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::new(Code::ResourceRefused, "the system gives no event loop").because(error))
}

/// Completes at SIGINT or SIGTERM.
///
/// # Errors
/// The system refuses signal handlers.
pub fn interrupted() -> Result<impl Future<Output = ()> + Send + 'static, CliError> {
    use tokio::signal::unix::{SignalKind, signal};
    let refused = |error| CliError::new(Code::ResourceRefused, "signals cannot be handled").because(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// SIGHUP, by which a daemon is told to read its files again.
///
/// # Errors
/// As [`interrupted`].
pub fn hangups() -> Result<tokio::signal::unix::Signal, CliError> {
    let hangups = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup());
    hangups.map_err(|error| CliError::new(Code::ResourceRefused, "signals cannot be handled").because(error))
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        let mut error = CliError::new(failure.code, failure.message);
        if let Some(culprit) = failure.culprit {
            error = error.culprit(culprit);
        }
        if let Some(remedy) = failure.remedy {
            error = error.remedy(remedy);
        }
        error
    }
}
