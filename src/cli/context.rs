//! [`Context`]: what every command is handed.

use std::path::{Path, PathBuf};

use crate::cli::GlobalArguments;
use crate::cli::config;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::content::code::Code;
use crate::policy::{Layer, Settings};

/// The flags that hold everywhere, and what follows from them; nothing is read before somebody asks.
#[derive(Debug, Clone, Default)]
pub struct Context {
    global: GlobalArguments,
}

impl Context {
    /// The context of these flags.
    pub fn new(global: GlobalArguments) -> Self {
        Self { global }
    }

    /// Whether only what went wrong is to be told.
    pub fn is_quiet(&self) -> bool {
        self.global.quiet
    }

    /// Tells something on stderr, unless quiet.
    pub fn note(&self, line: &str) {
        if !self.global.quiet {
            output::note(line);
        }
    }

    /// Every policy's effective value: defaults, site file, user file, `--config`, environment, then these, flags first.
    ///
    /// # Errors
    /// [`Code::BadConfig`] with key, value, range and provider; [`Code::InputMissing`] where `--config` names no file.
    pub fn settings(&self, over: impl IntoIterator<Item = Layer>) -> Result<Settings, CliError> {
        config::load(self.global.config.as_deref(), over)
    }

    /// The folder of all state of this instance; it may not exist yet.
    ///
    /// # Errors
    /// [`Code::BadConfig`] where neither flag nor environment tells a place.
    pub fn state_folder(&self) -> Result<PathBuf, CliError> {
        let folder = match &self.global.state {
            Some(folder) => folder.clone(),
            None => config::default_state_folder()?,
        };
        std::path::absolute(&folder).map_err(|error| CliError::io("resolve the state folder", &folder, error))
    }

    /// The folder of the cache that goes with a state folder: where `cache_dir` says, else beside the default state
    /// folder as the system's rules have it, else below the state folder.
    ///
    /// # Errors
    /// [`Code::BadConfig`] where the environment tells no place.
    pub fn cache_folder(&self, settings: &Settings, state: &Path) -> Result<PathBuf, CliError> {
        match &settings.policy.cache_dir {
            Some(folder) => Ok(folder.clone()),
            None if config::default_state_folder().is_ok_and(|default| default == state) => {
                config::default_cache_folder()
            }
            None => Ok(state.join("cache")),
        }
    }

    /// As [`Context::state_folder`], made for this user alone if it is not there.
    ///
    /// # Errors
    /// As there, and [`Code::CannotCreate`].
    pub fn make_state_folder(&self) -> Result<PathBuf, CliError> {
        let folder = self.state_folder()?;
        make_private_folder(&folder)?;
        Ok(folder)
    }
}

/// Makes a folder and those above it, for this user alone.
///
/// # Errors
/// [`Code::CannotCreate`] and its like.
pub fn make_private_folder(folder: &Path) -> Result<(), CliError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory => {
            CliError::new(Code::CannotCreate, "a file lies where the folder should be").path(folder)
        }
        _ => CliError::create(folder, error),
    })
}
