//! Paths of strangers, one a line: what is taken stays below any folder, and a set of them is judged without fault.

use std::path::{Component, Path};

use piecework::content::SafePath;
use piecework::content::path::check_distinct;

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut paths = Vec::new();
    for line in text.split('\n') {
        let Ok(path) = SafePath::new(line) else { continue };
        assert_eq!(path.as_str(), line);
        let joined = Path::new("/root").join(path.to_path_buf());
        assert!(joined.starts_with("/root") && joined != Path::new("/root"));
        assert!(joined.components().skip(1).all(|part| matches!(part, Component::Normal(_))));
        paths.push(path);
    }
    if check_distinct(&paths).is_ok() {
        let mut plain = paths.clone();
        plain.sort();
        plain.dedup();
        assert_eq!(plain.len(), paths.len());
    }
}
