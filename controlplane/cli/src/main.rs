//! turnpike
fn main() {}
