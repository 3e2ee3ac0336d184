//! Cache hosts that a site announces by DNS-SD: service `_piecework-cache._tcp.local.`, plain HTTP at the root of a host
//! on one of this machine's links.
//!
//! Anybody on a link can announce one. So an announcement has no say in what is asked, since it names no path; only hosts on
//! a link count, which whoever announces them reaches by itself; and few are kept.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mdns_sd::{ResolvedService, ServiceDaemon, ServiceEvent};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::drivers::discovery::Lan;
use crate::drivers::discovery::lan::is_link_local;

/// DNS-SD service type of cache hosts.
pub const SERVICE: &str = "_piecework-cache._tcp.local.";
/// Those that are asked, of all that are heard.
pub const ASKED_MAX: usize = 4;
/// Those that are remembered; a site has a few, a flood of made-up ones has more.
const HEARD_MAX: usize = 64;
/// What stands where an announcement has no `priority`: the middle, as printers have it.
const PRIORITY_DEFAULT: u16 = 50;
/// So long after it began to look, a job that needs them waits for the first: responders answer a question for what several
/// may have within 120 ms (RFC 6762, 6).
pub const PATIENCE: Duration = Duration::from_millis(250);

/// The search, where it runs.
#[derive(Default)]
pub(super) struct Search(Mutex<Option<Running>>);

#[derive(Clone)]
struct Running {
    began: Instant,
    asked: watch::Receiver<Vec<String>>,
}

impl Search {
    /// Begins to look, or ends it.
    pub(super) fn seek(&self, wanted: bool, daemon: &ServiceDaemon, loopback_only: bool, lan: &Arc<Lan>) {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let done = match (wanted, running.is_some()) {
            (true, false) => daemon.browse(SERVICE).map(|events| {
                let (tell, asked) = watch::channel(Vec::new());
                tokio::spawn(listen(events, loopback_only, Arc::clone(lan), tell));
                *running = Some(Running { began: Instant::now(), asked });
            }),
            (false, true) => {
                *running = None;
                daemon.stop_browse(SERVICE)
            }
            _ => Ok(()),
        };
        if let Err(error) = done {
            tracing::debug!(%error, "multicast DNS takes no orders now");
        }
    }

    /// Those to ask now.
    pub(super) fn now(&self) -> Vec<String> {
        self.running().map(|running| running.asked.borrow().clone()).unwrap_or_default()
    }

    /// Those to ask, once there is one, or no answer has come for long enough.
    pub(super) async fn first(&self) -> Vec<String> {
        let Some(mut running) = self.running() else { return Vec::new() };
        let answered = async { running.asked.wait_for(|asked| !asked.is_empty()).await.map(|asked| asked.clone()) };
        match tokio::time::timeout_at(running.began + PATIENCE, answered).await {
            Ok(Ok(asked)) => asked,
            _ => Vec::new(),
        }
    }

    fn running(&self) -> Option<Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A cache host as it is announced; the order is that in which they are asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Announced {
    priority: u16,
    host: String,
}

async fn listen(
    events: mdns_sd::Receiver<ServiceEvent>,
    loopback_only: bool,
    lan: Arc<Lan>,
    tell: watch::Sender<Vec<String>>,
) {
    let mut heard: BTreeMap<String, Announced> = BTreeMap::new();
    while let Ok(event) = events.recv_async().await {
        match event {
            ServiceEvent::ServiceResolved(service) => {
                let name = service.get_fullname();
                match read(&service, |ip| ip.is_loopback() == loopback_only && lan.is_on_link(ip)) {
                    Some(host) if heard.len() < HEARD_MAX || heard.contains_key(name) => {
                        heard.insert(name.to_owned(), host);
                    }
                    Some(_) => {}
                    None => _ = heard.remove(name),
                }
            }
            ServiceEvent::ServiceRemoved(_, name) => _ = heard.remove(&name),
            ServiceEvent::SearchStopped(_) => return,
            _ => continue,
        }
        let asked = asked(&heard);
        tell.send_if_modified(|held| std::mem::replace(held, asked.clone()) != asked);
    }
}

/// The first few of all that are heard, each host once.
fn asked(heard: &BTreeMap<String, Announced>) -> Vec<String> {
    let mut all: Vec<&Announced> = heard.values().collect();
    all.sort();
    let mut hosts: Vec<String> = Vec::new();
    for announced in all {
        if hosts.len() < ASKED_MAX && !hosts.contains(&announced.host) {
            hosts.push(announced.host.clone());
        }
    }
    hosts
}

/// The host that an announcement names; `None` for one that speaks anything but plain HTTP, or is not near.
fn read(service: &ResolvedService, near: impl Fn(IpAddr) -> bool) -> Option<Announced> {
    let property = |key| service.get_property_val_str(key);
    let plain = property("scheme").is_none_or(|scheme| scheme == "http");
    let at_root = property("path").is_none_or(|path| matches!(path, "" | "/"));
    if !plain || !at_root || service.get_port() == 0 {
        return None;
    }
    let priority = property("priority").map_or(Some(PRIORITY_DEFAULT), |priority| priority.parse().ok())?;
    // Link-local addresses of IPv6 mean nothing in a URL. IPv4 comes before IPv6, since it sorts so.
    let usable = |ip: &IpAddr| near(*ip) && !matches!(ip, IpAddr::V6(ip) if is_link_local(*ip));
    let ip = service.get_addresses().iter().map(mdns_sd::ScopedIp::to_ip_addr).filter(usable).min()?;
    Some(Announced { priority, host: SocketAddr::new(ip, service.get_port()).to_string() })
}

#[cfg(test)]
mod tests {
    use mdns_sd::ServiceInfo;

    use super::*;

    /// What is heard of a service with these addresses and properties.
    fn heard(addresses: &str, port: u16, properties: &[(&str, &str)]) -> Option<(u16, String)> {
        let info = ServiceInfo::new(SERVICE, "cache", "box.local.", addresses, port, properties).expect("a service");
        let near = |ip: IpAddr| !ip.is_loopback() && ip != IpAddr::from([8, 8, 8, 8]);
        read(&info.as_resolved_service(), near).map(|announced| (announced.priority, announced.host))
    }

    #[test]
    fn an_announcement_names_a_host_on_a_link_and_no_path() {
        assert_eq!(heard("10.0.0.5", 80, &[]), Some((50, "10.0.0.5:80".into())));
        assert_eq!(heard("fd00::5,10.0.0.5", 81, &[("priority", "3")]), Some((3, "10.0.0.5:81".into())));
        assert_eq!(heard("fe80::5,fd00::5", 80, &[]), Some((50, "[fd00::5]:80".into())));
        assert_eq!(heard("10.0.0.5", 80, &[("scheme", "http"), ("path", "/")]), Some((50, "10.0.0.5:80".into())));
        for (addresses, port, properties) in [
            ("8.8.8.8", 80, &[][..]),
            ("127.0.0.1", 80, &[]),
            ("fe80::5", 80, &[]),
            ("10.0.0.5", 0, &[]),
            ("10.0.0.5", 80, &[("scheme", "https")]),
            ("10.0.0.5", 80, &[("path", "/admin/delete?")]),
            ("10.0.0.5", 80, &[("priority", "first")]),
        ] {
            assert_eq!(heard(addresses, port, properties), None, "{addresses} {port} {properties:?}");
        }
    }

    #[test]
    fn few_are_asked_in_order_of_priority_and_each_once() {
        let announced = |priority, host: &str| Announced { priority, host: host.into() };
        let hosts =
            [("z", 1, "a:1"), ("y", 9, "a:1"), ("x", 0, "b:1"), ("w", 50, "c:1"), ("v", 50, "d:1"), ("u", 60, "e:1")];
        let heard = hosts.map(|(name, priority, host)| (name.to_owned(), announced(priority, host))).into();
        assert_eq!(asked(&heard), ["b:1", "a:1", "c:1", "d:1"]);
    }
}
