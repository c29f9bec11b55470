//! UDP checks, as Consul makes them: an empty datagram is sent, and who is there need not
//! answer. Only the system's word that nobody takes it (ICMP unreachable) fails.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use atoll_model::Address;
use atoll_net::client;
use tokio::net::UdpSocket;

use crate::Outcome;

pub(super) async fn ask(address: &Address, timeout: Duration) -> (Outcome, String) {
    let mut sent = false;
    let asked = tokio::time::timeout(timeout, async {
        let found = client::look_up(address).await;
        let to = found.map_err(|error| error.to_string())?[0];
        let refused = |error| format!("no datagrams to {address}: {error}");
        let socket = send(to).await.map_err(refused)?;
        sent = true;
        socket.recv(&mut [0]).await.map_err(refused)
    });
    match asked.await {
        Ok(Ok(_)) => (Outcome::Pass, format!("{address} answered")),
        Ok(Err(output)) => (Outcome::Fail, output),
        // Silence is what Consul takes for consent, since few protocols answer an empty
        // datagram.
        Err(_) if sent => (Outcome::Pass, format!("{address} did not refuse")),
        Err(_) => (Outcome::Fail, super::late(address, timeout)),
    }
}

async fn send(to: SocketAddr) -> io::Result<UdpSocket> {
    let from: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(from).await?;
    // Only a connected socket is told of a refusal.
    socket.connect(to).await?;
    socket.send(&[]).await?;
    Ok(socket)
}
