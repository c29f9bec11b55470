//! Over real sockets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket as StdUdp};

use atoll_runtime::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::*;
use crate::queries::{Found, Queries, QueryFailed, Running};
use crate::recursor::framed;

/// A server on a free port that is the same for both.
async fn server(tasks: &Tasks, settings: Settings) -> SocketAddr {
    server_with(tasks, settings, None).await
}

async fn server_with(
    tasks: &Tasks,
    settings: Settings,
    queries: Option<Arc<dyn Queries>>,
) -> SocketAddr {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = tcp.local_addr().unwrap();
        let Ok(udp) = StdUdp::bind(address) else {
            continue;
        };
        let (_, catalog) = watch::channel(Arc::new(catalog()));
        let tcp = tcp.into_std().unwrap();
        crate::start(tasks, tcp, udp, settings, catalog, queries).unwrap();
        return address;
    }
}

async fn by_udp(server: SocketAddr, packet: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(packet).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let bytes = socket.recv(&mut buffer).await.unwrap();
    buffer.truncate(bytes);
    buffer
}

async fn send_tcp(stream: &mut TcpStream, packet: &[u8]) {
    let length = u16::try_from(packet.len()).unwrap();
    stream.write_all(&framed(length, packet)).await.unwrap();
}

async fn receive_tcp(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn tasks() -> Tasks {
    Tasks::root(Clock::system())
}

#[tokio::test]
async fn questions_on_one_connection_are_answered_in_order() {
    let tasks = tasks();
    let address = server(&tasks, settings()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    for name in ["web.service.consul", "nobody.service.consul"] {
        send_tcp(&mut stream, &question(name, Rtype::A, None)).await;
    }
    let first = receive_tcp(&mut stream).await.unwrap();
    let second = receive_tcp(&mut stream).await.unwrap();
    assert!(shown(&first).starts_with("NOERROR"));
    assert!(shown(&second).starts_with("NXDOMAIN"));
    let same = by_udp(address, &question("web.service.consul", Rtype::A, None)).await;
    assert_eq!(shown(&same), shown(&first));
    tasks.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_client_has_so_many_connections_and_no_more() {
    let tasks = tasks();
    let address = server(&tasks, settings()).await;
    let ask = question("web.service.consul", Rtype::A, None);
    let mut held = Vec::new();
    for _ in 0..32 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        send_tcp(&mut stream, &ask).await;
        receive_tcp(&mut stream).await.unwrap();
        held.push(stream);
    }
    let mut refused = TcpStream::connect(address).await.unwrap();
    // It may be closed before or after it could be written to.
    drop(refused.write_all(&framed(ask.len() as u16, &ask)).await);
    assert!(receive_tcp(&mut refused).await.is_err());
    held.pop();
    // The place is free once the server has seen the end.
    loop {
        let mut again = TcpStream::connect(address).await.unwrap();
        drop(again.write_all(&framed(ask.len() as u16, &ask)).await);
        if receive_tcp(&mut again).await.is_ok() {
            break;
        }
    }
    tasks.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_question_that_is_too_long_ends_the_connection() {
    let tasks = tasks();
    let address = server(&tasks, settings()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[0xff, 0xff, 0, 0]).await.unwrap();
    assert!(receive_tcp(&mut stream).await.is_err());
    tasks.stop(Duration::from_secs(5)).await.unwrap();
}

/// Time runs on by itself while nobody has anything to do.
#[tokio::test(start_paused = true)]
async fn a_connection_without_a_question_is_ended() {
    let tasks = tasks();
    let address = server(&tasks, settings()).await;
    for begun in [&[][..], &[0], &[0, 40, 1, 2, 3]] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(begun).await.unwrap();
        assert!(receive_tcp(&mut stream).await.is_err(), "{begun:?}");
    }
    tasks.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn other_names_are_asked_of_the_first_recursor_that_answers() {
    let tasks = tasks();
    let elsewhere = Settings {
        domains: vec!["example".parse().unwrap()],
        ..settings()
    };
    let good = server(&tasks, elsewhere).await;
    // Free a moment ago: nobody answers there.
    let bad = StdUdp::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let bad = bad.local_addr().unwrap();
    let asking = |recursors| Settings {
        recursors,
        ..settings()
    };
    let address = server(&tasks, asking(vec![bad, good])).await;
    let ask = question("wEb.service.example", Rtype::A, None);
    let answer = by_udp(address, &ask).await;
    assert!(
        shown(&answer).starts_with("NOERROR aa rd\n"),
        "{}",
        shown(&answer)
    );
    assert_eq!(answer[..2], ask[..2]);
    let mut stream = TcpStream::connect(address).await.unwrap();
    send_tcp(&mut stream, &ask).await;
    let by_tcp = receive_tcp(&mut stream).await.unwrap();
    assert_eq!(shown(&by_tcp), shown(&answer));

    let alone = server(&tasks, asking(vec![bad])).await;
    let failed = by_udp(alone, &ask).await;
    assert_eq!(shown(&failed), "SERVFAIL rd ra");
    tasks.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_host_that_is_a_name_elsewhere_is_followed_there() {
    let tasks = tasks();
    let far = Settings {
        domains: vec!["far".parse().unwrap()],
        ..settings()
    };
    let far = server(&tasks, far).await;
    let asking = |recursors| Settings {
        recursors,
        ..settings()
    };
    let near = server(&tasks, asking(vec![far])).await;
    let ask = question("far.service.consul", Rtype::A, None);
    let followed = "NOERROR aa rd ra\n  \
        answer far.service.consul 5 CNAME web.service.far.\n  \
        answer web.service.far 5 A 10.0.0.1\n  \
        answer web.service.far 5 A 10.0.0.2";
    assert_eq!(shown(&by_udp(near, &ask).await), followed);
    let mut stream = TcpStream::connect(near).await.unwrap();
    send_tcp(&mut stream, &ask).await;
    assert_eq!(shown(&receive_tcp(&mut stream).await.unwrap()), followed);

    // The alias is an answer, even when nobody knows what is behind it.
    let bad = StdUdp::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let bad = bad.local_addr().unwrap();
    let alone = server(&tasks, asking(vec![bad])).await;
    let alias = "NOERROR aa rd ra\n  answer far.service.consul 5 CNAME web.service.far.";
    assert_eq!(shown(&by_udp(alone, &ask).await), alias);
    tasks.stop(Duration::from_secs(5)).await.unwrap();
}

/// Queries that find what their name says.
struct Canned;

impl Queries for Canned {
    fn run<'a>(&'a self, name: &'a str, client: IpAddr) -> Running<'a> {
        assert_eq!(client, IpAddr::from(Ipv4Addr::LOCALHOST));
        Box::pin(async move {
            let catalog = catalog();
            let (service, ttl) = match name {
                "broken" => return Err(QueryFailed("as asked".to_owned())),
                "slow" => std::future::pending().await,
                "nothing" => return Ok(None),
                "nobody" => return Ok(Some(Found::default())),
                "my.sick" => ("sick", Some(Duration::from_secs(60))),
                service => (service, None),
            };
            Ok(Some(Found {
                instances: catalog.instances(service).to_vec(),
                ttl,
            }))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn names_below_query_are_what_a_prepared_query_finds() {
    let tasks = tasks();
    let address = server_with(&tasks, settings(), Some(Arc::new(Canned))).await;
    // The serial of the zone is the time.
    let told = |answer: &[u8]| {
        let text = shown(answer);
        let lines = text.lines().filter(|line| !line.contains(" SOA "));
        lines.collect::<Vec<_>>().join(
            "
",
        )
    };
    for (name, qtype, wanted) in [
        // Whom the query found is named, whatever the catalogue says of its health.
        (
            "my.Sick.query.consul",
            Rtype::A,
            "NOERROR aa rd\n  answer my.sick.query.consul 60 A 10.0.0.8",
        ),
        ("my.sick.query.dc1.consul", Rtype::AAAA, "NOERROR aa rd"),
        (
            "_my.sick._tcp.query.consul",
            Rtype::SRV,
            "NOERROR aa rd\n  additional 0a000008.addr.dc1.consul 60 A 10.0.0.8\n  \
             answer _my.sick._tcp.query.consul 60 SRV 1 1 1 0a000008.addr.dc1.consul",
        ),
        (
            "alias.query.consul",
            Rtype::A,
            "NOERROR aa rd\n  answer alias.query.consul 5 CNAME web.service.consul.\n  answer web.service.consul 5 A 10.0.0.1\n  answer web.service.consul 5 A 10.0.0.2",
        ),
        ("nobody.query.consul", Rtype::A, "NXDOMAIN aa rd"),
        ("nothing.query.consul", Rtype::A, "NXDOMAIN aa rd"),
        ("my.sick.query.dc2.consul", Rtype::A, "NXDOMAIN aa rd"),
        ("query.consul", Rtype::A, "NOERROR aa rd"),
        ("broken.query.consul", Rtype::A, "SERVFAIL rd"),
        ("slow.query.consul", Rtype::A, "SERVFAIL rd"),
    ] {
        let ask = question(name, qtype, None);
        assert_eq!(told(&by_udp(address, &ask).await), wanted, "{name}");
        let mut stream = TcpStream::connect(address).await.unwrap();
        send_tcp(&mut stream, &ask).await;
        assert_eq!(
            told(&receive_tcp(&mut stream).await.unwrap()),
            wanted,
            "{name}"
        );
    }
    tasks.stop(Duration::from_secs(5)).await.unwrap();
}
