//! What the state of the machine keeps a daemon from doing: looked at again and again, judged by policy, carried out at
//! once, and shown to whoever asks. Whom the daemon meets follows from the same look: from mode and network.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::drivers::machine::facts;
use crate::drivers::transport::limits::RELAY_DATA_BYTES_MIN;
use crate::policy::{Facts, Mode, Policy, Verdict, is_stable, is_wireless, judge, of_line, off_duty};
use crate::programs::peer::ledger::Ledger;
use crate::services::node::{Company, Far, Group, Machine, Node, Rates, Secrets};

/// How often the machine is looked at; sleep, plugs and networks change no faster than people.
const EVERY: Duration = Duration::from_secs(15);

/// What an operator wants, as far as it can change while the daemon runs.
#[derive(Debug, Clone)]
pub struct House {
    /// Every policy.
    pub policy: Policy,
    /// What members of the group must prove to each other, besides its id.
    pub secrets: Option<Secrets>,
}

/// What one look has found, and what follows from it.
pub struct Looked {
    facts: Facts,
    verdict: Verdict,
}

/// Looks at the machine whose files lie below `machine`; `cache` is on the volume that counts, `ledger` has the books.
pub fn look(policy: &Policy, machine: &Path, cache: &Path, ledger: Option<&Ledger>) -> Looked {
    let facts = facts::look(machine, cache);
    let (sent_far, carried) = ledger.map(Ledger::far_this_month).unzip();
    let facts = Facts { sent_far, carried, ..facts };
    Looked { verdict: judge(policy, &facts), facts }
}

impl Looked {
    /// Whom to meet.
    pub fn company(&self, house: &House) -> Company {
        let (policy, mode) = (&house.policy, house.policy.download_mode);
        let network = |network: &crate::policy::Network| format!("{network:?}");
        let group = self.verdict.group.as_ref().map(|id| Group::new(id, house.secrets.as_ref())).unwrap_or_default();
        let far = Far {
            // What is none was refused when it was read.
            bootstrap: policy.bootstrap.iter().filter_map(|node| node.parse().ok()).collect(),
            scope: group.scope(),
            relay: policy.relay,
            relay_data: policy.relay && self.verdict.carry_allowance >= RELAY_DATA_BYTES_MIN,
        };
        Company {
            peers: mode.uses_peers() && self.verdict.trusted,
            discover: mode.discovers(),
            near: policy.restrict_peers_by.within(mode),
            group,
            far: Some(far).filter(|_| mode == Mode::Internet && self.verdict.trusted && self.verdict.peers),
            network: policy.trusted_networks.is_some().then(|| self.facts.networks.iter().map(network).collect()),
            rendezvous: self.verdict.rendezvous.clone(),
            cache_hosts: self.verdict.finds_cache_hosts,
            awaits_cache_hosts: self.verdict.awaits_cache_hosts,
        }
    }

    /// Rates that hold at this hour, on a line that carries `line_rate` bytes a second; 0: nobody knows yet.
    pub fn rates(&self, policy: &Policy, line_rate: u64) -> Rates {
        let (upload, foreground, background) = self.verdict.rates;
        Rates {
            upload,
            foreground,
            background,
            foreground_outside: of_line(policy.max_foreground_percent, line_rate),
            background_outside: of_line(policy.max_background_percent, line_rate),
            line: policy.line_budget,
        }
    }

    /// Cache hosts to ask, in this order.
    pub fn cache_hosts(&self) -> &[String] {
        &self.verdict.cache_hosts
    }

    /// Why peers are not met on this network, if so.
    pub fn distrust(&self) -> Option<&str> {
        let gate = self.verdict.gates.iter().find(|gate| matches!(gate.name, "untrusted_network" | "group_unknown"))?;
        Some(&gate.reason)
    }
}

/// The gates of one daemon; a handle.
#[derive(Clone)]
pub struct Gates {
    node: Node,
    machine: Arc<PathBuf>,
    cache: Arc<PathBuf>,
    ledger: Arc<Ledger>,
    house: watch::Sender<Arc<House>>,
    verdict: watch::Sender<Verdict>,
    /// Counts how often other peers were met, or others' contents: downloads under way begin anew.
    others: watch::Sender<u64>,
    /// Held while one look is carried out.
    turn: Arc<tokio::sync::Mutex<Option<Met>>>,
}

/// Whether peers were met, and those of which group.
type Met = (bool, Group);

impl Gates {
    /// Judges a machine, whose files lie below `machine`, for the first time; `cache` is on the volume that counts.
    pub(crate) async fn new(node: Node, machine: PathBuf, cache: PathBuf, ledger: Arc<Ledger>, house: House) -> Self {
        let open = judge(&house.policy, &Facts::default());
        let gates = Self {
            node,
            machine: Arc::new(machine),
            cache: Arc::new(cache),
            ledger,
            house: watch::channel(Arc::new(house)).0,
            verdict: watch::channel(open).0,
            others: watch::channel(0).0,
            turn: Arc::default(),
        };
        gates.look().await;
        gates
    }

    /// Goes by these policies from now on; they are carried out when this completes.
    pub async fn house(&self, house: House) {
        self.house.send_replace(Arc::new(house));
        self.look().await;
    }

    /// Which sources may be used.
    pub fn mode(&self) -> Mode {
        self.house.borrow().policy.download_mode
    }

    /// Whether policy names nodes to begin with on the Internet.
    pub(crate) fn has_bootstrap(&self) -> bool {
        !self.house.borrow().policy.bootstrap.is_empty()
    }

    /// Root of the files that tell of the machine.
    pub(crate) fn machine(&self) -> &Path {
        &self.machine
    }

    /// Bytes that policy keeps free.
    pub(crate) fn least_free(&self) -> u64 {
        self.house.borrow().policy.min_free_disk
    }

    /// What holds now.
    pub fn verdict(&self) -> Verdict {
        self.verdict.borrow().clone()
    }

    /// Told when something else holds.
    pub(crate) fn changes(&self) -> watch::Receiver<Verdict> {
        self.verdict.subscribe()
    }

    /// Told when others are met than before.
    pub(crate) fn others(&self) -> watch::Receiver<u64> {
        self.others.subscribe()
    }

    /// Looks again and again as long as the daemon lives.
    pub(crate) async fn keep(self) {
        loop {
            tokio::time::sleep(EVERY).await;
            self.look().await;
        }
    }

    async fn look(&self) {
        let mut met = self.turn.lock().await;
        let house = Arc::clone(&self.house.borrow());
        let (machine, cache, policies) = (Arc::clone(&self.machine), Arc::clone(&self.cache), Arc::clone(&house));
        let (node, ledger) = (self.node.clone(), Arc::clone(&self.ledger));
        let looked = move || (look(&policies.policy, &machine, &cache, Some(&ledger)), node.line_rate());
        // A disk thread that is gone is the daemon's end.
        let Ok((looked, line_rate)) = self.node.disk().run(looked).await else { return };
        let verdict = &looked.verdict;
        let before = self.verdict.borrow().clone();
        for gate in verdict.gates.iter().filter(|gate| !before.gates.iter().any(|held| held.name == gate.name)) {
            tracing::info!(gate = gate.name, reason = gate.reason, effect = gate.effect, "a gate is shut");
        }
        for gate in before.gates.iter().filter(|gate| !verdict.gates.iter().any(|held| held.name == gate.name)) {
            tracing::info!(gate = gate.name, "a gate is open again");
        }
        self.node.limit(&looked.rates(&house.policy, line_rate));
        self.node.allow_uploads(verdict.serves).await;
        self.node.allow_far(verdict.far_allowance).await;
        self.node.allow_carrying(verdict.carry_allowance);
        let (duties, stable, shared_air) = (verdict.duties, verdict.stable, verdict.wireless);
        self.node.bears(Machine { duties, stable, shared_air }).await;
        let company = looked.company(&house);
        let meets = (company.peers, company.group.clone());
        self.node.meet(company).await;
        self.verdict.send_if_modified(|held| std::mem::replace(held, verdict.clone()) != *verdict);
        if met.replace(meets.clone()).is_some_and(|before| before != meets) {
            self.others.send_modify(|count| *count = count.wrapping_add(1));
        }
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
        let (duties, stable) = (off_duty(&facts).is_none(), is_stable(&facts));
        node.bears(Machine { duties, stable, shared_air: is_wireless(&facts) }).await;
    }
}
