//! The target machine.
