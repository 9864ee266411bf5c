//! turnpike-dataplane
fn main() {}
