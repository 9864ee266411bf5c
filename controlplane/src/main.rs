//! turnpike-controlplane
fn main() {}
