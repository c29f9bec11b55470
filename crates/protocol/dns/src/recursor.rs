//! Asks other servers about names that are not ours, and hands their answers on.
//!
//! Each question gets a socket and a number of its own, so that a forger has to guess
//! both (RFC 5452); an answer that does not repeat the question is not one.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use atoll_runtime::Random;
use domain::base::Message;
use domain::base::iana::{OptRcode, Rtype};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::front::Elsewhere;
use crate::name::DnsName;
use crate::wire::{self, Query, Record, TCP_BYTES_MAX, Transport, only_truncated};

/// How long one recursor has; Consul's default.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The answer to `packet` once others were asked, or without them when none answers.
pub(crate) async fn ask(
    packet: &[u8],
    asking: &Elsewhere,
    transport: Transport,
    recursors: &[SocketAddr],
    random: &mut Random,
) -> Vec<u8> {
    match asking {
        Elsewhere::Forward(query) => forward(packet, query, transport, recursors, random).await,
        Elsewhere::Follow {
            query,
            reply,
            target,
            qtype,
        } => {
            let mut reply = reply.clone();
            let behind = follow(target, *qtype, recursors, random).await;
            reply.answers.extend(behind);
            query.answer(&reply, transport, true)
        }
    }
}

/// What the first recursor that answers says of `target`; by TCP when a datagram does
/// not hold it.
async fn follow(
    target: &DnsName,
    qtype: Rtype,
    recursors: &[SocketAddr],
    random: &mut Random,
) -> Vec<Record> {
    for recursor in recursors {
        let Some(asked) = wire::ask(random.bits() as u16, target, qtype) else {
            break;
        };
        let answered = timeout(ANSWER_TIMEOUT, async {
            let answer = by_udp(&asked, *recursor).await?;
            match wire::is_cut(&answer) {
                true => by_tcp(&asked, *recursor).await,
                false => Ok(answer),
            }
        });
        match answered.await {
            Ok(Ok(answer)) => return wire::addresses_behind(&answer, target),
            Ok(Err(error)) => tracing::debug!(%recursor, %error, "recursor failed"),
            Err(_) => tracing::debug!(%recursor, "recursor did not answer in time"),
        }
    }
    Vec::new()
}

/// What the first recursor that answers says to `packet`, whose meaning is `query`;
/// SERVFAIL when none does.
async fn forward(
    packet: &[u8],
    query: &Query,
    transport: Transport,
    recursors: &[SocketAddr],
    random: &mut Random,
) -> Vec<u8> {
    for recursor in recursors {
        let id = (random.bits() as u16).to_be_bytes();
        let mut asked = packet.to_vec();
        asked[..2].copy_from_slice(&id);
        let answered = match transport {
            Transport::Udp => timeout(ANSWER_TIMEOUT, by_udp(&asked, *recursor)).await,
            Transport::Tcp => timeout(ANSWER_TIMEOUT, by_tcp(&asked, *recursor)).await,
        };
        match answered {
            Ok(Ok(mut answer)) => {
                answer[..2].copy_from_slice(&packet[..2]);
                if answer.len() > query.answer_bytes_max(transport) {
                    answer = only_truncated(&answer).unwrap_or_default();
                }
                if !answer.is_empty() {
                    return answer;
                }
            }
            Ok(Err(error)) => tracing::debug!(%recursor, %error, "recursor failed"),
            Err(_) => tracing::debug!(%recursor, "recursor did not answer in time"),
        }
    }
    query.error(OptRcode::SERVFAIL, transport, true)
}

async fn by_udp(asked: &[u8], recursor: SocketAddr) -> io::Result<Vec<u8>> {
    let from: SocketAddr = match recursor {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(from).await?;
    // From then on the kernel lets through only what comes from there.
    socket.connect(recursor).await?;
    socket.send(asked).await?;
    let mut buffer = vec![0; TCP_BYTES_MAX];
    loop {
        let bytes = socket.recv(&mut buffer).await?;
        if answers(&buffer[..bytes], asked) {
            buffer.truncate(bytes);
            return Ok(buffer);
        }
    }
}

async fn by_tcp(asked: &[u8], recursor: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(recursor).await?;
    let length = u16::try_from(asked.len()).map_err(io::Error::other)?;
    stream.write_all(&framed(length, asked)).await?;
    let bytes = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(bytes)];
    stream.read_exact(&mut answer).await?;
    match answers(&answer, asked) {
        true => Ok(answer),
        false => Err(io::Error::other("the answer is to another question")),
    }
}

/// A message with its length before it (RFC 1035 §4.2.2), to be sent in one piece.
pub(crate) fn framed(length: u16, message: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes(), message].concat()
}

/// Whether `answer` has the number of `asked` and repeats its question, case included.
fn answers(answer: &[u8], asked: &[u8]) -> bool {
    let (Ok(answer), Ok(asked)) = (Message::from_slice(answer), Message::from_slice(asked)) else {
        return false;
    };
    let same_header = answer.header().id() == asked.header().id() && answer.header().qr();
    let (Ok(told), Ok(wanted)) = (answer.sole_question(), asked.sole_question()) else {
        return false;
    };
    let labels = |question: &domain::base::Question<domain::base::ParsedName<&[u8]>>| {
        let name = question.qname().iter();
        name.map(|label| label.as_slice().to_vec())
            .collect::<Vec<_>>()
    };
    same_header && told.qtype() == wanted.qtype() && labels(&told) == labels(&wanted)
}
