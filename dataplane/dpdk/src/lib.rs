//! turnpike-dpdk
