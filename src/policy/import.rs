//! A policy set of Delivery Optimization, as it is exported, turned into a configuration file of ours.

use std::fmt::Write;

use crate::policy::alias::{Alias, find};
use crate::policy::layer::{Layer, Provider, Raw};
use crate::policy::settings::Settings;

/// Settings that are looked at; a policy set has some thirty.
const LINES_MAX: usize = 512;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The configuration file; what was left out stands in it as a comment with the reason.
    pub toml: String,
    /// How many settings were taken.
    pub taken: usize,
    /// Each that was left out, and why.
    pub left_out: Vec<String>,
}

/// Reads lines as of a registry export (`"DODownloadMode"=dword:00000001`), or of a name and a value with `=` or `:` between
/// them; others are passed over.
pub fn import(text: &str) -> Imported {
    let mut imported = Imported { toml: "[policy]\n".to_owned(), taken: 0, left_out: Vec::new() };
    for line in text.lines().take(LINES_MAX) {
        let Some((name, raw)) = setting(line) else { continue };
        let reason = match find(&name, &raw) {
            Some(Alias::Is(key, raw)) => {
                let assignment = format!("{} = {}\n", key.name(), toml_of(&raw));
                // Judged as the file will be, so that none is written which would be refused.
                let whole = format!("{}{assignment}", imported.toml);
                let read = Layer::from_toml(&whole, &Provider::ConfigFile("the import".to_owned()));
                match read.and_then(|layer| Settings::merge([layer])) {
                    Ok(_) => {
                        imported.toml = whole;
                        imported.taken = imported.taken.saturating_add(1);
                        continue;
                    }
                    Err(error) => error.to_string(),
                }
            }
            Some(Alias::Wrong(key)) => format!("{raw} is no value for {}", key.path()),
            None => "no such setting is known".to_owned(),
        };
        let said: String = format!("{name}: {reason}").chars().filter(|letter| !letter.is_control()).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(imported.toml, "# {said}");
        imported.left_out.push(said);
    }
    imported
}

/// The setting of a line, if it has one of a name that begins with `DO`.
fn setting(line: &str) -> Option<(String, Raw)> {
    let line = line.trim();
    let (name, value) = line.split_once(['=', ':'])?;
    let name = name.trim().trim_matches('"');
    let right = (3..=64).contains(&name.len()) && name.bytes().all(|letter| letter.is_ascii_alphanumeric());
    if !right || !name.starts_with("DO") {
        return None;
    }
    let value = value.trim();
    let raw = match value.strip_prefix("dword:") {
        Some(digits) => Raw::Integer(i64::from(u32::from_str_radix(digits, 16).ok()?)),
        None => match value.parse() {
            Ok(number) => Raw::Integer(number),
            Err(_) => Raw::Text(value.trim_matches('"').to_owned()),
        },
    };
    Some((name.to_owned(), raw))
}

fn toml_of(raw: &Raw) -> String {
    match raw {
        Raw::Integer(number) => number.to_string(),
        Raw::Text(text) => toml::Value::String(text.clone()).to_string(),
        Raw::List(list) => {
            toml::Value::Array(list.iter().map(|text| toml::Value::String(text.clone())).collect()).to_string()
        }
        Raw::Other(text) => text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_export_becomes_a_file_that_is_accepted() {
        let text = "Windows Registry Editor Version 5.00\r\n\r\n\
            [HKEY_LOCAL_MACHINE\\SOFTWARE\\Policies\\Microsoft\\Windows\\DeliveryOptimization]\r\n\
            \"DODownloadMode\"=dword:00000001\r\n\"DOMaxUploadBandwidth\"=dword:00000400\r\n\
            \"DOMonthlyUploadDataCap\"=dword:00000001\r\n\"DOVpnKeywords\"=\"VPN,Secure\"\r\n\"DOMaxCacheSize\"=dword:000000ff\r\n\
            \"DONoSuchThing\"=dword:00000001\r\n";
        let imported = import(text);
        assert_eq!((imported.taken, imported.left_out.len()), (4, 2), "{imported:?}");
        let layer = Layer::from_toml(&imported.toml, &Provider::ConfigFile("x".into())).expect("known keys");
        let policy = Settings::merge([layer]).expect("in range").policy;
        assert_eq!(
            (policy.max_upload_rate, policy.vpn_keywords),
            (1_024_000, vec!["vpn".to_owned(), "secure".to_owned()])
        );
        for said in ["monthly_upload_cap = \"1 GiB\"", "# DOMaxCacheSize", "# DONoSuchThing: no such"] {
            assert!(imported.toml.contains(said), "{}", imported.toml);
        }
    }

    #[test]
    fn lists_and_nonsense_are_read_as_far_as_they_go() {
        let imported = import(
            "DOMinBatteryPercentageAllowedToUpload : 0\nDOMaxCacheAge = 86400\nDO\n=\n\"DO\0X\"=1\nDOMode=\u{7}\n",
        );
        assert_eq!(imported.taken, 2, "{imported:?}");
        assert!(imported.toml.contains("min_battery_to_upload = \"never\"") && !imported.toml.contains('\u{7}'));
        assert_eq!(import("").toml, "[policy]\n");
    }
}
