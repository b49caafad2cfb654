//! NBD without I/O: the wire formats, the server machine and the client machine.
//!
//! The fixed newstyle handshake, and transmission with simple, structured or extended replies. Nothing here trusts a peer:
//! parsing never panics, and a peer's mistake becomes an option's error reply, a command's error, or the end of the
//! connection.
//!
//! "Spec" is the NBD protocol document (doc/proto.md of the nbd project).
#![forbid(unsafe_code)]

pub mod client;
pub mod proto;
pub mod server;
