//! What opened TLS records hold after the handshake: payload, alerts, key updates, tickets, padding.

use piecework::drivers::transport::hear_opened;

/// The first byte tells the side; then each record has its length in two bytes before it.
pub fn run(data: &[u8]) {
    let Some((side, mut rest)) = data.split_first() else { return };
    let mut records = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(after.len());
        let (record, after) = after.split_at(length);
        records.push(record);
        rest = after;
    }
    let (taken, refused) = hear_opened(side & 1 == 0, records.iter().copied());
    assert!(taken + usize::from(refused) <= records.len());
}
