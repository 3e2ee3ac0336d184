//! Background downloads yield: the receive windows of the connections that serve them are one window together, which the
//! engine's pacer steers by the queueing delay that the kernel sees. Where even the least window is too much, readers wait.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::drivers::transport::Tap;
use crate::services::node::limits::{YIELD_EVERY, YIELD_FRESH, YIELD_PATH_LASTS, YIELD_PATHS_MAX};
use crate::swarm::Uptime;
use crate::swarm::pace::{BaseDelay, Pacer, Sample, WINDOW_MAX, WINDOW_MIN};

/// The least window of a connection whose segments are not known yet: two of the long ones of some LANs.
const LEAST_UNMEASURED: u64 = 18_000;

/// Our end and theirs.
type Ends = (SocketAddr, SocketAddr);

/// All connections of a node that carry background bytes.
pub(crate) struct Yielding {
    started: Instant,
    state: Mutex<State>,
    /// Nothing is read for now.
    shut: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    pacer: Pacer,
    flows: BTreeMap<Ends, Flow>,
    bases: Bases,
    /// A task looks at them.
    steered: bool,
}

/// The base of each path, kept beyond its connections and their ranges: one that begins beside others' traffic would take
/// their queue for the path.
#[derive(Default)]
struct Bases(BTreeMap<(IpAddr, IpAddr), (BaseDelay, Uptime)>);

impl Bases {
    fn queueing(&mut self, ends: &Ends, now: Uptime, round_trip: Duration) -> Duration {
        let path = (ends.0.ip(), ends.1.ip());
        if !self.0.contains_key(&path) && self.0.len() >= YIELD_PATHS_MAX {
            let oldest = self.0.iter().min_by_key(|(_, (_, used))| *used).map(|(path, _)| *path);
            oldest.and_then(|path| self.0.remove(&path));
        }
        let (base, used) = self.0.entry(path).or_insert_with(|| (BaseDelay::default(), now));
        if now.since(*used) >= YIELD_PATH_LASTS {
            *base = BaseDelay::default();
        }
        *used = now;
        base.queueing(now, round_trip)
    }
}

struct Flow {
    tap: Tap,
    bytes: u64,
    /// The least window that keeps it going.
    least: u64,
    /// Downloads that it serves.
    users: usize,
}

/// Keeps a connection among the yielding ones.
pub(crate) struct Held {
    yielding: Arc<Yielding>,
    ends: Ends,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.yielding.state();
        let Some(flow) = state.flows.get_mut(&self.ends) else { return };
        flow.users = flow.users.saturating_sub(1);
        if flow.users == 0
            && let Some(flow) = state.flows.remove(&self.ends)
        {
            // Somebody may wait for what comes next.
            flow.tap.set_window(u64::from(u32::MAX));
            if *self.yielding.shut.borrow() {
                flow.tap.set_shut(false);
            }
        }
    }
}

impl Yielding {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), state: Mutex::default(), shut: watch::Sender::new(false) }
    }

    /// Completes once more of a background download may be read.
    pub(crate) async fn open(&self) {
        if *self.shut.borrow() {
            // The sender is this one's own.
            let _ = self.shut.subscribe().wait_for(|shut| !*shut).await;
        }
    }

    fn now(&self) -> Uptime {
        Uptime::from_micros(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a connection yield until what is returned is dropped; none where the system gives no hold of it, and within
    /// this machine, where there is no line to yield on.
    pub(crate) fn hold(self: &Arc<Self>, local: SocketAddr, remote: SocketAddr) -> Option<Held> {
        if remote.ip().to_canonical().is_loopback() {
            return None;
        }
        let ends = (local, remote);
        let mut state = self.state();
        match state.flows.get_mut(&ends) {
            Some(flow) => flow.users += 1,
            None => {
                let tap = Tap::find(local, remote)?;
                let incoming = tap.incoming();
                let bytes = incoming.map_or(0, |incoming| incoming.bytes);
                if *self.shut.borrow() {
                    tap.set_shut(true);
                }
                let least = incoming.map_or(LEAST_UNMEASURED, |incoming| 2 * incoming.segment);
                state.flows.insert(ends, Flow { tap, bytes, least, users: 1 });
                state.share_out();
            }
        }
        if !std::mem::replace(&mut state.steered, true) {
            tokio::spawn(steer(Arc::clone(self)));
        }
        Some(Held { yielding: Arc::clone(self), ends })
    }
}

/// Looks at the connections while there are any.
async fn steer(yielding: Arc<Yielding>) {
    loop {
        tokio::time::sleep(YIELD_EVERY).await;
        let mut state = yielding.state();
        let now = yielding.now();
        let shut = !state.flows.is_empty() && state.pacer.is_shut(now);
        if yielding.shut.send_if_modified(|was| std::mem::replace(was, shut) != shut) {
            state.flows.values().for_each(|flow| flow.tap.set_shut(shut));
        }
        if state.flows.is_empty() {
            state.steered = false;
            return;
        }
        state.look(now);
    }
}

impl State {
    fn look(&mut self, now: Uptime) {
        let mut worst: Option<Sample> = None;
        let mut delivered = 0u64;
        let least = self.pacer.least_segments();
        for (ends, flow) in &mut self.flows {
            let Some(incoming) = flow.tap.incoming() else { continue };
            delivered = delivered.saturating_add(incoming.bytes.saturating_sub(flow.bytes));
            flow.bytes = incoming.bytes;
            flow.least = least * incoming.segment;
            if incoming.silent > YIELD_FRESH {
                continue;
            }
            let queueing = self.bases.queueing(ends, now, incoming.round_trip);
            if worst.is_none_or(|worst| worst.queueing <= queueing) {
                worst = Some(Sample { queueing, round_trip: incoming.round_trip, delivered: 0 });
            }
        }
        if let Some(worst) = worst {
            self.pacer.look(now, Sample { delivered, ..worst });
            self.share_out();
        }
    }

    fn share_out(&self) {
        let flows = u64::try_from(self.flows.len()).unwrap_or(u64::MAX).max(1);
        let each = (self.pacer.window() / flows).clamp(WINDOW_MIN, WINDOW_MAX);
        self.flows.values().for_each(|flow| flow.tap.set_window(each.max(flow.least)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_begins_beside_others_knows_the_path_from_before() {
        let at = |second: u64| Uptime::from_micros(second * 1_000_000);
        let ends = |host: u8, port: u16| {
            ((IpAddr::from([10, 0, 0, 1]), port).into(), (IpAddr::from([10, 0, 0, host]), 80).into())
        };
        let milli = Duration::from_millis;
        let mut bases = Bases::default();
        assert_eq!(bases.queueing(&ends(2, 1), at(0), milli(1)), Duration::ZERO);
        assert_eq!(bases.queueing(&ends(2, 2), at(1), milli(5)), milli(4), "a new port, and others' queue");
        assert_eq!(bases.queueing(&ends(3, 3), at(1), milli(5)), Duration::ZERO, "another path");
        let later = YIELD_PATH_LASTS.as_secs() + 2;
        assert_eq!(bases.queueing(&ends(2, 4), at(later), milli(5)), Duration::ZERO, "long ago");
        (0..255).for_each(|host| _ = bases.queueing(&ends(host, 5), at(later + 1), milli(1)));
        assert!(bases.0.len() <= YIELD_PATHS_MAX);
    }
}
