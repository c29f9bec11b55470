//! Checks over HTTP/2: the gRPC health protocol (`grpc/health/v1/health.proto`) and PING.
//!
//! Two messages of one field each are written by hand: a request with the service's name,
//! an answer with a number.

use std::pin::pin;

use atoll_model::{Address, Tls};
use atoll_net::client::{self, Duplex};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{Connection, SendRequest};
use h2::{Ping, RecvStream};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};

use super::{Asker, in_words};

const H2: &[u8] = b"h2";
const PATH: &str = "/grpc.health.v1.Health/Check";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const AGENT: HeaderValue = HeaderValue::from_static("Atoll-Health/0.1");
/// Bytes of an answer: a number and what a later protocol may add.
const ANSWER_BYTES_MAX: usize = 4096;
/// What goes before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

type H2Connection = Connection<Box<dyn Duplex>, Bytes>;

/// Asks how `service` is; only `SERVING` is well.
pub(super) async fn check(
    asker: &Asker,
    address: &Address,
    service: &str,
    tls: Option<&Tls>,
) -> Result<String, String> {
    let (sender, connection) = begin(asker, address, tls).await?;
    let mut exchange = pin!(exchange(sender, address, service, tls.is_some()));
    let status = tokio::select! {
        status = &mut exchange => status,
        // What came before the end still counts.
        _ = connection => exchange.await,
    };
    let asked = match service {
        "" => format!("gRPC check {address}"),
        service => format!("gRPC check {address}/{service}"),
    };
    match status? {
        1 => Ok(format!("{asked}: SERVING")),
        0 => Err(format!("{asked}: UNKNOWN")),
        2 => Err(format!("{asked}: NOT_SERVING")),
        3 => Err(format!("{asked}: SERVICE_UNKNOWN")),
        other => Err(format!("{asked}: {other} is no status of the protocol")),
    }
}

/// Asks for an answer to a PING.
pub(super) async fn ping(
    asker: &Asker,
    address: &Address,
    tls: Option<&Tls>,
) -> Result<String, String> {
    // The sender is kept: without one the connection says goodbye.
    let (_sender, mut connection) = begin(asker, address, tls).await?;
    let mut pings = connection
        .ping_pong()
        .ok_or_else(|| "no ping can be sent".to_owned())?;
    let mut pong = pin!(pings.ping(Ping::opaque()));
    let answered = tokio::select! {
        answered = &mut pong => answered,
        _ = connection => pong.await,
    };
    match answered {
        Ok(_) => Ok(format!("{address} answered an HTTP/2 ping")),
        Err(error) => Err(format!("HTTP/2 ping to {address} failed: {error}")),
    }
}

async fn begin(
    asker: &Asker,
    address: &Address,
    tls: Option<&Tls>,
) -> Result<(SendRequest<Bytes>, H2Connection), String> {
    let tls = asker.tls(tls, address, Some(H2)).await?;
    let stream = client::open(address, tls.as_ref()).await;
    let begun = h2::client::Builder::new().handshake(stream.map_err(in_words)?);
    let broken = |error| format!("{address} does not speak HTTP/2: {error}");
    begun.await.map_err(broken)
}

async fn exchange(
    sender: SendRequest<Bytes>,
    address: &Address,
    service: &str,
    secure: bool,
) -> Result<u64, String> {
    let broken = |error| format!("{address} broke the gRPC exchange off: {error}");
    let scheme = if secure { "https" } else { "http" };
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = (format!("{scheme}://{address}{PATH}").parse()).map_err(in_words)?;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(USER_AGENT, AGENT);
    let mut sender = sender.ready().await.map_err(broken)?;
    let (response, mut body) = sender.send_request(request, false).map_err(broken)?;
    body.send_data(question(service), true).map_err(broken)?;
    let (head, mut body) = response.await.map_err(broken)?.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("gRPC check {address}: HTTP {}", head.status));
    }
    // A failure may come with the head alone.
    refused(address, &head.headers)?;
    let answer = read(&mut body).await.map_err(|error| match error {
        Some(error) => broken(error),
        None => format!("{address} answers with more than {ANSWER_BYTES_MAX} bytes"),
    })?;
    if let Some(trailers) = body.trailers().await.map_err(broken)? {
        refused(address, &trailers)?;
    }
    status(&answer).ok_or_else(|| format!("{address} does not answer by the gRPC health protocol"))
}

/// The body; too many bytes are an error without a cause.
async fn read(body: &mut RecvStream) -> Result<BytesMut, Option<h2::Error>> {
    let mut answer = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        answer.extend_from_slice(&data);
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(None);
        }
    }
    Ok(answer)
}

/// What `grpc-status` and `grpc-message` say, unless it is well.
fn refused(address: &Address, headers: &HeaderMap) -> Result<(), String> {
    let text = |name| {
        let value: Option<&HeaderValue> = headers.get(name);
        value.and_then(|value| value.to_str().ok())
    };
    let what = match text("grpc-status") {
        None | Some("0") => return Ok(()),
        Some("5") => "the service is unknown".to_owned(),
        Some("12") => "the server has no grpc.health.v1.Health".to_owned(),
        Some(code) => format!("status {code}"),
    };
    let why = text("grpc-message").map(|why| format!(": {why}"));
    let why = why.unwrap_or_default();
    Err(format!("gRPC check {address}: {what}{why}"))
}

/// `HealthCheckRequest { string service = 1; }` as one message.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    // A name has at most some hundred bytes.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

fn put_varint(message: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        message.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    message.put_u8(value as u8);
}

/// The `status` of `HealthCheckResponse { ServingStatus status = 1; }`: 0 when it is left
/// out, `None` when this is no such message.
fn status(framed: &[u8]) -> Option<u64> {
    let (prefix, message) = framed.split_first_chunk::<PREFIX_BYTES>()?;
    let [compressed, length @ ..] = *prefix;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    let mut rest = message.get(..length).filter(|_| compressed == 0)?;
    let mut status = 0;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = varint(&mut rest)?,
            // Fields of a later protocol are passed over.
            (_, 0) => {
                varint(&mut rest)?;
            }
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_messages_are_those_of_the_protocol() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = question(&"x".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 200, 1]);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        // A field of a later protocol before it.
        assert_eq!(status(&[0, 0, 0, 0, 5, 0x12, 1, b'x', 8, 2]), Some(2));
        // Compressed, cut short, and no message at all.
        let wrong: [&[u8]; 4] = [
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 3, 8, 1],
            &[0, 0],
            &[0, 0, 0, 0, 1, 8],
        ];
        for wrong in wrong {
            assert_eq!(status(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_answered_makes_reading_panic(bytes: Vec<u8>) {
            status(&bytes);
        }
    }
}
