//! Max-min fair sharing: every flow gets as much as it can without taking from one that has less (Bertsekas and
//! Gallager 1992, section 6.5.2). Solved anew whenever a flow begins or ends, so it is for small worlds: it checks that
//! blocks one after the other on links, as `network` has them, do not lie.

use std::collections::BTreeMap;

use crate::network::{LinkId, Network, Path};

/// A flow: one block on its way over a path.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Whose block.
    pub what: Carried,
    path: Path,
    /// Where its acknowledgements go.
    back: Path,
    bytes: u64,
    /// What is still to come, in millionths of a byte.
    left: u128,
    rate: u64,
    /// Bytes that were reported already.
    reported: u64,
}

/// What a flow carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// A piece's block, from one end of a session.
    Block {
        /// The sending end.
        from: u32,
        /// Which piece.
        piece: u32,
        /// Which block of it.
        block: u8,
        /// It is the piece's last; with the payload of the whole serve.
        last: Option<u64>,
        /// Its hash is wrong.
        bad: bool,
    },
    /// A block of a range from an origin.
    Range {
        /// Which range.
        run: u32,
        /// Which piece.
        piece: u32,
        /// Which block of it.
        block: u8,
    },
}

/// All flows.
#[derive(Debug, Default)]
pub struct Fair {
    flows: BTreeMap<u32, Flow>,
    next: u32,
    at: u64,
    /// Counts solutions: an older one's prediction is void.
    pub version: u32,
    /// Flows came or went since the last solution.
    pub dirty: bool,
    full: Vec<LinkId>,
    acks_permille: u64,
}

impl Fair {
    /// No flow yet; of a thousand bytes so many come back as acknowledgements.
    pub fn new(acks_permille: u64) -> Self {
        Self { acks_permille, ..Self::default() }
    }

    /// Begins a flow over the first of two paths; its acknowledgements come back over the second.
    pub fn begin(
        &mut self,
        network: &mut Network,
        what: Carried,
        (path, back): (Path, Path),
        bytes: u64,
        now: u64,
    ) -> u32 {
        self.advance(network, now);
        let number = self.next;
        self.next += 1;
        let left = u128::from(bytes) * 1_000_000;
        self.flows.insert(number, Flow { what, path, back, bytes, left, rate: 0, reported: 0 });
        self.dirty = true;
        number
    }

    /// Bytes of a flow that came since this was asked last; `None` where it is over.
    pub fn progress(&mut self, network: &mut Network, number: u32, now: u64) -> Option<(Carried, u64)> {
        self.advance(network, now);
        let flow = self.flows.get_mut(&number)?;
        let done = flow.bytes - (flow.left / 1_000_000) as u64;
        let fresh = done - flow.reported;
        flow.reported = done;
        Some((flow.what, fresh))
    }

    fn advance(&mut self, network: &mut Network, now: u64) {
        let time = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        if time == 0 {
            return;
        }
        for flow in self.flows.values_mut() {
            flow.left = flow.left.saturating_sub(u128::from(flow.rate) * u128::from(time));
            for link in flow.path.links() {
                let link = network.link_mut(*link);
                link.busy += (u128::from(flow.rate) * u128::from(time) / u128::from(link.rate.0.max(1))) as u64;
            }
        }
    }

    /// Flows that are through, with their paths' latency; they are gone then.
    pub fn finished(&mut self, network: &mut Network, now: u64) -> Vec<(Carried, u64)> {
        self.advance(network, now);
        let done: Vec<u32> = self.flows.iter().filter(|(_, flow)| flow.left == 0).map(|(number, _)| *number).collect();
        self.dirty |= !done.is_empty();
        done.into_iter()
            .filter_map(|number| self.flows.remove(&number))
            .map(|flow| {
                for link in flow.path.links() {
                    network.link_mut(*link).bytes += flow.bytes;
                }
                (flow.what, flow.path.latency)
            })
            .collect()
    }

    /// Bytes a second of acknowledgements on each link, at the rates of now.
    fn acks(&self) -> BTreeMap<LinkId, u64> {
        let mut acks = BTreeMap::new();
        for flow in self.flows.values().filter(|_| self.acks_permille > 0) {
            for link in flow.back.links() {
                *acks.entry(*link).or_default() += flow.rate * self.acks_permille / 1000;
            }
        }
        acks
    }

    /// Rates by progressive filling. Returns when the first flow will be through.
    pub fn solve(&mut self, network: &mut Network, now: u64) -> Option<u64> {
        self.advance(network, now);
        self.dirty = false;
        self.version += 1;
        let mut links = self.fill(network, &BTreeMap::new());
        if self.acks_permille > 0 {
            // Acknowledgements are not held back as payload is: they take of each link what the flows' rates make of them.
            links = self.fill(network, &self.acks());
        }
        for link in self.full.drain(..) {
            network.link_mut(link).full = false;
        }
        for (link, left) in links {
            if left <= network.left(link) / 50 {
                network.link_mut(link).full = true;
                self.full.push(link);
            }
        }
        let time = |flow: &Flow| flow.left.div_ceil(u128::from(flow.rate.max(1)));
        let first = self.flows.values().map(time).min()?;
        Some(now + u64::try_from(first).unwrap_or(u64::MAX >> 2))
    }

    /// Sets all rates, where `taken` of each link is not for payload. Returns what is left of each.
    fn fill(&mut self, network: &Network, taken: &BTreeMap<LinkId, u64>) -> Vec<(LinkId, u64)> {
        let room = |link: LinkId| {
            let all = network.left(link);
            all.saturating_sub(taken.get(&link).copied().unwrap_or(0)).max(all / 50)
        };
        let mut links: BTreeMap<LinkId, (u64, u64, Vec<u32>)> = BTreeMap::new();
        for (number, flow) in &self.flows {
            for link in flow.path.links() {
                let entry = links.entry(*link).or_insert_with(|| (room(*link), 0, Vec::new()));
                entry.1 += 1;
                entry.2.push(*number);
            }
        }
        let mut open: BTreeMap<u32, bool> = self.flows.keys().map(|number| (*number, true)).collect();
        while let Some((link, share)) =
            links.iter().filter(|(_, it)| it.1 > 0).map(|(link, it)| (*link, it.0 / it.1)).min_by_key(|it| it.1)
        {
            let numbers = links.get(&link).map(|it| it.2.clone()).unwrap_or_default();
            for number in numbers {
                if !open.insert(number, false).unwrap_or(false) {
                    continue;
                }
                let Some(flow) = self.flows.get_mut(&number) else { continue };
                flow.rate = share.max(1);
                for link in flow.path.links() {
                    if let Some(entry) = links.get_mut(link) {
                        entry.0 = entry.0.saturating_sub(share);
                        entry.1 -= 1;
                    }
                }
            }
        }
        links.into_iter().map(|(link, (left, ..))| (link, left)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Rate;

    #[test]
    fn nobody_gets_less_than_who_has_more_could_give() {
        let mut network = Network::new(0);
        let (thin, wide) = (network.add(Rate(100)), network.add(Rate(1000)));
        let mut fair = Fair::default();
        let what = Carried::Range { run: 0, piece: 0, block: 0 };
        for links in [&[thin, wide][..], &[thin][..], &[wide][..]] {
            fair.begin(&mut network, what, (Path::new(links, 0), Path::new(&[], 0)), 1000, 0);
        }
        fair.solve(&mut network, 0);
        let rates: Vec<u64> = fair.flows.values().map(|flow| flow.rate).collect();
        assert_eq!(rates, [50, 50, 950]);
        assert_eq!(fair.finished(&mut network, 1_060_000).len(), 1);
        assert_eq!(fair.solve(&mut network, 1_060_000), Some(20_000_000));
    }

    #[test]
    fn acknowledgements_take_their_part_of_the_other_direction() {
        let mut network = Network::new(0);
        let (there, back) = (network.add(Rate(1000)), network.add(Rate(1000)));
        let (out, home) = (Path::new(&[there], 0), Path::new(&[back], 0));
        let mut fair = Fair::new(20);
        let what = Carried::Range { run: 0, piece: 0, block: 0 };
        fair.begin(&mut network, what, (out, home), 1000, 0);
        fair.begin(&mut network, what, (home, out), 1000, 0);
        fair.solve(&mut network, 0);
        let rates: Vec<u64> = fair.flows.values().map(|flow| flow.rate).collect();
        assert_eq!(rates, [980, 980]);
    }
}
