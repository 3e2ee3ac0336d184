//! Where policies are set: files and the environment are read here, and nowhere else.

use std::path::{Path, PathBuf};

use crate::cli::error::CliError;
use crate::cli::files;
use crate::content::code::Code;
use crate::policy::layer::CONFIG_BYTES_MAX;
use crate::policy::{Layer, Provider, Settings};

/// The machine's configuration.
const SITE_FILE: &str = "/etc/piecework/piecework.toml";
/// The state of a process that runs as root.
const ROOT_STATE: &str = "/var/lib/piecework";
/// The cache of a process that runs as root.
const ROOT_CACHE: &str = "/var/cache/piecework";

/// Defaults, site file, user file, the file named, environment, then those handed in: later ones win.
///
/// # Errors
/// [`Code::BadConfig`] for what may not be, [`Code::InputMissing`] where `named` is not there.
pub fn load(named: Option<&Path>, over: impl IntoIterator<Item = Layer>) -> Result<Settings, CliError> {
    let shown = |path: &Path| path.display().to_string();
    let mut layers = Vec::new();
    let site = PathBuf::from(SITE_FILE);
    layers.extend(if_present(&site, Provider::SiteFile(shown(&site)))?);
    if let Some(user) = user_folder("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("piecework.toml")) {
        layers.extend(if_present(&user, Provider::UserFile(shown(&user)))?);
    }
    if let Some(named) = named {
        layers.push(read(named, &Provider::ConfigFile(shown(named)))?);
    }
    let known = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let variables = known.map(|(name, value)| (name, value.to_string_lossy().into_owned()));
    layers.push(Layer::from_environment(variables));
    layers.extend(over);
    Ok(Settings::merge(layers)?)
}

/// What one file alone sets.
///
/// # Errors
/// As [`load`].
pub fn check(path: &Path) -> Result<Settings, CliError> {
    let layer = read(path, &Provider::ConfigFile(path.display().to_string()))?;
    Ok(Settings::merge([layer])?)
}

fn if_present(path: &Path, provider: Provider) -> Result<Option<Layer>, CliError> {
    match path.try_exists() {
        Ok(false) => Ok(None),
        _ => read(path, &provider).map(Some),
    }
}

fn read(path: &Path, provider: &Provider) -> Result<Layer, CliError> {
    let text = files::read_text(path, CONFIG_BYTES_MAX)
        .map_err(|error| if error.code() == Code::BadInput { error.recoded(Code::BadConfig) } else { error })?;
    Layer::from_toml(&text, provider).map_err(|error| CliError::from(error).path(path))
}

/// Where state lies unless `--state` says otherwise.
///
/// # Errors
/// [`Code::BadConfig`] where the environment names no home.
pub fn default_state_folder() -> Result<PathBuf, CliError> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from(ROOT_STATE));
    }
    user_folder("XDG_STATE_HOME", ".local/state").ok_or_else(|| no_home("--state DIR"))
}

/// Where the cache lies unless `cache_dir` says otherwise.
///
/// # Errors
/// [`Code::BadConfig`] where the environment names no home.
pub fn default_cache_folder() -> Result<PathBuf, CliError> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from(ROOT_CACHE));
    }
    user_folder("XDG_CACHE_HOME", ".cache").ok_or_else(|| no_home("cache_dir in a configuration file"))
}

fn no_home(instead: &str) -> CliError {
    CliError::new(Code::BadConfig, "the environment names no home folder")
        .culprit("HOME")
        .remedy(format!("set HOME, or use {instead}"))
}

/// `piecework` below a folder of the XDG base directories; relative ones do not count, as their specification says.
fn user_folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    let set = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = set(variable).or_else(|| set("HOME").map(|home| home.join(below_home)))?;
    Some(base.join("piecework"))
}
