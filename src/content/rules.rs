//! The rules of a manifest's payload: how it is read, what is refused, and every bound on it.
//!
//! Order matters: counts before allocation, geometry before hashing (which asserts on it), single fields before the
//! whole.

use prost::Message;
use prost::bytes::Bytes;

use crate::content::error::{Error, shown};
use crate::content::fields::{Fields, Malformed};
use crate::content::hash::{ContentId, Sha256};
use crate::content::layout::PieceLayout;
use crate::content::manifest::FileEntry;
use crate::content::path::{SafePath, check_distinct, is_plain};
use crate::content::{proto, tree};

/// Longest payload, in bytes: a few million pieces.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;
/// Most files.
pub const FILES_MAX: usize = 1_000_000;
/// Longest name, version and annotation key, in bytes.
pub const TEXT_BYTES_MAX: usize = 255;
/// Most annotations.
pub const ANNOTATIONS_MAX: usize = 256;
/// Longest annotation value, in bytes.
pub const ANNOTATION_BYTES_MAX: usize = 4096;
/// Most sources of one file.
pub const SOURCES_MAX: usize = 64;
/// Most sources of all files: each costs an allocation.
pub const SOURCES_TOTAL_MAX: usize = 1_000_000;
/// Longest URL of a source, in bytes.
pub const URL_BYTES_MAX: usize = 4096;
/// Last second of the year 9999: what RFC 3339 can say.
pub const TIME_MAX: u64 = 253_402_300_799;
/// The fields beside the files.
#[derive(Default)]
pub(crate) struct Head {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) sequence: u64,
    pub(crate) created: u64,
    pub(crate) expires: u64,
    pub(crate) annotations: Vec<(String, String)>,
    pub(crate) directory: bool,
}

/// # Errors
/// [`Error::OverLimit`] for more than [`PAYLOAD_BYTES_MAX`].
pub(crate) fn check_payload_length(found: usize) -> Result<(), Error> {
    at_most("bytes of the payload", PAYLOAD_BYTES_MAX, found)
}

/// # Errors
/// [`Error::OverLimit`] where `found` is more than `max`.
pub(crate) fn at_most(what: &'static str, max: usize, found: usize) -> Result<(), Error> {
    if found > max {
        return Err(Error::OverLimit { what, max: max as u64, found: found as u64 });
    }
    Ok(())
}

fn malformed(reason: Malformed) -> Error {
    Error::Malformed { what: "manifest", reason: reason.0.to_owned() }
}

fn undecodable(reason: prost::DecodeError) -> Error {
    Error::Malformed { what: "manifest", reason: reason.to_string() }
}

/// A published manifest's fields and files, held against every rule.
///
/// # Errors
/// [`Error`] naming the first rule broken.
pub(crate) fn read_listed(payload: &Bytes) -> Result<(Head, Vec<FileEntry>), Error> {
    let (head, files) = read(payload)?;
    check_head(&head)?;
    let files = files.into_iter().map(check_file).collect::<Result<Vec<_>, _>>()?;
    check_distinct(files.iter().map(|file| &file.path))?;
    Ok((head, files))
}

/// The file of a bare manifest, which has no name, no SHA-256 and no source: length and hashes only.
///
/// # Errors
/// [`Error`] where those do not fit each other.
pub(crate) fn read_bare(payload: &Bytes) -> Result<Vec<FileEntry>, Error> {
    read(payload)?.1.into_iter().map(check_file_bytes).collect()
}

/// Two walks over the payload; counts are checked before anything is allocated for them.
fn read(payload: &Bytes) -> Result<(Head, Vec<proto::File>), Error> {
    check_payload_length(payload.len())?;
    let (mut files, mut sources) = (0usize, 0usize);
    for field in Fields::of(payload) {
        let (number, value) = field.map_err(malformed)?;
        if number == 4 {
            let of_file = count_sources(value.bytes().map_err(malformed)?)?;
            (files, sources) = (files.saturating_add(1), sources.saturating_add(of_file));
        }
    }
    if files == 0 {
        return Err(Error::Field { what: "files", expected: "at least one", found: "none".to_owned() });
    }
    at_most("files", FILES_MAX, files)?;
    at_most("sources of all files", SOURCES_TOTAL_MAX, sources)?;
    let mut head = Head::default();
    let mut list = Vec::with_capacity(files);
    for field in Fields::of(payload) {
        let (number, value) = field.map_err(malformed)?;
        match number {
            1 => head.name = value.text().map_err(malformed)?.to_owned(),
            2 => head.version = value.text().map_err(malformed)?.to_owned(),
            3 => head.sequence = value.varint().map_err(malformed)?,
            4 => {
                let bytes = payload.slice_ref(value.bytes().map_err(malformed)?);
                list.push(proto::File::decode(bytes).map_err(undecodable)?);
            }
            5 => head.created = value.varint().map_err(malformed)?,
            6 => head.expires = value.varint().map_err(malformed)?,
            7 => {
                at_most("annotations", ANNOTATIONS_MAX, head.annotations.len().saturating_add(1))?;
                let pair = proto::Annotation::decode(value.bytes().map_err(malformed)?).map_err(undecodable)?;
                head.annotations.push((pair.key, pair.value));
            }
            8 => head.directory = value.flag().map_err(malformed)?,
            _ => {}
        }
    }
    Ok((head, list))
}

fn count_sources(file: &[u8]) -> Result<usize, Error> {
    let mut count = 0;
    for field in Fields::of(file) {
        count += usize::from(field.map_err(malformed)?.0 == 6);
        at_most("sources of a file", SOURCES_MAX, count)?;
    }
    Ok(count)
}

fn check_head(head: &Head) -> Result<(), Error> {
    check_text("name", &head.name, 1)?;
    check_text("version", &head.version, 0)?;
    for (what, seconds) in [("created", head.created), ("expires", head.expires)] {
        if seconds > TIME_MAX {
            return Err(Error::Field { what, expected: "seconds up to the year 9999", found: seconds.to_string() });
        }
    }
    for (key, value) in &head.annotations {
        check_text("key of an annotation", key, 1)?;
        at_most("bytes of an annotation", ANNOTATION_BYTES_MAX, value.len())?;
    }
    let pairs = head.annotations.iter().zip(head.annotations.iter().skip(1));
    for ((before, _), (key, _)) in pairs {
        if before >= key {
            let expected = "each key once, in ascending order";
            return Err(Error::Field { what: "annotations", expected, found: shown(key) });
        }
    }
    Ok(())
}

/// One line of text that shows as what it is.
fn check_text(what: &'static str, text: &str, least: usize) -> Result<(), Error> {
    at_most(what, TEXT_BYTES_MAX, text.len())?;
    let expected = if least == 0 {
        "printable text without spaces around it"
    } else {
        "printable text, at least one character, without spaces around it"
    };
    if text.len() < least || text.trim() != text || !text.chars().all(is_plain) {
        return Err(Error::Field { what, expected, found: shown(text) });
    }
    Ok(())
}

/// # Errors
/// [`Error::Field`] unless it is an absolute `http` or `https` URL in printable ASCII, with a host, without a password.
pub(crate) fn check_url(text: &str) -> Result<(), Error> {
    at_most("bytes of a source's URL", URL_BYTES_MAX, text.len())?;
    // The parser would drop tabs and line ends; what is listed is what is asked for.
    let parsed = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
    let parsed = parsed.and_then(|text| url::Url::parse(text).ok());
    let fits = |url: &url::Url| {
        matches!(url.scheme(), "http" | "https")
            && url.host_str().is_some_and(|host| !host.is_empty())
            && url.username().is_empty()
            && url.password().is_none()
    };
    if parsed.as_ref().is_some_and(fits) {
        return Ok(());
    }
    let expected = "an http or https URL in ASCII, without user or password";
    Err(Error::Field { what: "URL of a source", expected, found: shown(text) })
}

fn check_file(file: proto::File) -> Result<FileEntry, Error> {
    file.sources.iter().try_for_each(|url| check_url(url))?;
    let entry = check_file_bytes(file)?;
    if entry.sha256.is_none() {
        let expected = "32 bytes of SHA-256";
        return Err(Error::Field { what: "sha256", expected, found: shown(entry.path.as_str()) });
    }
    Ok(entry)
}

/// Geometry first, since hashing asserts on it; then the merge.
fn check_file_bytes(file: proto::File) -> Result<FileEntry, Error> {
    let path = SafePath::new(&file.path).map_err(|fault| Error::UnsafePath { path: shown(&file.path), fault })?;
    let layout = PieceLayout::new(file.length)?;
    let content_id = ContentId::from_slice(&file.content_id).ok_or_else(|| Error::Field {
        what: "content_id",
        expected: "32 bytes",
        found: format!("{} bytes", file.content_id.len()),
    })?;
    let expected = u64::from(layout.piece_count()) * 32;
    let found = file.piece_hashes.len() as u64;
    let merged = tree::merge_pieces(&layout, &file.piece_hashes).filter(|_| found == expected);
    let Some(merged) = merged else {
        return Err(Error::PieceHashes { path: shown(path.as_str()), expected, found });
    };
    if merged != content_id {
        return Err(Error::DoesNotMerge { path: shown(path.as_str()), expected: content_id, found: merged });
    }
    if !matches!(file.sha256.len(), 0 | 32) {
        let found = format!("{} bytes", file.sha256.len());
        return Err(Error::Field { what: "sha256", expected: "32 bytes", found });
    }
    Ok(FileEntry {
        path,
        length: file.length,
        content_id,
        sha256: Sha256::from_slice(&file.sha256),
        sources: file.sources,
        executable: file.executable,
        layout,
        piece_hashes: file.piece_hashes,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::build::ManifestBuilder;
    use crate::content::build::samples::{counting, listed};
    use crate::content::code::Code;
    use crate::content::manifest::Manifest;

    /// A valid message of two files, to be broken in one place.
    fn message() -> proto::Manifest {
        let mut two = listed("b/two", &counting((1 << 20) + 1));
        two.sources = vec!["https://example.com/two".to_owned()];
        let built = ManifestBuilder::new("acme/app").file(listed("a", b"one")).file(two).build().expect("valid");
        proto::Manifest::decode(built.payload().clone()).expect("canonical")
    }

    fn refused(change: impl FnOnce(&mut proto::Manifest)) -> Error {
        let mut message = message();
        change(&mut message);
        Manifest::decode(&message.encode_to_vec()).expect_err("a rule is broken")
    }

    #[test]
    fn every_rule_is_held_against_a_manifest_that_breaks_it() {
        type Change = fn(&mut proto::Manifest);
        let changes: &[(&str, Change)] = &[
            ("no file", |m| m.files.clear()),
            ("no name", |m| m.name.clear()),
            ("long name", |m| m.name = "a".repeat(256)),
            ("escape in name", |m| m.name.push('\u{1b}')),
            ("space after name", |m| m.name.push(' ')),
            ("reordered version", |m| m.version = "1\u{202e}2".to_owned()),
            ("year 10000", |m| m.expires = TIME_MAX + 1),
            ("created never", |m| m.created = u64::MAX),
            ("annotation twice", |m| {
                m.annotations = vec![proto::Annotation { key: "k".to_owned(), value: String::new() }; 2]
            }),
            ("annotation without key", |m| m.annotations = vec![proto::Annotation::default()]),
            ("long annotation", |m| {
                m.annotations = vec![proto::Annotation { key: "k".to_owned(), value: "v".repeat(4097) }];
            }),
            ("many annotations", |m| {
                let annotation = |i: usize| proto::Annotation { key: format!("{i:04}"), value: String::new() };
                m.annotations = (0..257).map(annotation).collect();
            }),
            ("content id of 31 bytes", |m| m.files[0].content_id.truncate(31)),
            ("no SHA-256", |m| m.files[0].sha256.clear()),
            ("SHA-256 of 31 bytes", |m| m.files[0].sha256.truncate(31)),
            ("a piece too few", |m| m.files[1].piece_hashes.truncate(32)),
            ("half a piece hash", |m| m.files[1].piece_hashes.truncate(63)),
            ("no piece hashes", |m| m.files[1].piece_hashes.clear()),
            ("pieces of an empty file", |m| m.files[0].length = 0),
            ("another length", |m| m.files[1].length = 1 << 21 | 1),
            ("longest length", |m| m.files[1].length = u64::MAX),
            ("another id", |m| m.files[1].content_id = m.files[0].content_id.clone()),
            ("pieces changed places", |m| {
                let hashes = m.files[1].piece_hashes.clone();
                m.files[1].piece_hashes = [&hashes[32..], &hashes[..32]].concat().into();
            }),
            ("source by file", |m| m.files[1].sources[0] = "file:///etc/passwd".to_owned()),
            ("relative source", |m| m.files[1].sources[0] = "two".to_owned()),
            ("source with password", |m| m.files[1].sources[0] = "http://a:b@c/".to_owned()),
            ("source with line end", |m| m.files[1].sources[0] = "http://a/b\r\nc".to_owned()),
            ("source not in ASCII", |m| m.files[1].sources[0] = "http://é/".to_owned()),
            ("long source", |m| m.files[1].sources[0] = format!("http://a/{}", "b".repeat(4096))),
            ("many sources", |m| m.files[1].sources = vec!["http://a/".to_owned(); 65]),
        ];
        for (what, change) in changes {
            assert_eq!(refused(*change).code(), Code::BadManifest, "{what}");
        }
        for path in ["../a", "/etc/passwd", "a\0", "b", "A", "b/two/x", "B/TWO", ""] {
            assert_eq!(
                refused(|m| m.files[0].path = if path == "A" { "b/two".to_owned() } else { path.to_owned() }).code(),
                Code::UnsafePath,
                "{path:?}"
            );
        }
        assert!(Manifest::decode(&message().encode_to_vec()).is_ok());
    }

    #[test]
    fn unknown_fields_are_ignored_and_torn_bytes_are_not() {
        let payload = message().encode_to_vec();
        let more = [&payload[..], &[0xfa, 0x07, 1, 0xff, 0x91, 0x03, 1, 2, 3, 4, 5, 6, 7, 8]].concat();
        let (plain, extended) = (Manifest::decode(&payload).expect("valid"), Manifest::decode(&more).expect("valid"));
        assert_ne!(plain.id(), extended.id());
        assert_eq!(plain.name(), extended.name());
        for end in 0..payload.len() {
            // A cut between the files leaves a valid shorter list; only a signature can tell.
            if let Ok(shorter) = Manifest::decode(&payload[..end]) {
                assert_eq!(shorter.files().len(), 1, "{end}");
            }
        }
    }

    #[test]
    fn two_bytes_a_file_are_counted_before_they_cost_anything() {
        let found = Manifest::decode(&[0x22, 0].repeat(FILES_MAX + 1)).expect_err("too many");
        assert_eq!(found, Error::OverLimit { what: "files", max: 1_000_000, found: 1_000_001 });
        let mut file = vec![0x22, 0xc0, 0x84, 0x3d];
        file.extend([0x32, 0].repeat(500_000));
        assert_eq!(refused_bytes(&file), Error::OverLimit { what: "sources of a file", max: 64, found: 65 });
        let large = vec![0; PAYLOAD_BYTES_MAX + 1];
        assert!(matches!(refused_bytes(&large), Error::OverLimit { what: "bytes of the payload", .. }));
    }

    fn refused_bytes(payload: &[u8]) -> Error {
        Manifest::decode(payload).expect_err("over a limit")
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_manifest_or_refused(mut payload in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..300, byte: u8) {
            let _ = Manifest::decode(&payload);
            payload = message().encode_to_vec();
            if let Some(changed) = payload.get_mut(at) {
                *changed = byte;
            }
            if let Ok(read) = Manifest::decode(&payload) {
                let again = proto::Manifest::decode(&payload[..]).expect("what we take, prost takes");
                prop_assert_eq!(read.name(), again.name);
                prop_assert_eq!(read.files().len(), again.files.len());
                prop_assert_eq!(read.sequence(), again.sequence);
                prop_assert_eq!(read.is_directory(), again.directory || again.files.len() != 1 || again.files[0].path.contains('/'));
            }
        }

        #[test]
        fn the_walk_agrees_with_prost_on_every_field(name in "[a-z]{1,9}", version in "[0-9.]{0,5}", sequence: u64, created in 0u64..TIME_MAX,
            expires in 0u64..TIME_MAX, directory: bool, lengths in proptest::collection::vec(0usize..3000, 1..5)) {
            let mut builder = ManifestBuilder::new(&name).version(&version).sequence(sequence).created(created);
            builder = builder.expires(Some(expires).filter(|seconds| *seconds > 0)).directory(directory);
            for (position, length) in lengths.iter().enumerate() {
                builder = builder.file(listed(&format!("f{position}"), &counting(*length)));
            }
            let read = builder.build().expect("valid");
            let again = proto::Manifest::decode(read.payload().clone()).expect("canonical");
            prop_assert_eq!(&again.encode_to_vec(), read.payload());
            prop_assert_eq!((read.name(), read.version(), read.sequence()), (again.name.as_str(), again.version.as_str(), again.sequence));
            prop_assert_eq!((read.created(), read.expires().unwrap_or(0)), (again.created, again.expires));
            prop_assert_eq!(read.layout().total_bytes(), lengths.iter().sum::<usize>() as u64);
        }
    }
}
