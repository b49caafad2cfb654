//! Mayastor: replicated block storage for containers.
fn main() {}
