//! Serving HTTP/1.1 on one listener, with limits and a graceful end.
//!
//! One task accepts; each connection is a task of its own beside it, so that a
//! panic in a handler costs one connection. At the stop signal nothing more is
//! accepted, idle connections close, requests in flight are finished, and what is
//! left after [`Limits::drain`] is cut.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use atoll_runtime::{Restart, Stop, Tasks};
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tower::{Service, ServiceExt};
use tracing::{debug, warn};

/// Pause after `accept` failed for want of descriptors: without one the loop
/// would spin until somebody closes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Longest body that hyper is sure to read off when a handler found it too large. After a
/// longer one it closes the connection, and must say so: Node's client, for one, sends
/// its next request into it otherwise, and gets a reset for an answer.
const REST_BYTES_MAX: u64 = 4 * 1024;

/// What a server allows its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections; further ones wait in the kernel's backlog. Default 1,024.
    pub connections_max: usize,
    /// First to last byte of a request head, and how long a kept-alive connection
    /// may be idle. Default 30 s.
    pub head_timeout: Duration,
    /// Request line and headers together; more is 431. At least 8 KiB, which is
    /// hyper's least. Default 64 KiB.
    pub head_bytes_max: usize,
    /// Header lines; more is 431. Default 100.
    pub header_count_max: usize,
    /// From the stop signal to the end of the last connection. Default 10 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            head_timeout: Duration::from_secs(30),
            head_bytes_max: 64 * 1024,
            header_count_max: 100,
            drain: Duration::from_secs(10),
        }
    }
}

/// Who sent a request; in the extensions of each, beside the [`Stop`] that tells a
/// handler with an endless answer to end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Serves `service` (an axum `Router`, or any tower service) on `listener` until
/// `tasks` stop. Gives the address that it listens on. Each request has its
/// [`Peer`] and the server's [`Stop`] among its extensions.
///
/// # Errors
/// When the listener cannot be handed to the runtime.
pub fn serve<S, B>(
    tasks: &Tasks,
    name: &str,
    listener: TcpListener,
    limits: Limits,
    service: S,
) -> io::Result<SocketAddr>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let listener = Arc::new(tokio::net::TcpListener::from_std(listener)?);
    let group = tasks.group(name);
    let connections = group.clone();
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let limits = Arc::new(limits);
    group.run("accept", Restart::WithBackoff, move |stop| {
        let (listener, permits) = (Arc::clone(&listener), Arc::clone(&permits));
        let (limits, service) = (Arc::clone(&limits), service.clone());
        let connections = connections.clone();
        async move {
            while let Some((stream, peer, permit)) = stop.unless(accept(&listener, &permits)).await
            {
                let service = service.clone();
                let (limits, stop) = (Arc::clone(&limits), stop.clone());
                drop(connections.once("connection", async move {
                    let _permit = permit;
                    connection(stream, peer, &limits, stop, service).await;
                }));
            }
        }
    });
    Ok(address)
}

async fn accept(
    listener: &tokio::net::TcpListener,
    permits: &Arc<Semaphore>,
) -> (
    TcpStream,
    SocketAddr,
    Option<tokio::sync::OwnedSemaphorePermit>,
) {
    // The semaphore is never closed, so there is always a permit in the end.
    let permit = Arc::clone(permits).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, permit),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                warn!(%error, "connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<S, B>(
    stream: TcpStream,
    peer: SocketAddr,
    limits: &Limits,
    stop: Stop,
    service: S,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "connection is gone already");
        return;
    }
    let told = stop.clone();
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        // An answer that never ends by itself (a watch) must end with the server.
        request.extensions_mut().insert(told.clone());
        let declared = request.body().size_hint().upper();
        let may_be_left = declared.is_none_or(|bytes| bytes > REST_BYTES_MAX);
        let answered = service.clone().oneshot(request);
        async move {
            let mut answer = answered.await?;
            // A handler that refuses for another reason has read it, or reads it off.
            let too_large = answer.status() == StatusCode::PAYLOAD_TOO_LARGE;
            if may_be_left && too_large {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(limits.head_bytes_max.max(8 * 1024))
        .max_headers(limits.header_count_max)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => Some(ended),
        () = stop.requested() => {
            served.as_mut().graceful_shutdown();
            within(limits.drain, served).await
        }
    };
    match ended {
        Some(Ok(())) => {}
        Some(Err(error)) => debug!(%error, %peer, "connection ended badly"),
        None => warn!(%peer, "connection cut at the end of the drain"),
    }
}

async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, future).await.ok()
}
