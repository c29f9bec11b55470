//! A small outgoing HTTP/1.1 client: one connection for each request.
//!
//! Health checks and the command line use it; the data plane has a pool of its
//! own. There is no redirect and no cookie. Every call has a time limit that covers
//! look-up, connection, head and body, and a bound on the body.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use atoll_model::Address;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::poll_fn;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue};
use http::{HeaderMap, Method, StatusCode, Uri};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::body::{self, BodyError};
use crate::tls::Tls;

/// Look-ups of host names under way. Without a bound a name server that is away would
/// take every thread that may block, and with them the store's writes.
const LOOK_UPS_MAX: usize = 32;
static LOOK_UPS: Semaphore = Semaphore::const_new(LOOK_UPS_MAX);

/// Longest line that a streaming answer may have.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, within the bound that was asked for.
    pub body: Bytes,
}

/// A request. [`Request::new`] has the defaults; set the rest as needed.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Whom to ask.
    pub address: &'a Address,
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: &'a str,
    /// Headers beside `Host`, `Connection` and `Content-Length`, which are set
    /// here; a `Host` given wins.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// For everything, from the look-up to the last byte. Default 10 s.
    pub timeout: Duration,
    /// Bytes of the answer's body. Default 1 MiB.
    pub body_bytes_max: usize,
    /// What happens to a longer one: cut when true, an error when false (default).
    pub cut: bool,
    /// TLS, when that is to be spoken.
    pub tls: Option<Tls<'a>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The path or a header cannot be sent.
    #[error("`{path}` cannot be asked for: {reason}")]
    Invalid {
        /// What was to be asked for.
        path: String,
        /// Why not.
        reason: String,
    },
    /// No address for the host name.
    #[error("the host `{host}` is unknown")]
    Unknown {
        /// The name.
        host: String,
        /// What the resolver said, when it said something.
        #[source]
        source: Option<io::Error>,
    },
    /// Nobody took the connection.
    #[error("no connection to {address}: {source}")]
    Connect {
        /// Where to.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// The connection stands, but TLS could not be agreed on.
    #[error("no TLS with {address}: {source}")]
    Tls {
        /// Where to.
        address: Address,
        /// What went wrong.
        source: io::Error,
    },
    /// The peer broke off or does not speak HTTP/1.1.
    #[error("{address} broke the exchange off: {source}")]
    Exchange {
        /// Who.
        address: Address,
        /// What went wrong.
        source: hyper::Error,
    },
    /// The body did not fit or ended early.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// It took too long.
    #[error("{address} did not answer within {} ms", timeout.as_millis())]
    Timeout {
        /// Who.
        address: Address,
        /// The limit.
        timeout: Duration,
    },
}

impl ClientError {
    /// Whether the connection was refused or could not be made: nothing was sent.
    pub fn is_connect(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Unknown { .. })
    }
}

impl<'a> Request<'a> {
    /// A request with the defaults named on each field.
    pub fn new(method: Method, address: &'a Address, path: &'a str) -> Self {
        Self {
            address,
            method,
            path,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            timeout: Duration::from_secs(10),
            body_bytes_max: 1024 * 1024,
            cut: false,
            tls: None,
        }
    }

    /// Sends it and reads the answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send(self) -> Result<Response, ClientError> {
        let (address, timeout) = (self.address, self.timeout);
        let exchange = async move {
            let (max, cut) = (self.body_bytes_max, self.cut);
            let mut exchange = self.begin().await?;
            let body = if cut {
                body::read_start(&mut exchange, max).await?
            } else {
                body::read_limited(&mut exchange, max).await?
            };
            Ok(Response {
                status: exchange.status,
                headers: exchange.headers,
                body,
            })
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::Timeout {
                address: address.clone(),
                timeout,
            }),
        }
    }

    /// Sends it and gives the answer's lines as they come. The time limit covers
    /// the head only; the lines may take for ever.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn lines(self) -> Result<Lines, ClientError> {
        let (address, timeout) = (self.address.clone(), self.timeout);
        match tokio::time::timeout(timeout, self.begin()).await {
            Ok(exchange) => Ok(Lines {
                exchange: exchange?,
                pending: BytesMut::new(),
                ended: false,
            }),
            Err(_) => Err(ClientError::Timeout { address, timeout }),
        }
    }

    async fn begin(self) -> Result<Exchange, ClientError> {
        let request = self.message()?;
        let stream = open(self.address, self.tls.as_ref()).await?;
        let broken = |source| ClientError::Exchange {
            address: self.address.clone(),
            source,
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let mut connection = Some(Box::pin(connection));
        let mut answer = Box::pin(sender.send_request(request));
        let response = poll_fn(|context| {
            drive(&mut connection, context);
            answer.as_mut().poll(context)
        });
        let (parts, body) = response.await.map_err(broken)?.into_parts();
        Ok(Exchange {
            status: parts.status,
            headers: parts.headers,
            connection,
            body,
        })
    }

    fn message(&self) -> Result<http::Request<Full<Bytes>>, ClientError> {
        let invalid = |reason: String| ClientError::Invalid {
            path: self.path.to_owned(),
            reason,
        };
        if !self.path.starts_with('/') {
            return Err(invalid("it does not begin with `/`".to_owned()));
        }
        let uri: Uri = self.path.parse().map_err(|e| invalid(format!("{e}")))?;
        let mut message = http::Request::new(Full::new(self.body.clone()));
        *message.method_mut() = self.method.clone();
        *message.uri_mut() = uri;
        *message.headers_mut() = self.headers.clone();
        let headers = message.headers_mut();
        if !headers.contains_key(HOST) {
            let host = HeaderValue::try_from(self.address.to_string())
                .map_err(|e| invalid(format!("{e}")))?;
            headers.insert(HOST, host);
        }
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        // RFC 9110 §8.6: a POST or PUT without a body says so.
        if !self.body.is_empty() || matches!(self.method, Method::POST | Method::PUT) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        }
        Ok(message)
    }
}

/// `GET path`.
///
/// # Errors
/// See [`ClientError`].
pub async fn get(
    address: &Address,
    path: &str,
    headers: HeaderMap,
    timeout: Duration,
    body_bytes_max: usize,
) -> Result<Response, ClientError> {
    let mut request = Request::new(Method::GET, address, path);
    request.headers = headers;
    request.timeout = timeout;
    request.body_bytes_max = body_bytes_max;
    request.send().await
}

/// A TCP connection to `address`; a host name is looked up and each of its
/// addresses is tried in turn. The caller sets the time limit.
///
/// # Errors
/// [`ClientError::Unknown`] and [`ClientError::Connect`].
pub async fn connect(address: &Address) -> Result<TcpStream, ClientError> {
    let refused = |source| ClientError::Connect {
        address: address.clone(),
        source,
    };
    if let Some(socket) = address.socket() {
        return TcpStream::connect(socket).await.map_err(refused);
    }
    let mut last = None;
    for socket in look_up(address).await? {
        match TcpStream::connect(socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        Some(error) => refused(error),
        None => unknown(address, None),
    })
}

fn unknown(address: &Address, source: Option<io::Error>) -> ClientError {
    ClientError::Unknown {
        host: address.host().to_owned(),
        source,
    }
}

/// A connection of bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection to `address`, with TLS if that is asked for. The caller sets the time
/// limit.
///
/// # Errors
/// As [`connect`], and [`ClientError::Tls`].
pub async fn open(
    address: &Address,
    tls: Option<&Tls<'_>>,
) -> Result<Box<dyn Duplex>, ClientError> {
    let stream = connect(address).await?;
    let Some(tls) = tls else {
        return Ok(Box::new(stream));
    };
    match tls.over(stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(source) => Err(ClientError::Tls {
            address: address.clone(),
            source,
        }),
    }
}

/// The socket addresses of `address`, at least one. The caller sets the time limit.
///
/// # Errors
/// [`ClientError::Unknown`].
pub async fn look_up(address: &Address) -> Result<Vec<SocketAddr>, ClientError> {
    if let Some(socket) = address.socket() {
        return Ok(vec![socket]);
    }
    let (host, port) = (address.host().to_owned(), address.port());
    if host == "localhost" {
        // RFC 6761 §6.3: never a question for a resolver, which may be slow or away.
        let both = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        return Ok(both.map(|ip: IpAddr| SocketAddr::new(ip, port)).into());
    }
    let found = resolve(&LOOK_UPS, move || {
        Ok((host.as_str(), port).to_socket_addrs()?.collect())
    });
    match found.await {
        Ok(found) if found.is_empty() => Err(unknown(address, None)),
        Ok(found) => Ok(found),
        Err(error) => Err(unknown(address, Some(error))),
    }
}

/// Runs a look-up, which blocks, on a thread of its own. It keeps its place among the
/// `places` until it ends, which may be long after the caller has given up: the
/// system's resolver cannot be stopped.
async fn resolve(
    places: &'static Semaphore,
    look_up: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
) -> io::Result<Vec<SocketAddr>> {
    // Never closed.
    let place = places.acquire().await.map_err(io::Error::other)?;
    // Not a task of the tree: it holds nothing, and nobody could end it.
    let looked_up = tokio::task::spawn_blocking(move || {
        let _place = place;
        look_up()
    });
    looked_up.await.map_err(io::Error::other)?
}

type Connection = http1::Connection<TokioIo<Box<dyn Duplex>>, Full<Bytes>>;

/// An answer whose body is still on its way. It carries its connection along and
/// drives it, so that no task is needed.
struct Exchange {
    status: StatusCode,
    headers: HeaderMap,
    connection: Option<Pin<Box<Connection>>>,
    body: Incoming,
}

fn drive(connection: &mut Option<Pin<Box<Connection>>>, context: &mut Context<'_>) {
    if let Some(running) = connection
        && running.as_mut().poll(context).is_ready()
    {
        // How it ended is told by the answer or its body, too.
        *connection = None;
    }
}

impl Body for Exchange {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, hyper::Error>>> {
        drive(&mut self.connection, context);
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// The lines of a streaming answer.
pub struct Lines {
    exchange: Exchange,
    pending: BytesMut,
    ended: bool,
}

impl Lines {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.exchange.status
    }

    /// The headers of the answer.
    pub fn headers(&self) -> &HeaderMap {
        &self.exchange.headers
    }

    /// The next line without its end; `None` after the last. Bytes that are not
    /// UTF-8 are replaced. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`ClientError::Body`] when the answer breaks off or a line exceeds 1 MiB.
    pub async fn next(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line = self.pending.split_to(end);
                self.pending.advance(1);
                return Ok(Some(text(&line)));
            }
            if self.pending.len() > LINE_BYTES_MAX {
                return Err(ClientError::Body(BodyError::TooLarge {
                    max_bytes: LINE_BYTES_MAX,
                }));
            }
            if self.ended {
                let rest = self.pending.split();
                return Ok((!rest.is_empty()).then(|| text(&rest)));
            }
            let frame = poll_fn(|context| Pin::new(&mut self.exchange).poll_frame(context)).await;
            match frame {
                None => self.ended = true,
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.pending.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => {
                    return Err(ClientError::Body(BodyError::Broken(error.into())));
                }
            }
        }
    }
}

fn text(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8_lossy(line).into_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn look_ups_that_hang_take_no_more_threads_than_they_may() {
        static PLACES: Semaphore = Semaphore::const_new(4);
        let begun = Arc::new(AtomicUsize::new(0));
        let (release, released) = mpsc::sync_channel::<()>(0);
        let released = Arc::new(std::sync::Mutex::new(released));
        let hung = |_| {
            let (begun, released) = (Arc::clone(&begun), Arc::clone(&released));
            let look_up = resolve(&PLACES, move || {
                begun.fetch_add(1, Ordering::SeqCst);
                // Fails once the sender is gone: released.
                released.lock().unwrap().recv().ok();
                Ok(Vec::new())
            });
            tokio::time::timeout(Duration::from_millis(20), look_up)
        };
        for round in 0..5 {
            let answers = join_all((0..10).map(hung)).await;
            assert!(answers.iter().all(Result::is_err), "round {round}");
        }
        while begun.load(Ordering::SeqCst) < 4 {
            tokio::task::yield_now().await; // the threads start when they can
        }
        assert_eq!(begun.load(Ordering::SeqCst), 4);
        drop(release);
        let answered = resolve(&PLACES, || Ok(vec![SocketAddr::from(([10, 0, 0, 1], 80))]));
        assert_eq!(answered.await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn localhost_is_known_without_a_resolver() {
        let address = Address::new("localhost", 80).unwrap();
        let found = look_up(&address).await.unwrap();
        assert!(found.iter().all(|socket| socket.ip().is_loopback()));
        assert_eq!(found[0].to_string(), "127.0.0.1:80");
    }
}
