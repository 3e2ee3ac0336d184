//! The record layer of TLS 1.3 after the handshake, over keys taken from rustls: sealed straight from the caller's bytes,
//! opened straight into the caller's buffer. rustls' own record layer copies each record twice and allocates for it,
//! a fifth of what a transfer costs.
//!
//! Everything of RFC 8446 that can come after a handshake is here, so that this file can be read as a whole:
//! - protection (5.2, 5.3): sequence numbers are never used twice with a key; a record is 16 KiB of plaintext at most;
//! - padding (5.4) is taken off, and never added;
//! - usage limits (5.5): keys are renewed at half of what the cipher suite allows, long before a sequence number ends;
//! - key updates (4.6.3), asked for and answered; session tickets (4.6.1) are read over, since nothing is resumed;
//! - alerts (6): close_notify ends a direction, every other one the connection.
//!
//! Secrets live in aws-lc's key objects, which wipe themselves; deriving the next ones stays with rustls.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;

use crate::drivers::transport::tls_buffers::Outgoing;

/// Bytes of a record's header.
pub(crate) const HEADER_BYTES: usize = 5;
/// Most plaintext of a record (5.1).
pub(crate) const PLAIN_BYTES_MAX: usize = 16_384;
/// Most bytes after the header (5.2).
pub(crate) const SEALED_BYTES_MAX: usize = PLAIN_BYTES_MAX + 256;
const TAG_BYTES: usize = 16;
/// Longest handshake message read over: more than any session ticket in use.
const MESSAGE_BYTES_MAX: usize = 1 << 16;
/// Records without payload, or key updates, that a peer may send in a row before it is taken for an attack.
const IDLE_RECORDS_MAX: u32 = 32;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION: u8 = 23;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// Why a connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    /// The tag does not fit: the bytes were changed on the way.
    #[error("a record was changed on its way")]
    BadTag,
    /// Longer than TLS allows.
    #[error("a record of {found} bytes is longer than TLS allows")]
    TooLong {
        /// Bytes after the header.
        found: usize,
    },
    /// Shorter than a content type and a tag, or all padding.
    #[error("a record without content")]
    Empty,
    /// A kind of record or message that has no place here.
    #[error("an unexpected message: {what}")]
    Unexpected {
        /// What was wrong about it.
        what: &'static str,
    },
    /// A message that does not parse.
    #[error("a message that does not parse: {what}")]
    Malformed {
        /// Which.
        what: &'static str,
    },
    /// The peer says that something is wrong.
    #[error("the peer ended the connection with TLS alert {0}")]
    Alert(u8),
    /// Our side cannot go on: no more keys, or the library failed.
    #[error("the keys of this connection are used up")]
    KeysFailed,
}

impl RecordError {
    /// The alert to send for it (6.2); none where the peer has ended the connection itself.
    pub(crate) fn alert(&self) -> Option<u8> {
        match self {
            Self::BadTag => Some(20),
            Self::TooLong { .. } => Some(22),
            Self::Empty | Self::Unexpected { .. } => Some(10),
            Self::Malformed { .. } => Some(50),
            Self::Alert(_) => None,
            Self::KeysFailed => Some(80),
        }
    }
}

/// The key of one direction, and how often it was used.
struct Direction {
    key: LessSafeKey,
    iv: [u8; aead::NONCE_LEN],
    sequence: u64,
}

impl Direction {
    fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, RecordError> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, key, iv),
            _ => return Err(RecordError::KeysFailed),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| RecordError::KeysFailed)?;
        let iv = iv.as_ref().try_into().map_err(|_| RecordError::KeysFailed)?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    /// The nonce of the next record (5.3). Each is given out once: `sequence` only rises.
    fn nonce(&mut self) -> Result<Nonce, RecordError> {
        let sequence = self.sequence;
        self.sequence = sequence.checked_add(1).ok_or(RecordError::KeysFailed)?;
        let mut nonce = self.iv;
        for (byte, part) in nonce.iter_mut().skip(4).zip(sequence.to_be_bytes()) {
            *byte ^= part;
        }
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// Derives the next secret of a direction.
pub(crate) trait NextSecrets: Send {
    /// For what is sent from now on.
    fn next_sending(&mut self) -> Option<ConnectionTrafficSecrets>;
    /// For what is received from now on.
    fn next_receiving(&mut self) -> Option<ConnectionTrafficSecrets>;
}

/// Both directions of a connection.
pub(crate) struct Records {
    sending: Direction,
    receiving: Direction,
    next: Box<dyn NextSecrets>,
    /// Records sealed with one key before it is renewed.
    renew_after: u64,
    /// Session tickets may come: this side dialled.
    is_client: bool,
    /// The front of a handshake message whose end has not come.
    partial: Vec<u8>,
    /// Records in a row that brought no payload.
    idle: u32,
    /// The peer asks us to renew our key; done before the next record leaves.
    update_asked: bool,
}

/// What a handshake leaves behind.
pub(crate) struct Keys {
    /// Sequence number and secrets for what is sent.
    pub sending: (u64, ConnectionTrafficSecrets),
    /// The same for what is received.
    pub receiving: (u64, ConnectionTrafficSecrets),
    /// What renews them.
    pub next: Box<dyn NextSecrets>,
    /// Records that one key may seal, by the cipher suite.
    pub records_max: u64,
    /// This side dialled.
    pub is_client: bool,
}

/// What an opened record held.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// So many bytes of payload, from the front of where it was opened to.
    Payload(usize),
    /// Something that concerns this layer alone, and is dealt with.
    Nothing,
    /// The peer sends no more.
    Closed,
}

/// Bytes after the header of the record that begins `bytes`; `None` where its header has not come whole.
///
/// # Errors
/// A record that no peer sends after the handshake.
pub(crate) fn sealed_length(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let Some((header, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let [kind, _, _, high, low] = *header;
    if kind != APPLICATION {
        return Err(RecordError::Unexpected { what: "a record in the clear" });
    }
    let found = usize::from(u16::from_be_bytes([high, low]));
    if found > SEALED_BYTES_MAX {
        return Err(RecordError::TooLong { found });
    }
    if found <= TAG_BYTES {
        return Err(RecordError::Empty);
    }
    Ok(Some(found))
}

/// Bytes that a record's plaintext and content type take where it is opened to; `sealed` as [`sealed_length`] has it.
pub(crate) fn room_to_open(sealed: usize) -> usize {
    sealed.saturating_sub(TAG_BYTES)
}

impl Records {
    pub(crate) fn new(keys: Keys) -> Result<Self, RecordError> {
        Ok(Self {
            sending: Direction::new(keys.sending.0, &keys.sending.1)?,
            receiving: Direction::new(keys.receiving.0, &keys.receiving.1)?,
            next: keys.next,
            renew_after: (keys.records_max / 2).max(1),
            is_client: keys.is_client,
            partial: Vec::new(),
            idle: 0,
            update_asked: false,
        })
    }

    #[cfg(test)]
    pub(crate) fn set_renew_after(&mut self, records: u64) {
        self.renew_after = records;
    }

    /// Seals payload as records at the end of `out`, a key update before it where one is due.
    ///
    /// # Errors
    /// [`RecordError::KeysFailed`]; what is in `out` then may still be sent.
    pub(crate) fn seal(&mut self, payload: &[u8], out: &mut Outgoing) -> Result<(), RecordError> {
        let around = payload.len().div_ceil(PLAIN_BYTES_MAX).saturating_mul(HEADER_BYTES + 1 + TAG_BYTES);
        out.expect(payload.len().saturating_add(around));
        for plain in payload.chunks(PLAIN_BYTES_MAX) {
            if self.update_asked || self.sending.sequence >= self.renew_after {
                self.update_sending_key(out)?;
            }
            self.sending.seal(APPLICATION, plain, out)?;
        }
        Ok(())
    }

    /// Says that nothing more is sent (6.1).
    pub(crate) fn seal_close(&mut self, out: &mut Outgoing) -> Result<(), RecordError> {
        self.sending.seal(ALERT, &[1, CLOSE_NOTIFY], out)
    }

    /// Says why the connection ends (6.2).
    pub(crate) fn seal_alert(&mut self, alert: u8, out: &mut Outgoing) -> Result<(), RecordError> {
        self.sending.seal(ALERT, &[2, alert], out)
    }

    /// Tells the peer of a new key, and takes it (4.6.3). The peer is never asked for one in turn.
    fn update_sending_key(&mut self, out: &mut Outgoing) -> Result<(), RecordError> {
        self.sending.seal(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], out)?;
        self.update_asked = false;
        let secrets = self.next.next_sending().ok_or(RecordError::KeysFailed)?;
        self.sending = Direction::new(0, &secrets)?;
        Ok(())
    }

    /// Opens one record from `sealed` into `into`, which must have [`room_to_open`] bytes; payload lies at its front.
    ///
    /// # Errors
    /// [`RecordError`]; `into` holds nothing that may be looked at then.
    pub(crate) fn open(
        &mut self,
        header: [u8; HEADER_BYTES],
        sealed: &[u8],
        into: &mut [u8],
    ) -> Result<Opened, RecordError> {
        let nonce = self.receiving.nonce()?;
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(RecordError::Empty)?;
        let into = into.get_mut(..ciphertext.len()).ok_or(RecordError::KeysFailed)?;
        let opened = self.receiving.key.open_separate_gather(nonce, Aad::from(header), ciphertext, tag, into);
        opened.map_err(|_| RecordError::BadTag)?;
        self.hear(into)
    }

    /// The same where it lies.
    ///
    /// # Errors
    /// As [`Records::open`].
    pub(crate) fn open_in_place(
        &mut self,
        header: [u8; HEADER_BYTES],
        sealed: &mut [u8],
    ) -> Result<Opened, RecordError> {
        let nonce = self.receiving.nonce()?;
        let opened = self.receiving.key.open_in_place(nonce, Aad::from(header), sealed);
        let plain = opened.map_err(|_| RecordError::BadTag)?;
        self.hear(plain)
    }

    /// Looks at what a record held: content, its type, padding (5.2, 5.4).
    fn hear(&mut self, inner: &[u8]) -> Result<Opened, RecordError> {
        let end = inner.iter().rposition(|byte| *byte != 0).ok_or(RecordError::Empty)?;
        let (content, rest) = inner.split_at(end);
        if content.len() > PLAIN_BYTES_MAX {
            return Err(RecordError::TooLong { found: content.len() });
        }
        let kind = rest.first().copied().unwrap_or_default();
        if kind != HANDSHAKE && !self.partial.is_empty() {
            return Err(RecordError::Unexpected { what: "another record within a handshake message" });
        }
        match kind {
            APPLICATION if !content.is_empty() => {
                self.idle = 0;
                Ok(Opened::Payload(content.len()))
            }
            APPLICATION => self.count_idle().map(|()| Opened::Nothing),
            ALERT => match *content {
                [_, CLOSE_NOTIFY] => Ok(Opened::Closed),
                [_, USER_CANCELED] => self.count_idle().map(|()| Opened::Nothing),
                [_, alert] => Err(RecordError::Alert(alert)),
                _ => Err(RecordError::Malformed { what: "an alert" }),
            },
            HANDSHAKE if content.is_empty() => Err(RecordError::Unexpected { what: "an empty handshake record" }),
            HANDSHAKE => {
                self.count_idle()?;
                self.hear_handshake(content).map(|()| Opened::Nothing)
            }
            _ => Err(RecordError::Unexpected { what: "an unknown kind of record" }),
        }
    }

    fn count_idle(&mut self) -> Result<(), RecordError> {
        self.idle = self.idle.saturating_add(1);
        if self.idle > IDLE_RECORDS_MAX {
            return Err(RecordError::Unexpected { what: "too many records without payload" });
        }
        Ok(())
    }

    fn hear_handshake(&mut self, content: &[u8]) -> Result<(), RecordError> {
        if self.partial.len().saturating_add(content.len()) > MESSAGE_BYTES_MAX {
            return Err(RecordError::Malformed { what: "a handshake message that does not end" });
        }
        let mut bytes = std::mem::take(&mut self.partial);
        bytes.extend_from_slice(content);
        let mut rest = bytes.as_slice();
        while let Some((kind, body, after)) = front_message(rest)? {
            rest = after;
            match kind {
                KEY_UPDATE => self.hear_key_update(body, after.is_empty())?,
                NEW_SESSION_TICKET if self.is_client => {}
                _ => return Err(RecordError::Unexpected { what: "a handshake message" }),
            }
        }
        self.partial = rest.to_vec();
        Ok(())
    }

    fn hear_key_update(&mut self, body: &[u8], ends_record: bool) -> Result<(), RecordError> {
        let asked = match body {
            [0] => false,
            [1] => true,
            _ => return Err(RecordError::Malformed { what: "a key update" }),
        };
        if !ends_record {
            // What follows would be under the old key (5.1).
            return Err(RecordError::Unexpected { what: "bytes behind a key update" });
        }
        let secrets = self.next.next_receiving().ok_or(RecordError::KeysFailed)?;
        self.receiving = Direction::new(0, &secrets)?;
        self.update_asked |= asked;
        Ok(())
    }
}

impl Direction {
    fn seal(&mut self, kind: u8, plain: &[u8], out: &mut Outgoing) -> Result<(), RecordError> {
        let length = plain.len().saturating_add(1 + TAG_BYTES);
        let nonce = self.nonce()?;
        let [.., high, low] = length.to_be_bytes();
        let header = [APPLICATION, 3, 3, high, low];
        let bytes = HEADER_BYTES.saturating_add(length);
        let room = out.room(bytes);
        let Some((front, record)) = room.split_first_chunk_mut::<HEADER_BYTES>() else {
            return Err(RecordError::KeysFailed);
        };
        *front = header;
        let (ciphertext, tail) = record.split_at_mut(plain.len().min(record.len()));
        let sealed = self.key.seal_out_of_place_scatter(nonce, Aad::from(header), plain, ciphertext, &[kind], tail);
        sealed.map_err(|_| RecordError::KeysFailed)?;
        out.filled(bytes);
        Ok(())
    }
}

/// A handshake message's kind and body, and what follows it; `None` where it has not come whole.
type Message<'a> = Option<(u8, &'a [u8], &'a [u8])>;

/// The message that begins `bytes` (4).
fn front_message(bytes: &[u8]) -> Result<Message<'_>, RecordError> {
    let Some(([kind, high, middle, low], rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes([0, *high, *middle, *low])).unwrap_or(usize::MAX);
    if length.saturating_add(4) > MESSAGE_BYTES_MAX {
        return Err(RecordError::Malformed { what: "a handshake message that is too long" });
    }
    Ok(rest.split_at_checked(length).map(|(body, after)| (*kind, body, after)))
}

/// Reads what a peer's records may hold, as if they had been opened: for the fuzzer, whose bytes no tag would fit.
/// Returns the records that were taken, and whether the last one was refused.
pub fn hear_opened<'a>(is_client: bool, records: impl IntoIterator<Item = &'a [u8]>) -> (usize, bool) {
    struct Fixed;
    impl NextSecrets for Fixed {
        fn next_sending(&mut self) -> Option<ConnectionTrafficSecrets> {
            Some(fixed())
        }
        fn next_receiving(&mut self) -> Option<ConnectionTrafficSecrets> {
            Some(fixed())
        }
    }
    fn fixed() -> ConnectionTrafficSecrets {
        ConnectionTrafficSecrets::Chacha20Poly1305 { key: [7; 32].into(), iv: [9; 12].into() }
    }
    let keys =
        Keys { sending: (0, fixed()), receiving: (0, fixed()), next: Box::new(Fixed), records_max: 64, is_client };
    let Ok(mut both) = Records::new(keys) else { return (0, true) };
    let mut taken = 0;
    for record in records {
        match both.hear(record) {
            Ok(Opened::Closed) => return (taken, false),
            Ok(_) => taken += 1,
            Err(_) => return (taken, true),
        }
    }
    (taken, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ladder of secrets that both ends climb alike.
    struct Ladder {
        sending: u8,
        receiving: u8,
    }

    fn chacha(side: u8, step: u8) -> ConnectionTrafficSecrets {
        let key = [side.wrapping_mul(31).wrapping_add(step); 32].into();
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv: [side ^ step; 12].into() }
    }

    impl NextSecrets for Ladder {
        fn next_sending(&mut self) -> Option<ConnectionTrafficSecrets> {
            let (side, step) = (self.sending >> 7, (self.sending & 0x7f) + 1);
            self.sending = side << 7 | step;
            Some(chacha(side, step))
        }

        fn next_receiving(&mut self) -> Option<ConnectionTrafficSecrets> {
            let (side, step) = (self.receiving >> 7, (self.receiving & 0x7f) + 1);
            self.receiving = side << 7 | step;
            Some(chacha(side, step))
        }
    }

    fn ends() -> (Records, Records) {
        let end = |mine: u8, theirs: u8| {
            Records::new(Keys {
                sending: (0, chacha(mine, 0)),
                receiving: (0, chacha(theirs, 0)),
                next: Box::new(Ladder { sending: mine << 7, receiving: theirs << 7 }),
                records_max: 1 << 24,
                is_client: mine == 0,
            })
            .expect("good keys")
        };
        (end(0, 1), end(1, 0))
    }

    /// Opens every record; each in place or not by turns.
    fn open_all(end: &mut Records, mut wire: Vec<u8>) -> Result<(Vec<u8>, bool), RecordError> {
        let (mut payload, mut in_place) = (Vec::new(), false);
        let mut rest = wire.as_mut_slice();
        while let Some(sealed) = sealed_length(rest)? {
            let (record, after) = rest.split_at_mut(HEADER_BYTES + sealed);
            rest = after;
            let (header, record) = record.split_first_chunk_mut::<HEADER_BYTES>().expect("longer");
            in_place = !in_place;
            let mut room = vec![0; room_to_open(sealed)];
            let opened = if in_place {
                let opened = end.open_in_place(*header, record)?;
                room.copy_from_slice(&record[..room_to_open(sealed)]);
                opened
            } else {
                end.open(*header, record, &mut room)?
            };
            match opened {
                Opened::Payload(bytes) => payload.extend_from_slice(&room[..bytes]),
                Opened::Nothing => {}
                Opened::Closed => return Ok((payload, true)),
            }
        }
        Ok((payload, false))
    }

    fn taken(out: &mut Outgoing) -> Vec<u8> {
        let bytes = out.waiting().to_vec();
        out.sent(bytes.len());
        bytes
    }

    fn counting(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn payload_of_any_length_arrives_and_the_end_is_told() {
        let (mut near, mut far) = ends();
        for length in [1, 2, PLAIN_BYTES_MAX - 1, PLAIN_BYTES_MAX, PLAIN_BYTES_MAX + 1, 100_000] {
            let mut out = Outgoing::default();
            near.seal(&counting(length), &mut out).expect("keys");
            assert_eq!(open_all(&mut far, taken(&mut out)), Ok((counting(length), false)), "{length}");
        }
        let mut out = Outgoing::default();
        near.seal_close(&mut out).expect("keys");
        assert_eq!(open_all(&mut far, taken(&mut out)), Ok((Vec::new(), true)));
        near.seal_alert(40, &mut out).expect("keys");
        assert_eq!(open_all(&mut far, taken(&mut out)), Err(RecordError::Alert(40)));
    }

    #[test]
    fn keys_are_renewed_before_they_are_used_up_and_when_the_peer_asks() {
        let (mut near, mut far) = ends();
        near.set_renew_after(3);
        let mut out = Outgoing::default();
        let long = counting(20 * PLAIN_BYTES_MAX);
        near.seal(&long, &mut out).expect("keys");
        // The update itself is the last record of the old key.
        assert!(near.sending.sequence <= 4);
        assert_eq!(open_all(&mut far, taken(&mut out)), Ok((long.clone(), false)));

        far.sending.seal(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 1], &mut out).expect("keys");
        let secrets = far.next.next_sending().expect("a ladder");
        far.sending = Direction::new(0, &secrets).expect("a key");
        far.seal(b"under the new key", &mut out).expect("keys");
        near.set_renew_after(u64::MAX);
        let before = near.sending.sequence;
        assert_eq!(open_all(&mut near, taken(&mut out)), Ok((b"under the new key".to_vec(), false)));
        assert!(near.update_asked);
        near.seal(b"answer", &mut out).expect("keys");
        assert_eq!((near.sending.sequence, near.update_asked), (1, false), "renewed after {before}");
        assert_eq!(open_all(&mut far, taken(&mut out)), Ok((b"answer".to_vec(), false)));
    }

    #[test]
    fn a_changed_or_repeated_or_missing_record_is_refused() {
        let mut out = Outgoing::default();
        let (mut near, _) = ends();
        near.seal(b"first", &mut out).expect("keys");
        let first = taken(&mut out);
        near.seal(b"second", &mut out).expect("keys");
        let second = taken(&mut out);
        for at in HEADER_BYTES..first.len() {
            let mut changed = first.clone();
            changed[at] ^= 1;
            assert_eq!(open_all(&mut ends().1, changed), Err(RecordError::BadTag), "byte {at}");
        }
        // The legacy version is authenticated too.
        let mut version = first.clone();
        version[1] ^= 1;
        assert_eq!(open_all(&mut ends().1, version), Err(RecordError::BadTag));
        assert_eq!(open_all(&mut ends().1, [first.clone(), first].concat()), Err(RecordError::BadTag));
        assert_eq!(open_all(&mut ends().1, second), Err(RecordError::BadTag));
    }

    #[test]
    fn headers_that_no_peer_sends_are_refused_before_anything_waits_for_them() {
        assert_eq!(sealed_length(&[APPLICATION, 3, 3, 0]), Ok(None));
        assert_eq!(sealed_length(&[APPLICATION, 3, 3, 0, 17]), Ok(Some(17)));
        assert_eq!(sealed_length(&[APPLICATION, 3, 3, 0, 16]), Err(RecordError::Empty));
        assert_eq!(sealed_length(&[APPLICATION, 3, 3, 0x41, 1]), Err(RecordError::TooLong { found: 16_641 }));
        assert_eq!(sealed_length(&[APPLICATION, 3, 3, 0x41, 0]), Ok(Some(SEALED_BYTES_MAX)));
        for kind in [ALERT, HANDSHAKE, 20, 0x80] {
            assert!(matches!(sealed_length(&[kind, 3, 3, 0, 50]), Err(RecordError::Unexpected { .. })));
        }
    }

    /// Content, its type, and padding, as they lie in a record.
    fn inner(kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        [content, &[kind], &vec![0; padding]].concat()
    }

    #[test]
    fn what_a_record_may_hold() {
        let heard = |client: bool, records: &[Vec<u8>]| {
            hear_opened(client, records.iter().map(Vec::as_slice).collect::<Vec<_>>())
        };
        let ticket = inner(HANDSHAKE, &[&[NEW_SESSION_TICKET, 0, 0, 9][..], &[1; 9]].concat(), 0);
        let halves = [inner(HANDSHAKE, &[NEW_SESSION_TICKET, 0, 0], 0), inner(HANDSHAKE, &[2, 7, 7], 3)];
        let update = inner(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], 0);
        for (client, records, expected) in [
            (true, vec![inner(APPLICATION, b"payload", 0), inner(APPLICATION, b"padded", 900)], (2, false)),
            (true, vec![ticket.clone(), update.clone()], (2, false)),
            (false, vec![ticket], (0, true)),
            (true, halves.to_vec(), (2, false)),
            (true, vec![halves[0].clone(), inner(APPLICATION, b"x", 0)], (1, true)),
            (true, vec![inner(ALERT, &[1, CLOSE_NOTIFY], 0), inner(0, b"", 0)], (0, false)),
            (true, vec![inner(ALERT, &[1, USER_CANCELED], 0)], (1, false)),
            (true, vec![inner(ALERT, &[2, 40], 0)], (0, true)),
            (true, vec![inner(ALERT, &[2], 0)], (0, true)),
            (true, vec![inner(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 2], 0)], (0, true)),
            (true, vec![inner(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0, 4], 0)], (0, true)),
            (true, vec![inner(HANDSHAKE, &[KEY_UPDATE, 1, 0, 0], 0)], (0, true)),
            (true, vec![inner(HANDSHAKE, b"", 0)], (0, true)),
            (true, vec![inner(20, &[1], 0)], (0, true)),
            (true, vec![vec![0; 40]], (0, true)),
            (true, vec![Vec::new()], (0, true)),
            (true, vec![inner(APPLICATION, &[1; PLAIN_BYTES_MAX], 0)], (1, false)),
            (true, vec![inner(APPLICATION, &[1; PLAIN_BYTES_MAX + 1], 0)], (0, true)),
            (true, vec![inner(APPLICATION, b"", 5); 32], (32, false)),
            (true, vec![inner(APPLICATION, b"", 5); 33], (32, true)),
            (true, vec![update; 33], (32, true)),
        ] {
            assert_eq!(heard(client, &records), expected, "{records:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(client: bool, records: Vec<Vec<u8>>) {
            let (taken, refused) = hear_opened(client, records.iter().map(Vec::as_slice));
            proptest::prop_assert!(taken + usize::from(refused) <= records.len());
            for record in &records {
                let _ = sealed_length(record);
            }
        }
    }
}
