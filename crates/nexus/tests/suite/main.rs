//! The replication contract (docs/replication.md) against the real machine.
//!
//! | file | what |
//! |---|---|
//! | `random` | thousands of seeds: long runs with everything that may go wrong |
//! | `device`, `oracle` | a member as a few arrays, and what clients may see; used by all |

mod device;
mod oracle;
mod random;
