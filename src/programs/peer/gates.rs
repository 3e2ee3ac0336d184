//! What the state of the machine keeps a daemon from doing: looked at again and again, judged by policy, carried out at
//! once, and shown to whoever asks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::drivers::machine::facts;
use crate::policy::{Facts, Policy, Verdict, judge, off_duty};
use crate::services::node::{Node, Rates};

/// How often the machine is looked at; sleep, plugs and networks change no faster than people.
const EVERY: Duration = Duration::from_secs(15);

/// The gates of one daemon; a handle.
#[derive(Clone)]
pub struct Gates {
    node: Node,
    machine: Arc<PathBuf>,
    cache: Arc<PathBuf>,
    policy: watch::Sender<Arc<Policy>>,
    verdict: watch::Sender<Verdict>,
}

impl Gates {
    /// Judges a machine, whose files lie below `machine`, for the first time; `cache` is on the volume that counts.
    pub(crate) async fn new(node: Node, machine: PathBuf, cache: PathBuf, policy: Policy) -> Self {
        let open = judge(&policy, &Facts::default());
        let gates = Self {
            node,
            machine: Arc::new(machine),
            cache: Arc::new(cache),
            policy: watch::channel(Arc::new(policy)).0,
            verdict: watch::channel(open).0,
        };
        gates.look().await;
        gates
    }

    /// Goes by these policies from now on.
    pub fn policy(&self, policy: Policy) {
        self.policy.send_replace(Arc::new(policy));
    }

    /// Root of the files that tell of the machine.
    pub(crate) fn machine(&self) -> &std::path::Path {
        &self.machine
    }

    /// Bytes that policy keeps free.
    pub(crate) fn least_free(&self) -> u64 {
        self.policy.borrow().min_free_disk
    }

    /// What holds now.
    pub fn verdict(&self) -> Verdict {
        self.verdict.borrow().clone()
    }

    /// Told when something else holds.
    pub(crate) fn changes(&self) -> watch::Receiver<Verdict> {
        self.verdict.subscribe()
    }

    /// Looks again and again as long as the daemon lives.
    pub(crate) async fn keep(self) {
        let mut policies = self.policy.subscribe();
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                changed = policies.changed() => if changed.is_err() { return },
            }
            self.look().await;
        }
    }

    async fn look(&self) {
        let (machine, cache) = (Arc::clone(&self.machine), Arc::clone(&self.cache));
        let facts = self.node.disk().run(move || facts::look(&machine, &cache)).await;
        // A disk thread that is gone is the daemon's end.
        let Ok(facts) = facts else { return };
        let policy = Arc::clone(&self.policy.borrow());
        let verdict = judge(&policy, &facts);
        let before = self.verdict.borrow().clone();
        for gate in verdict.gates.iter().filter(|gate| !before.gates.iter().any(|held| held.name == gate.name)) {
            tracing::info!(gate = gate.name, reason = gate.reason, effect = gate.effect, "a gate is shut");
        }
        for gate in before.gates.iter().filter(|gate| !verdict.gates.iter().any(|held| held.name == gate.name)) {
            tracing::info!(gate = gate.name, "a gate is open again");
        }
        let (upload, foreground, background) = verdict.rates;
        self.node.limit(&Rates { upload, foreground, background });
        self.node.allow_uploads(verdict.serves).await;
        self.node.allow_duties(verdict.duties).await;
        self.verdict.send_if_modified(|held| std::mem::replace(held, verdict.clone()) != verdict);
    }
}

/// For a job without a daemon, whose only gate this is: on battery or with the lid closed it fetches nothing for others, from
/// the start and as long as the node lives.
pub(crate) async fn watch_duties(node: &Node, machine: PathBuf) {
    let machine = Arc::new(machine);
    look_at_duties(node, &machine).await;
    let node = node.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(EVERY).await;
            look_at_duties(&node, &machine).await;
        }
    });
}

async fn look_at_duties(node: &Node, machine: &Arc<PathBuf>) {
    let root = Arc::clone(machine);
    if let Ok(facts) = node.disk().run(move || facts::look(&root, &root)).await {
        node.allow_duties(off_duty(&facts).is_none()).await;
    }
}
