//! Who may ask for what: tokens and certificates with roles, for all ports that take commands.
//!
//! * `role`: read, operate, admin. `table`: what each call and each route needs: **a new one gets its line there**.
//! * `secret`, `tokens`: tokens and the files that they are in. `watched`: files that are read again when they change.
//! * `gate`: judges a request. `layer`: the gate before gRPC services. `call`: who is behind the work of this task.
//! * `dial`: the caller's side. `tls`, `conn`: encrypted connections, and certificates as credentials.
//!
//! `docs/decisions/0008-who-may-ask.md` says why it is so.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "it lives in the real world: files, clocks, sockets, randomness")]

pub mod call;
pub mod conn;
pub mod dial;
pub mod gate;
pub mod layer;
pub mod role;
pub mod secret;
pub mod table;
pub mod tls;
pub mod tokens;
mod watched;

pub use dial::{Channel, Dial};
pub use gate::{Denied, Gate};
pub use layer::GateLayer;
pub use role::{Caller, Need, Role};
pub use secret::Secret;
pub use tls::Tls;

/// How a server judges its callers, and how it calls others. The default: everybody may do everything, in the clear.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Judges callers.
    pub gate: Gate,
    /// Encrypts connections of callers.
    pub tls: Option<Tls>,
    /// Calls others.
    pub dial: Dial,
}
