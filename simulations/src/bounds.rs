//! What no delivery can beat: fluid minimum distribution times and rounds of whole pieces.

use std::collections::{BTreeMap, BTreeSet};

use crate::network::LinkId;
use crate::units::Rate;
use crate::world::{Site, World};

/// The least time in microseconds in which `total` bytes reach every one of some peers that all start together: no
/// faster than the suppliers send them once, the slowest peer takes them in, or all uplinks together send all copies.
/// Kumar and Ross 2006, "Peer-assisted file distribution: the minimum distribution time".
pub fn minimum_distribution_time(total: u64, suppliers: u64, peers: &[(Rate, Rate)]) -> u64 {
    let Some(slowest) = peers.iter().map(|(down, _)| down.0).min() else { return 0 };
    let uplinks = peers.iter().fold(u128::from(suppliers), |sum, (_, up)| sum + u128::from(up.0));
    let copies = u128::from(total) * peers.len() as u128;
    let all = (copies * 1_000_000).checked_div(uplinks).unwrap_or(u128::MAX);
    let all = u64::try_from(all).unwrap_or(u64::MAX);
    Rate(suppliers).time_of(total).max(Rate(slowest).time_of(total)).max(all)
}

/// Rounds in which one supplier brings `pieces` pieces to `peers` peers, where everybody sends and receives one piece a
/// round. Mundinger, Weber and Weiss 2008, "Optimal scheduling of peer-to-peer file dissemination".
pub fn rounds(pieces: u64, peers: u64) -> u64 {
    if pieces == 0 || peers == 0 { 0 } else { pieces + u64::from(peers.ilog2()) }
}

/// The lower bound of a world in which all start together, in microseconds from the first start: of the whole, and of
/// each site behind its line. Origins' and sites' lines, these by their budgets, machines' links and all uplinks are counted; latency is not.
pub fn lower_bound(world: &World) -> u64 {
    let total = world.contents.first().map_or(0, |content| content.layout.total_bytes());
    let factor = |bytes: u64| bytes + bytes / 1000 * world.payload_factor;
    let wire = factor(total);
    if world.contents.len() > 1 {
        return many_contents(world, wire);
    }
    let mut suppliers = 0u64;
    let mut all = Vec::new();
    for origin in &world.origins {
        suppliers = suppliers.saturating_add(world.network.link(origin.up).rate.0);
    }
    let mut local = vec![(0u64, Vec::new()); world.sites.len()];
    for share in world.shares.iter() {
        let machine = &world.machines[share.machine as usize];
        let rates = (world.network.link(machine.down).rate, world.network.link(machine.up).rate);
        let site = &mut local[machine.site as usize];
        if share.seed {
            suppliers = suppliers.saturating_add(rates.1.0);
            site.0 = site.0.saturating_add(rates.1.0);
        } else if share.counts {
            all.push(rates);
            site.1.push(rates);
        }
    }
    let mut bound = minimum_distribution_time(wire, suppliers, &all).max(shared_links(world, wire));
    for (site, (seeds, peers)) in world.sites.iter().zip(&local) {
        let line = line_of(world, site).0;
        bound = bound.max(minimum_distribution_time(wire, line.saturating_add(*seeds), peers));
    }
    bound.max(whole_pieces(world, wire))
}

/// What a site's line brings, by its rate and its budget.
fn line_of(world: &World, site: &Site) -> Rate {
    let line = world.network.link(site.down).rate;
    if site.budget.rate > 0 { Rate(line.0.min(site.budget.rate)) } else { line }
}

/// The bound where contents share everything: each crosses the line of each site that wants it and has it not, once, leaves
/// the origins once where nobody has it, and comes to each machine that wants it. How they spread is not counted.
fn many_contents(world: &World, wire: u64) -> u64 {
    let mut wanted = vec![BTreeSet::new(); world.sites.len()];
    let mut held = wanted.clone();
    for share in &world.shares {
        let site = world.machines[share.machine as usize].site as usize;
        if share.seed {
            held[site].insert(share.content);
        } else if share.counts {
            wanted[site].insert(share.content);
        }
    }
    let origins = world.origins.iter().map(|origin| world.network.link(origin.up).rate.0);
    let origins = Rate(origins.fold(0, u64::saturating_add));
    let somewhere: BTreeSet<u32> = held.iter().flatten().copied().collect();
    let nowhere: BTreeSet<u32> = wanted.iter().flatten().filter(|it| !somewhere.contains(it)).copied().collect();
    let of = |rate: Rate, count: usize| {
        if count == 0 || rate.0 == 0 { 0 } else { rate.time_of(wire.saturating_mul(count as u64)) }
    };
    let mut bound = of(origins, nowhere.len()).max(shared_links(world, wire));
    for ((site, wanted), held) in world.sites.iter().zip(&wanted).zip(&held) {
        bound = bound.max(of(line_of(world, site), wanted.difference(held).count()));
    }
    bound
}

/// What machines take in over a link that they share, as an access point's air: one copy each.
fn shared_links(world: &World, wire: u64) -> u64 {
    let mut bytes = BTreeMap::<LinkId, u64>::new();
    for share in world.shares.iter().filter(|share| share.counts) {
        let sum = bytes.entry(world.machines[share.machine as usize].down).or_default();
        *sum = sum.saturating_add(wire);
    }
    bytes.into_iter().map(|(link, bytes)| world.network.link(link).rate.time_of(bytes)).max().unwrap_or(0)
}

/// The bound by rounds, where it applies: one supplier, equal links, machines of one site that start together.
fn whole_pieces(world: &World, wire: u64) -> u64 {
    let seeds: Vec<_> = world.shares.iter().filter(|share| share.seed).collect();
    let peers: Vec<_> = world.shares.iter().filter(|share| share.counts).collect();
    let up = |share: &&crate::world::Share| world.network.link(world.machines[share.machine as usize].up).rate;
    let [seed] = seeds.as_slice() else { return 0 };
    let rate = up(seed);
    let equal = peers.iter().all(|share| {
        let machine = &world.machines[share.machine as usize];
        up(share) == rate && world.network.link(machine.down).rate == rate && machine.up != machine.down
    });
    if !equal || !world.origins.is_empty() || world.sites.len() > 1 {
        return 0;
    }
    let pieces = world.contents.first().map_or(0, |content| u64::from(content.layout.piece_count()));
    let piece = rate.time_of(wire / pieces.max(1));
    rounds(pieces, peers.len() as u64).saturating_mul(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_the_three_limits_can_be_the_one_that_binds() {
        let peers = |down, up| vec![(Rate(down), Rate(up)); 4];
        assert_eq!(minimum_distribution_time(1_000_000, 100_000, &peers(1_000_000, 1_000_000)), 10_000_000);
        assert_eq!(minimum_distribution_time(1_000_000, 1_000_000, &peers(50_000, 1_000_000)), 20_000_000);
        assert_eq!(minimum_distribution_time(1_000_000, 1_000_000, &peers(1_000_000, 0)), 4_000_000);
        assert_eq!(minimum_distribution_time(1_000_000, 1, &[]), 0);
        assert_eq!((rounds(512, 999), rounds(1, 1), rounds(5, 8)), (521, 1, 8));
    }
}
