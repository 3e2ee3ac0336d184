//! From a file, or by name from those that are built in.

use std::path::Path;

use crate::scenario::{Machines, Scenario, check};

/// Why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No file, and none built in.
    #[error(
        "no file `{name}` and no built-in scenario of that name; the nearest is `{nearest}` (see `piecework-sim list`)"
    )]
    Unknown {
        /// What was asked for.
        name: String,
        /// What may have been meant.
        nearest: String,
    },
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is far longer than any scenario.
    #[error("{path} is longer than {LENGTH_MAX} bytes: no scenario")]
    Long {
        /// Which.
        path: String,
    },
    /// It is not TOML, or not of this form.
    #[error("{name}: {text}")]
    Form {
        /// Which scenario.
        name: String,
        /// Where and why.
        text: String,
    },
    /// It is of the form, and makes no sense.
    #[error("{name}: {text}")]
    Sense {
        /// Which scenario.
        name: String,
        /// Which key, what it says, and what it may say.
        text: String,
    },
}

const LENGTH_MAX: u64 = 1 << 20;

macro_rules! builtin {
    ($($name:literal),* $(,)?) => {
        const BUILTIN: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../scenarios/", $name, ".toml")))),*];
    };
}

builtin!(
    "one-seed",
    "office",
    "office-deaths",
    "office-attacker",
    "office-liars",
    "hub-and-spoke",
    "patch-tuesday",
    "hybrid",
    "line-budget",
    "line-budget-apart",
    "sleepers",
    "nat-mix",
    "free-riders",
    "wifi",
    "campus",
    "laptops",
    "isolated",
    "kraken",
    "dragonfly",
    "churn",
    "malice",
    "origin-faults",
    "long-tail",
    "foreground",
    "streaming",
    "deadline",
    "background",
    "scale",
    "namespaces-seed",
    "namespaces-origin",
    "lab-sixteen",
    "lab-thirty-two",
    "lab-thin-seed",
    "lab-uneven",
    "lab-late",
    "lab-thin-origin",
    "lab-distant",
    "lab-distant-origin",
);

/// The text of a built-in scenario.
pub fn builtin(name: &str) -> Option<&'static str> {
    BUILTIN.iter().find(|(it, _)| *it == name).map(|(_, text)| *text)
}

/// Names of the built-in scenarios, in the order of the list.
pub fn builtin_names() -> impl Iterator<Item = &'static str> {
    BUILTIN.iter().map(|(name, _)| *name)
}

/// Reads a scenario: a path to a file, else the name of a built-in one.
///
/// # Errors
/// [`Error`] for one that cannot be found, read, or made sense of.
pub fn load(name: &str) -> Result<Scenario, Error> {
    let path = Path::new(name);
    if !path.exists() {
        let Some(text) = builtin(name) else {
            let nearest = nearest(name, builtin_names()).unwrap_or_default();
            return Err(Error::Unknown { name: name.to_owned(), nearest: nearest.to_owned() });
        };
        return parse(name, text);
    }
    let failed = |source| Error::Read { path: name.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > LENGTH_MAX {
        return Err(Error::Long { path: name.to_owned() });
    }
    parse(name, &std::fs::read_to_string(path).map_err(failed)?)
}

/// Reads a scenario from its text.
///
/// # Errors
/// [`Error::Form`] and [`Error::Sense`].
pub fn parse(name: &str, text: &str) -> Result<Scenario, Error> {
    let scenario: Scenario = toml::from_str(text)
        .map_err(|error| Error::Form { name: name.to_owned(), text: with_nearest(&error.to_string()) })?;
    check::check(&scenario).map_err(|text| Error::Sense { name: name.to_owned(), text })?;
    Ok(scenario)
}

impl Scenario {
    /// Changes the number of machines that download to `nodes` in all; kinds and sites keep their proportions.
    ///
    /// # Errors
    /// [`Error::Sense`] where that is too many, or too few for one of each kind.
    pub fn resize(&mut self, nodes: u32) -> Result<(), Error> {
        let downloads = |it: &Machines| !it.seed && it.manner.downloads();
        let sites = |it: &Machines| self.site.iter().find(|site| site.name == it.site).map_or(1, |site| site.count);
        let total: u64 =
            self.machines.iter().filter(|it| downloads(it)).map(|it| u64::from(it.count) * u64::from(sites(it))).sum();
        let scaled = |it: &Machines| (u128::from(it.count) * u128::from(nodes) / u128::from(total.max(1))) as u32;
        let counts: Vec<u32> =
            self.machines.iter().map(|it| if it.seed { it.count } else { scaled(it).max(1) }).collect();
        for (machines, count) in self.machines.iter_mut().zip(counts) {
            machines.count = count;
        }
        check::check(self).map_err(|text| Error::Sense { name: "--nodes".into(), text })
    }
}

/// Adds the nearest known word to serde's list of all of them.
fn with_nearest(text: &str) -> String {
    let mut quoted = text.lines().find(|line| line.starts_with("unknown ")).unwrap_or("").split('`').skip(1).step_by(2);
    let Some(unknown) = quoted.next() else { return text.to_owned() };
    match nearest(unknown, quoted) {
        Some(nearest) => format!("{}\ndid you mean `{nearest}`?", text.trim_end()),
        None => text.to_owned(),
    }
}

/// The known word that is most like one that is not.
fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known.into_iter().min_by_key(|known| strsim::damerau_levenshtein(unknown, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_scenario_makes_sense() {
        for name in builtin_names() {
            if let Err(error) = load(name) {
                panic!("{error}");
            }
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one() {
        let text = builtin("one-seed").expect("it is built in").replace("size =", "sise =");
        let error = parse("it", &text).expect_err("`sise` is no key").to_string();
        assert!(error.contains("did you mean `size`?"), "{error}");
        let error = load("one-sead").expect_err("no such scenario").to_string();
        assert!(error.contains("`one-seed`"), "{error}");
    }
}
