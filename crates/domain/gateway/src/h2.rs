//! stub
use std::rc::Rc;
pub(crate) async fn run(
    _w: Rc<crate::worker::Worker>,
    _s: tokio::net::TcpStream,
    _p: crate::hygiene::Peer,
    _r: Vec<u8>,
) {
}
