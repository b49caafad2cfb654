//! Every chore of the repository under one roof.
fn main() {}
