//! The replication contract (docs/replication.md) against the real machine.
//!
//! | file | what |
//! |---|---|
//! | `random` | thousands of seeds: long runs with everything that may go wrong |
//! | `model` | every order of events, in worlds that are small enough for it (`scope`, `small`, `check`, `search`) |
//! | `mutants` | deliberate defects, each of which the suites must catch (feature `mutants`) |
//! | `device`, `oracle` | a member as a few arrays, and what clients may see; used by all |

mod check;
mod device;
mod model;
#[cfg(feature = "mutants")]
mod mutants;
mod opening;
mod oracle;
mod random;
mod scope;
mod search;
mod small;
