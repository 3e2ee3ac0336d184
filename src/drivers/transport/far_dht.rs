//! The DHT as libp2p's task uses it: who provides what is asked for, and what is provided here. Read `far_task` first.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use libp2p::core::Endpoint;
use libp2p::kad::store::RecordStore as _;
use libp2p::kad::{self, QueryId, QueryResult};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{ConnectionId, NetworkBehaviour as _, Swarm};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;

use crate::drivers::transport::address::{endpoint_of, is_quic};
use crate::drivers::transport::behaviour::Behaviour;
use crate::drivers::transport::far::Provider;
use crate::drivers::transport::far_task::FarTask;
use crate::drivers::transport::limits::*;
use crate::drivers::transport::links::Links;
use crate::policy::network::is_public;

/// A question who provides a key.
pub(crate) struct Find {
    query: Option<QueryId>,
    key: [u8; 32],
    found: mpsc::Sender<Provider>,
    told: BTreeSet<PeerId>,
}

impl FarTask {
    pub(crate) fn find(&mut self, key: [u8; 32], found: mpsc::Sender<Provider>, swarm: &mut Swarm<Behaviour>) {
        if self.finds.len() < FINDS_MAX {
            self.finds.push(Find { query: None, key, found, told: BTreeSet::new() });
            self.find_now(swarm);
        }
    }

    /// Asks what was not asked yet, once there is anybody to ask.
    pub(crate) fn find_now(&mut self, swarm: &mut Swarm<Behaviour>) {
        if self.bootstraps.is_empty() && !self.far.bootstrap.is_empty() && self.started.elapsed() < PROOF_PATIENCE {
            return;
        }
        let Some(dht) = swarm.behaviour_mut().dht.as_mut() else { return };
        for find in self.finds.iter_mut().filter(|find| find.query.is_none()) {
            find.query = Some(dht.get_providers(find.key.to_vec().into()));
        }
    }

    /// Provides these keys and no others.
    pub(crate) fn provide(&mut self, keys: BTreeSet<[u8; 32]>, swarm: &mut Swarm<Behaviour>) {
        let keys: BTreeSet<_> = keys.into_iter().take(DHT_KEYS_OWN_MAX).collect();
        if let Some(dht) = swarm.behaviour_mut().dht.as_mut() {
            self.provided.difference(&keys).for_each(|key| dht.stop_providing(&key.to_vec().into()));
        }
        self.untold.retain(|key| keys.contains(key));
        self.untold.extend(keys.difference(&self.provided));
        self.provided = keys;
        self.tell(swarm);
    }

    /// Tells the DHT what was not told yet, a few keys at a time. Without a place where we can be reached it would help nobody.
    fn tell(&mut self, swarm: &mut Swarm<Behaviour>) {
        if self.confirmed.is_empty() && self.relayed.is_empty() {
            return;
        }
        let Some(dht) = swarm.behaviour_mut().dht.as_mut() else { return };
        while self.telling.len() < DHT_TELLS_AT_ONCE
            && let Some(key) = self.untold.pop_front()
        {
            match dht.start_providing(key.to_vec().into()) {
                Ok(query) => self.telling.push(query),
                Err(error) => tracing::debug!(%error, "a key is not provided"),
            }
        }
    }

    pub(crate) fn dht(&mut self, event: kad::Event, swarm: &mut Swarm<Behaviour>, links: &Links) {
        match event {
            kad::Event::InboundRequest { request: kad::InboundRequest::AddProvider { record: Some(record) } } => {
                self.told_of_provider(record, swarm, links);
            }
            kad::Event::RoutingUpdated { is_new_peer: true, .. } => self.tell_again = true,
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                match result {
                    QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders { providers, .. })) => {
                        providers.into_iter().for_each(|peer| self.found(id, peer, swarm));
                    }
                    QueryResult::StartProviding(_) => {
                        self.telling.retain(|query| *query != id);
                        self.tell(swarm);
                    }
                    _ => {}
                }
                if step.last {
                    self.finds.retain(|find| find.query != Some(id));
                }
            }
            _ => {}
        }
    }

    /// Somebody says that it provides a key. Of its addresses those are kept at which it is seen, and those through relays.
    fn told_of_provider(&self, mut record: kad::ProviderRecord, swarm: &mut Swarm<Behaviour>, links: &Links) {
        let seen_at = links.direct(&record.provider).map(|link| link.remote.ip());
        record.addresses.retain(|address| {
            let its_own = endpoint_of(address).is_some_and(|at| at.port() != 0 && Some(at.ip()) == seen_at);
            address.len() <= MULTIADDR_BYTES_MAX && (its_own || relay_of(address, &record.provider).is_some())
        });
        record.addresses.truncate(DHT_ADDRESSES_MAX);
        if let Some(dht) = swarm.behaviour_mut().dht.as_mut().filter(|_| !record.addresses.is_empty())
            && let Err(error) = dht.store_mut().add_provider(record)
        {
            tracing::debug!(%error, "a provider is not remembered");
        }
    }

    fn found(&mut self, query: QueryId, peer: PeerId, swarm: &mut Swarm<Behaviour>) {
        let Some(find) = self.finds.iter_mut().find(|find| find.query == Some(query)) else { return };
        if peer == self.me || find.told.len() >= FOUND_PER_FIND_MAX || !find.told.insert(peer) {
            return;
        }
        let Some(dht) = swarm.behaviour_mut().dht.as_mut() else { return };
        let held = dht.store_mut().providers(&find.key.to_vec().into());
        let held = held.into_iter().filter(|record| record.provider == peer).flat_map(|record| record.addresses);
        // What answers told of a provider is known to the query alone, and told to whoever dials.
        let unused = ConnectionId::new_unchecked(usize::MAX);
        let told = dht.handle_pending_outbound_connection(unused, Some(peer), &[], Endpoint::Dialer);
        let all = held.chain(told.unwrap_or_default()).filter(|address| address.len() <= MULTIADDR_BYTES_MAX);
        let all: BTreeSet<Multiaddr> = all.collect();
        let direct = all.iter().filter(|address| !is_quic(address) && self.rule.allows(address));
        let addresses: Vec<_> = direct.filter_map(endpoint_of).take(DHT_ADDRESSES_MAX).collect();
        let relayed = all.iter().filter(|it| relay_of(it, &peer).is_some()).take(DHT_ADDRESSES_MAX).cloned().collect();
        let _ = find.found.try_send(Provider { peer, addresses, relayed });
    }

    /// What is looked at about every second.
    pub(crate) fn dht_rounds(&mut self, swarm: &mut Swarm<Behaviour>) {
        self.find_now(swarm);
        self.finds.retain(|find| !find.found.is_closed());
        let soon = self.told_at.is_none_or(|at| at.elapsed() >= BOOTSTRAP_LATER / 2);
        let due = self.told_at.is_some_and(|at| at.elapsed() >= DHT_TELL_EVERY);
        if (self.tell_again && soon) || due {
            (self.tell_again, self.told_at) = (false, Some(Instant::now()));
            self.untold = self.provided.iter().copied().collect();
        }
        self.tell(swarm);
        if self.tidied.elapsed() >= BOOTSTRAP_LATER
            && let Some(dht) = swarm.behaviour_mut().dht.as_mut()
        {
            self.tidied = Instant::now();
            dht.store_mut().tidy(self.tidied);
        }
    }
}

/// The relay's own address in one through a relay to this peer; `None` for any other form, and where the relay is not public.
fn relay_of(address: &Multiaddr, peer: &PeerId) -> Option<SocketAddr> {
    let mut parts: Vec<Protocol<'_>> = address.iter().collect();
    if parts.last() == Some(&Protocol::P2p(*peer)) {
        parts.pop();
    }
    let (Some(Protocol::P2pCircuit), Some(Protocol::P2p(_))) = (parts.pop(), parts.last()) else { return None };
    endpoint_of(&parts.into_iter().collect()).filter(|at| at.port() != 0 && is_public(at.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_through_relays_have_one_form() {
        let (relay, peer) = (PeerId::random(), PeerId::random());
        let of = |text: String| relay_of(&text.parse().expect("valid"), &peer);
        let expected = "203.0.113.1:7680".parse().ok();
        assert_eq!(of(format!("/ip4/203.0.113.1/tcp/7680/p2p/{relay}/p2p-circuit")), expected);
        assert_eq!(of(format!("/ip4/203.0.113.1/udp/7680/quic-v1/p2p/{relay}/p2p-circuit/p2p/{peer}")), expected);
        for text in [
            format!("/ip4/203.0.113.1/tcp/7680/p2p/{relay}/p2p-circuit/p2p/{relay}"),
            format!("/ip4/10.0.0.1/tcp/7680/p2p/{relay}/p2p-circuit"),
            "/ip4/203.0.113.1/tcp/7680/p2p-circuit".to_owned(),
            format!("/ip4/203.0.113.1/tcp/7680/p2p/{peer}"),
            format!("/ip4/203.0.113.1/tcp/0/p2p/{relay}/p2p-circuit"),
            format!("/ip4/203.0.113.1/tcp/1/p2p/{relay}/p2p-circuit/ip4/10.0.0.1/tcp/22"),
        ] {
            assert_eq!(of(text.clone()), None, "{text}");
        }
    }
}
