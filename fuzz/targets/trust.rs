//! Trust stores: what is taken is written back to the same store, and its patterns answer.

use piecework::content::TrustStore;

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(store) = TrustStore::parse(text) else { return };
    assert_eq!(TrustStore::parse(&store.to_toml()).as_ref(), Ok(&store));
    for publisher in store.list() {
        assert!(publisher.threshold() >= 1 && publisher.threshold() as usize <= publisher.keys().len());
        for pattern in publisher.names() {
            let _ = pattern.matches(text);
            assert!(pattern.matches(pattern.as_str()));
        }
        let local = std::net::IpAddr::from([127, 0, 0, 1]);
        assert!(!publisher.origins().allows(text, 80, local) || publisher.origins().allows_host(text, 80));
    }
}
