//! Replays the committed corpus of every fuzz target through the target's own function.

use std::path::Path;

use piecework::content::bitfield::Bitfield;
use piecework::content::{ContentId, Manifest};
use piecework::drivers::store::{probe, probe_bodies};

#[path = "../../fuzz/targets/bitfield.rs"]
mod bitfield;
#[path = "../../fuzz/targets/certificate.rs"]
mod certificate;
#[path = "../../fuzz/targets/dns_answer.rs"]
mod dns_answer;
#[path = "../../fuzz/targets/envelope.rs"]
mod envelope;
#[path = "../../fuzz/targets/frame.rs"]
mod frame;
#[path = "../../fuzz/targets/http_head.rs"]
mod http_head;
#[path = "../../fuzz/targets/key.rs"]
mod key;
#[path = "../../fuzz/targets/ledger.rs"]
mod ledger;
#[path = "../../fuzz/targets/link.rs"]
mod link;
#[path = "../../fuzz/targets/listing.rs"]
mod listing;
#[path = "../../fuzz/targets/manifest.rs"]
mod manifest;
#[path = "../../fuzz/targets/member_record.rs"]
mod member_record;
#[path = "../../fuzz/targets/path.rs"]
mod path;
#[path = "../../fuzz/targets/peer_address.rs"]
mod peer_address;
#[path = "../../fuzz/targets/policy.rs"]
mod policy;
#[path = "../../fuzz/targets/source_url.rs"]
mod source_url;
#[path = "../../fuzz/targets/store_state.rs"]
mod store_state;
#[path = "../../fuzz/targets/tls_record.rs"]
mod tls_record;
#[path = "../../fuzz/targets/trust.rs"]
mod trust;

/// A target's function.
type Run = fn(&[u8]);

/// Folder of the corpus, and what its files are fed to.
const TARGETS: &[(&str, Run)] = &[
    ("bitfield", bitfield::run),
    ("certificate", certificate::run),
    ("dns_answer", dns_answer::run),
    ("envelope", envelope::run),
    ("frame", frame::run),
    ("http_head", http_head::run),
    ("key", key::run),
    ("ledger", ledger::run),
    ("link", link::run),
    ("listing", listing::run),
    ("manifest", manifest::run),
    ("member_record", member_record::run),
    ("path", path::run),
    ("peer_address", peer_address::run),
    ("policy", policy::run),
    ("source_url", source_url::run),
    ("store_state", store_state::run),
    ("tls_record", tls_record::run),
    ("trust", trust::run),
];

/// Names in a folder of `fuzz/`, sorted.
fn names(folder: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|fault| panic!("{}: {fault}", folder.display()));
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8"))
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

#[test]
fn no_target_panics_on_its_corpus_nor_on_a_prefix_of_it() {
    for (target, run) in TARGETS {
        let seeds = names(&format!("corpus/{target}"));
        assert!(!seeds.is_empty(), "fuzz/corpus/{target} is empty");
        for seed in seeds {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target).join(&seed);
            let bytes = std::fs::read(&file).unwrap_or_else(|fault| panic!("{}: {fault}", file.display()));
            println!("{target}/{seed}");
            run(&bytes);
            // Every cut of a short input, some of a long one.
            let step = (bytes.len() / 512).max(1);
            (0..bytes.len()).step_by(step).for_each(|end| run(&bytes[..end]));
        }
    }
}

#[test]
fn every_target_is_replayed_and_has_its_corpus_and_dictionary() {
    let expected = |ending: &str| TARGETS.iter().map(|(name, _)| format!("{name}{ending}")).collect::<Vec<_>>();
    assert_eq!(names("targets"), expected(".rs"));
    assert_eq!(names("fuzz_targets"), expected(".rs"));
    assert_eq!(names("corpus"), expected(""));
    assert_eq!(names("dictionaries"), expected(".dict"));
}

/// Were it not so, the target would fuzz a hash comparison and nothing behind it.
#[test]
fn the_state_target_takes_what_the_store_writes() {
    let manifest = Manifest::bare(ContentId::new([7; 32]), 5, &[7; 32]).expect("it merges");
    let [claim, record] = probe_bodies(&manifest, &Bitfield::all(1));
    assert_eq!(probe(&claim, &manifest).0.map(|manifest| manifest.id()), Some(manifest.id()));
    assert_eq!(probe(&record, &manifest).1, Some(Bitfield::all(1)));
}
