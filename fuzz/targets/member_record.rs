//! Signed records of members, as peers pass them on: read or refused, and nobody's but the signer's.

use piecework::wire::SignedRecord;

/// The peer id of the vector `member.record`.
const SIGNER: &[u8] = include_bytes!("../corpus/member_record/peer_id");
/// The record of that vector.
const RECORD: &[u8] = include_bytes!("../corpus/member_record/record");

/// One run: the bytes as a record, and the front of them as a peer id.
pub fn run(data: &[u8]) {
    let signed = SignedRecord::decode(RECORD).expect("the vector reads");
    if let Ok(record) = SignedRecord::decode(data) {
        let claim = record.claim();
        assert!(claim.port > 0 && (1..=8).contains(&claim.ips.len()));
        let again = claim.signed(|_| Some([7; 64])).expect("signed");
        assert_eq!(SignedRecord::decode(&again).map(|read| read.claim().clone()), Ok(claim.clone()));
        assert!(!record.is_of(SIGNER) || claim == signed.claim(), "nobody else can have signed it");
    }
    assert!(data == SIGNER || !signed.is_of(data));
}
