//! Opening TCP listeners, alone or as a group that shares one port.
//!
//! A port that is taken is the commonest reason why Atoll does not start, so the
//! error names who holds it and how to go on. Listeners are standard, non-blocking
//! ones, since each worker registers its own with its own runtime.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Connections that the kernel holds for us before it refuses more; the kernel
/// lowers it to `net.core.somaxconn` (4096 by default since Linux 5.4).
const BACKLOG: i32 = 4096;

/// Tries to find a port that is free for a whole group when port 0 is asked for.
const FREE_PORT_ATTEMPTS: usize = 8;

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else listens there.
    #[error(
        "{address} is in use{}; stop it, set `{}` to another port, or use port 0 for any free one",
        holder.as_deref().map(|who| format!(" by {who}")).unwrap_or_default(),
        key.as_deref().map_or("listen:".to_owned(), |key| format!("listen.{key}"))
    )]
    Busy {
        /// What was asked for.
        address: SocketAddr,
        /// `name (pid 42)`, when /proc tells.
        holder: Option<String>,
        /// The key below `listen:` in the config file, when known.
        key: Option<String>,
    },
    /// Ports below 1024 need a privilege.
    #[error(
        "{address} may not be opened by this user: use a port from 1024, or give the program CAP_NET_BIND_SERVICE"
    )]
    Forbidden {
        /// What was asked for.
        address: SocketAddr,
    },
    /// The address is not one of this machine's.
    #[error(
        "{address} is not an address of this machine; use 127.0.0.1, [::1], or 0.0.0.0 for all"
    )]
    NotOurs {
        /// What was asked for.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("{address} could not be opened")]
    Other {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl ListenError {
    /// The same error, naming the key below `listen:` that asked for the address.
    #[must_use]
    pub fn for_key(mut self, name: &str) -> Self {
        if let Self::Busy { key, .. } = &mut self {
            *key = Some(name.to_owned());
        }
        self
    }

    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::Busy {
                address,
                holder: holder_of(address.port(), &TCP_TABLES, is_listening),
                key: None,
            },
            io::ErrorKind::PermissionDenied => Self::Forbidden { address },
            io::ErrorKind::AddrNotAvailable => Self::NotOurs { address },
            _ => Self::Other { address, source },
        }
    }
}

/// Opens one non-blocking listener. Port 0 takes any free port.
///
/// # Errors
/// See [`ListenError`].
pub fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    open(address, Sharing::Alone).map_err(|source| ListenError::new(address, source))
}

/// Opens `count` non-blocking listeners on the same port, between which the kernel
/// spreads connections (SO_REUSEPORT). Port 0 takes one free port for all.
///
/// # Errors
/// See [`ListenError`]. A port that another process shares in the same way is
/// busy, too: two Atolls would silently take half of the requests each.
pub fn bind_shared(address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, ListenError> {
    let mut attempt = 1;
    loop {
        match try_bind_shared(address, count) {
            // Somebody took the free port between the probe and the group.
            Err(error)
                if address.port() == 0
                    && error.kind() == io::ErrorKind::AddrInUse
                    && attempt < FREE_PORT_ATTEMPTS =>
            {
                attempt += 1;
            }
            result => return result.map_err(|source| ListenError::new(address, source)),
        }
    }
}

/// Opens a non-blocking listener for connections and a non-blocking socket for
/// datagrams on the same address, as DNS wants. Port 0 takes one that is free for both.
///
/// # Errors
/// See [`ListenError`].
pub fn bind_both(address: SocketAddr) -> Result<(TcpListener, UdpSocket), ListenError> {
    let mut attempt = 1;
    loop {
        let tcp = bind(address)?;
        let chosen = tcp.local_addr();
        let chosen = chosen.map_err(|source| ListenError::new(address, source))?;
        match open_datagram(chosen) {
            Ok(udp) => return Ok((tcp, udp)),
            // Free for connections does not mean free for datagrams.
            Err(error)
                if address.port() == 0
                    && error.kind() == io::ErrorKind::AddrInUse
                    && attempt < FREE_PORT_ATTEMPTS =>
            {
                attempt += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(ListenError::Busy {
                    address,
                    holder: holder_of(address.port(), &UDP_TABLES, |_| true),
                    key: None,
                });
            }
            Err(error) => return Err(ListenError::new(address, error)),
        }
    }
}

fn open_datagram(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

fn try_bind_shared(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    // The probe does not share, so it fails where anybody listens already.
    let probe = open(address, Sharing::Alone)?;
    let address = probe.local_addr()?;
    drop(probe);
    (0..count).map(|_| open(address, Sharing::Group)).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    Group,
}

fn open(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Not to wait for connections in TIME_WAIT after a restart; on Linux it does
    // not let two processes listen.
    socket.set_reuse_address(true)?;
    if sharing == Sharing::Group {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // `[::]` beside `0.0.0.0` must not be a conflict.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

const TCP_TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
const UDP_TABLES: [&str; 2] = ["/proc/net/udp", "/proc/net/udp6"];

/// The process that holds `port` in one of the tables, in a state that counts, as
/// `name (pid 42)`; `None` when /proc does not tell us (another system, or another
/// user's process).
fn holder_of(port: u16, tables: &[&str], counts: fn(&str) -> bool) -> Option<String> {
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .flat_map(|table| inodes(&table, port, counts))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let wanted: Vec<String> = inodes.iter().map(|i| format!("socket:[{i}]")).collect();
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if holds(&process.path(), &wanted) {
            let command = std::fs::read_to_string(process.path().join("comm")).ok()?;
            return Some(format!("{} (pid {pid})", command.trim()));
        }
    }
    None
}

fn holds(process: &Path, wanted: &[String]) -> bool {
    let Ok(descriptors) = std::fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .any(|target| {
            wanted
                .iter()
                .any(|socket| target.as_os_str() == socket.as_str())
        })
}

/// State LISTEN of a TCP socket.
fn is_listening(state: &str) -> bool {
    state == "0A"
}

/// Inodes of the sockets on `port` whose state counts, in a table as /proc/net/tcp has
/// it (proc_net_tcp(5): local address second, state fourth, inode tenth).
fn inodes(table: &str, port: u16, counts: fn(&str) -> bool) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let listens = counts(fields.get(3)?) && fields.get(1)?.ends_with(&suffix);
            listens.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_group_shares_one_free_port() {
        let group = bind_shared(local(0), 3).unwrap();
        let ports: Vec<u16> = group
            .iter()
            .map(|listener| listener.local_addr().unwrap().port())
            .collect();
        assert_ne!(ports[0], 0);
        assert_eq!(ports, [ports[0]; 3]);
    }

    #[test]
    fn a_busy_port_names_its_holder_and_the_way_out() {
        let first = bind(local(0)).unwrap();
        let address = first.local_addr().unwrap();
        let message = bind(address).unwrap_err().for_key("gateway").to_string();
        assert!(message.contains(&address.to_string()), "{message}");
        assert!(message.contains("listen.gateway"), "{message}");
        assert!(message.contains("port 0"), "{message}");
        if cfg!(target_os = "linux") {
            let pid = std::process::id().to_string();
            assert!(message.contains(&format!("(pid {pid})")), "{message}");
        }
    }

    #[test]
    fn a_port_that_others_share_is_busy_too() {
        let group = bind_shared(local(0), 2).unwrap();
        let address = group[0].local_addr().unwrap();
        assert!(matches!(
            bind_shared(address, 2),
            Err(ListenError::Busy { .. })
        ));
    }

    #[test]
    fn ipv6_and_ipv4_do_not_conflict_on_one_port() {
        let v4 = bind(SocketAddr::from(([0, 0, 0, 0], 0))).unwrap();
        let port = v4.local_addr().unwrap().port();
        let v6 = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
        match bind(v6) {
            Ok(_) => {}
            // A machine without IPv6 has nothing to conflict with.
            Err(ListenError::NotOurs { .. } | ListenError::Other { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn an_address_of_another_machine_is_said_to_be_that() {
        let error = bind(SocketAddr::from(([192, 0, 2, 1], 0))).unwrap_err();
        assert!(error.to_string().contains("not an address of this machine"));
    }

    #[test]
    fn only_listening_sockets_of_the_port_are_found() {
        let table = "  sl  local_address rem_address   st tx rx tr retr uid timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 0:0 00:0 0 0 0 111 1\n\
            1: 0100007F:1F90 0100007F:9999 01 0:0 00:0 0 0 0 222 1\n\
            2: 0100007F:0050 00000000:0000 0A 0:0 00:0 0 0 0 333 1\n";
        assert_eq!(inodes(table, 8080, is_listening), ["111"]);
    }

    #[test]
    fn connections_and_datagrams_share_one_free_port() {
        let (tcp, udp) = bind_both(local(0)).unwrap();
        assert_eq!(tcp.local_addr().unwrap(), udp.local_addr().unwrap());
        assert_ne!(udp.local_addr().unwrap().port(), 0);
    }

    #[test]
    fn a_port_that_is_busy_for_datagrams_names_its_holder() {
        let taken = UdpSocket::bind(local(0)).unwrap();
        let address = taken.local_addr().unwrap();
        let message = bind_both(address).unwrap_err().for_key("dns").to_string();
        assert!(message.contains("listen.dns"), "{message}");
        if cfg!(target_os = "linux") {
            let pid = std::process::id().to_string();
            assert!(message.contains(&format!("(pid {pid})")), "{message}");
        }
    }
}
