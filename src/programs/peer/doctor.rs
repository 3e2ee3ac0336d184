//! What is wrong with a daemon, if anything, and why it has no peers: looked at from within, told in words. Nothing is
//! changed, nobody is asked.

use std::collections::BTreeMap;
use std::path::Path;

use crate::content::Now;
use crate::content::error::when;
use crate::drivers::machine::facts;
use crate::policy::{Facts, Verdict};
use crate::programs::peer::keep::Daemon;
use crate::programs::peer::unix_now;
use crate::services::node::{FarReport, Kept, PeerReport, Reach, Standing, Way};

/// Peers of which it is told why they are of no use.
const USELESS_MAX: usize = 16;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// As it should be.
    Good,
    /// To be known.
    Note,
    /// It keeps something from working.
    Bad,
}

impl State {
    /// The word of the API and the tables.
    pub fn word(self) -> &'static str {
        match self {
            State::Good => "good",
            State::Note => "note",
            State::Bad => "bad",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What, in a word.
    pub check: &'static str,
    /// How bad it is.
    pub state: State,
    /// What was found.
    pub text: String,
}

/// Everything that was found, and the sum of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// What was looked at.
    pub findings: Vec<Finding>,
    /// One line: how it is, or why there are no peers.
    pub verdict: String,
}

/// What the verdict is drawn from.
#[derive(Debug, Clone, Default)]
struct Seen {
    mode: String,
    uses_peers: bool,
    discovers: bool,
    /// Peers are met on this network.
    met: bool,
    /// DNS-SD runs; and how many nodes it has heard.
    discovery: Option<usize>,
    /// Each rendezvous, and how it is with it.
    meetings: Vec<(String, Standing)>,
    /// Peers told there that are not given up.
    told: usize,
    peer_count: usize,
    wants_anything: bool,
    gates: Vec<(&'static str, String)>,
    serves: bool,
    troubles: Vec<String>,
}

impl Daemon {
    /// Looks at everything.
    pub async fn diagnose(&self) -> Diagnosis {
        let verdict = self.gates.verdict();
        let peers = self.node.peers();
        let cache = std::sync::Arc::clone(&self.cache);
        let machine = self.gates.machine().to_owned();
        let looked = self.node.disk().run(move || {
            let folder = cache.content_path(&crate::content::hash::ContentId::new([0; 32]));
            (cache.free_bytes().ok(), facts::look(&machine, folder.parent().unwrap_or(Path::new("/"))))
        });
        let (free, facts) = looked.await.unwrap_or_default();
        let seen = Seen {
            mode: self.gates.mode().to_string(),
            uses_peers: self.gates.mode().uses_peers(),
            discovers: self.gates.mode().discovers(),
            met: verdict.trusted,
            discovery: self.node.heard_by_discovery(),
            meetings: self.node.meetings(),
            told: self.node.known_by(Way::Rendezvous),
            peer_count: peers.len(),
            wants_anything: self.downloads.any_active(),
            gates: verdict.gates.iter().map(|gate| (gate.name, gate.reason.clone())).collect(),
            serves: verdict.serves,
            troubles: self.node.troubles(),
        };
        let mut findings = vec![self.port(&peers), discovery(&seen)];
        findings.extend(seen.meetings.iter().map(rendezvous));
        findings.extend(self.node.rendezvous().map(kept));
        findings.push(found(&peers, self.node.known_by(Way::Remembered)));
        findings.push(way_out(&facts));
        findings.extend(self.node.far_report().iter().flat_map(|far| internet(far, self.gates.has_bootstrap())));
        findings.push(disk(free, self.gates.least_free()));
        let made = self.downloads.shared.means.state.all_newest_made();
        let newest = made.iter().max_by_key(|(_, made)| Now::by(0).not_before(**made).floor);
        findings.push(clock(unix_now(), newest.map(|(name, made)| (name.as_str(), *made))));
        findings.extend(gates(&verdict));
        findings.extend(seen.troubles.iter().map(|text| note("peer", text.clone())));
        findings.extend(peers.iter().filter(|peer| peer.topics == 0).take(USELESS_MAX).map(useless));
        let verdict = sum(&seen, &findings);
        Diagnosis { findings, verdict }
    }

    fn port(&self, peers: &[PeerReport]) -> Finding {
        let listening = self.node.listening();
        let addresses = || listening.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let meets = self.gates.mode().uses_peers() && self.gates.verdict().trusted;
        match (self.node.was_dialled(), listening.is_empty()) {
            (_, true) if !meets => note("port", "closed, since no peers are met".to_owned()),
            (_, true) => Finding { check: "port", state: State::Bad, text: "no peer is accepted anywhere".into() },
            (true, _) => {
                Finding { check: "port", state: State::Good, text: format!("a peer has reached {}", addresses()) }
            }
            (false, false) => note(
                "port",
                format!(
                    "listening on {}; none of {} connected peers has dialled, so it is not proven that it can be reached",
                    addresses(),
                    peers.len()
                ),
            ),
        }
    }
}

fn note(check: &'static str, text: String) -> Finding {
    Finding { check, state: State::Note, text }
}

fn discovery(seen: &Seen) -> Finding {
    let (state, text) = match (seen.discovers, seen.discovery) {
        _ if !seen.met => (State::Note, "peers are not met on this network, and nothing is announced".to_owned()),
        (false, _) => (State::Note, format!("the mode {} looks for nobody; peers are those that are named", seen.mode)),
        (true, None) => (State::Bad, "DNS-SD could not be started: no multicast on this machine".to_owned()),
        (true, Some(0)) => (State::Note, "DNS-SD runs and has heard no other node".to_owned()),
        (true, Some(heard)) => (State::Good, format!("DNS-SD has heard {heard} nodes")),
    };
    Finding { check: "discovery", state, text }
}

fn rendezvous((host, standing): &(String, Standing)) -> Finding {
    let (state, text) = match standing {
        Standing::Asked => (State::Note, format!("{host} has not answered yet")),
        Standing::Itself => (State::Note, format!("{host} is this node itself")),
        Standing::Failed(reason) => (State::Note, format!("{host} is of no use: {reason}")),
        Standing::Answered { registered, members } => {
            let on =
                if *registered { "and tells others of this node" } else { "and does not tell others of this node" };
            (State::Good, format!("{host} told of {members} members last time, {on}"))
        }
    };
    Finding { check: "rendezvous", state, text }
}

fn kept(kept: Kept) -> Finding {
    let text = format!("kept here: {} members of {} scopes", kept.members, kept.scopes);
    Finding { check: "rendezvous", state: State::Good, text }
}

/// Which ways brought the peers that are connected.
fn found(peers: &[PeerReport], remembered: usize) -> Finding {
    let mut ways: BTreeMap<Way, usize> = BTreeMap::new();
    for peer in peers {
        let count = ways.entry(peer.way).or_default();
        *count = count.saturating_add(1);
    }
    let ways: Vec<_> = ways.iter().map(|(way, count)| format!("{count} {}", way.word())).collect();
    let known = format!("{remembered} are remembered of this network");
    match ways.is_empty() {
        true => note("found", format!("no peer is connected; {known}")),
        false => Finding { check: "found", state: State::Good, text: format!("{}; {known}", ways.join(", ")) },
    }
}

/// Whether this node can be reached from the Internet, and finds others there.
fn internet(far: &FarReport, has_bootstrap: bool) -> [Finding; 2] {
    let at = || far.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let (state, text) = match far.reach {
        Reach::Unknown => (State::Note, "unknown: nobody on the Internet has tried to reach this node yet".to_owned()),
        Reach::Public => (State::Good, format!("public: reached at {}", at())),
        Reach::Mapped => (State::Good, format!("behind a NAT that passes connections on: reached at {}", at())),
        Reach::Unmapped if far.addresses.is_empty() => {
            (State::Note, "behind a NAT or firewall that lets nobody in, and without a place at a relay".to_owned())
        }
        Reach::Unmapped => {
            (State::Note, format!("behind a NAT or firewall: others come by holes that are agreed on through {}", at()))
        }
        Reach::Fallen => {
            (State::Bad, "libp2p has ended by itself, and begins again in a moment: see the log".to_owned())
        }
    };
    let quic = if far.quic { "" } else { "; UDP is not served at that port, so no holes are punched" };
    let nat = Finding { check: "nat", state, text: text + quic };
    let (state, text) = match (has_bootstrap, far.bootstraps, far.nodes) {
        (false, _, 0) => (State::Note, "node.bootstrap is empty: others must begin with this node".to_owned()),
        (true, 0, 0) => (State::Bad, "none of the nodes of node.bootstrap answers".to_owned()),
        (_, begun, nodes) => {
            (State::Good, format!("{nodes} nodes of the DHT are known, {begun} of node.bootstrap connected"))
        }
    };
    [nat, Finding { check: "internet", state, text }]
}

fn way_out(facts: &Facts) -> Finding {
    match facts.ways_out.as_slice() {
        [] => note("way_out", "no default route: only machines on the same links can be reached".to_owned()),
        ways => Finding {
            check: "way_out",
            state: State::Good,
            text: format!("by {}{}", ways.join(", "), if facts.mobile { ", mobile data" } else { "" }),
        },
    }
}

fn disk(free: Option<u64>, least: u64) -> Finding {
    let (state, text) = match free {
        None => (State::Bad, "the cache's volume cannot be looked at".to_owned()),
        Some(free) if free < least => {
            (State::Bad, format!("{free} bytes are free for the cache, min_free_disk is {least}: downloads wait"))
        }
        Some(free) => (State::Good, format!("{free} bytes are free for the cache, min_free_disk is {least}")),
    };
    Finding { check: "disk", state, text }
}

/// `newest`: who made the newest manifest that was verified here, and when.
fn clock(clock: u64, newest: Option<(&str, u64)>) -> Finding {
    let now = Now::by(clock).not_before(newest.map_or(0, |(_, made)| made));
    let says = when(clock);
    if !now.is_behind() {
        return Finding { check: "clock", state: State::Good, text: format!("it says {says}") };
    }
    let proof = match newest.filter(|(_, made)| *made == now.floor) {
        Some((name, _)) => format!("a manifest of {name} that was verified here was made then"),
        None => "this program was built then".to_owned(),
    };
    let floor = when(now.floor);
    let text = format!(
        "it says {says}, yet it is {floor} at least: {proof}. Set it; manifests expire by that time until then"
    );
    Finding { check: "clock", state: State::Bad, text }
}

fn gates(verdict: &Verdict) -> Vec<Finding> {
    let shut = |gate: &crate::policy::Gate| note("gate", format!("{}: {} ({})", gate.name, gate.effect, gate.reason));
    match verdict.gates.as_slice() {
        [] => vec![Finding { check: "gate", state: State::Good, text: "none is shut".to_owned() }],
        gates => gates.iter().map(shut).collect(),
    }
}

fn useless(peer: &PeerReport) -> Finding {
    note("peer", format!("{} at {} holds nothing that is wanted here, and asks for nothing", peer.peer, peer.remote))
}

/// One line. Of several reasons the first in the order in which they must be mended.
fn sum(seen: &Seen, findings: &[Finding]) -> String {
    if !seen.uses_peers {
        return format!("no peers: the mode {} uses none", seen.mode);
    }
    if let Some((_, reason)) =
        seen.gates.iter().find(|(name, _)| matches!(*name, "vpn" | "untrusted_network" | "group_unknown"))
    {
        return format!("no peers: {reason}");
    }
    if let Some(bad) = findings.iter().find(|finding| finding.state == State::Bad) {
        return format!("{}: {}", bad.check, bad.text);
    }
    if seen.peer_count == 0 {
        let trouble = seen.troubles.last().map(|text| format!("; last: {text}")).unwrap_or_default();
        // By whatever way they were told.
        let heard = seen.discovery.unwrap_or(0).saturating_add(seen.told);
        return match heard {
            _ if !seen.discovers => {
                format!("no peers: the mode {} looks for nobody, and no named peer is connected{trouble}", seen.mode)
            }
            0 => format!(
                "no peers: no other node was heard; none runs on this link, or UDP port 5353 or multicast is filtered{}{trouble}",
                at_rendezvous(&seen.meetings)
            ),
            heard if !seen.wants_anything => {
                format!(
                    "no peers: {heard} nodes were heard, and nothing is wanted from them; they are dialled when something is"
                )
            }
            heard => format!("no peers: {heard} nodes were heard, and none could be connected{trouble}"),
        };
    }
    match seen.gates.first() {
        Some((name, reason)) if !seen.serves => format!("{} peers; none is served: {name}, {reason}", seen.peer_count),
        _ => format!("all is well: {} peers", seen.peer_count),
    }
}

/// What the rendezvous have brought, for the case that it was nobody.
fn at_rendezvous(meetings: &[(String, Standing)]) -> String {
    let of = |(host, standing): &(String, Standing)| match standing {
        Standing::Asked => format!("; the rendezvous {host} has not answered yet"),
        Standing::Itself => String::new(),
        Standing::Failed(reason) => format!("; the rendezvous {host}: {reason}"),
        Standing::Answered { .. } => format!("; the rendezvous {host} knows nobody else of this group"),
    };
    match meetings {
        [] => "; no rendezvous is named".to_owned(),
        meetings => meetings.iter().map(of).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::now::BUILT;

    fn seen() -> Seen {
        Seen {
            mode: "lan".into(),
            uses_peers: true,
            discovers: true,
            met: true,
            discovery: Some(0),
            serves: true,
            ..Seen::default()
        }
    }

    #[test]
    fn why_there_are_no_peers_is_one_line_and_the_first_thing_to_mend() {
        for (seen, said) in [
            (Seen { uses_peers: false, mode: "http-only".into(), ..seen() }, "the mode http-only uses none"),
            (Seen { gates: vec![("vpn", "the way out is wg0".into())], ..seen() }, "the way out is wg0"),
            (seen(), "no other node was heard"),
            (Seen { discovery: Some(3), ..seen() }, "3 nodes were heard, and nothing is wanted"),
            (Seen { discovery: Some(3), wants_anything: true, ..seen() }, "none could be connected"),
            (
                Seen { discovers: false, mode: "simple".into(), troubles: vec!["refused".into()], ..seen() },
                "no named peer is connected; last: refused",
            ),
            (seen(), "no rendezvous is named"),
            (
                Seen { meetings: vec![("a:1".into(), Standing::Failed("refused".into()))], ..seen() },
                "or multicast is filtered; the rendezvous a:1: refused",
            ),
            (
                Seen { meetings: vec![("a:1".into(), Standing::Answered { registered: true, members: 0 })], ..seen() },
                "a:1 knows nobody else of this group",
            ),
            (Seen { told: 2, wants_anything: true, ..seen() }, "2 nodes were heard, and none could be connected"),
            (Seen { peer_count: 2, ..seen() }, "all is well: 2 peers"),
            (
                Seen { peer_count: 2, serves: false, gates: vec![("battery", "9 % left".into())], ..seen() },
                "none is served: battery, 9 % left",
            ),
        ] {
            let line = sum(&seen, &[]);
            assert!(line.contains(said) && !line.contains('\n'), "{line}");
        }
        let bad = [disk(Some(1), 2)];
        assert!(sum(&Seen { peer_count: 1, ..seen() }, &bad).starts_with("disk: 1 bytes are free"));
    }

    #[test]
    fn how_the_internet_sees_this_node_is_told_in_words() {
        let address = || vec!["/ip4/203.0.113.1/tcp/7680".parse().expect("valid")];
        let of = |reach, has: bool| {
            let addresses = if reach == Reach::Unknown { Vec::new() } else { address() };
            internet(&FarReport { reach, addresses, quic: true, ..FarReport::default() }, has)
        };
        for (reach, said) in [
            (Reach::Unknown, "unknown"),
            (Reach::Public, "public: reached at /ip4/203.0.113.1"),
            (Reach::Mapped, "passes connections on"),
            (Reach::Unmapped, "holes"),
            (Reach::Fallen, "ended by itself"),
        ] {
            let [nat, _] = of(reach, true);
            assert!(nat.text.contains(said) && !nat.text.contains("UDP"), "{nat:?}");
        }
        assert_eq!(of(Reach::Public, true)[1].state, State::Bad, "nobody to begin with answers");
        assert_eq!(of(Reach::Public, false)[1].state, State::Note);
        let known = FarReport { nodes: 3, ..FarReport::default() };
        let [nat, found] = internet(&known, true);
        assert!(nat.text.contains("UDP is not served") && found.state == State::Good, "{nat:?} {found:?}");
    }

    #[test]
    fn a_clock_from_before_the_build_and_a_full_disk_are_bad() {
        let later = BUILT + 1000;
        let states = [
            clock(0, None),
            clock(BUILT, None),
            clock(later, Some(("acme", later))),
            clock(later - 1, Some(("acme", later))),
        ];
        assert_eq!(states.map(|found| found.state), [State::Bad, State::Good, State::Good, State::Bad]);
        assert!(clock(later - 1, Some(("acme", later))).text.contains("acme") && clock(0, None).text.contains("built"));
        assert_eq!(
            (disk(None, 0).state, disk(Some(5), 6).state, disk(Some(6), 6).state),
            (State::Bad, State::Bad, State::Good)
        );
        assert_eq!(discovery(&Seen { discovery: None, ..seen() }).state, State::Bad);
    }
}
