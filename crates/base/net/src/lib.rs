//! Everything that meets the network and is not the data plane: opening
//! listeners, serving HTTP with limits and a graceful end, reading bodies within
//! bounds, and a small outgoing client.
//!
//! It knows no route and no service. The gateway takes only [`listen`] from here;
//! its hot path has limits of its own. Start with [`serve()`].

pub mod body;
pub mod client;
pub mod guard;
pub mod listen;
pub mod serve;
pub mod tls;
pub mod url;

pub use listen::{ListenError, bind, bind_both, bind_shared};
pub use serve::{Limits, Peer, serve};
