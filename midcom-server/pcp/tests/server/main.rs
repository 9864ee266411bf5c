//! The server against a policy engine of a few lines, in virtual time. Each requirement row of PCP, PORT_SET and
//! NAT-PMP is a test named after it; `conformance.md` lists them.

mod any_bytes;
mod conformance;
mod map;
mod nat_pmp;
mod peer;
mod port_set;
mod receiving;
mod recovery;
mod world;
