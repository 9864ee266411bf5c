//! The server over real sockets, in front of the real policy engine.

mod agents;
mod certificates;
mod daemon;
mod hostile;
mod rules;
mod tls;
mod tokens;
mod wire;
