//! Members as peers tell them, and how many of them one frame takes.

use std::net::{IpAddr, SocketAddr};

use crate::wire::error::Error;
use crate::wire::limits::*;
use crate::wire::message::port;
use crate::wire::schema;

/// Where another member of the swarm may be dialled. Hearsay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// libp2p peer id, binary; 1 to 64 bytes, not yet parsed.
    pub peer_id: Vec<u8>,
    /// Where it listens; the port is not 0.
    pub address: SocketAddr,
    /// What it signed of itself, to be read by `record`; at most 512 bytes, empty where the teller has none.
    pub record: Vec<u8>,
}

impl Member {
    /// Bytes of the member in a Members frame, at most.
    fn encoded_bytes_max(&self) -> usize {
        // Ip, port, and what stands before each field.
        self.peer_id.len().saturating_add(self.record.len()).saturating_add(MEMBER_FIXED_BYTES)
    }

    /// Cuts a list into lists that each fit one Members frame.
    pub fn in_frames(members: Vec<Self>) -> Vec<Vec<Self>> {
        let mut frames: Vec<Vec<Self>> = Vec::new();
        let mut bytes = 0usize;
        for member in members {
            let more = member.encoded_bytes_max();
            bytes = bytes.saturating_add(more);
            match frames.last_mut() {
                Some(last) if last.len() < MEMBERS_COUNT_MAX && bytes <= MEMBERS_ROOM => last.push(member),
                _ => {
                    bytes = more;
                    frames.push(vec![member]);
                }
            }
        }
        frames
    }
}

/// Bytes of a member beside peer id and record: 18 of the ip, 4 of the port, 4 and 3 before the other two, 3 of its length.
const MEMBER_FIXED_BYTES: usize = 32;
/// Bytes that members may take of a Members frame: its handle is in there too.
const MEMBERS_ROOM: usize = MEMBERS_BYTES_MAX as usize - 8;

pub(crate) fn member(message: schema::Member) -> Result<Member, Error> {
    let schema::Member { peer_id, ip, port: number, record } = message;
    if peer_id.is_empty() || peer_id.len() > PEER_ID_BYTES_MAX {
        return Err(Error::Length { field: "Member.peer_id", expected: "1 to 64", found: peer_id.len() });
    }
    let address = ip_of("Member.ip", &ip)?;
    check_record("Member.record", &record)?;
    Ok(Member { peer_id, address: SocketAddr::new(address, port("Member.port", number, 1)?), record })
}

pub(crate) fn ip_of(field: &'static str, bytes: &[u8]) -> Result<IpAddr, Error> {
    match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(four), _) => Ok(IpAddr::from(four)),
        (_, Ok(sixteen)) => Ok(IpAddr::from(sixteen)),
        _ => Err(Error::Length { field, expected: "4 or 16", found: bytes.len() }),
    }
}

pub(crate) fn ip_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(four) => four.octets().to_vec(),
        IpAddr::V6(sixteen) => sixteen.octets().to_vec(),
    }
}

pub(crate) fn member_message(member: Member) -> schema::Member {
    let (ip, port) = (ip_bytes(member.address.ip()), u32::from(member.address.port()));
    schema::Member { peer_id: member.peer_id, ip, port, record: member.record }
}

pub(crate) fn check_record(field: &'static str, record: &[u8]) -> Result<(), Error> {
    match record.len() {
        0..=RECORD_BYTES_MAX => Ok(()),
        found => Err(Error::Length { field, expected: "at most 512", found }),
    }
}
