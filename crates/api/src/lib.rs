//! The wire schemas and the types, clients and servers that are generated from them.
//!
//! Every message but CSI's and etcd's can be serialised as JSON or YAML with the names of its fields; enums appear as lower-case words.
#![forbid(unsafe_code)]

mod words;

pub use words::Word;

/// The API of Mayastor v0.3.0 (package `mayastor`): `Mayastor` and `BdevRpc`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::too_many_lines,
    reason = "generated from proto/mayastor.proto, which has the comments"
)]
pub mod v0 {
    tonic::include_proto!("mayastor");

    impl std::fmt::Debug for PublishNexusRequest {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            let key = if self.key.is_empty() { "none" } else { "(not shown)" };
            let PublishNexusRequest { uuid, share, .. } = self;
            f.debug_struct("PublishNexusRequest").field("uuid", uuid).field("key", &key).field("share", share).finish()
        }
    }
}

/// What Mayastor's own parts say beyond it (package `mayastor.v1`): `Engine`, `Registry` and `Control`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::too_many_lines,
    reason = "generated from proto/mayastor_v1.proto, which has the comments"
)]
pub mod v1 {
    tonic::include_proto!("mayastor.v1");
}

/// The Container Storage Interface (package `csi.v1`), version 1.12: `Identity`, `Controller` and `Node`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::too_many_lines,
    reason = "generated from proto/csi.proto; the specification has the comments"
)]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// The part of etcd's API that the control plane's store calls (package `etcdserverpb`): `KV`, `Lease` and `Auth`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::too_many_lines,
    reason = "generated from proto/etcd.proto, which has the comments"
)]
pub mod etcd {
    tonic::include_proto!("etcdserverpb");
}

/// The paths of all RPCs of the packages `mayastor` and `mayastor.v1`, such as `/mayastor.v1.Control/ListNodes`.
pub const RPCS: &[&str] = include!(concat!(env!("OUT_DIR"), "/rpcs.rs"));

/// The port of an engine's gRPC services.
pub const ENGINE_PORT: u16 = 10124;
/// The port of the control plane's gRPC services.
pub const CONTROL_PORT: u16 = 10125;
/// The port of the control plane's page, REST API and metrics.
pub const HTTP_PORT: u16 = 10123;
/// The port of the NVMe/TCP target, for replicas and nexuses alike.
pub const NVME_PORT: u16 = 8420;

/// The metadata of a call to an engine that names the control plane's term, as a decimal number. An engine that has heard of
/// a higher one refuses the call with ABORTED. Calls without it are not a control plane's.
pub const TERM_METADATA: &str = "mayastor-term";
/// The metadata of UNAVAILABLE from a control plane that does not lead: where the one is that does, as host:port. Empty when
/// there is none.
pub const LEADER_METADATA: &str = "mayastor-leader";
