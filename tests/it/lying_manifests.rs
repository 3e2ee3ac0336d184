//! Manifests that peers give for a bare content id, and that are not its manifest: the lie is condemned, whoever is
//! honest is not, and the file is got from them.

use blake3::hazmat::{Mode, merge_subtrees_non_root};
use piecework::content::{
    ContentId, Envelope, FileHashes, FileToList, Manifest, ManifestBuilder, SafePath, Sha256, SigningKey,
};

use crate::support::hostile::{Hostile, Malice, Publication};
use crate::support::{Site, bytes, free_ports, same};

const MIB: usize = 1 << 20;

struct Scene {
    site: Site,
    content: Vec<u8>,
    publication: Publication,
}

impl Scene {
    fn new(seed: u8) -> Self {
        let site = Site::new();
        // A power of two of pieces, so that pairs of them merge.
        let content = bytes(seed, 8 * MIB);
        site.file("f", &content);
        let manifest = std::fs::read(site.publish("f", &[])).expect("published");
        let publication = Publication::new(manifest, &content);
        Self { site, content, publication }
    }

    fn manifest(&self) -> &Manifest {
        self.publication.manifest()
    }

    fn id(&self) -> ContentId {
        self.manifest().files().first().expect("one").content_id
    }

    fn right_hashes(&self) -> &[u8] {
        self.manifest().files().first().expect("one").piece_hashes()
    }

    /// A manifest of the same content id, with this length and these pieces, signed by nobody known.
    fn lie(&self, length: u64, piece_hashes: Vec<u8>) -> Vec<u8> {
        let manifest = ManifestBuilder::new("demo/f")
            .sequence(1)
            .file(FileToList {
                path: SafePath::new("f").expect("safe"),
                length,
                hashes: FileHashes { content_id: self.id(), piece_hashes },
                sha256: Sha256::new([1; 32]),
                sources: Vec::new(),
                executable: false,
            })
            .build()
            .expect("a lie that merges");
        signed(manifest.payload().to_vec())
    }

    /// The liar answers first, alone; an honest seed comes later. Nobody may be trusted but the id.
    fn is_got_beside(&self, malice: Malice) {
        let liar = Hostile::start(&self.publication, malice);
        let [port] = free_ports::<1>();
        let honest = format!("127.0.0.1:{port}");
        let link = format!("piecework:{}", self.id());
        let args =
            [&link, "-o", "out", "--mode", "simple", "--state", "s", "--peer", &liar.address(), "--peer", &honest];
        let get = self.site.get(&args);
        liar.wait_for(|log| log.count(|log| &log.manifests) > 0);
        let _seed = self.site.seed_at("f", "seed-state", &honest);
        get.success();
        assert!(same(&self.site.path("out"), &self.content));
        self.site.store_check("s");
    }

    /// With the liar alone.
    fn fails_naming(&self, malice: Malice) {
        let liar = Hostile::start(&self.publication, malice.clone());
        let link = format!("piecework:{}", self.id());
        let args =
            [&link, "-o", "out2", "--mode", "simple", "--state", "s2", "--peer", &liar.address(), "--timeout", "3"];
        let mut get = self.site.get(&args);
        let error = get.result()["error"].clone();
        assert_eq!(error["code"], "no_source", "{error}; {}", get.stderr());
        assert_eq!(get.wait(), Some(69));
        assert!(liar.is_named_in(error["culprit"].as_str().unwrap_or_default()), "{error}");
        self.site.store_check("s2");
    }
}

fn signed(payload: Vec<u8>) -> Vec<u8> {
    let mut envelope = Envelope::unsigned(payload.into());
    envelope.sign(&SigningKey::from_seed(&[66; 32])).expect("signed");
    envelope.encode()
}

#[test]
fn a_manifest_whose_pieces_do_not_merge_to_the_id_is_passed_over() {
    let scene = Scene::new(71);
    let mut payload = scene.manifest().payload().to_vec();
    let hash = &scene.right_hashes()[..32];
    let at = payload.windows(32).position(|window| window == hash).expect("the manifest lists it");
    payload[at] ^= 1;
    let malice = Malice::GivesManifest(signed(payload));
    scene.is_got_beside(malice.clone());
    scene.fails_naming(malice);
}

#[test]
fn a_manifest_that_is_none_is_passed_over() {
    let scene = Scene::new(72);
    let malice = Malice::GivesManifest(b"no envelope at all".to_vec());
    scene.is_got_beside(malice.clone());
    scene.fails_naming(malice);
}

#[test]
fn a_manifest_with_another_last_length_is_condemned_and_the_honest_seed_is_not() {
    let scene = Scene::new(73);
    let malice = Malice::GivesManifest(scene.lie(8 * MIB as u64 - 5, scene.right_hashes().to_vec()));
    scene.is_got_beside(malice.clone());
    scene.fails_naming(malice);
}

#[test]
fn a_manifest_with_pairs_of_pieces_for_pieces_is_condemned_and_the_honest_seed_is_not() {
    let scene = Scene::new(74);
    let (hashes, _) = scene.right_hashes().as_chunks::<32>();
    let pairs = hashes.chunks(2).flat_map(|pair| merge_subtrees_non_root(&pair[0], &pair[1], Mode::Hash)).collect();
    let malice = Malice::GivesManifest(scene.lie(4 * MIB as u64, pairs));
    scene.is_got_beside(malice.clone());
    scene.fails_naming(malice);
}

#[test]
fn wrong_bytes_under_an_unsigned_manifest_do_not_condemn_an_honest_one() {
    let scene = Scene::new(75);
    scene.is_got_beside(Malice::WrongBytes);
    Scene::new(75).fails_naming(Malice::WrongBytes);
}
