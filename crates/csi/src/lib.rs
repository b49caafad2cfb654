//! The CSI driver: how Kubernetes asks for volumes, and how they reach a pod.
//!
//! ```text
//!   sidecars ── unix socket ──► identity + controller ── gRPC ──► control plane
//!   kubelet  ── unix socket ──► identity + node ──► attached device ──► file system ──► pod
//! ```
//!
//! Both plugins keep nothing that matters in memory: the controller asks the control plane anew in each call, the node
//! plugin looks at the kernel and at its state folder. So either may die at any time, and the next call goes on.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "the driver lives in the real world: mounts, processes, sockets, clocks")]

pub mod capability;
pub mod control_plane;
pub mod controller;
pub mod identity;
pub mod names;
pub mod node;
pub mod parameters;
mod serve;

pub use serve::{Plugin, ServeError, serve};

/// The driver's name, as StorageClasses name their provisioner.
pub const DRIVER: &str = "io.openebs.csi-mayastor";
