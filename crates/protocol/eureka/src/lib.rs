//! Netflix Eureka's REST API over the registry, so that its clients work unchanged.
//!
//! It keeps no state: what it shows comes from [`Registry`], what it is told goes
//! there, and there are no response caches, so a change is in the next fetch.
//! `wire.rs` has Eureka's types and their JSON, `xml.rs` the other format,
//! `translate.rs` what they mean to the registry, `changes.rs` what a client may do,
//! `server.rs` the endpoints, `copying.rs` and `copies.rs` the two ends of a migration. What is supported, refused and different, and why, stands
//! in `SPEC.md`.

mod answer;
mod changes;
mod copies;
pub mod copying;
mod peers;
mod reads;
mod rounds;
mod server;
mod translate;
mod wire;
mod xml;

#[cfg(test)]
mod tests;

use std::net::{SocketAddr, TcpListener};

use atoll_net::serve::{Limits, serve};
use atoll_registry::Registry;
use atoll_runtime::Tasks;

/// Who may change something.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Needed for everything that changes the registry, when set: as a bearer token, or
    /// as the password in the server's URL, which all clients of Eureka can send.
    pub write_token: Option<String>,
}

/// Serves Eureka's API on `listener` until `tasks` stop; gives its address.
///
/// # Errors
/// When the listener cannot be handed to the runtime.
pub fn start(
    tasks: &Tasks,
    listener: TcpListener,
    settings: Settings,
    registry: Registry,
) -> std::io::Result<SocketAddr> {
    let front = server::Front::new(registry, tasks.clock().clone(), settings);
    serve(
        tasks,
        "eureka",
        listener,
        Limits::default(),
        front.service(),
    )
}

/// For fuzzing: any bytes as a body in both formats. Whatever is read must be written
/// and read back as the same.
///
/// # Panics
/// When it is not.
pub fn fuzz(body: &[u8]) {
    use wire::{Format, InstanceInfo, Shape, parse, write};
    // What a migration reads of a server that is a stranger's.
    drop((copying::read(body), copying::answers(body)));
    for format in [Format::Json, Format::Xml] {
        let Ok(document) = parse(format, body) else {
            continue;
        };
        peers::fuzz(&document);
        let Ok(info) = InstanceInfo::from_document(format, &document) else {
            continue;
        };
        drop(translate::registration(&info));
        let shape = Shape {
            format: Format::Json,
            compact: false,
        };
        let written = write(shape.format, "instance", info.to_value(shape));
        let again = parse(shape.format, &written)
            .map(|document| InstanceInfo::from_document(shape.format, &document));
        assert_eq!(
            again,
            Ok(Ok(info.clone())),
            "{}",
            String::from_utf8_lossy(&written)
        );
        let shape = Shape {
            format: Format::Xml,
            compact: false,
        };
        let written = write(shape.format, "instance", info.to_value(shape));
        // Texts are trimmed in XML, so it need not be the same; but it must be XML.
        let again = parse(shape.format, &written);
        assert!(
            again.is_ok(),
            "{again:?}: {}",
            String::from_utf8_lossy(&written)
        );
    }
}
