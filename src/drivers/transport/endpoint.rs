//! The node's end of the transport: one object that listens, dials and shuts down.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use libp2p::{Multiaddr, PeerId};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinHandle};

use crate::drivers::transport::address;
use crate::drivers::transport::channel::{PathPreference, Sessions};
use crate::drivers::transport::control::{Control, DataStream, Parts, with_peer};
use crate::drivers::transport::dial;
use crate::drivers::transport::error::Error;
use crate::drivers::transport::far::{Callback, Far, FarReport, Provider};
use crate::drivers::transport::gate::Gate;
use crate::drivers::transport::identity::Identity;
use crate::drivers::transport::limits::{CONTROL_QUEUE_MAX, DESCRIPTORS_RESERVED, DIALS_MAX, Limits};
use crate::drivers::transport::listener;
use crate::drivers::transport::meter::Meter;
use crate::drivers::transport::target::Target;
use crate::drivers::transport::threads::DataThreads;
use crate::drivers::transport::tls_config::TlsConfigs;

/// What an endpoint is made with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node's key.
    pub identity: Identity,
    /// Where to listen; nowhere, if empty. Port 0: any free one.
    pub listen: Vec<SocketAddr>,
    /// Take a free port where the wanted one is taken.
    pub any_port_if_taken: bool,
    /// Threads that connections live on; at least one is started.
    pub data_threads: usize,
    /// Which way to dial.
    pub path_preference: PathPreference,
    /// Bounds.
    pub limits: Limits,
    /// Where it is told who has come through a relay and wants to be dialled; nowhere, if `None`.
    pub callbacks: Option<mpsc::Sender<Callback>>,
}

impl Options {
    /// An endpoint that listens nowhere, with one data thread.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            listen: Vec::new(),
            any_port_if_taken: false,
            data_threads: 1,
            path_preference: PathPreference::Auto,
            limits: Limits::default(),
            callbacks: None,
        }
    }
}

/// Listens, dials, and gives each connection to [`Sessions`]. Cheap to clone; all clones are one endpoint.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
    /// Aborts the listening tasks when the last clone goes.
    tasks: Arc<Tasks>,
    /// Those that accept; none while nobody is accepted.
    accepting: Arc<Accepting>,
    listening: Arc<[SocketAddr]>,
}

/// What listening and dialling share.
pub(crate) struct Inner {
    pub(crate) identity: Identity,
    pub(crate) tls: TlsConfigs,
    pub(crate) gate: Arc<Gate>,
    pub(crate) threads: DataThreads,
    pub(crate) sessions: Arc<dyn Sessions>,
    pub(crate) control: Arc<Control>,
    pub(crate) path_preference: PathPreference,
    dials: Semaphore,
}

#[derive(Default)]
struct Tasks(Mutex<Vec<AbortHandle>>);

impl Tasks {
    fn abort(&self) {
        for task in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.abort();
    }
}

#[derive(Default)]
struct Accepting(Mutex<Vec<JoinHandle<()>>>);

impl Accepting {
    fn begin(&self, inner: &Arc<Inner>, listeners: Vec<tokio::net::TcpListener>) {
        let tasks = listeners.into_iter().map(|listener| tokio::spawn(listener::accept(inner.clone(), listener)));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(tasks);
    }

    fn abort(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(JoinHandle::abort);
    }

    fn end(&self) -> Vec<JoinHandle<()>> {
        self.abort();
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_none(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.abort();
    }
}

impl Endpoint {
    /// Binds, starts the data threads and begins to accept. Must be called within a tokio runtime, whose threads accept
    /// and dial; it may be a current-thread one. The limit of open descriptors is raised as far as the system allows.
    ///
    /// # Errors
    /// [`Error::PortTaken`], [`Error::Listen`], [`Error::Resource`], [`Error::Certificate`].
    pub fn start(options: Options, sessions: Arc<dyn Sessions>) -> Result<Self, Error> {
        let Options { identity, listen, any_port_if_taken, data_threads, path_preference, mut limits, callbacks } =
            options;
        limits.connections_max = limits.connections_max.min(connections_allowed());
        let listeners = listener::bind(&listen, any_port_if_taken)?;
        let own = |listener: &tokio::net::TcpListener| listener.local_addr();
        let listening = listeners.iter().map(own).collect::<Result<Arc<[_]>, _>>();
        let listening = listening.map_err(|cause| Error::Resource { resource: "a listener's own address", cause })?;
        let (streams, inbound) = mpsc::channel(CONTROL_QUEUE_MAX);
        let connections_max = limits.connections_max;
        let gate = Gate::new(limits);
        let parts = Parts {
            identity: identity.clone(),
            listening: listening.to_vec(),
            connections_max,
            gate: Arc::clone(&gate),
            meter: Arc::default(),
            streams,
            callbacks,
        };
        let inner = Arc::new(Inner {
            tls: TlsConfigs::new(&identity)?,
            control: Control::new(parts),
            gate,
            threads: DataThreads::new(data_threads)?,
            identity,
            sessions,
            path_preference,
            dials: Semaphore::new(DIALS_MAX),
        });
        let tasks = vec![tokio::spawn(take_streams(inner.clone(), inbound)).abort_handle()];
        let accepting = Arc::new(Accepting::default());
        accepting.begin(&inner, listeners);
        Ok(Self { inner, tasks: Arc::new(Tasks(Mutex::new(tasks))), accepting, listening })
    }

    /// Accepts nobody any more, until [`Endpoint::accept`]: its ports are closed when this returns. Connections that stand are
    /// their sessions' to end.
    pub async fn refuse(&self) {
        for task in self.accepting.end() {
            // Aborted on purpose.
            let _ = task.await;
        }
    }

    /// Accepts again, at the addresses of before; nothing where it does already.
    ///
    /// # Errors
    /// [`Error::PortTaken`], [`Error::Listen`]: another process has the port meanwhile.
    pub fn accept(&self) -> Result<(), Error> {
        if self.accepting.is_none() && !self.listening.is_empty() {
            self.accepting.begin(&self.inner, listener::bind(&self.listening, false)?);
        }
        Ok(())
    }

    /// Our peer id.
    pub fn peer_id(&self) -> PeerId {
        self.inner.identity.peer_id()
    }

    /// The addresses bound, with their real ports; wildcards as they are.
    pub fn bound(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// Socket addresses at which this node can be dialled: wildcards stand for the addresses that our interfaces have at
    /// this moment; loopback comes last. None while nobody is accepted.
    pub fn reachable(&self) -> Vec<SocketAddr> {
        if self.accepting.is_none() {
            return Vec::new();
        }
        address::reachable(&self.listening, &address::interfaces())
    }

    /// Full multiaddresses under which this node can be dialled: `/ip4/…/tcp/…/p2p/ID`, in the order of
    /// [`Endpoint::reachable`].
    pub fn listening(&self) -> Vec<Multiaddr> {
        self.reachable().into_iter().map(|address| with_peer(address, self.peer_id())).collect()
    }

    /// Connects to a peer and gives the channel to the sessions; returns who it is as soon as that is proven. No
    /// attempt is made to reuse a connection that stands.
    ///
    /// # Errors
    /// Any of [`Error`] but those of starting; of several addresses the most telling one.
    pub async fn dial(&self, target: Target) -> Result<PeerId, Error> {
        let _one = self.inner.dials.acquire().await.map_err(|_| Error::Closed)?;
        dial::dial(&self.inner, &target).await
    }

    /// Meets peers on the Internet from now on, otherwise than before, or with `None` not any more.
    ///
    /// # Errors
    /// [`Error::Certificate`]; [`Error::Closed`] where it is shutting down.
    pub fn meet_far(&self, far: Option<Far>) -> Result<(), Error> {
        self.inner.control.meet_far(far)
    }

    #[cfg(test)]
    pub(crate) fn control(&self) -> &Control {
        &self.inner.control
    }

    /// What this node carries between others, as a relay that lets content through.
    pub fn meter(&self) -> &Meter {
        self.inner.control.meter()
    }

    /// How this node stands on the Internet; `None` where peers there are not met.
    pub fn far_report(&self) -> Option<FarReport> {
        self.inner.control.report()
    }

    /// Asks the DHT who provides a key. What comes is what strangers say.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn find(&self, key: [u8; 32]) -> Result<mpsc::Receiver<Provider>, Error> {
        self.inner.control.find(key).await
    }

    /// Tells the DHT that these keys are provided here, and no others any more; the first
    /// [`crate::drivers::transport::limits::DHT_KEYS_OWN_MAX`] of them.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn provide(&self, keys: BTreeSet<[u8; 32]>) -> Result<(), Error> {
        self.inner.control.provide(keys).await
    }

    /// Reaches a peer that cannot be dialled: the first words go through relays, what follows over a direct connection
    /// that both sides make then, or through a relay that lets content through. Gives the channel to the sessions, as [`Endpoint::dial`], if it is still `wanted`: the peer may
    /// have called back meanwhile.
    ///
    /// # Errors
    /// No relay answers, or no direct connection comes about.
    pub async fn punch(
        &self,
        peer: PeerId,
        relayed: Vec<Multiaddr>,
        wanted: impl FnOnce() -> bool,
    ) -> Result<(), Error> {
        let _one = self.inner.dials.acquire().await.map_err(|_| Error::Closed)?;
        let stream = self.inner.control.punch(peer, relayed).await?;
        if wanted() { dial::run_stream(&self.inner, stream, false) } else { Ok(()) }
    }

    /// Accepts and dials no more, gives the sessions a moment to end by themselves, then drops them. Sessions should be
    /// told to end before. Further dials fail with [`Error::Closed`].
    pub async fn shutdown(&self) {
        self.inner.dials.close();
        self.tasks.abort();
        self.accepting.abort();
        let closing = self.inner.clone();
        // Joining threads blocks.
        let _ = tokio::task::spawn_blocking(move || closing.threads.close()).await;
        self.inner.control.close();
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Endpoint({} on {:?})", self.peer_id(), self.listening)
    }
}

/// Gives inbound libp2p streams to the data threads.
async fn take_streams(inner: Arc<Inner>, mut inbound: mpsc::Receiver<DataStream>) {
    while let Some(stream) = inbound.recv().await {
        let remote = stream.remote;
        if let Err(error) = dial::run_stream(&inner, stream, true) {
            tracing::debug!(%remote, %error, "a libp2p stream was refused");
        }
    }
}

/// Raises the soft limit of descriptors to the hard one, and says how many connections fit below it.
fn connections_allowed() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    // A third stays for files, databases and HTTP. No limit at all is as good as a large one.
    let allowed = current.unwrap_or(u64::MAX).saturating_sub(DESCRIPTORS_RESERVED) / 3 * 2;
    usize::try_from(allowed).unwrap_or(usize::MAX).max(8)
}
