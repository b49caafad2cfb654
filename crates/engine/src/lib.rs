//! A storage node: pools, replicas, nexuses and their exports, assembled over whichever world `host` stands for.
//!
//! [`node::Node`] is the whole of it: typed async calls in, [`model`] types out. It knows no gRPC and no threads.
#![forbid(unsafe_code)]

pub mod config;
pub mod crypt;
pub mod guard;
pub mod iscsi;
pub mod load;
pub mod malloc;
pub mod meter;
pub mod model;
pub mod nbd;
pub mod node;
pub mod remote;
mod server;
pub mod settings;
pub mod target;
pub mod uri;
pub mod volume;
