//! The control plane: a libp2p swarm on the shared port, with identify, ping and the data protocol on a stream; where peers
//! of the Internet are met, with all that belongs to that.
//!
//! Its task (`plane`) starts with the first socket or dial that needs it, so a node whose peers all speak the data plane
//! never pays for it; in the mode internet it runs at once.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId, Stream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::drivers::transport::address::{self, endpoint_of};
use crate::drivers::transport::behaviour::swarm;
use crate::drivers::transport::dial::resolve;
use crate::drivers::transport::error::Error;
use crate::drivers::transport::far::{Ask, Callback, Far, FarReport, Provider, Reach};
use crate::drivers::transport::far_task::{FarTask, Wires};
use crate::drivers::transport::gate::{Gate, Handshake};
use crate::drivers::transport::guard::Rule;
use crate::drivers::transport::identity::Identity;
use crate::drivers::transport::limits::*;
use crate::drivers::transport::meter::Meter;
use crate::drivers::transport::plane::Task;
use crate::drivers::transport::shared_port::{Accepted, Ticket};
use crate::drivers::transport::target::Target;

/// A stream of the data protocol, and what is known of the connection under it.
pub(crate) struct DataStream {
    pub(crate) peer: PeerId,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) round_trip: Duration,
    /// A relay is between.
    pub(crate) relayed: bool,
    pub(crate) stream: Stream,
}

/// What it is made with.
pub(crate) struct Parts {
    pub(crate) identity: Identity,
    pub(crate) listening: Vec<SocketAddr>,
    pub(crate) connections_max: usize,
    pub(crate) gate: Arc<Gate>,
    /// What is carried between others.
    pub(crate) meter: Arc<Meter>,
    /// Where inbound streams go.
    pub(crate) streams: mpsc::Sender<DataStream>,
    /// Where it is told who wants to be dialled.
    pub(crate) callbacks: Option<mpsc::Sender<Callback>>,
}

/// Starts the swarm when it is needed, talks to it, and starts it again where it ends by itself.
pub(crate) struct Control {
    /// This one, for the tasks that watch over its own.
    me: Weak<Control>,
    parts: Parts,
    runtime: tokio::runtime::Handle,
    plane: Mutex<State>,
    far: Mutex<Option<Far>>,
    report: watch::Sender<FarReport>,
    /// What is provided on the Internet, for a swarm that begins anew.
    provided: Mutex<BTreeSet<[u8; 32]>>,
}

enum State {
    Asleep,
    Running(Plane),
    /// It ended by itself, so many times in a row, and rests before it begins again.
    Fallen(u32),
    Closed,
}

#[derive(Clone)]
struct Plane {
    accepted: mpsc::Sender<Accepted>,
    tickets: mpsc::Sender<(SocketAddr, Weak<Ticket>)>,
    asks: mpsc::Sender<Ask>,
    /// Its own task, and the one that looks for nodes to begin with.
    tasks: Arc<[AbortHandle]>,
    /// How often in a row it ended by itself before.
    falls: u32,
    started: Instant,
}

impl Plane {
    fn end(&self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// A stream that somebody waits for.
pub(crate) struct Open {
    pub(crate) address: SocketAddr,
    pub(crate) peer: Option<PeerId>,
    pub(crate) answer: oneshot::Sender<Result<DataStream, Error>>,
}

impl Control {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            parts,
            runtime: tokio::runtime::Handle::current(),
            plane: Mutex::new(State::Asleep),
            far: Mutex::default(),
            report: watch::channel(FarReport::default()).0,
            provided: Mutex::default(),
        })
    }

    /// Hands over an accepted socket whose first byte is libp2p's. Dropped where too many wait already.
    pub(crate) fn accept(
        &self,
        tcp: tokio::net::TcpStream,
        remote: SocketAddr,
        handshake: Handshake,
    ) -> Result<(), Error> {
        let plane = self.wake()?;
        let cause = |cause| Error::Resource { resource: "a socket's own address", cause };
        let local = tcp.local_addr().map_err(cause)?;
        let ticket = Ticket::new(handshake);
        let full = Error::Full { limit: "sockets that wait for libp2p" };
        // The ticket first: the connection may be established before the next line runs.
        if plane.tickets.try_send((remote, Arc::downgrade(&ticket))).is_err() {
            return Err(full);
        }
        plane.accepted.try_send(Accepted { tcp, remote, local, ticket }).map_err(|_| full)
    }

    /// Opens a stream of the data protocol to whoever is at `address`, or to `peer` only.
    pub(crate) async fn open(&self, address: SocketAddr, peer: Option<PeerId>) -> Result<DataStream, Error> {
        let (answer, answered) = oneshot::channel();
        self.ask(Ask::Open(Open { address, peer, answer })).await?;
        answered_in(HANDSHAKE, address, answered).await
    }

    /// The same to a peer that cannot be dialled: the first words go through relays, the stream over a direct connection
    /// that both sides make then; where none comes about, through a relay that lets content through, if there is one.
    pub(crate) async fn punch(&self, peer: PeerId, through: Vec<Multiaddr>) -> Result<DataStream, Error> {
        let relay = through.first().map(|it| it.iter().take(3).collect()).as_ref().and_then(endpoint_of);
        let address = relay.unwrap_or_else(|| SocketAddr::from(([0; 4], 0)));
        let (answer, answered) = oneshot::channel();
        let open = Open { address, peer: Some(peer), answer };
        self.ask(Ask::Punch { open, through }).await?;
        answered_in(PUNCH, address, answered).await
    }

    /// Asks the DHT who provides a key.
    pub(crate) async fn find(&self, key: [u8; 32]) -> Result<mpsc::Receiver<Provider>, Error> {
        let (found, providers) = mpsc::channel(FOUND_PER_FIND_MAX);
        self.ask(Ask::Find { key, found }).await?;
        Ok(providers)
    }

    /// Tells the DHT that these keys are provided here, and no others any more.
    pub(crate) async fn provide(&self, keys: BTreeSet<[u8; 32]>) -> Result<(), Error> {
        self.provided.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&keys);
        self.ask(Ask::Provide(keys)).await
    }

    /// What this node carries between others.
    pub(crate) fn meter(&self) -> &Meter {
        &self.parts.meter
    }

    /// How this node stands on the Internet; `None` where peers there are not met.
    pub(crate) fn report(&self) -> Option<FarReport> {
        let far = self.far.lock().unwrap_or_else(PoisonError::into_inner);
        far.as_ref().map(|_| self.report.borrow().clone())
    }

    /// Meets peers on the Internet from now on, otherwise, or not any more: the swarm begins anew.
    pub(crate) fn meet_far(&self, far: Option<Far>) -> Result<(), Error> {
        {
            let mut held = self.far.lock().unwrap_or_else(PoisonError::into_inner);
            if *held == far {
                return Ok(());
            }
            *held = far.clone();
        }
        self.report.send_replace(FarReport::default());
        let mut state = self.plane.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Closed => return Err(Error::Closed),
            State::Running(plane) => plane.end(),
            State::Asleep | State::Fallen(_) => {}
        }
        *state = match far {
            Some(far) => State::Running(self.start(Some(far), 0)?),
            None => State::Asleep,
        };
        Ok(())
    }

    /// The swarm's task ended, and nobody here ended it: a panic in a library, or in what is ours of it. It rests, longer each
    /// time, and begins again with all that it was told; a fall after a long life is the first again.
    async fn fallen(&self, task: tokio::task::Id, cause: String) {
        let mut falls = {
            let mut state = self.plane.lock().unwrap_or_else(PoisonError::into_inner);
            let State::Running(plane) = &*state else { return };
            if !plane.tasks.iter().any(|held| held.id() == task) {
                return;
            }
            plane.end();
            let falls = if plane.started.elapsed() >= FALLEN_FORGOTTEN { 0 } else { plane.falls }.saturating_add(1);
            *state = State::Fallen(falls);
            falls
        };
        tracing::error!(%cause, falls, "libp2p has ended by itself; it begins again after a rest");
        self.report.send_replace(FarReport { reach: Reach::Fallen, ..FarReport::default() });
        loop {
            tokio::time::sleep(fallen_rest(falls)).await;
            let mut state = self.plane.lock().unwrap_or_else(PoisonError::into_inner);
            if !matches!(&*state, State::Fallen(held) if *held == falls) {
                return;
            }
            let far = self.far.lock().unwrap_or_else(PoisonError::into_inner).clone();
            match self.start(far, falls) {
                Ok(plane) => {
                    let keys = self.provided.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    // Its queue is new.
                    let _ = plane.asks.try_send(Ask::Provide(keys));
                    *state = State::Running(plane);
                    return;
                }
                Err(error) => {
                    falls = falls.saturating_add(1);
                    *state = State::Fallen(falls);
                    tracing::error!(%error, falls, "libp2p cannot begin again");
                }
            }
        }
    }

    /// Ends the swarm's task, if it runs, and with it every libp2p connection.
    pub(crate) fn close(&self) {
        let mut state = self.plane.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Running(plane) = &*state {
            plane.end();
        }
        *state = State::Closed;
    }

    async fn ask(&self, ask: Ask) -> Result<(), Error> {
        let plane = self.wake()?;
        plane.asks.send(ask).await.map_err(|_| Error::Closed)
    }

    fn wake(&self) -> Result<Plane, Error> {
        let mut state = self.plane.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Running(plane) => Ok(plane.clone()),
            State::Closed => Err(Error::Closed),
            State::Fallen(_) => Err(Error::Fallen),
            State::Asleep => {
                let plane = self.start(None, 0)?;
                *state = State::Running(plane.clone());
                Ok(plane)
            }
        }
    }

    fn start(&self, far: Option<Far>, falls: u32) -> Result<Plane, Error> {
        let _inside = self.runtime.enter();
        let Parts { identity, listening, connections_max, gate, meter, streams, callbacks } = &self.parts;
        let (accepted, sockets) = mpsc::channel(CONTROL_QUEUE_MAX);
        let (tickets, new_tickets) = mpsc::channel(CONTROL_QUEUE_MAX.saturating_mul(2));
        let (asks, asked) = mpsc::channel(DIALS_MAX);
        let rule = Rule::default();
        let far_and_rule = far.as_ref().map(|far| (far, rule.clone(), meter));
        let mut swarm = swarm(identity, sockets, *connections_max, far_and_rule)?;
        let own = address::interfaces();
        for bound in address::reachable(listening, &own) {
            // The shared port refuses no address of TCP.
            let _ = swarm.listen_on(address::multiaddr(bound));
        }
        let mut tasks = Vec::new();
        let far = far.map(|far| {
            let looks = look_for_bootstraps(far.bootstrap.clone(), asks.clone());
            tasks.push(self.runtime.spawn(looks).abort_handle());
            let wires = Wires { callbacks: callbacks.clone(), report: self.report.clone() };
            FarTask::new(far, rule, wires, listening, &own, &mut swarm)
        });
        let task = Task::new(swarm, Arc::clone(gate), far);
        let running = self.runtime.spawn(task.run(asked, new_tickets, streams.clone()));
        let (number, me) = (running.id(), self.me.clone());
        tasks.push(running.abort_handle());
        self.runtime.spawn(async move {
            let cause = match running.await {
                Err(error) if error.is_cancelled() => return,
                Err(error) => error.to_string(),
                Ok(()) => "it had nobody to listen to".to_owned(),
            };
            if let Some(control) = me.upgrade() {
                control.fallen(number, cause).await;
            }
        });
        tracing::debug!("the libp2p control plane is up");
        Ok(Plane { accepted, tickets, asks, tasks: tasks.into(), falls, started: Instant::now() })
    }
}

/// How long a swarm that ended by itself so many times in a row rests.
fn fallen_rest(falls: u32) -> Duration {
    FALLEN_REST_MIN.saturating_mul(1u32.checked_shl(falls.saturating_sub(1)).unwrap_or(u32::MAX)).min(FALLEN_REST_MAX)
}

async fn answered_in(
    patience: Duration,
    address: SocketAddr,
    answered: oneshot::Receiver<Result<DataStream, Error>>,
) -> Result<DataStream, Error> {
    match timeout(patience, answered).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(Error::Closed),
        Err(_) => Err(Error::TimedOut { address }),
    }
}

/// Resolves the nodes to begin with again and again, soon while none is connected.
async fn look_for_bootstraps(targets: Vec<Target>, asks: mpsc::Sender<Ask>) {
    while !targets.is_empty() {
        let mut nodes = Vec::new();
        for target in &targets {
            let Some(peer) = target.peer else { continue };
            match resolve(target).await {
                Ok(addresses) => nodes.extend(addresses.into_iter().map(|address| (peer, address))),
                Err(error) => tracing::info!(%error, "a node to begin with has no address"),
            }
        }
        let (answer, answered) = oneshot::channel();
        if asks.send(Ask::Bootstrap(nodes, answer)).await.is_err() {
            return;
        }
        let connected = answered.await.unwrap_or(false);
        tokio::time::sleep(if connected { BOOTSTRAP_LATER } else { BOOTSTRAP_SOON }).await;
    }
}

/// Multiaddress of a peer at an address: `/…/p2p/ID`.
pub(crate) fn with_peer(address: SocketAddr, peer: PeerId) -> Multiaddr {
    address::multiaddr(address).with(libp2p::multiaddr::Protocol::P2p(peer))
}

#[cfg(test)]
impl Control {
    /// Makes the swarm's task panic, as a fault in a library would.
    pub(crate) async fn fall(&self) -> Result<(), Error> {
        self.ask(Ask::Fall).await
    }

    /// How this node stands on the Internet, as it changes.
    pub(crate) fn reports(&self) -> watch::Receiver<FarReport> {
        self.report.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_double_up_to_a_bound() {
        assert_eq!([1, 2, 3].map(fallen_rest), [1, 2, 4].map(|times| FALLEN_REST_MIN * times));
        assert_eq!([10, 33, u32::MAX].map(fallen_rest), [FALLEN_REST_MAX; 3]);
    }
}
