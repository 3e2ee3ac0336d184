//! How machines start and find each other.

use std::sync::Arc;
use std::time::Duration;

use piecework::content::bitfield::Bitfield;
use piecework::content::layout::{BlockIndex, PieceIndex};
use piecework::swarm::event::{Event, SourceKey};
use piecework::swarm::{Options, Swarm, Uptime};

use crate::engine::Engine;
use crate::plain::{Choice, Plain};
use crate::random::{Random, mix, seed_bytes};
use crate::scenario::{Manner, Policy};
use crate::world::{NEVER, State, Thing, World};

/// Who has too few peers looks again this often.
const LOOK_AGAIN: u64 = 10_000_000;

impl World {
    /// A share begins its work, for the first time or after a pause.
    pub(crate) fn start(&mut self, share: u32) {
        let it = &mut self.shares[share as usize];
        if it.state == State::Online {
            return;
        }
        it.life += 1;
        it.state = State::Online;
        it.wake_at = NEVER;
        if it.started_at == NEVER {
            it.started_at = self.now;
        }
        (it.dials, it.settled, it.line_shared_by) = (0, false, 0);
        let life = it.life;
        self.fold(70, u64::from(share), u64::from(life));
        match self.engine(share) {
            Ok(engine) => self.shares[share as usize].engine = Some(engine),
            Err(error) => return self.violate(share, format!("the engine refuses its world: {error}")),
        }
        let pieces = self.contents[self.shares[share as usize].content as usize].layout.piece_count();
        for origin in 0..self.origins.len() as u32 {
            self.tell(
                share,
                Event::SourceUp { source: SourceKey(origin), pieces: std::iter::once(0..pieces).collect() },
            );
        }
        let machine = self.shares[share as usize].machine;
        self.share_line(machine);
        let kind = &self.scenario.machines[self.machines[machine as usize].kind as usize];
        let back = kind.daily && self.shares[share as usize].truth.is_complete();
        let (on_battery, unstable, shared_air) = (kind.on_battery, kind.unstable, kind.per_access_point.is_some());
        if on_battery {
            self.tell(share, Event::UploadsAllowed(false));
            self.tell(share, Event::DutiesAllowed(false));
        }
        if shared_air {
            self.tell(share, Event::SharedAir(true));
        }
        if unstable {
            self.tell(share, Event::Stable(false));
        }
        self.tell(share, Event::Tick);
        self.reader_starts(share);
        if !self.is_alone(share) {
            self.go_online(share);
            let delay = self.scenario.discovery.delay.0 + self.random.below(1 + self.scenario.discovery.delay.0 / 4);
            self.at(self.now + delay, Thing::Discover { share, life });
        }
        if back {
            self.leave_later(share);
        }
        if self.machines[machine as usize].manner == Manner::Claim {
            self.at(self.now + 1_000_000, Thing::Claim { share, life });
        }
    }

    /// It talks to HTTP servers only.
    fn is_alone(&self, share: u32) -> bool {
        let kind = self.machines[self.shares[share as usize].machine as usize].kind;
        self.policy == Policy::Http || self.scenario.machines[kind as usize].http_only
    }

    /// It stands where access points isolate their clients.
    fn is_isolated(&self, share: u32) -> bool {
        let machine = &self.machines[self.shares[share as usize].machine as usize];
        self.sites[machine.site as usize].isolated
    }

    fn engine(&mut self, share: u32) -> Result<Engine, piecework::swarm::Error> {
        let it = &self.shares[share as usize];
        let content = &self.contents[it.content as usize];
        let machine = &self.machines[it.machine as usize];
        let pretends = !machine.manner.downloads() && machine.manner != Manner::Claim;
        let held = if pretends { Bitfield::all(content.layout.piece_count()) } else { it.truth.clone() };
        let purpose = mix(u64::from(share)) ^ u64::from(it.life);
        if matches!(self.policy, Policy::Bittorrent | Policy::Random) {
            let choice = match self.policy {
                Policy::Random => Choice { rarest: false, reciprocal: false },
                _ => Choice { rarest: true, reciprocal: true },
            };
            let random = Random::new(self.seed, purpose);
            let plain = Plain::new(Arc::clone(&content.layout), held, choice, random, self.now);
            return Ok(Engine::Plain(Box::new(plain)));
        }
        let settings = &self.scenario.engine;
        let kind = &self.scenario.machines[machine.kind as usize];
        let defaults = Options::default();
        let slots = if it.seed { settings.seed_upload_slots.or(settings.upload_slots) } else { settings.upload_slots };
        let options = Options {
            topic: content.topic,
            no_peers: self.is_alone(share),
            // What it found out when it ran before, it remembers for a day.
            isolated_before: it.life > 1 && self.is_isolated(share),
            sequential: self.policy == Policy::Sequential,
            upload_slots: slots.unwrap_or(defaults.upload_slots),
            origin_gateways: settings.origin_gateways.unwrap_or(defaults.origin_gateways),
            origin_connections: settings.origin_connections.unwrap_or(defaults.origin_connections),
            have_batch: Duration::from_micros(self.scenario.model.have_tick.0).max(defaults.have_batch),
            min_rate: settings.min_rate.map_or(defaults.min_rate, |rate| rate.0),
            background: kind.background,
            line_budget: self.sites[machine.site as usize].budget.rate,
            deadline: kind.deadline.map(|within| Duration::from_micros(within.0)),
            ..defaults
        };
        let seed = seed_bytes(self.seed, purpose);
        // Blocks of started pieces are on disk and survive a restart, as the store keeps them.
        let partial: Vec<_> = it
            .blocks
            .iter()
            .map(|(piece, bits)| {
                let blocks = (0..32).filter(|block| bits & (1 << block) != 0);
                (PieceIndex(*piece), blocks.map(BlockIndex).collect())
            })
            .collect();
        let (layout, id, address) = (Arc::clone(&content.layout), machine.id, machine.address);
        if let Some(recorder) = self.recorder.as_mut().filter(|recorder| recorder.share == share) {
            recorder.begin(&layout, &held, &partial, &options, id, address, seed, self.now);
        }
        let now = Uptime::from_micros(self.now);
        let swarm = Swarm::new(layout, held, partial, options, id, address, seed, now)?;
        Ok(Engine::Swarm(Box::new(swarm)))
    }

    fn go_online(&mut self, share: u32) {
        let it = &self.shares[share as usize];
        let (content, site) = (it.content, self.machines[it.machine as usize].site);
        let content = &mut self.contents[content as usize];
        let places = [content.online.len() as u32, content.by_site[site as usize].len() as u32];
        content.online.push(share);
        content.by_site[site as usize].push(share);
        self.shares[share as usize].online_at = places;
    }

    pub(crate) fn go_offline(&mut self, share: u32) {
        let it = &self.shares[share as usize];
        let (content, site, places) = (it.content, self.machines[it.machine as usize].site, it.online_at);
        let content = &mut self.contents[content as usize];
        for (place, list) in [(0, &mut content.online), (1, &mut content.by_site[site as usize])] {
            let at = places[place] as usize;
            if list.get(at) == Some(&share) {
                list.swap_remove(at);
                if let Some(moved) = list.get(at) {
                    self.shares[*moved as usize].online_at[place] = at as u32;
                }
            }
        }
    }

    /// Members of the content that discovery names: of the same site, and elsewhere.
    fn found(&mut self, share: u32) -> Vec<u32> {
        let it = &self.shares[share as usize];
        let site = self.machines[it.machine as usize].site;
        let content = &self.contents[it.content as usize];
        let (local, remote) = (self.scenario.discovery.local as usize, self.scenario.discovery.remote as usize);
        let here = &content.by_site[site as usize];
        let mut found: Vec<u32> = if self.scenario.discovery.advertisers {
            // Who advertises is the same for all: by identity.
            let mut ranked: Vec<u32> = here.clone();
            ranked.sort_by_key(|other| (mix(u64::from(self.shares[*other as usize].machine) ^ self.seed), *other));
            ranked.truncate(local);
            ranked
        } else {
            self.random.sample(here.len(), local + 1).into_iter().map(|place| here[place]).collect()
        };
        found.retain(|other| *other != share);
        found.truncate(local);
        if here.len() < content.online.len() && self.sites[site as usize].peers_outside {
            // Drawn from all; those of the own site fall out, so more are drawn where it is a large part.
            let draws = self.random.sample(content.online.len(), 4 * remote);
            let elsewhere = draws
                .into_iter()
                .map(|place| content.online[place])
                .filter(|other| self.machines[self.shares[*other as usize].machine as usize].site != site);
            found.extend(elsewhere.take(remote));
        }
        found
    }

    pub(crate) fn discover(&mut self, share: u32, life: u32) {
        let it = &self.shares[share as usize];
        if it.life != life || it.state != State::Online {
            return;
        }
        let first = !it.settled && it.dials == 0;
        let wanted = (self.scenario.discovery.local + self.scenario.discovery.remote).min(4) as usize;
        let lacks = !it.truth.is_complete();
        if lacks && (first || it.ends.len() < wanted) {
            let found = self.found(share);
            self.shares[share as usize].dials += found.len() as u32;
            if self.is_isolated(share) {
                let seen = found.len() as u32;
                self.tell(share, Event::Neighbours { seen, connected: false });
            }
            for other in found {
                self.dial(share, other, false);
            }
        }
        if self.shares[share as usize].dials == 0 {
            self.settle(share);
        }
        if lacks {
            self.at(self.now + LOOK_AGAIN, Thing::Discover { share, life });
        }
    }

    /// One dial of those that discovery named has come to its end.
    pub(crate) fn first_dial_ended(&mut self, share: u32, late: u64) {
        let it = &mut self.shares[share as usize];
        it.dials = it.dials.saturating_sub(1);
        if it.dials == 0 && !it.settled {
            // Not before the session that this dial may have opened: settled means that who answered is known.
            it.settled = true;
            let life = it.life;
            self.at(self.now + late, Thing::Tell { share, life, event: Box::new(Event::DiscoverySettled) });
        }
    }

    fn settle(&mut self, share: u32) {
        if !std::mem::replace(&mut self.shares[share as usize].settled, true) {
            self.tell(share, Event::DiscoverySettled);
        }
    }
}
