//! The sockets: datagrams are answered where they are read, connections one question
//! after the other, and only what other servers must be asked waits.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener, UdpSocket as StdUdp};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_model::Catalog;
use atoll_runtime::{Random, Restart, Stop, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::addresses::Addresses;
use crate::front::{Asking, Front, Step};
use crate::queries::Queries;
use crate::recursor::framed;
use crate::settings::Settings;
use crate::wire::{Transport, UDP_BYTES_MAX};

/// Tasks that read datagrams: one may be busy with a large service while the other
/// answers.
const UDP_READERS: usize = 2;
/// Questions that wait for recursors or prepared queries at the same time, and no longer
/// than they do.
const FORWARDED_MAX: usize = 256;
/// Connections at the same time.
const CONNECTIONS_MAX: usize = 512;
/// Of them, from one address: resolvers reuse theirs (RFC 7766 §6.2.2).
const CONNECTIONS_PER_CLIENT_MAX: u32 = 32;
/// How long a connection may be without a question (RFC 7766 §6.2.3: a few seconds).
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the rest of a question, or the taking of an answer, may last.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest question on TCP: a name, and options of EDNS.
const QUESTION_BYTES_MAX: usize = UDP_BYTES_MAX;
/// Pause after an error of the system, such as too many open files.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// Answers on both sockets, which should have the same address, until `tasks` stop.
/// Without `queries` there are no names below `query`.
///
/// # Errors
/// When a socket cannot be handed to the runtime.
pub fn start(
    tasks: &Tasks,
    tcp: StdListener,
    udp: StdUdp,
    settings: Settings,
    catalog: watch::Receiver<Arc<Catalog>>,
    queries: Option<Arc<dyn Queries>>,
) -> io::Result<()> {
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    let group = tasks.group("dns");
    let server = Arc::new(Server {
        front: Front {
            settings,
            catalog,
            addresses: Addresses::default(),
            clock: group.clock().clone(),
            queries,
        },
        tasks: group.clone(),
        forwarded: Arc::new(Semaphore::new(FORWARDED_MAX)),
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        clients: Mutex::default(),
    });
    let udp = Arc::new(UdpSocket::from_std(udp)?);
    for _ in 0..UDP_READERS {
        let (server, udp) = (Arc::clone(&server), Arc::clone(&udp));
        group.run("udp", Restart::WithBackoff, move |stop| {
            Arc::clone(&server).datagrams(Arc::clone(&udp), stop)
        });
    }
    let tcp = Arc::new(TcpListener::from_std(tcp)?);
    group.run("tcp", Restart::WithBackoff, move |stop| {
        Arc::clone(&server).accept(Arc::clone(&tcp), stop)
    });
    Ok(())
}

struct Server {
    front: Front,
    tasks: Tasks,
    forwarded: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    /// Connections of each client that has some.
    clients: Mutex<BTreeMap<IpAddr, u32>>,
}

impl Server {
    async fn datagrams(self: Arc<Self>, udp: Arc<UdpSocket>, stop: Stop) {
        let mut random = Random::from_entropy();
        // One byte more shows what is too long.
        let mut buffer = vec![0; UDP_BYTES_MAX + 1];
        loop {
            let (bytes, client) = match stop.unless(udp.recv_from(&mut buffer)).await {
                None => return,
                Some(Ok((bytes, client))) if bytes <= UDP_BYTES_MAX => (bytes, client),
                Some(Ok(_)) => continue,
                Some(Err(error)) => {
                    tracing::debug!(%error, "datagram could not be read");
                    tokio::time::sleep(ERROR_PAUSE).await;
                    continue;
                }
            };
            let packet = &buffer[..bytes];
            match self.front.handle(packet, Transport::Udp, &mut random) {
                Step::Silent => {}
                Step::Send(answer) => send(&udp, &answer, client).await,
                Step::Ask(asking) => {
                    let (server, udp) = (Arc::clone(&self), Arc::clone(&udp));
                    let (packet, random) = (packet.to_vec(), random.fork());
                    self.ask_for_datagram(server, udp, packet, asking, client, random)
                        .await;
                }
            }
        }
    }

    /// Answers later, unless too many wait already.
    async fn ask_for_datagram(
        &self,
        server: Arc<Self>,
        udp: Arc<UdpSocket>,
        packet: Vec<u8>,
        asking: Box<Asking>,
        client: SocketAddr,
        mut random: Random,
    ) {
        let Ok(permit) = Arc::clone(&self.forwarded).try_acquire_owned() else {
            let recursion = self.front.recursion();
            let at_once = asking.at_once(Transport::Udp, recursion);
            return send(&udp, &at_once, client).await;
        };
        let stop = self.tasks.stop_signal();
        drop(self.tasks.once("forward", async move {
            let _permit = permit;
            let (front, from) = (&server.front, client.ip());
            let answer = front.later(&packet, &asking, Transport::Udp, from, &mut random);
            if let Some(answer) = stop.unless(answer).await {
                send(&udp, &answer, client).await;
            }
        }));
    }

    async fn accept(self: Arc<Self>, tcp: Arc<TcpListener>, stop: Stop) {
        loop {
            let (stream, client) = match stop.unless(tcp.accept()).await {
                None => return,
                Some(Ok(accepted)) => accepted,
                Some(Err(error)) => {
                    tracing::debug!(%error, "connection could not be taken");
                    tokio::time::sleep(ERROR_PAUSE).await;
                    continue;
                }
            };
            // Beyond a limit it is closed: the client may come again.
            let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
                continue;
            };
            let Some(place) = Place::take(&self, client.ip()) else {
                continue;
            };
            let (server, stop) = (Arc::clone(&self), stop.clone());
            drop(self.tasks.once("connection", async move {
                let _held = (permit, place);
                // A client that goes away, or takes too long, is nobody's error.
                if let Some(Err(error)) = stop.unless(server.converse(stream, client.ip())).await {
                    tracing::trace!(%client, %error, "connection ended");
                }
            }));
        }
    }

    /// Answers until the client has no more questions.
    async fn converse(&self, mut stream: TcpStream, client: IpAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut random = Random::from_entropy();
        loop {
            let length = timeout(IDLE_TIMEOUT, stream.read_u16()).await??;
            let length = usize::from(length);
            if length > QUESTION_BYTES_MAX {
                return Ok(());
            }
            let mut packet = vec![0; length];
            timeout(PROGRESS_TIMEOUT, stream.read_exact(&mut packet)).await??;
            let answer = match self.front.handle(&packet, Transport::Tcp, &mut random) {
                Step::Silent => return Ok(()),
                Step::Send(answer) => answer,
                Step::Ask(asking) => self.ask(&packet, &asking, client, &mut random).await,
            };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let answer = framed(length, &answer);
            timeout(PROGRESS_TIMEOUT, stream.write_all(&answer)).await??;
        }
    }

    async fn ask(
        &self,
        packet: &[u8],
        asking: &Asking,
        client: IpAddr,
        random: &mut Random,
    ) -> Vec<u8> {
        match self.forwarded.try_acquire() {
            Ok(_permit) => {
                let front = &self.front;
                front
                    .later(packet, asking, Transport::Tcp, client, random)
                    .await
            }
            Err(_) => asking.at_once(Transport::Tcp, self.front.recursion()),
        }
    }
}

async fn send(udp: &UdpSocket, answer: &[u8], client: SocketAddr) {
    // Who forged its address, or is gone, is not waited for.
    if let Err(error) = udp.send_to(answer, client).await {
        tracing::trace!(%client, %error, "answer could not be sent");
    }
}

/// A client's place among its connections; given back when dropped.
struct Place {
    server: Arc<Server>,
    client: IpAddr,
}

impl Place {
    /// `None` when the client has as many as it may.
    fn take(server: &Arc<Server>, client: IpAddr) -> Option<Self> {
        // Nothing done under the lock can leave it half-changed.
        let mut clients = server
            .clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = clients.entry(client).or_default();
        if *count >= CONNECTIONS_PER_CLIENT_MAX {
            return None;
        }
        *count += 1;
        Some(Self {
            server: Arc::clone(server),
            client,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let clients = self.server.clients.lock();
        let mut clients = clients.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}
