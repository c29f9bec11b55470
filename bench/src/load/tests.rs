//! The client against servers that answer right and wrong, without a proxy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::{Job, Outcome, drive, h1, h2};
use crate::process::free_address;
use crate::upstream;
use crate::workload::{Workload, body};

/// Loads `target` for a moment with a few connections.
fn load(target: SocketAddr, workload: Workload) -> anyhow::Result<Outcome> {
    let me = std::process::id();
    let job = Job {
        target,
        workload,
        connections: 3,
        warmup_ms: 20,
        measure_ms: 200,
        proxy: me,
        upstream: me,
        proxy_core: 0,
        client_core: 0,
    };
    if workload.is_h2() {
        drive::<h2::Connection>(&job, 1)
    } else {
        drive::<h1::Connection>(&job, job.connections)
    }
}

/// A server that does `serve` with each connection, and where it listens.
fn server(serve: impl Fn(TcpStream) -> std::io::Result<()> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            // The client goes when it has seen enough.
            serve(socket.unwrap()).ok();
        }
    });
    address
}

#[test]
fn the_upstream_satisfies_the_client_in_every_http1_workload() {
    let address = free_address().unwrap();
    std::thread::spawn(move || upstream::run(address));
    let mut tries = 0;
    while TcpStream::connect(address).is_err() {
        tries += 1;
        assert!(tries < 1_000_000, "the upstream does not listen");
    }
    // Without a proxy nobody ends the connections of `connect`.
    for workload in Workload::ALL {
        if !matches!(workload, Workload::H2c | Workload::Connect) {
            let outcome = load(address, workload).unwrap();
            assert!(outcome.completed > 3, "{workload:?}: {outcome:?}");
        }
    }
}

/// Answers the first request of each connection with these bytes and ends it.
fn answering(answer: Vec<u8>) -> SocketAddr {
    server(move |mut socket| {
        let mut request = [0; 4096];
        let _count = socket.read(&mut request)?;
        socket.write_all(&answer)
    })
}

#[test]
fn any_other_answer_ends_the_run() {
    let length = |bytes: usize| format!("content-length: {bytes}\r\n");
    let right = body(200);
    let mut swapped = right.clone();
    swapped.swap(6, 14);
    let cases = [
        (
            "500 Oops",
            length(200),
            &right[..],
            "answered: HTTP/1.1 500",
        ),
        ("200 OK", length(199), &right[..199], "not 200 bytes"),
        (
            "200 OK",
            "transfer-encoding: chunked\r\n".to_owned(),
            b"0\r\n\r\n",
            "not 200 bytes",
        ),
        ("200 OK", length(200), &swapped, "not the one expected"),
        (
            "200 OK",
            length(200),
            &right[..150],
            "closed the connection",
        ),
        (
            "200 OK",
            length(200),
            &[&right[..], b"!"].concat(),
            "not the one expected",
        ),
    ];
    for (status, length, body, complaint) in cases {
        let head = format!("HTTP/1.1 {status}\r\n{length}\r\n");
        let target = answering([head.as_bytes(), body].concat());
        let error = load(target, Workload::Get200).unwrap_err();
        assert!(format!("{error:#}").contains(complaint), "{error:#}");
    }
}

#[test]
fn connections_that_end_after_the_answer_are_replaced() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n";
    let target = answering([head.as_bytes(), &body(200)].concat());
    let outcome = load(target, Workload::Connect).unwrap();
    assert!(outcome.completed > 3, "{outcome:?}");
}

/// An HTTP/2 server that answers each request with this head and body.
fn answering_h2(head: &'static [u8], body: Vec<u8>) -> SocketAddr {
    server(move |mut socket| {
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.write_all(&h2::test_frame(4, 0, 0, &[]))?;
        let mut preface = [0; 24];
        socket.read_exact(&mut preface)?;
        loop {
            let mut start = [0; 9];
            socket.read_exact(&mut start)?;
            let length = u32::from_be_bytes([0, start[0], start[1], start[2]]);
            let mut payload = vec![0; length as usize];
            socket.read_exact(&mut payload)?;
            if start[3] == 1 {
                let stream = u32::from_be_bytes([start[5], start[6], start[7], start[8]]);
                let head = h2::test_frame(1, 4, stream, head);
                let body = h2::test_frame(0, 1, stream, &body);
                socket.write_all(&[head, body].concat())?;
            }
        }
    })
}

#[test]
fn http2_is_spoken_and_its_answers_are_judged() {
    let outcome = load(answering_h2(&[0x88], body(200)), Workload::H2c).unwrap();
    assert!(outcome.completed > 3, "{outcome:?}");
    // A change of the table's size may come before the status.
    load(answering_h2(&[0x20, 0x88], body(200)), Workload::H2c).unwrap();
    let wrong = [
        (answering_h2(&[0x8d], body(200)), "the status is not 200"),
        (answering_h2(&[0x88], body(199)), "the body is short"),
        (answering_h2(&[0x88], body(201)), "not the one expected"),
    ];
    for (target, complaint) in wrong {
        let error = load(target, Workload::H2c).unwrap_err();
        assert!(format!("{error:#}").contains(complaint), "{error:#}");
    }
}
