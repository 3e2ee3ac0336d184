//! A node of the DHT that notes what it is told and asked, and may answer with made-up providers. It speaks libp2p alone.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex};

use libp2p::core::transport::Transport as _;
use libp2p::core::upgrade::Version;
use libp2p::futures::StreamExt;
use libp2p::kad::store::{Error, RecordStore};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use libp2p::swarm::{Config, NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, autonat, identify, identity, kad, noise, tcp, yamux};

use crate::support::PATIENCE;

#[derive(Default)]
struct Notes {
    told: Vec<Vec<u8>>,
    asked: Vec<Vec<u8>>,
    made_up: Vec<Multiaddr>,
}

type Shared = Arc<(Mutex<Notes>, Condvar)>;

/// The node; it ends with the test's process.
pub struct Spy {
    address: String,
    notes: Shared,
}

/// Remembers providers as they come, and notes every question.
struct Store {
    notes: Shared,
    held: Vec<ProviderRecord>,
}

#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
struct Behaviour {
    identify: identify::Behaviour,
    dht: kad::Behaviour<Store>,
    probes: autonat::v2::server::Behaviour,
}

impl RecordStore for Store {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<(), Error> {
        Ok(())
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<(), Error> {
        let mut notes = self.notes.0.lock().expect("whole");
        let key = record.key.to_vec();
        if !notes.told.contains(&key) {
            notes.told.push(key);
            self.notes.1.notify_all();
        }
        drop(notes);
        self.held.push(record);
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let mut notes = self.notes.0.lock().expect("whole");
        notes.asked.push(key.to_vec());
        self.notes.1.notify_all();
        let mut found: Vec<_> = self.held.iter().filter(|record| record.key == *key).cloned().collect();
        if !notes.made_up.is_empty() {
            found.push(ProviderRecord::new(key.clone(), PeerId::random(), notes.made_up.clone()));
        }
        found
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        std::iter::empty()
    }

    fn remove_provider(&mut self, _: &RecordKey, _: &PeerId) {}
}

impl Spy {
    /// Listens at an address of the thread's network namespace.
    pub fn start(ip: IpAddr) -> Self {
        let keypair = identity::Keypair::generate_ed25519();
        let peer = keypair.public().to_peer_id();
        let notes = Shared::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let store = Store { notes: Arc::clone(&notes), held: Vec::new() };
        let address = runtime.block_on(async {
            let security = noise::Config::new(&keypair).expect("a key");
            let transport = tcp::tokio::Transport::new(tcp::Config::new());
            let transport =
                transport.upgrade(Version::V1).authenticate(security).multiplex(yamux::Config::default()).boxed();
            let mut dht =
                kad::Behaviour::with_config(peer, store, kad::Config::new(StreamProtocol::new("/piecework/kad/1")));
            dht.set_mode(Some(kad::Mode::Server));
            let about = identify::Config::new("/piecework/1".to_owned(), keypair.public());
            let identify = identify::Behaviour::new(about);
            let behaviour = Behaviour { identify, dht, probes: autonat::v2::server::Behaviour::default() };
            let config = Config::with_tokio_executor().with_idle_connection_timeout(PATIENCE);
            let mut swarm = Swarm::new(transport, behaviour, peer, config);
            swarm.listen_on(Multiaddr::from(ip).with(libp2p::multiaddr::Protocol::Tcp(0))).expect("it may");
            loop {
                if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                    break (address.with(libp2p::multiaddr::Protocol::P2p(peer)).to_string(), swarm);
                }
            }
        });
        let (address, mut swarm) = address;
        let namespace = std::fs::File::open("/proc/thread-self/ns/net").expect("a namespace");
        std::thread::spawn(move || {
            use std::os::fd::AsFd;
            let network = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), network).expect("root may");
            runtime.block_on(async { while swarm.next().await.is_some() {} });
        });
        Self { address, notes }
    }

    /// Its full multiaddress.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on it names a provider of everything, at these addresses.
    pub fn makes_up(&self, addresses: &[String]) {
        let addresses = addresses.iter().map(|address| address.parse().expect("a multiaddress")).collect();
        self.notes.0.lock().expect("whole").made_up = addresses;
    }

    /// Keys that were told, once there are so many.
    pub fn told(&self, count: usize) -> Vec<Vec<u8>> {
        self.when(|notes| Some(notes.told.clone()).filter(|told| told.len() >= count))
    }

    /// The first key that was asked for, once there is one.
    pub fn asked(&self) -> Vec<u8> {
        self.when(|notes| notes.asked.first().cloned())
    }

    /// All keys that were told or asked.
    pub fn everything(&self) -> Vec<Vec<u8>> {
        let notes = self.notes.0.lock().expect("whole");
        notes.told.iter().chain(&notes.asked).cloned().collect()
    }

    fn when<T>(&self, mut wanted: impl FnMut(&Notes) -> Option<T>) -> T {
        let (notes, changed) = &*self.notes;
        let mut held = notes.lock().expect("whole");
        loop {
            if let Some(found) = wanted(&held) {
                return found;
            }
            let (next, waited) = changed.wait_timeout(held, PATIENCE).expect("whole");
            assert!(!waited.timed_out(), "the DHT was told or asked nothing for {PATIENCE:?}");
            held = next;
        }
    }
}
