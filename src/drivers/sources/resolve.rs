//! Names become addresses here, once a connection, and none leaves unchecked.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::drivers::sources::gate::{Gate, plain_host};

/// Addresses a name may have at most; more are ignored.
const ADDRESSES_MAX: usize = 32;

/// What a look-up will have found; ports are ignored.
pub type LookupFuture = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Looks names up; the system does outside of tests.
pub trait Lookup: Send + Sync {
    /// Addresses of `host`, which is a name and not an address.
    fn lookup(&self, host: &str) -> LookupFuture;
}

/// The system's resolver, asked anew for each connection, so that a server that moves is found.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, host: &str) -> LookupFuture {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.take(ADDRESSES_MAX).collect()) })
    }
}

/// The resolver of one HTTP client, all of whose connections go to one port.
pub(crate) struct CheckedResolver {
    pub(crate) gate: Arc<Gate>,
    pub(crate) lookup: Arc<dyn Lookup>,
    pub(crate) port: u16,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (gate, port) = (Arc::clone(&self.gate), self.port);
        let found = self.lookup.lookup(name.as_str());
        Box::pin(async move {
            let host = plain_host(name.as_str()).ok_or("an empty name")?;
            let mut checked = Vec::new();
            let mut refusal = None;
            for address in found.await?.into_iter().take(ADDRESSES_MAX) {
                match gate.check_address(&host, port, address.ip()) {
                    Ok(()) => checked.push(SocketAddr::new(address.ip(), port)),
                    Err(refused) => refusal = Some(refused),
                }
            }
            match refusal {
                // Of several addresses the ordinary ones do: names of a LAN often carry a link-local one beside them.
                Some(refused) if checked.is_empty() => Err(refused.into()),
                _ if checked.is_empty() => Err(format!("{host} has no address").into()),
                _ => Ok(Box::new(checked.into_iter()) as Addrs),
            }
        })
    }
}
