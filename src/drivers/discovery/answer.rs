//! Answers of multicast DNS to a question of ours, as far as they tell of nodes (RFC 1035, 4.1; RFC 6763, 4). Bytes of
//! strangers: every length is looked at before it is used, and what does not read as a whole says nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::drivers::discovery::SERVICE;

/// Records of one answer that are looked at.
const RECORDS_MAX: usize = 64;
/// Addresses taken of one node.
const ADDRESSES_MAX: usize = 8;
/// Longest name, bytes of text (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 255;
/// References that one name may follow; each leads towards the beginning.
const REFERENCES_MAX: usize = 16;

const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const IN: u16 = 1;

/// A node that an answer tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The first label of its instance's name.
    pub instance: String,
    /// Its port; not 0.
    pub port: u16,
    /// Where it is; at least one.
    pub ips: Vec<IpAddr>,
}

/// The question for all nodes of a link, under a number by which answers are known.
pub fn question(id: u16) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    // A standard query with one question and nothing else.
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in SERVICE.split('.').filter(|label| !label.is_empty()) {
        packet.push(u8::try_from(label.len()).unwrap_or(0));
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend(PTR.to_be_bytes());
    packet.extend(IN.to_be_bytes());
    packet
}

/// Reads an answer to the question of this number; `None` for anything else, and for what is malformed.
pub fn read(packet: &[u8], id: u16) -> Option<Vec<Told>> {
    let mut reader = Reader { packet, at: 0 };
    let (number, flags) = (reader.number()?, reader.number()?);
    if number != id || flags & 0x8000 == 0 || flags & 0x000f != 0 {
        return None;
    }
    let questions = reader.number()?;
    let mut records = 0usize;
    for _ in 0..3 {
        records = records.checked_add(reader.number()?.into())?;
    }
    for _ in 0..questions {
        reader.name()?;
        reader.skip(4)?;
    }
    let (mut instances, mut places, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..records.min(RECORDS_MAX) {
        let name = reader.name()?;
        let (kind, _class) = (reader.number()?, reader.number()?);
        reader.skip(4)?;
        let length = usize::from(reader.number()?);
        let end = reader.at.checked_add(length).filter(|end| *end <= packet.len())?;
        match kind {
            PTR if name.eq_ignore_ascii_case(SERVICE) => instances.push(reader.name()?),
            SRV => {
                reader.skip(4)?;
                places.push((name, reader.number()?, reader.name()?));
            }
            A => addresses.push((name, IpAddr::from(Ipv4Addr::from(reader.bytes::<4>()?)))),
            AAAA => addresses.push((name, IpAddr::from(Ipv6Addr::from(reader.bytes::<16>()?)))),
            _ => {}
        }
        reader.at = end;
    }
    let told = instances.iter().filter_map(|instance| {
        let (_, port, host) = places.iter().find(|(name, ..)| name.eq_ignore_ascii_case(instance))?;
        let of_host = addresses.iter().filter(|(name, _)| name.eq_ignore_ascii_case(host));
        let ips: Vec<IpAddr> = of_host.map(|(_, ip)| *ip).take(ADDRESSES_MAX).collect();
        let instance = instance.split('.').next()?.to_owned();
        (*port != 0 && !ips.is_empty()).then_some(Told { instance, port: *port, ips })
    });
    Some(told.collect())
}

struct Reader<'a> {
    packet: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let end = self.at.checked_add(N)?;
        let bytes = self.packet.get(self.at..end)?.try_into().ok()?;
        self.at = end;
        Some(bytes)
    }

    fn number(&mut self) -> Option<u16> {
        self.bytes().map(u16::from_be_bytes)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at = self.at.checked_add(count).filter(|at| *at <= self.packet.len())?;
        Some(())
    }

    /// A name with a point behind each label. What is no UTF-8 is replaced; it is nobody's name then.
    fn name(&mut self) -> Option<String> {
        let (mut name, mut at, mut references) = (Vec::new(), self.at, 0usize);
        loop {
            let length = *self.packet.get(at)?;
            let after = at.checked_add(1)?;
            match length {
                0 => {
                    if references == 0 {
                        self.at = after;
                    }
                    return Some(String::from_utf8_lossy(&name).into_owned());
                }
                1..=63 => {
                    let end = after.checked_add(length.into())?;
                    name.extend_from_slice(self.packet.get(after..end)?);
                    name.push(b'.');
                    if name.len() > NAME_BYTES_MAX {
                        return None;
                    }
                    at = end;
                }
                0xc0.. => {
                    let low = *self.packet.get(after)?;
                    if references == 0 {
                        self.at = after.checked_add(1)?;
                    }
                    references = references.checked_add(1)?;
                    let to = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                    if to >= at || references > REFERENCES_MAX {
                        return None;
                    }
                    at = to;
                }
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One record: name, kind, and what it holds.
    fn record(name: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len()).expect("short");
        [name, &kind.to_be_bytes(), &[0x80, 1, 0, 0, 0, 10], &length.to_be_bytes(), data].concat()
    }

    /// An answer that refers to the question's name, and to the names of its own records.
    fn answer() -> Vec<u8> {
        let question = question(7);
        let service = [0xc0, 12];
        let instance = [&[4][..], b"Node", &service].concat();
        let mut packet = question.clone();
        (packet[2], packet[7], packet[11]) = (0x84, 1, 3);
        packet.extend(record(&service, PTR, &instance));
        let host = b"\x03box\x05local\x00";
        packet.extend(record(&instance, SRV, &[&[0, 0, 0, 0, 30, 0][..], host].concat()));
        packet.extend(record(host, A, &[10, 0, 0, 7]));
        packet.extend(record(host, AAAA, &Ipv6Addr::LOCALHOST.octets()));
        packet
    }

    #[test]
    fn an_answer_tells_of_nodes_with_their_ports_and_addresses() {
        let told = Told {
            instance: "Node".into(),
            port: 7680,
            ips: vec![Ipv4Addr::new(10, 0, 0, 7).into(), Ipv6Addr::LOCALHOST.into()],
        };
        assert_eq!(read(&answer(), 7), Some(vec![told]));
        assert_eq!(read(&answer(), 8), None, "to another question");
        assert_eq!(read(&question(7), 7), None, "a question is no answer");
        for end in 0..answer().len() {
            assert_eq!(read(&answer()[..end], 7), None, "{end}");
        }
    }

    #[test]
    fn names_that_go_in_circles_or_on_for_ever_are_refused() {
        let with = |name: &[u8]| {
            let mut packet = vec![0, 7, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
            packet.extend(record(name, A, &[1, 2, 3, 4]));
            read(&packet, 7)
        };
        assert_eq!(with(b"\x01a\x00"), Some(vec![]));
        assert_eq!(with(&[0xc0, 12]), None, "to itself");
        assert_eq!(with(&[0xc0, 14]), None, "ahead");
        assert_eq!(with(&[0x40, 1, 0]), None, "a kind of label that nobody has");
        assert_eq!(with(&[&[63; 64][..]; 5].concat()), None, "too long");
    }

    proptest! {
        #[test]
        fn changed_answers_are_read_or_refused(at in any::<prop::sample::Index>(), value: u8, cut in any::<prop::sample::Index>()) {
            let mut packet = answer();
            *at.get_mut(&mut packet) = value;
            packet.truncate(cut.index(packet.len()));
            for told in read(&packet, 7).unwrap_or_default() {
                prop_assert!(told.port != 0 && (1..=ADDRESSES_MAX).contains(&told.ips.len()));
            }
        }
    }
}
