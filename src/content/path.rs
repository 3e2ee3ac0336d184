//! [`SafePath`]: a relative path that a stranger chose, and that is safe below any destination.
//!
//! The rules are those of the strictest system, not of this one, so that a manifest means the same everywhere. Symlinks
//! that already lie in the destination are the drivers' matter; a path cannot know of them.

use std::fmt;

/// Longest path, in bytes.
pub const PATH_BYTES_MAX: usize = 4096;
/// Longest component, in bytes: what common file systems take.
pub const COMPONENT_BYTES_MAX: usize = 255;
/// Most components: deeper trees are mistakes or attacks, and cost a folder each.
pub const DEPTH_MAX: usize = 128;

/// Relative, normal, '/'-separated; made by [`SafePath::new`] only.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SafePath(Box<str>);

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathFault {
    /// No byte at all.
    #[error("it is empty")]
    Empty,
    /// Longer than [`PATH_BYTES_MAX`].
    #[error("it has {found} bytes; at most {PATH_BYTES_MAX} are allowed")]
    TooLong {
        /// Bytes found.
        found: usize,
    },
    /// More components than [`DEPTH_MAX`].
    #[error("it has {found} components; at most {DEPTH_MAX} are allowed")]
    TooDeep {
        /// Components found.
        found: usize,
    },
    /// Starts with '/'.
    #[error("it is absolute")]
    Absolute,
    /// Two slashes together, or one at the end.
    #[error("it has an empty component")]
    EmptyComponent,
    /// `.` or `..`.
    #[error("it has a component \".\" or \"..\"")]
    Dots,
    /// A component longer than [`COMPONENT_BYTES_MAX`].
    #[error("a component has {found} bytes; at most {COMPONENT_BYTES_MAX} are allowed")]
    ComponentTooLong {
        /// Bytes found.
        found: usize,
    },
    /// Backslash, colon, control character, or one that changes the direction or the line of the text around it.
    #[error("it has the character {found:?}")]
    Character {
        /// The first such character.
        found: char,
    },
    /// A component that ends with a dot or a space, which some systems drop.
    #[error("a component ends with a dot or a space")]
    TrailingDotOrSpace,
    /// A device's name on some system, with or without an extension.
    #[error("a component is a reserved device name")]
    Reserved,
}

impl SafePath {
    /// Takes a path as it is, or refuses it; nothing is mended.
    ///
    /// # Errors
    /// The first [`PathFault`] found.
    pub fn new(path: &str) -> Result<Self, PathFault> {
        if path.is_empty() {
            return Err(PathFault::Empty);
        }
        if path.len() > PATH_BYTES_MAX {
            return Err(PathFault::TooLong { found: path.len() });
        }
        if path.starts_with('/') {
            return Err(PathFault::Absolute);
        }
        let depth = path.split('/').count();
        if depth > DEPTH_MAX {
            return Err(PathFault::TooDeep { found: depth });
        }
        path.split('/').try_for_each(check_component)?;
        Ok(Self(path.into()))
    }

    /// The path as text, '/'-separated.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components from the outermost; at least one.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> + '_ {
        self.0.split('/')
    }

    /// The last component.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The path for this system's file functions, still relative.
    pub fn to_path_buf(&self) -> std::path::PathBuf {
        self.components().collect()
    }
}

fn check_component(component: &str) -> Result<(), PathFault> {
    match component {
        "" => return Err(PathFault::EmptyComponent),
        "." | ".." => return Err(PathFault::Dots),
        _ => {}
    }
    if component.len() > COMPONENT_BYTES_MAX {
        return Err(PathFault::ComponentTooLong { found: component.len() });
    }
    if let Some(found) = component.chars().find(|c| matches!(c, '\\' | ':') || !is_plain(*c)) {
        return Err(PathFault::Character { found });
    }
    if component.ends_with(['.', ' ']) {
        return Err(PathFault::TrailingDotOrSpace);
    }
    if is_reserved(component) {
        return Err(PathFault::Reserved);
    }
    Ok(())
}

/// Whether a character neither controls nor reorders nor breaks the line that shows it.
pub(crate) fn is_plain(c: char) -> bool {
    let reorders = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !reorders && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// Whether Windows would open a device by this name, whatever follows the first dot.
fn is_reserved(component: &str) -> bool {
    let stem = component.split('.').next().unwrap_or(component).trim_end_matches(' ').to_ascii_lowercase();
    if matches!(stem.as_str(), "con" | "prn" | "aux" | "nul" | "conin$" | "conout$") {
        return true;
    }
    let number = stem.strip_prefix("com").or_else(|| stem.strip_prefix("lpt"));
    let mut rest = number.unwrap_or_default().chars();
    matches!((rest.next(), rest.next()), (Some('0'..='9' | '¹' | '²' | '³'), None))
}

/// Two paths of one set that cannot stand side by side on every system.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the paths {first:?} and {second:?} collide: they differ at most in case, or one is a folder of the other")]
pub struct Collision {
    /// One of the two.
    pub first: SafePath,
    /// The other.
    pub second: SafePath,
}

/// Refuses a set in which a path occurs twice (case aside) or is a folder of another.
///
/// # Errors
/// [`Collision`] with the first pair found.
pub fn check_distinct<'a>(paths: impl IntoIterator<Item = &'a SafePath>) -> Result<(), Collision> {
    let mut folded: Vec<(Box<str>, &SafePath)> = paths.into_iter().map(|path| (fold(path), path)).collect();
    // With the separator below every other character, what lies in a folder follows the folder's own name at once, so
    // that neighbours are all that needs a look.
    folded.sort_unstable();
    for (one, two) in folded.iter().zip(folded.iter().skip(1)) {
        if two.0.strip_prefix(&*one.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('\0')) {
            return Err(Collision { first: one.1.clone(), second: two.1.clone() });
        }
    }
    Ok(())
}

/// Case folded character by character (up, then down, so that `ß` meets `SS`), separators as NUL.
fn fold(path: &SafePath) -> Box<str> {
    let chars = path.0.chars().map(|c| if c == '/' { '\0' } else { c });
    chars.flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

impl AsRef<str> for SafePath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SafePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SafePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_names_are_taken_as_they_are() {
        for path in
            ["a", "a/b.txt", ".hidden", "a b/c", "...x", "größe/日本.bin", "com", "com10", "lpt", "null", "a/..b"]
        {
            assert_eq!(SafePath::new(path).map(|path| path.to_string()), Ok(path.to_owned()));
        }
    }

    #[test]
    fn names_that_climb_out_or_mean_a_device_are_refused() {
        for path in [
            "",
            "/",
            "/a",
            "//a",
            "a/",
            "a//b",
            ".",
            "..",
            "../a",
            "a/..",
            "a/../b",
            "a/./b",
            "./a",
            "~/..",
            "a\0b",
            "a\nb",
            "a\u{7f}",
            "a\u{85}b",
            "C:",
            "C:/a",
            "c:\\a",
            "\\\\host\\share",
            "a\\b",
            "a:stream",
            "con",
            "CON",
            "nul.txt",
            "a/Aux",
            "com1",
            "COM¹.log",
            "lpt9.tar.gz",
            "prn .x",
            "conin$",
            "a.",
            "a ",
            "a./b",
            "x/a /y",
            "...",
            "a\u{202e}gpj.exe",
            "\u{2066}a",
            "a\u{2028}b",
            "\u{feff}a",
        ] {
            assert!(SafePath::new(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn the_limits_are_exact() {
        assert!(SafePath::new(&"a".repeat(255)).is_ok());
        assert_eq!(SafePath::new(&"a".repeat(256)), Err(PathFault::ComponentTooLong { found: 256 }));
        let long = ["a".repeat(255).as_str(); 16].join("/");
        assert_eq!(long.len(), 4095);
        assert!(SafePath::new(&long).is_ok());
        assert_eq!(SafePath::new(&format!("{long}/b")), Err(PathFault::TooLong { found: 4097 }));
        assert!(SafePath::new(&["a"; 128].join("/")).is_ok());
        assert_eq!(SafePath::new(&["a"; 129].join("/")), Err(PathFault::TooDeep { found: 129 }));
    }

    fn collide(paths: &[&str]) -> bool {
        let paths: Vec<_> = paths.iter().map(|path| SafePath::new(path).expect("safe")).collect();
        check_distinct(&paths).is_err()
    }

    #[test]
    fn paths_of_one_set_may_not_collide() {
        assert!(!collide(&[]));
        assert!(!collide(&["a", "b", "ab", "a.b", "c/a", "c/b"]));
        assert!(collide(&["a", "b", "a"]));
        assert!(collide(&["Readme", "b", "README"]));
        assert!(collide(&["straße", "STRASSE"]));
        assert!(collide(&["a/b/c", "a!", "a/b"]));
        assert!(collide(&["a", "a!b", "a-b", "A/x"]));
    }

    proptest! {
        #[test]
        fn what_is_taken_stays_below_the_root(path in "[a-z./\\\\: \u{0}\u{202e}C]{0,12}") {
            if let Ok(safe) = SafePath::new(&path) {
                prop_assert_eq!(safe.as_str(), path.as_str());
                let joined = Path::new("/root").join(safe.to_path_buf());
                prop_assert!(joined.starts_with("/root") && joined != Path::new("/root"));
                prop_assert!(joined.components().skip(1).all(|part| matches!(part, Component::Normal(_))));
                prop_assert_eq!(SafePath::new(safe.as_str()), Ok(safe));
            }
        }

        #[test]
        fn collisions_agree_with_comparing_every_pair(paths in proptest::collection::vec("[aAb](/[aB!]){0,3}", 0..8)) {
            let lower: Vec<_> = paths.iter().map(|path| path.to_lowercase()).collect();
            let expected = lower.iter().enumerate().any(|(i, one)| lower.iter().enumerate().any(|(j, two)| {
                i != j && (one == two || two.starts_with(&format!("{one}/")))
            }));
            let refs: Vec<_> = paths.iter().map(String::as_str).collect();
            prop_assert_eq!(collide(&refs), expected);
        }
    }
}
