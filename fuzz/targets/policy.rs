//! Configuration: what a file and the environment say is merged, or refused by key and place; what holds in the end can
//! be shown.

use piecework::policy::{Key, Layer, Provider, Settings};

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let provider = Provider::ConfigFile("f".into());
    if let Ok(layer) = Layer::from_toml(text, &provider) {
        match Settings::merge([layer]) {
            Ok(settings) => assert_eq!(settings.rows().count(), Key::ALL.len()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    // The same text as a value of every variable.
    for key in Key::ALL {
        let layer = Layer::from_environment([(key.variable(), text.to_owned())]);
        if let Ok(settings) = Settings::merge([layer]) {
            assert!(matches!(settings.provider(*key), Provider::Environment(_)));
        }
    }
}
