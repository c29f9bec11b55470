//! Free ports for replicas, none of them given out twice at once.
//!
//! The port is found by binding to port 0 and letting go, so a stranger may take it
//! before the replica does; the replica then ends and the next start gets another.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

/// Tries before giving up for this start; each fails only if the system gives a
/// port that a replica of ours was given and has not opened yet.
const TRIES_MAX: usize = 64;

/// The ports that replicas have now.
#[derive(Clone, Default)]
pub(crate) struct Ports(Arc<Mutex<BTreeSet<u16>>>);

/// A port that is a replica's until this is dropped.
pub(crate) struct PortLease {
    port: u16,
    /// `None` for a fixed port, which is nobody's to give.
    ports: Option<Ports>,
}

impl Ports {
    /// A free port, or the fixed one.
    pub(crate) fn lease(&self, fixed: Option<u16>) -> io::Result<PortLease> {
        if let Some(port) = fixed {
            return Ok(PortLease { port, ports: None });
        }
        for _ in 0..TRIES_MAX {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let port = listener.local_addr()?.port();
            if self.taken().insert(port) {
                return Ok(PortLease {
                    port,
                    ports: Some(self.clone()),
                });
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "no free port found on 127.0.0.1",
        ))
    }

    /// How many replicas have one.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.taken().len()
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, BTreeSet<u16>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PortLease {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        if let Some(ports) = &self.ports {
            ports.taken().remove(&self.port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_while_it_is_held() {
        let ports = Ports::default();
        let leases: Vec<_> = (0..500).map(|_| ports.lease(None).unwrap()).collect();
        let distinct: BTreeSet<u16> = leases.iter().map(PortLease::port).collect();
        assert_eq!(distinct.len(), 500);
        drop(leases);
        assert!(ports.taken().is_empty());
    }
}
