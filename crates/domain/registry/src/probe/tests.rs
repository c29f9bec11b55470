use std::sync::Arc;

use ::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use atoll_model::{HttpRequest, Tls as Over};
use bytes::Bytes;
use futures_util::future::join;
use h2::server::SendResponse;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;

use super::*;

const SOON: Duration = Duration::from_secs(20);

/// Somebody to ask, at a free port.
async fn listener() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().into();
    (listener, address)
}

/// One that trusts an authority, and the server's half for `localhost`.
fn trusting(protocol: &[u8]) -> (Asker, TlsAcceptor) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = CertifiedIssuer::self_signed(authority, key).unwrap();
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let server = server.signed_by(&key, &authority).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    let connector = Connector::trusting([authority.der().clone()]).unwrap();
    let asker = Asker {
        trust: OnceCell::new_with(Some(connector)),
        ..Asker::new(false)
    };
    (asker, TlsAcceptor::from(Arc::new(config)))
}

fn named(name: &str) -> Option<Over> {
    Some(Over {
        name: Some(name.to_owned()),
        verify: true,
    })
}

fn get(path: &str) -> HttpRequest {
    HttpRequest {
        method: "GET".to_owned(),
        path: path.to_owned(),
        headers: Vec::new(),
        body: String::new(),
        tls: None,
        redirects: true,
    }
}

/// Reads one request whole.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    loop {
        let read = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = read.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return read;
            }
        }
        assert!(stream.read_buf(&mut text).await.unwrap() > 0, "{read}");
    }
}

/// Answers each connection's one request with the next of `answers`; gives the requests.
async fn answering(listener: TcpListener, answers: &[&str]) -> Vec<String> {
    let mut requests = Vec::new();
    for answer in answers {
        let (mut stream, _) = listener.accept().await.unwrap();
        requests.push(read(&mut stream).await);
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    }
    requests
}

const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine";

#[tokio::test]
async fn a_request_is_sent_as_it_was_given() {
    let (listener, address) = listener().await;
    let mut request = get("/healthz?deep=1");
    request.method = "PUT".to_owned();
    request.body = "{}".to_owned();
    request.headers = [
        ("X-A", "1"),
        ("X-A", "2"),
        ("User-Agent", "me"),
        ("Host", "h"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let probe = Probe::Request(Box::new(request));
    let asker = Asker::new(false);
    let asked = asker.put(&address, &probe, SOON);
    let (answered, requests) = join(asked, answering(listener, &[FINE])).await;
    assert_eq!(answered.0, Outcome::Pass);
    assert_eq!(answered.1, "PUT /healthz?deep=1: 200 OK: fine");
    let sent = requests[0].to_lowercase();
    assert!(
        sent.starts_with("put /healthz?deep=1 http/1.1\r\n"),
        "{sent}"
    );
    for line in [
        "x-a: 1",
        "x-a: 2",
        "user-agent: me",
        "host: h",
        "accept: */*",
    ] {
        assert!(sent.contains(&format!("\r\n{line}\r\n")), "{line}: {sent}");
    }
    assert!(sent.ends_with("\r\n\r\n{}"), "{sent}");
    assert!(!sent.contains("atoll"), "{sent}");
}

#[tokio::test]
async fn redirects_are_followed_as_go_follows_them() {
    let (listener, address) = listener().await;
    let mut request = get("/old/");
    request.method = "POST".to_owned();
    request.body = "ping".to_owned();
    request.headers = vec![("Authorization".to_owned(), "secret".to_owned())];
    let probe = Probe::Request(Box::new(request));
    // 307 keeps the request; 303 makes it a GET; another host is told no secret.
    let elsewhere = format!(
        "HTTP/1.1 303 See Other\r\nlocation: http://localhost:{}/new\r\n\r\n",
        address.port()
    );
    let kept = "HTTP/1.1 307 Temporary Redirect\r\nlocation: kept?x\r\n\r\n";
    let asker = Asker::new(false);
    let asked = asker.put(&address, &probe, SOON);
    let answers = [kept, &elsewhere, FINE];
    let (answered, requests) = join(asked, answering(listener, &answers)).await;
    assert_eq!(answered.0, Outcome::Pass);
    assert!(
        answered.1.starts_with("GET http://localhost:"),
        "{}",
        answered.1
    );
    assert!(
        requests[1].starts_with("POST /old/kept?x "),
        "{}",
        requests[1]
    );
    assert!(requests[1].contains("secret") && requests[1].ends_with("ping"));
    assert!(requests[2].starts_with("GET /new "), "{}", requests[2]);
    assert!(!requests[2].contains("secret") && !requests[2].contains("ping"));
}

#[tokio::test]
async fn redirects_end_after_ten_or_are_not_followed_at_all() {
    let again = "HTTP/1.1 302 Found\r\nlocation: /again\r\n\r\n";
    let (listening, address) = listener().await;
    let asker = Asker::new(false);
    let probe = Probe::Request(Box::new(get("/")));
    let asked = asker.put(&address, &probe, SOON);
    let (answered, requests) = join(asked, answering(listening, &[again; 11])).await;
    assert_eq!(requests.len(), 11);
    assert_eq!(
        answered,
        (
            Outcome::Fail,
            "GET /: stopped after 10 redirects".to_owned()
        )
    );

    let (listening, address) = listener().await;
    let mut request = get("/");
    request.redirects = false;
    let probe = Probe::Request(Box::new(request));
    let asked = asker.put(&address, &probe, SOON);
    let (answered, _) = join(asked, answering(listening, &[again])).await;
    assert_eq!(answered, (Outcome::Fail, "GET /: 302 Found".to_owned()));
}

#[tokio::test]
async fn https_is_asked_under_the_name_that_is_given() {
    let (asker, acceptor) = trusting(b"http/1.1");
    let (listener, address) = listener().await;
    let serve = async {
        for _ in 0..3 {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that trusts nobody of this name goes away.
            if let Ok(mut stream) = acceptor.accept(stream).await
                && let Ok(1..) = stream.read(&mut [0; 1024]).await
            {
                stream.write_all(FINE.as_bytes()).await.unwrap();
                stream.shutdown().await.ok();
            }
        }
    };
    let ask = async {
        let mut answers = Vec::new();
        let skip = Some(Over {
            name: None,
            verify: false,
        });
        for tls in [named("localhost"), named("example.org"), skip] {
            let mut request = get("/");
            request.tls = tls;
            let probe = Probe::Request(Box::new(request));
            answers.push(asker.put(&address, &probe, SOON).await);
        }
        answers
    };
    let (answers, ()) = join(ask, serve).await;
    assert_eq!(
        answers[0],
        (Outcome::Pass, "GET /: 200 OK: fine".to_owned())
    );
    assert_eq!(answers[1].0, Outcome::Fail);
    assert!(answers[1].1.contains("certificate"), "{}", answers[1].1);
    assert_eq!(answers[2].0, Outcome::Pass, "{}", answers[2].1);
}

#[tokio::test]
async fn tls_over_tcp_is_agreed_on_or_fails() {
    let (asker, acceptor) = trusting(b"h2");
    let (listener, address) = listener().await;
    let probe = Probe::Tls(named("localhost").unwrap());
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        acceptor.accept(stream).await.ok();
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 no TLS here\r\n").await.unwrap();
    };
    let ask = async {
        let first = asker.put(&address, &probe, SOON).await;
        (first, asker.put(&address, &probe, SOON).await)
    };
    let ((spoken, refused), ()) = join(ask, serve).await;
    assert_eq!(spoken.0, Outcome::Pass, "{}", spoken.1);
    assert_eq!(refused.0, Outcome::Fail);
    assert!(
        refused.1.starts_with("no TLS with 127.0.0.1:"),
        "{}",
        refused.1
    );
}

type GrpcAnswer = dyn FnOnce(&mut SendResponse<Bytes>);

/// Answers one gRPC call, which it gives with its message.
async fn grpc(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: impl FnOnce(&mut SendResponse<Bytes>),
) -> Option<(Request<()>, Vec<u8>)> {
    let mut connection = h2::server::handshake(stream).await.ok()?;
    let (request, mut respond) = connection.accept().await?.ok()?;
    let (parts, mut body) = request.into_parts();
    let mut message = Vec::new();
    loop {
        tokio::select! {
            data = body.data() => match data {
                Some(data) => message.extend_from_slice(&data.ok()?),
                None => break,
            },
            // Drives the connection; nothing else is asked on it.
            _ = connection.accept() => return None,
        }
    }
    answer(&mut respond);
    while connection.accept().await.is_some() {}
    Some((Request::from_parts(parts, ()), message))
}

/// A status of the protocol, with its trailers.
fn standing(status: u8) -> impl FnOnce(&mut SendResponse<Bytes>) {
    move |respond| {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]);
        body.send_data(message, false).unwrap();
        let fine = HeaderValue::from_static("0");
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), fine)]);
        body.send_trailers(trailers).unwrap();
    }
}

#[tokio::test]
async fn grpc_asks_for_its_service_and_only_serving_is_well() {
    let asker = Asker::new(false);
    let probe = Probe::Grpc {
        service: "shop.Users".to_owned(),
        tls: None,
    };
    for (status, outcome, said) in [
        (1, Outcome::Pass, "SERVING"),
        (2, Outcome::Fail, "NOT_SERVING"),
        (3, Outcome::Fail, "SERVICE_UNKNOWN"),
        (9, Outcome::Fail, "no status"),
    ] {
        let (listener, address) = listener().await;
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            grpc(stream, standing(status)).await.unwrap()
        };
        let asked = asker.put(&address, &probe, SOON);
        let (answered, (request, message)) = join(asked, serve).await;
        assert_eq!(answered.0, outcome, "{}", answered.1);
        assert!(answered.1.contains(said), "{}", answered.1);
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        assert_eq!(request.headers()["te"], "trailers");
        assert_eq!(&message[..7], [0, 0, 0, 0, 12, 0x0a, 10]);
        assert_eq!(&message[7..], b"shop.Users");
    }
}

#[tokio::test]
async fn grpc_says_what_the_server_refuses() {
    let asker = Asker::new(false);
    let probe = Probe::Grpc {
        service: String::new(),
        tls: None,
    };
    let missing = |respond: &mut SendResponse<Bytes>| {
        let head = Response::builder()
            .header("grpc-status", "12")
            .header("grpc-message", "unknown service");
        respond.send_response(head.body(()).unwrap(), true).unwrap();
    };
    let not_grpc = |respond: &mut SendResponse<Bytes>| {
        let head = Response::builder().status(StatusCode::NOT_FOUND);
        respond.send_response(head.body(()).unwrap(), true).unwrap();
    };
    let answers: [(Box<GrpcAnswer>, &str); 2] = [
        (
            Box::new(missing),
            "no grpc.health.v1.Health: unknown service",
        ),
        (Box::new(not_grpc), "HTTP 404"),
    ];
    for (answer, said) in answers {
        let (listener, address) = listener().await;
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            grpc(stream, answer).await
        };
        let (answered, _) = join(asker.put(&address, &probe, SOON), serve).await;
        assert_eq!(answered.0, Outcome::Fail);
        assert!(answered.1.contains(said), "{}", answered.1);
    }
}

#[tokio::test]
async fn grpc_and_pings_go_over_tls_that_agrees_to_http2() {
    let (asker, acceptor) = trusting(b"h2");
    let tls = named("localhost");
    let (listener, address) = listener().await;
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        grpc(acceptor.accept(stream).await.unwrap(), standing(1)).await;
        let (stream, _) = listener.accept().await.unwrap();
        let stream = acceptor.accept(stream).await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while connection.accept().await.is_some() {}
    };
    let ask = async {
        let probe = Probe::Grpc {
            service: String::new(),
            tls: tls.clone(),
        };
        let served = asker.put(&address, &probe, SOON).await;
        let probe = Probe::H2Ping { tls };
        (served, asker.put(&address, &probe, SOON).await)
    };
    let ((served, pinged), ()) = join(ask, serve).await;
    assert_eq!(served.0, Outcome::Pass, "{}", served.1);
    assert_eq!(pinged.0, Outcome::Pass, "{}", pinged.1);

    // A server that speaks TLS, but not HTTP/2 over it.
    let (asker, acceptor) = trusting(b"http/1.1");
    let (listener, address) = self::listener().await;
    let probe = Probe::H2Ping {
        tls: named("localhost"),
    };
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        acceptor.accept(stream).await.ok();
    };
    let (answered, ()) = join(asker.put(&address, &probe, SOON), serve).await;
    assert_eq!(answered.0, Outcome::Fail, "{}", answered.1);
}

#[tokio::test]
async fn who_does_not_speak_http2_fails_a_ping() {
    let (listener, address) = listener().await;
    let asker = Asker::new(false);
    let probe = Probe::H2Ping { tls: None };
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        stream.shutdown().await.ok();
        while let Ok(1..) = stream.read(&mut [0; 1024]).await {}
    };
    let (answered, ()) = join(asker.put(&address, &probe, SOON), serve).await;
    assert_eq!(answered.0, Outcome::Fail, "{}", answered.1);
    // One that takes the connection and says nothing.
    let (_silent, address) = self::listener().await;
    let soon = Duration::from_millis(20);
    let answered = asker.put(&address, &probe, soon).await;
    assert_eq!(answered.0, Outcome::Fail);
    assert!(answered.1.contains("within 20 ms"), "{}", answered.1);
}

#[tokio::test]
async fn a_datagram_passes_with_an_answer_or_silence_and_fails_when_refused() {
    let asker = Asker::new(false);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address: Address = socket.local_addr().unwrap().into();
    let echo = async {
        let (length, from) = socket.recv_from(&mut [0; 8]).await.unwrap();
        assert_eq!(length, 0);
        socket.send_to(b"!", from).await.unwrap();
    };
    let (answered, ()) = join(asker.put(&address, &Probe::Udp, SOON), echo).await;
    assert_eq!(answered, (Outcome::Pass, format!("{address} answered")));
    let silent = Duration::from_millis(20);
    let answered = asker.put(&address, &Probe::Udp, silent).await;
    assert_eq!(
        answered,
        (Outcome::Pass, format!("{address} did not refuse"))
    );
    drop(socket);
    let answered = asker.put(&address, &Probe::Udp, SOON).await;
    assert_eq!(answered.0, Outcome::Fail);
    assert!(answered.1.contains("refused"), "{}", answered.1);
}

async fn script(asker: &Asker, script: &str, timeout: Duration) -> (Outcome, String) {
    let args = ["/bin/sh", "-c", script].map(str::to_owned).into();
    let address = "127.0.0.1:1".parse().unwrap();
    asker.put(&address, &Probe::Script { args }, timeout).await
}

#[tokio::test]
async fn a_program_is_judged_by_its_exit_code() {
    let asker = Asker::new(true);
    for (text, outcome, said) in [
        ("echo fine; echo really >&2", Outcome::Pass, "fine\nreally"),
        ("echo so so; exit 1", Outcome::Warn, "so so"),
        ("exit 2", Outcome::Fail, "exit status: 2"),
        ("kill -9 $$", Outcome::Fail, "signal: 9 (SIGKILL)"),
    ] {
        let answered = script(&asker, text, SOON).await;
        assert_eq!(answered, (outcome, said.to_owned()), "{text}");
    }
    let address = "127.0.0.1:1".parse().unwrap();
    let args = vec!["/no/such/program".to_owned()];
    let answered = asker.put(&address, &Probe::Script { args }, SOON).await;
    assert_eq!(answered.0, Outcome::Fail);
    assert!(
        answered
            .1
            .starts_with("`/no/such/program` cannot be run: No such file")
    );
}

#[tokio::test]
async fn a_program_gets_a_search_path_a_group_and_no_input() {
    let asker = Asker::new(true);
    let (_, said) = script(
        &asker,
        "env | grep -v ^PWD= | grep -v ^_= | sort; cat",
        SOON,
    )
    .await;
    assert!(said.starts_with("PATH=/usr/local/sbin:"), "{said}");
    // The shell may add its own, but nothing of this test's is there.
    assert!(!said.contains("CARGO") && !said.contains("HOME"), "{said}");
    let group = "test \"$(ps -o pgid= -p $$ | tr -d ' ')\" = $$";
    assert_eq!(script(&asker, group, SOON).await.0, Outcome::Pass);
}

#[tokio::test]
async fn of_what_a_program_says_the_end_is_kept() {
    let asker = Asker::new(true);
    let (outcome, said) = script(&asker, "seq 1 100000; echo the end", SOON).await;
    assert_eq!(outcome, Outcome::Pass);
    assert!(
        said.starts_with("Captured 4000 of 588903 bytes\n...\n"),
        "{said}"
    );
    assert!(said.ends_with("100000\nthe end"), "{said}");
    assert!(said.len() <= crate::record::OUTPUT_BYTES_MAX);
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_killed_with_all_that_it_started() {
    let asker = Asker::new(true);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let text = format!("sleep 1000 & echo $! > {}; wait", file.display());
    let soon = Duration::from_millis(500);
    let answered = script(&asker, &text, soon).await;
    let late = "Timed out (0.5s) running check";
    assert_eq!(answered, (Outcome::Fail, late.to_owned()));
    let started = std::fs::read_to_string(file).unwrap();
    let gone = format!("/proc/{}/stat", started.trim());
    // Killed, it may be left for its parent to take note of.
    while let Ok(stat) = std::fs::read_to_string(&gone)
        && !stat.contains(") Z ")
    {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_a_program_leaves_behind_does_not_hold_its_check_up() {
    let asker = Asker::new(true);
    let (outcome, said) = script(&asker, "sleep 5 & echo done", SOON).await;
    assert_eq!((outcome, &said[..]), (Outcome::Pass, "done"));
}

#[tokio::test]
async fn no_program_is_run_where_that_is_not_allowed() {
    let asker = Asker::new(false);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ran");
    let text = format!("touch {}", file.display());
    let (outcome, said) = script(&asker, &text, SOON).await;
    assert_eq!(outcome, Outcome::Fail);
    assert!(said.contains("registry: { script_checks: true }"), "{said}");
    assert!(!file.exists());
}
