//! Holds this room to `proto/vectors/`, and those to this room.

use std::path::{Path, PathBuf};

use prost::bytes::Bytes;

use crate::content::build::ManifestBuilder;
use crate::content::build::samples::{counting, listed};
use crate::content::code::Code;
use crate::content::envelope::Envelope;
use crate::content::error::Error;
use crate::content::key::{PublicKey, SigningKey};
use crate::content::link::{Link, Target};
use crate::content::manifest::Manifest;
use crate::content::open::{Fit, Past, open_signed_by, open_trusted, open_untrusted};
use crate::content::pattern::{NamePattern, OriginPattern};
use crate::content::trust::{Addition, TrustStore};

/// Within the life of `single.manifest`.
const NOW: u64 = 1_760_000_000;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

fn single() -> Manifest {
    let mut file = listed("hello.txt", b"hello\n");
    file.sources = vec!["https://example.com/hello.txt".to_owned(), "http://192.0.2.1:8080/a%20b?c=d".to_owned()];
    let builder = ManifestBuilder::new("example/hello").version("1.0").sequence(300).created(1_750_000_000);
    let builder = builder.expires(Some(1_900_000_000)).annotation("channel", "stable").annotation("arch", "any");
    builder.file(file).build().expect("within the rules")
}

fn directory() -> Manifest {
    let mut tool = listed("bin/tool", b"#!/bin/sh\n");
    tool.executable = true;
    let files = [listed("empty", b""), tool, listed("share/counting", &counting((1 << 20) + 1))];
    let builder = ManifestBuilder::new("example/tree").sequence(1).created(1_750_000_000).directory(true);
    files.into_iter().fold(builder, ManifestBuilder::file).build().expect("within the rules")
}

fn envelope() -> Envelope {
    let mut envelope = Envelope::unsigned(single().payload().clone());
    envelope.sign(&key(1)).expect("the first");
    envelope.sign(&key(2)).expect("the second");
    envelope
}

fn trust() -> TrustStore {
    let mut store = TrustStore::default();
    let addition = Addition {
        publisher: "example".to_owned(),
        keys: vec![key(1).public(), key(2).public()],
        threshold: Some(2),
        names: vec![NamePattern::new("example/*").expect("a pattern")],
        origins: vec![OriginPattern::new("*.example.com:443").expect("a pattern")],
        max_age_seconds: Some(31_536_000),
    };
    store.add(addition).expect("within the rules");
    store
}

fn links() -> String {
    let content = Target::Content(single().files()[0].content_id);
    let manifest = Target::Manifest(single().id());
    let peers = vec!["/ip4/192.0.2.1/tcp/7680".to_owned(), "/dns/seed.example.com/tcp/7680".to_owned()];
    let sources = vec!["https://example.com/hello.piecework?a=b&c=d".to_owned()];
    let links = [
        Link { target: content, peers: Vec::new(), sources: Vec::new() },
        Link { target: manifest, peers: Vec::new(), sources: Vec::new() },
        Link { target: content, peers: peers.clone(), sources: Vec::new() },
        Link { target: manifest, peers, sources },
    ];
    links.iter().map(|link| format!("{link}\n")).collect()
}

fn vectors() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("key-1.pem", key(1).to_pem().as_bytes().to_vec()),
        ("key-1.pub", key(1).public().to_pem().into_bytes()),
        ("key-2.pem", key(2).to_pem().as_bytes().to_vec()),
        ("key-2.pub", key(2).public().to_pem().into_bytes()),
        ("single.manifest", single().payload().to_vec()),
        ("directory.manifest", directory().payload().to_vec()),
        ("single.piecework", envelope().encode()),
        ("trust.toml", trust().to_toml().into_bytes()),
        ("links.txt", links().into_bytes()),
    ]
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/vectors")
}

fn vector(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap_or_else(|fault| panic!("proto/vectors/{name}: {fault}"))
}

fn text(name: &str) -> String {
    String::from_utf8(vector(name)).expect("a text")
}

fn open(bytes: &[u8]) -> Result<(), Error> {
    open_trusted(Bytes::copy_from_slice(bytes), &trust(), NOW.into(), |_| Past::default(), false).map(|_| ())
}

#[test]
#[ignore = "writes the vectors anew, after a deliberate change of the format"]
fn write_the_vectors() {
    for (name, bytes) in vectors() {
        std::fs::write(folder().join(name), bytes).expect("the source folder is writable");
    }
}

#[test]
fn every_vector_is_made_byte_for_byte() {
    for (name, bytes) in vectors() {
        assert!(vector(name) == bytes, "proto/vectors/{name} and the code differ");
    }
}

#[test]
fn the_vectors_mean_what_their_readme_says() {
    let manifest = Manifest::decode(&vector("single.manifest")).expect("valid");
    assert_eq!(manifest.files()[0].content_id.as_bytes(), blake3::hash(b"hello\n").as_bytes());
    let tree = Manifest::decode(&vector("directory.manifest")).expect("valid");
    assert_eq!(tree.files()[2].content_id.as_bytes(), blake3::hash(&counting((1 << 20) + 1)).as_bytes());
    assert!(tree.is_directory() && tree.files()[1].executable && tree.layout().piece_count() == 3);
    assert_eq!(SigningKey::from_pem(&text("key-1.pem")).map(|key| key.public()), Ok(key(1).public()));
    assert_eq!(PublicKey::from_pem(&text("key-2.pub")), Ok(key(2).public()));
    assert_eq!(TrustStore::parse(&text("trust.toml")), Ok(trust()));
    for line in text("links.txt").lines() {
        assert_eq!(line.parse::<Link>().expect("a link").to_string(), line);
    }
}

#[test]
fn the_signed_vector_is_trusted_by_its_store() {
    let store = TrustStore::parse(&text("trust.toml")).expect("valid");
    let bytes = Bytes::from(vector("single.piecework"));
    let opened = open_trusted(bytes.clone(), &store, NOW.into(), |_| Past::default(), false).expect("trusted");
    assert_eq!((opened.trusted.publisher.as_str(), opened.trusted.signers.len()), ("example", 2));
    assert_eq!(opened.manifest.payload(), opened.envelope.payload());
    assert_eq!(opened.envelope.encode(), bytes);
    let rollback = open_trusted(
        bytes.clone(),
        &store,
        NOW.into(),
        |name| Past { highest_sequence: (name == "example/hello").then_some(301), ..Past::default() },
        false,
    );
    assert_eq!(rollback.map(|_| ()).map_err(|fault| fault.code()), Err(Code::Rollback));
    let expired = open_trusted(bytes.clone(), &store, 1_900_000_000.into(), |_| Past::default(), false);
    assert_eq!(expired.map(|_| ()).map_err(|fault| fault.code()), Err(Code::Expired));
    assert!(open_signed_by(bytes.clone(), &[key(2).public()]).is_ok());
    let stranger = open_signed_by(bytes.clone(), &[key(1).public(), key(3).public()]).expect_err("not signed by it");
    assert_eq!(stranger.code(), Code::UnknownPublisher);
    let peeked = open_untrusted(bytes).expect("well-formed");
    assert!(peeked.signatures.iter().all(|(_, fit)| *fit == Fit::Fits));
}

#[test]
fn no_change_of_any_byte_is_trusted() {
    let bytes = vector("single.piecework");
    assert_eq!(open(&bytes), Ok(()));
    for at in 0..bytes.len() {
        for flip in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            let fault = open(&changed).expect_err("a byte was changed");
            assert!(
                matches!(fault.code(), Code::BadManifest | Code::BadSignature | Code::UnknownPublisher),
                "{at} {flip}: {fault}"
            );
            // Nor does anything but the two keys' own signatures ever fit.
            if let Ok(peeked) = open_untrusted(Bytes::from(changed)) {
                assert!(peeked.signatures.iter().any(|(_, fit)| *fit != Fit::Fits), "{at} {flip}");
            }
        }
    }
    for end in 0..bytes.len() {
        assert!(open(&bytes[..end]).is_err(), "{end}");
        let dropped = [&bytes[..end], &bytes[end + 1..]].concat();
        assert!(open(&dropped).is_err(), "{end}");
    }
    assert!(open(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn a_payload_is_not_parsed_before_its_signature_was_checked() {
    let mut envelope = Envelope::unsigned(Bytes::from_static(b"no protobuf at all"));
    envelope.sign(&key(3)).expect("one");
    assert_eq!(open(&envelope.encode()).map_err(|fault| fault.code()), Err(Code::UnknownPublisher));
    envelope.sign(&key(1)).expect("two");
    assert_eq!(open(&envelope.encode()).map_err(|fault| fault.code()), Err(Code::BadManifest));
}
