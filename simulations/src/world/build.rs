//! From a scenario to a world: sites, lines, machines, arrivals and plans of trouble.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use piecework::content::bitfield::Bitfield;
use piecework::content::layout::FlatLayout;
use piecework::swarm::event::{AddressKey, NodeId};

use crate::checker::Books;
use crate::clock::Queue;
use crate::network::{LinkId, Network};
use crate::random::{Random, seed_bytes};
use crate::scenario::{Machines, Policy, Scenario, TroubleKind};
use crate::world::origin::Origin;
use crate::world::reader::Reader;
use crate::world::trouble::Plan;
use crate::world::{Budget, Content, Machine, NEVER, Share, Site, State, Thing, World};

/// Microseconds.
pub(crate) const DAY: u64 = 86_400_000_000;
const HOUR: u64 = DAY / 24;

/// Why a scenario that makes sense gives no world all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The content's geometry.
    #[error("no content may be {0} bytes long")]
    Length(u64),
}

impl World {
    /// A world at its beginning.
    ///
    /// # Errors
    /// [`BuildError`], for a scenario that was not checked.
    pub fn new(scenario: Scenario, seed: u64, policy: Policy) -> Result<Self, BuildError> {
        let length = scenario.content.size.0;
        let Ok(Some(layout)) = FlatLayout::new([length]) else { return Err(BuildError::Length(length)) };
        let mut world = Self {
            seed,
            policy,
            now: 0,
            queue: Queue::default(),
            network: Network::new(scenario.model.buffer.0),
            fair: crate::fair::Fair::new(u64::from(scenario.model.acks_permille)),
            sites: Vec::new(),
            machines: Vec::new(),
            shares: Vec::new(),
            share_of: BTreeMap::new(),
            sessions: Vec::new(),
            contents: Vec::new(),
            origins: Vec::new(),
            runs: Vec::new(),
            plans: Vec::new(),
            random: Random::new(seed, u64::MAX),
            books: Books::default(),
            violation: None,
            recorder: None,
            trace: 0,
            events: 0,
            engine_events: 0,
            complete: 0,
            wanted: 0,
            cross_bytes: 0,
            control_messages: 0,
            samples: Vec::new(),
            sample_every: 100_000,
            next_sample: 0,
            payload_factor: u64::from(scenario.model.overhead_permille),
            silence: false,
            actions: Vec::new(),
            scenario,
        };
        world.add_sites();
        world.add_origins();
        world.add_machines();
        world.add_shares(&Arc::new(layout));
        world.add_troubles();
        world.wanted = world.shares.iter().filter(|share| share.counts).count() as u64;
        Ok(world)
    }

    fn add_sites(&mut self) {
        let mut groups: Vec<&str> = Vec::new();
        for (kind, site) in self.scenario.site.iter().enumerate() {
            let known = groups.iter().position(|name| *name == site.group).unwrap_or_else(|| {
                groups.push(&site.group);
                groups.len() - 1
            });
            for number in 0..site.count {
                // Without a group each site is alone.
                let group = if site.group.is_empty() { (1 << 24) + self.sites.len() } else { known };
                let name = if site.count > 1 { format!("{}-{}", site.name, number + 1) } else { site.name.clone() };
                self.sites.push(Site {
                    name,
                    kind: kind as u32,
                    group: group as u32,
                    down: self.network.add(site.down),
                    up: self.network.add(site.up),
                    latency: site.latency.0,
                    nat: site.nat,
                    isolated: site.isolated,
                    peers_outside: site.peers_outside,
                    budget: Budget::of(site.line_budget.map_or(0, |rate| rate.0)),
                });
            }
        }
        for index in 0..self.scenario.foreground.len() {
            let from = self.scenario.foreground[index].from.0;
            for site in 0..self.sites.len() as u32 {
                let kind = self.sites[site as usize].kind as usize;
                if self.scenario.site[kind].name == self.scenario.foreground[index].site {
                    self.at(from, Thing::Foreground { site, index: index as u32, on: true });
                }
            }
        }
    }

    fn add_origins(&mut self) {
        for origin in &self.scenario.origin {
            self.origins.push(Origin {
                up: self.network.add(origin.rate),
                latency: origin.latency.0,
                connection_rate: origin.connection_rate.map(|rate| rate.0),
                sending: false,
                retry_at: NEVER,
                turns: VecDeque::new(),
                requests: 0,
                faults: 0,
            });
        }
    }

    fn add_machines(&mut self) {
        let kinds = self.scenario.machines.clone();
        let mut attackers = 0u32;
        for (kind, machines) in kinds.iter().enumerate() {
            let sites: Vec<u32> = (0..self.sites.len() as u32)
                .filter(|site| self.scenario.site[self.sites[*site as usize].kind as usize].name == machines.site)
                .collect();
            for site in sites {
                let mut access_point = LinkId(0);
                for number in 0..machines.count {
                    if let (Some(each), Some(rate)) = (machines.per_access_point, machines.access_point_rate)
                        && number.is_multiple_of(each)
                    {
                        access_point = self.network.add(rate);
                    }
                    let address = machines.addresses.map(|count| attackers + number % count);
                    self.add_machine(kind as u32, machines, site, access_point, address);
                }
                attackers += machines.addresses.unwrap_or(0);
            }
        }
    }

    fn add_machine(&mut self, kind: u32, machines: &Machines, site: u32, access_point: LinkId, address: Option<u32>) {
        let number = self.machines.len() as u32;
        let (up, down) = if machines.per_access_point.is_some() {
            (access_point, access_point)
        } else {
            (self.network.add(machines.up), self.network.add(machines.down))
        };
        let mut key = [0; 18];
        // Machines of one attacker share a few addresses; all others have one each.
        let (net, host) = address.map_or((10, number), |address| (11, address));
        key[0] = net;
        key[1..5].copy_from_slice(&host.to_be_bytes());
        self.machines.push(Machine {
            kind,
            site,
            up,
            down,
            latency: machines.latency.0,
            number,
            id: NodeId(*blake3::hash(&u64::from(number).to_le_bytes()).as_bytes()),
            address: AddressKey(key),
            manner: machines.manner,
            turns: VecDeque::new(),
            sending: false,
            retry_at: NEVER,
            silent_until: 0,
        });
    }

    fn add_shares(&mut self, layout: &Arc<FlatLayout>) {
        let plan = self.scenario.content.clone();
        for number in 0..plan.count {
            self.contents.push(Content {
                layout: Arc::clone(layout),
                topic: seed_bytes(u64::from(number), 7),
                online: Vec::new(),
                by_site: vec![Vec::new(); self.sites.len()],
                origin_bytes: 0,
            });
            let out_at = plan.within.0 / u64::from(plan.count) * u64::from(number);
            let wanting: Vec<usize> = match plan.wanted_by {
                Some(count) => self.random.sample(self.machines.len(), count as usize),
                None => (0..self.machines.len()).collect(),
            };
            for machine in wanting {
                self.add_share(machine as u32, number, out_at);
            }
        }
    }

    fn add_share(&mut self, machine: u32, content: u32, out_at: u64) {
        let it = &self.machines[machine as usize];
        let machines = &self.scenario.machines[it.kind as usize];
        let honest = it.manner.downloads();
        let count = self.contents[content as usize].layout.piece_count();
        let start =
            if machines.seed || !honest { machines.start.0 } else { arrival(machines, it.number, &mut self.random) };
        let share = self.shares.len() as u32;
        let bytes = if machines.seed { self.contents[content as usize].layout.total_bytes() } else { 0 };
        self.shares.push(Share {
            machine,
            content,
            engine: None,
            truth: if machines.seed { Bitfield::all(count) } else { Bitfield::none(count) },
            blocks: BTreeMap::new(),
            truth_bytes: bytes,
            state: State::Waiting,
            life: 0,
            wake_at: NEVER,
            ends: Vec::new(),
            runs: Vec::new(),
            dials: 0,
            settled: false,
            banned: BTreeMap::new(),
            online_at: [0; 2],
            started_at: NEVER,
            complete_at: NEVER,
            seed: machines.seed,
            counts: honest && !machines.seed,
            sent: 0,
            from_peers: 0,
            from_origins: 0,
            trouble_at: (NEVER, 0),
            line_shared_by: 0,
            reader: machines.reader.filter(|_| !machines.seed).map(Reader::new),
        });
        self.share_of.insert((machine, content), share);
        self.at(start + out_at, Thing::Start { share });
    }

    fn add_troubles(&mut self) {
        for trouble in self.scenario.trouble.clone() {
            let meets = |share: &Share| {
                let kind = self.machines[share.machine as usize].kind as usize;
                let machines = &self.scenario.machines[kind];
                match &trouble.machines {
                    Some(name) => machines.name == *name,
                    None => share.counts,
                }
            };
            let mut candidates: Vec<u32> =
                self.shares.iter().enumerate().filter(|(_, it)| meets(it)).map(|(it, _)| it as u32).collect();
            self.random.shuffle(&mut candidates);
            candidates.truncate((candidates.len() as u64 * u64::from(trouble.percent) / 100) as usize);
            candidates.sort_unstable();
            for share in candidates {
                self.add_trouble(share, &trouble);
            }
        }
    }

    fn add_trouble(&mut self, share: u32, trouble: &crate::scenario::Trouble) {
        let machine = self.shares[share as usize].machine;
        if let Some(manner) = trouble.manner {
            self.machines[machine as usize].manner = manner;
            self.shares[share as usize].counts = false;
            return;
        }
        let lasts = trouble.lasts.map_or(NEVER, |lasts| lasts.0);
        let number = self.plans.len() as u32;
        self.plans.push(Plan { share, kind: Some(trouble.kind), lasts, announced: trouble.announced });
        let ends = matches!(trouble.kind, TroubleKind::Die | TroubleKind::Vanish) && lasts == NEVER;
        if ends {
            self.shares[share as usize].counts = false;
        }
        if let Some([from, to]) = trouble.at_percent {
            let percent = u64::from(from) + self.random.below(u64::from(to - from) + 1);
            let total = self.contents[self.shares[share as usize].content as usize].layout.total_bytes();
            self.shares[share as usize].trouble_at = (total / 100 * percent, number);
        } else {
            let start = self.scenario.machines[self.machines[machine as usize].kind as usize].start.0;
            let at = start + trouble.after.0 + self.random.below(trouble.within.0 + 1);
            self.at(at, Thing::Trouble { plan: number });
        }
    }
}

/// When a machine starts.
fn arrival(machines: &Machines, _number: u32, random: &mut Random) -> u64 {
    if machines.hours.is_empty() {
        return machines.start.0 + random.below(machines.within.0 + 1);
    }
    let first = machines.first_day_percent.unwrap_or(100 / machines.days.max(1));
    let day = if machines.days < 2 || random.below(100) < u64::from(first) {
        0
    } else {
        1 + random.below(u64::from(machines.days) - 1)
    };
    let total: u64 = machines.hours.iter().map(|weight| u64::from(*weight)).sum();
    let mut draw = random.below(total);
    let mut hour = 0;
    for (number, weight) in (0u64..).zip(&machines.hours) {
        hour = number;
        if draw < u64::from(*weight) {
            break;
        }
        draw -= u64::from(*weight);
    }
    machines.start.0 + day * DAY + hour * HOUR + random.below(HOUR)
}
