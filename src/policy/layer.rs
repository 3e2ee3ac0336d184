//! [`Layer`]: what one place says, before anyone asks whether it may.

use std::collections::BTreeMap;
use std::fmt;

use crate::policy::alias::{self, Alias};
use crate::policy::error::Error;
use crate::policy::key::{Key, nearest};

/// Longest configuration file, in bytes.
pub const CONFIG_BYTES_MAX: usize = 1 << 20;

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provider {
    /// Nowhere: the program's own value.
    Default,
    /// The machine's file.
    SiteFile(String),
    /// The user's file.
    UserFile(String),
    /// The file named by `--config`.
    ConfigFile(String),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(String),
    /// What the node is to its site: a default of that role's own.
    Role(&'static str),
    /// Whoever may steer the running daemon.
    Control,
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Provider::Default => f.write_str("the defaults"),
            Provider::SiteFile(path) => write!(f, "the site file {path}"),
            Provider::UserFile(path) => write!(f, "the user file {path}"),
            Provider::ConfigFile(path) => write!(f, "the file {path}"),
            Provider::Environment(variable) => write!(f, "the environment variable {variable}"),
            Provider::Flag(flag) => write!(f, "the flag {flag}"),
            Provider::Role(role) => write!(f, "the role {role}"),
            Provider::Control => f.write_str("the control API"),
        }
    }
}

impl Provider {
    /// The same with the line, where a file sets it; for messages.
    pub(crate) fn at(&self, line: Option<usize>) -> Self {
        let Some(line) = line else { return self.clone() };
        let at = |path: &String| format!("{path}, line {line}");
        match self {
            Provider::SiteFile(path) => Provider::SiteFile(at(path)),
            Provider::UserFile(path) => Provider::UserFile(at(path)),
            Provider::ConfigFile(path) => Provider::ConfigFile(at(path)),
            other => other.clone(),
        }
    }
}

/// A value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Raw {
    /// A number, from a file.
    Integer(i64),
    /// Text, from a file, a variable or a flag; numbers may stand in it.
    Text(String),
    /// Several texts, from a file, or from a variable by commas.
    List(Vec<String>),
    /// A kind that no policy has.
    Other(String),
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Raw::Integer(number) => return write!(f, "{number}"),
            Raw::Text(text) => format!("{text:?}"),
            Raw::List(list) => format!("{list:?}"),
            Raw::Other(text) => text.clone(),
        };
        f.write_str(&text.chars().take(80).collect::<String>())
    }
}

/// What one place says: each key once, with the place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer {
    pub(crate) values: BTreeMap<Key, (Raw, Provider)>,
    /// Lines of the file in which values stand.
    pub(crate) lines: BTreeMap<Key, usize>,
}

impl Layer {
    /// Reads a configuration file's text.
    ///
    /// # Errors
    /// [`Error::Syntax`] for what is not TOML, [`Error::UnknownKey`] for a key or table that no policy has.
    pub fn from_toml(text: &str, provider: &Provider) -> Result<Self, Error> {
        let syntax = |reason: String| Error::Syntax { provider: provider.clone(), reason };
        if text.len() > CONFIG_BYTES_MAX {
            return Err(syntax(format!("at most {CONFIG_BYTES_MAX} bytes are allowed, found {}", text.len())));
        }
        let read: toml::Table = text.parse().map_err(|fault: toml::de::Error| {
            let line = fault.span().and_then(|span| text.get(..span.start)).map(|before| before.lines().count().max(1));
            syntax(line.map_or_else(String::new, |line| format!("line {line}: ")) + fault.message())
        })?;
        let mut layer = Self::default();
        for (table, entries) in read {
            if !Key::ALL.iter().any(|key| key.table() == table) {
                let nearest = match Key::ALL.iter().find(|key| key.name() == table) {
                    Some(key) => key.path(),
                    None => nearest(&table, Key::ALL.iter().map(|key| key.table())),
                };
                let (key, nearest) = (shown(&table), nearest.to_owned());
                let provider = provider.at(line_of(text, &table, None));
                return Err(Error::UnknownKey { provider, key, nearest });
            }
            let toml::Value::Table(entries) = entries else {
                return Err(syntax(format!("{table} is a table: write [{table}]")));
            };
            for (name, value) in entries {
                let path = format!("{table}.{name}");
                let line = line_of(text, &table, Some(&name));
                let value = raw(value);
                let (key, value) = match (Key::find(&path), alias::find(&name, &value)) {
                    (Some(key), _) => (Some(key), value),
                    (None, Some(Alias::Is(key, turned))) if table == "policy" => (Some(key), turned),
                    (None, Some(Alias::Wrong(key))) if table == "policy" => {
                        let (key, range, value) = (key.path(), "what Delivery Optimization allows", value.to_string());
                        return Err(Error::OutOfRange { key, value, range, provider: provider.at(line) });
                    }
                    _ => (None, value),
                };
                let Some(key) = key else {
                    let provider = provider.at(line);
                    let nearest = nearest(&path, Key::ALL.iter().map(|key| key.path())).to_owned();
                    return Err(Error::UnknownKey { provider, key: shown(&path), nearest });
                };
                if layer.values.insert(key, (value, provider.clone())).is_some() {
                    return Err(syntax(format!("{} is set twice, once by Delivery Optimization's name", key.path())));
                }
                layer.lines.extend(line.map(|line| (key, line)));
            }
        }
        Ok(layer)
    }

    /// Takes the variables that set a policy; other variables are none of its business.
    pub fn from_environment(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut layer = Self::default();
        for (variable, value) in variables {
            if let Some(key) = Key::ALL.iter().find(|key| key.variable() == variable) {
                let list = || value.split(',').map(|item| item.trim().to_owned()).collect();
                let raw = if key.is_list() { Raw::List(list()) } else { Raw::Text(value.clone()) };
                layer.values.insert(*key, (raw, Provider::Environment(variable)));
            }
        }
        layer
    }

    /// What somebody told the running daemon.
    pub fn control(key: Key, raw: Raw) -> Self {
        Self { values: BTreeMap::from([(key, (raw, Provider::Control))]), ..Self::default() }
    }

    /// Adds what a flag says, if it was given.
    pub fn flag(mut self, key: Key, flag: &str, value: Option<Raw>) -> Self {
        if let Some(raw) = value {
            self.values.insert(key, (raw, Provider::Flag(flag.to_owned())));
        }
        self
    }
}

/// The line on which a table, or a key of it, stands first.
fn line_of(text: &str, table: &str, name: Option<&str>) -> Option<usize> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let (head, entries) = document.get_ref().iter().find(|(key, _)| key.get_ref() == table)?;
    let span = match name {
        None => head.span(),
        Some(name) => entries.get_ref().as_table()?.iter().find(|(key, _)| key.get_ref() == name)?.0.span(),
    };
    Some(text.get(..span.start)?.matches('\n').count().saturating_add(1))
}

fn raw(value: toml::Value) -> Raw {
    match value {
        toml::Value::Integer(number) => Raw::Integer(number),
        toml::Value::String(text) => Raw::Text(text),
        toml::Value::Array(items) => {
            let text = |item: &toml::Value| match item {
                toml::Value::String(text) => Some(text.clone()),
                toml::Value::Integer(number) => Some(number.to_string()),
                _ => None,
            };
            match items.iter().map(text).collect() {
                Some(list) => Raw::List(list),
                None => Raw::Other("a list of other things than texts".to_owned()),
            }
        }
        other => Raw::Other(other.to_string()),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Layer, Error> {
        Layer::from_toml(text, &Provider::ConfigFile("x.toml".into()))
    }

    #[test]
    fn unknown_keys_are_refused_with_the_nearest_known_one() {
        for (text, nearest) in [
            ("[policy]\nupload_slot = 4", "policy.upload_slots"),
            ("[node]\nlisten_on = []", "node.listen"),
            ("[polcy]\nupload_slots = 4", "policy"),
            ("download_mode = \"lan\"", "policy.download_mode"),
        ] {
            let Err(Error::UnknownKey { nearest: found, .. }) = read(text) else { panic!("{text} was taken") };
            assert_eq!(found, nearest, "{text}");
        }
    }

    #[test]
    fn a_policy_that_is_none_is_refused_with_its_line() {
        let fault = read("[policy]\nupload_slots = 4\nupload_slot = 4").expect_err("unknown").to_string();
        assert!(fault.contains("line 3"), "{fault}");
    }

    #[test]
    fn what_is_not_toml_is_refused_with_its_line() {
        let fault = read("[policy]\nupload_slots = = 4").expect_err("no TOML").to_string();
        assert!(fault.contains("x.toml") && fault.contains("line 2"), "{fault}");
        for text in ["policy = 3", "[policy", "[policy]\nupload_slots = 1\nupload_slots = 2", "\0"] {
            assert!(matches!(read(text), Err(Error::Syntax { .. })), "{text}");
        }
        assert!(matches!(read(&" ".repeat(CONFIG_BYTES_MAX + 1)), Err(Error::Syntax { .. })));
    }

    #[test]
    fn the_environment_sets_what_it_names() {
        let variables = [("PIECEWORK_LISTEN", "7681, 1.2.3.4:5"), ("PIECEWORK_LOG", "x"), ("HOME", "/")];
        let layer = Layer::from_environment(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let expected = Raw::List(vec!["7681".into(), "1.2.3.4:5".into()]);
        assert_eq!(layer.values.len(), 1);
        assert_eq!(layer.values.get(&Key::Listen).map(|(raw, _)| raw), Some(&expected));
    }
}
