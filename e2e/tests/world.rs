//! The tests' own tools do what the tests take for granted.

#![expect(
    clippy::disallowed_methods,
    reason = "a server that talks in pieces has a thread of its own"
)]

use std::io::{Read, Write};
use std::net::TcpListener;

use atoll_e2e::http::{self, Connection};
use atoll_e2e::outside::Service;
use atoll_e2e::{World, alive};

#[test]
fn the_test_service_fails_its_check_while_it_is_sick() {
    let service = Service::start("me");
    let get = |path: &str| http::get(&service.address, path).unwrap();
    assert_eq!(get("/whoami").text(), "me");
    assert_eq!(get("/healthz").status, 200);
    get("/sick");
    assert_eq!(get("/healthz").status, 503);
    get("/well");
    assert_eq!(get("/healthz").status, 200);
    let put = http::request(&service.address, "PUT", "/a?b", &[("X", "1")], b"body");
    let put = put.unwrap().text();
    assert!(put.starts_with("PUT /a?b HTTP/1.1\n"), "{put}");
    assert!(put.ends_with("\n\nbody"), "{put}");
}

#[test]
fn lines_that_come_in_pieces_are_put_together() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let mut head = [0; 512];
        let length = stream.read(&mut head).unwrap();
        let head = String::from_utf8_lossy(&head[..length]).into_owned();
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n2\r\ntw\r\n6\r\no\nthre\r\n2\r\ne\n\r\n0\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
        head
    });
    let connection = Connection::named(&address, "shop.example").unwrap();
    let lines: Vec<String> = connection
        .follow("/watch")
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(lines, ["one", "two", "three"]);
    let asked = asked.join().unwrap();
    assert!(asked.contains("Host: shop.example\r\n"), "{asked}");
}

#[test]
fn a_world_listens_where_the_file_says_or_on_free_ports() {
    let read = |world: &World| std::fs::read_to_string(world.path().join("atoll.yaml")).unwrap();
    assert!(read(&World::new("name: a")).contains("127.0.0.1:0"));
    let own = World::new("listen: { gateway: off }");
    assert!(!read(&own).contains("127.0.0.1:0"));
    let pid = i32::try_from(std::process::id()).unwrap();
    assert!(alive(pid) && !alive(i32::MAX));
}
